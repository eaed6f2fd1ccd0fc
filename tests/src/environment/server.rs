//! A server process that lives as long as its value.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::Result;

/// Some need half a minute on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Between looks at whether it answers.
const POLL: Duration = Duration::from_millis(50);

/// A child process with a folder of its own; both go on drop.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    dir: TempDir,
    pub(super) address: SocketAddr,
}

impl Server {
    /// Starts what `command` makes of a port and a folder, and waits until `is_ready`. Another process may
    /// take the port in between, so it is tried with a second and third one.
    pub(super) fn start(
        name: &str,
        command: impl Fn(u16, &Path) -> Result<Command>,
        is_ready: impl Fn(SocketAddr) -> bool,
    ) -> Result<Self> {
        let mut failed = String::new();
        for _ in 0..3 {
            match Self::start_once(name, &command, &is_ready) {
                Ok(server) => return Ok(server),
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    fn start_once(
        name: &str,
        command: &impl Fn(u16, &Path) -> Result<Command>,
        is_ready: &impl Fn(SocketAddr) -> bool,
    ) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| format!("{name}: {e}"))?;
        let port = free_port().map_err(|e| format!("{name}: {e}"))?;
        let log_path = dir.path().join("server.log");
        let log = File::create(&log_path).map_err(|e| format!("{name}: {e}"))?;
        let errors = log.try_clone().map_err(|e| format!("{name}: {e}"))?;
        let child = at_home(command(port, dir.path())?, dir.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("{name} cannot be started: {e}"))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Self { child, dir, address };
        let start = Instant::now();
        while !is_ready(address) {
            let ended = server.child.try_wait().map_err(|e| format!("{name}: {e}"))?;
            if ended.is_some() || start.elapsed() > START_TIMEOUT {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                let why =
                    ended.map_or("did not answer in time".to_owned(), |status| format!("ended: {status}"));
                return Err(format!("{name} {why}\n{log}"));
            }
            std::thread::sleep(POLL);
        }
        Ok(server)
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What a JVM that is killed leaves, whatever it is told of temporary files: none of another process, for
        // this one's number was ours until now.
        let _ = std::fs::remove_file(format!("/tmp/.java_pid{}", self.child.id()));
    }
}

/// Has a program leave its temporary files where they go with it.
fn at_home(mut command: Command, dir: &Path) -> Command {
    let java = format!("-XX:-UsePerfData -Djava.io.tmpdir={}", dir.display());
    command.env("TMPDIR", dir).env("JAVA_TOOL_OPTIONS", java);
    command
}

/// A port that nobody listens on at this moment.
pub(super) fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether anything accepts connections there.
pub(super) fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}
