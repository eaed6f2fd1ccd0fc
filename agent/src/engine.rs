//! The engine: what a pull needs of the agent, and nothing that needs pulls.
//!
//! Owns nothing of its own but the parts; jobs, doors and the agent stand above it.

use std::{sync::atomic::AtomicBool, time::Instant};

use coordinatorless_p2p::cluster::Cluster;
use tokio_util::sync::CancellationToken;

use crate::{api::Cost, joining::Joining, origin::Origins, prices::Prices, resolve::Resolver, store::Store};

/// The parts that bring a model onto this disk.
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) origins: Origins,
    pub(crate) cluster: Cluster,
    pub(crate) resolver: Resolver,
    pub(crate) prices: Prices,
    /// Whether this node knows the others by now.
    pub(crate) joining: Joining,
    pub(crate) began: Instant,
    /// Cancelled when the agent stops: no job starts after that, and those under way end.
    pub(crate) cancel: CancellationToken,
    /// Whether that was because somebody drained it: it stays, and takes nothing more.
    pub(crate) drained: AtomicBool,
}

impl Engine {
    /// What this node's traffic has cost since start, bytes in vain included.
    pub(crate) fn cost(&self) -> Cost {
        let counters = self.origins.counters();
        let remote = counters.iter().filter(|origin| origin.is_remote());
        self.prices.cost(remote.map(|origin| origin.bytes).sum(), self.cluster.cross_zone_bytes())
    }
}
