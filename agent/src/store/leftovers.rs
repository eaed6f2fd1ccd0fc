//! What should have been unlinked and could not be: kept in mind, charged, and tried again.
//!
//! Bytes that are still on the disk count against the quota; they stop to count when they are gone, not
//! when they should have been.

use std::{fs, io, path::PathBuf};

/// The files of an artifact that is off the shelf.
#[derive(Debug)]
pub(super) struct Leftover {
    /// Where they were.
    pub(super) dir: PathBuf,
    /// Where they are moved first, so that nobody takes half an artifact for one.
    gone: PathBuf,
    moved: bool,
    /// What they count against the quota.
    pub(super) charge_bytes: u64,
}

impl Leftover {
    pub(super) fn new(dir: PathBuf, gone: PathBuf, charge_bytes: u64) -> Self {
        Self { dir, gone, moved: false, charge_bytes }
    }

    /// Removes what is there. Goes on where it failed when it is called again.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if !self.moved {
            fs::rename(&self.dir, &self.gone).or_else(ignore_missing)?;
            self.moved = true;
        }
        fs::remove_dir_all(&self.gone).or_else(ignore_missing)
    }
}

fn ignore_missing(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}
