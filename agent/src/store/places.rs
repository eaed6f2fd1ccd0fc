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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_leads_to_all_its_places_and_none_that_was_removed() {
        let (mut places, hash, other) = (Places::default(), ChunkHash::of(b"a"), ChunkHash::of(b"b"));
        places.insert(&hash, 1, 0);
        places.insert(&hash, 1, u32::MAX);
        places.insert(&hash, u32::MAX, 7);
        places.insert(&other, 2, 2);
        assert_eq!(places.of(&hash).collect::<Vec<_>>(), [(1, 0), (1, u32::MAX), (u32::MAX, 7)]);
        places.remove(&hash, 1, 0);
        places.remove(&other, 9, 9);
        assert_eq!(places.of(&hash).count(), 2);
        assert_eq!(places.of(&other).collect::<Vec<_>>(), [(2, 2)]);
    }
}
