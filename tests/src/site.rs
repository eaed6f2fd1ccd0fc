//! A generated model behind nginx behind a relay: an origin with a middle to break.
//!
//! The relay counts what the origin gives and holds it to a rate, so that a transfer has a middle on
//! any machine. Methods panic with what is wrong: they are a test's steps, not a service.

use std::{path::Path, time::Duration};

use emberline_agent::api::{PullRequest, PullStatus};
use rustix::fs::{CWD, RenameFlags};
use tempfile::TempDir;

use crate::{
    agent_process::AgentProcess, client::AgentClient, environment::Nginx, model::Model, relay::Relay,
};

/// Long for a machine that also compiles, short for a hang.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The origin of a test.
#[derive(Debug)]
pub struct Site {
    model: Model,
    relay: Relay,
    nginx: Nginx,
    _dir: TempDir,
}

impl Site {
    /// About `mib` MiB that take about `seconds` to leave the origin once.
    ///
    /// # Panics
    /// When the model cannot be written or nginx not be had.
    pub async fn start(mib: u64, seconds: u64) -> Self {
        Self::serve(mib, Some(seconds)).await
    }

    /// About `mib` MiB, as fast as the machine gives them.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn unpaced(mib: u64) -> Self {
        Self::serve(mib, None).await
    }

    async fn serve(mib: u64, seconds: Option<u64>) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().to_owned();
        let (model, nginx) = tokio::task::spawn_blocking(move || {
            let model = Model::generate(&root, mib << 20, 11).expect("a model");
            (model, Nginx::start(&root, "").expect("nginx"))
        })
        .await
        .expect("no panic");
        let upstream = nginx.url().trim_start_matches("http://").parse().expect("an address");
        let rate = seconds.map(|seconds| model.bytes() / seconds);
        let relay = Relay::start(upstream, rate).await.expect("a relay");
        Self { model, relay, nginx, _dir: dir }
    }

    /// What is served.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Puts another model of the same size and with the same file names in its place.
    ///
    /// # Panics
    /// When it cannot be written.
    pub async fn replace_model(&mut self) {
        let (root, bytes) = (self.model.dir.clone(), self.model.bytes());
        let fresh = tempfile::tempdir_in(root.parent().unwrap_or(&root)).expect("temporary directory");
        let model = tokio::task::spawn_blocking(move || {
            let mut model = Model::generate(fresh.path(), bytes, 12).expect("a model");
            // All at once, so that nobody can list one half of each.
            rustix::fs::renameat_with(CWD, fresh.path(), CWD, &root, RenameFlags::EXCHANGE).expect("swapped");
            model.dir = root;
            model
        });
        self.model = model.await.expect("no panic");
    }

    /// What stands between the agents and the origin.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// What the origin was asked for so far, one line a request.
    pub fn access_log(&self) -> String {
        self.nginx.access_log()
    }

    /// What people type.
    pub fn reference(&self) -> String {
        format!("{}/", self.relay.url())
    }

    /// Bytes the origin gave, as a multiple of the model.
    pub fn ratio(&self) -> f64 {
        self.relay.delivered() as f64 / self.model.bytes() as f64
    }

    /// Pulls all of it.
    ///
    /// # Panics
    /// When the pull fails.
    pub async fn pull(&self, agent: &AgentProcess) -> PullStatus {
        agent.client().pull(&self.reference(), PATIENCE).await.expect("pulled")
    }

    /// Starts a pull.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn start_pull(&self, client: &AgentClient) -> PullStatus {
        let request = PullRequest { reference: self.reference(), ..PullRequest::default() };
        client.start_pull(&request).await.expect("started")
    }

    /// Starts a pull and waits until `share` of it is done.
    ///
    /// # Panics
    /// When the pull is over before.
    pub async fn pull_until(&self, client: &AgentClient, share: f64) -> PullStatus {
        let started = self.start_pull(client).await;
        let enough = |status: &PullStatus| {
            status.total_bytes > 0 && status.done_bytes as f64 >= share * status.total_bytes as f64
        };
        let status = client.watch_pull(&started.id, PATIENCE, enough).await.expect("alive");
        assert!(!status.phase.is_over(), "the pull was over before the fault: {status:?}");
        status
    }

    /// Checks the files of a complete pull, byte for byte.
    ///
    /// # Panics
    /// When one differs.
    pub fn is_whole(&self, status: &PullStatus) {
        self.is_copy(status.path.as_deref().expect("a complete pull has a path"));
    }

    /// Checks a copy, byte for byte.
    ///
    /// # Panics
    /// When it differs.
    pub fn is_copy(&self, path: &Path) {
        self.model.check_copy(path).expect("an exact copy");
    }
}
