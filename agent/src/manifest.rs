//! Blueprints and manifests: what an artifact consists of, in chunks.
//!
//! A [`Blueprint`] is a pure function of a snapshot and the files' headers, so every node computes
//! the same one; its hash is the swarm id. A [`Manifest`] adds every chunk's hash. Both are read
//! from outside with checked access behind a length limit, and validated before anyone uses them.
//!
//! Written as magic (4 bytes), version (2 bytes, little-endian), rkyv archive. There is exactly one
//! encoding of a value: what decodes but would encode differently is refused, so hash and value
//! always name each other.
//!
//! Does not know where the bytes come from or go to.

mod cutting;
mod digest;
mod index;

use std::{fmt, ops::Range, sync::OnceLock};

use coordinatorless_p2p::{ChunkHash, MAX_CHUNK_BYTES, SwarmId};
use percent_encoding::percent_decode_str;
use rkyv::{rancor, util::AlignedVec};

use self::index::Index;
pub use self::{cutting::Cutting, digest::DigestCheck};
use crate::{
    error::{Error, ErrorKind, Result},
    snapshot::{Digest, FileVersion, RelativePath, check_paths, sum_of_sizes},
};

/// What is written on disk and wire before the archived bytes; raised when the form changes.
pub const FORMAT_VERSION: u16 = 1;

/// The most chunks of one artifact: 16 TiB in chunks of 4 MiB. Bounds what a manifest can take in
/// memory to about 200 MB; a model of 2 TB has half a million.
pub const MAX_CHUNKS: u32 = 1 << 22;

/// The longest blueprint or manifest that is looked at.
pub const MAX_ENCODED_BYTES: usize = 256 << 20;

const BLUEPRINT_MAGIC: [u8; 4] = *b"EMBb";
const MANIFEST_MAGIC: [u8; 4] = *b"EMBm";
const PREFIX_BYTES: usize = 6;

/// References, revisions, ETags: longer ones are refused.
const MAX_TEXT_BYTES: usize = 4096;

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

