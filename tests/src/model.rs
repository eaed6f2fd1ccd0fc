//! A model in a directory, with what is needed to serve it as an HTTP origin and to check copies of it.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use preload_cli::specimen::Specimen;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// The listing that makes a plain HTTP directory an origin.
pub const LISTING: &str = "emberline-files.json";

/// Shards of a generated model: several, as real ones have.
const SHARDS: usize = 4;

/// A model that was written to a directory together with its [`LISTING`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Where it is.
    pub dir: PathBuf,
    /// Its files, without the listing.
    pub files: Vec<ModelFile>,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelFile {
    /// Path within the model.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Lower-case hexadecimal digits.
    pub sha256: String,
}

#[derive(Serialize)]
struct Listing<'a> {
    files: &'a [ModelFile],
}

impl Model {
    /// Writes a model of about `bytes`, the same for the same `seed`. Blocks.
    ///
    /// # Errors
    /// `Invalid` for a size that is no model's; `Full` and the like from the directory.
    pub fn generate(dir: &Path, bytes: u64, seed: u64) -> Result<Self> {
        let written = Specimen { total_bytes: bytes, shards: SHARDS, seed }.write(dir)?;
        let files = written
            .files
            .iter()
            .map(|file| {
                let sha256 = sha256(&dir.join(&file.path))?;
                Ok(ModelFile { path: file.path.clone(), size: file.bytes, sha256 })
            })
            .collect::<Result<Vec<_>>>()?;
        let model = Self { dir: dir.to_owned(), files };
        model.write_listing()?;
        Ok(model)
    }

    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Checks that `copy` holds every file of the model, byte for byte.
    ///
    /// # Errors
    /// `Corrupt` naming the first file that differs; `NotFound` for one that is missing. Blocks.
    pub fn check_copy(&self, copy: &Path) -> Result<()> {
        for file in &self.files {
            let path = copy.join(&file.path);
            let found = sha256(&path)?;
            if found != file.sha256 {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{}: sha256 {found}, not {}", path.display(), file.sha256),
                ));
            }
        }
        Ok(())
    }

    fn write_listing(&self) -> Result<()> {
        let path = self.dir.join(LISTING);
        let listing = serde_json::to_vec_pretty(&Listing { files: &self.files })
            .map_err(|e| Error::with_source(ErrorKind::Invalid, LISTING, e))?;
        std::fs::write(&path, listing).at(|| path.display().to_string())
    }
}

/// The SHA-256 of a file, in hexadecimal digits. Blocks.
///
/// # Errors
/// As reading the file.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).at(|| path.display().to_string())?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).at(|| path.display().to_string())? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hasher.update(&piece[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flipped_bit_of_a_copy_is_found() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let model = Model::generate(dir.path(), 1 << 20, 1).expect("a model");
        model.check_copy(dir.path()).expect("the model is a copy of itself");
        let victim = dir.path().join(&model.files[1].path);
        let mut bytes = std::fs::read(&victim).expect("readable");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&victim, bytes).expect("writable");
        assert_eq!(model.check_copy(dir.path()).expect_err("a difference").kind(), ErrorKind::Corrupt);
    }
}
