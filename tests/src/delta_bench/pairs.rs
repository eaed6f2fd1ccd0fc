//! Versions of a real model as people make them: fine-tuned, resharded, with more tokens.
//!
//! The model is all-MiniLM-L6-v2. Only what a version keeps and changes is modelled: the values of a changed
//! tensor are the old ones, each moved by a little, as training moves them.

use std::{collections::HashMap, fs, ops::Range, path::Path};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};

use crate::environment::minilm_dir;

/// The name of the weights in a model of one file.
pub const WEIGHTS: &str = "model.safetensors";
/// The tensor with a row for each token.
pub const EMBEDDING: &str = "embeddings.word_embeddings.weight";
/// Encoder layers of the model.
const LAYERS: usize = 6;

/// One tensor.
#[derive(Debug, Clone)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Its bytes, as they stand in the file.
    pub bytes: Vec<u8>,
}

/// Tensors by name, in the order of names.
#[derive(Debug, Clone)]
pub struct Weights(pub Vec<(String, Tensor)>);

/// Files by path.
pub type Files = Vec<(String, Vec<u8>)>;

/// A version that somebody made of the original.
#[derive(Debug)]
pub struct Version {
    /// What was done.
    pub name: &'static str,
    /// What came of it.
    pub files: Files,
}

impl Weights {
    /// The original, with its one file as it was published.
    ///
    /// # Errors
    /// `Invalid` when it is no model.
    ///
    /// # Panics
    /// When the model is not to be had.
    pub fn original() -> Result<(Self, Vec<u8>)> {
        let path = minilm_dir().join(WEIGHTS);
        let file = fs::read(&path).at(|| path.display().to_string())?;
        let parsed = SafeTensors::deserialize(&file).map_err(|e| broken(&e))?;
        let mut tensors: Vec<_> = parsed
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let (dtype, shape) = (view.dtype(), view.shape().to_vec());
                (name, Tensor { dtype, shape, bytes: view.data().to_vec() })
            })
            .collect();
        // The crate gives them in no order.
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok((Self(tensors), file))
    }

    /// The tensors of `range` as one file.
    ///
    /// # Errors
    /// `Invalid` for tensors that cannot be written.
    pub fn written(&self, range: Range<usize>) -> Result<Vec<u8>> {
        let tensors = self.0.get(range).unwrap_or_default().iter();
        let views = tensors
            .map(|(name, t)| {
                Ok((name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).map_err(|e| broken(&e))?))
            })
            .collect::<Result<Vec<_>>>()?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        serialize(views, Some(metadata)).map_err(|e| broken(&e))
    }

    /// As one file.
    ///
    /// # Errors
    /// As [`written`](Self::written).
    pub fn whole(&self) -> Result<Files> {
        Ok(vec![(WEIGHTS.to_owned(), self.written(0..self.0.len())?)])
    }

    /// As `count` files of about as many tensors.
    ///
    /// # Errors
    /// As [`written`](Self::written).
    pub fn sharded(&self, count: usize) -> Result<Files> {
        let each = self.0.len().div_ceil(count.max(1)).max(1);
        let starts = (0..self.0.len()).step_by(each);
        starts
            .enumerate()
            .map(|(n, start)| {
                let range = start..(start + each).min(self.0.len());
                let name = format!("model-{:05}-of-{count:05}.safetensors", n + 1);
                Ok((name, self.written(range)?))
            })
            .collect()
    }

    /// Moves every value of the tensors that `chosen` names by up to a thousandth of itself. Bytes of the
    /// tensors that changed.
    pub fn train(&mut self, seed: u64, chosen: impl Fn(&str) -> bool) -> usize {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut changed = 0;
        for (_, tensor) in self.0.iter_mut().filter(|(name, t)| t.dtype == Dtype::F32 && chosen(name)) {
            for value in tensor.bytes.chunks_exact_mut(4) {
                let old = f32::from_le_bytes([value[0], value[1], value[2], value[3]]);
                let new = old * (1.0 + rng.random_range(-0.001..0.001f32)) + 1e-8;
                value.copy_from_slice(&new.to_le_bytes());
            }
            changed += tensor.bytes.len();
        }
        changed
    }

    /// Adds `tokens` rows of small random values to the embedding. Bytes that were added.
    pub fn extend_vocabulary(&mut self, seed: u64, tokens: usize) -> usize {
        let mut rng = SmallRng::seed_from_u64(seed);
        let Some((_, embedding)) = self.0.iter_mut().find(|(name, _)| name == EMBEDDING) else { return 0 };
        let values = tokens * embedding.shape[1];
        embedding.shape[0] += tokens;
        let fresh = (0..values).flat_map(|_| rng.random_range(-0.05..0.05f32).to_le_bytes());
        embedding.bytes.extend(fresh);
        4 * values
    }
}

/// Whether a tensor belongs to encoder layer `from` or a later one, or to what comes after the encoder.
pub fn is_late(name: &str, from: usize) -> bool {
    (from..LAYERS).any(|layer| name.contains(&format!("encoder.layer.{layer}."))) || name.contains("pooler")
}

/// The versions that are compared with the original.
///
/// # Errors
/// As [`Weights::original`].
pub fn versions(original: &Weights) -> Result<Vec<Version>> {
    let trained = |seed, chosen: &dyn Fn(&str) -> bool| {
        let mut weights = original.clone();
        weights.train(seed, chosen);
        weights
    };
    let extended = |tokens| {
        let mut weights = original.clone();
        weights.extend_vocabulary(7, tokens);
        weights
    };
    let attention =
        |name: &str| name.contains("attention.self.query") || name.contains("attention.self.value");
    Ok(vec![
        Version { name: "identical", files: original.whole()? },
        Version { name: "2 shards", files: original.sharded(2)? },
        Version { name: "7 shards", files: original.sharded(7)? },
        Version { name: "last layer trained", files: trained(1, &|n| is_late(n, LAYERS - 1)).whole()? },
        Version { name: "last 3 of 6 layers trained", files: trained(2, &|n| is_late(n, 3)).whole()? },
        Version { name: "adapters merged (query, value)", files: trained(3, &attention).whole()? },
        Version { name: "all trained", files: trained(4, &|_| true).whole()? },
        Version { name: "8 tokens more", files: extended(8).whole()? },
        Version { name: "1000 tokens more", files: extended(1000).whole()? },
        Version { name: "1000 tokens more, 2 shards", files: extended(1000).sharded(2)? },
        Version {
            name: "8 tokens more, last layer trained",
            files: {
                let mut weights = extended(8);
                weights.train(5, |n| is_late(n, LAYERS - 1));
                weights.whole()?
            },
        },
    ])
}

/// Writes files into a directory that exists.
///
/// # Errors
/// As the file system says.
pub fn write(files: &Files, dir: &Path) -> Result<()> {
    files.iter().try_for_each(|(name, bytes)| {
        let path = dir.join(name);
        fs::write(&path, bytes).at(|| path.display().to_string())
    })
}

fn broken(why: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, format!("the test model: {why}"))
}
