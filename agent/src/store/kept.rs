//! Manifests kept for others: what this node holds as a home, long after the data is gone.
//!
//! One file a swarm below `<data>/manifests/`, a hundredth of the quota at most and counted in it; the
//! one used longest ago goes first. Nothing here is believed: a manifest is what some member said, good for
//! a hint. Two that differ for one swarm cancel each other out.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use coordinatorless_p2p::{ChunkHash, SwarmId};
use parking_lot::Mutex;

use super::space::file_charge;
use crate::{
    error::{IoContext, Result},
    manifest::Manifest,
};

/// The most that kept manifests take, whatever the quota.
const KEPT_BYTES_MAX: u64 = 256 << 20;

/// What is kept, and where.
#[derive(Debug)]
pub(super) struct Kept {
    dir: PathBuf,
    /// The most disk bytes to take.
    pub(super) most_bytes: u64,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_swarm: HashMap<SwarmId, Entry>,
    bytes: u64,
    /// Grows with every use.
    clock: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: ChunkHash,
    bytes: u64,
    used: u64,
}

impl Entries {
    fn forget(&mut self, swarm: SwarmId) {
        if let Some(gone) = self.by_swarm.remove(&swarm) {
            self.bytes -= gone.bytes;
        }
    }

    fn insert(&mut self, swarm: SwarmId, id: ChunkHash, bytes: u64) {
        self.forget(swarm);
        self.clock += 1;
        self.bytes += bytes;
        self.by_swarm.insert(swarm, Entry { id, bytes, used: self.clock });
    }
}

impl Kept {
    /// Finds out what is kept below `dir`; files that are none of ours, or damaged, are removed.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn open(dir: PathBuf, quota_bytes: u64) -> Result<Self> {
        let at = || format!("directory {}", dir.display());
        fs::create_dir_all(&dir).at(at)?;
        let mut entries = Entries::default();
        for entry in fs::read_dir(&dir).at(at)? {
            let path = entry.at(at)?.path();
            let swarm = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<SwarmId>().ok());
            match swarm.and_then(|swarm| Some((swarm, read(&path, swarm)?))) {
                Some((swarm, (id, bytes))) => entries.insert(swarm, id, bytes),
                None => {
                    // One that stays is looked at again at the next start.
                    let _ = fs::remove_file(&path);
                }
            }
        }
        let kept =
            Self { dir, most_bytes: (quota_bytes / 100).min(KEPT_BYTES_MAX), entries: Mutex::new(entries) };
        kept.shrink(kept.most_bytes);
        Ok(kept)
    }

    /// Disk bytes taken.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.entries.lock().bytes
    }

    /// Where the manifest of a swarm is, or would be.
    pub(super) fn path(&self, swarm: SwarmId) -> PathBuf {
        self.dir.join(swarm.to_string())
    }

    /// The id of the manifest that is kept for a swarm.
    pub(super) fn id_of(&self, swarm: SwarmId) -> Option<ChunkHash> {
        self.entries.lock().by_swarm.get(&swarm).map(|entry| entry.id)
    }

    /// Every manifest that is kept: swarm and id.
    pub(super) fn ids(&self) -> HashMap<SwarmId, ChunkHash> {
        self.entries.lock().by_swarm.iter().map(|(swarm, entry)| (*swarm, entry.id)).collect()
    }

    /// The swarm whose manifest has this id; counts as a use.
    pub(super) fn use_of(&self, named: ChunkHash) -> Option<SwarmId> {
        let mut entries = self.entries.lock();
        entries.clock += 1;
        let now = entries.clock;
        let (swarm, entry) = entries.by_swarm.iter_mut().find(|(_, entry)| entry.id == named)?;
        entry.used = now;
        Some(*swarm)
    }

    /// Notes a manifest whose file was just written.
    pub(super) fn note(&self, swarm: SwarmId, id: ChunkHash, bytes: u64) {
        self.entries.lock().insert(swarm, id, bytes);
    }

    /// Gives a manifest up.
    pub(super) fn give_up(&self, swarm: SwarmId) {
        self.entries.lock().forget(swarm);
        self.unlink(swarm);
    }

    /// Lets the least recently used go until no more than `bytes` are taken.
    pub(super) fn shrink(&self, bytes: u64) {
        let mut entries = self.entries.lock();
        while entries.bytes > bytes {
            let Some(oldest) = entries.by_swarm.iter().min_by_key(|(_, e)| e.used).map(|(s, _)| *s) else {
                return;
            };
            entries.forget(oldest);
            self.unlink(oldest);
        }
    }

    fn unlink(&self, swarm: SwarmId) {
        if let Err(e) = fs::remove_file(self.path(swarm)) {
            tracing::warn!(swarm = %swarm.short(), error = %e, "a kept manifest cannot be removed");
        }
    }
}

/// The id and charge of the manifest in a file, if it is one of that swarm.
fn read(path: &Path, swarm: SwarmId) -> Option<(ChunkHash, u64)> {
    let encoded = fs::read(path).ok()?;
    let manifest = Manifest::decode(&encoded).ok()?;
    (manifest.blueprint.swarm_id() == swarm)
        .then(|| (ChunkHash::of(&encoded), file_charge(encoded.len() as u64)))
}
