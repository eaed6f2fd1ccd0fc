//! What each door makes of a file, beside nginx and the file itself.
//!
//! One agent with a mount, one nginx that sends from the page cache and one that copies, all on loopback, all
//! with the same bytes and hot; the same client for all of a group: curl over HTTP, our reader for files. They
//! take turns and medians are reported: figures of one run may be compared, figures of two may not. Files that
//! are coming have their origin on the same disk, so that the door and not the origin is measured; they are
//! removed before each turn. Printing and arguments are the program's.

mod contender;
mod reader;
mod report;

use std::{
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

pub use self::{
    contender::{Contender, Group},
    reader::{READER_OPTION, Reader},
    report::{Figures, Report},
};
use crate::{
    client::POLL_INTERVAL,
    environment::Nginx,
    mounted::{self, Mounted},
    process_stats::ProcessStats,
};

/// CPU time is told in hundredths of a second: hot files are read so often in one turn.
const HOT_PASSES: u32 = 8;
/// How long any one step may take.
const PATIENCE: Duration = Duration::from_secs(180);
const HOT: &str = "hot.bin";
const COLD: &str = "cold.bin";

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Size of the file.
    pub bytes: u64,
    /// Turns of each.
    pub runs: u16,
    /// Who.
    pub contenders: Vec<Contender>,
}

/// One turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Transfer {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) server_cpu_seconds: f64,
    pub(crate) client_cpu_seconds: f64,
    pub(crate) agent_reads: u64,
}

/// Lets all take turns. `told` hears of each turn and its GB/s.
///
/// # Errors
/// `NotFound` for what is missing on this machine; as starting the agent and reading.
pub async fn run(plan: &Plan, mut told: impl FnMut(Contender, f64)) -> Result<Report> {
    if let Some(why) = mounted::why_not() {
        return Err(Error::new(ErrorKind::NotFound, why));
    }
    let stage = Stage::set(plan.bytes).await?;
    let mut transfers: Vec<_> = plan.contenders.iter().map(|kind| (*kind, Vec::new())).collect();
    for _ in 0..plan.runs {
        for (kind, done) in &mut transfers {
            let transfer = stage.turn(*kind).await?;
            told(*kind, transfer.bytes as f64 / 1e9 / transfer.seconds);
            done.push(transfer);
        }
    }
    Ok(Report::new(plan.bytes, plan.runs, stage.versions().await?, &transfers))
}

/// Everything that is running.
struct Stage {
    mount: Mounted,
    sendfile: Nginx,
    buffers: Nginx,
    /// Open since before the file was whole.
    early: File,
    /// The store's own file.
    direct: PathBuf,
    bytes: u64,
    origin: TempDir,
}

