//! The artifacts of one data directory, and what they share: places, quota, handles, the index.
//!
//! Everything here blocks and is called from the blocking pool. The other modules of the store add
//! one verb each. Lock order: admission, commit turn, chunk turn, file turn, turn to hash, journal, state, places.
//! Invariant: an artifact that can be evicted has left the map before its first name is unlinked.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use coordinatorless_p2p::{ChunkHash, SwarmId};
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore};

use super::{
    ahead,
    artifact::{Artifact, FileState},
    digests::Digests,
    disk,
    index::Index,
    kept::Kept,
    leftovers::Leftover,
    lock::DirLock,
    places::Places,
    space::Limits,
};
use crate::error::{Error, ErrorKind, IoContext, Result};

/// Open files kept for the next chunk; far below any common descriptor limit.
const HANDLES: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Commit when this much was written since the last one, in bytes.
pub(super) const COMMIT_BYTES: u64 = 64 << 20;

/// All artifacts of one data directory.
pub(super) struct Shelf {
    /// The data directory, absolute.
    pub(super) dir: PathBuf,
    pub(super) limits: Limits,
    pub(super) artifacts: RwLock<HashMap<SwarmId, Arc<Artifact>>>,
    pub(super) places: Mutex<Places>,
    pub(super) numbers: RwLock<HashMap<u32, Arc<Artifact>>>,
    /// What all artifacts are charged together.
    pub(super) charged: Mutex<u64>,
    /// What could not be unlinked; still charged.
    pub(super) leftovers: Mutex<Vec<Leftover>>,
    /// Held while room is made, files are created and artifacts removed.
    pub(super) admission: Mutex<()>,
    /// Held while paths below `models/` are made or removed, their directories with them. A leaf: nothing
    /// else is locked under it.
    pub(super) links: Mutex<()>,
    /// `None` after an error of the disk, until it can be opened again, and after closing.
    pub(super) index: Mutex<Option<Index>>,
    /// To be forgotten by the index at the next commit.
    pub(super) forgotten: Mutex<Vec<SwarmId>>,
    pub(super) kept: Kept,
    pub(super) digests: Digests,
    /// Permits to hash files that still come.
    pub(super) hashing: Arc<Semaphore>,
    pub(super) commit_turn: Mutex<()>,
    pub(super) unsynced_bytes: AtomicU64,
    /// Wakes the commit task before its time.
    pub(super) wake: Notify,
    pub(super) closed: AtomicBool,
    pub(super) lock: Mutex<Option<DirLock>>,
    handles: Mutex<LruCache<(u32, usize), Arc<File>>>,
    next_number: AtomicU32,
}

impl Shelf {
    pub(super) fn new(dir: PathBuf, limits: Limits, lock: DirLock, index: Option<Index>, kept: Kept) -> Self {
        Self {
            dir,
            limits,
            artifacts: RwLock::default(),
            places: Mutex::default(),
            numbers: RwLock::default(),
            charged: Mutex::new(0),
            leftovers: Mutex::default(),
            admission: Mutex::default(),
            links: Mutex::default(),
            index: Mutex::new(index),
            forgotten: Mutex::default(),
            kept,
            digests: Digests::default(),
            hashing: ahead::permits(),
            commit_turn: Mutex::default(),
            unsynced_bytes: AtomicU64::new(0),
            wake: Notify::new(),
            closed: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
            handles: Mutex::new(LruCache::new(HANDLES)),
            next_number: AtomicU32::new(0),
        }
    }

    pub(super) fn artifacts_dir(&self) -> PathBuf {
        self.dir.join("artifacts")
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.dir.join("index.redb")
    }

