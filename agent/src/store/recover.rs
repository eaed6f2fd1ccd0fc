//! What is on the disk, found again when the store opens.
//!
//! The directories are the truth about files, the index about chunks it committed, the journal about
//! what came after. Trusted without reading a byte: committed chunks, and files that have a path,
//! because both were synced before anyone said so. Everything else the journal names is re-hashed in the
//! background. With the index gone only the first part is lost.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use coordinatorless_p2p::{ChunkHash, SwarmId};

use super::{
    admit::{birth, is_gone},
    artifact::{Artifact, FileState},
    index::{Entry, Index},
    journal::{Journal, Record},
    shelf::Shelf,
    space::overhead_charge,
    stamp::Stamp,
};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    manifest::{Blueprint, FORMAT_VERSION, Manifest},
};

/// What the journal last said of a chunk.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    written: Option<ChunkHash>,
    /// Taken back at a position that the last commit does not cover.
    dropped_since_commit: bool,
    /// Taken back, and not written again.
    dropped_last: bool,
}

impl Shelf {
    /// Puts every artifact of the data directory on the shelf.
    ///
    /// # Errors
    /// Those of the file system. An artifact that cannot be read is removed, not an error.
    pub(super) fn recover(&self) -> Result<()> {
        let dir = self.artifacts_dir();
        let at = || format!("artifact directory {} cannot be read", dir.display());
        let mut entries = HashMap::new();
        if let Some(index) = self.index.lock().as_ref() {
            entries.extend(index.entries()?);
        }
        for found in fs::read_dir(&dir).at(at)? {
            let found = found.at(at)?;
            let name = found.file_name();
            let swarm = name.to_str().filter(|n| !is_gone(n)).and_then(|n| n.parse::<SwarmId>().ok());
            let loaded = match swarm {
                Some(swarm) => self.load(&found.path(), swarm, entries.remove(&swarm))?,
                None => None,
            };
            match loaded {
                Some(artifact) => {
                    *self.charged.lock() += artifact.charge_bytes();
                    let artifact = Arc::new(artifact);
                    self.put(artifact.clone());
                    self.demote_broken(&artifact)?;
                    if !artifact.lost().is_empty() {
                        self.unlink_model(&artifact)?;
                    }
                }
                None => remove_any(&found.path()).at(at)?,
            }
        }
        self.forgotten.lock().extend(entries.into_keys());
        self.sweep_links();
        Ok(())
    }

    /// One artifact; `None` when there is nothing in it to be used.
    fn load(&self, dir: &Path, swarm: SwarmId, entry: Option<Entry>) -> Result<Option<Artifact>> {
        let Some((blueprint, encoded_bytes)) = read_blueprint(dir, swarm)? else { return Ok(None) };
        let birth = birth(dir)?;
        // An entry of an earlier incarnation promises what this one never had.
        let entry = entry.filter(|entry| entry.birth == birth);
        let (journal, records) = Journal::open(dir.join("journal"), swarm)?;
        let overhead = overhead_charge(&blueprint, encoded_bytes);
        let blueprint = Arc::new(blueprint);
        let artifact =
            Artifact::new(swarm, self.next_number(), blueprint, dir.to_owned(), birth, overhead, journal);
        if let Some(entry) = entry {
            artifact.pinned.store(entry.pinned, Ordering::Release);
            artifact.last_used_us.store(entry.last_used_us, Ordering::Relaxed);
            artifact.admitted_us.store(entry.admitted_us, Ordering::Relaxed);
        }
        let committed = match (&*self.index.lock(), entry) {
            (Some(index), Some(_)) => index.chunks(swarm)?,
            _ => Vec::new(),
        };
        let said = replay(&artifact, &records, entry.map_or(0, |entry| entry.journal_bytes));
        find_files(&artifact, &wanted(&artifact, &records, &said, &committed))?;
        load_manifest(&artifact, dir);
        restore_chunks(&artifact, &committed, said);
        Ok(Some(artifact))
    }

