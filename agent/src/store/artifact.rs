//! One artifact as the store knows it in memory: which chunks and files are here.
//!
//! Serves every question without touching the disk. Owns the rules by which chunks come and go, and
//! the turns that keep two threads from the same chunk or file. Knows where its files lie, but
//! opens none.
//! Invariants: a held chunk's hash is known; a chunk is never held and suspect at once; a chunk becomes
//! held only after its journal record, under the journal's lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use coordinatorless_p2p::{ChunkHash, ChunkSet, Inventory, SwarmId};
use parking_lot::{Mutex, MutexGuard};

use super::{
    ahead::Ahead,
    index::{Change, Entry, PAGE_CHUNKS},
    journal::{Journal, Record},
    stamp::Stamp,
    turns::{Turn, Turns},
};
use crate::{
    error::{Error, ErrorKind, Result},
    manifest::{Blueprint, BlueprintFile, ChunkPlace},
};

/// Directory of files that are being filled, by file number.
pub(super) const PARTIAL_DIR: &str = "partial";
/// Directory of whole files, by path.
pub(super) const FILES_DIR: &str = "files";

/// Where a file of an artifact stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileState {
    /// Nobody asked for it.
    Absent,
    /// In `partial/`, preallocated.
    Partial {
        /// It had a path once, so somebody may have it mapped: copy it before writing to it.
        frozen: bool,
    },
    /// In `files/`, never to be written again.
    Published,
    /// Asked for, and not on the disk any more. Its room stays charged.
    Lost,
}

/// An artifact on this disk.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) swarm: SwarmId,
    /// Its short name in [`Places`](super::places::Places) and the handle cache.
    pub(super) number: u32,
    pub(super) blueprint: Arc<Blueprint>,
    pub(super) dir: PathBuf,
    /// Tells this directory from an earlier one of the same swarm.
    pub(super) birth: AtomicU64,
    /// Charged besides the files: directories, journal, blueprint, manifest, index.
    pub(super) overhead_bytes: u64,
    pub(super) journal: Mutex<Journal>,
    pub(super) pinned: AtomicBool,
    pub(super) leases: AtomicU64,
    /// Microseconds since the epoch.
    pub(super) last_used_us: AtomicU64,
    /// Microseconds since the epoch of the last admission.
    pub(super) admitted_us: AtomicU64,
    /// Gone from the shelf; threads that still hold it must not bring it back.
    pub(super) removed: AtomicBool,
    /// Held while the manifest is written: two pulls may learn or seal it at once.
    pub(super) sealing: Mutex<()>,
    /// How far the digests of its files are.
    pub(super) ahead: Ahead,
    state: Mutex<State>,
    chunk_turns: Turns<u32>,
    file_turns: Turns<usize>,
}

/// What changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) held: ChunkSet,
    pub(super) hashes: Vec<Option<ChunkHash>>,
    /// Said to be here by the journal, to be re-hashed before anyone sees them.
    pub(super) suspects: BTreeMap<u32, ChunkHash>,
    pub(super) files: Vec<FileState>,
    /// What each file on the disk looked like when it was last known to be right; `None` for one that is not
    /// there or not ours.
    pub(super) stamps: Vec<Option<Stamp>>,
    /// Were here and are not any more, with the hash they had where it is known.
    pub(super) broken: BTreeMap<u32, Option<ChunkHash>>,
    /// The manifest's hash, once every chunk hash is known for good.
    pub(super) manifest: Option<ChunkHash>,
    pub(super) held_bytes: u64,
    /// Files written to since they were last synced, kept open so that no error of theirs is lost.
    pub(super) unsynced: HashMap<usize, Arc<File>>,
    /// Of each file, how often one of its chunks was dropped.
    drops: Vec<u64>,
    /// Of each file, how often it did not have the origin's digest.
    refusals: Vec<u64>,
    /// A drop may not have reached the disk yet, while the index may still promise the chunk.
    pub(super) drops_unsynced: bool,
    /// Chunks missing of each file.
    missing: Vec<u32>,
    dirty_pages: BTreeSet<u32>,
    entry_dirty: bool,
}

/// What [`Artifact::take_changes`] found.
pub(super) struct Pending {
    /// For the index.
    pub(super) change: Change,
    /// To be synced first.
    pub(super) files: Vec<(usize, Arc<File>)>,
}

