//! Telling the index what is here, behind the data.
//!
//! Data first: every file that was written to is synced, then one transaction says so. A file that
//! cannot be synced takes its chunks out of presence; they are re-hashed before anyone sees them.

use std::sync::{Arc, atomic::Ordering};

use super::{
    artifact::{Artifact, FileState, Pending},
    fault::{Step, reach},
    index::Index,
    journal::{RECORD_BYTES, Record},
    shelf::Shelf,
};
use crate::error::{Error, ErrorKind, Result};

impl Shelf {
    /// Commits everything written so far.
    ///
    /// # Errors
    /// Those of the file system; what could not be committed stays for the next time.
    pub(super) fn commit(&self) -> Result<()> {
        let _turn = self.commit_turn.lock();
        self.reopen_index()?;
        self.unsynced_bytes.store(0, Ordering::Relaxed);
        let forgotten = std::mem::take(&mut *self.forgotten.lock());
        let mut changed = Vec::new();
        for artifact in self.all() {
            let overgrown = is_overgrown(&artifact);
            if overgrown {
                artifact.mark_entry_dirty();
            }
            if let Some(pending) = artifact.take_changes() {
                let mut change = self.sync_pending(&artifact, pending);
                if overgrown {
                    // No position of the old journal means anything in the one about to replace it.
                    change.entry.journal_bytes = 0;
                }
                changed.push((artifact, change));
            }
        }
        if changed.is_empty() && forgotten.is_empty() {
            return Ok(());
        }
        reach(Step::BeforeCommit);
        let (artifacts, changes): (Vec<Arc<Artifact>>, Vec<_>) = changed.into_iter().unzip();
        let mut index = self.index.lock();
        let committed = match index.as_ref() {
            Some(open) => open.commit(&forgotten, &changes),
            None => Err(Error::new(ErrorKind::UNAVAILABLE, "the index is closed")),
        };
        if let Err(e) = committed {
            // redb refuses everything after an error of the disk until it is opened anew.
            *index = None;
            drop(index);
            self.forgotten.lock().extend(forgotten);
            for (artifact, change) in artifacts.iter().zip(&changes) {
                artifact.restore_changes(change);
            }
            return Err(e);
        }
        drop(index);
        reach(Step::AfterCommit);
        artifacts.iter().filter(|a| is_overgrown(a)).for_each(|a| shorten_journal(a));
        Ok(())
    }

    /// Syncs what was written, and takes out of the change what could not be.
    fn sync_pending(&self, artifact: &Artifact, pending: Pending) -> super::index::Change {
        let Pending { mut change, files } = pending;
        for (number, file) in files {
            // Whoever has the turn is about to sync it, and must be the one to hear of an error.
            let Some(_turn) = artifact.try_file_turn(number) else {
                artifact.state().unsynced.entry(number).or_insert(file);
                leave_out(artifact, number, &mut change, true);
                continue;
            };
            reach(Step::BeforeSync);
            if let Err(e) = file.sync_data() {
                tracing::error!(file = %artifact.file_name(number), error = %e, "a file cannot be synced; its chunks will be re-hashed");
                self.distrust_file(artifact, number);
                leave_out(artifact, number, &mut change, false);
            }
            reach(Step::AfterSync);
        }
        change
    }

    /// Opens the index again after an error took it away.
    fn reopen_index(&self) -> Result<()> {
        let mut index = self.index.lock();
        // Once closing, somebody else may be about to open it.
        if index.is_some() || self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let (open, fresh) = Index::open(&self.index_path())?;
        if fresh {
            self.all().iter().for_each(|artifact| artifact.mark_all_dirty());
        }
        *index = Some(open);
        Ok(())
    }
}

/// Whether a journal has said the same things too often.
fn is_overgrown(artifact: &Artifact) -> bool {
    let (chunks, files) = (u64::from(artifact.chunk_count()), artifact.blueprint.files.len() as u64);
    let needed = 2 * chunks + files + super::JOURNAL_SLACK_RECORDS;
    artifact.journal.lock().position() > needed * RECORD_BYTES as u64
}

/// Replaces a journal by what is true now. The index was told before that its positions are void.
fn shorten_journal(artifact: &Artifact) {
    let mut journal = artifact.journal.lock();
    let records = artifact.told();
    if let Err(e) = journal.rewrite(records.into_iter()) {
        tracing::warn!(artifact = %artifact.name(), error = %e, "the journal cannot be shortened");
    }
    drop(journal);
    artifact.mark_entry_dirty();
}

impl Artifact {
    /// What a journal that begins now has to say. Called with the journal locked.
    pub(super) fn told(&self) -> Vec<Record> {
        let state = self.state();
        let wanted = state.files.iter().enumerate().filter(|(_, file)| **file != FileState::Absent);
        let mut records: Vec<Record> = wanted.map(|(number, _)| Record::Wanted(number as u32)).collect();
        for index in 0..self.chunk_count() {
            let suspect = state.suspects.get(&index).copied();
            let held = state.hashes[index as usize].filter(|_| state.held.contains(index));
            // Written since the last commit, or not here at all: the index may promise older bytes.
            let file = self.place(index).map(|place| place.file);
            if held.is_none() || file.is_ok_and(|file| state.unsynced.contains_key(&file)) {
                records.push(Record::Dropped(index));
            }
            records.extend(held.or(suspect).map(|hash| Record::Written(index, hash)));
        }
        records
    }
}

/// Takes a file's chunks out of a change, to be committed another time.
fn leave_out(artifact: &Artifact, file: usize, change: &mut super::index::Change, again: bool) {
    let chunks = artifact.chunks_of(file);
    for (_, page) in &mut change.pages {
        page.retain(|(index, _)| !chunks.contains(index));
    }
    if again {
        artifact.restore_changes(change);
    }
}
