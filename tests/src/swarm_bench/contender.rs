//! What moves the bytes: Emberline's agents, or a rival measured the same way.
//!
//! A [`Field`] is a contender set up in the nodes of one network. Releasing, timing and cost of each
//! node are its business; the network, the origin and the check of the copies are not.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use emberline_agent::api::{Phase, PullRequest, Sources};

use crate::{
    binaries::Binaries, client::AgentClient, cluster::Cluster, model::Model, namespaces::Namespace,
    process_stats::ProcessStats,
};

/// How much longer than alone behind the slowest link a node may take before the measurement is
/// given up: the worst rival in PERFORMANCE.md takes nine times.
const PATIENCE: Duration = Duration::from_secs(900);

/// What moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// Our agents.
    Emberline,
    /// Each node by itself with curl, over one connection.
    Curl,
    /// Each node by itself with aria2c, over sixteen.
    Aria2,
}

/// How often an agent is asked whether it is done: asking costs CPU that the agents lack.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

impl Contender {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emberline => "emberline",
            Self::Curl => "curl",
            Self::Aria2 => "aria2",
        }
    }

    /// Sets the contender up in `nodes`, cold.
    pub(super) async fn prepare(
        self,
        home: &Path,
        url: &str,
        model: Arc<Model>,
        sites: &[Site],
    ) -> Result<Field> {
        let runners = match self {
            Self::Emberline => Runners::Agents(Cluster::empty()?),
            Self::Curl => Runners::plain(curl, home),
            Self::Aria2 => Runners::plain(aria2, home),
        };
        let mut field = Field { runners, url: url.to_owned(), model, delivered: 0 };
        field.join(sites).await?;
        Ok(field)
    }
}

/// Where one node is.
pub(super) struct Site {
    pub(super) node: Namespace,
    pub(super) host: IpAddr,
    pub(super) zone: Option<usize>,
}

/// A contender in the nodes of one network.
pub(super) struct Field {
    runners: Runners,
    url: String,
    model: Arc<Model>,
    /// Nodes that have the model.
    delivered: usize,
}

enum Runners {
    Agents(Cluster),
    Plain { download: Download, home: PathBuf, nodes: Vec<Namespace> },
}

/// The command that brings a model from a URL into a directory.
type Download = fn(&str, &Model, &Path) -> Command;

impl Runners {
    fn plain(download: Download, home: &Path) -> Self {
        Self::Plain { download, home: home.to_owned(), nodes: Vec::new() }
    }
}

/// How one node fared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Delivery {
    /// Where its copy is.
    pub(super) path: PathBuf,
    /// From the common release until the copy was whole.
    pub(super) finished: Duration,
    /// From this node's own start until the copy was whole.
    pub(super) own: Duration,
    /// Where its bytes came from.
    pub(super) sources: Sources,
    /// What the process cost; for agents only what this delivery added, but for the peak.
    pub(super) stats: ProcessStats,
}

impl Field {
    /// Adds nodes that hold nothing.
    pub(super) async fn join(&mut self, newcomers: &[Site]) -> Result<()> {
        match &mut self.runners {
            Runners::Agents(cluster) => {
                for site in newcomers {
                    let zone = site.zone.map(|zone| format!("zone{zone}")).unwrap_or_default();
                    cluster.join_in_zone(&site.node, site.host, &zone).await?;
                }
                cluster.wait_formed(cluster.agents().len()).await
            }
            Runners::Plain { nodes, .. } => {
                nodes.extend(newcomers.iter().map(|site| site.node.clone()));
                Ok(())
            }
        }
    }

    /// Has every node that joined since the last delivery fetch the model, each at its start.
    pub(super) async fn deliver(&mut self, starts: &[Duration]) -> Result<Vec<Delivery>> {
        let from = self.delivered;
        self.delivered += starts.len();
        match &self.runners {
            Runners::Agents(cluster) => self.deliver_by_agents(cluster, from, starts).await,
            Runners::Plain { download, home, nodes } => {
                self.deliver_by_downloads(*download, home, &nodes[from..], from, starts).await
            }
        }
    }

    /// How to ask the agent of a node; rivals have none.
    pub(super) fn agent(&self, node: usize) -> Option<AgentClient> {
        match &self.runners {
            Runners::Agents(cluster) => cluster.agents().get(node).map(|agent| agent.client().clone()),
            Runners::Plain { .. } => None,
        }
    }

    /// Names and versions of what was measured.
    pub(super) fn versions(&self) -> String {
        let version = |program: &Path| {
            let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
        };
        match &self.runners {
            Runners::Agents(_) => Binaries::locate().map(|found| version(&found.agent)).unwrap_or_default(),
            Runners::Plain { download, .. } => {
                version(Path::new(download(&self.url, &self.model, Path::new("")).get_program()))
            }
        }
    }

