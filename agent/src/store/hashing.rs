//! The digests that origins promised, computed while the files still come.
//!
//! SHA-256 on one core is slower than a fast network, and a file gets its path only when its digest is right: what
//! is not hashed yet when the last chunk is here is waited for. So the chunks that are here from a file's start
//! on, up to the first gap, are hashed as they come, several files at a time.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{
    ahead::Begun,
    artifact::{Artifact, FileState},
    shelf::Shelf,
};
use crate::{
    error::Result,
    manifest::{ChunkPlace, DigestCheck},
};

impl Shelf {
    /// Has what has come of a file hashed in the background, if its next chunk is here and nobody is at it.
    /// Called in a runtime. A store that nobody has any more is not kept open for it.
    pub(super) fn hash_in_background(self: &Arc<Self>, artifact: &Arc<Artifact>, file: usize) {
        // A file of one chunk is whole with it, and hashed as it gets its path.
        if artifact.chunks_of(file).len() < 2 || !is_due(artifact, file) || !artifact.ahead.enqueue(file) {
            return;
        }
        let (shelf, artifact, permits) =
            (Arc::downgrade(self), Arc::clone(artifact), Arc::clone(&self.hashing));
        tokio::spawn(async move {
            // Fails only when the semaphore is closed, which nobody does.
            let _permit = permits.acquire_owned().await;
            let work = move || {
                loop {
                    let meets_gap = loop {
                        match shelf.upgrade().map(|shelf| shelf.hash_ahead(&artifact, file)) {
                            Some(Ok(true)) => {}
                            Some(Ok(false)) => break true,
                            // Whoever publishes the file meets the error; the next chunk that comes asks again.
                            Some(Err(_)) | None => break false,
                        }
                    };
                    artifact.ahead.dequeue(file);
                    // What came before the file was off the list has asked in vain.
                    if !meets_gap || !is_due(&artifact, file) || !artifact.ahead.enqueue(file) {
                        return;
                    }
                }
            };
            let _ = tokio::task::spawn_blocking(work).await;
        });
    }

    /// Hashes the next chunk of an unfinished file; false if there is none.
    fn hash_ahead(&self, artifact: &Artifact, file: usize) -> Result<bool> {
        let _turn = artifact.ahead.turn(file);
        // It may have got its path while this waited.
        if !is_due(artifact, file) {
            return Ok(false);
        }
        self.hash_next(artifact, file, &|place| self.read_place(artifact, place))
    }

    /// Whether the whole file has its digest, and which of its chunks had been hashed before; `None` when one is
    /// not here. `read` reads the others.
    ///
    /// # Errors
    /// `Unavailable` when closed; those of `read`.
    pub(super) fn has_digest(
        &self,
        artifact: &Artifact,
        file: usize,
        read: &dyn Fn(ChunkPlace) -> Result<Bytes>,
    ) -> Result<Option<(bool, Range<u32>)>> {
        let _turn = artifact.ahead.turn(file);
        let chunks = artifact.chunks_of(file);
        let before = chunks.start..next(artifact, file);
        while self.hash_next(artifact, file, read)? {}
        let hashed = begun(artifact, file).filter(|begun| begun.next == chunks.end);
        Ok(hashed.map(|begun| (begun.check.matches(), before)))
    }

    /// Hashes the next chunk; false if it is not here, or no digest was promised. Called with the turn taken.
    fn hash_next(
        &self,
        artifact: &Artifact,
        file: usize,
        read: &dyn Fn(ChunkPlace) -> Result<Bytes>,
    ) -> Result<bool> {
        self.ensure_open()?;
        let Some(mut begun) = begun(artifact, file) else { return Ok(false) };
        let is_here = begun.next < artifact.chunks_of(file).end && artifact.held_hash(begun.next).is_some();
        if !is_here {
            return Ok(false);
        }
        let bytes = read(artifact.place(begun.next)?)?;
        // What was dropped meanwhile may be something else by now: then all is hashed anew.
        if artifact.state().drops(file) == begun.drops {
            begun.check.update(&bytes);
            begun.next += 1;
            artifact.ahead.note(file, begun);
        }
        Ok(true)
    }
}

/// How far a file is; from its start if a chunk was dropped meanwhile. `None` where no digest was promised.
fn begun(artifact: &Artifact, file: usize) -> Option<Begun> {
    let entry = artifact.file(file).ok()?;
    let digest = entry.digest?;
    let drops = artifact.state().drops(file);
    let afresh = || Begun {
        check: DigestCheck::new(&digest, entry.size),
        next: artifact.chunks_of(file).start,
        drops,
    };
    Some(artifact.ahead.begun(file, drops).unwrap_or_else(afresh))
}

/// The first chunk of a file that is not hashed yet.
fn next(artifact: &Artifact, file: usize) -> u32 {
    let drops = artifact.state().drops(file);
    artifact.ahead.next(file, drops).unwrap_or(artifact.chunks_of(file).start)
}

