//! Whether the files of an artifact still are what the store put there.
//!
//! One look at each name, no byte read: a file that is gone, was replaced or was written to by somebody else
//! leaves presence before anyone is told that it is here. What is left of it is re-hashed by whoever wants it,
//! or by a verification. Knows nothing of how the rest comes back.

use std::{
    fs::{self, Metadata},
    io,
    path::PathBuf,
};

use super::{
    artifact::{Artifact, FileState},
    recover::remove_any,
    shelf::Shelf,
    stamp::Stamp,
};
use crate::{
    api::CorruptChunk,
    error::{IoContext, Result},
};

/// What stands where a file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    AsItWas,
    /// The same file, and somebody wrote to it.
    Touched(Stamp),
    /// Another file.
    Replaced,
    /// None.
    Gone,
}

impl Shelf {
    /// Looks at these files of an artifact, and takes out of presence what is not as it was.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn look(&self, artifact: &Artifact, files: &[usize]) -> Result<()> {
        files.iter().try_for_each(|&file| self.look_at(artifact, file, false))
    }

    /// [`look`](Self::look)s at everything that was asked for. What was only written to stays, because
    /// every byte is hashed next.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn look_before_hashing(&self, artifact: &Artifact) -> Result<()> {
        artifact.wanted_files().into_iter().try_for_each(|file| self.look_at(artifact, file, true))
    }

    fn look_at(&self, artifact: &Artifact, file: usize, hashed_next: bool) -> Result<()> {
        if self.seen(artifact, file)? == Seen::AsItWas {
            return Ok(());
        }
        // It may have been on its way from one name to the other.
        let _turn = artifact.file_turn(file);
        let name = artifact.file_name(file);
        match self.seen(artifact, file)? {
            Seen::AsItWas => Ok(()),
            Seen::Gone => self.lose(artifact, file),
            Seen::Touched(stamp) if hashed_next => {
                artifact.state().stamps[file] = Some(stamp);
                Ok(())
            }
            Seen::Touched(stamp) => {
                tracing::warn!(file = %name, "a published file was written to by somebody else; it is hashed anew");
                self.distrust_file(artifact, file);
                self.take_path(artifact, file)?;
                artifact.state().stamps[file] = Some(stamp);
                Ok(())
            }
            Seen::Replaced => {
                tracing::warn!(file = %name, "a published file was replaced by somebody else; what stands there is hashed anew");
                self.distrust_file(artifact, file);
                self.take_path(artifact, file)?;
                artifact.state().stamps[file] = None;
                Ok(())
            }
        }
    }

    fn seen(&self, artifact: &Artifact, file: usize) -> Result<Seen> {
        let (state, stamp) = {
            let state = artifact.state();
            (state.files[file], state.stamps[file])
        };
        let path = match state {
            FileState::Absent | FileState::Lost => return Ok(Seen::AsItWas),
            FileState::Partial { .. } => artifact.partial_path(file),
            FileState::Published => artifact.published_path(file),
        };
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Seen::Gone);
            }
            Err(e) => return Err(e).at(|| format!("{} cannot be looked at", artifact.file_name(file))),
        };
        if !meta.is_file() {
            return Ok(Seen::Gone);
        }
        let found = Stamp::of(&meta);
        Ok(match (state, stamp) {
            // Not ours, and known to be not.
            (FileState::Partial { frozen: true }, None) => Seen::AsItWas,
            (FileState::Published, Some(stamp)) if stamp == found => Seen::AsItWas,
            (FileState::Published, Some(stamp)) if stamp.is_same_file(&found) => Seen::Touched(found),
            (FileState::Published, _) => Seen::Replaced,
            // It is being written to.
            (_, Some(stamp)) if stamp.is_same_file(&found) => Seen::AsItWas,
            (_, Some(_) | None) => Seen::Gone,
        })
    }

    /// Notes that a file is not on the disk any more. Called with the file's turn taken.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn lose(&self, artifact: &Artifact, file: usize) -> Result<()> {
        tracing::warn!(file = %artifact.file_name(file), "a file was removed from the disk by somebody else; the next pull or verification fetches it again");
        self.unlink_model(artifact)?;
        for index in artifact.chunks_of(file) {
            self.drop_chunk(artifact, index);
        }
        let path = artifact.current_path(file);
        {
            let mut state = artifact.state();
            state.unsynced.remove(&file);
            state.files[file] = FileState::Lost;
            state.stamps[file] = None;
        }
        self.forget_handle(artifact, file);
        // A link or directory in its place would be in the way of the next one.
        let in_the_way = path.filter(|path| path.symlink_metadata().is_ok());
        in_the_way
            .map_or(Ok(()), |path| remove_any(&path).at(|| format!("{} cannot be removed", path.display())))
    }

    /// Whether an open file is the one that was published.
    pub(super) fn is_stamped(&self, artifact: &Artifact, file: usize, meta: &Metadata) -> bool {
        artifact.state().stamps[file] == Some(Stamp::of(meta))
    }
}

impl Artifact {
    /// Files that are not as they were said to be: gone, replaced, or with a chunk that is.
    pub(super) fn ailing(&self) -> Vec<usize> {
        let state = self.state();
        let mut ailing: Vec<usize> = (0..state.files.len())
            .filter(|&file| {
                matches!(state.files[file], FileState::Lost | FileState::Partial { frozen: true })
            })
            .collect();
        ailing.extend(state.broken.keys().filter_map(|&index| self.blueprint.place(index)).map(|p| p.file));
        ailing.sort_unstable();
        ailing.dedup();
        ailing
    }

    /// Files that somebody else removed or replaced, and that are not back yet.
    pub(super) fn lost(&self) -> Vec<usize> {
        let state = self.state();
        let is_lost = |file: &usize| match state.files[*file] {
            FileState::Lost => true,
            FileState::Partial { frozen: true } => state.stamps[*file].is_none(),
            FileState::Absent | FileState::Partial { frozen: false } | FileState::Published => false,
        };
        (0..state.files.len()).filter(is_lost).collect()
    }

    /// Whether a file is not ours, so that somebody else may write to it.
    pub(super) fn is_foreign(&self, file: usize) -> bool {
        let state = self.state();
        state.files[file] == (FileState::Partial { frozen: true }) && state.stamps[file].is_none()
    }

    /// The chunks that were here, are not any more, and did not come back.
    pub(super) fn broken(&self) -> Vec<(u32, CorruptChunk)> {
        let broken: Vec<_> = self.state().broken.iter().map(|(index, hash)| (*index, *hash)).collect();
        let told = broken.into_iter().filter_map(|(index, hash)| {
            let place = self.blueprint.place(index)?;
            let path = self.blueprint.files[place.file].path.to_string();
            let hash = hash.map(|hash| hash.to_string()).unwrap_or_default();
            Some((index, CorruptChunk { path, offset: place.offset, bytes: place.bytes, hash }))
        });
        told.collect()
    }

    /// Directory of files that are being filled.
    pub(super) fn partial_dir(&self) -> PathBuf {
        self.dir.join(super::artifact::PARTIAL_DIR)
    }
}