impl Artifact {
    pub(super) fn new(
        swarm: SwarmId,
        number: u32,
        blueprint: Arc<Blueprint>,
        dir: PathBuf,
        birth: u64,
        overhead_bytes: u64,
        journal: Journal,
    ) -> Self {
        let count = blueprint.chunk_count();
        let now = now_us();
        let state = State {
            held: ChunkSet::new(count),
            hashes: vec![None; count as usize],
            suspects: BTreeMap::new(),
            files: vec![FileState::Absent; blueprint.files.len()],
            stamps: vec![None; blueprint.files.len()],
            broken: BTreeMap::new(),
            manifest: None,
            held_bytes: 0,
            unsynced: HashMap::new(),
            drops: vec![0; blueprint.files.len()],
            refusals: vec![0; blueprint.files.len()],
            drops_unsynced: false,
            missing: blueprint.files.iter().map(|f| f.chunk_bytes.len() as u32).collect(),
            dirty_pages: BTreeSet::new(),
            entry_dirty: true,
        };
        Self {
            swarm,
            number,
            blueprint,
            dir,
            birth: AtomicU64::new(birth),
            overhead_bytes,
            journal: Mutex::new(journal),
            pinned: AtomicBool::new(false),
            leases: AtomicU64::new(0),
            last_used_us: AtomicU64::new(now),
            admitted_us: AtomicU64::new(now),
            removed: AtomicBool::new(false),
            sealing: Mutex::new(()),
            ahead: Ahead::new(),
            state: Mutex::new(state),
            chunk_turns: Turns::new(),
            file_turns: Turns::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// How messages call it.
    pub(super) fn name(&self) -> String {
        format!("{} ({})", self.blueprint.reference, self.swarm.short())
    }

    /// How messages call a file of it.
    pub(super) fn file_name(&self, file: usize) -> String {
        match self.blueprint.files.get(file) {
            Some(f) => format!("{} of {}", f.path, self.name()),
            None => format!("file {file} of {}", self.name()),
        }
    }

    pub(super) fn chunk_count(&self) -> u32 {
        self.blueprint.chunk_count()
    }

    /// Where chunk `index` lies.
    ///
    /// # Errors
    /// `Invalid` past the end.
    pub(super) fn place(&self, index: u32) -> Result<ChunkPlace> {
        self.blueprint.place(index).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("chunk {index} of {}: past the end", self.name()))
        })
    }

    /// File number `file`.
    ///
    /// # Errors
    /// `Invalid` past the end.
    pub(super) fn file(&self, file: usize) -> Result<&BlueprintFile> {
        self.blueprint.files.get(file).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("file {file} of {}: past the end", self.name()))
        })
    }

    /// The chunks of a file.
    pub(super) fn chunks_of(&self, file: usize) -> Range<u32> {
        self.blueprint.chunks_of(file)
    }

    pub(super) fn partial_path(&self, file: usize) -> PathBuf {
        self.dir.join(PARTIAL_DIR).join(file.to_string())
    }

    pub(super) fn published_path(&self, file: usize) -> PathBuf {
        self.dir.join(FILES_DIR).join(self.blueprint.files[file].path.as_str())
    }

    /// Where the file's bytes are, `None` while nobody asked for it.
    pub(super) fn current_path(&self, file: usize) -> Option<PathBuf> {
        match self.state().files[file] {
            FileState::Absent | FileState::Lost => None,
            FileState::Partial { .. } => Some(self.partial_path(file)),
            FileState::Published => Some(self.published_path(file)),
        }
    }

    pub(super) fn inventory(&self) -> Inventory {
        let state = self.state();
        Inventory { held: state.held.clone(), hashes: state.hashes.clone() }
    }

    /// The hash of a chunk that is here.
    pub(super) fn held_hash(&self, index: u32) -> Option<ChunkHash> {
        let state = self.state();
        if state.held.contains(index) { state.hashes[index as usize] } else { None }
    }

    pub(super) fn touch(&self) {
        self.last_used_us.fetch_max(now_us(), Ordering::Relaxed);
        self.state().entry_dirty = true;
    }

    pub(super) fn is_evictable(&self) -> bool {
        self.leases.load(Ordering::Acquire) == 0 && !self.pinned.load(Ordering::Acquire)
    }

    /// The files that somebody asked for.
    pub(super) fn wanted_files(&self) -> Vec<usize> {
        let state = self.state();
        (0..state.files.len()).filter(|n| state.files[*n] != FileState::Absent).collect()
    }

    /// Whether somebody asked for files of it and all of them have their path.
    pub(super) fn is_complete(&self) -> bool {
        let state = self.state();
        let mut wanted = state.files.iter().enumerate().filter(|(_, f)| **f != FileState::Absent).peekable();
        (wanted.peek().is_some() || state.files.is_empty()) && wanted.all(|(n, _)| state.is_published(n))
    }

    /// Bytes charged against the quota for what is here.
    pub(super) fn charge_bytes(&self) -> u64 {
        let state = self.state();
        let files = self.blueprint.files.iter().zip(&state.files);
        files
            .filter(|(_, f)| **f != FileState::Absent)
            .map(|(f, _)| super::space::file_charge(f.size))
            .fold(self.overhead_bytes, u64::saturating_add)
    }

    /// Marks a chunk as here, its bytes and journal record being written. `file` is the handle they
    /// were written through, `None` when they are durable already.
    pub(super) fn insert(&self, index: u32, hash: ChunkHash, file: Option<(usize, Arc<File>)>) {
        let Ok(place) = self.place(index) else { return };
        let mut state = self.state();
        state.suspects.remove(&index);
        state.broken.remove(&index);
        if let Some((number, file)) = file {
            state.unsynced.entry(number).or_insert(file);
        }
        if state.held.insert(index) {
            state.hashes[index as usize] = Some(hash);
            state.missing[place.file] -= 1;
            state.held_bytes += u64::from(place.bytes);
            state.dirty_pages.insert(index / PAGE_CHUNKS);
        }
    }

    /// Takes a chunk out of presence and says so in the journal. The hash it was held under, if it was.
    /// Its file, when published, is to be demoted by the caller.
    pub(super) fn drop_chunk(&self, index: u32) -> Option<ChunkHash> {
        let place = self.place(index).ok()?;
        let mut journal = self.journal.lock();
        let mut state = self.state();
        let hash = state.hashes[index as usize];
        if !state.take_out(index, place) {
            return None;
        }
        if state.manifest.is_none() {
            state.hashes[index as usize] = None;
        }
        state.drops_unsynced = true;
        drop(state);
        if let Err(e) = journal.append(Record::Dropped(index)) {
            // The index learns of it at the next commit; until then only a crash could undo the drop.
            tracing::warn!(chunk = index, artifact = %self.name(), error = %e, "a dropped chunk could not be noted");
        }
        hash
    }

    /// Makes every held chunk of a file suspect: what was written may not be what is on the disk.
    pub(super) fn distrust_file(&self, file: usize) {
        let chunks = self.chunks_of(file);
        let mut state = self.state();
        state.unsynced.remove(&file);
        for index in chunks {
            let (Ok(place), Some(hash)) = (self.place(index), state.hashes[index as usize]) else { continue };
            if state.take_out(index, place) {
                state.suspects.insert(index, hash);
                // In doubt, which is not wrong: whoever hashes it next finds out.
                state.broken.remove(&index);
                if state.manifest.is_none() {
                    state.hashes[index as usize] = None;
                }
            }
        }
    }

    /// A suspect turned out not to be here.
    pub(super) fn forget_suspect(&self, index: u32) {
        let mut state = self.state();
        if let Some(hash) = state.suspects.remove(&index) {
            state.broken.insert(index, Some(hash));
        }
        if state.manifest.is_none() && !state.held.contains(index) {
            state.hashes[index as usize] = None;
        }
    }

    /// Sets the state of a file.
    pub(super) fn set_file(&self, file: usize, to: FileState) {
        self.state().files[file] = to;
    }

    /// Has the next commit write the entry.
    pub(super) fn mark_entry_dirty(&self) {
        self.state().entry_dirty = true;
    }

    /// Marks the whole entry and every page as not yet in the index.
    pub(super) fn mark_all_dirty(&self) {
        let mut state = self.state();
        state.entry_dirty = true;
        state.dirty_pages.extend(0..self.chunk_count().div_ceil(PAGE_CHUNKS));
    }

    /// Takes what the index does not know yet; `None` when there is nothing.
    pub(super) fn take_changes(&self) -> Option<Pending> {
        // Before the state is read: a record behind this position may or may not be in it.
        let journal_bytes = self.journal.lock().position();
        let mut state = self.state();
        if !state.entry_dirty && state.dirty_pages.is_empty() && state.unsynced.is_empty() {
            return None;
        }
        state.entry_dirty = false;
        let files = state.unsynced.drain().collect();
        let pages = std::mem::take(&mut state.dirty_pages);
        let pages = pages.into_iter().map(|page| (page, state.page(page))).collect();
        let entry = Entry {
            birth: self.birth.load(Ordering::Acquire),
            pinned: self.pinned.load(Ordering::Acquire),
            last_used_us: self.last_used_us.load(Ordering::Relaxed),
            admitted_us: self.admitted_us.load(Ordering::Relaxed),
            journal_bytes,
        };
        Some(Pending { change: Change { swarm: self.swarm, entry, pages }, files })
    }

    /// Puts pages back that could not be committed.
    pub(super) fn restore_changes(&self, change: &Change) {
        let mut state = self.state();
        state.entry_dirty = true;
        state.dirty_pages.extend(change.pages.iter().map(|(page, _)| *page));
    }

    /// Waits until no other thread works on this chunk.
    pub(super) fn chunk_turn(&self, index: u32) -> Turn<'_, u32> {
        self.chunk_turns.wait(index)
    }

    /// Waits until no other thread works on this file as a whole. Taken after a chunk's turn, never
    /// before one.
    pub(super) fn file_turn(&self, file: usize) -> Turn<'_, usize> {
        self.file_turns.wait(file)
    }

    /// The file's turn, if nobody has it.
    pub(super) fn try_file_turn(&self, file: usize) -> Option<Turn<'_, usize>> {
        self.file_turns.attempt(file)
    }

    /// The directory a file's path is in, and those above it up to `files/`, innermost first.
    pub(super) fn dirs_of(&self, file: usize) -> Vec<PathBuf> {
        let path = self.published_path(file);
        path.ancestors().skip(1).take_while(|d| *d != self.dir).map(Path::to_owned).collect()
    }
}

