//! What our exchange makes of a link and of a core, beside the transports it could have been.
//!
//! Every contender is two processes in two network namespaces joined by a veth, unshaped unless told otherwise: a source and a
//! sink, so that the CPU time of both ends is read off `/proc`. One [`run`] goes through the contenders
//! again and again, one after the other, and reports medians and their ratios: figures of one run may be
//! compared, figures of two may not. Printing and arguments are the program's.

mod bare;
mod end;
mod exchange;
mod report;
mod ring;
mod streams;
mod task;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

pub use self::{
    report::{Figures, Report, Summary},
    ring::{Ring, ring},
    task::{End, Task},
};
use crate::{
    namespaces::{Namespace, Network, NetworkSpec},
    process_stats::ProcessStats,
};

/// Moved before the clock starts: windows, path discovery and congestion control have settled by then.
const WARM_UP_BYTES: u64 = 256 << 20;

/// Memory that a transfer takes besides its payload in a page cache.
const SLACK_BYTES: u64 = 256 << 20;

/// How long any one step of a contender on a fast link may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// The option by which the program is told to be one end; an [`End`] follows.
pub const END_OPTION: &str = "--end";

/// What moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Plain TCP, memory to memory.
    Tcp,
    /// TLS 1.3 over TCP with the exchange's certificates and cipher, memory to memory.
    TcpTls,
    /// One stream of quinn on the exchange's own endpoint, memory to memory.
    Quinn,
    /// The exchange: chunks asked of a peer, read from its files, verified and written to our files.
    Exchange {
        /// Largest chunk, in bytes.
        chunk_bytes: u32,
    },
}

impl Contender {
    /// Everything that is compared.
    pub const ALL: [Self; 5] = [
        Self::Tcp,
        Self::TcpTls,
        Self::Quinn,
        Self::Exchange { chunk_bytes: 1 << 20 },
        Self::Exchange { chunk_bytes: 4 << 20 },
    ];

    /// Its name in reports.
    pub fn name(self) -> String {
        match self {
            Self::Tcp => "tcp".to_owned(),
            Self::TcpTls => "tcp+tls".to_owned(),
            Self::Quinn => "quinn".to_owned(),
            Self::Exchange { chunk_bytes } => format!("exchange {} MiB", chunk_bytes >> 20),
        }
    }
}

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Largest IP packet on the link.
    pub mtu: u32,
    /// Rate of the link each way, in bits a second; absent: not shaped.
    pub rate: Option<u64>,
    /// Payload of one transfer.
    pub bytes: u64,
    /// How often each contender has its turn.
    pub runs: u16,
    /// Who takes part, in order.
    pub contenders: Vec<Contender>,
}

/// One timed transfer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Transfer {
    seconds: f64,
    source: ProcessStats,
    sink: ProcessStats,
}

/// What a sink says when the transfer is over.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Finished {
    seconds: f64,
}

/// What a source says when it listens.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Listening {
    addr: std::net::SocketAddr,
}

/// Measures every contender `runs` times, in turn; `heard` is told of each transfer.
///
/// # Errors
/// `Denied` without root; `Invalid` for a plan without contenders or bytes, and with an end's own words
/// when one fails; `Timeout` when one hangs; `Corrupt` when what the exchange stored is not what was sent.
pub async fn run(plan: &Plan, mut heard: impl FnMut(Contender, f64)) -> Result<Report> {
    if plan.bytes == 0 || plan.runs == 0 || plan.contenders.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "nothing to measure: no bytes, runs or contenders"));
    }
    let network = Network::new(NetworkSpec {
        nodes: 1,
        node_rates: plan.rate.into_iter().collect(),
        origin_rate: plan.rate,
        mtu: plan.mtu,
        ..NetworkSpec::default()
    })?;
    // A shaped link has no path to get used to that takes so much.
    let warm_up_bytes = plan.rate.map_or(WARM_UP_BYTES, |rate| (rate / 8).min(WARM_UP_BYTES));
    let home = TempDir::with_prefix("emberline-transport-").at(|| "temporary directory".to_owned())?;
    let mut transfers = vec![Vec::new(); plan.contenders.len()];
    for _ in 0..plan.runs {
        for (contender, done) in plan.contenders.iter().zip(&mut transfers) {
            let transfer = measure(*contender, plan.bytes, warm_up_bytes, &network, home.path()).await?;
            heard(*contender, plan.bytes as f64 / transfer.seconds / 1e9);
            done.push(transfer);
        }
    }
    Ok(Report::new(plan, &transfers))
}

