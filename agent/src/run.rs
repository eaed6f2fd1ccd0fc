//! One agent from start to stop: what the daemon, `preload agent` and the command line's own engine
//! share.
//!
//! Owns the order of things: door open (health answers) → agent started → `agent.json` written →
//! ready told; and at a stop the reverse, within the deadline. Knows nothing of command lines.
//!
//! Invariant: `agent.json` is there only while an agent listens at the addresses in it, crashes
//! excepted; it names the process, so that a reader can tell. An agent on a full disk goes without it.

use std::{
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    config::{Config, LogConfig, LogFormat},
    error::{Error, ErrorKind, IoContext, Result},
    expose::{
        fuse,
        http::{self, AgentSlot},
        s3,
    },
    metrics,
};

/// Where in the data directory a running agent says how to reach it.
pub const ADDRESS_FILE: &str = "agent.json";
/// More worker threads than this only fight over the same memory bandwidth.
const MAX_WORKERS: usize = 32;
/// How often a full disk is asked again for the room that `agent.json` takes.
const ADDRESS_FILE_AGAIN: Duration = Duration::from_secs(5);
/// How long files that are open in the mount are waited for: their readers keep what the kernel reads for them.
const UNMOUNT_WITHIN: Duration = Duration::from_secs(1);
/// The exit code of a second signal, as shells print it for SIGINT.
const EXIT_AT_ONCE: i32 = 130;

/// Where a running agent listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The HTTP door.
    pub http: SocketAddr,
    /// QUIC, as others dial it.
    pub quic: SocketAddr,
    /// The S3 door, where it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<SocketAddr>,
}

/// What `agent.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningAgent {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Where it listens.
    #[serde(flatten)]
    pub bound: Bound,
}

impl RunningAgent {
    /// Reads what the agent on `data_dir` wrote; `None` if there is none or its process is gone.
    ///
    /// # Errors
    /// `Denied` when it may not be read; `Invalid` when it is not such a file.
    pub fn find(data_dir: &Path) -> Result<Option<Self>> {
        let path = data_dir.join(ADDRESS_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).at(|| path.display().to_string()),
        };
        let agent: Self = serde_json::from_slice(&text)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, path.display().to_string(), e))?;
        Ok(Path::new(&format!("/proc/{}", agent.pid)).exists().then_some(agent))
    }
}

/// Runs an agent until `stop` or the first SIGTERM or SIGINT; the second signal ends the process at
/// once with exit code 130. `ready` is called once when it can be reached. Not cancel-safe.
///
/// # Errors
/// As [`Config::validate`], [`Agent::start`] and binding the HTTP door. Nothing is left behind then.
pub async fn run(config: Config, stop: CancellationToken, ready: impl FnOnce(Bound)) -> Result<()> {
    let _signals =
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(heed_signals(signals()?, stop.clone())));
    run_until(stop, config, ready).await
}

/// As [`run`], in a process that heeds the signals itself: until `stop` alone. Not cancel-safe.
///
/// # Errors
/// As [`run`].
pub async fn run_until(stop: CancellationToken, config: Config, ready: impl FnOnce(Bound)) -> Result<()> {
    config.validate()?;
    metrics::install();
    let listener =
        TcpListener::bind(config.http.listen).await.at(|| format!("HTTP door on {}", config.http.listen))?;
    let http_addr = listener.local_addr().at(|| "address of the HTTP door".to_owned())?;

    let slot = AgentSlot::default();
    let s3_door = s3::Door::bind(&config, slot.clone()).await?;
    let s3_addr = s3_door.as_ref().map(s3::Door::address);
    let http_door = http::serve(slot.clone(), listener, config.http.clone(), stop.clone());
    let s3_stop = stop.clone();
    let mut door = tokio::spawn(async move {
        let s3_door = async {
            match s3_door {
                Some(door) => door.serve(s3_stop).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(http_door, s3_door).map(drop)
    });
    let started = tokio::select! {
        started = Agent::start(config.clone()) => started,
        ended = &mut door => return door_ended(ended, &stop),
        () = stop.cancelled() => Err(Error::new(ErrorKind::Cancelled, "stopped while starting")),
    };
    let agent = match started {
        Ok(agent) => agent,
        Err(error) => {
            stop.cancel();
            let _ = door.await;
            return Err(error);
        }
    };
    slot.fill(agent.clone());
    let (mounted, outcome) = match fuse::mount(agent.clone(), &config.fuse).await {
        Ok(mounted) => {
            (mounted, attend(&config, &agent, (http_addr, s3_addr), &mut door, &stop, ready).await)
        }
        Err(e) => (None, Err(e)),
    };

    notify(&[sd_notify::NotifyState::Stopping]);
    agent.stop_jobs();
    if let Some(mounted) = mounted {
        mounted.unmount(UNMOUNT_WITHIN).await;
    }
    stop.cancel();
    let stopping = Instant::now();
    // At once, while the door still answers: what only this node has is wanted by others now.
    let closed = async {
        if !door.is_finished() {
            let _ = (&mut door).await;
        }
    };
    tokio::join!(agent.leave(config.shutdown_deadline / 2), closed);
    agent.shutdown(config.shutdown_deadline.saturating_sub(stopping.elapsed())).await;
    tracing::info!(seconds = stopping.elapsed().as_secs_f64(), "stopped");
    outcome
}

/// From ready to the wish to stop.
async fn attend(
    config: &Config,
    agent: &Agent,
    (http, s3): (SocketAddr, Option<SocketAddr>),
    door: &mut tokio::task::JoinHandle<Result<()>>,
    stop: &CancellationToken,
    ready: impl FnOnce(Bound),
) -> Result<()> {
    let bound = Bound { http, quic: quic_addr(agent)?, s3 };
    let mut file = AddressFile::write_if_room(&config.data_dir, bound)?;
    if file.is_none() {
        tracing::warn!(
            data_dir = %config.data_dir.display(),
            "the disk is full: until there is room, this agent is found by its address only"
        );
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), http = %bound.http, quic = %bound.quic,
        s3 = bound.s3.map(tracing::field::display),
        data_dir = %config.data_dir.display(), "ready"
    );
    notify(&[sd_notify::NotifyState::Ready]);
    ready(bound);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            ended = &mut *door => return door_ended(ended, stop),
            () = tokio::time::sleep(ADDRESS_FILE_AGAIN), if file.is_none() => {
                file = AddressFile::write_if_room(&config.data_dir, bound)?;
            }
        }
    }
}

