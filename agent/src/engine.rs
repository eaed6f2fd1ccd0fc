//! The engine: what a pull needs of the agent, and nothing that needs pulls.
//!
//! Owns nothing of its own but the parts; jobs, doors and the agent stand above it.

use coordinatorless_p2p::cluster::Cluster;
use tokio_util::sync::CancellationToken;

use crate::{origin::Origins, resolve::Resolver, store::Store};

/// The parts that bring a model onto this disk.
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) origins: Origins,
    pub(crate) cluster: Cluster,
    pub(crate) resolver: Resolver,
    /// Cancelled when the agent stops: no job starts after that, and those under way end.
    pub(crate) cancel: CancellationToken,
}
