//! The store: one copy of every byte, in place, and nothing reachable before it is whole.
//!
//! ```text
//! <data>/artifacts/<swarm id>/blueprint   what it consists of; written first
//!                            /journal     chunks written, since when the index may not know
//!                            /partial/<n> files being filled, preallocated, 0600
//!                            /files/…     whole files, 0444, never written again
//!                            /manifest    once every chunk hash is known
//!                            /order       in which order it was first read
//! <data>/index.redb                       presence, pins, use: committed behind the data
//! <data>/manifests/<swarm id>            manifests kept for others, whose data may be elsewhere
//! <data>/orders/<swarm id>                reading orders kept for others
//! <data>/models/<scheme>/<host or org>/<name>/<revision>   the path people use: a link to `files/`
//! ```
//!
//! This file is the asynchronous shell: it sends each verb to the blocking pool and owns the two
//! background tasks. It knows nothing of peers or origins.
//! Invariants: nothing incomplete is below `files/` or `models/`; a published file's inode is never
//! written to; the quota holds at every moment, unfinished files included; no lock lives across an await.

mod admit;
mod adopt;
mod ahead;
mod artifact;
mod chunks;
mod commit;
#[cfg(feature = "faults")]
mod corrupting;
mod describe;
mod digests;
mod disk;
mod fault;
mod hashing;
mod index;
mod journal;
mod keeping;
mod kept;
mod leftovers;
mod links;
mod lock;
mod looking;
mod opened;
mod orders;
mod places;
mod premises;
mod publish;
mod reading;
mod recover;
mod resident;
mod shelf;
mod space;
mod stamp;
mod sweeping;
mod turns;
mod twin;
mod verify;

pub(crate) use self::disk::read_if_resident;
pub use self::{keeping::Keeping, opened::OpenedFile, premises::inspect};

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use coordinatorless_p2p::{ChunkHash, ChunkStore, Inventory, SwarmId, VerifiedChunk};

use self::{
    artifact::{Artifact, FileState},
    kept::Kept,
    lock::DirLock,
    shelf::{Shelf, disk_space},
    space::Limits,
};
use crate::{
    api::{ArtifactInfo, CorruptChunk},
    error::{Error, ErrorKind, IoContext, Result},
    manifest::{Blueprint, BlueprintFile, Manifest},
    snapshot::RelativePath,
};

/// How often presence is committed at least, while something changes.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Journal records beyond two a chunk before it is rewritten.
const JOURNAL_SLACK_RECORDS: u64 = 1024;

/// Bytes re-hashed in one piece of blocking work.
const VERIFY_STEP_BYTES: u64 = 16 << 20;

/// Settings of the store.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The most bytes artifacts may take, unfinished ones included; 0: 90 % of the file system.
    pub quota_bytes: u64,
    /// Eviction starts when this share of the quota is used.
    pub high_watermark: f64,
    /// And ends at this one.
    pub low_watermark: f64,
    /// How fast a background pass re-hashes what is here; 0: there is none.
    pub scrub_bytes_per_second: u64,
    /// Such a pass starts at most this often.
    #[serde(with = "humantime_serde")]
    pub scrub_every: Duration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            quota_bytes: 0,
            high_watermark: 0.95,
            low_watermark: 0.85,
            scrub_bytes_per_second: 8 << 20,
            scrub_every: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Artifacts on one data directory. Cheap to clone. At most one process has it open.
#[derive(Clone)]
pub struct Store {
    shelf: Arc<Shelf>,
}

#[cfg(feature = "faults")]
pub(crate) use self::corrupting::served;

/// The store as peers get to see it.
#[cfg(not(feature = "faults"))]
pub(crate) fn served(store: Store) -> Arc<dyn ChunkStore> {
    Arc::new(store)
}

/// Which files of a blueprint a pull wants, ascending indices.
pub type WantedFiles = Vec<usize>;

