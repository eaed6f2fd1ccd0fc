//! One `emberline-agent` as a real process on a directory of its own.
//!
//! Finds out from `<data>/agent.json` where it listens, waits until it is ready, and can kill, stop,
//! continue and restart it on the same directory. The log is kept and shown when a test panics.
//! Knows the agent only by its flags, files, signals and HTTP interface.

use std::{
    fs::OpenOptions,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::{
    binaries::{Binaries, without_our_settings},
    client::{AgentClient, POLL_INTERVAL},
    namespaces::Namespace,
    process_stats::ProcessStats,
};

/// How long an agent may take to become ready: seconds on a machine that also compiles.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// How long an agent may take to stop after SIGTERM before the test calls it a hang.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Lines of the log that a panicking test shows.
const LOG_TAIL_LINES: usize = 80;

/// How to start an agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// What people call it; also names its log.
    pub name: String,
    /// Availability zone; empty for none.
    pub zone: String,
    /// Where it listens for QUIC.
    pub listen: SocketAddr,
    /// Members to join by.
    pub seeds: Vec<SocketAddr>,
    /// The cluster secret's file.
    pub secret_file: Option<PathBuf>,
    /// A configuration file.
    pub config_file: Option<PathBuf>,
    /// Environment variables on top of ours.
    pub env: Vec<(String, String)>,
    /// The namespace it runs in; absent: the test's own.
    pub namespace: Option<Namespace>,
    /// The program, when it is not the one that cargo built.
    pub program: Option<PathBuf>,
}

impl AgentOptions {
    /// An agent on loopback, alone.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            zone: String::new(),
            listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
            seeds: Vec::new(),
            secret_file: None,
            config_file: None,
            env: Vec::new(),
            namespace: None,
            program: None,
        }
    }
}

/// A running agent, killed on drop.
#[derive(Debug)]
pub struct AgentProcess {
    options: AgentOptions,
    data_dir: PathBuf,
    log: PathBuf,
    child: Child,
    bound: Bound,
    client: AgentClient,
}

/// `<data>/agent.json`: where the agent listens.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Bound {
    http: SocketAddr,
    quic: SocketAddr,
    s3: Option<SocketAddr>,
    pid: u32,
}

impl AgentProcess {
    /// Starts an agent on `data_dir` and waits until it is ready.
    ///
    /// # Errors
    /// `Invalid` with the end of the log when it exits; `Timeout` likewise when it does not get ready.
    pub async fn start(data_dir: &Path, options: AgentOptions) -> Result<Self> {
        std::fs::create_dir_all(data_dir).at(|| data_dir.display().to_string())?;
        let log = data_dir.with_extension("log");
        let child = spawn(data_dir, &log, &options).await?;
        let (child, bound, client) = wait_ready(child, data_dir, &log, &options).await?;
        Ok(Self { options, data_dir: data_dir.to_owned(), log, child, bound, client })
    }

    /// Its HTTP interface.
    pub fn client(&self) -> &AgentClient {
        &self.client
    }

    /// Where it listens for QUIC.
    pub fn quic(&self) -> SocketAddr {
        self.bound.quic
    }

    /// Where it listens for HTTP.
    pub fn http(&self) -> SocketAddr {
        self.bound.http
    }

    /// Where it listens for S3, if its configuration says so.
    pub fn s3(&self) -> Option<SocketAddr> {
        self.bound.s3
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// CPU time and memory so far.
    ///
    /// # Errors
    /// As [`ProcessStats::read`].
    pub fn stats(&self) -> Result<ProcessStats> {
        ProcessStats::read(self.child.id())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// `Unavailable` when it could not be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().at(|| format!("kill {}", self.options.name))?;
        self.child.wait().at(|| format!("wait for {}", self.options.name)).map(drop)
    }

    /// Freezes it: it keeps its sockets and answers nothing.
    ///
    /// # Errors
    /// `Unavailable` when it is gone.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen agent go on.
    ///
    /// # Errors
    /// `Unavailable` when it is gone.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, and waits for the exit.
    ///
    /// # Errors
    /// `Timeout` when it is still there after a minute.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_exit(STOP_DEADLINE).await
    }

