//! The path people use: a link below `models/` to an artifact's whole files.
//!
//! Relative, so the data directory can be moved; replaced in one step, so it always leads somewhere.
//! Made only by publishing, and removed before anything behind it is.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::{
    artifact::{Artifact, FILES_DIR},
    fault::{Step, reach},
    journal::sync_dir,
    shelf::Shelf,
};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    manifest::Blueprint,
    reference::Reference,
};

impl Shelf {
    /// Where the path people use is for this artifact, whether it is there or not.
    ///
    /// # Errors
    /// `Invalid` for a reference that does not parse.
    pub(super) fn model_path(&self, blueprint: &Blueprint) -> Result<PathBuf> {
        let reference: Reference = blueprint.reference.parse()?;
        let relative = reference.model_dir(blueprint.revision.as_deref());
        let is_plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
        if !is_plain || relative.as_os_str().is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("reference {reference} has no place of its own below models/"),
            ));
        }
        Ok(self.dir.join("models").join(relative))
    }

    fn target(&self, artifact: &Artifact, link: &Path) -> PathBuf {
        let depth = link.strip_prefix(&self.dir).map_or(0, |below| below.components().count() - 1);
        let up: PathBuf = std::iter::repeat_n("..", depth).collect();
        up.join("artifacts").join(artifact.swarm.to_string()).join(FILES_DIR)
    }

    /// Points the path people use to this artifact.
    ///
    /// # Errors
    /// `Invalid` when something else is in the way; `Full`.
    pub(super) fn link(&self, artifact: &Artifact) -> Result<PathBuf> {
        let path = self.model_path(&artifact.blueprint)?;
        let target = self.target(artifact, &path);
        if fs::read_link(&path).is_ok_and(|there| there == target) {
            return Ok(path);
        }
        let at = || format!("model path {} cannot be made", path.display());
        // An eviction removes directories that are empty: not those just made for this path.
        let _links = self.links.lock();
        let dir = path.parent().unwrap_or(&self.dir);
        self.make_real_dirs(dir)?;
        reach(Step::BeforeLink);
        let fresh = dir.join(format!(".{}.new", artifact.swarm));
        let _ = fs::remove_file(&fresh);
        std::os::unix::fs::symlink(&target, &fresh).at(at)?;
        if let Err(e) = fs::rename(&fresh, &path) {
            let _ = fs::remove_file(&fresh);
            return Err(e).at(at);
        }
        reach(Step::AfterLink);
        sync_dir(dir)?;
        Ok(path)
    }

    /// Makes directories below the data directory, never through a link: that would lead into an
    /// artifact.
    fn make_real_dirs(&self, dir: &Path) -> Result<()> {
        let below = dir.strip_prefix(&self.dir).unwrap_or(Path::new(""));
        let mut at_dir = self.dir.clone();
        for part in below.components() {
            at_dir.push(part);
            let at = || format!("model directory {} cannot be made", at_dir.display());
            match fs::symlink_metadata(&at_dir) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!("model directory {} is another artifact's path", at_dir.display()),
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir(&at_dir).at(at)?;
                    sync_dir(at_dir.parent().unwrap_or(&self.dir))?;
                }
                Err(e) => return Err(e).at(at),
            }
        }
        Ok(())
    }

    /// Removes the path people use if it leads to this artifact, and directories that are empty then.
    ///
    /// # Errors
    /// Those of the file system, but not that it was gone.
    pub(super) fn unlink_model(&self, artifact: &Artifact) -> Result<()> {
        let Ok(path) = self.model_path(&artifact.blueprint) else { return Ok(()) };
        if !fs::read_link(&path).is_ok_and(|there| there == self.target(artifact, &path)) {
            return Ok(());
        }
        let _links = self.links.lock();
        fs::remove_file(&path).at(|| format!("model path {} cannot be removed", path.display()))?;
        for dir in path.ancestors().skip(1).take_while(|d| *d != self.dir.join("models")) {
            // Not empty: somebody else's path is in it.
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The path people use, if it leads to this artifact now.
    pub(super) fn linked(&self, artifact: &Artifact) -> Option<PathBuf> {
        let path = self.model_path(&artifact.blueprint).ok()?;
        let there = fs::read_link(&path).ok()?;
        (there == self.target(artifact, &path)).then_some(path)
    }

    /// Removes links that lead nowhere, as a crash between two steps may leave them.
    pub(super) fn sweep_links(&self) {
        let mut dirs = vec![self.dir.join("models")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => dirs.push(path),
                    Ok(kind) if kind.is_symlink() => {
                        let is_temporary = entry.file_name().as_encoded_bytes().starts_with(b".");
                        if is_temporary || !path.exists() {
                            let _ = fs::remove_file(path);
                        }
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
}