    async fn deliver_by_agents(
        &self,
        cluster: &Cluster,
        from: usize,
        starts: &[Duration],
    ) -> Result<Vec<Delivery>> {
        let all = cluster.agents();
        let before: Vec<ProcessStats> = all.iter().map(|agent| agent.stats()).collect::<Result<_>>()?;
        let release = Instant::now();
        let pulls = all[from..].iter().zip(starts).map(|(agent, start)| {
            let (client, url, start) = (agent.client().clone(), self.url.clone(), *start);
            async move { pull(&client, &url, release, start).await.map_err(|e| e.context(agent.name())) }
        });
        let mut deliveries = futures::future::try_join_all(pulls).await?;
        let costs: Vec<ProcessStats> = all.iter().map(|agent| agent.stats()).collect::<Result<_>>()?;
        // Those that were warm already serve too; their cost is part of this delivery.
        let cpu_of_others: f64 =
            costs[..from].iter().zip(&before).map(|(now, then)| now.cpu_seconds - then.cpu_seconds).sum();
        for (n, delivery) in deliveries.iter_mut().enumerate() {
            let (now, then) = (costs[from + n], before[from + n]);
            let cpu_seconds = now.cpu_seconds - then.cpu_seconds + cpu_of_others / starts.len() as f64;
            delivery.stats = ProcessStats { cpu_seconds, ..now };
        }
        Ok(deliveries)
    }

    async fn deliver_by_downloads(
        &self,
        download: Download,
        home: &Path,
        nodes: &[Namespace],
        from: usize,
        starts: &[Duration],
    ) -> Result<Vec<Delivery>> {
        let mut downloads = Vec::new();
        let us = ProcessStats::read(std::process::id())?.cpu_seconds;
        let release = Instant::now();
        for (n, (node, start)) in nodes.iter().zip(starts).enumerate() {
            let dir = home.join(format!("copy-{}", from + n));
            fs::create_dir(&dir).at(|| dir.display().to_string())?;
            let command = download(&self.url, &self.model, &dir);
            let program = command.get_program().to_string_lossy().into_owned();
            let (node, start, bytes) = (node.clone(), *start, self.model.bytes());
            downloads.push(async move {
                tokio::time::sleep_until((release + start).into()).await;
                let status =
                    node.run(async move { tokio::process::Command::from(command).status().await }).await?;
                let finished = release.elapsed();
                if !status.at(|| format!("run {program} (is it installed?)"))?.success() {
                    let text = format!("{program} into {} failed", dir.display());
                    return Err(Error::new(ErrorKind::UNAVAILABLE, text));
                }
                let sources = Sources { origin: bytes, ..Sources::default() };
                let stats = ProcessStats::default();
                Ok(Delivery { path: dir, finished, own: finished - start, sources, stats })
            });
        }
        let mut deliveries = futures::future::try_join_all(downloads).await?;
        // Children that ended are counted to us; we ourselves only waited.
        let cpu_seconds = ProcessStats::read(std::process::id())?.cpu_seconds - us;
        for delivery in &mut deliveries {
            delivery.stats.cpu_seconds = cpu_seconds / starts.len() as f64;
        }
        Ok(deliveries)
    }
}

async fn pull(client: &AgentClient, url: &str, release: Instant, start: Duration) -> Result<Delivery> {
    tokio::time::sleep_until((release + start).into()).await;
    let request = PullRequest { reference: url.to_owned(), ..PullRequest::default() };
    let started = client.start_pull(&request).await?;
    let ended = client.watch_pull_every(POLL_INTERVAL, &started.id, PATIENCE, |_| false).await?;
    let finished = release.elapsed();
    match (ended.phase, ended.path) {
        (Phase::Complete, Some(path)) => Ok(Delivery {
            path,
            finished,
            own: finished - start,
            sources: ended.sources,
            stats: ProcessStats::default(),
        }),
        (phase, _) => {
            let words = ended.error.map(|problem| problem.message).unwrap_or_default();
            Err(Error::new(ErrorKind::UNAVAILABLE, format!("pull of {url} ended {phase:?}: {words}")))
        }
    }
}

/// One curl for the whole model: one connection, kept.
fn curl(url: &str, model: &Model, dir: &Path) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--globoff", "--noproxy", "*"]);
    for file in &model.files {
        command.arg("-o").arg(dir.join(&file.path)).arg(format!("{url}{}", file.path));
    }
    command.stdin(Stdio::null());
    command
}

/// One aria2c for the whole model, file after file; its pieces are verified by nobody.
fn aria2(url: &str, model: &Model, dir: &Path) -> Command {
    let mut command = Command::new("aria2c");
    command.args(["--quiet", "--max-connection-per-server=16", "--split=16", "--min-split-size=1M"]);
    command.args(["--force-sequential", "--file-allocation=falloc", "--max-concurrent-downloads=4"]);
    command.arg("--dir").arg(dir);
    for file in &model.files {
        command.arg(format!("{url}{}", file.path));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}
