//! What should have been unlinked and could not be: kept in mind, charged, and tried again.
//!
//! Bytes that are still on the disk count against the quota; they stop to count when they are gone, not
//! when they should have been.

use std::{fs, io, path::PathBuf};

use super::shelf::Shelf;

/// The files of an artifact that is off the shelf.
#[derive(Debug)]
pub(super) struct Leftover {
    /// Where they were.
    dir: PathBuf,
    /// Where they are moved first, so that nobody takes half an artifact for one.
    gone: PathBuf,
    moved: bool,
    charge_bytes: u64,
}

impl Leftover {
    pub(super) fn new(dir: PathBuf, gone: PathBuf, charge_bytes: u64) -> Self {
        Self { dir, gone, moved: false, charge_bytes }
    }

    /// Removes what is there. Goes on where it failed when it is called again.
    fn clear(&mut self) -> io::Result<()> {
        if !self.moved {
            fs::rename(&self.dir, &self.gone).or_else(ignore_missing)?;
            self.moved = true;
        }
        fs::remove_dir_all(&self.gone).or_else(ignore_missing)
    }
}

impl Shelf {
    /// Removes files and gives their room back, now or at a later [`sweep`](Self::sweep_leftovers). Called
    /// with the admission lock held.
    ///
    /// # Errors
    /// Those of the file system, this time.
    pub(super) fn clear(&self, mut leftover: Leftover) -> io::Result<()> {
        let cleared = leftover.clear();
        if cleared.is_ok() {
            let mut charged = self.charged.lock();
            *charged = charged.saturating_sub(leftover.charge_bytes);
        } else {
            self.leftovers.lock().push(leftover);
        }
        cleared
    }

    /// Tries again to remove what could not be removed. Called with the admission lock held, and before a
    /// directory that was in the way is made anew.
    pub(super) fn sweep_leftovers(&self) {
        let leftovers = std::mem::take(&mut *self.leftovers.lock());
        for leftover in leftovers {
            let dir = leftover.dir.clone();
            if let Err(e) = self.clear(leftover) {
                tracing::warn!(dir = %dir.display(), error = %e, "an artifact still cannot be removed; its bytes count against the quota");
            }
        }
    }
}

fn ignore_missing(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}
