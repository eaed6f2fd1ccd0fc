//! The store: one copy of every byte, in place, and nothing reachable before it is whole.
//!
//!     <data>/artifacts/<swarm id>/…   files filled in place, published by rename within the artifact
//!     <data>/index.redb               presence, chunk hash → place, leases, pins, use
//!     <data>/models/<scheme>/<host or org>/<name>/<revision>   the path people use

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use coordinatorless_p2p::{ChunkHash, ChunkSet, ChunkStore, Inventory, SwarmId, VerifiedChunk};

use crate::{
    api::{ArtifactInfo, CorruptChunk},
    error::Result,
    expose::paths::OpenedFile,
    manifest::{Blueprint, Manifest},
    snapshot::RelativePath,
};

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
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { quota_bytes: 0, high_watermark: 0.95, low_watermark: 0.85 }
    }
}

/// Artifacts on one data directory. Cheap to clone. At most one process has it open.
#[derive(Clone)]
pub struct Store {
    inner: Arc<()>,
}

/// Which files of a blueprint a pull wants, ascending indices.
pub type WantedFiles = Vec<usize>;

#[expect(clippy::unimplemented, unused_variables, reason = "the signatures come first")]
impl Store {
    /// Opens or creates the store; rebuilds the index from the artifacts if it is gone or broken.
    ///
    /// # Errors
    /// `Denied` when another process has it open or the directory cannot be written; `Full`; `Invalid`
    /// for settings that cannot work.
    pub async fn open(dir: PathBuf, config: StoreConfig) -> Result<Self> {
        let _ = &Self { inner: Arc::new(()) }.inner;
        unimplemented!()
    }

    /// Makes room for the wanted files (evicting what may go), preallocates them, re-hashes what a
    /// crash left uncommitted, and takes a lease. Idempotent: a second pull widens the first.
    ///
    /// # Errors
    /// `Full` when quota or disk cannot take it, naming the bytes wanted, free and evictable.
    pub async fn admit(&self, blueprint: Arc<Blueprint>, wanted: &WantedFiles) -> Result<Lease> {
        unimplemented!()
    }

    /// Tells the hashes of a manifest for a swarm admitted here, so that presence can be checked
    /// against them and chunks adopted.
    ///
    /// # Errors
    /// `Invalid` when it is not a manifest of that blueprint.
    pub async fn learn_manifest(&self, swarm: SwarmId, manifest: &Manifest) -> Result<()> {
        unimplemented!()
    }

    /// Whether a chunk with this hash is on this disk under any artifact.
    pub fn knows(&self, hash: &ChunkHash) -> bool {
        unimplemented!()
    }

    /// Checks a file whose chunks are all here against the origin's digest, syncs it, makes it
    /// 0444 and gives it its path. True if it was not published before.
    ///
    /// # Errors
    /// `Corrupt` when the digest differs (the file's chunks are discarded, and named); `Unavailable`
    /// after an fsync error, before anything was promised.
    pub async fn publish_file(&self, swarm: SwarmId, file: usize) -> Result<bool> {
        unimplemented!()
    }

    /// All wanted files have their path: seals the manifest when every chunk of the blueprint is
    /// known, and makes the artifact reachable below `models/`.
    ///
    /// # Errors
    /// `Unavailable` when a wanted file is not whole.
    pub async fn publish(&self, swarm: SwarmId, wanted: &WantedFiles) -> Result<Published> {
        unimplemented!()
    }

    /// The blueprint of an artifact that is here, whole or not.
    pub fn blueprint(&self, swarm: SwarmId) -> Option<Arc<Blueprint>> {
        unimplemented!()
    }

    /// The manifest of an artifact that was sealed here.
    pub fn manifest(&self, swarm: SwarmId) -> Option<Arc<Manifest>> {
        unimplemented!()
    }

    /// Finds an artifact by canonical reference (the newest version that is complete, else the
    /// newest), swarm id or manifest hash.
    pub fn find(&self, named: &str) -> Option<SwarmId> {
        unimplemented!()
    }

    /// Everything here. `resident` also counts pages in the page cache.
    pub async fn artifacts(&self, resident: bool) -> Vec<ArtifactInfo> {
        unimplemented!()
    }

    /// Takes a lease on an artifact that is here.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn lease(&self, swarm: SwarmId) -> Result<Lease> {
        unimplemented!()
    }

    /// Opens a published file.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` while it is not whole.
    pub async fn open_file(&self, swarm: SwarmId, path: &RelativePath) -> Result<OpenedFile> {
        unimplemented!()
    }

    /// Re-hashes every chunk that should be here; those that are wrong are dropped from presence
    /// and their files unpublished. `progress` hears the bytes done.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn verify(
        &self,
        swarm: SwarmId,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Vec<CorruptChunk>> {
        unimplemented!()
    }

    /// Keeps from eviction, or lets go.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pin(&self, swarm: SwarmId, pinned: bool) -> Result<()> {
        unimplemented!()
    }

    /// Unlinks an artifact.
    ///
    /// # Errors
    /// `NotFound`; `Denied` while pinned or leased, unless `force`.
    pub async fn remove(&self, swarm: SwarmId, force: bool) -> Result<()> {
        unimplemented!()
    }

    /// Bytes used, quota, and bytes free on the file system.
    pub fn space(&self) -> Space {
        unimplemented!()
    }

    /// Commits presence and closes the index within `deadline`.
    pub async fn close(&self, deadline: Duration) {
        unimplemented!()
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
}

#[expect(clippy::unimplemented, unused_variables, reason = "the signatures come first")]
#[async_trait]
impl ChunkStore for Store {
    fn inventory(&self, swarm: SwarmId) -> Result<Inventory> {
        let _: Option<ChunkSet> = None;
        unimplemented!()
    }

    async fn read(&self, swarm: SwarmId, index: u32) -> Result<(ChunkHash, Bytes)> {
        unimplemented!()
    }

    async fn write(&self, swarm: SwarmId, index: u32, chunk: VerifiedChunk) -> Result<()> {
        unimplemented!()
    }

    async fn adopt(&self, swarm: SwarmId, index: u32, hash: ChunkHash) -> Result<bool> {
        unimplemented!()
    }

    fn discard(&self, swarm: SwarmId, index: u32) -> Result<()> {
        unimplemented!()
    }
}
