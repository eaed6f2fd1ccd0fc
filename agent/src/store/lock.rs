//! One process per data directory.
//!
//! Invariant: the lock is the kernel's (`flock`), so a process that dies never leaves it behind;
//! the pid inside the file is only for the message.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, ErrorKind, IoContext, Result};

/// Held while the store is open.
#[derive(Debug)]
pub(super) struct DirLock {
    file: File,
}

impl DirLock {
    /// Takes the lock without waiting.
    ///
    /// # Errors
    /// `Denied` when another process holds it, naming its pid, or the file cannot be made.
    pub(super) fn take(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .at(|| format!("lock file {} cannot be opened", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!(
                        "data directory is in use by process {} (lock file {}); stop that agent or choose another \
                         data directory",
                        if pid.trim().is_empty() { "unknown" } else { pid.trim() },
                        path.display()
                    ),
                ));
            }
            Err(e) => {
                return Err(std::io::Error::from(e))
                    .at(|| format!("lock file {} cannot be locked", path.display()));
            }
        }
        // The pid is a courtesy to whoever meets the lock; without room for it the lock still holds.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { file })
    }
}

impl Drop for DirLock {
    /// Unlocks by word rather than by closing: a child that was forked and has not called exec yet has the
    /// file open as well, and would keep the lock for that moment.
    fn drop(&mut self) {
        if let Err(e) = flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(error = %e, "the lock of the data directory ends only with this process");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_the_first_ones_pid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = DirLock::take(&path).unwrap();
        let err = DirLock::take(&path).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Denied);
        assert!(err.to_string().contains(&std::process::id().to_string()), "{err}");
        drop(held);
        DirLock::take(&path).unwrap();
    }

    #[test]
    fn who_still_has_the_file_open_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = DirLock::take(&path).unwrap();
        // As a forked child does: another descriptor of the same open file.
        let inherited = held.file.try_clone().unwrap();
        drop(held);
        DirLock::take(&path).unwrap();
        drop(inherited);
    }
}
