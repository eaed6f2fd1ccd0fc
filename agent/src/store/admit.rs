//! Who may take room, and who has to give it back.
//!
//! Room is charged before the first byte is allocated and given back after the last name is
//! unlinked, all under one lock, so the sum on disk never passes the quota. Eviction takes an
//! artifact off the shelf, then its path, then its files; it never truncates.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use coordinatorless_p2p::SwarmId;

use super::{
    Lease,
    artifact::{Artifact, FILES_DIR, FileState, PARTIAL_DIR, now_us},
    disk,
    journal::{Journal, Record, replace_file, sync_dir},
    leftovers::Leftover,
    shelf::{Shelf, disk_space},
    space::{Candidate, Demand, choose_victims, file_charge, overhead_charge},
    stamp::Stamp,
};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    manifest::{Blueprint, Manifest},
    quantity::exactly,
};

/// How often victims are chosen anew when readers took a lease on those chosen before.
const EVICTION_ROUNDS: usize = 4;

/// What an artifact that is gone is called until its files are.
const GONE_PREFIX: &str = ".gone-";

impl Shelf {
    /// See [`Store::admit`](super::Store::admit).
    ///
    /// # Errors
    /// As there.
    pub(super) fn admit(&self, blueprint: Arc<Blueprint>, wanted: &[usize]) -> Result<Lease> {
        self.ensure_open()?;
        let swarm = blueprint.swarm_id();
        if let Some(past) = wanted.iter().find(|file| **file >= blueprint.files.len()) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("file {past} of {} ({}): past the end", blueprint.reference, swarm.short()),
            ));
        }
        let known = self.lease(swarm).ok();
        if let Some(lease) = &known {
            self.look(&lease.artifact, wanted)?;
        }
        let lease = match known.filter(|lease| lease.artifact.lacks(wanted).is_empty()) {
            Some(lease) => lease,
            None => self.admit_slowly(blueprint, swarm, wanted)?,
        };
        lease.artifact.admitted_us.fetch_max(now_us(), Ordering::Relaxed);
        lease.artifact.touch();
        self.recheck_all(&lease.artifact)?;
        Ok(lease)
    }

    fn admit_slowly(&self, blueprint: Arc<Blueprint>, swarm: SwarmId, wanted: &[usize]) -> Result<Lease> {
        let _admission = self.admission.lock();
        // Leased before room is made: it must not be its own victim.
        let (lease, fresh_charge) = match self.lease(swarm) {
            Ok(lease) => (Some(lease), 0),
            Err(_) => (None, overhead_charge(&blueprint, blueprint.encode().len() as u64)),
        };
        let lacking = match &lease {
            Some(lease) => lease.artifact.lacks(wanted),
            None => wanted.to_vec(),
        };
        // What was lost is charged still.
        let lost = lease.as_ref().map(|lease| lease.artifact.lost()).unwrap_or_default();
        let need = lacking
            .iter()
            .filter(|file| !lost.contains(file))
            .map(|file| file_charge(blueprint.files[*file].size))
            .fold(fresh_charge, u64::saturating_add);
        let named = || format!("{} ({}) cannot be admitted", blueprint.reference, swarm.short());
        self.make_room(need, lacking.len() as u64).map_err(|e| e.context(named()))?;
        *self.charged.lock() += need;
        let admitted = match lease {
            Some(lease) => self
                .remake(&lease.artifact)
                .and_then(|()| self.allocate(&lease.artifact, &lacking))
                .map(|()| lease),
            None => self.create(blueprint.clone(), swarm, fresh_charge).and_then(|artifact| {
                self.allocate(&artifact, &lacking).inspect_err(|_| {
                    let _ = fs::remove_dir_all(&artifact.dir);
                })?;
                let artifact = Arc::new(artifact);
                let lease = Lease::new(artifact.clone());
                self.put(artifact);
                Ok(lease)
            }),
        };
        admitted.map_err(|e| {
            *self.charged.lock() -= need;
            e.context(named())
        })
    }

    /// Makes the directory of a new artifact, its blueprint first.
    fn create(&self, blueprint: Arc<Blueprint>, swarm: SwarmId, overhead_bytes: u64) -> Result<Artifact> {
        let dir = self.artifacts_dir().join(swarm.to_string());
        let at = || format!("artifact directory {} cannot be made", dir.display());
        // Left by a crash in front of its blueprint, or by a removal that could not finish.
        if dir.exists() {
            fs::remove_dir_all(&dir).at(at)?;
            self.sweep_leftovers();
        }
        fs::create_dir(&dir).at(at)?;
        let filled = (|| {
            for part in [PARTIAL_DIR, FILES_DIR] {
                fs::create_dir(dir.join(part)).at(at)?;
            }
            replace_file(&dir.join("blueprint.new"), &dir.join("blueprint"), &blueprint.encode())?;
            sync_dir(&self.artifacts_dir())?;
            let (journal, _) = Journal::open(dir.join("journal"), swarm)?;
            let birth = birth(&dir)?;
            Ok(Artifact::new(
                swarm,
                self.next_number(),
                blueprint,
                dir.clone(),
                birth,
                overhead_bytes,
                journal,
            ))
        })();
        filled.inspect_err(|_: &Error| {
            let _ = fs::remove_dir_all(&dir);
        })
    }

    /// Makes the directory of an artifact again that somebody else removed, with nothing in it.
    fn remake(&self, artifact: &Artifact) -> Result<()> {
        let (dir, blueprint) = (&artifact.dir, artifact.dir.join("blueprint"));
        if blueprint.exists() && dir.join("journal").exists() {
            return Ok(());
        }
        tracing::warn!(artifact = %artifact.name(), dir = %dir.display(), "an artifact's directory was removed by somebody else; it is made again");
        self.look(artifact, &artifact.wanted_files())?;
        let at = || format!("artifact directory {} cannot be made again", dir.display());
        for part in [PARTIAL_DIR, FILES_DIR] {
            fs::create_dir_all(dir.join(part)).at(at)?;
        }
        {
            let mut journal = artifact.journal.lock();
            let records = artifact.told();
            journal.rewrite(records.into_iter())?;
        }
        let manifest = {
            let state = artifact.state();
            state.manifest.and_then(|_| state.all_hashes())
        };
        if let Some(hashes) = manifest {
            self.keep_manifest(artifact, &Manifest::new((*artifact.blueprint).clone(), hashes)?)?;
        }
        // Last: without it the next start throws the directory away.
        replace_file(&dir.join("blueprint.new"), &blueprint, &artifact.blueprint.encode())?;
        artifact.birth.store(birth(dir)?, Ordering::Release);
        artifact.mark_all_dirty();
        sync_dir(&self.artifacts_dir())
    }

    /// Preallocates files, all or none.
    fn allocate(&self, artifact: &Artifact, files: &[usize]) -> Result<()> {
        let dir = artifact.partial_dir();
        fs::create_dir_all(&dir).at(|| format!("directory {} cannot be made", dir.display()))?;
        let before: Vec<FileState> = files.iter().map(|file| artifact.state().files[*file]).collect();
        for (nth, file) in files.iter().enumerate() {
            let made = artifact.file(*file).and_then(|f| {
                let path = artifact.partial_path(*file);
                // Left by a crash in the middle of this loop.
                let _ = fs::remove_file(&path);
                let made = disk::create_preallocated(&path, f.size);
                made.and_then(|made| made.metadata()).at(|| {
                    format!("{} cannot be preallocated with {}", artifact.file_name(*file), exactly(f.size))
                })
            });
            let made = made.map(|meta| {
                let mut state = artifact.state();
                state.stamps[*file] = Some(Stamp::of(&meta));
                state.files[*file] = FileState::Partial { frozen: false };
            });
            if let Err(e) = made {
                for (file, before) in files[..nth].iter().zip(&before) {
                    artifact.set_file(*file, *before);
                    let _ = fs::remove_file(artifact.partial_path(*file));
                }
                return Err(explain_full(e, &self.dir));
            }
        }
        files.iter().for_each(|file| artifact.note_wanted(*file));
        Ok(())
    }

    /// Evicts until `need` bytes and `inodes` files fit. Called with the admission lock held.
    ///
    /// # Errors
    /// `Full` when they cannot.
    fn make_room(&self, need: u64, inodes: u64) -> Result<()> {
        self.sweep_leftovers();
        for _ in 0..EVICTION_ROUNDS {
            let disk = disk_space(&self.dir)?;
            if let Some(free) = disk.free_inodes.filter(|free| *free < inodes) {
                return Err(Error::new(
                    ErrorKind::Full,
                    format!(
                        "{inodes} files wanted, and the file system of {} has {free} inodes free; remove artifacts \
                         or make the file system anew with more inodes",
                        self.dir.display()
                    ),
                ));
            }
            let demand = Demand { wanted: need, used: self.used_bytes(), disk_free: disk.free_bytes };
            let candidates = self.all().iter().filter(|a| a.is_evictable()).map(|a| candidate(a)).collect();
            let victims = choose_victims(self.limits, demand, candidates)?;
            if victims.is_empty() {
                return Ok(());
            }
            for swarm in victims {
                if let Some(artifact) = self.take_off(swarm, false) {
                    tracing::info!(artifact = %artifact.name(), bytes = artifact.charge_bytes(), "evicted");
                    // The next round looks for others.
                    if let Err(e) = self.unlink(&artifact) {
                        tracing::error!(artifact = %artifact.name(), error = %e, "an evicted artifact cannot be removed");
                    }
                }
            }
        }
        Err(Error::new(
            ErrorKind::Full,
            format!("{} wanted, and readers keep what could be evicted; try again", exactly(need)),
        ))
    }

    /// Takes an artifact off the shelf, unless somebody keeps it there.
    fn take_off(&self, swarm: SwarmId, force: bool) -> Option<Arc<Artifact>> {
        let mut artifacts = self.artifacts.write();
        let artifact = artifacts.get(&swarm)?;
        // Leases are taken under the same lock, so none can come between.
        if !force && !artifact.is_evictable() {
            return None;
        }
        let artifact = artifacts.remove(&swarm)?;
        artifact.removed.store(true, Ordering::Release);
        drop(artifacts);
        self.numbers.write().remove(&artifact.number);
        Some(artifact)
    }

    /// Unlinks an artifact that was taken off, and gives its room back. One whose path cannot be taken
    /// away goes back on the shelf; one whose files cannot stays charged, and is tried again.
    fn unlink(&self, artifact: &Arc<Artifact>) -> Result<()> {
        if let Err(e) = self.unlink_model(artifact) {
            artifact.removed.store(false, Ordering::Release);
            self.put(artifact.clone());
            return Err(e);
        }
        {
            let state = artifact.state();
            let mut places = self.places.lock();
            for index in state.held.iter() {
                if let Some(hash) = &state.hashes[index as usize] {
                    places.remove(hash, artifact.number, index);
                }
            }
        }
        self.forget_handles(artifact);
        artifact.state().unsynced.clear();
        self.forgotten.lock().push(artifact.swarm);
        self.wake.notify_one();
        let gone = self.artifacts_dir().join(format!("{GONE_PREFIX}{}-{}", artifact.number, artifact.swarm));
        self.clear(Leftover::new(artifact.dir.clone(), gone, artifact.charge_bytes()))
            .at(|| format!("artifact {} cannot be removed", artifact.name()))
    }

    /// See [`Store::remove`](super::Store::remove).
    ///
    /// # Errors
    /// As there.
    pub(super) fn remove(&self, swarm: SwarmId, force: bool) -> Result<()> {
        self.ensure_open()?;
        let _admission = self.admission.lock();
        let artifact = self.artifact(swarm)?;
        if self.take_off(swarm, force).is_none() {
            let why = if artifact.pinned.load(Ordering::Acquire) {
                "pinned; unpin it first".to_owned()
            } else {
                format!("read by {}; wait for them or force it", artifact.leases.load(Ordering::Acquire))
            };
            return Err(Error::new(ErrorKind::Denied, format!("artifact {} is {why}", artifact.name())));
        }
        self.unlink(&artifact)
    }

    /// Charges `bytes` for as long as the answer lives, evicting nobody.
    ///
    /// # Errors
    /// `Full`.
    pub(super) fn borrow_room(&self, bytes: u64) -> Result<Room<'_>> {
        let _admission = self.admission.lock();
        let used = self.used_bytes();
        let free = disk_space(&self.dir)?.free_bytes;
        if used.saturating_add(bytes) > self.limits.quota_bytes || bytes > free {
            return Err(Error::new(
                ErrorKind::Full,
                format!(
                    "{} wanted for a copy, {} free on disk, {} of {} used",
                    exactly(bytes),
                    exactly(free),
                    exactly(used),
                    exactly(self.limits.quota_bytes)
                ),
            ));
        }
        *self.charged.lock() += bytes;
        Ok(Room { shelf: self, bytes })
    }

    /// See [`Store::lease`](super::Store::lease).
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn lease(&self, swarm: SwarmId) -> Result<Lease> {
        let artifacts = self.artifacts.read();
        let artifact = artifacts.get(&swarm).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("artifact {} is not on this node", swarm.short()))
        })?;
        Ok(Lease::new(artifact.clone()))
    }
}

