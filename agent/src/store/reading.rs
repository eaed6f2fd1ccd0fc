//! Reading a file that is not whole yet: bytes of chunks that are here, and nothing of others.
//!
//! What is given out was verified when it was stored. A chunk that is dropped while it is read gives nothing.

use std::ops::Range;

use bytes::Bytes;
use coordinatorless_p2p::SwarmId;

use super::{Lease, Store, artifact::Artifact, disk, shelf::Shelf};
use crate::error::{IoContext, Result};

impl Store {
    /// The first chunk that `range` of a file needs and that is not here.
    pub(crate) fn first_missing(&self, lease: &Lease, file: usize, range: Range<u64>) -> Option<u32> {
        let chunks = lease.artifact.blueprint.chunks_overlapping(file, range);
        let state = lease.artifact.state();
        chunks.into_iter().find(|&index| !state.held.contains(index))
    }

    /// Whether all that was asked for of an artifact has its path.
    pub(crate) fn is_complete(&self, swarm: SwarmId) -> bool {
        self.shelf.artifact(swarm).is_ok_and(|artifact| artifact.is_complete())
    }

    /// Whether a chunk is here.
    pub(crate) fn holds(&self, lease: &Lease, index: u32) -> bool {
        lease.artifact.state().held.contains(index)
    }

    /// Whether a file has its path.
    pub(crate) fn is_published(&self, lease: &Lease, file: usize) -> bool {
        lease.artifact.state().is_published(file)
    }

    /// Bytes of a file that are here.
    pub(crate) fn here_bytes(&self, lease: &Lease, file: usize) -> u64 {
        let Some(listed) = lease.artifact.blueprint.files.get(file) else { return 0 };
        let chunks = lease.artifact.blueprint.chunks_of(file);
        let state = lease.artifact.state();
        let here = chunks.zip(&listed.chunk_bytes).filter(|(index, _)| state.held.contains(*index));
        here.map(|(_, bytes)| u64::from(*bytes)).sum()
    }

    /// Whether every chunk of a file is here.
    pub(crate) fn is_whole(&self, lease: &Lease, file: usize) -> bool {
        lease.artifact.state().is_whole(file)
    }

    /// How often a file turned out not to have the origin's digest.
    pub(crate) fn refusals(&self, lease: &Lease, file: usize) -> u64 {
        lease.artifact.state().refusals(file)
    }

    /// Bytes of a file, all of whose chunks are here; `None` where one is not. Cancel-safe.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn read_range(
        &self,
        lease: &Lease,
        file: usize,
        range: Range<u64>,
    ) -> Result<Option<Bytes>> {
        let artifact = lease.artifact.clone();
        if let Some(bytes) = self.shelf.read_resident(&artifact, file, range.clone())? {
            return Ok(Some(bytes));
        }
        self.blocking(move |shelf| shelf.read_range(&artifact, file, range)).await
    }
}

impl Shelf {
    /// As [`read_range`](Self::read_range), where that cannot block.
    fn read_resident(&self, artifact: &Artifact, file: usize, range: Range<u64>) -> Result<Option<Bytes>> {
        let Some(drops) = held(artifact, file, &range) else { return Ok(None) };
        let Some(open) = self.kept_handle(artifact, file) else { return Ok(None) };
        let bytes = disk::read_if_resident(&open, &range);
        Ok(bytes.filter(|_| held(artifact, file, &range) == Some(drops)).map(Bytes::from))
    }

    fn read_range(&self, artifact: &Artifact, file: usize, range: Range<u64>) -> Result<Option<Bytes>> {
        let Some(drops) = held(artifact, file, &range) else { return Ok(None) };
        let open = self.readable(artifact, file)?;
        let length = (range.end - range.start) as u32;
        let bytes = disk::read_at(&open, range.start, length)
            .at(|| format!("{} cannot be read at byte {}", artifact.file_name(file), range.start))?;
        Ok(Some(bytes).filter(|_| held(artifact, file, &range) == Some(drops)))
    }
}

/// How often a chunk of the file was dropped so far, if all of `range` is here.
fn held(artifact: &Artifact, file: usize, range: &Range<u64>) -> Option<u64> {
    let mut chunks = artifact.blueprint.chunks_overlapping(file, range.clone());
    let state = artifact.state();
    chunks.all(|index| state.held.contains(index)).then(|| state.drops(file))
}
