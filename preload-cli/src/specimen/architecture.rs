//! Which tensors a Llama of a given size has. Pure.
//!
//! The proportions are those of Llama 3: as many layers as hidden size ÷ 128, a quarter of the heads
//! for keys and values, feed-forward 3.5 times as wide. The vocabulary takes up what is left, so that
//! the sum meets the asked size.

use coordinatorless_p2p::{Error, ErrorKind, Result};
use safetensors::Dtype;

use super::Specimen;

/// Every weight takes two bytes.
const ELEMENT_BYTES: u64 = 2;

/// The sizes that determine every shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Architecture {
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) intermediate: usize,
    pub(super) heads: usize,
    pub(super) key_value_heads: usize,
    pub(super) vocabulary: usize,
}

/// Which tensors a fine-tune changes, and what their new values depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuning {
    pub(super) last_layers: usize,
    pub(super) seed: u64,
}

/// A tensor to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// What its values depend on.
    pub(super) seed: [u8; 32],
}

impl Tensor {
    pub(super) fn bytes(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product::<u64>() * ELEMENT_BYTES
    }
}

impl Architecture {
    /// The Llama whose tensors take at most `total_bytes`, and nearly as many.
    pub(super) fn of_size(total_bytes: u64) -> Result<Self> {
        if total_bytes < Specimen::MIN_BYTES {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("a model of {total_bytes} bytes is too small, {} are the least", Specimen::MIN_BYTES),
            ));
        }
        // A layer has about 13 hidden² weights and there are hidden ÷ 128 of them; solve for hidden.
        let ideal = (total_bytes as f64 * 128.0 / (13.0 * ELEMENT_BYTES as f64)).cbrt() as usize;
        let mut hidden = (ideal / 128 * 128).max(64);
        loop {
            let layer_bytes = Self::layer_weights(hidden) * ELEMENT_BYTES;
            let layers = total_bytes / 100 * 85 / layer_bytes;
            if layers >= 1 {
                return Ok(Self::filled(hidden, layers as usize, total_bytes));
            }
            // MIN_BYTES leaves room for one layer of hidden size 32, so this ends.
            hidden /= 2;
        }
    }

    fn filled(hidden: usize, layers: usize, total_bytes: u64) -> Self {
        let fixed = Self::layer_weights(hidden) * layers as u64 + hidden as u64;
        let left = (total_bytes / ELEMENT_BYTES).saturating_sub(fixed);
        // Each token costs one row of the embedding and one of the output head.
        let vocabulary = (left / (2 * hidden as u64)).max(1) as usize;
        let heads = (hidden / 64).max(4);
        Self {
            hidden,
            layers,
            intermediate: Self::intermediate(hidden),
            heads,
            key_value_heads: heads / 4,
            vocabulary,
        }
    }

    fn intermediate(hidden: usize) -> usize {
        hidden * 7 / 2
    }

    fn layer_weights(hidden: usize) -> u64 {
        let (h, wide) = (hidden as u64, Self::intermediate(hidden) as u64);
        2 * h * h + 2 * h * (h / 4) + 3 * h * wide + 2 * h
    }

    /// Every tensor, in the order of the layers.
    pub(super) fn tensors(&self, seed: u64, tuning: Option<Tuning>) -> Vec<Tensor> {
        let (h, wide, kv) = (self.hidden, self.intermediate, self.hidden / 4);
        let mut tensors = vec![self.tensor("model.embed_tokens.weight".into(), &[self.vocabulary, h], seed)];
        for layer in 0..self.layers {
            let changed = tuning.filter(|t| self.layers - layer <= t.last_layers);
            let seed = changed.map_or(seed, |t| t.seed);
            let shapes: [(&str, &[usize]); 9] = [
                ("input_layernorm", &[h]),
                ("mlp.down_proj", &[h, wide]),
                ("mlp.gate_proj", &[wide, h]),
                ("mlp.up_proj", &[wide, h]),
                ("post_attention_layernorm", &[h]),
                ("self_attn.k_proj", &[kv, h]),
                ("self_attn.o_proj", &[h, h]),
                ("self_attn.q_proj", &[h, h]),
                ("self_attn.v_proj", &[kv, h]),
            ];
            for (part, shape) in shapes {
                tensors.push(self.tensor(format!("model.layers.{layer}.{part}.weight"), shape, seed));
            }
        }
        tensors.push(self.tensor("model.norm.weight".into(), &[h], seed));
        let head_seed = tuning.map_or(seed, |t| t.seed);
        tensors.push(self.tensor("lm_head.weight".into(), &[self.vocabulary, h], head_seed));
        tensors
    }

    fn tensor(&self, name: String, shape: &[usize], seed: u64) -> Tensor {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
        // Norms in half precision, matrices in bfloat16: both kinds occur in one file, as in the wild.
        let dtype = if shape.len() == 1 { Dtype::F16 } else { Dtype::BF16 };
        Tensor { name, dtype, shape: shape.to_vec(), seed: *hasher.finalize().as_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn eight_billion_weights_look_like_llama_3() {
        let llama = Architecture::of_size(16_000_000_000).unwrap();
        assert!((3_840..=4_352).contains(&llama.hidden), "{llama:?}");
        assert!((27..=36).contains(&llama.layers), "{llama:?}");
        assert!((30_000..=400_000).contains(&llama.vocabulary), "{llama:?}");
    }

    proptest! {
        #[test]
        fn the_tensors_nearly_fill_any_size(total in Specimen::MIN_BYTES..200_000_000_000) {
            let sum: u64 =
                Architecture::of_size(total).unwrap().tensors(0, None).iter().map(Tensor::bytes).sum();
            prop_assert!(sum <= total, "{sum} of {total}");
            prop_assert!(sum * 100 >= total * 98, "{sum} of {total}");
        }
    }
}
