//! How far a swarm has come on this node, as its followers see it.

use std::sync::Arc;

use crate::error::Error;

/// Where one pull stands in a swarm.
#[derive(Debug, Clone, Default)]
pub enum SwarmState {
    /// Chunks are missing and being sought.
    #[default]
    Running,
    /// Everything that this pull wants is stored.
    Complete,
    /// This pull cannot go on; what is stored stays.
    Failed(Arc<Error>),
}

/// Bytes by source and company, the swarm's on this node; the state is of one pull.
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
    /// Bytes asked of a second neighbour because the first was slow; at most so many came twice.
    pub hedged_bytes: u64,
    /// Wanted bytes stored, whatever their source.
    pub held_bytes: u64,
    /// Participants exchanging with us now.
    pub neighbours: usize,
    /// Where it stands.
    pub state: SwarmState,
}

impl Progress {
    /// Whether the figures are the same, whatever the state.
    pub(crate) fn counts_as(&self, other: &Self) -> bool {
        let figures = |p: &Self| {
            [p.origin_bytes, p.peer_bytes, p.reused_bytes, p.wasted_bytes, p.hedged_bytes, p.held_bytes]
        };
        figures(self) == figures(other) && self.neighbours == other.neighbours
    }
}
