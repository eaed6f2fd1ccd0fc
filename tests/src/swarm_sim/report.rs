//! What a simulation found, as data and as a table.

use std::fmt;

use serde::Serialize;

use super::{Plan, World};

/// One simulation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub nodes: usize,
    pub model_bytes: u64,
    pub chunk_bytes: u32,
    pub zones: usize,
    pub churn: f64,
    pub seed: u64,
    pub bound_seconds: f64,
    pub makespan_seconds: f64,
    pub makespan_ratio: f64,
    pub joiner_ratio: f64,
    pub origin_ratio: f64,
    pub cross_zone_ratio: f64,
    pub control_bytes_ratio: f64,
    pub control_messages_per_node: f64,
    pub control_messages_per_node_max: u64,
    pub neighbours_max: usize,
    pub state_bytes_per_node: u64,
    pub hedged_ratio: f64,
    pub events: u64,
}

impl Report {
    pub(super) fn of(plan: &Plan, bound: f64, world: &World) -> Self {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let originals = &world.peers[..plan.nodes];
        let done = originals.iter().filter(|p| p.alive).filter_map(|p| p.done_at).max().unwrap_or(0);
        let slowest = plan.links.nodes.iter().copied().fold(f64::INFINITY, f64::min);
        let own = plan.model_bytes as f64 / slowest;
        let joiner = world.peers[plan.nodes..]
            .iter()
            .filter_map(|p| Some(seconds(p.done_at? - p.starts_at) / own))
            .fold(0.0, f64::max);
        let model = plan.model_bytes as f64;
        let payload = (world.ledger.origin_bytes + world.ledger.peer_bytes) as f64;
        let (messages, bytes) = world.control().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let state = world.peers.iter().filter_map(|p| p.swarm.as_ref()).map(|s| s.state_bytes() as u64);
        Self {
            nodes: plan.nodes,
            model_bytes: plan.model_bytes,
            chunk_bytes: plan.chunk_bytes,
            zones: plan.zones,
            churn: plan.churn,
            seed: plan.seed,
            bound_seconds: bound,
            makespan_seconds: seconds(done),
            makespan_ratio: seconds(done) / bound,
            joiner_ratio: joiner,
            origin_ratio: world.ledger.origin_bytes as f64 / model,
            cross_zone_ratio: world.ledger.into_zone_bytes.iter().map(|b| *b as f64 / model).fold(0.0, f64::max),
            control_bytes_ratio: bytes as f64 / payload,
            control_messages_per_node: messages as f64 / world.peers.len() as f64,
            control_messages_per_node_max: world.control().map(|c| c.0).max().unwrap_or(0),
            neighbours_max: world.peers.iter().map(|p| p.peak_neighbours).max().unwrap_or(0),
            state_bytes_per_node: state.max().unwrap_or(0),
            hedged_ratio: world.ledger.hedged_bytes as f64 / payload,
            events: world.ledger.events,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#?}")
    }
}