async fn measure(
    contender: Contender,
    bytes: u64,
    warm_up_bytes: u64,
    network: &Network,
    home: &Path,
) -> Result<Transfer> {
    // The source's chunks stay for the next round, the sink begins with nothing.
    let kept = home.join(contender.name());
    let fresh = TempDir::with_prefix_in("sink-", home).at(|| home.display().to_string())?;
    let host = network.origin().ipv4();
    let end = |task, dir: &Path| End { contender, bytes, warm_up_bytes, dir: dir.into(), task };
    let mut source = Process::start(network.origin(), &end(Task::Serve { host }, &kept)).await?;
    let Listening { addr } = source.hear().await?;
    let fetch = Task::Fetch { from: addr, host: network.nodes()[0].ipv4() };
    let mut sink = Process::start(&network.nodes()[0], &end(fetch, fresh.path())).await?;
    // Warm by now.
    let () = sink.hear().await?;
    settle(home, bytes + SLACK_BYTES).await?;
    let before = [source.stats()?, sink.stats()?];
    sink.say().await?;
    let Finished { seconds } = sink.hear().await?;
    let after = [source.stats()?, sink.stats()?];
    sink.say().await?;
    // Checked what it stored.
    let () = sink.hear().await?;
    Ok(Transfer { seconds, source: since(before[0], after[0]), sink: since(before[1], after[1]) })
}

/// What was spent between two readings; the peak is the later one's.
fn since(before: ProcessStats, after: ProcessStats) -> ProcessStats {
    ProcessStats { cpu_seconds: after.cpu_seconds - before.cpu_seconds, ..after }
}

/// Has what earlier steps wrote reach the disk now, not under the next transfer, and has the kernel hold
/// `bytes` of free memory that held a file a moment ago. On a virtual machine a page that the host has not
/// lent yet may cost far more than the copying into it, and only those contenders that fill a page cache would
/// pay that.
async fn settle(dir: &Path, bytes: u64) -> Result<()> {
    let path = dir.join("filler");
    let settled = tokio::task::spawn_blocking(move || {
        rustix::fs::sync();
        let mut file = std::fs::File::create(&path)?;
        let piece = vec![1; 1 << 20];
        for _ in 0..bytes.div_ceil(piece.len() as u64) {
            file.write_all(&piece)?;
        }
        std::fs::remove_file(&path)
    });
    settled
        .await
        .map_err(|e| Error::with_source(ErrorKind::Cancelled, "settling", e))?
        .at(|| format!("{bytes} bytes in {}", dir.display()))
}

/// One end as a process: this program, told to be it. Killed on drop.
struct Process {
    name: String,
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// How long one step may take.
    patience: Duration,
}

impl Process {
    async fn start(namespace: &Namespace, end: &End) -> Result<Self> {
        let name = format!("{} in {}", end.contender.name(), namespace.name());
        let program = std::env::current_exe().at(|| "own path".to_owned())?;
        let task = serde_json::to_string(end)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("task of {name}"), e))?;
        // With util-linux' help it dies with us, however we end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args([END_OPTION, &task]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let mut child = namespace
            .run(async move { command.spawn() })
            .await?
            .at(|| "start setpriv (package util-linux)".to_owned())?;
        let pipe = || Error::new(ErrorKind::UNAVAILABLE, format!("no pipe to {name}"));
        let orders = child.stdin.take().ok_or_else(pipe)?;
        let answers = BufReader::new(child.stdout.take().ok_or_else(pipe)?).lines();
        Ok(Self { name, child, orders, answers, patience: PATIENCE })
    }

    fn stats(&self) -> Result<ProcessStats> {
        let gone = || Error::new(ErrorKind::UNAVAILABLE, format!("{} has ended", self.name));
        ProcessStats::read(self.child.id().ok_or_else(gone)?)
    }

    /// Lets the end take its next step.
    async fn say(&mut self) -> Result<()> {
        self.orders.write_all(b"\n").await.at(|| format!("write to {}", self.name))
    }

    /// Waits for what the end has to say.
    async fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let silent = format!("{} is silent for {:?}", self.name, self.patience);
        let line = timeout(self.patience, self.answers.next_line())
            .await
            .map_err(|_| Error::new(ErrorKind::Timeout, silent))?
            .at(|| format!("read from {}", self.name))?;
        // Its reason is on standard error, which is ours.
        let line =
            line.ok_or_else(|| Error::new(ErrorKind::UNAVAILABLE, format!("{} ended early", self.name)))?;
        serde_json::from_str(&line)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("{} said {line:?}", self.name), e))
    }
}
