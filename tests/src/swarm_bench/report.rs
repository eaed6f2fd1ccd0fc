//! What one measurement found, as data and as a table.

use std::fmt::{self, Write};

use serde::Serialize;

use super::{Departed, Plan, bound::lower_bound_seconds, delivery::Delivery};
use crate::{
    model::{LISTING, Model},
    nginx::Request,
};

/// One measurement. Bytes and seconds, rates in Mbit/s.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What moved the bytes.
    pub contender: &'static str,
    /// Its version.
    pub version: String,
    /// Nodes that started cold and wanted the model.
    pub nodes: usize,
    /// Exact size of the model.
    pub model_bytes: u64,
    /// The fastest node's link, up and down.
    pub rate_mbit: f64,
    /// The slowest node's link, up and down.
    pub slowest_rate_mbit: f64,
    /// Zones that the nodes were dealt to; 0: none.
    pub zones: usize,
    /// What passes a zone's border each way at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_rate_mbit: Option<f64>,
    /// The origin's link.
    pub origin_rate_mbit: f64,
    /// Largest IP packet.
    pub mtu: u32,
    /// From the release until the last node had its copy.
    pub makespan_seconds: f64,
    /// The least that the links allow. Assumes that all start at once.
    pub bound_seconds: f64,
    /// `makespan_seconds` ÷ `bound_seconds`; null where links are not shaped.
    pub makespan_ratio: f64,
    /// What the origin's interface sent while the copies were made. The kernel counts one set of
    /// headers a batch of segments, so this is payload but for about 0.1 %; behind a link so slow that each of
    /// its streams sends segment by segment, headers and what TCP sends again make it several per cent.
    pub origin_bytes: u64,
    /// `origin_bytes` ÷ `model_bytes`.
    pub origin_ratio: f64,
    /// The bodies of the origin's answers by its own log, late joiners included, ÷ `model_bytes`. An answer that
    /// was called off counts with what was still in its socket and never left, so it may be more than
    /// `origin_bytes`. An S3 server keeps no log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_body_ratio: Option<f64>,
    /// Requests that the origin answered, late joiners included.
    pub origin_requests: usize,
    /// How often the listing was among them.
    pub origin_listings: usize,
    /// What came into each zone over its trunk, from the origin and from other zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub into_zone_bytes: Vec<u64>,
    /// The largest of these ÷ `model_bytes`: how often a byte crossed a zone's border.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_ratio: Option<f64>,
    /// What nodes received from each other.
    pub peer_bytes: u64,
    /// What was received in vain.
    pub wasted_bytes: u64,
    /// What was asked of a second node because the first was slow.
    pub hedged_bytes: u64,
    /// `hedged_bytes` + `wasted_bytes`, at most what came twice, ÷ what was delivered.
    pub extra_ratio: f64,
    /// The link of one more node, which nobody waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub straggler_rate_mbit: Option<f64>,
    /// Nodes that went meanwhile; figures of nodes are of those that stayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub departed: Option<Departed>,
    /// What the origin may send then: 1.02 and what only they held or were reading, ÷ `model_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_ratio_allowed: Option<f64>,
    /// CPU time of all nodes, user and system, a GiB delivered. Links that are shaped cost several times
    /// the CPU of links that are not.
    pub cpu_seconds_per_gib: f64,
    /// The largest of the nodes' peaks; 0 for rivals that were not measured.
    pub peak_rss_bytes: u64,
    /// Every copy had the right SHA-256: always true, for a measurement without it fails.
    pub verified: bool,
    /// Each node.
    pub per_node: Vec<NodeReport>,
    /// What the origin sent while late joiners made their copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_joiner_origin_bytes: Option<u64>,
    /// The same ÷ `model_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_joiner_origin_ratio: Option<f64>,
    /// Until the last late joiner had its copy, from when they started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_joiner_seconds: Option<f64>,
    /// Each late joiner's time ÷ (model ÷ its link).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub late_joiner_ratios: Vec<f64>,
    /// Nodes that served late joiners more than a hundredth of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_joiner_sources: Option<usize>,
}

/// One node of a measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeReport {
    /// Which.
    pub node: usize,
    /// From the common release until it had its copy.
    pub finished_seconds: f64,
    /// From its own start until it had its copy.
    pub own_seconds: f64,
    /// `own_seconds` ÷ (model ÷ its link).
    pub own_ratio: f64,
    /// What it read from the origin.
    pub origin_bytes: u64,
    /// What it received from the others.
    pub peer_bytes: u64,
    /// CPU time.
    pub cpu_seconds: f64,
    /// The most memory it had resident.
    pub peak_rss_bytes: u64,
}