/// Whether the next chunk of an unfinished file with a digest is here.
fn is_due(artifact: &Artifact, file: usize) -> bool {
    if artifact.file(file).is_ok_and(|entry| entry.digest.is_none()) {
        return false;
    }
    let next = next(artifact, file);
    let state = artifact.state();
    !artifact.removed.load(Ordering::Acquire)
        && matches!(state.files.get(file), Some(FileState::Partial { .. }))
        && next < artifact.chunks_of(file).end
        && state.held.contains(next)
}

#[cfg(test)]
mod tests {
    use coordinatorless_p2p::{ChunkStore, SwarmId, VerifiedChunk};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::{
        error::ErrorKind,
        manifest::{Blueprint, BlueprintFile},
        snapshot::{Digest, FileVersion},
        store::{Store, StoreConfig},
    };

    const CHUNKS: [&[u8]; 4] = [b"the first", b"second", b"a third one", b"and the last"];

    /// A store that wants a file of these chunks, of which it has none.
    async fn wanting(dir: &std::path::Path) -> (Store, Arc<Artifact>, SwarmId) {
        let store = Store::open(dir.to_owned(), StoreConfig::default()).await.unwrap();
        let file = BlueprintFile {
            path: "model".parse().unwrap(),
            size: CHUNKS.concat().len() as u64,
            version: FileVersion::default(),
            digest: Some(Digest::Sha256(Sha256::digest(CHUNKS.concat()).into())),
            chunk_bytes: CHUNKS.iter().map(|chunk| chunk.len() as u32).collect(),
        };
        let blueprint = Blueprint::new("file:///models/a".to_owned(), None, vec![file]).unwrap();
        let swarm = blueprint.swarm_id();
        let lease = store.admit(Arc::new(blueprint), &vec![0]).await.unwrap();
        let artifact = lease.artifact.clone();
        (store, artifact, swarm)
    }

    async fn write(store: &Store, swarm: SwarmId, index: u32, bytes: &'static [u8]) {
        store.write(swarm, index, VerifiedChunk::hashed(Bytes::from_static(bytes))).await.unwrap();
    }

    async fn until_hashed(artifact: &Artifact, up_to: u32) {
        let began = std::time::Instant::now();
        while next(artifact, 0) != up_to || !artifact.ahead.is_idle() {
            assert!(began.elapsed().as_secs() < 60, "hashed up to {}", next(artifact, 0));
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_has_come_is_hashed_up_to_the_first_gap_before_the_file_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (store, artifact, swarm) = wanting(dir.path()).await;
        write(&store, swarm, 1, CHUNKS[1]).await;
        assert_eq!(next(&artifact, 0), 0, "the first chunk is not here");
        write(&store, swarm, 0, CHUNKS[0]).await;
        until_hashed(&artifact, 2).await;
        write(&store, swarm, 3, CHUNKS[3]).await;
        write(&store, swarm, 2, CHUNKS[2]).await;
        until_hashed(&artifact, 4).await;
        assert!(store.publish_file(swarm, 0).await.unwrap());
        assert!(artifact.ahead.begun(0, 0).is_none(), "nothing of it is kept");
    }

    #[tokio::test]
    async fn what_was_hashed_does_not_count_once_a_chunk_of_it_was_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (store, artifact, swarm) = wanting(dir.path()).await;
        for (index, bytes) in (0..).zip(CHUNKS) {
            write(&store, swarm, index, bytes).await;
        }
        until_hashed(&artifact, 4).await;
        store.discard(swarm, 1).unwrap();
        write(&store, swarm, 1, b"SECOND").await;
        let refused = store.publish_file(swarm, 0).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        for (index, bytes) in (0..).zip(CHUNKS) {
            write(&store, swarm, index, bytes).await;
        }
        assert!(store.publish_file(swarm, 0).await.unwrap());
    }

    #[tokio::test]
    async fn a_file_that_lost_its_first_chunk_is_hashed_again_when_that_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let (store, artifact, swarm) = wanting(dir.path()).await;
        write(&store, swarm, 0, CHUNKS[0]).await;
        write(&store, swarm, 1, CHUNKS[1]).await;
        until_hashed(&artifact, 2).await;
        store.discard(swarm, 0).unwrap();
        // The one that would have been next.
        write(&store, swarm, 2, CHUNKS[2]).await;
        until_hashed(&artifact, 0).await;
        write(&store, swarm, 0, CHUNKS[0]).await;
        until_hashed(&artifact, 3).await;
        write(&store, swarm, 3, CHUNKS[3]).await;
        assert!(store.publish_file(swarm, 0).await.unwrap());
    }

    #[tokio::test]
    async fn what_changed_on_the_disk_after_it_was_hashed_is_found_before_the_file_has_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let (store, artifact, swarm) = wanting(dir.path()).await;
        for (index, bytes) in (0..).zip(CHUNKS) {
            write(&store, swarm, index, bytes).await;
        }
        until_hashed(&artifact, 4).await;
        let file = std::fs::File::options().write(true).open(artifact.partial_path(0)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"S", CHUNKS[0].len() as u64).unwrap();
        let refused = store.publish_file(swarm, 0).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        assert_eq!(store.inventory(swarm).unwrap().held.iter().collect::<Vec<_>>(), [0, 2, 3]);
    }
}