/// Snapshot and chunk boundaries. Made by [`Cutting`], [`new`](Self::new) or [`decode`](Self::decode),
/// and not changed afterwards: lookups rest on an index that is computed once.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Blueprint {
    /// The canonical reference.
    pub reference: String,
    /// The commit or version, where there is one.
    pub revision: Option<String>,
    /// Sorted by path.
    pub files: Vec<BlueprintFile>,
    #[rkyv(with = rkyv::with::Skip)]
    computed: Computed,
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
    /// The name of the one file of a reference that names a file and not a folder.
    pub fn sole_file(&self) -> Option<String> {
        let [file] = self.files.as_slice() else { return None };
        let (name, is_url) = (file.path.to_string(), self.reference.starts_with("http"));
        let named = if is_url { self.reference.split(['?', '#']).next()? } else { &self.reference };
        let last = named.rsplit('/').next()?;
        let is_it = last == name || percent_decode_str(last).decode_utf8().is_ok_and(|last| last == name);
        is_it.then_some(name)
    }

    /// A blueprint of these files.
    ///
    /// # Errors
    /// `Invalid`, naming the file, when they are not sorted, could not stand beside each other, or
    /// their chunks are none: empty, over 4 MiB, not adding up to the size, too many.
    pub fn new(reference: String, revision: Option<String>, files: Vec<BlueprintFile>) -> Result<Self> {
        let blueprint = Self { reference, revision, files, computed: Computed::default() };
        blueprint.validate().map_err(|e| e.context("blueprint"))?;
        Ok(blueprint)
    }

    /// The name of the swarm that exchanges this. Computed once.
    pub fn swarm_id(&self) -> SwarmId {
        *self.computed.swarm_id.get_or_init(|| SwarmId(*blake3::hash(&self.encode()).as_bytes()))
    }

    /// Magic, version, archive.
    pub fn encode(&self) -> Vec<u8> {
        encode(BLUEPRINT_MAGIC, self)
    }

    /// Opens what [`encode`](Self::encode) wrote, here or on another node, and validates it.
    ///
    /// # Errors
    /// `Invalid` for an unknown version, a wrong archive, or contents that contradict themselves.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let what = "blueprint";
        let blueprint: Self = decode(what, BLUEPRINT_MAGIC, bytes, rkyv::from_bytes::<_, rancor::Error>)?;
        blueprint.validate().map_err(|e| e.context(what))?;
        if blueprint.encode() != bytes {
            return Err(invalid("blueprint is not in its one form"));
        }
        let swarm_id = SwarmId(*blake3::hash(bytes).as_bytes());
        Ok(Self { computed: Computed { swarm_id: swarm_id.into(), ..Computed::default() }, ..blueprint })
    }

    /// Total size in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    /// How many chunks all files have.
    pub fn chunk_count(&self) -> u32 {
        self.index().chunk_count()
    }

    /// The chunk indices of a file; none for a file that does not exist. Constant time.
    pub fn chunks_of(&self, file: usize) -> Range<u32> {
        self.index().chunks_of(file)
    }

    /// The lengths of all chunks, files in order.
    pub fn chunk_lens(&self) -> Vec<u32> {
        let mut lens = Vec::with_capacity(self.chunk_count() as usize);
        self.files.iter().for_each(|file| lens.extend_from_slice(&file.chunk_bytes));
        lens
    }

    /// Where a chunk lies; `None` past the last one. Logarithmic in the number of files.
    pub fn place(&self, chunk: u32) -> Option<ChunkPlace> {
        self.index().place(&self.files, chunk)
    }

    /// The chunks of `file` that have a byte of `range` (bytes within the file; what is past its end is
    /// ignored). Logarithmic in the chunks of the file.
    pub fn chunks_overlapping(&self, file: usize, range: Range<u64>) -> Range<u32> {
        let size = self.files.get(file).map_or(0, |file| file.size);
        self.index().overlapping(file, size, range)
    }

    /// All chunks, in order, as runs within one file of about `target_bytes`: what one node fetches
    /// from the origin in one request. The same on every node; a run never exceeds the target by more than
    /// half a chunk, and has at least one chunk.
    pub fn spans(&self, target_bytes: u64) -> Vec<Range<u32>> {
        let mut spans = Vec::new();
        for (file, chunks) in self.files.iter().zip((0..).map(|file| self.chunks_of(file))) {
            let mut start = chunks.start;
            let mut span_bytes = 0u64;
            for (chunk, &bytes) in chunks.clone().zip(&file.chunk_bytes) {
                if span_bytes > 0 && span_bytes + u64::from(bytes / 2) > target_bytes {
                    spans.push(start..chunk);
                    (start, span_bytes) = (chunk, 0);
                }
                span_bytes += u64::from(bytes);
            }
            if start < chunks.end {
                spans.push(start..chunks.end);
            }
        }
        spans
    }

    /// The file with this path. Logarithmic.
    pub fn find(&self, path: &RelativePath) -> Option<usize> {
        self.files.binary_search_by(|file| file.path.cmp(path)).ok()
    }

    fn index(&self) -> &Index {
        self.computed.index.get_or_init(|| Index::new(&self.files))
    }

    fn validate(&self) -> Result<()> {
        check_text("reference", &self.reference)?;
        if let Some(revision) = &self.revision {
            check_text("revision", revision)?;
        }
        check_paths(self.files.iter().map(|file| &file.path))?;
        sum_of_sizes(self.files.iter().map(|file| file.size))?;
        let mut chunk_count = 0;
        for file in &self.files {
            validate_file(file).map_err(|e| e.context(format!("file {:?}", file.path)))?;
            chunk_count += file.chunk_bytes.len();
        }
        if chunk_count > MAX_CHUNKS as usize {
            return Err(invalid(format!("{chunk_count} chunks are more than {MAX_CHUNKS}")));
        }
        Ok(())
    }
}

impl Manifest {
    /// A blueprint together with the hash of each of its chunks, files in order.
    ///
    /// # Errors
    /// `Invalid` when there is not one hash for each chunk.
    pub fn new(blueprint: Blueprint, hashes: Vec<ChunkHash>) -> Result<Self> {
        let manifest = Self { blueprint, hashes };
        manifest.validate().map_err(|e| e.context("manifest"))?;
        Ok(manifest)
    }

    /// The name of the artifact: the hash of the encoded manifest. Encodes each time it is asked.
    pub fn id(&self) -> ChunkHash {
        ChunkHash::of(&self.encode())
    }

    /// Magic, version, archive.
    pub fn encode(&self) -> Vec<u8> {
        encode(MANIFEST_MAGIC, self)
    }

