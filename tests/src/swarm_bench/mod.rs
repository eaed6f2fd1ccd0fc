//! How long N nodes take to get one model, against the least that their links allow.
//!
//! One [`run`] is one measurement: a fresh network of namespaces with shaped links, a fresh model, a
//! fresh origin, empty directories, a dropped page cache; every output is checked against SHA-256.
//! Contenders differ only in what moves the bytes. Printing and arguments are the program's.

mod bound;
mod contender;
mod picture;
mod report;
mod timeline;

use std::{sync::Arc, time::Duration};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use tempfile::TempDir;

pub use self::{
    bound::{Links, lower_bound_seconds},
    contender::Contender,
    picture::draw,
    report::{NodeReport, Report},
    timeline::{Lane, Reading, Sample, Timeline},
};
use self::{
    contender::{Delivery, Field, Site},
    timeline::{Recorder, Watched},
};
use crate::{
    model::Model,
    namespaces::{Namespace, Network, NetworkSpec},
    nginx::Nginx,
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
    /// than nodes.
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

    fn start_of(&self, node: usize) -> f64 {
        self.starts.get(node).or(self.starts.last()).copied().unwrap_or(0.0)
    }
}

/// Measures once.
///
/// # Errors
/// `Denied` without root; `Corrupt` when a copy is not the model; what else stops the contender.
pub async fn run(plan: &Plan) -> Result<(Report, Option<Timeline>)> {
    let slowest = plan.rates.iter().copied().min().unwrap_or(0);
    if plan.nodes == 0 || slowest < 8 || plan.origin_rate < 8 {
        return Err(Error::new(ErrorKind::Invalid, "nodes and rates must be more than zero"));
    }
    let network = Network::new(NetworkSpec {
        nodes: plan.nodes + plan.late,
        node_rates: plan.rates.clone(),
        origin_rate: Some(plan.origin_rate),
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
    let nginx = Nginx::start(&model.dir, network.origin(), host(network.origin())).await?;
    let sites: Vec<Site> = network
        .nodes()
        .iter()
        .enumerate()
        .map(|(n, node)| Site { node: node.clone(), host: host(node), zone: network.zone_of(n) })
        .collect();
    let (early, newcomers) = sites.split_at(plan.nodes);
    let mut field = plan.contender.prepare(home.path(), &nginx.url(), model.clone(), early).await?;

    let fastest = plan.rates.iter().copied().max().unwrap_or(slowest);
    let ideal_seconds = model.bytes() as f64 * 8.0 / fastest as f64;
    let starts: Vec<Duration> =
        (0..plan.nodes).map(|node| Duration::from_secs_f64(plan.start_of(node) * ideal_seconds)).collect();
    let crossed_before = network.bytes_into_zones()?;
    let sent_before = network.origin().bytes().await?.sent;
    let recorder = plan.timeline.then(|| Recorder::start(watched(plan, &network, &field)));
    let first = field.deliver(&starts).await?;
    let timeline = match recorder {
        Some(recorder) => recorder.stop().await,
        None => None,
    };
    let sent_after = network.origin().bytes().await?.sent;
    let crossed = network.bytes_into_zones()?;
    verify(&model, &first).await?;

    let mut late = Vec::new();
    let mut late_sent = None;
    if plan.late > 0 {
        field.join(newcomers).await?;
        let before = network.origin().bytes().await?.sent;
        late = field.deliver(&vec![Duration::ZERO; plan.late]).await?;
        late_sent = Some(network.origin().bytes().await?.sent - before);
        verify(&model, &late).await?;
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
        requests: nginx.requests()?,
        versions,
    };
    Ok((Report::new(plan, &measured), timeline))
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
        link_bytes_per_second: plan.rate_of(n) as f64 / 8.0,
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