fn quic_addr(agent: &Agent) -> Result<SocketAddr> {
    let me = agent.members().into_iter().find(|member| member.me);
    let addr =
        me.ok_or_else(|| Error::new(ErrorKind::Invalid, "the agent is no member of its own cluster"))?.addr;
    addr.parse().map_err(|e| Error::with_source(ErrorKind::Invalid, format!("QUIC address {addr:?}"), e))
}

/// The door ends by itself only when it could not be guarded, or by a defect of ours.
fn door_ended(
    ended: std::result::Result<Result<()>, tokio::task::JoinError>,
    stop: &CancellationToken,
) -> Result<()> {
    match ended {
        Ok(Ok(())) if stop.is_cancelled() => Ok(()),
        Ok(Ok(())) => Err(Error::new(ErrorKind::UNAVAILABLE, "the HTTP door closed by itself")),
        Ok(Err(error)) => Err(error),
        Err(e) => Err(Error::with_source(ErrorKind::UNAVAILABLE, "the HTTP door failed", e)),
    }
}

/// `agent.json`, removed when dropped if it is still ours.
struct AddressFile(PathBuf);

impl AddressFile {
    /// `None` on a full disk: who is to make room there must be able to run.
    fn write_if_room(data_dir: &Path, bound: Bound) -> Result<Option<Self>> {
        match Self::write(data_dir, bound) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == ErrorKind::Full => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write(data_dir: &Path, bound: Bound) -> Result<Self> {
        let path = data_dir.join(ADDRESS_FILE);
        let named = || path.display().to_string();
        let agent =
            RunningAgent { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned(), bound };
        let text =
            serde_json::to_vec(&agent).map_err(|e| Error::with_source(ErrorKind::Invalid, named(), e))?;
        // Written beside and renamed: a reader sees all of it or nothing.
        let beside = path.with_extension("json.new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .at(named)?;
        let written = file.write_all(&text).and_then(|()| std::fs::rename(&beside, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written.at(named)?;
        Ok(Self(path))
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::debug!(file = %self.0.display(), error = %e, "address file was gone already");
        }
    }
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

fn signals() -> Result<Signals> {
    let at = || "signal handlers".to_owned();
    Ok(Signals {
        term: signal(SignalKind::terminate()).at(at)?,
        int: signal(SignalKind::interrupt()).at(at)?,
    })
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

async fn heed_signals(mut signals: Signals, stop: CancellationToken) {
    signals.next().await;
    tracing::info!("stopping; a second signal ends it at once");
    stop.cancel();
    signals.next().await;
    tracing::warn!("ended at once");
    std::process::exit(EXIT_AT_ONCE);
}

/// Tells systemd, if it asked to be told.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!(error = %e, "systemd could not be notified");
    }
}

/// The runtime an agent runs on: one worker a core.
///
/// # Errors
/// `Unavailable` when threads cannot be made.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    raise_descriptor_limit();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, MAX_WORKERS))
        .thread_name("emberline")
        .enable_all()
        .build()
        .at(|| "runtime threads".to_owned())
}

/// Sockets and files of a busy agent exceed the usual 1,024; the hard limit is the operator's word.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::debug!(error = %e, "descriptor limit stays as it is");
    }
}

/// Starts logging to standard error. A second call in one process changes nothing.
///
/// # Errors
/// `Invalid` for a level that is none.
pub fn start_logging(config: &LogConfig) -> Result<()> {
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(config.directives()?)
        .with_writer(std::io::stderr)
        .with_ansi(colours);
    let _ = match config.format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const BOUND: Bound = Bound {
        http: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1),
        quic: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2),
        s3: None,
    };

    #[test]
    fn an_address_file_is_private_and_there_as_long_as_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ADDRESS_FILE);
        let file = AddressFile::write(dir.path(), BOUND).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let found = RunningAgent::find(dir.path()).unwrap().unwrap();
        assert_eq!((found.pid, found.bound), (std::process::id(), BOUND));
        drop(file);
        assert_eq!(RunningAgent::find(dir.path()).unwrap(), None);
    }

    #[test]
    fn the_address_of_a_dead_process_is_none_and_rubbish_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ADDRESS_FILE);
        // Beyond the largest process id Linux gives.
        let dead = RunningAgent { pid: 1 << 30, version: String::new(), bound: BOUND };
        std::fs::write(&path, serde_json::to_vec(&dead).unwrap()).unwrap();
        assert_eq!(RunningAgent::find(dir.path()).unwrap(), None);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(RunningAgent::find(dir.path()).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
