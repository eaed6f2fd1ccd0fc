//! What the embedder holds of a swarm it asked to join.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::driver::Control;
use crate::{chunk::SwarmId, error::Error};

/// Where a swarm stands on this node.
#[derive(Debug, Clone, Default)]
pub enum SwarmState {
    /// Chunks are missing and being sought.
    #[default]
    Running,
    /// Everything wanted is stored.
    Complete,
    /// It cannot go on; what is stored stays.
    Failed(Arc<Error>),
}

/// Bytes by source, and company.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Bytes stored that this node read from the origin.
    pub origin_bytes: u64,
    /// Bytes stored that neighbours sent.
    pub peer_bytes: u64,
    /// Bytes taken from other artifacts on this disk.
    pub reused_bytes: u64,
    /// Bytes received in vain.
    pub wasted_bytes: u64,
    /// Wanted bytes stored, whatever their source.
    pub held_bytes: u64,
    /// Participants exchanging with us now.
    pub neighbours: usize,
    /// Where it stands.
    pub state: SwarmState,
}

/// A claim on a swarm. Dropping it gives the wish up; the node goes on serving what it holds.
pub struct SwarmHandle {
    pub(crate) swarm: SwarmId,
    pub(crate) ticket: u64,
    pub(crate) control: mpsc::UnboundedSender<Control>,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) stored: mpsc::UnboundedReceiver<u32>,
}

impl SwarmHandle {
    /// The swarm's name.
    pub fn swarm(&self) -> SwarmId {
        self.swarm
    }

    /// Follows the progress; changes at every stored chunk.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// The next chunk that was stored since the join; `None` when the swarm has ended. Cancel-safe.
    pub async fn next_stored(&mut self) -> Option<u32> {
        self.stored.recv().await
    }

    /// Moves chunks to the head of the queue because a reader waits for them.
    pub fn urge(&self, chunks: Vec<u32>) {
        let _ = self.control.send(Control::Urgent(chunks));
    }
}

impl Drop for SwarmHandle {
    fn drop(&mut self) {
        let _ = self.control.send(Control::Dropped(self.ticket));
    }
}
