//! How a file gets its path, and how it loses it.
//!
//! Whole → checked against the origin's digest → durable → 0444 → renamed. Nothing under `files/` or
//! `models/` ever leads to a file that has not gone this way. A file that lost a chunk goes back to
//! `partial/` frozen: readers may have it mapped, so it is copied before it is written to again.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::SystemTime,
};

use bytes::Bytes;
use coordinatorless_p2p::ChunkHash;

use super::{
    Published,
    artifact::{Artifact, FileState},
    disk,
    fault::{Step, reach},
    journal::{replace_file, sync_dir},
    shelf::Shelf,
    stamp::Stamp,
};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    manifest::{ChunkPlace, Manifest},
};

impl Shelf {
    /// See [`Store::publish_file`](super::Store::publish_file).
    ///
    /// # Errors
    /// As there.
    pub(super) fn publish_file(&self, artifact: &Artifact, file: usize) -> Result<bool> {
        artifact.file(file)?;
        self.ensure_open()?;
        self.look(artifact, &[file])?;
        self.recheck(artifact, file)?;
        if artifact.is_foreign(file) {
            self.thaw(artifact, file)?;
        }
        let _turn = artifact.file_turn(file);
        let drops = {
            let state = artifact.state();
            if state.is_published(file) {
                return Ok(false);
            }
            let lacks = |what: String| {
                Err(Error::new(ErrorKind::UNAVAILABLE, format!("{} {what}", artifact.file_name(file))))
            };
            match state.files[file] {
                FileState::Absent => return lacks("was not admitted".to_owned()),
                FileState::Lost => return lacks("was removed from the disk; pull it again".to_owned()),
                _ if !state.is_whole(file) => {
                    return lacks(format!("is not whole: {} chunks are missing", state.missing(file)));
                }
                FileState::Published | FileState::Partial { .. } => {}
            }
            state.drops(file)
        };
        let at = || format!("{} cannot be opened", artifact.file_name(file));
        let open = match File::options().read(true).write(true).open(artifact.partial_path(file)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.lose(artifact, file)?;
                let text = format!("{} was removed from the disk; pull it again", artifact.file_name(file));
                return Err(Error::with_source(ErrorKind::UNAVAILABLE, text, e));
            }
            opened => opened.at(at)?,
        };
        self.check_digest(artifact, file, &open)?;
        self.make_durable(artifact, file, &open)?;
        artifact.state().stamps[file] = Some(Stamp::of(&open.metadata().at(at)?));
        self.give_path(artifact, file, drops)?;
        artifact.ahead.forget(file);
        Ok(true)
    }

    fn check_digest(&self, artifact: &Artifact, file: usize, open: &File) -> Result<()> {
        if artifact.file(file)?.digest.is_none() {
            return Ok(());
        }
        let read = |place: ChunkPlace| {
            let at = || format!("{} cannot be read at byte {}", artifact.file_name(file), place.offset);
            disk::read_at(open, place.offset, place.bytes).at(at)
        };
        let Some((is_right, hashed_ahead)) = self.has_digest(artifact, file, &read)? else {
            return Err(lost_a_chunk(artifact, file));
        };
        // Either the disk changed a chunk, and only that one is wrong, or the origin sent what it
        // does not vouch for, and no chunk can be trusted. What was hashed while it came may have changed since.
        let suspects = if is_right { hashed_ahead } else { artifact.chunks_of(file) };
        let rotten = find_rot(artifact, suspects, &read);
        if is_right && rotten.is_empty() {
            return Ok(());
        }
        let named = if rotten.is_empty() { artifact.chunks_of(file).collect() } else { rotten };
        let whole_file = named.len() == artifact.chunks_of(file).len();
        // Before the chunks go: whoever reads the file while it comes must not take what comes next for the same.
        artifact.state().refuse(file);
        for index in &named {
            self.drop_chunk(artifact, *index);
        }
        let what = if whole_file { "all its chunks are".to_owned() } else { format!("chunks {named:?} are") };
        let why =
            if is_right { "changed on this disk while it came" } else { "does not have the origin's digest" };
        Err(Error::new(ErrorKind::Corrupt, format!("{} {why}; {what} discarded", artifact.file_name(file))))
    }

    /// Syncs a whole file and the journal that vouches for it.
    ///
    /// # Errors
    /// `Unavailable`; every chunk of the file is in doubt then and re-hashed before a later success.
    fn make_durable(&self, artifact: &Artifact, file: usize, open: &File) -> Result<()> {
        reach(Step::BeforeSync);
        // The handle that was written through may know of an error that a newer one does not.
        let written = artifact.state().unsynced.get(&file).cloned();
        let modified = fs::FileTimes::new().set_modified(SystemTime::now());
        let synced = written
            .map_or(Ok(()), |w| w.sync_data())
            .and_then(|()| open.set_times(modified))
            .and_then(|()| open.set_permissions(Permissions::from_mode(0o444)))
            .and_then(|()| open.sync_all());
        if let Err(e) = synced {
            self.distrust_file(artifact, file);
            return Err(Error::with_source(
                ErrorKind::UNAVAILABLE,
                format!("{} cannot be made durable; it will be re-hashed", artifact.file_name(file)),
                e,
            ));
        }
        artifact.journal.lock().sync()?;
        artifact.state().unsynced.remove(&file);
        reach(Step::AfterSync);
        Ok(())
    }

    /// Gives a file its path, if no chunk of it was dropped since `drops` were counted. Called with the
    /// file's turn taken.
    ///
    /// # Errors
    /// `Unavailable` when one was: the file has no path then.
    fn give_path(&self, artifact: &Artifact, file: usize, drops: u64) -> Result<()> {
        let (from, to) = (artifact.partial_path(file), artifact.published_path(file));
        let at = || format!("{} cannot be given its path", artifact.file_name(file));
        let dirs = artifact.dirs_of(file);
        let mut grown = BTreeSet::new();
        if let Some(innermost) = dirs.first() {
            let mut missing = dirs.iter().take_while(|d| !d.exists());
            grown.extend(missing.by_ref().filter_map(|d| d.parent()).map(PathBuf::from));
            fs::create_dir_all(innermost).at(at)?;
            grown.insert(innermost.clone());
        }
        reach(Step::BeforeRename);
        fs::rename(&from, &to).at(at)?;
        reach(Step::AfterRename);
        // Who drops a chunk from now on sees a published file, and takes its path away after this turn;
        // who did before did not, and it is taken away here.
        let lost_one = {
            let mut state = artifact.state();
            state.files[file] = FileState::Published;
            state.drops(file) != drops
        };
        self.forget_handle(artifact, file);
        if lost_one {
            self.take_path(artifact, file)?;
            return Err(lost_a_chunk(artifact, file));
        }
        for dir in grown.iter().rev() {
            sync_dir(dir)?;
        }
        Ok(())
    }

    /// See [`Store::publish`](super::Store::publish).
    ///
    /// # Errors
    /// As there.
    pub(super) fn publish(&self, artifact: &Artifact, wanted: &[usize]) -> Result<Published> {
        for file in wanted {
            artifact.file(*file)?;
            if !artifact.state().is_published(*file) {
                return Err(Error::new(
                    ErrorKind::UNAVAILABLE,
                    format!("{} is not published", artifact.file_name(*file)),
                ));
            }
        }
        let manifest = self.seal(artifact)?;
        let files = artifact.dir.join(super::artifact::FILES_DIR);
        // An artifact without files is reachable too.
        fs::create_dir_all(&files).at(|| format!("directory {} cannot be made", files.display()))?;
        let path = self.link(artifact)?;
        if let Some(file) = wanted.iter().find(|file| !artifact.state().is_published(**file)) {
            // Dropped while the path was made, by somebody who did not see it yet.
            self.unlink_model(artifact)?;
            let text = format!("{} lost a chunk while it was published", artifact.file_name(*file));
            return Err(Error::new(ErrorKind::UNAVAILABLE, text));
        }
        Ok(Published { path, manifest })
    }

    /// Writes the manifest once every chunk is known.
    fn seal(&self, artifact: &Artifact) -> Result<Option<ChunkHash>> {
        let hashes = {
            let state = artifact.state();
            if state.manifest.is_some() {
                return Ok(state.manifest);
            }
            match state.all_hashes() {
                Some(hashes) => hashes,
                None => return Ok(None),
            }
        };
        let manifest = Manifest::new((*artifact.blueprint).clone(), hashes)?;
        self.keep_manifest(artifact, &manifest).map(Some)
    }

    /// Writes a manifest down, then believes it.
    ///
    /// # Errors
    /// `Full`, and those of the file system.
    pub(super) fn keep_manifest(&self, artifact: &Artifact, manifest: &Manifest) -> Result<ChunkHash> {
        let encoded = manifest.encode();
        let id = ChunkHash::of(&encoded);
        let _turn = artifact.sealing.lock();
        replace_file(&artifact.dir.join("manifest.new"), &artifact.dir.join("manifest"), &encoded)?;
        let mut state = artifact.state();
        state.hashes.clear();
        state.hashes.extend(manifest.hashes.iter().copied().map(Some));
        state.manifest = Some(id);
        Ok(id)
    }

    /// See [`Store::learn_manifest`](super::Store::learn_manifest).
    ///
    /// # Errors
    /// As there.
    pub(super) fn learn_manifest(&self, artifact: &Artifact, manifest: &Manifest) -> Result<()> {
        let fits = manifest.blueprint == *artifact.blueprint
            && manifest.hashes.len() == artifact.chunk_count() as usize;
        if !fits {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("manifest {} is not one of {}", manifest.id().short(), artifact.name()),
            ));
        }
        let wrong: Vec<u32> = {
            let state = artifact.state();
            let is_known = state.manifest.is_some();
            if is_known && state.hashes.iter().flatten().eq(&manifest.hashes) {
                return Ok(());
            }
            let differs = |n: &u32| state.hashes[*n as usize] != Some(manifest.hashes[*n as usize]);
            state.held.iter().filter(differs).collect()
        };
        for index in wrong {
            tracing::warn!(chunk = index, artifact = %artifact.name(), "a chunk here is not the manifest's; it will be fetched again");
            self.drop_chunk(artifact, index);
        }
        self.demote_broken(artifact)?;
        {
            // A suspect that would turn out right would still not be the manifest's.
            let mut state = artifact.state();
            state.suspects.retain(|n, hash| manifest.hashes.get(*n as usize) == Some(hash));
        }
        self.keep_manifest(artifact, manifest).map(|_| ())
    }

    /// Takes the path from every published file that is no longer whole.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn demote_broken(&self, artifact: &Artifact) -> Result<()> {
        let broken: Vec<usize> = {
            let state = artifact.state();
            let is_broken = |n: &usize| state.files[*n] == FileState::Published && !state.is_published(*n);
            (0..state.files.len()).filter(is_broken).collect()
        };
        broken.into_iter().try_for_each(|file| self.demote(artifact, file))
    }

    /// Takes the path from a published file that is no longer whole.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn demote(&self, artifact: &Artifact, file: usize) -> Result<()> {
        let _turn = artifact.file_turn(file);
        {
            let state = artifact.state();
            if state.files[file] != FileState::Published || state.is_whole(file) {
                return Ok(());
            }
        }
        self.take_path(artifact, file)
    }

    /// Takes its path from a published file. Called with the file's turn taken.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn take_path(&self, artifact: &Artifact, file: usize) -> Result<()> {
        tracing::warn!(file = %artifact.file_name(file), leases = artifact.leases.load(std::sync::atomic::Ordering::Relaxed), "a published file lost a chunk and its path");
        self.unlink_model(artifact)?;
        let (from, to) = (artifact.published_path(file), artifact.partial_path(file));
        let at = || format!("{} cannot be taken back", artifact.file_name(file));
        fs::create_dir_all(artifact.partial_dir()).at(at)?;
        match fs::rename(&from, &to) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return self.lose(artifact, file),
            renamed => renamed.at(at)?,
        }
        artifact.set_file(file, FileState::Partial { frozen: true });
        self.forget_handle(artifact, file);
        Ok(())
    }

    /// Makes a frozen file writable: a new file with the chunks that are still good. Whoever has the
    /// old one mapped keeps it.
    ///
    /// # Errors
    /// `Full`; those of the file system.
    pub(super) fn thaw(&self, artifact: &Artifact, file: usize) -> Result<()> {
        let _turn = artifact.file_turn(file);
        if artifact.state().files[file] != (FileState::Partial { frozen: true }) {
            return Ok(());
        }
        let size = artifact.file(file)?.size;
        let path = artifact.partial_path(file);
        let dir = artifact.partial_dir();
        fs::create_dir_all(&dir).at(|| format!("directory {} cannot be made", dir.display()))?;
        let fresh = path.with_extension("new");
        let _ = fs::remove_file(&fresh);
        if self.copy_good(artifact, file, &fresh).is_err() {
            // No room for two: give up the chunks rather than the quota.
            let _ = fs::remove_file(&fresh);
            for index in artifact.chunks_of(file) {
                self.drop_chunk(artifact, index);
            }
            let at = || format!("{} cannot be begun anew", artifact.file_name(file));
            artifact.journal.lock().sync()?;
            fs::remove_file(&path).or_else(ignore_missing).at(at)?;
            disk::create_preallocated(&fresh, size).at(at)?;
        }
        fs::rename(&fresh, &path).at(|| format!("{} cannot be replaced", artifact.file_name(file)))?;
        let stamp = fs::symlink_metadata(&path).map(|meta| Stamp::of(&meta)).ok();
        {
            let mut state = artifact.state();
            state.files[file] = FileState::Partial { frozen: false };
            state.stamps[file] = stamp;
        }
        self.forget_handle(artifact, file);
        Ok(())
    }

    /// Copies what is here of a file, under a charge of its own while both exist.
    fn copy_good(&self, artifact: &Artifact, file: usize, fresh: &std::path::Path) -> Result<()> {
        let size = artifact.file(file)?.size;
        let at = || format!("{} cannot be copied", artifact.file_name(file));
        let _room = self.borrow_room(super::space::file_charge(size))?;
        let from = File::open(artifact.partial_path(file)).at(at)?;
        let to = disk::create_preallocated(fresh, size).at(at)?;
        for index in artifact.chunks_of(file) {
            let here = {
                let state = artifact.state();
                state.held.contains(index) || state.suspects.contains_key(&index)
            };
            if !here {
                continue;
            }
            let place = artifact.place(index)?;
            let len = u64::from(place.bytes);
            if !disk::clone_range(&from, place.offset, &to, place.offset, len).at(at)? {
                let bytes = disk::read_at(&from, place.offset, place.bytes).at(at)?;
                disk::write_at(&to, &bytes, place.offset).at(at)?;
            }
        }
        to.sync_all().at(at)
    }
}

