//! A believable model to try things on: safetensors shards, configuration, tokenizer, index.
//!
//! Tensor names and shapes are those of a Llama of the asked size; the values are finite, random and
//! a function of the seed alone, so they do not compress, and two writes are equal byte for byte.
//! A [`FineTune`] keeps all tensors but those of its last layers. Knows nothing of origins or agents.
//!
//! Memory stays at about a MiB a thread, whatever the model's size. Values are a function of seed
//! and tensor name, not of the shard: resharding moves tensors and does not change them.

mod architecture;
mod folder;
mod shard;

use std::path::Path;

use coordinatorless_p2p::Result;

use self::architecture::Architecture;

/// What to write. The same three values give the same bytes, for one build of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Specimen {
    /// About how many bytes the tensors take; the true figure is below it by less than 2 %.
    pub total_bytes: u64,
    /// In how many safetensors files.
    pub shards: usize,
    /// What the values depend on.
    pub seed: u64,
}

/// The same architecture with the last layers and the output head trained further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FineTune {
    /// What it was tuned from; its `shards` may differ from the base's, its tensors will not.
    pub base: Specimen,
    /// How many of the last layers have new values, at most all.
    pub changed_layers: usize,
    /// What the new values depend on.
    pub seed: u64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Each file, in the order of their paths.
    pub files: Vec<WrittenFile>,
}

/// One file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    /// Path within the directory, `/`-separated.
    pub path: String,
    /// Size.
    pub bytes: u64,
}

impl Written {
    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

impl Specimen {
    /// The smallest model there is.
    pub const MIN_BYTES: u64 = 64 << 10;

    /// Writes the model into `dir`, which is made if it is not there. Blocks; uses every core.
    ///
    /// # Errors
    /// `Invalid` for fewer than [`MIN_BYTES`](Self::MIN_BYTES), no shards or more than tensors; `Full`,
    /// `Denied` and the like from the directory.
    pub fn write(&self, dir: &Path) -> Result<Written> {
        let architecture = Architecture::of_size(self.total_bytes)?;
        folder::write(&architecture, architecture.tensors(self.seed, None), self.shards, dir)
    }

    /// This model, trained further.
    pub fn fine_tune(&self, changed_layers: usize, seed: u64) -> FineTune {
        FineTune { base: *self, changed_layers, seed }
    }
}

impl FineTune {
    /// As [`Specimen::write`].
    ///
    /// # Errors
    /// As [`Specimen::write`].
    pub fn write(&self, dir: &Path) -> Result<Written> {
        let architecture = Architecture::of_size(self.base.total_bytes)?;
        let tuned = architecture::Tuning { last_layers: self.changed_layers, seed: self.seed };
        folder::write(&architecture, architecture.tensors(self.base.seed, Some(tuned)), self.base.shards, dir)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use safetensors::{Dtype, SafeTensors};

    use super::*;

    const SMALL: Specimen = Specimen { total_bytes: 3 << 20, shards: 3, seed: 7 };

    fn tensors(dir: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                let bytes = fs::read(&path).unwrap();
                let file = SafeTensors::deserialize(&bytes).unwrap();
                for (name, view) in file.tensors() {
                    let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                    assert!(all.insert(name, tensor).is_none(), "a tensor is in two shards");
                }
            }
        }
        all
    }