impl Store {
    /// Opens or creates the store; rebuilds the index from the artifacts if it is gone or broken.
    ///
    /// What is whole can be served when this returns. Chunks that a crash left in doubt are re-hashed in
    /// the background, or by the [`admit`](Self::admit) that wants them. A store that is dropped instead of
    /// [closed](Self::close) lets go of the directory within a second.
    ///
    /// # Errors
    /// `Denied` when another process has it open or the directory cannot be written; `Full`; `Invalid`
    /// for settings that cannot work.
    pub async fn open(dir: PathBuf, config: StoreConfig) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(move || Shelf::open(dir, &config)).await;
        let shelf = Arc::new(opened.map_err(cut_short)??);
        tokio::spawn(commit_forever(Arc::downgrade(&shelf)));
        tokio::spawn(recheck_in_background(Arc::downgrade(&shelf)));
        Ok(Self { shelf })
    }

    /// Makes room for the wanted files (evicting what may go), preallocates them, re-hashes what a
    /// crash left uncommitted, and takes a lease. Idempotent: a second pull widens the first.
    /// Cancelling lets the work run to its end without the lease.
    ///
    /// # Errors
    /// `Full` when quota or disk cannot take it, naming the bytes wanted, free and evictable; `Invalid` for
    /// a file the blueprint does not have.
    pub async fn admit(&self, blueprint: Arc<Blueprint>, wanted: &WantedFiles) -> Result<Lease> {
        let wanted = wanted.clone();
        self.blocking(move |shelf| shelf.admit(blueprint, &wanted)).await
    }

    /// Tells the hashes of a manifest for a swarm admitted here, so that presence can be checked
    /// against them and chunks adopted.
    ///
    /// # Errors
    /// `Invalid` when it is not a manifest of that blueprint.
    pub async fn learn_manifest(&self, swarm: SwarmId, manifest: &Manifest) -> Result<()> {
        let artifact = self.shelf.artifact(swarm)?;
        let manifest = manifest.clone();
        self.blocking(move |shelf| shelf.learn_manifest(&artifact, &manifest)).await
    }

    /// Checks a file whose chunks are all here against the origin's digest, syncs it, makes it
    /// 0444 and gives it its path. True if it was not published before.
    ///
    /// # Errors
    /// `Corrupt` when the digest differs (the file's chunks are discarded, and named); `Unavailable`
    /// while chunks are missing, and after an fsync error, before anything was promised: the file's
    /// chunks are then re-hashed from the disk before a later call succeeds.
    pub async fn publish_file(&self, swarm: SwarmId, file: usize) -> Result<bool> {
        let artifact = self.shelf.artifact(swarm)?;
        self.blocking(move |shelf| shelf.publish_file(&artifact, file)).await
    }

    /// All wanted files have their path: seals the manifest when every chunk of the blueprint is
    /// known, and makes the artifact reachable below `models/`.
    ///
    /// # Errors
    /// `Unavailable` when a wanted file is not whole.
    pub async fn publish(&self, swarm: SwarmId, wanted: &WantedFiles) -> Result<Published> {
        let artifact = self.shelf.artifact(swarm)?;
        let wanted = wanted.clone();
        self.blocking(move |shelf| shelf.publish(&artifact, &wanted)).await
    }

    /// The blueprint of an artifact that is here, whole or not.
    pub fn blueprint(&self, swarm: SwarmId) -> Option<Arc<Blueprint>> {
        self.shelf.artifact(swarm).ok().map(|artifact| artifact.blueprint.clone())
    }

    /// The manifest of an artifact that was sealed here. Built anew at each call: keep it.
    pub fn manifest(&self, swarm: SwarmId) -> Option<Arc<Manifest>> {
        let artifact = self.shelf.artifact(swarm).ok()?;
        let hashes = {
            let state = artifact.state();
            state.manifest?;
            state.all_hashes()?
        };
        Manifest::new((*artifact.blueprint).clone(), hashes).ok().map(Arc::new)
    }

    /// Keeps an encoded manifest for other nodes, as a home of its swarm. It is not believed here.
    ///
    /// # Errors
    /// `Invalid` for what is no manifest; those of the file system.
    pub async fn keep_manifest(&self, encoded: Bytes) -> Result<Keeping> {
        self.blocking(move |shelf| shelf.keep_for_others(&encoded)).await
    }

    /// The manifest with this hash, if it is [kept](Self::keep_manifest).
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn kept_manifest(&self, id: ChunkHash) -> Result<Arc<Manifest>> {
        self.blocking(move |shelf| shelf.kept_for_others(id)).await
    }

    /// The hash of the manifest that is [kept](Self::keep_manifest) for a swarm.
    pub fn kept_id(&self, swarm: SwarmId) -> Option<ChunkHash> {
        self.shelf.kept_id(swarm)
    }

    /// Every manifest here, sealed or kept: its swarm and hash.
    pub fn known_manifests(&self) -> Vec<(SwarmId, ChunkHash)> {
        self.shelf.known_manifests()
    }

    /// The hash of the manifest of an artifact that was sealed here.
    pub fn sealed_id(&self, swarm: SwarmId) -> Option<ChunkHash> {
        self.shelf.artifact(swarm).ok()?.state().manifest
    }

    /// The hash of a chunk that is here.
    pub fn hash_of(&self, swarm: SwarmId, index: u32) -> Option<ChunkHash> {
        self.shelf.artifact(swarm).ok()?.held_hash(index)
    }

    /// For each wanted file the chunk hashes of a whole one on this disk that has the SHA-256 which it should
    /// have, and is cut alike. May read files of the same size to find out.
    ///
    /// # Errors
    /// `Cancelled` while shutting down.
    pub async fn twins(&self, wanted: Vec<BlueprintFile>) -> Result<Vec<Option<Vec<ChunkHash>>>> {
        self.blocking(move |shelf| Ok(shelf.twins(&wanted))).await
    }

    /// Finds an artifact by canonical reference (the newest version that is complete, else the
    /// newest), swarm id or manifest hash.
    pub fn find(&self, named: &str) -> Option<SwarmId> {
        self.shelf.find(named)
    }

    /// The name of every artifact here, whole or not.
    pub fn swarms(&self) -> Vec<SwarmId> {
        self.shelf.all().iter().map(|artifact| artifact.swarm).collect()
    }

    /// Which files of an artifact were asked for so far; none when it is not here.
    pub fn wanted(&self, swarm: SwarmId) -> WantedFiles {
        self.shelf.artifact(swarm).map(|artifact| artifact.wanted_files()).unwrap_or_default()
    }

    /// Everything here. `resident` also counts pages in the page cache.
    pub async fn artifacts(&self, resident: bool) -> Vec<ArtifactInfo> {
        self.blocking(move |shelf| Ok(shelf.describe_all(resident))).await.unwrap_or_default()
    }

    /// Takes a lease on an artifact that is here.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn lease(&self, swarm: SwarmId) -> Result<Lease> {
        let lease = self.shelf.lease(swarm)?;
        lease.artifact.touch();
        Ok(lease)
    }

    /// Opens a published file.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` while it is not whole.
    pub async fn open_file(&self, swarm: SwarmId, path: &RelativePath) -> Result<OpenedFile> {
        let path = path.clone();
        self.blocking(move |shelf| shelf.open_file(swarm, &path)).await
    }

    /// Looks at every file, then re-hashes every chunk that should be here; those that are wrong or gone are
    /// dropped from presence and their files unpublished. `progress` hears the bytes done. Which chunks were
    /// dropped since it began.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn verify(
        &self,
        swarm: SwarmId,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Vec<CorruptChunk>> {
        self.scrub(swarm, u64::MAX, progress).await
    }

    /// [`verify`](Self::verify) at no more than `bytes_per_second`: for a background scrub that leaves
    /// the disk to others. Cancel-safe between pieces of 16 MiB.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn scrub(
        &self,
        swarm: SwarmId,
        bytes_per_second: u64,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Vec<CorruptChunk>> {
        // A lease, so that it is not evicted under the reader; not a use, so that it stays where it is in
        // the order of eviction.
        let lease = self.shelf.lease(swarm)?;
        let began = tokio::time::Instant::now();
        let before: HashSet<u32> = lease.artifact.broken().into_iter().map(|(index, _)| index).collect();
        let (mut done, mut next) = (0u64, Some(0));
        while let Some(from) = next {
            let artifact = lease.artifact.clone();
            let found =
                self.blocking(move |shelf| shelf.verify_some(&artifact, from, VERIFY_STEP_BYTES)).await?;
            done += found.bytes;
            progress(done);
            next = found.next;
            let due = Duration::from_secs_f64(done as f64 / bytes_per_second.max(1) as f64);
            tokio::time::sleep_until(began + due).await;
        }
        let after = lease.artifact.broken().into_iter();
        Ok(after.filter(|(index, _)| !before.contains(index)).map(|(_, chunk)| chunk).collect())
    }

    /// How long ago this version was first heard of here.
    pub fn age(&self, swarm: SwarmId) -> Option<Duration> {
        let dir = self.shelf.artifact(swarm).ok()?.dir.clone();
        dir.join("blueprint").metadata().ok()?.modified().ok()?.elapsed().ok()
    }

    /// The chunks of an artifact that were here, turned out wrong or gone, and did not come back.
    pub fn broken(&self, swarm: SwarmId) -> Vec<(u32, CorruptChunk)> {
        self.shelf.artifact(swarm).map(|artifact| artifact.broken()).unwrap_or_default()
    }

    /// The files of an artifact that are not as they were said to be: gone, replaced, or with a chunk that is.
    pub fn ailing(&self, swarm: SwarmId) -> WantedFiles {
        self.shelf.artifact(swarm).map(|artifact| artifact.ailing()).unwrap_or_default()
    }

    /// Looks whether files of an artifact were removed or replaced by somebody else. Reads no byte.
    pub async fn misses_files(&self, swarm: SwarmId) -> bool {
        let Ok(artifact) = self.shelf.artifact(swarm) else { return false };
        let looked = self.blocking(move |shelf| {
            shelf.look(&artifact, &artifact.wanted_files())?;
            Ok(!artifact.lost().is_empty())
        });
        looked.await.unwrap_or(false)
    }

    /// Of these, those that somebody else removed or replaced.
    pub fn lost(&self, swarm: SwarmId) -> WantedFiles {
        self.shelf.artifact(swarm).map(|artifact| artifact.lost()).unwrap_or_default()
    }

    /// Keeps from eviction, or lets go. Durable when this returns.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pin(&self, swarm: SwarmId, pinned: bool) -> Result<()> {
        self.blocking(move |shelf| {
            let lease = shelf.lease(swarm)?;
            lease.artifact.pinned.store(pinned, Ordering::Release);
            lease.artifact.mark_entry_dirty();
            shelf.commit()
        })
        .await
    }

    /// Unlinks an artifact. Readers keep what they have open or mapped.
    ///
    /// # Errors
    /// `NotFound`; `Denied` while pinned or leased, unless `force`.
    pub async fn remove(&self, swarm: SwarmId, force: bool) -> Result<()> {
        self.blocking(move |shelf| shelf.remove(swarm, force)).await
    }

    /// Bytes used, quota, and bytes free on the file system.
    pub fn space(&self) -> Space {
        Space {
            used_bytes: self.shelf.used_bytes(),
            quota_bytes: self.shelf.limits.quota_bytes,
            free_bytes: disk_space(&self.shelf.dir).map_or(0, |disk| disk.free_bytes),
        }
    }

    /// Commits presence now instead of within the second.
    ///
    /// # Errors
    /// Those of the file system; what could not be committed is tried again.
    pub async fn sync(&self) -> Result<()> {
        self.blocking(|shelf| shelf.commit()).await
    }

    /// Commits presence and closes the index within `deadline`. Later calls are `Unavailable`.
    pub async fn close(&self, deadline: Duration) {
        self.shelf.closed.store(true, Ordering::Release);
        self.shelf.wake.notify_one();
        let closing = self.blocking(|shelf| {
            let committed = shelf.commit();
            shelf.index.lock().take();
            shelf.lock.lock().take();
            committed
        });
        match tokio::time::timeout(deadline, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(error = %e, "the last commit failed; the journal has what it lacks"),
            Err(_) => tracing::warn!("the last commit did not end in time; the journal has what it lacks"),
        }
    }

    /// Runs `work` on the blocking pool. It runs to its end even if nobody waits any more.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shelf = self.shelf.clone();
        tokio::task::spawn_blocking(move || work(&shelf)).await.map_err(cut_short)?
    }
}

