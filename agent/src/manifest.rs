//! Blueprints and manifests: what an artifact consists of, in chunks.
//!
//! A [`Blueprint`] is a pure function of a snapshot and the files' headers, so every node computes
//! the same one; its hash is the swarm id. A [`Manifest`] adds every chunk's hash. Both are read
//! from outside with checked access behind a length limit, and validated before anyone uses them.

use std::ops::Range;

use coordinatorless_p2p::{ChunkHash, SwarmId};

use crate::{
    error::{Error, ErrorKind, Result},
    snapshot::{Digest, FileVersion, RelativePath},
};

/// What is written on disk and wire before the archived bytes; raised when the form changes.
pub const FORMAT_VERSION: u16 = 1;

/// One file, cut into chunks.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct BlueprintFile {
    /// Where it goes.
    pub path: RelativePath,
    /// Size in bytes.
    pub size: u64,
    /// What origin reads must match.
    pub version: FileVersion,
    /// The origin's own digest.
    pub digest: Option<Digest>,
    /// Lengths of its chunks, in order; they add up to `size`. Empty for an empty file.
    pub chunk_bytes: Vec<u32>,
}

/// Snapshot and chunk boundaries.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Blueprint {
    /// The canonical reference.
    pub reference: String,
    /// The commit or version, where there is one.
    pub revision: Option<String>,
    /// Sorted by path.
    pub files: Vec<BlueprintFile>,
}

/// A blueprint whose every chunk hash is known.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Manifest {
    /// The cut.
    pub blueprint: Blueprint,
    /// A hash for every chunk, files in order.
    pub hashes: Vec<ChunkHash>,
}

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    /// Index of the file in the blueprint.
    pub file: usize,
    /// First byte within the file.
    pub offset: u64,
    /// Length.
    pub bytes: u32,
}

impl Blueprint {
    /// The name of the swarm that exchanges this.
    pub fn swarm_id(&self) -> SwarmId {
        SwarmId(*blake3::hash(&self.encode()).as_bytes())
    }

    /// Version, then archive.
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Opens what [`encode`](Self::encode) wrote, here or on another node, and validates it.
    ///
    /// # Errors
    /// `Invalid` for an unknown version, a wrong archive, or contents that contradict themselves.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Err(Error::new(ErrorKind::Invalid, format!("blueprint of {} bytes", bytes.len())))
    }

    /// Total size in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    /// How many chunks all files have.
    pub fn chunk_count(&self) -> u32 {
        self.files.iter().map(|f| f.chunk_bytes.len() as u32).sum()
    }

    /// The chunk indices of a file.
    pub fn chunks_of(&self, file: usize) -> Range<u32> {
        let start = self.files[..file].iter().map(|f| f.chunk_bytes.len() as u32).sum();
        start..start + self.files[file].chunk_bytes.len() as u32
    }
}
