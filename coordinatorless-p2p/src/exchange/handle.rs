//! What the embedder holds of a swarm it asked to join.

use tokio::sync::{mpsc, watch};

use super::{inbox::Control, progress::Progress};
use crate::{chunk::SwarmId, precedence::Precedence};

/// A claim on a swarm. Dropping it gives the wish up; the node goes on serving what it holds.
pub struct SwarmHandle {
    swarm: SwarmId,
    ticket: u64,
    control: mpsc::UnboundedSender<Control>,
    progress: watch::Receiver<Progress>,
    stored: mpsc::UnboundedReceiver<u32>,
}

impl SwarmHandle {
    /// The handle of the wish that was given `ticket`.
    pub(crate) fn new(
        swarm: SwarmId,
        ticket: u64,
        control: mpsc::UnboundedSender<Control>,
        progress: watch::Receiver<Progress>,
        stored: mpsc::UnboundedReceiver<u32>,
    ) -> Self {
        Self { swarm, ticket, control, progress, stored }
    }

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

    /// Changes how much this wish matters beside the others of this node.
    pub fn matters(&self, precedence: Precedence) {
        let _ = self.control.send(Control::Matters(self.ticket, precedence));
    }

    /// Moves chunks to the head of the queue because a reader waits for them; wants them, if it did not yet.
    pub fn urge(&self, chunks: Vec<u32>) {
        let _ = self.control.send(Control::Urgent { ticket: self.ticket, chunks });
    }

    /// Fetches in this order, where nothing else counts; for everybody in the swarm on this node.
    pub fn order(&self, chunks: Vec<u32>) {
        let _ = self.control.send(Control::Order(chunks));
    }

    /// What orders chunks on this wish while somebody else follows it.
    pub fn urging(&self) -> Urging {
        Urging { ticket: self.ticket, control: self.control.clone() }
    }
}

/// Orders chunks on a wish; without effect once its handle is gone.
#[derive(Clone)]
pub struct Urging {
    ticket: u64,
    control: mpsc::UnboundedSender<Control>,
}

impl Urging {
    /// As [`SwarmHandle::urge`].
    pub fn urge(&self, chunks: Vec<u32>) {
        let _ = self.control.send(Control::Urgent { ticket: self.ticket, chunks });
    }

    /// Has these come next, behind what is urgent: a reader is about to come to them.
    pub fn ahead(&self, chunks: Vec<u32>) {
        let _ = self.control.send(Control::Ahead { ticket: self.ticket, chunks });
    }

    /// As [`SwarmHandle::order`].
    pub fn order(&self, chunks: Vec<u32>) {
        let _ = self.control.send(Control::Order(chunks));
    }
}

impl Drop for SwarmHandle {
    fn drop(&mut self) {
        let _ = self.control.send(Control::Dropped(self.ticket));
    }
}