    #[test]
    fn safetensors_opens_every_shard_and_every_tensor_has_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let written = SMALL.write(dir.path()).unwrap();
        let tensors = tensors(dir.path());
        assert!(tensors.contains_key("model.layers.0.self_attn.q_proj.weight"));
        assert!(tensors.contains_key("lm_head.weight"));
        let mut total = 0;
        for (name, (dtype, shape, data)) in &tensors {
            assert!(matches!(dtype, Dtype::BF16 | Dtype::F16), "{name} is {dtype:?}");
            assert_eq!(data.len(), shape.iter().product::<usize>() * 2, "{name}");
            total += data.len() as u64;
        }
        assert!(total <= SMALL.total_bytes && total * 100 >= SMALL.total_bytes * 98, "{total}");
        for file in &written.files {
            assert_eq!(fs::metadata(dir.path().join(&file.path)).unwrap().len(), file.bytes);
        }
    }

    #[test]
    fn the_index_names_the_shard_of_every_tensor() {
        let dir = tempfile::tempdir().unwrap();
        SMALL.write(dir.path()).unwrap();
        let index = fs::read(dir.path().join("model.safetensors.index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let map = index["weight_map"].as_object().unwrap();
        assert_eq!(map.len(), tensors(dir.path()).len());
        for (name, shard) in map {
            let bytes = fs::read(dir.path().join(shard.as_str().unwrap())).unwrap();
            assert!(SafeTensors::deserialize(&bytes).unwrap().tensor(name).is_ok(), "{name}");
        }
        let shards: std::collections::BTreeSet<_> = map.values().map(|v| v.as_str().unwrap()).collect();
        assert_eq!(shards.len(), SMALL.shards);
    }

    #[test]
    fn one_shard_needs_no_index() {
        let dir = tempfile::tempdir().unwrap();
        Specimen { shards: 1, ..SMALL }.write(dir.path()).unwrap();
        assert!(dir.path().join("model.safetensors").exists());
        assert!(!dir.path().join("model.safetensors.index.json").exists());
    }

    #[test]
    fn equal_seeds_give_equal_bytes_and_others_do_not() {
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        for (dir, seed) in dirs.iter().zip([7, 7, 8]) {
            Specimen { seed, ..SMALL }.write(dir.path()).unwrap();
        }
        let read = |i: usize| fs::read(dirs[i].path().join("model-00002-of-00003.safetensors")).unwrap();
        assert_eq!(read(0), read(1));
        assert_ne!(read(0), read(2));
    }

    #[test]
    fn a_fine_tune_in_other_shards_changes_its_last_layers_only() {
        let (base, tuned) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        SMALL.write(base.path()).unwrap();
        Specimen { shards: 2, ..SMALL }.fine_tune(1, 99).write(tuned.path()).unwrap();
        let (base, tuned) = (tensors(base.path()), tensors(tuned.path()));
        assert_eq!(base.keys().collect::<Vec<_>>(), tuned.keys().collect::<Vec<_>>());
        let changed: Vec<&str> =
            base.iter().filter(|(name, t)| tuned[*name] != **t).map(|(name, _)| name.as_str()).collect();
        let last = base.keys().filter_map(|n| n.strip_prefix("model.layers.")?.split('.').next()).max();
        let last = format!("model.layers.{}.", last.unwrap());
        assert!(changed.contains(&"lm_head.weight"));
        assert!(changed.iter().all(|n| n.starts_with(&last) || *n == "lm_head.weight"), "{changed:?}");
        assert!(changed.len() > 1 && changed.len() < base.len());
    }

    #[test]
    fn values_are_finite_numbers() {
        let dir = tempfile::tempdir().unwrap();
        SMALL.write(dir.path()).unwrap();
        for (name, (dtype, _, data)) in tensors(dir.path()) {
            let exponent = if dtype == Dtype::BF16 { 0x7f80 } else { 0x7c00 };
            let infinite = data
                .chunks_exact(2)
                .filter(|b| u16::from_le_bytes([b[0], b[1]]) & exponent == exponent)
                .count();
            assert_eq!(infinite, 0, "{name}");
        }
    }

    #[test]
    fn sizes_from_the_smallest_up_come_out_as_asked() {
        // The smallest; just above; where layers become several; a size no power of two is near.
        for total_bytes in [Specimen::MIN_BYTES, Specimen::MIN_BYTES + 1, 700_001, 20 << 20] {
            let dir = tempfile::tempdir().unwrap();
            let written = Specimen { total_bytes, shards: 1, seed: 0 }.write(dir.path()).unwrap();
            let shard = written.files.iter().find(|f| f.path == "model.safetensors").unwrap();
            assert!(shard.bytes * 100 >= total_bytes * 98, "{total_bytes}: {}", shard.bytes);
        }
    }

    #[test]
    fn impossible_specimens_are_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        for (total_bytes, shards) in [(1, 1), (1 << 20, 0), (1 << 20, 1_000)] {
            let refused = Specimen { total_bytes, shards, seed: 0 }.write(dir.path()).unwrap_err();
            assert_eq!(refused.kind(), coordinatorless_p2p::ErrorKind::Invalid, "{refused}");
        }
    }
}
