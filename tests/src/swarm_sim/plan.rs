//! What to simulate, how the model is cut, and the least time that the links allow.

use coordinatorless_p2p::{Error, ErrorKind, Result, SwarmId, swarm::SwarmSpec};
use emberline_agent::layout::target_chunk_bytes;

/// Nodes beyond which the numbers of the world would not do.
const NODES_MAX: usize = 20_000;
/// Chunks delivered in a simulation that takes minutes.
const DELIVERIES: u64 = 5_000_000;
/// The coarsest chunks that stand for the product's.
const CHUNK_MAX: u32 = 256 << 20;

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

/// One simulation.
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
    /// The share of the nodes that die on the way, and of as many that join on the way.
    pub churn: f64,
    /// Of the membership at most so many nodes are simulated: its work grows with the third power.
    pub members_max: usize,
    /// Of every random choice.
    pub seed: u64,
}

impl Plan {
    /// How many die, and how many join.
    pub fn changes(&self) -> usize {
        (self.nodes as f64 * self.churn).round() as usize
    }

    /// The chunks that the product would cut a model of this size into.
    pub fn product_chunk_bytes(model_bytes: u64) -> u32 {
        target_chunk_bytes(model_bytes)
    }

    /// Chunks like the product's, or as much coarser as a simulation of minutes demands.
    pub fn feasible_chunk_bytes(model_bytes: u64, nodes: usize) -> u32 {
        let mut chunk = Self::product_chunk_bytes(model_bytes);
        while chunk < CHUNK_MAX && model_bytes / u64::from(chunk) * nodes as u64 > DELIVERIES {
            chunk *= 2;
        }
        chunk
    }

    /// Whether it can be simulated.
    ///
    /// # Errors
    /// `Invalid`, naming what is wrong.
    pub fn check(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::new(ErrorKind::Invalid, text));
        if self.nodes == 0 || self.nodes > NODES_MAX {
            return wrong(format!("{} nodes: between 1 and {NODES_MAX} can be simulated", self.nodes));
        }
        if self.zones == 0 || self.zones > self.nodes {
            return wrong(format!("{} zones for {} nodes: each needs a node", self.zones, self.nodes));
        }
        if !(0.0..=0.5).contains(&self.churn) {
            return wrong(format!(
                "a churn of {:.0} %: at most half of the nodes may go",
                self.churn * 100.0
            ));
        }
        if self.chunk_bytes == 0 || self.chunk_bytes > CHUNK_MAX {
            return wrong(format!("chunks of {} bytes: between 1 B and 256 MiB", self.chunk_bytes));
        }
        let chunks = self.model_bytes.div_ceil(u64::from(self.chunk_bytes));
        if self.model_bytes == 0 || chunks > u64::from(u32::MAX) {
            return wrong(format!("{} bytes in {chunks} chunks cannot be simulated", self.model_bytes));
        }
        let rates = self.links.nodes.iter().chain([&self.links.origin]).chain(&self.links.trunk);
        if self.links.nodes.is_empty() || rates.into_iter().any(|rate| rate.is_nan() || *rate <= 0.0) {
            return wrong("every link needs a rate above zero".to_owned());
        }
        Ok(())
    }
}

/// A model in fixed steps, and in spans as the agent makes them.
pub fn spec_of(model_bytes: u64, chunk_bytes: u32) -> SwarmSpec {
    let chunk = u64::from(chunk_bytes);
    let count = model_bytes.div_ceil(chunk).max(1);
    let last = model_bytes - (count - 1) * chunk;
    let mut lengths = vec![chunk_bytes; count as usize];
    if let Some(length) = lengths.last_mut() {
        *length = last as u32;
    }
    let span_bytes = emberline_agent::fetch::span_bytes(model_bytes);
    let of_span = (span_bytes / chunk).max(1) as u32;
    let spans = (0..count as u32).step_by(of_span as usize).map(|s| s..(s + of_span).min(count as u32));
    SwarmSpec { id: SwarmId([9; 32]), chunk_bytes: lengths.into(), spans: spans.collect::<Vec<_>>().into() }
}

/// Kumar & Ross: no scheme distributes faster.
pub fn bound_seconds(model_bytes: u64, nodes: usize, links: &Links) -> f64 {
    let (f, n) = (model_bytes as f64, nodes as f64);
    let rates = (0..nodes).map(|n| links.nodes[n % links.nodes.len()]);
    let up: f64 = rates.clone().sum();
    let down = rates.fold(f64::INFINITY, f64::min);
    (f / links.origin).max(f / down).max(n * f / (links.origin + up))
}
