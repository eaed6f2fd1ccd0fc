//! One agent of the demo: a process of its own, killed and gone when this is dropped.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use emberline_agent::{
    error::{ErrorKind, IoContext},
    run::{Bound, RunningAgent},
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::stage::Stage;
use crate::{
    client::Client,
    failure::{Failure, Result},
};

/// How long an agent may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often we look whether it does, and whom it sees.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the kernel may take to end a killed agent.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines of an agent's log that are shown when it fails.
const SHOWN_LINES: usize = 12;

/// A running agent.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) bound: Bound,
    pub(super) client: Client,
    child: Child,
    log: PathBuf,
}

impl Node {
    /// Starts an agent on a directory of its own and waits until it can be reached.
    ///
    /// # Errors
    /// `Unavailable` with the end of its log when it stops; `Timeout` when it does not get ready.
    pub(super) async fn start(stage: &Stage, name: &str, seeds: &[SocketAddr]) -> Result<Self> {
        let data_dir = stage.dir().join(name);
        fs::create_dir_all(&data_dir).at(|| format!("make directory {}", data_dir.display()))?;
        let log = stage.dir().join(format!("{name}.log"));
        let mut child = spawn(stage, name, &data_dir, &log, seeds)?;
        let deadline = Instant::now() + START_TIMEOUT;
        let bound = loop {
            if let Ok(Some(agent)) = RunningAgent::find(&data_dir)
                && Some(agent.pid) == child.id()
            {
                break agent.bound;
            }
            if let Ok(Some(status)) = child.try_wait() {
                let why = format!("{name} stopped at once ({status})\n{}", tail(&log));
                return Err(Failure::new(ErrorKind::UNAVAILABLE, why));
            }
            if Instant::now() > deadline {
                let why =
                    format!("{name} was not ready within {} s\n{}", START_TIMEOUT.as_secs(), tail(&log));
                return Err(Failure::new(ErrorKind::Timeout, why));
            }
            sleep(LOOK_EVERY).await;
        };
        let client = Client::new(&format!("http://{}", bound.http), None)?;
        Ok(Self { name: name.to_owned(), bound, client, child, log })
    }

    /// Waits until this agent sees `count` live members, itself included.
    ///
    /// # Errors
    /// `Timeout` with whom it does see.
    pub(super) async fn meet(&self, count: usize, patience: Duration) -> Result<()> {
        let mut seen = 0;
        let met = timeout(patience, async {
            loop {
                let members = self.client.members().await?;
                seen = members.iter().filter(|member| member.state == "alive").count();
                if seen >= count {
                    return Ok(());
                }
                sleep(LOOK_EVERY).await;
            }
        });
        match met.await {
            Ok(met) => met.map_err(|failure| self.blame(failure)),
            Err(_) => {
                let why = format!("sees {seen} of {count} members after {} s", patience.as_secs());
                Err(self.blame(Failure::new(ErrorKind::Timeout, why)))
            }
        }
    }

    /// `kill -9`; returns when the process is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub(super) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await.at(|| format!("kill {}", self.name))?)
    }

    /// Says on which node something failed, with the end of its log.
    pub(super) fn blame(&self, mut failure: Failure) -> Failure {
        let log = tail(&self.log);
        failure.problem.message = format!("{}: {}\n{log}", self.name, failure.problem.message);
        failure
    }
}

impl Drop for Node {
    /// Waits for the process to be gone: until then it may still write where the demo clears up.
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to kill.
        let _ = self.child.start_kill();
        let deadline = Instant::now() + KILL_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn spawn(stage: &Stage, name: &str, data_dir: &Path, log: &Path, seeds: &[SocketAddr]) -> Result<Child> {
    let program = env::current_exe().at(|| "path of this program".to_owned())?;
    let output = fs::File::create(log).at(|| format!("create {}", log.display()))?;
    let errors = output.try_clone().at(|| format!("open {}", log.display()))?;
    let mut command = Command::new(program);
    command.arg("agent").arg("--config").arg(stage.config());
    command.arg("--data-dir").arg(data_dir).arg("--secret-file").arg(stage.secret());
    command.args(["--name", name, "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    for seed in seeds {
        command.arg("--seed").arg(seed.to_string());
    }
    // The user's settings are for the user's agent; those of the origins are for a --ref of theirs.
    for (variable, _) in env::vars_os() {
        let text = variable.to_string_lossy();
        if text.starts_with("EMBERLINE_") && !text.starts_with("EMBERLINE_ORIGINS__") {
            command.env_remove(&variable);
        }
    }
    // The demo's own origin is on loopback, where no proxy leads.
    command.env("NO_PROXY", no_proxy());
    command.stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
    // SAFETY: between fork and exec only prctl is called, which is safe there.
    unsafe {
        // Should the demo itself be killed, there is no drop to run. The signal is tied to the thread
        // that spawns: the main thread, which drives the demo to its end.
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(Into::into)
        });
    }
    Ok(command.spawn().at(|| format!("start {name}"))?)
}

/// The user's exceptions from proxies, and loopback.
fn no_proxy() -> String {
    let theirs =
        ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| env::var(name).ok()).unwrap_or_default();
    format!("{theirs},127.0.0.1,localhost").trim_start_matches(',').to_owned()
}

/// The last lines of a log, indented.
fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    shown.iter().map(|line| format!("    {line}\n")).collect::<String>().trim_end().to_owned()
}
