//! An agent whose namespace is mounted at a directory of its own.
//!
//! Whatever happens to the agent, the mount and the directories are gone when the value is dropped. Knows the
//! mount as any program does: by its files, and by what the agent's metrics say of it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use crate::{
    agent_process::{AgentOptions, AgentProcess},
    client::POLL_INTERVAL,
};

/// The door's name in records of what was run.
pub const DOOR: &str = "FUSE";

/// Why nothing can be mounted on this machine; `None` where it can.
pub fn why_not() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root mounts with passthrough");
    }
    (!Path::new("/dev/fuse").exists()).then_some("there is no /dev/fuse")
}

/// A running agent and its mount.
#[derive(Debug)]
pub struct Mounted {
    agent: AgentProcess,
    at: PathBuf,
    home: TempDir,
}

impl Mounted {
    /// Starts an agent with an empty data directory and its mount; `origin` is mounted as `/models` in it.
    ///
    /// # Errors
    /// As [`AgentProcess::start`].
    pub async fn start(origin: &str, adjust: impl FnOnce(&mut AgentOptions, &Path)) -> Result<Self> {
        let home = TempDir::with_prefix("emberline-mounted-").at(|| "temporary directory".to_owned())?;
        let at = home.path().join("mount");
        std::fs::create_dir(&at).at(|| at.display().to_string())?;
        let mut options = AgentOptions::new("mounted");
        options.env = vec![
            ("EMBERLINE_FUSE__MOUNTPOINT".to_owned(), at.display().to_string()),
            ("EMBERLINE_MOUNTS__MODELS".to_owned(), origin.to_owned()),
        ];
        adjust(&mut options, home.path());
        let agent = AgentProcess::start(&home.path().join("data"), options).await?;
        Ok(Self { agent, at, home })
    }

    /// The agent.
    pub fn agent(&self) -> &AgentProcess {
        &self.agent
    }

    /// The agent, to kill and restart.
    pub fn agent_mut(&mut self) -> &mut AgentProcess {
        &mut self.agent
    }

    /// Where the namespace is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// A directory that lives as long as the mount.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The origin's files in the mount.
    pub fn models(&self) -> PathBuf {
        self.at.join("models")
    }

    /// Whether the kernel has anything mounted there.
    ///
    /// # Errors
    /// As reading the table of mounts.
    pub fn is_mounted(&self) -> Result<bool> {
        let table =
            std::fs::read_to_string("/proc/self/mountinfo").at(|| "/proc/self/mountinfo".to_owned())?;
        let at = self.at.display().to_string();
        Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(at.as_str())))
    }

    /// The sum of a metric's series whose labels hold `label`.
    ///
    /// # Errors
    /// `Unavailable` when the agent does not answer.
    pub async fn count(&self, metric: &str, label: &str) -> Result<u64> {
        let page = self.agent.client().metrics().await?;
        let of_it = |line: &&str| line.starts_with(&format!("{metric}{{")) && line.contains(label);
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        Ok(page.lines().filter(of_it).filter_map(value).sum::<f64>() as u64)
    }

    /// Reads that came to the agent through the mount.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub async fn reads(&self) -> Result<u64> {
        self.count("emberline_reads_total", "door=\"fuse\"").await
    }

    /// Files that were opened in the mount in this way: `passthrough` or `cached`.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub async fn opens(&self, mode: &str) -> Result<u64> {
        self.count("emberline_fuse_opens_total", mode).await
    }

    /// Waits until a file of the mount says that it is sealed.
    ///
    /// # Errors
    /// `Timeout` with what it says instead.
    pub async fn wait_sealed(&self, path: &Path, patience: Duration) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            let said = xattr(path, "user.emberline.state")?;
            if said.as_deref() == Some("sealed") {
                return Ok(());
            }
            if start.elapsed() > patience {
                let text = format!("{} is still {said:?}", path.display());
                return Err(Error::new(ErrorKind::Timeout, text));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Dead already, or not mounted any more, is as good.
        drop(self.agent.kill());
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// An extended attribute; `None` where the file has none of that name.
///
/// # Errors
/// As the file system says.
pub fn xattr(path: &Path, name: &str) -> Result<Option<String>> {
    let mut value = [0_u8; 256];
    match rustix::fs::getxattr(path, name, &mut value) {
        Ok(length) => Ok(Some(String::from_utf8_lossy(&value[..length]).into_owned())),
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(e) => Err(std::io::Error::from(e)).at(|| format!("{name} of {}", path.display())),
    }
}