impl Shelf {
    /// Takes the directory and finds out what is in it.
    fn open(dir: PathBuf, config: &StoreConfig) -> Result<Self> {
        let at = || format!("data directory {} cannot be made", dir.display());
        for below in ["artifacts", "models"] {
            std::fs::create_dir_all(dir.join(below)).at(at)?;
        }
        let dir = dir.canonicalize().at(at)?;
        let lock = DirLock::take(&dir.join("lock"))?;
        let limits = Limits::new(config, disk_space(&dir)?.total_bytes)?;
        let index = Self::open_index(&dir.join("index.redb"))?;
        let kept = Kept::open(dir.join("manifests"), limits.quota_bytes)?;
        let shelf = Self::new(dir, limits, lock, index, kept);
        shelf.recover()?;
        Ok(shelf)
    }
}

fn cut_short(e: tokio::task::JoinError) -> Error {
    let kind = if e.is_panic() { ErrorKind::UNAVAILABLE } else { ErrorKind::Cancelled };
    Error::with_source(kind, "work of the store was cut short", e)
}

/// Commits every second, sooner when much was written, until the store is closed or dropped.
async fn commit_forever(shelf: Weak<Shelf>) {
    loop {
        let Some(open) = shelf.upgrade() else { return };
        if open.closed.load(Ordering::Acquire) {
            return;
        }
        // Only the wish to be woken outlives the strong reference's use: a dropped store ends the task
        // at the next tick.
        let _ = tokio::time::timeout(COMMIT_INTERVAL, open.wake.notified()).await;
        let committed = tokio::task::spawn_blocking(move || open.commit()).await;
        match committed {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "presence could not be committed; trying again");
                tokio::time::sleep(COMMIT_INTERVAL).await;
            }
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

/// Re-hashes what a crash left in doubt, one artifact after the other.
async fn recheck_in_background(shelf: Weak<Shelf>) {
    let Some(open) = shelf.upgrade() else { return };
    let doubtful = open.in_doubt();
    drop(open);
    for artifact in doubtful {
        let Some(open) = shelf.upgrade() else { return };
        let name = artifact.name();
        match tokio::task::spawn_blocking(move || open.recheck_all(&artifact)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                tracing::warn!(artifact = %name, error = %e, "what a crash left cannot be re-hashed now")
            }
            Err(_) => return,
        }
    }
}