/// What a [`Report`] is computed from.
pub(super) struct Measured<'a> {
    pub(super) model: &'a Model,
    pub(super) first: &'a [Delivery],
    pub(super) late: &'a [Delivery],
    pub(super) origin_sent: u64,
    pub(super) late_sent: Option<u64>,
    pub(super) late_sources: usize,
    pub(super) departed: Option<&'a Departed>,
    pub(super) into_zones: Vec<u64>,
    pub(super) requests: Vec<Request>,
    pub(super) versions: String,
}

impl Measured<'_> {
    /// In the answers of an origin that keeps a log.
    fn body_bytes(&self) -> Option<u64> {
        (!self.requests.is_empty()).then(|| self.requests.iter().map(|request| request.body_bytes).sum())
    }
}

impl Report {
    pub(super) fn new(plan: &Plan, measured: &Measured<'_>) -> Self {
        let model_bytes = measured.model.bytes();
        let bound_seconds = lower_bound_seconds(model_bytes, &plan.links());
        let latest = |all: &[Delivery]| all.iter().map(|d| d.finished.as_secs_f64()).fold(0.0, f64::max);
        let makespan_seconds = latest(measured.first);
        let per_node: Vec<NodeReport> = measured
            .first
            .iter()
            .map(|d| NodeReport {
                node: d.node,
                finished_seconds: d.finished.as_secs_f64(),
                own_seconds: d.own.as_secs_f64(),
                own_ratio: own_ratio(plan, d, model_bytes),
                origin_bytes: d.sources.origin,
                peer_bytes: d.sources.peers,
                cpu_seconds: d.stats.cpu_seconds,
                peak_rss_bytes: d.stats.peak_rss_bytes,
            })
            .collect();
        let delivered_bytes = model_bytes as f64 * per_node.len() as f64;
        let delivered_gib = delivered_bytes / f64::from(1 << 30);
        let sum = |of: fn(&Delivery) -> u64| measured.first.iter().map(of).sum::<u64>();
        let (wasted_bytes, hedged_bytes) = (sum(|d| d.sources.wasted), sum(|d| d.sources.hedged));
        let everybody = || measured.first.iter().chain(measured.late);
        Self {
            contender: plan.contender.name(),
            version: measured.versions.clone(),
            nodes: plan.nodes,
            model_bytes,
            rate_mbit: plan.rates.iter().copied().max().unwrap_or(0) as f64 / 1e6,
            slowest_rate_mbit: plan.rates.iter().copied().min().unwrap_or(0) as f64 / 1e6,
            zones: plan.zones,
            zone_rate_mbit: plan.zone_rate.map(|rate| rate as f64 / 1e6),
            origin_rate_mbit: plan.origin_rate as f64 / 1e6,
            mtu: plan.mtu,
            makespan_seconds,
            bound_seconds: if plan.rates.is_empty() { f64::NAN } else { bound_seconds },
            makespan_ratio: if plan.rates.is_empty() { f64::NAN } else { makespan_seconds / bound_seconds },
            origin_bytes: measured.origin_sent,
            origin_ratio: measured.origin_sent as f64 / model_bytes as f64,
            origin_body_ratio: measured.body_bytes().map(|bytes| bytes as f64 / model_bytes as f64),
            origin_requests: measured.requests.len(),
            origin_listings: measured.requests.iter().filter(|r| r.path.ends_with(LISTING)).count(),
            into_zone_bytes: measured.into_zones.clone(),
            zone_ratio: measured.into_zones.iter().max().map(|&most| most as f64 / model_bytes as f64),
            peer_bytes: sum(|d| d.sources.peers),
            wasted_bytes,
            hedged_bytes,
            extra_ratio: (wasted_bytes + hedged_bytes) as f64 / delivered_bytes,
            straggler_rate_mbit: plan
                .straggler
                .and_then(|_| plan.node_rates().get(plan.nodes).map(|rate| *rate as f64 / 1e6)),
            departed: measured.departed.cloned(),
            origin_ratio_allowed: measured.departed.map(|gone| {
                1.02 + (gone.alone_when_gone_bytes + gone.unfinished_bytes) as f64 / model_bytes as f64
            }),
            cpu_seconds_per_gib: per_node.iter().map(|n| n.cpu_seconds).sum::<f64>() / delivered_gib,
            peak_rss_bytes: everybody().map(|d| d.stats.peak_rss_bytes).max().unwrap_or(0),
            verified: true,
            per_node,
            late_joiner_origin_bytes: measured.late_sent,
            late_joiner_origin_ratio: measured.late_sent.map(|sent| sent as f64 / model_bytes as f64),
            late_joiner_seconds: measured.late_sent.map(|_| latest(measured.late)),
            late_joiner_ratios: measured.late.iter().map(|d| own_ratio(plan, d, model_bytes)).collect(),
            late_joiner_sources: measured.late_sent.map(|_| measured.late_sources),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<26} {value}");
        line("contender", format!("{} ({})", self.contender, self.version))?;
        line(
            "model, nodes, links",
            format!(
                "{:.1} MiB to {} nodes of {} Mbit/s, origin {} Mbit/s, MTU {}",
                mib(self.model_bytes),
                self.nodes,
                if self.slowest_rate_mbit < self.rate_mbit {
                    format!("{} down to {}", self.rate_mbit, self.slowest_rate_mbit)
                } else {
                    self.rate_mbit.to_string()
                },
                self.origin_rate_mbit,
                self.mtu
            ),
        )?;
        line("last node has published", format!("{:.2} s", self.makespan_seconds))?;
        if self.makespan_ratio.is_finite() {
            line("least the links allow", format!("{:.2} s", self.bound_seconds))?;
            line("ratio", format!("{:.3}", self.makespan_ratio))?;
            line("own time ÷ (model ÷ link)", join(self.per_node.iter().map(|n| n.own_ratio)))?;
        }
        if let Some(rate) = self.straggler_rate_mbit {
            line("one more, not waited for", format!("{rate} Mbit/s"))?;
        }
        line(
            "sent by the origin",
            format!(
                "{:.1} MiB = {:.3} × the model{}, {} requests, {} of them listings",
                mib(self.origin_bytes),
                self.origin_ratio,
                self.origin_body_ratio
                    .map_or(String::new(), |ratio| format!(" ({ratio:.3} × given to its sockets)")),
                self.origin_requests,
                self.origin_listings
            ),
        )?;
        if let (Some(gone), Some(allowed)) = (&self.departed, self.origin_ratio_allowed) {
            line("went meanwhile", {
                let nodes = gone.nodes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
                format!(
                    "node {nodes}, {} at {:.2} s ({:.0} % of all bytes were there), gone at {:.2} s",
                    gone.going,
                    gone.told_seconds,
                    gone.moment * 100.0,
                    gone.gone_seconds
                )
            })?;
            line(
                "only they held",
                format!(
                    "{:.1} MiB then, {:.1} MiB when they were gone, {:.1} MiB half read: the origin may send \
                     {allowed:.3} ×",
                    mib(gone.alone_when_told_bytes),
                    mib(gone.alone_when_gone_bytes),
                    mib(gone.unfinished_bytes)
                ),
            )?;
        }
        if let Some(ratio) = self.zone_ratio {
            let each = self.into_zone_bytes.iter().map(|bytes| *bytes as f64 / self.model_bytes as f64);
            line(
                "came into each zone",
                format!("{}× the model, at most {ratio:.3} ×, {} zones", join(each), self.zones),
            )?;
        }
        line(
            "from peers, in vain, hedged",
            format!(
                "{:.1} MiB, {:.1} MiB, {:.1} MiB: at most {:.1} % came twice",
                mib(self.peer_bytes),
                mib(self.wasted_bytes),
                mib(self.hedged_bytes),
                self.extra_ratio * 100.0
            ),
        )?;
        line("CPU a GiB delivered", format!("{:.2} s", self.cpu_seconds_per_gib))?;
        line("peak memory of an agent", format!("{:.1} MiB", mib(self.peak_rss_bytes)))?;
        if let (Some(bytes), Some(ratio), Some(seconds)) =
            (self.late_joiner_origin_bytes, self.late_joiner_origin_ratio, self.late_joiner_seconds)
        {
            line(
                "late joiners",
                format!("{seconds:.2} s, origin sent {:.2} MiB = {ratio:.4} × the model", mib(bytes)),
            )?;
            line(
                "their own time, sources",
                format!(
                    "{}× (model ÷ link), {} nodes served them",
                    join(self.late_joiner_ratios.iter().copied()),
                    self.late_joiner_sources.unwrap_or(0)
                ),
            )?;
        }
        line("every copy has its SHA-256", self.verified.to_string())
    }
}

/// Its own time ÷ (model ÷ its link).
fn own_ratio(plan: &Plan, delivery: &Delivery, model_bytes: u64) -> f64 {
    let rate = plan.node_rates().get(delivery.node).map_or(f64::NAN, |rate| *rate as f64);
    delivery.own.as_secs_f64() * rate / (model_bytes as f64 * 8.0)
}

fn join(numbers: impl Iterator<Item = f64>) -> String {
    numbers.fold(String::new(), |mut text, number| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{number:.2} ");
        text
    })
}