    /// Starts it again on the same directory and QUIC address, after [`kill`](Self::kill) or
    /// [`stop`](Self::stop).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<()> {
        self.options.listen = self.bound.quic;
        let child = spawn(&self.data_dir, &self.log, &self.options).await?;
        let (child, bound, client) = wait_ready(child, &self.data_dir, &self.log, &self.options).await?;
        (self.child, self.bound, self.client) = (child, bound, client);
        Ok(())
    }

    /// As [`restart`](Self::restart), with other members to join by.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart_towards(&mut self, seeds: Vec<SocketAddr>) -> Result<()> {
        self.options.seeds = seeds;
        self.restart().await
    }

    /// As [`restart`](Self::restart), without these variables.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart_without(&mut self, variables: &[&str]) -> Result<()> {
        self.options.env.retain(|(name, _)| !variables.contains(&name.as_str()));
        self.restart().await
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// `Timeout` when it is still there after `deadline`.
    pub async fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().at(|| format!("wait for {}", self.options.name))? {
                return Ok(status);
            }
            if start.elapsed() > deadline {
                return Err(Error::new(ErrorKind::Timeout, format!("{} does not end", self.options.name)));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id() as i32)
            .ok_or_else(|| Error::new(ErrorKind::Invalid, "process id 0"))?;
        kill_process(pid, signal).map_err(std::io::Error::from).at(|| format!("signal {}", self.options.name))
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // Dead already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- end of the log of {} ---\n{}", self.options.name, tail(&self.log));
        }
    }
}

async fn spawn(data_dir: &Path, log: &Path, options: &AgentOptions) -> Result<Child> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => Binaries::locate()?.agent,
    };
    // What an earlier life wrote would name ports that are no longer ours; none there is as good.
    drop(std::fs::remove_file(data_dir.join("agent.json")));
    let out = OpenOptions::new().create(true).append(true).open(log).at(|| log.display().to_string())?;
    let errors = out.try_clone().at(|| log.display().to_string())?;
    // With util-linux' help the agent dies with the thread that started it, even if that is killed.
    let mut command = without_our_settings("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    if let Some(config) = &options.config_file {
        command.arg("--config").arg(config);
    }
    command.arg("--data-dir").arg(data_dir);
    command.args(["--http", "127.0.0.1:0", "--listen", &options.listen.to_string(), "--name", &options.name]);
    if !options.zone.is_empty() {
        command.args(["--zone", &options.zone]);
    }
    if let Some(secret) = &options.secret_file {
        command.arg("--secret-file").arg(secret);
    }
    for seed in &options.seeds {
        command.args(["--seed", &seed.to_string()]);
    }
    command
        .envs(options.env.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors);
    let spawned = match &options.namespace {
        Some(namespace) => namespace.run(async move { command.spawn() }).await?,
        None => command.spawn(),
    };
    spawned.at(|| "start setpriv (package util-linux)".to_owned())
}

async fn wait_ready(
    mut child: Child,
    data_dir: &Path,
    log: &Path,
    options: &AgentOptions,
) -> Result<(Child, Bound, AgentClient)> {
    let start = Instant::now();
    let ended = loop {
        if let Some(status) = child.try_wait().at(|| format!("wait for {}", options.name))? {
            break Error::new(ErrorKind::Invalid, format!("{} exited with {status}", options.name));
        }
        if start.elapsed() > READY_DEADLINE {
            // Gone in the meantime is as good.
            drop(child.kill());
            drop(child.wait());
            break Error::new(ErrorKind::Timeout, format!("{} is not ready", options.name));
        }
        if let Some(bound) = bound(data_dir).filter(|bound| bound.pid == child.id()) {
            let client = AgentClient::new(bound.http, options.namespace.clone())?;
            if client.is_ready().await {
                return Ok((child, bound, client));
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    Err(ended.context(format!("start {}, whose log ends\n{}", options.name, tail(log))))
}

fn bound(data_dir: &Path) -> Option<Bound> {
    serde_json::from_slice(&std::fs::read(data_dir.join("agent.json")).ok()?).ok()
}

fn tail(log: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = std::fs::File::open(log) {
        // A log that cannot be read is shown as far as it could.
        drop(file.read_to_string(&mut text));
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// An address of `host` where the system picks the port.
pub fn any_port(host: IpAddr) -> SocketAddr {
    SocketAddr::new(host, 0)
}
