//! Whole files that are on this disk under another name, told by the SHA-256 that their origin gives.
//!
//! A file that was published with that digest has it; one whose origin gave none is hashed when the size
//! is right, once while this process lives. Answers with chunk hashes: taking the bytes, and checking them
//! again on the way, is what adopting is for.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    sync::Arc,
};

use coordinatorless_p2p::ChunkHash;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::{artifact::Artifact, disk, shelf::Shelf};
use crate::{
    error::{IoContext, Result},
    manifest::BlueprintFile,
    snapshot::Digest,
};

/// Bytes read at a time: small enough to stay in the processor's cache.
const PIECE_BYTES: u64 = 1 << 20;

/// Files of one size and without a digest that are hashed to find a twin.
const HASHED_MAX: usize = 4;

/// Files of this disk by what could make them a twin.
#[derive(Default)]
struct Candidates {
    by_digest: HashMap<[u8; 32], (Arc<Artifact>, usize)>,
    /// Without a SHA-256, by size: those few that are worth hashing.
    by_size: HashMap<u64, Vec<(Arc<Artifact>, usize)>>,
}

impl Shelf {
    /// See [`Store::twins`](super::Store::twins).
    pub(super) fn twins(&self, wanted: &[BlueprintFile]) -> Vec<Option<Vec<ChunkHash>>> {
        let candidates = self.candidates(wanted);
        wanted.iter().map(|file| self.twin(file, &candidates)).collect()
    }

    fn candidates(&self, wanted: &[BlueprintFile]) -> Candidates {
        let digests: HashMap<[u8; 32], u64> =
            wanted.iter().filter_map(|file| Some((sha256_of(file)?, file.size))).collect();
        let sizes: HashSet<u64> = digests.values().copied().collect();
        let mut found = Candidates::default();
        if digests.is_empty() {
            return found;
        }
        for artifact in self.all() {
            for (number, file) in artifact.blueprint.files.iter().enumerate() {
                if !sizes.contains(&file.size) || !artifact.state().is_published(number) {
                    continue;
                }
                let place = (artifact.clone(), number);
                match sha256_of(file) {
                    Some(digest) if digests.contains_key(&digest) => {
                        found.by_digest.insert(digest, place);
                    }
                    Some(_) => {}
                    None => {
                        let same_size = found.by_size.entry(file.size).or_default();
                        if same_size.len() < HASHED_MAX {
                            same_size.push(place);
                        }
                    }
                }
            }
        }
        found
    }

    fn twin(&self, wanted: &BlueprintFile, candidates: &Candidates) -> Option<Vec<ChunkHash>> {
        let digest = sha256_of(wanted)?;
        let hashes = |artifact: &Artifact, file: usize| {
            let is_cut_alike = artifact.blueprint.files[file].chunk_bytes == wanted.chunk_bytes;
            is_cut_alike.then(|| published_hashes(artifact, file)).flatten()
        };
        if let Some((artifact, file)) = candidates.by_digest.get(&digest) {
            return hashes(artifact, *file);
        }
        let same_size = candidates.by_size.get(&wanted.size)?;
        let (artifact, file) =
            same_size.iter().find(|(artifact, file)| self.sha256(artifact, *file) == Some(digest))?;
        hashes(artifact, *file)
    }

    /// The digest of a published file, computed unless it was before.
    fn sha256(&self, artifact: &Arc<Artifact>, file: usize) -> Option<[u8; 32]> {
        let key = (artifact.number, file);
        if let Some(known) = self.digests.get(key) {
            return Some(known);
        }
        match hash(artifact, file) {
            Ok(digest) => {
                self.digests.note(key, digest);
                Some(digest)
            }
            Err(e) => {
                tracing::warn!(file = %artifact.file_name(file), error = %e, "a file of the right size cannot be hashed");
                None
            }
        }
    }
}

fn sha256_of(file: &BlueprintFile) -> Option<[u8; 32]> {
    match file.digest {
        Some(Digest::Sha256(digest)) => Some(digest),
        Some(Digest::GitSha1(_) | Digest::Md5(_)) | None => None,
    }
}

/// The chunk hashes of a file that has its path.
fn published_hashes(artifact: &Artifact, file: usize) -> Option<Vec<ChunkHash>> {
    let state = artifact.state();
    if !state.is_published(file) {
        return None;
    }
    let chunks = artifact.chunks_of(file);
    state.hashes[chunks.start as usize..chunks.end as usize].iter().copied().collect()
}

fn hash(artifact: &Artifact, file: usize) -> Result<[u8; SHA256_OUTPUT_LEN]> {
    let at = || format!("{} cannot be read", artifact.file_name(file));
    let size = artifact.file(file)?.size;
    let open = File::open(artifact.published_path(file)).at(at)?;
    let mut hasher = Context::new(&SHA256);
    let mut offset = 0;
    while offset < size {
        let len = PIECE_BYTES.min(size - offset);
        hasher.update(&disk::read_at(&open, offset, len as u32).at(at)?);
        offset += len;
    }
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(hasher.finish().as_ref());
    Ok(digest)
}
