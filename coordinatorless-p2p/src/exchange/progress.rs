//! How far a swarm has come on this node, as its followers see it.

use std::sync::Arc;

use crate::error::Error;

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