/// How full the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Disk bytes of all artifacts, unfinished ones included.
    pub used_bytes: u64,
    /// The most they may take.
    pub quota_bytes: u64,
    /// Free on the file system.
    pub free_bytes: u64,
}

/// Where a published artifact is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The path people use.
    pub path: PathBuf,
    /// The manifest's hash, when every chunk of the blueprint is known.
    pub manifest: Option<ChunkHash>,
}

/// A reader's claim that keeps an artifact from eviction while it lives.
pub struct Lease {
    /// The artifact.
    pub swarm: SwarmId,
    artifact: Arc<Artifact>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "lease on {}", self.artifact.name())
    }
}

#[async_trait]
impl ChunkStore for Store {
    fn inventory(&self, swarm: SwarmId) -> Result<Inventory> {
        Ok(self.shelf.artifact(swarm)?.inventory())
    }

    async fn read(&self, swarm: SwarmId, index: u32) -> Result<(ChunkHash, Bytes)> {
        let artifact = self.shelf.artifact(swarm)?;
        self.blocking(move |shelf| shelf.read_chunk(&artifact, index)).await
    }

    async fn write(&self, swarm: SwarmId, index: u32, chunk: VerifiedChunk) -> Result<()> {
        let artifact = self.shelf.artifact(swarm)?;
        let written = artifact.clone();
        self.blocking(move |shelf| shelf.write_chunk(&artifact, index, &chunk)).await?;
        self.shelf.hash_in_background(&written, written.place(index)?.file);
        Ok(())
    }

