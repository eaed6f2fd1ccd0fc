//! `swarm-sim`: thousands of nodes of the product's own state machines in virtual time.
//!
//! The swarm, the ring and the meeting place are the product's; the network is a fluid one
//! with max-min-fair links. Deterministic: one plan and seed, one outcome.

pub mod gossip;
mod mail;
pub mod network;
mod report;
mod world;

pub use report::Report;
pub use world::{Ledger, Setting, World};

use std::sync::Arc;

use coordinatorless_p2p::{ChunkHash, Error, ErrorKind, Result, SwarmId, swarm::SwarmSpec};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Released together, nodes begin within this time.
const START_SPREAD_NANOS: u64 = 100_000_000;

/// Bytes a second of each link.
#[derive(Debug, Clone)]
pub struct Links {
    /// Up and down alike; dealt to the nodes in turn.
    pub nodes: Vec<f64>,
    /// The origin's.
    pub origin: f64,
    /// Each zone's border, each way.
    pub trunk: Option<f64>,
}

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes that want the model from the start.
    pub nodes: usize,
    /// Its size.
    pub model_bytes: u64,
    /// The size of its chunks.
    pub chunk_bytes: u32,
    /// The links.
    pub links: Links,
    /// Zones that the nodes are dealt to; at least 1.
    pub zones: usize,
    /// The share of the nodes that die on the way, and that join on the way.
    pub churn: f64,
    /// Of every random choice.
    pub seed: u64,
}

/// How the artifact is cut: fixed steps, and spans as the agent makes them.
fn spec(plan: &Plan) -> SwarmSpec {
    let chunk = u64::from(plan.chunk_bytes);
    let count = plan.model_bytes.div_ceil(chunk).max(1);
    let last = plan.model_bytes - (count - 1) * chunk;
    let mut chunk_bytes = vec![plan.chunk_bytes; count as usize];
    chunk_bytes[count as usize - 1] = last as u32;
    let span_bytes = (plan.model_bytes / 128).clamp(4 << 20, 32 << 20);
    let of_span = (span_bytes / chunk).max(1) as u32;
    let spans = (0..count as u32).step_by(of_span as usize).map(|s| s..(s + of_span).min(count as u32));
    SwarmSpec { id: SwarmId([9; 32]), chunk_bytes: chunk_bytes.into(), spans: spans.collect::<Vec<_>>().into() }
}

/// Kumar & Ross: no scheme distributes faster.
pub fn bound_seconds(model_bytes: u64, nodes: usize, links: &Links) -> f64 {
    let (f, n) = (model_bytes as f64, nodes as f64);
    let rates = (0..nodes).map(|n| links.nodes[n % links.nodes.len()]);
    let up: f64 = rates.clone().sum();
    let down = rates.fold(f64::INFINITY, f64::min);
    (f / links.origin).max(f / down).max(n * f / (links.origin + up))
}

/// Simulates `plan` to its end.
///
/// # Errors
/// `Timeout` when somebody has not got the model after twenty times the bound and a minute.
pub fn run(plan: &Plan) -> Result<Report> {
    let bound = bound_seconds(plan.model_bytes, plan.nodes, &plan.links);
    let mut rng = SmallRng::seed_from_u64(plan.seed);
    let changes = (plan.nodes as f64 * plan.churn).round() as usize;
    let spec = spec(plan);
    let hashes: Arc<[ChunkHash]> =
        (0..spec.chunk_bytes.len() as u32).map(|c| ChunkHash::of(&c.to_le_bytes())).collect();
    let setting =
        Setting { spec, hashes, links: plan.links.clone(), zones: plan.zones.max(1) as u32, seed: plan.seed };
    let mut world = World::new(setting, plan.nodes + changes);
    for node in 0..plan.nodes as u32 {
        world.start(node, rng.random_range(0..START_SPREAD_NANOS));
    }
    let moment = |rng: &mut SmallRng| (bound * rng.random_range(0.1..0.9) * 1e9) as u64;
    for node in plan.nodes..plan.nodes + changes {
        world.start(node as u32, moment(&mut rng));
    }
    let mut victims: Vec<u32> = (0..plan.nodes as u32).collect();
    for at in 0..changes {
        let other = rng.random_range(at..victims.len());
        victims.swap(at, other);
        let when = moment(&mut rng);
        world.kill(victims[at], when, |who| 6_000_000_000 + u64::from(who % 97) * 10_000_000);
    }
    let limit = ((bound * 20.0 + 60.0) * 1e9) as u64;
    if !world.run(limit) {
        let left: Vec<String> = world
            .peers
            .iter()
            .enumerate()
            .filter(|(_, p)| p.alive && p.done_at.is_none())
            .take(5)
            .map(|(n, p)| format!("node {n} lacks {}", p.swarm.as_ref().map_or(0, |s| s.missing())))
            .collect();
        return Err(Error::new(
            ErrorKind::Timeout,
            format!("not done after {:.0} s of virtual time: {}", limit as f64 / 1e9, left.join(", ")),
        ));
    }
    Ok(Report::of(plan, bound, &world))
}
