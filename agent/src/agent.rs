//! The agent as one object: what every door and command asks of it.
//!
//! Owns the store, the origins, the cluster and the running jobs. Doors translate to and from
//! these calls and hold no logic of their own.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    api::{
        ArtifactInfo, Member, PathAnswer, Plan, PlanRequest, PullRequest, PullStatus, ScaleHook, Status,
        VerifyReport, WarmRequest, WarmStatus,
    },
    config::Config,
    error::Result,
    expose::paths::OpenedFile,
};

/// A running agent. Cheap to clone; all clones are the same agent.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {}

#[expect(clippy::unimplemented, unused_variables, reason = "the signatures come first")]
impl Agent {
    /// Opens the store, binds the QUIC socket, joins the cluster. Doors are started by the caller.
    ///
    /// # Errors
    /// `Invalid` for a configuration that cannot work; `Denied` and `Full` from the data directory.
    pub async fn start(config: Config) -> Result<Self> {
        unimplemented!()
    }

    /// Starts a pull, or joins the one under way for the same artifact and files.
    ///
    /// # Errors
    /// `Invalid` for a reference or pattern that cannot be parsed; later failures are in the status.
    pub fn pull(&self, request: PullRequest) -> Result<watch::Receiver<PullStatus>> {
        unimplemented!()
    }

    /// Every pull that is running or ended lately, oldest first.
    pub fn pulls(&self) -> Vec<PullStatus> {
        unimplemented!()
    }

    /// Follows one pull.
    ///
    /// # Errors
    /// `NotFound` for an id that is unknown or long gone.
    pub fn watch_pull(&self, id: &str) -> Result<watch::Receiver<PullStatus>> {
        unimplemented!()
    }

    /// Ends a pull; what is here stays for the next one.
    ///
    /// # Errors
    /// `NotFound` for an id that is unknown.
    pub fn cancel_pull(&self, id: &str) -> Result<()> {
        unimplemented!()
    }

    /// What a pull would do.
    ///
    /// # Errors
    /// As resolving: `NotFound`, `Denied`, `Unavailable`, `Invalid`.
    pub async fn plan(&self, request: PlanRequest) -> Result<Plan> {
        unimplemented!()
    }

    /// Has other nodes pull.
    ///
    /// # Errors
    /// `Invalid` for a selector that names nobody or more than one way.
    pub fn warm(&self, request: WarmRequest) -> Result<watch::Receiver<WarmStatus>> {
        unimplemented!()
    }

    /// Warms for an autoscaler.
    ///
    /// # Errors
    /// As [`warm`](Self::warm).
    pub fn scale(&self, hook: ScaleHook) -> Result<watch::Receiver<WarmStatus>> {
        unimplemented!()
    }

    /// Every warm-up that is running or ended lately, oldest first.
    pub fn warms(&self) -> Vec<WarmStatus> {
        unimplemented!()
    }

    /// Follows one warm-up.
    ///
    /// # Errors
    /// `NotFound` for an id that is unknown or long gone.
    pub fn watch_warm(&self, id: &str) -> Result<watch::Receiver<WarmStatus>> {
        unimplemented!()
    }

    /// Ends a warm-up on every node it runs on.
    ///
    /// # Errors
    /// `NotFound` for an id that is unknown.
    pub fn cancel_warm(&self, id: &str) -> Result<()> {
        unimplemented!()
    }

    /// What is on this disk. `resident` also counts pages in the page cache, which costs a walk.
    pub async fn artifacts(&self, resident: bool) -> Vec<ArtifactInfo> {
        unimplemented!()
    }

    /// One artifact by reference, swarm id or manifest hash.
    ///
    /// # Errors
    /// `NotFound` when it is not here.
    pub async fn artifact(&self, named: &str) -> Result<ArtifactInfo> {
        unimplemented!()
    }

    /// Where a complete artifact is.
    ///
    /// # Errors
    /// `NotFound` when it is not here; `Unavailable` while it is not whole.
    pub async fn path(&self, named: &str) -> Result<PathAnswer> {
        unimplemented!()
    }

    /// Opens one whole file of an artifact for serving. Takes a lease for as long as it lives.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` while it is not whole.
    pub async fn open_file(&self, named: &str, path: &str) -> Result<OpenedFile> {
        unimplemented!()
    }

    /// Re-hashes an artifact and, with `repair`, fetches again what is wrong.
    ///
    /// # Errors
    /// `NotFound` when it is not here.
    pub async fn verify(&self, named: &str, repair: bool) -> Result<VerifyReport> {
        unimplemented!()
    }

    /// Keeps an artifact from eviction, or lets it go.
    ///
    /// # Errors
    /// `NotFound` when it is not here.
    pub async fn pin(&self, named: &str, pinned: bool) -> Result<()> {
        unimplemented!()
    }

    /// Removes an artifact from this disk. Readers keep what they have mapped.
    ///
    /// # Errors
    /// `NotFound`; `Denied` while it is pinned or leased, unless `force`.
    pub async fn remove(&self, named: &str, force: bool) -> Result<()> {
        unimplemented!()
    }

    /// The members this node sees, itself first.
    pub fn members(&self) -> Vec<Member> {
        unimplemented!()
    }

    /// The agent in one glance.
    pub async fn status(&self, resident: bool) -> Status {
        unimplemented!()
    }

    /// Whether pulls can be served now; the reason when not.
    ///
    /// # Errors
    /// `Unavailable` while starting or stopping; `Full` when the disk cannot take a byte.
    pub fn ready(&self) -> Result<()> {
        unimplemented!()
    }

    /// Stops accepting, drains until `deadline`, says goodbye, syncs.
    pub async fn shutdown(&self, deadline: Duration) {
        unimplemented!()
    }
}