    pub(super) fn next_number(&self) -> u32 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// The artifact of a swarm.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn artifact(&self, swarm: SwarmId) -> Result<Arc<Artifact>> {
        self.artifacts.read().get(&swarm).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("artifact {} is not on this node", swarm.short()))
        })
    }

    pub(super) fn all(&self) -> Vec<Arc<Artifact>> {
        self.artifacts.read().values().cloned().collect()
    }

    /// Puts an artifact on the shelf, its chunks known as places. Its charge is the caller's.
    pub(super) fn put(&self, artifact: Arc<Artifact>) {
        {
            let state = artifact.state();
            let mut places = self.places.lock();
            for index in state.held.iter() {
                if let Some(hash) = &state.hashes[index as usize] {
                    places.insert(hash, artifact.number, index);
                }
            }
        }
        self.numbers.write().insert(artifact.number, artifact.clone());
        self.artifacts.write().insert(artifact.swarm, artifact);
    }

    /// What counts against the quota now, in bytes.
    pub(super) fn used_bytes(&self) -> u64 {
        let index = self.index.lock().as_ref().map_or(0, Index::disk_bytes);
        self.charged.lock().saturating_add(index).saturating_add(self.kept.disk_bytes())
    }

    /// # Errors
    /// `Unavailable` once the store is closed.
    pub(super) fn ensure_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(Error::new(ErrorKind::UNAVAILABLE, "the store is closed"))
        } else {
            Ok(())
        }
    }

    /// The handle that is kept of a file, if one is.
    pub(super) fn kept_handle(&self, artifact: &Artifact, file: usize) -> Option<Arc<File>> {
        self.handles.lock().get(&(artifact.number, file)).cloned()
    }

    /// A handle to read a file of an artifact, wherever it is now.
    ///
    /// # Errors
    /// `NotFound` when nobody asked for that file, or it was removed.
    pub(super) fn readable(&self, artifact: &Artifact, file: usize) -> Result<Arc<File>> {
        let key = (artifact.number, file);
        if let Some(open) = self.handles.lock().get(&key) {
            return Ok(open.clone());
        }
        let state = artifact.state().files[file];
        let opened = match state {
            FileState::Absent | FileState::Lost => Err(std::io::ErrorKind::NotFound.into()),
            // 0600 and not frozen: the same handle serves the writers.
            FileState::Partial { frozen: false } => {
                OpenOptions::new().read(true).write(true).open(artifact.partial_path(file))
            }
            // Between the look and the opening the file may have gained or lost its path.
            FileState::Partial { frozen: true } | FileState::Published => {
                File::open(artifact.published_path(file)).or_else(|_| File::open(artifact.partial_path(file)))
            }
        }
        .or_else(|e| File::open(artifact.published_path(file)).map_err(|_| e));
        let opened = Arc::new(opened.at(|| format!("file {} cannot be opened", artifact.file_name(file)))?);
        // A change of state is followed by forgetting the handle, under the same lock: a handle from
        // before the change is never kept, nor is one of an artifact that was taken off.
        let mut handles = self.handles.lock();
        if artifact.state().files[file] == state && !artifact.removed.load(Ordering::Acquire) {
            handles.put(key, opened.clone());
        }
        Ok(opened)
    }

    /// Closes the kept handle of a file whose place or content is about to change.
    pub(super) fn forget_handle(&self, artifact: &Artifact, file: usize) {
        self.handles.lock().pop(&(artifact.number, file));
    }

    /// Closes every kept handle of an artifact.
    pub(super) fn forget_handles(&self, artifact: &Artifact) {
        let mut handles = self.handles.lock();
        let gone: Vec<_> = handles.iter().map(|(k, _)| *k).filter(|(n, _)| *n == artifact.number).collect();
        for key in gone {
            handles.pop(&key);
        }
    }

    /// Takes a chunk out of presence and places. True if it was held.
    pub(super) fn drop_chunk(&self, artifact: &Artifact, index: u32) -> bool {
        let Some(hash) = artifact.drop_chunk(index) else { return false };
        self.places.lock().remove(&hash, artifact.number, index);
        true
    }

    /// Makes a file's chunks suspect; see [`Artifact::distrust_file`].
    pub(super) fn distrust_file(&self, artifact: &Artifact, file: usize) {
        self.forget_handle(artifact, file);
        let chunks = artifact.chunks_of(file);
        artifact.distrust_file(file);
        let state = artifact.state();
        let mut places = self.places.lock();
        for (index, hash) in state.suspects.range(chunks) {
            places.remove(hash, artifact.number, *index);
        }
    }

    /// Every chunk on this disk that should have this hash.
    pub(super) fn holders_of(&self, hash: &ChunkHash) -> Vec<(Arc<Artifact>, u32)> {
        let found: Vec<(u32, u32)> = self.places.lock().of(hash).collect();
        let numbers = self.numbers.read();
        found
            .into_iter()
            .filter_map(|(number, index)| Some((numbers.get(&number)?.clone(), index)))
            .filter(|(artifact, index)| artifact.held_hash(*index).as_ref() == Some(hash))
            .collect()
    }
}

/// Free space of the file system under `dir`, with words for a failure.
pub(super) fn disk_space(dir: &Path) -> Result<disk::DiskSpace> {
    disk::disk_space(dir).at(|| format!("file system of {} cannot be asked for its space", dir.display()))
}
