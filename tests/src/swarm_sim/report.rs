//! What a simulation found, as data and as a table.

use std::fmt;

use serde::Serialize;

use super::{Findings, Plan, World};

/// One simulation. Bytes and seconds of virtual time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Nodes that wanted the model from the start.
    pub nodes: usize,
    /// The model's size.
    pub model_bytes: u64,
    /// The size of its chunks here.
    pub chunk_bytes: u32,
    /// The size that the product would give them. Where it is smaller, the tail of the makespan is longer
    /// here than there, and control bytes are fewer for each byte of payload.
    pub product_chunk_bytes: u32,
    /// Zones that the nodes were dealt to.
    pub zones: usize,
    /// Nodes that died on the way, and nodes that joined on the way.
    pub changes: usize,
    /// Of every random choice.
    pub seed: u64,
    /// The least time that the links allow, if all start at once and none dies.
    pub bound_seconds: f64,
    /// Until the last node of those from the start that lived had the model.
    pub makespan_seconds: f64,
    /// `makespan_seconds` ÷ `bound_seconds`.
    pub makespan_ratio: f64,
    /// The slowest joiner's own time ÷ model ÷ its link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joiner_ratio: Option<f64>,
    /// What the origin sent ÷ model.
    pub origin_ratio: f64,
    /// What came into a zone, from the origin and from other zones, ÷ model; the largest of all zones.
    pub cross_zone_ratio: f64,
    /// Everything sent that is not payload, membership included, ÷ payload.
    pub control_bytes_ratio: f64,
    /// Of these, greetings, which say everything held, ÷ payload.
    pub greeting_bytes_ratio: f64,
    /// Words, requests, answers and gossip sent by each node, on average.
    pub control_messages_per_node: f64,
    /// The same of the node that sent most: one of the swarm's homes, or one that reads for the others.
    pub control_messages_per_node_max: u64,
    /// The same by each node for each chunk that it got.
    pub control_messages_per_chunk: f64,
    /// Neighbours of the node that had most at a time.
    pub neighbours_max: usize,
    /// Memory of a node's swarm state, the largest of all nodes.
    pub state_bytes_per_node: u64,
    /// Payload asked of a second holder ÷ payload.
    pub hedged_ratio: f64,
    /// Nodes whose membership was simulated.
    pub members: usize,
    /// From the first node's start until everybody knew everybody.
    pub converge_seconds: f64,
    /// From a death until the last node noticed.
    pub detect_seconds: f64,
    /// How often a node took one that lived for dead.
    pub false_deaths: u64,
    /// What happened in the simulation, membership included.
    pub events: u64,
}

