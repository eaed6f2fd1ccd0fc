//! Whole files that are on this disk under another name, told by the SHA-256 that their origin gives.
//!
//! A file that was published with that digest has it; one whose origin gave none is hashed when the size
//! is right, once while this process lives. Answers with chunk hashes: taking the bytes, and checking them
//! again on the way, is what adopting is for.

use std::{collections::HashMap, fs::File, sync::Arc};

use coordinatorless_p2p::ChunkHash;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::{artifact::Artifact, disk, shelf::Shelf};
use crate::{
    error::{IoContext, Result},
    manifest::BlueprintFile,
    snapshot::Digest,
};

/// Bytes read at a time: small enough to stay in the processor's cache.
const PIECE_BYTES: u64 = 1 << 20;

/// Files without a digest that are hashed for one that is looked for.
const HASHED_MAX: usize = 4;

/// Digests computed here, by artifact number and file.
#[derive(Debug, Default)]
pub(super) struct Digests(Mutex<HashMap<(u32, usize), [u8; 32]>>);

impl Shelf {
    /// See [`Store::twin`](super::Store::twin).
    pub(super) fn twin(&self, wanted: &BlueprintFile) -> Option<Vec<ChunkHash>> {
        let Some(Digest::Sha256(digest)) = wanted.digest else { return None };
        let mut hashed = 0;
        for artifact in self.all() {
            for (file, candidate) in artifact.blueprint.files.iter().enumerate() {
                if candidate.size != wanted.size || candidate.chunk_bytes != wanted.chunk_bytes {
                    continue;
                }
                let same = match candidate.digest {
                    Some(Digest::Sha256(known)) => known == digest,
                    Some(Digest::GitSha1(_) | Digest::Md5(_)) | None if hashed < HASHED_MAX => {
                        hashed += 1;
                        self.sha256(&artifact, file).is_some_and(|found| found == digest)
                    }
                    Some(Digest::GitSha1(_) | Digest::Md5(_)) | None => false,
                };
                if same && let Some(hashes) = published_hashes(&artifact, file) {
                    return Some(hashes);
                }
            }
        }
        None
    }

    /// The digest of a published file, computed unless it was before.
    fn sha256(&self, artifact: &Arc<Artifact>, file: usize) -> Option<[u8; 32]> {
        published_hashes(artifact, file)?;
        let key = (artifact.number, file);
        if let Some(known) = self.digests.0.lock().get(&key) {
            return Some(*known);
        }
        match hash(artifact, file) {
            Ok(digest) => {
                self.digests.0.lock().insert(key, digest);
                Some(digest)
            }
            Err(e) => {
                tracing::warn!(file = %artifact.file_name(file), error = %e, "a file of the right size cannot be hashed");
                None
            }
        }
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

fn hash(artifact: &Artifact, file: usize) -> Result<[u8; 32]> {
    let at = || format!("{} cannot be read", artifact.file_name(file));
    let size = artifact.file(file)?.size;
    let open = File::open(artifact.published_path(file)).at(at)?;
    let mut hasher = Sha256::new();
    let mut offset = 0;
    while offset < size {
        let len = PIECE_BYTES.min(size - offset);
        hasher.update(&disk::read_at(&open, offset, len as u32).at(at)?);
        offset += len;
    }
    Ok(hasher.finalize().into())
}