impl State {
    /// Whether every chunk of the file is held.
    pub(super) fn is_whole(&self, file: usize) -> bool {
        self.missing[file] == 0
    }

    /// Whether the file has a path and deserves it.
    pub(super) fn is_published(&self, file: usize) -> bool {
        self.files[file] == FileState::Published && self.is_whole(file)
    }

    /// How often a chunk of the file was dropped: a file whose count has changed is not the one that was
    /// looked at before.
    pub(super) fn drops(&self, file: usize) -> u64 {
        self.drops[file]
    }

    /// How often the file, once whole, did not have the origin's digest.
    pub(super) fn refusals(&self, file: usize) -> u64 {
        self.refusals[file]
    }

    /// Notes that the file does not have the origin's digest.
    pub(super) fn refuse(&mut self, file: usize) {
        self.refusals[file] += 1;
    }

    pub(super) fn missing(&self, file: usize) -> u32 {
        self.missing[file]
    }

    /// Every hash, once all are known.
    pub(super) fn all_hashes(&self) -> Option<Vec<ChunkHash>> {
        self.hashes.iter().copied().collect()
    }

    fn take_out(&mut self, index: u32, place: ChunkPlace) -> bool {
        let suspect = self.suspects.remove(&index);
        let was = self.held.remove(index);
        if was || suspect.is_some() {
            self.broken.insert(index, suspect.or(self.hashes[index as usize]));
        }
        if was {
            self.missing[place.file] += 1;
            self.held_bytes -= u64::from(place.bytes);
            self.drops[place.file] += 1;
            self.dirty_pages.insert(index / PAGE_CHUNKS);
        }
        was
    }

    fn page(&self, page: u32) -> Vec<(u32, ChunkHash)> {
        let start = page * PAGE_CHUNKS;
        let end = start.saturating_add(PAGE_CHUNKS).min(self.held.universe());
        (start..end)
            .filter(|n| self.held.contains(*n))
            .filter_map(|n| Some((n, self.hashes[n as usize]?)))
            .collect()
    }
}

/// Microseconds since the epoch.
pub(super) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}