impl Report {
    pub(super) fn of(plan: &Plan, bound: f64, findings: &Findings, members: usize, world: &World) -> Self {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let (originals, joiners) = world.peers.split_at(plan.nodes);
        let done = originals.iter().filter(|p| p.alive).filter_map(|p| p.done_at).max().unwrap_or(0);
        let makespan_seconds = seconds(done);
        let slowest = plan.links.nodes.iter().copied().fold(f64::INFINITY, f64::min);
        let model = plan.model_bytes as f64;
        let joiner_ratio = joiners
            .iter()
            .filter_map(|p| Some(seconds(p.done_at? - p.starts_at) / (model / slowest)))
            .max_by(f64::total_cmp);
        let payload = (world.ledger.origin_bytes + world.ledger.peer_bytes) as f64;
        let (messages, bytes) = world.control().fold((0, 0), |sum, c| (sum.0 + c.0, sum.1 + c.1));
        // Gossip goes on all the time at its quiet rate; what a death adds is spread over all that follow.
        let count = world.peers.len() as f64;
        let gossip =
            (findings.messages_per_second * makespan_seconds, findings.bytes_per_second * makespan_seconds);
        let states = world.peers.iter().filter_map(|p| p.swarm.as_ref()).map(|s| s.state_bytes() as u64);
        let into_zone = world.ledger.into_zone_bytes.iter().copied().max().unwrap_or(0);
        let chunks = plan.model_bytes.div_ceil(u64::from(plan.chunk_bytes)) as f64;
        let control_messages_per_node = messages as f64 / count + gossip.0;
        Self {
            nodes: plan.nodes,
            model_bytes: plan.model_bytes,
            chunk_bytes: plan.chunk_bytes,
            product_chunk_bytes: Plan::product_chunk_bytes(plan.model_bytes),
            zones: plan.zones,
            changes: plan.changes(),
            seed: plan.seed,
            bound_seconds: bound,
            makespan_seconds,
            makespan_ratio: makespan_seconds / bound,
            joiner_ratio,
            origin_ratio: world.ledger.origin_bytes as f64 / model,
            cross_zone_ratio: into_zone as f64 / model,
            control_bytes_ratio: (bytes as f64 + gossip.1 * count) / payload,
            greeting_bytes_ratio: world.ledger.greeting_bytes as f64 / payload,
            control_messages_per_node,
            control_messages_per_node_max: world.control().map(|c| c.0).max().unwrap_or(0),
            control_messages_per_chunk: control_messages_per_node / chunks,
            neighbours_max: world.peers.iter().map(|p| p.peak_neighbours).max().unwrap_or(0),
            state_bytes_per_node: states.max().unwrap_or(0),
            hedged_ratio: world.ledger.hedged_bytes as f64 / payload,
            members,
            converge_seconds: findings.converge_seconds,
            detect_seconds: findings.detect_seconds,
            false_deaths: findings.false_deaths,
            events: world.ledger.events + findings.events,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        let gb = self.model_bytes as f64 / 1e9;
        writeln!(
            f,
            "{} nodes in {} zones, {gb:.1} GB in chunks of {:.0} MiB, {} died and {} joined, seed {}",
            self.nodes,
            self.zones,
            mib(self.chunk_bytes.into()),
            self.changes,
            self.changes,
            self.seed
        )?;
        if self.chunk_bytes > self.product_chunk_bytes {
            let product = mib(self.product_chunk_bytes.into());
            writeln!(
                f,
                "  the product cuts chunks of {product:.0} MiB: its tail is shorter, its control share larger"
            )?;
        }
        let mut row = |name: &str, value: String| writeln!(f, "  {name:<26}{value}");
        row(
            "last node",
            format!(
                "{:.1} s, {:.3} × the bound of {:.1} s",
                self.makespan_seconds, self.makespan_ratio, self.bound_seconds
            ),
        )?;
        if let Some(ratio) = self.joiner_ratio {
            row("slowest joiner", format!("{ratio:.3} × its own downlink"))?;
        }
        row("origin sent", format!("{:.3} × the model", self.origin_ratio))?;
        row("into a zone came", format!("{:.3} × the model", self.cross_zone_ratio))?;
        row(
            "control",
            format!(
                "{:.3} % of payload, {:.3} % in greetings",
                self.control_bytes_ratio * 100.0,
                self.greeting_bytes_ratio * 100.0
            ),
        )?;
        row(
            "messages",
            format!(
                "{:.0} a node, {:.1} a chunk; {} at most",
                self.control_messages_per_node,
                self.control_messages_per_chunk,
                self.control_messages_per_node_max
            ),
        )?;
        row(
            "swarm state",
            format!(
                "{:.2} MiB a node, {} neighbours at most",
                mib(self.state_bytes_per_node),
                self.neighbours_max
            ),
        )?;
        row("asked twice", format!("{:.2} % of payload", self.hedged_ratio * 100.0))?;
        row(
            "membership",
            format!(
                "{} members know each other after {:.1} s, miss a dead one after {:.1} s, {} false deaths",
                self.members, self.converge_seconds, self.detect_seconds, self.false_deaths
            ),
        )?;
        write!(f, "  {:<26}{}", "events", self.events)
    }
}
