//! The proof: every file on every node hashed again, by nothing that had a part in bringing it.
//!
//! Reads the published paths as any user would, with BLAKE3 and SHA-256 from their crates. A file
//! missing, added or changed in one byte fails it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use emberline_agent::error::IoContext;
use futures::future::try_join_all;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Pulled, blocking};
use crate::failure::{Failure, Result};

/// What is read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// What notes of Emberline start with that stand beside a model without being part of it.
const CONTROL_PREFIX: &str = ".emberline";

/// Every file of a directory and what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Digests {
    files: BTreeMap<String, FileDigest>,
}

/// What one file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileDigest {
    pub(super) bytes: u64,
    pub(super) sha256: String,
    blake3: blake3::Hash,
}

/// What the content was compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Against {
    /// The model as it was made.
    Model,
    /// Each other: the origin is not ours to read once more.
    EachOther,
}

/// What the proof says about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// The files that are not what they must be.
    pub(super) wrong: Vec<String>,
}

/// What every node must hold.
pub(super) struct Proof {
    expected: Arc<Digests>,
    against: Against,
}

impl Digests {
    /// Hashes every file below `dir`. Blocks.
    ///
    /// # Errors
    /// As reading it.
    pub(super) fn of_tree(dir: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            let at = || format!("read directory {}", folder.display());
            for entry in fs::read_dir(&folder).at(at)? {
                let path = entry.at(at)?.path();
                if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(CONTROL_PREFIX)) {
                    continue;
                }
                // Links are followed: what counts is what a reader of the path gets.
                if fs::metadata(&path).at(|| path.display().to_string())?.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
                    files.insert(name, FileDigest::of(&path)?);
                }
            }
        }
        Ok(Self { files })
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&String, &FileDigest)> {
        self.files.iter()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Paths that are in one and not in the other, or not equal.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mine = self.files.iter().filter(|(path, file)| other.files.get(*path) != Some(file));
        let theirs = other.files.iter().filter(|(path, _)| !self.files.contains_key(*path));
        mine.chain(theirs).map(|(path, _)| path.clone()).collect()
    }
}

impl FileDigest {
    fn of(path: &Path) -> Result<Self> {
        let at = || format!("read {}", path.display());
        let mut file = File::open(path).at(at)?;
        let (mut blake3, mut sha256) = (blake3::Hasher::new(), Sha256::new());
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut bytes = 0;
        loop {
            let count = file.read(&mut buffer).at(at)?;
            if count == 0 {
                break;
            }
            blake3.update(&buffer[..count]);
            sha256.update(&buffer[..count]);
            bytes += count as u64;
        }
        let sha256 = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { bytes, sha256, blake3: blake3.finalize() })
    }
}

impl Proof {
    /// Against the model as it was made or, without one, against what the first node has.
    ///
    /// # Errors
    /// As reading that node's files.
    pub(super) async fn new(expected: &Option<Digests>, pulled: &[Pulled]) -> Result<Self> {
        if let Some(expected) = expected {
            return Ok(Self { expected: Arc::new(expected.clone()), against: Against::Model });
        }
        let first = pulled.first().ok_or_else(|| Failure::internal("nobody pulled"))?;
        let path = published(first)?;
        let expected = blocking(move || Digests::of_tree(&path)).await?;
        Ok(Self { expected: Arc::new(expected), against: Against::EachOther })
    }

    pub(super) fn against(&self) -> Against {
        self.against
    }

    /// Whether there was anything to compare with.
    pub(super) fn is_complete(&self) -> bool {
        self.expected.bytes() > 0
    }

    /// Hashes what each node has published.
    ///
    /// # Errors
    /// As reading it.
    pub(super) async fn check(&self, pulled: &[Pulled]) -> Result<Vec<Verdict>> {
        try_join_all(pulled.iter().map(|pulled| async move {
            let (path, expected) = (published(pulled)?, self.expected.clone());
            blocking(move || Ok(verdict(&expected, &Digests::of_tree(&path)?))).await
        }))
        .await
    }
}

fn verdict(expected: &Digests, found: &Digests) -> Verdict {
    Verdict { files: found.files.len() as u64, bytes: found.bytes(), wrong: expected.differences(found) }
}

fn published(pulled: &Pulled) -> Result<PathBuf> {
    pulled.status.path.clone().ok_or_else(|| Failure::internal("a complete pull has no path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn one_changed_missing_or_added_file_fails_the_proof() {
        let good = Digests::of_tree(tree(&[("a", "x"), ("sub/b", "y")]).path()).unwrap();
        let check =
            |files: &[(&str, &str)]| verdict(&good, &Digests::of_tree(tree(files).path()).unwrap()).wrong;
        assert!(check(&[("a", "x"), ("sub/b", "y")]).is_empty());
        assert_eq!(check(&[("a", "x"), ("sub/b", "z")]), ["sub/b"]);
        assert_eq!(check(&[("a", "x")]), ["sub/b"]);
        assert_eq!(check(&[("a", "x"), ("sub/b", "y"), ("c", "")]), ["c"]);
        assert_eq!(check(&[]).len(), 2);
    }

    #[test]
    fn digests_are_the_published_ones() {
        let digests = Digests::of_tree(tree(&[("a", "abc")]).path()).unwrap();
        let (_, file) = digests.files().next().unwrap();
        // FIPS 180-4's own example.
        assert_eq!(file.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(file.blake3, blake3::hash(b"abc"));
    }
}
