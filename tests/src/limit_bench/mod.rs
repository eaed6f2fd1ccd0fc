//! What requests on a link suffer while a swarm uses it: without one, with one, and with one under a limit.
//!
//! One [`run`] is one measurement: a fresh network of namespaces with shaped links, agents on all of them, and a
//! client and a server that exchange small messages over the links of two of them. Every pull is of a model of
//! its own and checked. Printing and arguments are the program's.

mod probe;
mod report;

use std::{sync::Arc, time::Duration};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use emberline_agent::api::{LimitChange, Limits, Phase, PullRequest};
use reqwest::Method;
use tempfile::TempDir;

use self::probe::Probe;
pub use self::report::{Latency, Report, Swarm};
use crate::{
    client::AgentClient,
    cluster::Cluster,
    model::Model,
    namespaces::{Namespace, Network, NetworkSpec},
    nginx::Nginx,
};

/// How long the link is watched while nothing else is on it.
const QUIET: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(600);

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Nodes that pull; the client is at the first, the server at the second.
    pub nodes: usize,
    /// About how large each model is.
    pub model_bytes: u64,
    /// Rate of every link, up and down, in bits a second.
    pub rate: u64,
    /// What each agent may send, and take in, as a share of its link.
    pub limit: f64,
}

/// Measures once.
///
/// # Errors
/// `Denied` without root; `Corrupt` when a copy is not the model; what else stops an agent or the probe.
pub async fn run(plan: &Plan) -> Result<Report> {
    if plan.nodes < 2 || plan.rate < 8 || !(plan.limit > 0.0 && plan.limit <= 1.0) {
        let text = "two nodes at least, a rate, and a limit above 0 and at most 1";
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let network = Network::new(NetworkSpec {
        nodes: plan.nodes,
        node_rates: vec![plan.rate],
        origin_rate: Some(plan.rate),
        ..NetworkSpec::default()
    })?;
    let home = TempDir::with_prefix("emberline-bench-").at(|| "temporary directory".to_owned())?;
    let mut models = Vec::new();
    for (name, seed) in [("a", 1), ("b", 2)] {
        let (dir, bytes) = (home.path().join(name), plan.model_bytes);
        models.push(Arc::new(blocking(move || Model::generate(&dir, bytes, seed)).await?));
    }
    let nginx = Nginx::start(home.path(), network.origin(), network.origin().ipv4()).await?;
    let cluster = Cluster::start_in(&network, plan.nodes, Namespace::ipv4).await?;
    let probe = Probe::start(&network.nodes()[0], &network.nodes()[1]).await?;

    let alone = probe.during(tokio::time::sleep(QUIET)).await?.0;
    let most = (plan.rate as f64 / 8.0 * plan.limit) as u64;
    let limits = |bytes| LimitChange { max_upload_bytes: Some(bytes), max_download_bytes: Some(bytes) };
    for agent in cluster.agents() {
        limit(agent.client(), &limits(most)).await?;
    }
    let limited = pull(&cluster, &probe, &format!("{}b/", nginx.url()), &models[1]).await?;
    for agent in cluster.agents() {
        limit(agent.client(), &limits(0)).await?;
    }
    let unlimited = pull(&cluster, &probe, &format!("{}a/", nginx.url()), &models[0]).await?;
    Ok(Report::new(plan, models[0].bytes(), alone, unlimited, limited))
}

async fn limit(client: &AgentClient, change: &LimitChange) -> Result<()> {
    let body = serde_json::to_value(change)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "limits cannot be written", e))?;
    let now: Limits = client.request(Method::PUT, "/v1/limits", Some(body)).await?.parse()?;
    if Some(now.max_upload_bytes) == change.max_upload_bytes {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("{} does not keep to {change:?}: {now:?}", client.base())))
}

/// Has every node pull one model, and watches the link meanwhile.
async fn pull(cluster: &Cluster, probe: &Probe, url: &str, model: &Arc<Model>) -> Result<Swarm> {
    let pulls = cluster.agents().iter().map(|agent| async {
        let request = PullRequest { reference: url.to_owned(), ..PullRequest::default() };
        let started = agent.client().start_pull(&request).await?;
        let ended = agent.client().watch_pull_every(POLL_INTERVAL, &started.id, PATIENCE, |_| false).await?;
        match (ended.phase, ended.path) {
            (Phase::Complete, Some(path)) => Ok(path),
            (phase, _) => {
                let words = ended.error.map(|problem| problem.message).unwrap_or_default();
                Err(Error::new(ErrorKind::UNAVAILABLE, format!("pull of {url} ended {phase:?}: {words}")))
            }
        }
    });
    let began = std::time::Instant::now();
    let (latency, paths) = probe.during(futures::future::try_join_all(pulls)).await?;
    let seconds = began.elapsed().as_secs_f64();
    for path in paths? {
        let model = model.clone();
        blocking(move || model.check_copy(&path)).await?;
    }
    Ok(Swarm { seconds, latency })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::with_source(ErrorKind::Cancelled, "work on the blocking pool", e))?
}
