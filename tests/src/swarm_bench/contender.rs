//! What moves the bytes: Emberline's agents, or a rival measured the same way.
//!
//! A [`Field`] is a contender set up in the nodes of one network. Releasing, timing and cost of each
//! node are its business; the network, the origin and the check of the copies are not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use emberline_agent::api::Sources;

use super::{
    delivery::{Delivered, Delivery, Site, Wave},
    fleet::Fleet,
    origin::Origin,
};
use crate::{
    binaries::Binaries, client::AgentClient, environment, model::Model, namespaces::Namespace,
    process_stats::ProcessStats,
};

/// What moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// Our agents.
    Emberline,
    /// Each node by itself with curl, over one connection.
    Curl,
    /// Each node by itself with aria2c, over sixteen.
    Aria2,
    /// Each node by itself with s5cmd, from an S3 server.
    S5cmd,
}

impl Contender {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emberline => "emberline",
            Self::Curl => "curl",
            Self::Aria2 => "aria2",
            Self::S5cmd => "s5cmd",
        }
    }

    /// Sets the contender up in `nodes`, cold.
    pub(super) async fn prepare(
        self,
        home: &Path,
        origin: &Origin,
        model: Arc<Model>,
        sites: &[Site],
    ) -> Result<Field> {
        let (url, variables) = (origin.url(), origin.variables());
        let plain = |download| Runners::Plain { download, home: home.to_owned(), nodes: Vec::new() };
        let runners = match self {
            Self::Emberline => Runners::Agents(Fleet::new(url.clone(), variables.clone())?),
            Self::Curl => plain(curl),
            Self::Aria2 => plain(aria2),
            Self::S5cmd => {
                environment::s5cmd().map_err(|e| Error::new(ErrorKind::NotFound, e))?;
                plain(s5cmd)
            }
        };
        let mut field = Field { runners, url, variables, model, delivered: 0 };
        field.join(sites).await?;
        Ok(field)
    }
}

/// A contender in the nodes of one network.
pub(super) struct Field {
    runners: Runners,
    url: String,
    /// How to reach the origin, as environment variables.
    variables: Vec<(String, String)>,
    model: Arc<Model>,
    /// Nodes that have the model.
    delivered: usize,
}

enum Runners {
    Agents(Fleet),
    Plain { download: Download, home: PathBuf, nodes: Vec<Namespace> },
}

/// The command that brings a model from a URL into a directory.
type Download = fn(&str, &Model, &Path) -> Command;

impl Field {
    /// Adds nodes that hold nothing.
    pub(super) async fn join(&mut self, newcomers: &[Site]) -> Result<()> {
        match &mut self.runners {
            Runners::Agents(fleet) => fleet.join(newcomers).await,
            Runners::Plain { nodes, .. } => {
                nodes.extend(newcomers.iter().map(|site| site.node.clone()));
                Ok(())
            }
        }
    }

    /// Has every node that joined since the last delivery fetch the model, each at its start.
    pub(super) async fn deliver(&mut self, wave: &Wave) -> Result<Delivered> {
        let from = self.delivered;
        self.delivered += wave.starts.len() + wave.stragglers;
        match &mut self.runners {
            Runners::Agents(fleet) => fleet.deliver(from, self.model.bytes(), wave).await,
            Runners::Plain { .. } if wave.departure.is_some() || wave.stragglers > 0 => {
                let text = "only agents can be let go or have a straggler among them: leave the rival out";
                Err(Error::new(ErrorKind::Invalid, text))
            }
            Runners::Plain { download, home, nodes } => {
                let (download, home, nodes) = (*download, home.clone(), nodes[from..].to_vec());
                let deliveries =
                    self.deliver_by_downloads(download, &home, &nodes, from, &wave.starts).await?;
                Ok(Delivered { deliveries, departed: None, sources: 0 })
            }
        }
    }

    /// How to ask the agent of a node; rivals have none.
    pub(super) fn agent(&self, node: usize) -> Option<AgentClient> {
        match &self.runners {
            Runners::Agents(fleet) => fleet.client(node),
            Runners::Plain { .. } => None,
        }
    }

    /// Names and versions of what was measured.
    pub(super) fn versions(&self) -> String {
        let version = |program: &Path| {
            // s5cmd has a command for it.
            let ask = if program.ends_with("s5cmd") { "version" } else { "--version" };
            let output = Command::new(program).arg(ask).stdin(Stdio::null()).output();
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
            let mut command = download(&self.url, &self.model, &dir);
            command.envs(self.variables.iter().map(|(name, value)| (name, value)));
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
                Ok(Delivery { node: from + n, path: dir, finished, own: finished - start, sources, stats })
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

/// One s5cmd for the whole model: as it comes, 256 workers, five parts of 50 MB a file.
fn s5cmd(url: &str, _: &Model, dir: &Path) -> Command {
    let mut command = Command::new(environment::s5cmd().unwrap_or_else(|_| PathBuf::from("s5cmd")));
    command.args(["--log", "error", "cp", &format!("{url}*")]).arg(dir.join(""));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}
