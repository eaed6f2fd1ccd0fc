//! How long N nodes take to get one model, against the least that their links allow.
//!
//! One [`run`] is one measurement: a fresh network of namespaces with shaped links, a fresh model, a
//! fresh origin, empty directories, a dropped page cache; every output is checked against SHA-256.
//! Contenders differ only in what moves the bytes. Printing and arguments are the program's.

mod bound;
mod contender;
mod delivery;
mod departure;
mod fleet;
mod held;
mod origin;
mod picture;
mod report;
mod timeline;

use std::{sync::Arc, time::Duration};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use tempfile::TempDir;

pub use self::{
    bound::{Links, lower_bound_seconds},
    contender::Contender,
    departure::{Departed, Departure, Going, Many},
    picture::draw,
    report::{NodeReport, Report},
    timeline::{Lane, Reading, Sample, Timeline},
};
use self::{
    contender::Field,
    delivery::{Delivered, Delivery, Site, Wave},
    origin::Origin,
    timeline::{Recorder, Watched},
};
use crate::{
    model::Model,
    namespaces::{Namespace, Network, NetworkSpec},
    transport_bench::{Ring, ring},
};

/// Above this sum of node rates two cores are the limit and not the links.
pub const HONEST_RATE_SUM: u64 = 1_600_000_000;

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Nodes that want the model.
    pub nodes: usize,
    /// About how large it is; the report says exactly.
    pub model_bytes: u64,
    /// Rates of the nodes' links, up and down, in bits a second; gone through again when there are fewer
    /// than nodes. None: no link is shaped, the origin's neither, and there is no bound.
    pub rates: Vec<u64>,
    /// Zones that the nodes are dealt to in turn; 0: none.
    pub zones: usize,
    /// What passes a zone's border each way at most; absent: anything.
    pub zone_rate: Option<u64>,
    /// Rate of the origin's link.
    pub origin_rate: u64,
    /// When each node starts, in units of model ÷ node rate; the last one goes for all that follow.
    pub starts: Vec<f64>,
    /// Nodes that start once all others have finished.
    pub late: usize,
    /// One more node whose link has this share of the first one's rate; nobody waits for it.
    pub straggler: Option<f64>,
    /// Nodes that go meanwhile.
    pub departure: Option<Departure>,
    /// Whether the origin is an S3 server rather than nginx.
    pub s3: bool,
    /// What moves the bytes.
    pub contender: Contender,
    /// Largest IP packet.
    pub mtu: u32,
    /// Over IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Changes the model's content.
    pub seed: u64,
    /// Whether to watch where the time goes; costs a little of it.
    pub timeline: bool,
}

impl Plan {
    /// What to say when the machine rather than the links would be measured.
    pub fn warning(&self) -> Option<String> {
        let sum: u64 = (0..self.nodes).fold(0, |sum: u64, node| sum.saturating_add(self.rate_of(node)));
        (sum > HONEST_RATE_SUM).then(|| {
            format!(
                "{} nodes with {} Mbit/s together are more than {} Mbit/s: two cores will be the limit, not \
                 the links",
                self.nodes,
                sum / 1_000_000,
                HONEST_RATE_SUM / 1_000_000
            )
        })
    }

    /// The rate of a node's link.
    pub fn rate_of(&self, node: usize) -> u64 {
        self.rates.iter().cycle().nth(node).copied().unwrap_or(0)
    }

    /// The links of the nodes that start first.
    fn links(&self) -> Links {
        Links {
            node_rates: (0..self.nodes).map(|node| self.rate_of(node)).collect(),
            origin_rate: self.origin_rate,
            zone_rate: self.zone_rate.filter(|_| self.zones > 1),
        }
    }

