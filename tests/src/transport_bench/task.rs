//! What one end of a transfer is told, and how it talks with its parent.

use std::{
    io::{BufRead, Write},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use coordinatorless_p2p::{ClusterSecret, Error, ErrorKind, Identity, IoContext, NodeKey, Result};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::{Contender, Listening};

/// Which end to be, and of what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct End {
    pub(super) contender: Contender,
    /// Timed payload.
    pub(super) bytes: u64,
    /// Payload before that.
    pub(super) warm_up_bytes: u64,
    /// Where a contender that keeps files may keep them.
    pub(super) dir: PathBuf,
    pub(super) task: Task,
}

/// The two sides of a transfer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Listen on this address of the namespace, and send to whoever asks.
    Serve {
        /// Ours.
        host: IpAddr,
    },
    /// Fetch.
    Fetch {
        /// From this source.
        from: SocketAddr,
        /// Ours.
        host: IpAddr,
    },
}

/// Fetches `bytes` whenever asked; each contender's sink is one.
pub(super) trait Sink {
    /// The untimed transfer that comes first.
    fn warm_up(&mut self, bytes: u64) -> Result<()>;
    /// The timed one.
    fn fetch(&mut self, bytes: u64) -> Result<()>;
    /// Whether what was fetched is right; for contenders that keep it.
    fn check(&mut self) -> Result<()> {
        Ok(())
    }
}

impl End {
    /// Reads what a parent wrote behind [`END_OPTION`](super::END_OPTION).
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, "the task of an end cannot be read", e))
    }
}

/// Says where a source listens.
pub(super) fn listening(addr: SocketAddr) -> Result<()> {
    tell(&Listening { addr })
}

/// Says something to the parent.
pub(super) fn tell(what: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(what)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "an answer cannot be written", e))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).at(|| "write to the parent".to_owned())
}

/// Waits for a line of the parent.
pub(super) fn wait() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).at(|| "read from the parent".to_owned())?;
    if line.is_empty() { Err(Error::new(ErrorKind::Cancelled, "the parent is gone")) } else { Ok(()) }
}

/// A member of a cluster whose secret everybody knows: the namespaces are closed, and it is made anew.
pub(super) fn identity() -> Result<Identity> {
    Identity::from_secret(&ClusterSecret::for_loopback(), NodeKey::generate()?)
}

/// One thread for endpoint and stream alike: what measured best for bare quinn.
pub(super) fn single_threaded() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().at(|| "runtime".to_owned())
}
