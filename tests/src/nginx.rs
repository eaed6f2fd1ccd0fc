//! An nginx as the origin of benchmarks: the fastest plain HTTP server there is to be measured against.
//!
//! Serves one directory. Its log is the second witness, next to the interface counter, of what the
//! origin was asked for. Taken from the system, else unpacked from Debian's package into cargo's
//! target directory: nothing is installed and no service started.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use tempfile::TempDir;

use crate::{binaries::profile_dir, namespaces::Namespace};

/// How long nginx may take to listen: it takes milliseconds.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// A running nginx; stopped on drop.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    home: TempDir,
    addr: IpAddr,
}

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub client: String,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Status code.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub body_bytes: u64,
    /// The Range header, `-` when there was none.
    pub range: String,
}

impl Nginx {
    /// Serves `root` at port 80 of `namespace`'s address.
    ///
    /// # Errors
    /// `NotFound` when there is no nginx and Debian's package cannot be had; `Timeout` with nginx's
    /// words when it does not listen.
    pub async fn start(root: &Path, namespace: &Namespace, addr: IpAddr) -> Result<Self> {
        let program = program()?;
        let home = TempDir::with_prefix("emberline-nginx-").at(|| "temporary directory".to_owned())?;
        let config = home.path().join("nginx.conf");
        std::fs::write(&config, configuration(root, home.path(), addr))
            .at(|| config.display().to_string())?;
        let errors = home.path().join("error.log");
        let mut command = Command::new(program);
        command
            .arg("-p")
            .arg(home.path())
            .arg("-c")
            .arg(&config)
            .arg("-e")
            .arg(&errors)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = namespace.run(async move { command.spawn() }).await?.at(|| "start nginx".to_owned())?;
        let nginx = Self { child, home, addr };
        let start = Instant::now();
        while !nginx.listens(namespace).await? {
            if start.elapsed() > START_DEADLINE {
                let words = std::fs::read_to_string(&errors).unwrap_or_default();
                return Err(Error::new(ErrorKind::Timeout, format!("nginx does not listen: {words}")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(nginx)
    }

    /// Base URL of what is served, with a slash at the end.
    pub fn url(&self) -> String {
        match self.addr {
            IpAddr::V4(addr) => format!("http://{addr}/"),
            IpAddr::V6(addr) => format!("http://[{addr}]/"),
        }
    }

    /// Every request answered so far.
    ///
    /// # Errors
    /// `Invalid` for a line that is not ours.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let path = self.home.path().join("access.log");
        let text = std::fs::read_to_string(&path).at(|| path.display().to_string())?;
        text.lines().map(parse).collect()
    }

    async fn listens(&self, namespace: &Namespace) -> Result<bool> {
        let addr = std::net::SocketAddr::new(self.addr, 80);
        namespace.run(async move { tokio::net::TcpStream::connect(addr).await.is_ok() }).await
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that the worker goes with its master; no process to signal is as good.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        drop(self.child.wait());
    }
}

fn parse(line: &str) -> Result<Request> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [client, method, path, status, body_bytes, range] = fields[..] else {
        return Err(Error::new(ErrorKind::Invalid, format!("line of nginx's log: {line}")));
    };
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("line of nginx's log: {line}"), e))
    };
    Ok(Request {
        client: client.to_owned(),
        method: method.to_owned(),
        path: path.to_owned(),
        status: number(status)? as u16,
        body_bytes: number(body_bytes)?,
        range: range.to_owned(),
    })
}

fn configuration(root: &Path, home: &Path, addr: IpAddr) -> String {
    let listen = match addr {
        IpAddr::V4(addr) => format!("{addr}:80"),
        IpAddr::V6(addr) => format!("[{addr}]:80"),
    };
    let (root, home) = (root.display(), home.display());
    format!(
        "daemon off; worker_processes 1; pid {home}/pid; user root;
events {{ worker_connections 4096; }}
http {{
  log_format fields '$remote_addr\t$request_method\t$request_uri\t$status\t$body_bytes_sent\t$http_range';
  access_log {home}/access.log fields;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  default_type application/octet-stream;
  sendfile on; tcp_nopush on; keepalive_requests 1000000;
  server {{ listen {listen}; root {root}; }}
}}
"
    )
}

/// The system's nginx, or Debian's unpacked beside cargo's output.
fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    if let Some(found) = dirs.map(|dir| dir.join("nginx")).find(|candidate| candidate.is_file()) {
        return Ok(found);
    }
    let tools = profile_dir()?.join("tools");
    let unpacked = tools.join("nginx/usr/sbin/nginx");
    if unpacked.is_file() {
        return Ok(unpacked);
    }
    eprintln!("nginx is missing: unpacking Debian's package nginx into {}", tools.display());
    let scratch = TempDir::with_prefix("emberline-nginx-").at(|| "temporary directory".to_owned())?;
    let script = "apt-get -qq download nginx 2>/dev/null || { apt-get -qq update && apt-get -qq download nginx; } \
                  && dpkg -x nginx_*.deb unpacked";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(scratch.path())
        .stdin(Stdio::null())
        .output()
        .at(|| "run apt-get".to_owned())?;
    let fresh = scratch.path().join("unpacked");
    if !output.status.success() || !fresh.join("usr/sbin/nginx").is_file() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("no nginx; install it (apt-get install nginx-light): {}", words.trim()),
        ));
    }
    let copied = Command::new("sh")
        .args([
            "-c",
            "mkdir -p \"$1\" && cp -r \"$2\" \"$1/nginx.$$\" && mv -T \"$1/nginx.$$\" \"$1/nginx\"",
            "sh",
        ])
        .arg(&tools)
        .arg(&fresh)
        .stdin(Stdio::null())
        .status()
        .at(|| "keep nginx".to_owned())?;
    // Two runs may unpack at once; whoever comes second finds the first one's.
    if copied.success() || unpacked.is_file() {
        return Ok(unpacked);
    }
    Err(Error::new(ErrorKind::UNAVAILABLE, format!("cannot write {}", tools.display())))
}
