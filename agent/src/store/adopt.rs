//! Chunks that are on this disk under another name.
//!
//! The bytes that count are hashed where they ended up, or before they are written: never where they
//! came from only. A source that turns out rotten loses its chunk.

use coordinatorless_p2p::{ChunkHash, VerifiedChunk};

use super::{
    artifact::Artifact,
    disk,
    fault::{Step, reach},
    shelf::Shelf,
};
use crate::{
    error::{IoContext, Result},
    manifest::ChunkPlace,
};

impl Shelf {
    /// See `ChunkStore::adopt`.
    ///
    /// # Errors
    /// As there.
    pub(super) fn adopt_chunk(&self, artifact: &Artifact, index: u32, hash: ChunkHash) -> Result<bool> {
        let place = artifact.place(index)?;
        let _turn = artifact.chunk_turn(index);
        if self.is_settled(artifact, index, place, hash)? {
            return Ok(artifact.held_hash(index) == Some(hash));
        }
        for (source, source_index) in self.holders_of(&hash) {
            let Ok(from) = source.place(source_index) else { continue };
            if from.bytes != place.bytes {
                continue;
            }
            if self.clone_chunk(&source, from, artifact, index, place, hash)? {
                return Ok(true);
            }
            // Not by reference: through memory, checked on the way.
            let read = self.read_place(&source, from);
            match read.and_then(|bytes| VerifiedChunk::checked(bytes, hash)) {
                Ok(chunk) => {
                    let file = self.writable(artifact, place.file)?;
                    disk::write_at(&file, chunk.bytes(), place.offset).at(|| {
                        format!(
                            "{} cannot be written at byte {}",
                            artifact.file_name(place.file),
                            place.offset
                        )
                    })?;
                    reach(Step::AfterWrite);
                    self.keep(artifact, index, place, hash, file)?;
                    return Ok(true);
                }
                Err(e) => {
                    tracing::warn!(chunk = source_index, artifact = %source.name(), error = %e, "a chunk rotted; it will be fetched again");
                    if self.drop_chunk(&source, source_index) {
                        self.demote_broken(&source)?;
                    }
                }
            }
        }
        Ok(false)
    }

    /// Copies by reference and hashes what arrived. False when it could not, or was not right.
    fn clone_chunk(
        &self,
        source: &Artifact,
        from: ChunkPlace,
        artifact: &Artifact,
        index: u32,
        place: ChunkPlace,
        hash: ChunkHash,
    ) -> Result<bool> {
        // Blocks can be shared only where both begin on a block.
        if from.offset % disk::BLOCK_BYTES != place.offset % disk::BLOCK_BYTES {
            return Ok(false);
        }
        let to = self.writable(artifact, place.file)?;
        let Ok(source_file) = self.readable(source, from.file) else { return Ok(false) };
        let copied = disk::clone_range(&source_file, from.offset, &to, place.offset, u64::from(place.bytes));
        let is_full = copied.as_ref().is_err_and(|e| {
            matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        });
        if is_full {
            return copied.at(|| {
                format!("{} cannot be written at byte {}", artifact.file_name(place.file), place.offset)
            });
        }
        if !copied.unwrap_or(false) {
            return Ok(false);
        }
        let arrived = disk::read_at(&to, place.offset, place.bytes)
            .at(|| format!("{} cannot be read at byte {}", artifact.file_name(place.file), place.offset))?;
        if ChunkHash::of(&arrived) != hash {
            return Ok(false);
        }
        reach(Step::AfterWrite);
        self.keep(artifact, index, place, hash, to).map(|()| true)
    }
}