    /// Opens what [`encode`](Self::encode) wrote, here or on another node, and validates it.
    ///
    /// # Errors
    /// As [`Blueprint::decode`], and `Invalid` when there is not one hash for each chunk.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let what = "manifest";
        let manifest: Self = decode(what, MANIFEST_MAGIC, bytes, rkyv::from_bytes::<_, rancor::Error>)?;
        manifest.validate().map_err(|e| e.context(what))?;
        if manifest.encode() != bytes {
            return Err(invalid("manifest is not in its one form"));
        }
        Ok(manifest)
    }

    /// A name for the content of `file`: the BLAKE3 hash over the hashes of its chunks. The HTTP ETag.
    pub fn file_etag(&self, file: usize) -> ChunkHash {
        let chunks = self.blueprint.chunks_of(file);
        Self::etag_of(self.hashes.get(chunks.start as usize..chunks.end as usize).unwrap_or_default())
    }

    /// [`file_etag`](Self::file_etag) of a file whose chunks have these hashes, in order.
    pub fn etag_of<'a>(hashes: impl IntoIterator<Item = &'a ChunkHash>) -> ChunkHash {
        let mut hasher = blake3::Hasher::new();
        hashes.into_iter().for_each(|hash| {
            hasher.update(&hash.0);
        });
        ChunkHash(*hasher.finalize().as_bytes())
    }

    fn validate(&self) -> Result<()> {
        self.blueprint.validate()?;
        let (chunks, hashes) = (self.blueprint.chunk_count() as usize, self.hashes.len());
        if chunks != hashes {
            return Err(invalid(format!("{hashes} hashes for {chunks} chunks")));
        }
        Ok(())
    }
}

/// What is computed at most once for a blueprint; no part of its value, and not kept by a clone.
#[derive(Default)]
struct Computed {
    index: OnceLock<Index>,
    swarm_id: OnceLock<SwarmId>,
}

impl Clone for Computed {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Computed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Computed {}

impl fmt::Debug for Computed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

/// Texts from outside end up in requests, logs and file names.
fn check_text(what: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        return Err(invalid(format!(
            "{what} is empty, over {MAX_TEXT_BYTES} bytes, or has control characters"
        )));
    }
    Ok(())
}

fn validate_file(file: &BlueprintFile) -> Result<()> {
    // An archive can hold any string where a path should be.
    file.path.as_str().parse::<RelativePath>()?;
    if let Some(etag) = &file.version.etag {
        check_text("etag", etag)?;
    }
    if let Some(version) = &file.version.object_version {
        check_text("object version", version)?;
    }
    if let Some(bytes) = file.chunk_bytes.iter().find(|bytes| !(1..=MAX_CHUNK_BYTES).contains(bytes)) {
        return Err(invalid(format!("a chunk of {bytes} bytes")));
    }
    let sum: u64 = file.chunk_bytes.iter().map(|&bytes| u64::from(bytes)).sum();
    if sum != file.size {
        return Err(invalid(format!("chunks add up to {sum} bytes instead of {}", file.size)));
    }
    Ok(())
}

/// Collects an archive behind magic and version.
fn encode<T>(magic: [u8; 4], value: &T) -> Vec<u8>
where
    T: for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<AlignedVec, rkyv::ser::allocator::ArenaHandle<'a>, rancor::Panic>,
        >,
{
    // Writing to memory fails for archives over 2 GiB; MAX_CHUNKS and MAX_TEXT_BYTES keep far below.
    let archive = match rkyv::to_bytes::<rancor::Panic>(value) {
        Ok(archive) => archive,
        Err(never) => match never {},
    };
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + archive.len());
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&archive);
    bytes
}

/// Looks at magic, version and length, and opens the archive by `open`.
fn decode<T>(
    what: &str,
    magic: [u8; 4],
    bytes: &[u8],
    open: impl FnOnce(&[u8]) -> Result<T, rancor::Error>,
) -> Result<T> {
    if bytes.len() > MAX_ENCODED_BYTES {
        return Err(invalid(format!("{what} of {} bytes is longer than {MAX_ENCODED_BYTES}", bytes.len())));
    }
    let Some((prefix, archive)) = bytes.split_at_checked(PREFIX_BYTES).filter(|(p, _)| p[..4] == magic)
    else {
        return Err(invalid(format!("{} bytes that are no {what}", bytes.len())));
    };
    let version = u16::from_le_bytes([prefix[4], prefix[5]]);
    if version != FORMAT_VERSION {
        return Err(invalid(format!(
            "{what} of format version {version}; this agent reads version {FORMAT_VERSION}: update the older one"
        )));
    }
    // Checked access needs the alignment that a slice of a packet or file does not have.
    let mut aligned = AlignedVec::<16>::with_capacity(archive.len());
    aligned.extend_from_slice(archive);
    open(&aligned).map_err(|e| Error::with_source(ErrorKind::Invalid, format!("{what} is damaged"), e))
}

#[cfg(test)]
mod tests;
