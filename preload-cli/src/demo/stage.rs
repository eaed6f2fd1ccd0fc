//! Where the demo plays: a directory with room enough, gone afterwards unless it is to stay.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use emberline_agent::error::{ErrorKind, IoContext};
use tempfile::TempDir;

use crate::{
    command::secret,
    failure::{Failure, Result},
    reference, units,
};

/// The demo's directory. Files are removed when it is dropped, unless they are to be kept.
pub(super) struct Stage {
    dir: PathBuf,
    /// Removes everything below, when dropped.
    temporary: Option<TempDir>,
    /// Made by us, where the user named it: removed with its content, but only then.
    named: Option<PathBuf>,
    keep: bool,
}

impl Stage {
    /// Makes the directory, and in it the secret that the agents share.
    ///
    /// # Errors
    /// `Invalid` when the directory named has something in it; as making directories.
    pub(super) fn set(dir: Option<&Path>, keep: bool) -> Result<Self> {
        let stage = match dir {
            None => Self::temporary(keep)?,
            Some(dir) => Self::named(&reference::absolute(dir)?, keep)?,
        };
        secret::create(&stage.secret())?;
        // Hides the machine's own agent.toml from the demo's agents.
        fs::write(stage.config(), "").at(|| format!("write {}", stage.config().display()))?;
        Ok(stage)
    }

    fn temporary(keep: bool) -> Result<Self> {
        let made = tempfile::Builder::new().prefix("emberline-demo-").tempdir();
        let mut temporary =
            made.at(|| format!("temporary directory in {}", std::env::temp_dir().display()))?;
        temporary.disable_cleanup(keep);
        Ok(Self { dir: temporary.path().to_owned(), temporary: Some(temporary), named: None, keep })
    }

    fn named(dir: &Path, keep: bool) -> Result<Self> {
        fs::create_dir_all(dir).at(|| format!("make directory {}", dir.display()))?;
        let mut entries = fs::read_dir(dir).at(|| format!("read directory {}", dir.display()))?;
        if entries.next().is_some() {
            return Err(Failure::new(ErrorKind::Invalid, format!("{} is not empty", dir.display()))
                .advice("name a directory that is empty or not there yet; the demo clears it in the end"));
        }
        Ok(Self { dir: dir.to_owned(), temporary: None, named: Some(dir.to_owned()), keep })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn secret(&self) -> PathBuf {
        self.dir.join("cluster.secret")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    /// Where the files stay, if they do.
    pub(super) fn kept(&self) -> Option<PathBuf> {
        self.keep.then(|| self.dir.clone())
    }

    /// Checks that `copies` of `bytes` fit, before any of them is made.
    ///
    /// # Errors
    /// `Full` with both figures.
    pub(super) fn needs(&self, bytes: u64, copies: u64) -> Result<()> {
        // An index, logs and a file system that does not like to be filled to the brim.
        let needed = bytes.saturating_mul(copies).saturating_add(bytes / 20).saturating_add(64 << 20);
        let free = rustix::fs::statvfs(&self.dir)
            .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))
            .map_err(io::Error::from)
            .at(|| format!("free space of {}", self.dir.display()))?;
        if free >= needed {
            return Ok(());
        }
        let (needed, free) = (units::bytes(needed), units::bytes(free));
        let message = format!("the demo needs {needed} in {}, where {free} are free", self.dir.display());
        Err(Failure::new(ErrorKind::Full, message)
            .advice("make it smaller with --size or --nodes, or name a roomier place with --dir"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let (false, Some(dir), None) = (self.keep, &self.named, &self.temporary) else { return };
        if let Err(e) = fs::remove_dir_all(dir) {
            eprintln!("note: {} could not be removed: {e}", dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_something_in_it_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "x").unwrap();
        let refused = Stage::set(Some(dir.path()), false).err().unwrap();
        assert_eq!(refused.exit, 2);
        assert!(dir.path().join("precious").exists());
    }

    #[test]
    fn files_go_with_the_demo_unless_they_are_to_stay() {
        let parent = tempfile::tempdir().unwrap();
        for keep in [false, true] {
            let dir = parent.path().join(format!("keep-{keep}"));
            drop(Stage::set(Some(&dir), keep).unwrap());
            assert_eq!(dir.exists(), keep);
        }
        let temporary = Stage::set(None, false).unwrap().dir().to_owned();
        assert!(!temporary.exists());
    }

    #[test]
    fn what_does_not_fit_is_said_before_the_first_byte() {
        let parent = tempfile::tempdir().unwrap();
        let stage = Stage::set(Some(&parent.path().join("stage")), false).unwrap();
        stage.needs(1 << 20, 6).unwrap();
        let full = stage.needs(1 << 60, 6).unwrap_err();
        assert_eq!(full.exit, 8);
        assert!(full.problem.message.contains("EiB"), "{full:?}");
    }
}
