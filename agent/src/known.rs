//! What is known of a version's chunk hashes before any byte of it comes, and on whose word.
//!
//! Certain: a manifest that was sealed here or stands at the origin, and whole files on this disk with the
//! SHA-256 that the origin promises. A hint: what a home keeps. Certain hashes are held against everybody;
//! a hint only saves bytes, and only until something contradicts it.

use std::sync::Arc;

use coordinatorless_p2p::ChunkHash;

use crate::{engine::Engine, manifest::Manifest, resolve::Resolved, store::WantedFiles, vouching};

/// Hashes by chunk.
pub(crate) struct Known {
    certain: Vec<Option<ChunkHash>>,
    hint: Option<Arc<Manifest>>,
}

impl Known {
    /// Asks this disk, and the homes unless a manifest says it all. Cancel-safe.
    pub(crate) async fn find(engine: &Engine, resolved: &Resolved, wanted: &WantedFiles) -> Self {
        let blueprint = &resolved.blueprint;
        if let Some(manifest) = &resolved.manifest {
            return Self { certain: manifest.hashes.iter().copied().map(Some).collect(), hint: None };
        }
        let mut certain = vec![None; blueprint.chunk_count() as usize];
        let files = wanted.iter().map(|&file| blueprint.files[file].clone()).collect();
        // A store that is closing says nothing; the pull that asks ends for that by itself.
        let twins = engine.store.twins(files).await.unwrap_or_default();
        for (&file, hashes) in wanted.iter().zip(twins) {
            for (index, hash) in blueprint.chunks_of(file).zip(hashes.into_iter().flatten()) {
                certain[index as usize] = Some(hash);
            }
        }
        Self { certain, hint: vouching::hint(engine, blueprint.swarm_id()).await }
    }

    /// The hash of a chunk, as far as it is known at all.
    pub(crate) fn hash(&self, index: u32) -> Option<ChunkHash> {
        self.certain(index).or_else(|| self.hinted(index))
    }

    /// The hash of a chunk, if it is more than a hint.
    pub(crate) fn certain(&self, index: u32) -> Option<ChunkHash> {
        self.certain.get(index as usize).copied().flatten()
    }

    /// The hash of a chunk that a home has told.
    pub(crate) fn hinted(&self, index: u32) -> Option<ChunkHash> {
        self.hint.as_ref()?.hashes.get(index as usize).copied()
    }

    /// Forgets what homes said.
    pub(crate) fn drop_hint(&mut self) {
        self.hint = None;
    }
}
