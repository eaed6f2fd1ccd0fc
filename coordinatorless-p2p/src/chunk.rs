//! Chunks: their names, the proof that bytes match a name, and sets of chunk indices.
//!
//! A [`VerifiedChunk`] can only be made by hashing bytes or by checking them against a hash, so
//! whatever takes one need not check again. Knows nothing of files or models.

use std::{fmt, str::FromStr};

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

/// The largest chunk that may be announced, requested or stored, in bytes.
pub const MAX_CHUNK_BYTES: u32 = 4 << 20;

macro_rules! hash_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
        )]
        #[rkyv(derive(Clone, Copy, PartialEq, Eq, Hash))]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The first eight hex digits: enough for a log line, never for a decision.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                blake3::Hash::from_hex(text)
                    .map(|h| Self(*h.as_bytes()))
                    .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("{} {text:?} is not 64 hex digits", $what), e))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_name!(
    /// The BLAKE3 hash of a chunk's bytes: its name everywhere.
    ChunkHash,
    "chunk hash"
);
hash_name!(
    /// The hash of a blueprint: the name of the swarm that exchanges it.
    SwarmId,
    "swarm id"
);

impl ChunkHash {
    /// Hashes `bytes` on the calling thread.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// Bytes together with the hash they are known to have.
#[derive(Debug, Clone)]
pub struct VerifiedChunk {
    hash: ChunkHash,
    bytes: Bytes,
}

impl VerifiedChunk {
    /// Hashes bytes that came from a trusted place (the origin, over TLS or by contract).
    pub fn hashed(bytes: Bytes) -> Self {
        Self { hash: ChunkHash::of(&bytes), bytes }
    }

    /// Checks bytes against the hash they should have.
    ///
    /// # Errors
    /// `Corrupt` when they differ; both hashes are in the message.
    pub fn checked(bytes: Bytes, expected: ChunkHash) -> Result<Self> {
        let hash = ChunkHash::of(&bytes);
        if hash == expected {
            Ok(Self { hash, bytes })
        } else {
            Err(Error::new(
                ErrorKind::Corrupt,
                format!("hash mismatch: wanted {}, got {}", expected.short(), hash.short()),
            ))
        }
    }

    /// The hash the bytes have.
    pub fn hash(&self) -> ChunkHash {
        self.hash
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// A set of chunk indices below a fixed count: the presence bitmap.
#[derive(Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct ChunkSet {
    words: Vec<u64>,
    count: u32,
}

impl ChunkSet {
    /// The empty set over `count` chunks.
    pub fn new(count: u32) -> Self {
        Self { words: vec![0; (count as usize).div_ceil(64)], count }
    }

    /// The set of all `count` chunks.
    pub fn full(count: u32) -> Self {
        let mut set = Self { words: vec![u64::MAX; (count as usize).div_ceil(64)], count };
        set.clear_tail();
        set
    }

    fn clear_tail(&mut self) {
        if let (Some(last), rest @ 1..) = (self.words.last_mut(), self.count % 64) {
            *last &= (1 << rest) - 1;
        }
    }

    /// Whether the parts agree with each other: to be asked of every set that came from outside.
    pub fn is_sound(&self, count: u32) -> bool {
        let mut copy = self.clone();
        copy.clear_tail();
        self.count == count && self.words.len() == (count as usize).div_ceil(64) && copy == *self
    }

    /// How many chunks the set ranges over.
    pub fn universe(&self) -> u32 {
        self.count
    }

    /// Adds `index`; true if it was not there. Indices past the end are ignored.
    pub fn insert(&mut self, index: u32) -> bool {
        if index >= self.count {
            return false;
        }
        let (word, bit) = (&mut self.words[index as usize / 64], 1u64 << (index % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes `index` out; true if it was there.
    pub fn remove(&mut self, index: u32) -> bool {
        if index >= self.count {
            return false;
        }
        let (word, bit) = (&mut self.words[index as usize / 64], 1u64 << (index % 64));
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    /// Whether `index` is in the set.
    pub fn contains(&self, index: u32) -> bool {
        index < self.count && self.words[index as usize / 64] & (1 << (index % 64)) != 0
    }

    /// How many indices are in the set.
    pub fn len(&self) -> u32 {
        self.words.iter().map(|w| w.count_ones()).sum()
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    /// Whether every chunk is in the set.
    pub fn is_full(&self) -> bool {
        self.len() == self.count
    }

    /// The indices, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(w, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(w as u32 * 64 + bit)
            })
        })
    }
}

impl fmt::Debug for ChunkSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} chunks", self.len(), self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_does_not_match_its_hash_is_refused() {
        let good = Bytes::from_static(b"weights");
        let hash = ChunkHash::of(&good);
        assert_eq!(VerifiedChunk::checked(good, hash).unwrap().hash(), hash);
        let err = VerifiedChunk::checked(Bytes::from_static(b"weightz"), hash).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_full_set_has_no_bits_past_its_end() {
        // 0: nothing; 1, 63, 64, 65: either side of a word boundary.
        for count in [0, 1, 63, 64, 65, 1000] {
            let set = ChunkSet::full(count);
            assert_eq!(set.len(), count);
            assert!(set.is_sound(count) && set.is_full());
            assert_eq!(set.iter().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_set_with_bits_past_its_end_is_not_sound() {
        let set = ChunkSet { words: vec![u64::MAX], count: 3 };
        assert!(!set.is_sound(3));
        assert!(!ChunkSet { words: vec![], count: 3 }.is_sound(3));
    }

    #[test]
    fn an_index_past_the_end_is_neither_added_nor_found() {
        let mut set = ChunkSet::new(10);
        assert!(!set.insert(10) && !set.contains(10) && !set.remove(10));
        assert!(set.insert(9) && !set.insert(9) && set.contains(9) && set.remove(9) && set.is_empty());
    }

    #[test]
    fn a_hash_prints_and_parses_as_64_hex_digits() {
        let hash = ChunkHash::of(b"x");
        assert_eq!(hash.to_string().parse::<ChunkHash>().unwrap(), hash);
        assert!("abc".parse::<ChunkHash>().is_err());
    }
}
