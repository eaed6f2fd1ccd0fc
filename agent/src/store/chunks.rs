//! Chunks in and out of their files.
//!
//! The order of a write is its safety: bytes, then journal, then visible. Knows nothing of where the
//! bytes came from.

use std::{
    fs::File,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use coordinatorless_p2p::{ChunkHash, VerifiedChunk};

use super::{
    artifact::{Artifact, FileState},
    disk,
    fault::{Step, reach},
    journal::Record,
    shelf::{COMMIT_BYTES, Shelf},
};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    manifest::ChunkPlace,
};

/// Files that may wait for a commit with their handles open; past this the writer syncs them itself.
const UNSYNCED_FILES: usize = 128;

impl Shelf {
    /// The bytes of a chunk that is here, and their hash.
    ///
    /// # Errors
    /// `NotFound` when it is not here.
    pub(super) fn read_chunk(&self, artifact: &Artifact, index: u32) -> Result<(ChunkHash, Bytes)> {
        let place = artifact.place(index)?;
        let hash = artifact.held_hash(index).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("chunk {index} of {} is not here", artifact.name()))
        })?;
        Ok((hash, self.read_place(artifact, place)?))
    }

    /// Whatever is at a chunk's place.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn read_place(&self, artifact: &Artifact, place: ChunkPlace) -> Result<Bytes> {
        let file = self.readable(artifact, place.file)?;
        disk::read_at(&file, place.offset, place.bytes)
            .at(|| format!("{} cannot be read at byte {}", artifact.file_name(place.file), place.offset))
    }

    /// Keeps a chunk at its place. No effect when it is here.
    ///
    /// # Errors
    /// `Invalid` for a wrong index or length, or a file nobody asked for; `Corrupt` when the manifest
    /// has another hash; `Full`.
    pub(super) fn write_chunk(&self, artifact: &Artifact, index: u32, chunk: &VerifiedChunk) -> Result<()> {
        let place = artifact.place(index)?;
        let len = chunk.bytes().len();
        if len != place.bytes as usize {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("chunk {index} of {}: {len} bytes given, {} expected", artifact.name(), place.bytes),
            ));
        }
        let _turn = artifact.chunk_turn(index);
        if self.is_settled(artifact, index, place, chunk.hash())? {
            return Ok(());
        }
        let file = self.writable(artifact, place.file)?;
        disk::write_at(&file, chunk.bytes(), place.offset).at(|| {
            format!("{} cannot be written at byte {}", artifact.file_name(place.file), place.offset)
        })?;
        reach(Step::AfterWrite);
        self.keep(artifact, index, place, chunk.hash(), file)
    }

    /// Whether the chunk is here already. Asked with its turn taken.
    ///
    /// # Errors
    /// `Unavailable` when closed; `NotFound` for an artifact that was removed; `Invalid`, `Corrupt` as
    /// [`write_chunk`](Self::write_chunk).
    pub(super) fn is_settled(
        &self,
        artifact: &Artifact,
        index: u32,
        place: ChunkPlace,
        hash: ChunkHash,
    ) -> Result<bool> {
        self.ensure_open()?;
        if artifact.removed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::NotFound, format!("artifact {} was removed", artifact.name())));
        }
        let state = artifact.state();
        if state.held.contains(index) {
            return Ok(true);
        }
        if state.files[place.file] == FileState::Lost {
            drop(state);
            return Err(Error::new(
                ErrorKind::UNAVAILABLE,
                format!("{} was removed from the disk; pull it again", artifact.file_name(place.file)),
            ));
        }
        if state.files[place.file] == FileState::Absent {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("chunk {index} of {}: its file was not admitted", artifact.file_name(place.file)),
            ));
        }
        match (&state.manifest, state.hashes[index as usize]) {
            (Some(_), Some(known)) if known != hash => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "chunk {index} of {}: hash mismatch: the manifest has {}, got {}",
                    artifact.file_name(place.file),
                    known.short(),
                    hash.short()
                ),
            )),
            _ => Ok(false),
        }
    }

    /// A handle to write to a file of an artifact. A published file whose chunks were dropped loses
    /// its path first, and is copied first if somebody may have it mapped.
    ///
    /// # Errors
    /// `Full` when there is no room for the copy; those of the file system.
    pub(super) fn writable(&self, artifact: &Artifact, file: usize) -> Result<Arc<File>> {
        if artifact.state().drops_unsynced {
            // The index may promise a chunk that is about to be overwritten: the journal must say so
            // for good before.
            let journal = artifact.journal.lock();
            journal.sync()?;
            artifact.state().drops_unsynced = false;
        }
        let state = artifact.state().files[file];
        if state != (FileState::Partial { frozen: false }) {
            self.demote(artifact, file)?;
            self.thaw(artifact, file)?;
        }
        self.readable(artifact, file)
    }

    /// Says that a chunk's bytes are in its file: journal first, then everybody.
    ///
    /// # Errors
    /// `Full` when the journal cannot grow.
    pub(super) fn keep(
        &self,
        artifact: &Artifact,
        index: u32,
        place: ChunkPlace,
        hash: ChunkHash,
        file: Arc<File>,
    ) -> Result<()> {
        let crowded = {
            let state = artifact.state();
            state.unsynced.len() >= UNSYNCED_FILES && !state.unsynced.contains_key(&place.file)
        };
        if crowded {
            file.sync_data().at(|| format!("{} cannot be synced", artifact.file_name(place.file)))?;
        }
        {
            let mut journal = artifact.journal.lock();
            journal.append(Record::Written(index, hash))?;
            reach(Step::AfterJournal);
            artifact.insert(index, hash, (!crowded).then_some((place.file, file)));
        }
        self.places.lock().insert(&hash, artifact.number, index);
        let bytes = u64::from(place.bytes);
        if self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= COMMIT_BYTES {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Re-hashes what a crash or a failed sync left in doubt, and shows what is right.
    ///
    /// Reads what is on the disk, not what the page cache holds: after a failed sync they differ.
    ///
    /// # Errors
    /// `Unavailable` when a file cannot be synced or read: its chunks stay in doubt.
    pub(super) fn recheck(&self, artifact: &Artifact, file: usize) -> Result<()> {
        let chunks = artifact.chunks_of(file);
        if artifact.state().suspects.range(chunks.clone()).next().is_none() {
            return Ok(());
        }
        let Some(path) = artifact.current_path(file) else { return Ok(()) };
        self.forget_handle(artifact, file);
        let at = || format!("{} cannot be re-hashed", artifact.file_name(file));
        let open = Arc::new(File::open(path).at(at)?);
        open.sync_data().at(at)?;
        disk::forget_cached(&open);
        let mut next = chunks.start;
        loop {
            self.ensure_open()?;
            let suspect = artifact.state().suspects.range(next..chunks.end).next().map(|(n, h)| (*n, *h));
            let Some((index, hash)) = suspect else { return Ok(()) };
            next = index + 1;
            let place = artifact.place(index)?;
            let _turn = artifact.chunk_turn(index);
            if artifact.state().suspects.get(&index) != Some(&hash) {
                continue;
            }
            let found = disk::read_at(&open, place.offset, place.bytes).map(|bytes| ChunkHash::of(&bytes));
            if matches!(found, Ok(found) if found == hash) {
                artifact.insert(index, hash, None);
                self.places.lock().insert(&hash, artifact.number, index);
            } else {
                tracing::info!(chunk = index, file = %artifact.file_name(file), "a chunk did not survive; the next pull fetches it again");
                artifact.forget_suspect(index);
            }
        }
    }

    /// [`recheck`](Self::recheck)s every file.
    ///
    /// # Errors
    /// The first one; the other files were rechecked nevertheless.
    pub(super) fn recheck_all(&self, artifact: &Artifact) -> Result<()> {
        let files: std::collections::BTreeSet<usize> = {
            let state = artifact.state();
            state.suspects.keys().filter_map(|n| artifact.place(*n).ok()).map(|p| p.file).collect()
        };
        let mut outcome = Ok(());
        for file in files {
            let done = self.recheck(artifact, file);
            if outcome.is_ok() {
                outcome = done;
            }
        }
        outcome
    }
}