fn ignore_missing(e: std::io::Error) -> std::io::Result<()> {
    if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

/// Of these chunks, those that are held and do not have their hash, or cannot be read.
fn find_rot(artifact: &Artifact, chunks: Range<u32>, read: &dyn Fn(ChunkPlace) -> Result<Bytes>) -> Vec<u32> {
    let is_rotten = |index: &u32| {
        let (Ok(place), Some(hash)) = (artifact.place(*index), artifact.held_hash(*index)) else {
            return false;
        };
        !matches!(read(place).map(|bytes| ChunkHash::of(&bytes)), Ok(found) if found == hash)
    };
    chunks.filter(is_rotten).collect()
}

fn lost_a_chunk(artifact: &Artifact, file: usize) -> Error {
    Error::new(
        ErrorKind::UNAVAILABLE,
        format!("{} lost a chunk while it was checked; pull it again", artifact.file_name(file)),
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coordinatorless_p2p::VerifiedChunk;

    use super::*;
    use crate::{
        manifest::{Blueprint, BlueprintFile},
        snapshot::FileVersion,
        store::StoreConfig,
    };

    const CHUNK: &[u8] = b"a chunk";

    fn shelf_with_a_whole_file(dir: &std::path::Path) -> (Shelf, std::sync::Arc<Artifact>) {
        let shelf = Shelf::open(dir.to_owned(), &StoreConfig::default()).unwrap();
        let file = BlueprintFile {
            path: "model".parse().unwrap(),
            size: 2 * CHUNK.len() as u64,
            version: FileVersion::default(),
            digest: None,
            chunk_bytes: vec![CHUNK.len() as u32; 2],
        };
        let blueprint = Blueprint::new("file:///models/a".to_owned(), None, vec![file]).unwrap();
        let lease = shelf.admit(std::sync::Arc::new(blueprint), &[0]).unwrap();
        for index in 0..2 {
            let chunk = VerifiedChunk::hashed(Bytes::from_static(CHUNK));
            shelf.write_chunk(&lease.artifact, index, &chunk).unwrap();
        }
        let artifact = lease.artifact.clone();
        (shelf, artifact)
    }

    #[test]
    fn a_file_that_loses_a_chunk_between_its_check_and_its_path_has_no_path() {
        let dir = tempfile::tempdir().unwrap();
        let (shelf, artifact) = shelf_with_a_whole_file(dir.path());
        let drops = artifact.state().drops(0);
        // As `discard` does it: the file is not published yet, so nobody takes a path away.
        assert!(shelf.drop_chunk(&artifact, 1));
        let refused = shelf.give_path(&artifact, 0, drops).unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Unavailable { .. }), "{refused}");
        assert!(!artifact.published_path(0).exists());

        let chunk = VerifiedChunk::hashed(Bytes::from_static(CHUNK));
        shelf.write_chunk(&artifact, 1, &chunk).unwrap();
        assert!(shelf.publish_file(&artifact, 0).unwrap());
        assert!(artifact.published_path(0).exists());
    }

    #[test]
    fn a_chunk_that_was_dropped_and_written_anew_is_checked_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (shelf, artifact) = shelf_with_a_whole_file(dir.path());
        let drops = artifact.state().drops(0);
        assert!(shelf.drop_chunk(&artifact, 1));
        let other = VerifiedChunk::hashed(Bytes::from_static(b"another"));
        shelf.write_chunk(&artifact, 1, &other).unwrap();
        assert!(shelf.give_path(&artifact, 0, drops).is_err());
        assert!(!artifact.published_path(0).exists());
    }
}
