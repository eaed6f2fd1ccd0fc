//! How far the files of an artifact are hashed by the digests that their origin promised.
//!
//! Knows what was hashed of a file, not what is in it. Invariant: what was hashed counts only while no chunk of the
//! file was dropped since.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::turns::{Turn, Turns};
use crate::manifest::DigestCheck;

/// Files that are hashed at a time at most, all artifacts together; half of the cores where that is less.
const FILES_MAX: usize = 8;

/// So many permits to hash a file.
pub(super) fn permits() -> Arc<Semaphore> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Arc::new(Semaphore::new((cores / 2).clamp(1, FILES_MAX)))
}

/// How far the digests of an artifact's files are.
#[derive(Debug)]
pub(super) struct Ahead {
    turns: Turns<usize>,
    queued: Mutex<HashSet<usize>>,
    begun: Mutex<HashMap<usize, Begun>>,
}

/// A file that is hashed up to some chunk.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub(super) check: DigestCheck,
    /// The first chunk that is not in it.
    pub(super) next: u32,
    /// How often a chunk of the file had been dropped when it was begun.
    pub(super) drops: u64,
}

impl Ahead {
    /// Nothing is hashed.
    pub(super) fn new() -> Self {
        Self { turns: Turns::new(), queued: Mutex::default(), begun: Mutex::default() }
    }

    /// Waits until no other thread hashes this file.
    pub(super) fn turn(&self, file: usize) -> Turn<'_, usize> {
        self.turns.wait(file)
    }

    /// Notes that somebody is about to hash the file; false if somebody was.
    pub(super) fn enqueue(&self, file: usize) -> bool {
        self.queued.lock().insert(file)
    }

    /// Nobody is about to hash it any more.
    pub(super) fn dequeue(&self, file: usize) {
        self.queued.lock().remove(&file);
    }

    /// How far a file is of which so many chunks have been dropped.
    pub(super) fn begun(&self, file: usize, drops: u64) -> Option<Begun> {
        self.begun.lock().get(&file).filter(|begun| begun.drops == drops).cloned()
    }

    /// The first chunk that is not hashed of such a file, if any was.
    pub(super) fn next(&self, file: usize, drops: u64) -> Option<u32> {
        self.begun.lock().get(&file).filter(|begun| begun.drops == drops).map(|begun| begun.next)
    }

    /// Notes how far a file is.
    pub(super) fn note(&self, file: usize, begun: Begun) {
        self.begun.lock().insert(file, begun);
    }

    /// Nothing of the file needs to be hashed any more.
    pub(super) fn forget(&self, file: usize) {
        self.begun.lock().remove(&file);
    }

    /// Whether nobody hashes anything or is about to.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.queued.lock().is_empty()
    }
}