    /// Artifacts with chunks that are still to be re-hashed.
    pub(super) fn in_doubt(&self) -> Vec<Arc<Artifact>> {
        self.all().into_iter().filter(|a| !a.state().suspects.is_empty()).collect()
    }

    /// Opens the index at start-up. A disk that is too full to open it does not keep what is here from
    /// being served: everything is then found without it.
    ///
    /// # Errors
    /// Those of the file system but `Full`.
    pub(super) fn open_index(path: &Path) -> Result<Option<Index>> {
        match Index::open(path) {
            Ok((index, _)) => Ok(Some(index)),
            Err(e) if e.kind() == ErrorKind::Full => {
                tracing::warn!(error = %e, "going on without the index");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// The blueprint and the bytes it takes.
fn read_blueprint(dir: &Path, swarm: SwarmId) -> Result<Option<(Blueprint, u64)>> {
    let path = dir.join("blueprint");
    let raw = match fs::read(&path) {
        Ok(raw) => raw,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e).at(|| format!("blueprint {} cannot be read", path.display())),
    };
    // Magic, then the version. What a later agent fetched is not to be thrown away by an older one.
    let is_later =
        raw.len() >= 6 && raw[..4] == *b"EMBb" && u16::from_le_bytes([raw[4], raw[5]]) > FORMAT_VERSION;
    if is_later {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "blueprint {} was written by a later version of emberline; use that one, or remove the directory",
                path.display()
            ),
        ));
    }
    match Blueprint::decode(&raw) {
        Ok(blueprint) if blueprint.swarm_id() == swarm => Ok(Some((blueprint, raw.len() as u64))),
        Ok(_) => {
            tracing::warn!(blueprint = %path.display(), "removing an artifact whose blueprint is another's");
            Ok(None)
        }
        Err(e) => {
            tracing::warn!(blueprint = %path.display(), error = %e, "removing an artifact whose blueprint cannot be read");
            Ok(None)
        }
    }
}

/// Which files somebody asked for: the journal says so, or a chunk of them was here.
fn wanted(
    artifact: &Artifact,
    records: &[(u64, Record)],
    said: &[Said],
    committed: &[(u32, ChunkHash)],
) -> Vec<Wanted> {
    let mut wanted = vec![Wanted::No; artifact.blueprint.files.len()];
    let written = (0u32..).zip(said).filter(|(_, said)| said.written.is_some()).map(|(index, _)| index);
    for index in written.chain(committed.iter().map(|(index, _)| *index)) {
        if let Ok(place) = artifact.place(index) {
            wanted[place.file] = Wanted::Seen;
        }
    }
    for (_, record) in records {
        if let Record::Wanted(file) = record
            && let Some(wanted) = wanted.get_mut(*file as usize)
        {
            *wanted = Wanted::Noted;
        }
    }
    wanted
}

/// Whether somebody asked for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    No,
    /// An agent of a version that did not note it fetched some of it.
    Seen,
    /// The journal says so.
    Noted,
}

/// Looks where each file is. One of the wrong size never was whole, or was cut by somebody else; one that was
/// asked for and is nowhere was removed by somebody else.
fn find_files(artifact: &Artifact, wanted: &[Wanted]) -> Result<()> {
    for (number, file) in artifact.blueprint.files.iter().enumerate() {
        let mut is_wanted = wanted[number] != Wanted::No;
        let (whole, partial) = (artifact.published_path(number), artifact.partial_path(number));
        for (path, is_whole) in [(&whole, true), (&partial, false)] {
            let meta = match fs::symlink_metadata(path) {
                Ok(meta) => meta,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e).at(|| format!("{} cannot be looked at", artifact.file_name(number))),
            };
            if !meta.is_file() || meta.size() != file.size {
                tracing::warn!(file = %path.display(), "removing a file that does not have its size");
                remove_any(path).at(|| format!("file {} cannot be removed", path.display()))?;
                is_wanted |= is_whole;
                continue;
            }
            let frozen = meta.permissions().mode() & 0o200 == 0;
            artifact.set_file(
                number,
                if is_whole { FileState::Published } else { FileState::Partial { frozen } },
            );
            artifact.state().stamps[number] = Some(Stamp::of(&meta));
            break;
        }
        let is_there = artifact.state().files[number] != FileState::Absent;
        if is_wanted && !is_there {
            tracing::warn!(file = %artifact.file_name(number), "a file is not on the disk any more; the next pull fetches it again");
            artifact.set_file(number, FileState::Lost);
        }
        if (is_wanted || is_there) && wanted[number] != Wanted::Noted {
            artifact.note_wanted(number);
        }
    }
    Ok(())
}