    /// What cannot be measured.
    fn check(&self) -> Result<()> {
        let invalid = |text: &str| Err(Error::new(ErrorKind::Invalid, text));
        if self.nodes == 0 {
            return invalid("there must be at least one node");
        }
        if self.rates.iter().chain([&self.origin_rate]).any(|rate| *rate < 8) && !self.rates.is_empty() {
            return invalid("rates must be more than zero");
        }
        if self.rates.is_empty() && self.starts.iter().any(|start| *start > 0.0) {
            return invalid("without rates there is no unit for starts");
        }
        if self.starts.iter().any(|start| !(0.0..=1000.0).contains(start)) {
            return invalid("starts must be between 0 and 1000 times what the model needs on a node's link");
        }
        match &self.departure {
            Some(departure) => departure.count(self.nodes).map(drop),
            None => Ok(()),
        }
    }

    /// Of every node: those that start first, the straggler, late ones.
    fn node_rates(&self) -> Vec<u64> {
        let first = self.rates.first().copied();
        let straggler =
            self.straggler.zip(first).map(|(share, rate)| ((rate as f64 * share) as u64).max(8000));
        let late = (self.nodes..self.nodes + self.late).map(|node| self.rate_of(node));
        let early = (0..self.nodes).map(|node| self.rate_of(node));
        if first.is_none() { Vec::new() } else { early.chain(straggler).chain(late).collect() }
    }

    fn start_of(&self, node: usize) -> f64 {
        self.starts.get(node).or(self.starts.last()).copied().unwrap_or(0.0)
    }
}

/// Measures once.
///
/// # Errors
/// `Denied` without root; `Corrupt` when a copy is not the model; what else stops the contender.
pub async fn run(plan: &Plan) -> Result<(Report, Option<Timeline>)> {
    plan.check()?;
    let stragglers = usize::from(plan.straggler.is_some());
    let network = Network::new(NetworkSpec {
        nodes: plan.nodes + stragglers + plan.late,
        node_rates: plan.node_rates(),
        origin_rate: Some(plan.origin_rate).filter(|_| !plan.rates.is_empty()),
        zones: plan.zones,
        zone_rate: plan.zone_rate,
        mtu: plan.mtu,
    })?;
    let home = TempDir::with_prefix("emberline-bench-").at(|| "temporary directory".to_owned())?;
    let model = {
        let (dir, bytes, seed) = (home.path().join("model"), plan.model_bytes, plan.seed);
        Arc::new(blocking(move || Model::generate(&dir, bytes, seed)).await?)
    };
    drop_page_cache(&model).await?;
    let host = if plan.ipv6 { Namespace::ipv6 } else { Namespace::ipv4 };
    let at = host(network.origin());
    let origin = Origin::start(plan.s3, &model.dir, home.path(), network.origin(), at).await?;
    let sites: Vec<Site> = network
        .nodes()
        .iter()
        .enumerate()
        .map(|(n, node)| Site { node: node.clone(), host: host(node), zone: network.zone_of(n) })
        .collect();
    let (early, newcomers) = sites.split_at(plan.nodes + stragglers);
    let mut field = plan.contender.prepare(home.path(), &origin, model.clone(), early).await?;

    let fastest = plan.rates.iter().copied().max().unwrap_or(1);
    let ideal_seconds = model.bytes() as f64 * 8.0 / fastest as f64;
    let starts: Vec<Duration> =
        (0..plan.nodes).map(|node| Duration::from_secs_f64(plan.start_of(node) * ideal_seconds)).collect();
    let crossed_before = network.bytes_into_zones()?;
    let sent_before = network.origin().bytes().await?.sent;
    let recorder = plan.timeline.then(|| Recorder::start(watched(plan, &network, &field)));
    let departure = plan.departure;
    let wave = Wave { starts, stragglers, departure, seed: plan.seed };
    let Delivered { deliveries: first, mut departed, .. } = field.deliver(&wave).await?;
    let timeline = match recorder {
        Some(recorder) => recorder.stop().await,
        None => None,
    };
    let sent_after = network.origin().bytes().await?.sent;
    let crossed = network.bytes_into_zones()?;
    verify(&model, &first).await?;

    let mut late = Vec::new();
    let (mut late_sent, mut late_sources) = (None, 0);
    if plan.late > 0 {
        field.join(newcomers).await?;
        let before = network.origin().bytes().await?.sent;
        let wave = Wave { starts: vec![Duration::ZERO; plan.late], ..Wave::default() };
        Delivered { deliveries: late, sources: late_sources, .. } = field.deliver(&wave).await?;
        late_sent = Some(network.origin().bytes().await?.sent - before);
        verify(&model, &late).await?;
    }
    let requests = origin.requests()?;
    if let Some(gone) = departed.as_mut().filter(|gone| gone.going == Going::Killed) {
        // An S3 server keeps no log; then nothing is said to have been lost on the way.
        let hosts: Vec<String> = gone.nodes.iter().map(|node| sites[*node].host.to_string()).collect();
        let sent =
            requests.iter().filter(|request| hosts.contains(&request.client)).map(|r| r.body_bytes).sum();
        gone.unfinished_bytes = u64::saturating_sub(sent, gone.read_bytes);
    }
    let versions = field.versions();
    drop(field);
    let measured = report::Measured {
        model: &model,
        first: &first,
        late: &late,
        origin_sent: sent_after - sent_before,
        into_zones: crossed.iter().zip(&crossed_before).map(|(now, then)| now - then).collect(),
        late_sent,
        late_sources,
        departed: departed.as_ref(),
        requests,
        versions,
    };
    Ok((Report::new(plan, &measured), timeline))
}

