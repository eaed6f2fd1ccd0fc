//! What the protocol wants done: datagrams sent, timers set, the list of members shown anew.
//!
//! Does nothing itself.

use std::time::Duration;

use bytes::Bytes;
use foca::{Notification, Timer};
use tokio::time::Instant;

use super::wire::{self, Name, UNKNOWN};
use crate::{node::NodeId, transport::Peer};

/// What has to be done after an input.
#[derive(Default)]
pub struct Effects {
    /// Datagrams, and to whom.
    pub send: Vec<(Peer, Bytes)>,
    /// Whether the list of members may be another one now.
    pub changed: bool,
    /// Who came (true) or went (false), in order.
    pub turns: Vec<(NodeId, bool)>,
    pub(super) timers: Vec<(Timer<Name>, Duration)>,
}

impl foca::Runtime<Name> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, Name>) {
        match notification {
            Notification::MemberUp(Name(n)) => {
                self.turns.push((n.id, true));
                tracing::info!(node = %n.id, name = n.name, addr = %n.addr, "member up");
            }
            Notification::MemberDown(Name(n)) => {
                self.turns.push((n.id, false));
                tracing::info!(node = %n.id, name = n.name, addr = %n.addr, "member down");
            }
            Notification::Rejoin(Name(n)) => {
                tracing::warn!(generation = n.generation, "declared down while alive; came back");
            }
            Notification::Rename(..) | Notification::Active | Notification::Idle | Notification::Defunct => {}
        }
        self.changed = true;
    }

    fn send_to(&mut self, Name(to): Name, data: &[u8]) {
        let id = (to.id != UNKNOWN).then_some(to.id);
        self.send.push((Peer { addr: to.addr, id }, wire::frame(data)));
    }

    fn submit_after(&mut self, event: Timer<Name>, after: Duration) {
        self.timers.push((event, after));
    }
}

/// A timer and its moment; those of one moment in the order in which they were set.
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) sequence: u64,
    pub(super) timer: Timer<Name>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}