impl Artifact {
    /// Has the journal say that somebody asked for a file, so that it is missed should it be gone after a
    /// restart. Durable with the file itself.
    pub(super) fn note_wanted(&self, file: usize) {
        if let Err(e) = self.journal.lock().append(Record::Wanted(file as u32)) {
            tracing::warn!(file = %self.file_name(file), error = %e, "it could not be noted that a file is wanted");
        }
    }

    /// Which of these files have no place on disk yet, or none any more.
    fn lacks(&self, wanted: &[usize]) -> Vec<usize> {
        let state = self.state();
        let mut lacking: Vec<usize> = wanted
            .iter()
            .copied()
            .filter(|file| matches!(state.files[*file], FileState::Absent | FileState::Lost))
            .collect();
        lacking.sort_unstable();
        lacking.dedup();
        lacking
    }
}

/// Room that is given back when dropped.
pub(super) struct Room<'a> {
    shelf: &'a Shelf,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        *self.shelf.charged.lock() -= self.bytes;
    }
}

/// What tells one incarnation of an artifact's directory from the next.
///
/// # Errors
/// Those of the file system.
pub(super) fn birth(dir: &Path) -> Result<u64> {
    let blueprint = dir.join("blueprint");
    let meta = fs::metadata(&blueprint).at(|| format!("file {}", blueprint.display()))?;
    Ok((meta.mtime() as u64).wrapping_mul(1_000_000_000).wrapping_add(meta.mtime_nsec() as u64) ^ meta.ino())
}

/// Whether a directory entry is what an unlinked artifact left behind.
pub(super) fn is_gone(name: &str) -> bool {
    name.starts_with(GONE_PREFIX)
}

fn candidate(artifact: &Artifact) -> Candidate {
    Candidate {
        swarm: artifact.swarm,
        charge_bytes: artifact.charge_bytes(),
        complete: artifact.is_complete(),
        last_used_us: artifact.last_used_us.load(Ordering::Relaxed),
    }
}

/// Says which of bytes and inodes ran out.
fn explain_full(e: Error, dir: &Path) -> Error {
    match (e.kind(), disk_space(dir)) {
        (ErrorKind::Full, Ok(disk)) => e.context(match disk.free_inodes {
            Some(0) => "no inodes are left on the file system; remove artifacts".to_owned(),
            _ => format!("{} are free on disk; free space or remove artifacts", exactly(disk.free_bytes)),
        }),
        _ => e,
    }
}