impl Stage {
    async fn set(bytes: u64) -> Result<Self> {
        let origin = TempDir::with_prefix("emberline-doors-").at(|| "temporary directory".to_owned())?;
        write(&origin.path().join(HOT), bytes, 1)?;
        write(&origin.path().join(COLD), bytes, 2)?;
        let missing = |e: String| Error::new(ErrorKind::NotFound, e);
        let nginx = |extra: &str| Nginx::start(origin.path(), extra).map_err(missing);
        let (sendfile, buffers) = (nginx("sendfile on; tcp_nopush on;")?, nginx("sendfile off;")?);
        let mount = Mounted::start(&format!("file://{}", origin.path().display()), |options, _| {
            options.env.push(("EMBERLINE_S3__LISTEN".to_owned(), "127.0.0.1:0".to_owned()));
        })
        .await?;
        let hot = mount.models().join(HOT);
        let shown = || hot.display().to_string();
        let early = File::open(&hot).at(shown)?;
        mount.wait_sealed(&hot, PATIENCE).await?;
        let reference = format!("file://{}/{HOT}", origin.path().display());
        let start = Instant::now();
        let published = loop {
            match mount.agent().client().path(&reference).await {
                Ok(answer) => break answer.path,
                // Its file is whole; the artifact is a moment later.
                Err(e) if matches!(e.kind(), ErrorKind::Unavailable { .. }) && start.elapsed() < PATIENCE => {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                Err(e) => return Err(e),
            }
        };
        let direct = if published.is_dir() { published.join(HOT) } else { published };
        Ok(Self { mount, sendfile, buffers, early, direct, bytes, origin })
    }

    async fn versions(&self) -> Result<Vec<(String, String)>> {
        let agent = self.mount.agent().client().status().await?.version;
        let curl = Command::new("curl").arg("--version").output().at(|| "curl".to_owned())?;
        let curl = String::from_utf8_lossy(&curl.stdout).split(' ').nth(1).unwrap_or_default().to_owned();
        let nginx = Nginx::version().map_err(|e| Error::new(ErrorKind::NotFound, e))?;
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let named = [("emberline", agent), ("nginx", nginx), ("curl", curl), ("Linux", kernel)];
        Ok(named.map(|(name, version)| (name.to_owned(), version)).to_vec())
    }

    async fn turn(&self, kind: Contender) -> Result<Transfer> {
        if kind.is_cold() {
            self.send_away().await?;
        }
        let agent = self.mount.agent();
        let door = |name: &str| format!("{}/v1/fs/models/{name}", agent.client().base());
        let s3 = agent.s3().ok_or_else(|| Error::new(ErrorKind::NotFound, "the agent's S3 door"))?;
        let bucket = |name: &str| format!("http://{s3}/models/{name}");
        let in_mount = |name: &str| self.mount.models().join(name);
        let hot = if kind.is_cold() { 1 } else { HOT_PASSES };
        let pid = std::fs::read_to_string(agent.data_dir().join("agent.json"))
            .ok()
            .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok()?.get("pid")?.as_u64())
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "the agent's process"))? as u32;
        let read = |maps, discards, path: PathBuf| Work::Read(Reader { maps, discards, passes: hot, path });
        let (server, work) = match kind {
            Contender::NginxSendfile => (self.sendfile.pid(), Work::Curl(url(&self.sendfile, HOT), hot)),
            Contender::NginxBuffers => (self.buffers.pid(), Work::Curl(url(&self.buffers, HOT), hot)),
            Contender::Http => (pid, Work::Curl(door(HOT), hot)),
            Contender::S3 => (pid, Work::Curl(bucket(HOT), hot)),
            Contender::NginxBesideCold => (self.sendfile.pid(), Work::Curl(url(&self.sendfile, COLD), hot)),
            Contender::HttpLazy => (pid, Work::Curl(door(COLD), hot)),
            Contender::S3Lazy => (pid, Work::Curl(bucket(COLD), hot)),
            Contender::DirectRead => (pid, read(false, false, self.direct.clone())),
            Contender::FuseRead => (pid, read(false, false, in_mount(HOT))),
            Contender::FuseThroughAgent => (pid, read(false, true, self.early_path())),
            Contender::DirectMap => (pid, read(true, false, self.direct.clone())),
            Contender::FuseMap => (pid, read(true, false, in_mount(HOT))),
            Contender::DirectBesideCold => (pid, read(false, false, self.origin.path().join(COLD))),
            Contender::FuseLazy => (pid, read(false, true, in_mount(COLD))),
        };
        let reads = self.mount.reads().await?;
        let before = (ProcessStats::read(server)?, ProcessStats::read(std::process::id())?);
        let seconds = tokio::task::spawn_blocking(move || work.run())
            .await
            .map_err(|e| Error::with_source(ErrorKind::Cancelled, "a client", e))??;
        let after = (ProcessStats::read(server)?, ProcessStats::read(std::process::id())?);
        Ok(Transfer {
            bytes: self.bytes * u64::from(hot),
            seconds,
            server_cpu_seconds: after.0.cpu_seconds - before.0.cpu_seconds,
            client_cpu_seconds: after.1.cpu_seconds - before.1.cpu_seconds,
            agent_reads: self.mount.reads().await? - reads,
        })
    }

    /// The early handle, for another process.
    fn early_path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.early.as_raw_fd()).into()
    }

    /// Leaves nothing of the cold file here, and nothing under way.
    async fn send_away(&self) -> Result<()> {
        let client = self.mount.agent().client();
        let reference = format!("file://{}/{COLD}", self.origin.path().display());
        let start = Instant::now();
        loop {
            let status = client.status().await?;
            let known = status.artifacts.iter().any(|artifact| artifact.reference == reference);
            match (status.pulls.is_empty(), known) {
                (true, false) => return Ok(()),
                (true, true) => {
                    let query = reqwest::Url::parse_with_params(
                        "http://agent/v1/artifacts",
                        [("reference", reference.as_str()), ("force", "true")],
                    )
                    .map_err(|e| Error::with_source(ErrorKind::Invalid, reference.clone(), e))?;
                    let path = format!("{}?{}", query.path(), query.query().unwrap_or_default());
                    client.request(reqwest::Method::DELETE, &path, None).await?;
                }
                (false, _) => {}
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::new(ErrorKind::Timeout, format!("{reference} does not go away")));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

fn url(nginx: &Nginx, name: &str) -> String {
    format!("{}/{name}", nginx.url())
}

/// What a client does.
enum Work {
    /// Fetches a URL so often, on one connection.
    Curl(String, u32),
    Read(Reader),
}

impl Work {
    /// Does it in a process of its own; the seconds that it took. Blocks.
    fn run(self) -> Result<f64> {
        let mut command = match &self {
            Self::Curl(url, times) => {
                let mut curl = Command::new("curl");
                curl.args(["--silent", "--show-error", "--fail", "--write-out", "%{time_total}\\n"]);
                for _ in 0..*times {
                    curl.args(["--output", "/dev/null", url]);
                }
                curl
            }
            Self::Read(reader) => {
                let mut own = Command::new(std::env::current_exe().at(|| "own path".to_owned())?);
                own.args([READER_OPTION, &reader.to_argument()]);
                own
            }
        };
        let output = command.stdin(Stdio::null()).output().at(|| "a client".to_owned())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(Error::new(ErrorKind::UNAVAILABLE, format!("{command:?}: {}", words.trim())));
        }
        // One time a transfer; a reader's sum stands behind its time.
        let times = said.lines().filter_map(|line| line.split(' ').next()?.parse::<f64>().ok());
        Ok(times.sum())
    }
}

/// Bytes that compress and match with nothing.
fn write(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    use std::io::Write;
    let shown = || path.display().to_string();
    let mut file = File::create(path).at(shown)?;
    let (mut random, mut piece) = (StdRng::seed_from_u64(seed), vec![0; 1 << 20]);
    let mut left = bytes;
    while left > 0 {
        random.fill_bytes(&mut piece);
        let now = left.min(piece.len() as u64);
        file.write_all(&piece[..now as usize]).at(shown)?;
        left -= now;
    }
    Ok(())
}