    fn knows(&self, hash: &ChunkHash) -> bool {
        !self.shelf.holders_of(hash).is_empty()
    }

    async fn adopt(&self, swarm: SwarmId, index: u32, hash: ChunkHash) -> Result<bool> {
        let artifact = self.shelf.artifact(swarm)?;
        let place = artifact.place(index)?;
        // Asked before every request of a chunk: where nobody has it, no thread is bothered.
        if !self.shelf.is_settled(&artifact, index, place, hash)? && !self.knows(&hash) {
            return Ok(false);
        }
        let into = artifact.clone();
        let adopted = self.blocking(move |shelf| shelf.adopt_chunk(&artifact, index, hash)).await?;
        if adopted {
            self.shelf.hash_in_background(&into, place.file);
        }
        Ok(adopted)
    }

    fn discard(&self, swarm: SwarmId, index: u32) -> Result<()> {
        let artifact = self.shelf.artifact(swarm)?;
        if !self.shelf.drop_chunk(&artifact, index) {
            return Ok(());
        }
        let file = artifact.place(index)?.file;
        if artifact.state().files[file] != FileState::Published {
            return Ok(());
        }
        // It is out of presence already, so nobody is given the file; its path goes on the blocking
        // pool where there is one.
        let shelf = self.shelf.clone();
        let demote = move || {
            if let Err(e) = shelf.demote(&artifact, file) {
                tracing::error!(file = %artifact.file_name(file), error = %e, "a file with a wrong chunk keeps its path");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(demote)),
            Err(_) => demote(),
        }
        Ok(())
    }
}
