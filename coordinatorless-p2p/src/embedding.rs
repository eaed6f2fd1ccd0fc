//! What the embedder brings to a cluster, and what the cluster's parts see of it.
//!
//! Owns the settings, the two traits the embedder answers, and the [`Surroundings`] that every swarm's
//! task works in. Deliberately absent: swarms, tasks and timers, which belong to the shell.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    chunk::SwarmId,
    error::Result,
    membership::Membership,
    node::{Node, NodeId},
    seam::ChunkStore,
    swarm::{SwarmConfig, SwarmSpec},
    throttle::Throttle,
    transport::{Peer, Transport},
    turns::Turns,
};

/// Services below this number belong to the cluster itself.
pub const FIRST_HOST_SERVICE: u16 = 16;

/// Payload bytes a second that may pass through this node, all transfers together; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Served to others.
    pub upload: Option<u64>,
    /// Asked of others, and [taken in](crate::cluster::Cluster::take_in) from elsewhere.
    pub download: Option<u64>,
}

/// How the cluster behaves.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Every swarm's settings.
    pub swarm: SwarmConfig,
    /// A stream without a byte for this long is given up.
    pub stall: Duration,
    /// Chunks served at a time, all swarms together.
    pub uploads_max: usize,
    /// Streams handled at a time, all peers together.
    pub streams_max: usize,
    /// How long a pull goes on without any progress while the origin fails.
    pub give_up: Duration,
    /// How long homes have to answer.
    pub meet_deadline: Duration,
    /// The limits to begin with.
    pub limits: Limits,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            swarm: SwarmConfig::default(),
            stall: Duration::from_secs(30),
            uploads_max: 256,
            streams_max: 4096,
            give_up: Duration::from_secs(120),
            meet_deadline: Duration::from_secs(2),
            limits: Limits::default(),
        }
    }
}

/// What the embedder answers for.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// How a swarm is cut that this node holds something of.
    ///
    /// # Errors
    /// `NotFound` when it holds nothing of it.
    fn spec(&self, swarm: SwarmId) -> Result<SwarmSpec>;

    /// Swarms this node holds something of, to be announced to their homes.
    fn holdings(&self) -> Vec<SwarmId>;

    /// Answers a call of another node (services from [`FIRST_HOST_SERVICE`]).
    ///
    /// # Errors
    /// Whatever the caller should hear.
    async fn call(&self, from: NodeId, service: u16, body: Bytes) -> Result<Bytes>;
}

/// What a chunk costs after its bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Hashing it.
    Verify,
    /// Writing it; waiting for the disk included.
    Store,
}

/// Who wants to hear of what went wrong, and what things cost. The default hears nothing.
pub trait Observer: Send + Sync + 'static {
    /// A stream from `source` (`peer`) brought no byte for the stall time-out.
    fn stalled(&self, source: &'static str) {
        let _ = source;
    }

    /// A peer served bytes that did not have their hash.
    fn corrupt(&self, peer: NodeId, index: u32) {
        let _ = (peer, index);
    }

    /// A chunk's bytes took this long to hash, or to write.
    fn worked(&self, work: Work, took: Duration) {
        let _ = (work, took);
    }

    /// A peer is shunned.
    fn shunned(&self, peer: NodeId, why: &'static str) {
        let _ = (peer, why);
    }
}

/// An observer that does not observe.
#[derive(Debug, Default, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// The parts of a cluster.
pub struct Parts {
    /// Streams and datagrams.
    pub transport: Arc<dyn Transport>,
    /// Who is alive.
    pub membership: Membership,
    /// Where chunks are kept.
    pub store: Arc<dyn ChunkStore>,
    /// What the embedder answers for.
    pub host: Arc<dyn Host>,
    /// Who hears of trouble.
    pub observer: Arc<dyn Observer>,
}

/// What every swarm's task works in.
pub(crate) struct Surroundings {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) membership: Membership,
    pub(crate) store: Arc<dyn ChunkStore>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) config: ClusterConfig,
    /// Payload that may be asked for.
    pub(crate) download: Throttle,
    /// Bytes of chunks that came from nodes of other zones since start, also in vain.
    pub(crate) cross_zone: AtomicU64,
    /// Whose turn it is among this node's swarms.
    pub(crate) turns: parking_lot::Mutex<Turns>,
    /// When their clock began.
    pub(crate) began: tokio::time::Instant,
}

impl Surroundings {
    /// Where a live member is reached.
    pub(crate) fn peer(&self, id: NodeId) -> Option<Peer> {
        self.membership.lookup(id).map(|node| Peer { addr: node.addr, id: Some(id) })
    }

    pub(crate) fn same_zone(&self, id: NodeId) -> bool {
        let zone = |id| self.membership.lookup(id).map(|n: Node| n.zone);
        zone(id) == zone(self.transport.id())
    }
}
