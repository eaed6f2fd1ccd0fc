//! The engine: what a pull needs of the agent, and nothing that needs pulls.
//!
//! Owns nothing of its own but the parts; jobs, doors and the agent stand above it.

use std::{
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use coordinatorless_p2p::cluster::Cluster;
use tokio_util::sync::CancellationToken;

use crate::{api::Cost, origin::Origins, prices::Prices, resolve::Resolver, store::Store};

/// How long after its start a node waits for the first seed to answer before it pulls alone.
const JOIN_PATIENCE: Duration = Duration::from_secs(3);

/// After so long without a new member a fresh node takes the ring for known.
const JOIN_QUIET: Duration = Duration::from_millis(300);

/// The parts that bring a model onto this disk.
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) origins: Origins,
    pub(crate) cluster: Cluster,
    pub(crate) resolver: Resolver,
    pub(crate) prices: Prices,
    /// Whether this node was told of others to join.
    pub(crate) has_seeds: bool,
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

    /// Waits, in the first moments of a node that has seeds, until it has met the others: whoever pulls
    /// before it knows the ring asks the wrong homes and reads the whole origin.
    pub(crate) async fn join(&self) {
        let left = JOIN_PATIENCE.saturating_sub(self.began.elapsed());
        if !self.has_seeds || left.is_zero() {
            return;
        }
        let mut members = self.cluster.membership().watch();
        let met = async {
            if members.wait_for(|nodes| nodes.len() > 1).await.is_ok() {
                // A seed answers with the others it knows, in a few datagrams.
                while let Ok(Ok(())) = tokio::time::timeout(JOIN_QUIET, members.changed()).await {}
            }
        };
        let _ = tokio::time::timeout(left, met).await;
    }
}
