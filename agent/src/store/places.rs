//! Where on this disk a chunk with a given hash may lie.
//!
//! Eight bytes of the hash lead to every (artifact, chunk) that has it; the reader compares the full
//! hash, and re-hashes the bytes, before believing. Derived, never stored.

use std::collections::BTreeSet;

use coordinatorless_p2p::ChunkHash;

/// 16 bytes a chunk: ten million chunks are about 200 MiB with the tree around them.
#[derive(Debug, Default)]
pub(super) struct Places {
    entries: BTreeSet<(u64, u32, u32)>,
}

impl Places {
    /// Notes that artifact number `artifact` has `hash` as chunk `index`.
    pub(super) fn insert(&mut self, hash: &ChunkHash, artifact: u32, index: u32) {
        self.entries.insert((key(hash), artifact, index));
    }

    /// Forgets one place.
    pub(super) fn remove(&mut self, hash: &ChunkHash, artifact: u32, index: u32) {
        self.entries.remove(&(key(hash), artifact, index));
    }

    /// Every place that may have `hash`: artifact number and chunk.
    pub(super) fn of(&self, hash: &ChunkHash) -> impl Iterator<Item = (u32, u32)> + '_ {
        let key = key(hash);
        self.entries
            .range((key, 0, 0)..=(key, u32::MAX, u32::MAX))
            .map(|(_, artifact, index)| (*artifact, *index))
    }
}

fn key(hash: &ChunkHash) -> u64 {
    u64::from_le_bytes([
        hash.0[0], hash.0[1], hash.0[2], hash.0[3], hash.0[4], hash.0[5], hash.0[6], hash.0[7],
    ])
}
