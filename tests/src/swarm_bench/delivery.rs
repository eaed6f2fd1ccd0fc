//! A delivery to nodes: where they are, what is asked for, and how each fared.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use emberline_agent::api::Sources;

use super::departure::{Departed, Departure};
use crate::{namespaces::Namespace, process_stats::ProcessStats};

/// Where one node is.
pub(super) struct Site {
    pub(super) node: Namespace,
    pub(super) host: IpAddr,
    pub(super) zone: Option<usize>,
}

/// A delivery to ask for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wave {
    /// When each node starts.
    pub(super) starts: Vec<Duration>,
    /// Nodes after those that start with the first, and that nobody waits for.
    pub(super) stragglers: usize,
    /// Nodes that go meanwhile.
    pub(super) departure: Option<Departure>,
    /// Draws those.
    pub(super) seed: u64,
}

/// A delivery that was made.
pub(super) struct Delivered {
    /// Nodes that have the model now.
    pub(super) deliveries: Vec<Delivery>,
    /// Nodes that went.
    pub(super) departed: Option<Departed>,
    /// Nodes that served a noticeable part of it to others.
    pub(super) sources: usize,
}

/// How one node fared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Delivery {
    /// Which node.
    pub(super) node: usize,
    /// Where its copy is.
    pub(super) path: PathBuf,
    /// From the common release until the copy was whole.
    pub(super) finished: Duration,
    /// From this node's own start until the copy was whole.
    pub(super) own: Duration,
    /// Where its bytes came from.
    pub(super) sources: Sources,
    /// What the process cost; for agents only what this delivery added, but for the peak.
    pub(super) stats: ProcessStats,
}