/// What the same bytes cost over bare quinn on the same links, each node from its neighbour. The program must
/// know [`END_OPTION`](crate::transport_bench::END_OPTION).
///
/// # Errors
/// `Denied` without root; `Invalid` for fewer than two nodes; what else stops a transfer.
pub async fn over_bare_quinn(plan: &Plan) -> Result<Ring> {
    plan.check()?;
    let node_rates = plan.links().node_rates;
    // A node of less is refused by the plan.
    let slowest = node_rates.iter().min().copied().unwrap_or(8).max(8);
    let at_best = Duration::from_secs_f64(plan.model_bytes as f64 * 8.0 / slowest as f64);
    let network =
        Network::new(NetworkSpec { nodes: plan.nodes, node_rates, mtu: plan.mtu, ..NetworkSpec::default() })?;
    ring(&network, plan.model_bytes, at_best * 4 + Duration::from_secs(60)).await
}

/// The origin and every node that starts cold.
fn watched(plan: &Plan, network: &Network, field: &Field) -> Vec<Watched> {
    let origin = Watched {
        namespace: network.origin().clone(),
        agent: None,
        link_bytes_per_second: plan.origin_rate as f64 / 8.0,
    };
    let nodes = network.nodes()[..plan.nodes].iter().enumerate().map(|(n, namespace)| Watched {
        namespace: namespace.clone(),
        agent: field.agent(n),
        // Where no link is shaped the picture is of what a core can do.
        link_bytes_per_second: plan.node_rates().get(n).map_or(1e9, |rate| *rate as f64 / 8.0),
    });
    std::iter::once(origin).chain(nodes).collect()
}

/// Checks every copy, two at a time: as many as there are cores.
async fn verify(model: &Arc<Model>, deliveries: &[Delivery]) -> Result<()> {
    for pair in deliveries.chunks(2) {
        let checks = pair.iter().map(|delivery| {
            let (model, path) = (model.clone(), delivery.path.clone());
            blocking(move || model.check_copy(&path))
        });
        futures::future::try_join_all(checks).await?;
    }
    Ok(())
}

/// Drops what the kernel keeps of files, then reads the model back in: a store in the cloud would not
/// wait for this machine's disk.
async fn drop_page_cache(model: &Arc<Model>) -> Result<()> {
    let model = model.clone();
    blocking(move || {
        rustix::fs::sync();
        let knob = "/proc/sys/vm/drop_caches";
        std::fs::write(knob, "3").at(|| knob.to_owned())?;
        model.check_copy(&model.dir)
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::with_source(ErrorKind::Cancelled, "work on the blocking pool", e))?
}
