//! Which repositories strangers could read last: a small file beside the store.
//!
//! Holds names alone, at most so many; the one seen longest ago goes. Losing it costs nothing but reads of a Hub
//! that is gone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use crate::error::{IoContext, Result};

const FILE: &str = "hub-public.json";
const NAMES_MAX: usize = 4096;
/// A file that is longer is not ours.
const FILE_MAX_BYTES: u64 = 4 << 20;

pub(super) struct PublicRepositories {
    path: PathBuf,
    /// Seen longest ago first.
    names: Mutex<Vec<String>>,
}

impl PublicRepositories {
    /// Reads the file in `dir`. Blocks.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let names = match read(&path) {
            Ok(names) => names,
            Err(e) => {
                tracing::warn!(file = %path.display(), error = %e, "starting without what was public before");
                Vec::new()
            }
        };
        Self { path, names: Mutex::new(names) }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.lock().iter().any(|known| known == name)
    }

    /// Notes whether `name` is public, and writes the file where that is news. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn set(&self, name: &str, is_public: bool) -> Result<()> {
        // Held while the file is written: two writers would undo each other's work.
        let mut names = self.names.lock();
        if names.iter().any(|known| known == name) == is_public {
            return Ok(());
        }
        if is_public {
            names.push(name.to_owned());
            let excess = names.len().saturating_sub(NAMES_MAX);
            names.drain(..excess);
        } else {
            names.retain(|known| known != name);
        }
        let text = serde_json::to_vec(&*names).map_err(io::Error::from).at(|| FILE.to_owned())?;
        let beside = self.path.with_extension("json.new");
        fs::write(&beside, text).at(|| beside.display().to_string())?;
        fs::rename(&beside, &self.path).at(|| self.path.display().to_string())
    }
}

fn read(path: &Path) -> io::Result<Vec<String>> {
    match fs::metadata(path) {
        Ok(found) if found.len() > FILE_MAX_BYTES => return Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    let mut names: Vec<String> = serde_json::from_slice(&fs::read(path)?)?;
    names.truncate(NAMES_MAX);
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_public_is_known_after_a_restart_until_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let public = PublicRepositories::open(dir.path());
        assert!(!public.has("a"));
        public.set("a", true).unwrap();
        public.set("b", true).unwrap();
        let again = PublicRepositories::open(dir.path());
        assert!(again.has("a") && again.has("b"));
        again.set("a", false).unwrap();
        let again = PublicRepositories::open(dir.path());
        assert!(!again.has("a") && again.has("b"));
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(!PublicRepositories::open(dir.path()).has("b"));
    }

    #[test]
    fn the_one_seen_longest_ago_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let public = PublicRepositories::open(dir.path());
        public.names.lock().extend((0..NAMES_MAX).map(|n| n.to_string()));
        public.set("new", true).unwrap();
        assert!(!public.has("0") && public.has("1") && public.has("new"));
        assert_eq!(public.names.lock().len(), NAMES_MAX);
    }
}