fn load_manifest(artifact: &Artifact, dir: &Path) {
    let path = dir.join("manifest");
    let Ok(raw) = fs::read(&path) else { return };
    match Manifest::decode(&raw) {
        Ok(manifest) if manifest.blueprint == *artifact.blueprint => {
            let mut state = artifact.state();
            state.hashes = manifest.hashes.into_iter().map(Some).collect();
            state.manifest = Some(ChunkHash::of(&raw));
        }
        Ok(_) | Err(_) => {
            tracing::warn!(manifest = %path.display(), "removing a manifest that is not this artifact's");
            let _ = fs::remove_file(path);
        }
    }
}

fn replay(artifact: &Artifact, records: &[(u64, Record)], covered: u64) -> Vec<Said> {
    let mut said = vec![Said::default(); artifact.chunk_count() as usize];
    for (end, record) in records {
        let (Record::Written(index, _) | Record::Dropped(index)) = *record else { continue };
        let Some(chunk) = said.get_mut(index as usize) else { continue };
        match *record {
            Record::Written(_, hash) => {
                chunk.written = Some(hash);
                chunk.dropped_last = false;
            }
            Record::Dropped(_) => {
                chunk.written = None;
                chunk.dropped_last = true;
                chunk.dropped_since_commit |= *end > covered;
            }
            Record::Wanted(_) => {}
        }
    }
    said
}

fn restore_chunks(artifact: &Artifact, committed: &[(u32, ChunkHash)], said: Vec<Said>) {
    let mut promised: Vec<Option<ChunkHash>> = vec![None; said.len()];
    for (index, hash) in committed {
        if let Some(slot) = promised.get_mut(*index as usize) {
            *slot = Some(*hash);
        }
    }
    for (index, said) in (0u32..).zip(said) {
        let Ok(place) = artifact.place(index) else { continue };
        let (file, known) = {
            let state = artifact.state();
            (state.files[place.file], state.manifest.and(state.hashes[index as usize]))
        };
        let promised = promised[index as usize].filter(|hash| known.is_none_or(|known| known == *hash));
        let written = said.written.filter(|hash| known.is_none_or(|known| known == *hash));
        let trusted = match file {
            FileState::Absent => continue,
            FileState::Lost => {
                let hash = written.or(promised);
                if hash.is_some() || said.dropped_last {
                    artifact.state().broken.insert(index, hash.or(known));
                }
                continue;
            }
            _ if said.dropped_last => None,
            // Synced, journal and all, before it got its path.
            FileState::Published => written.or(promised).or(known),
            FileState::Partial { .. } if said.dropped_since_commit => None,
            FileState::Partial { .. } => promised.filter(|hash| written.is_none_or(|w| w == *hash)),
        };
        match trusted {
            Some(hash) => artifact.insert(index, hash, None),
            None => {
                let mut state = artifact.state();
                match written {
                    Some(hash) => drop(state.suspects.insert(index, hash)),
                    // It was whole once.
                    None if file == (FileState::Partial { frozen: true }) => {
                        state.broken.insert(index, promised.or(known));
                    }
                    None => {}
                }
            }
        }
    }
    artifact.mark_all_dirty();
}

/// Removes a file, a link, or a directory and all that is in it.
pub(super) fn remove_any(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}
