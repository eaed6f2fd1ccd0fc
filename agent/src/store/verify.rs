//! Looking for rot.
//!
//! Looks at every file first, then re-hashes what should be here. A chunk that is wrong leaves presence; its file leaves its path, and is
//! copied before it is mended, so that whoever has it mapped sees no byte change under them.

use coordinatorless_p2p::ChunkHash;

use super::{artifact::Artifact, shelf::Shelf};
use crate::error::Result;

/// What one step of a verification found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) bytes: u64,
    /// The chunk to go on with; `None` at the end.
    pub(super) next: Option<u32>,
}

impl Shelf {
    /// Re-hashes from chunk `from` on until `limit_bytes` are done.
    ///
    /// # Errors
    /// Those of the file system when a broken file cannot be taken back.
    pub(super) fn verify_some(&self, artifact: &Artifact, from: u32, limit_bytes: u64) -> Result<Findings> {
        let (mut findings, mut rotten) = (Findings::default(), false);
        if from == 0 {
            self.look_before_hashing(artifact)?;
            self.recheck_all(artifact)?;
        }
        for index in from..artifact.chunk_count() {
            if findings.bytes >= limit_bytes {
                findings.next = Some(index);
                break;
            }
            self.ensure_open()?;
            let (Ok(place), Some(hash)) = (artifact.place(index), artifact.held_hash(index)) else {
                continue;
            };
            let found = self.read_place(artifact, place).map(|bytes| ChunkHash::of(&bytes));
            findings.bytes += u64::from(place.bytes);
            if matches!(found, Ok(found) if found == hash) || !self.drop_chunk(artifact, index) {
                continue;
            }
            tracing::warn!(chunk = index, file = %artifact.file_name(place.file), "a chunk rotted");
            rotten = true;
        }
        if rotten {
            self.demote_broken(artifact)?;
        }
        Ok(findings)
    }
}
