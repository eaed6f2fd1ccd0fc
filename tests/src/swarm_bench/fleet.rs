//! Agents as a contender: released together, waited for, and let go where the plan says so.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, Result};
use emberline_agent::api::{Phase, PullRequest, PullStatus};

use super::{
    delivery::{Delivered, Delivery, Site, Wave},
    departure::Departed,
};
use crate::{
    agent_process::{AgentOptions, AgentProcess},
    client::AgentClient,
    cluster::{Cluster, wait_members},
    process_stats::ProcessStats,
};

/// How much longer than alone behind the slowest link a node may take before the measurement is
/// given up: the worst rival in PERFORMANCE.md takes nine times.
const PATIENCE: Duration = Duration::from_secs(900);

/// How often an agent is asked whether it is done: asking costs CPU that the agents lack.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Who served less of the model than this was no source to speak of.
const SOURCE_SHARE: f64 = 0.01;

/// An agent that has just met others waits for quiet before it pulls. Those of a fleet are up long before a model
/// is to come, and what is measured is how fast it does.
const SETTLING: Duration = Duration::from_millis(500);

/// Agents, one in each node.
pub(super) struct Fleet {
    cluster: Cluster,
    reference: String,
    variables: Vec<(String, String)>,
}

impl Fleet {
    /// Nobody yet; agents will pull `reference`, with `variables` in their environment.
    pub(super) fn new(reference: String, variables: Vec<(String, String)>) -> Result<Self> {
        Ok(Self { cluster: Cluster::empty()?, reference, variables })
    }

    /// Adds agents that hold nothing.
    pub(super) async fn join(&mut self, newcomers: &[Site]) -> Result<()> {
        for site in newcomers {
            let zone = site.zone.map(|zone| format!("zone{zone}")).unwrap_or_default();
            let variables = &self.variables;
            let adjust = |options: &mut AgentOptions| {
                options.zone = zone;
                options.env.extend(variables.iter().cloned());
            };
            self.cluster.join_in_and(&site.node, site.host, adjust).await?;
        }
        let alive: Vec<&AgentProcess> =
            self.cluster.agents().iter().filter(|agent| agent.stats().is_ok()).collect();
        wait_members(&alive, alive.len()).await?;
        tokio::time::sleep(SETTLING).await;
        Ok(())
    }

    /// How to ask the agent of a node.
    pub(super) fn client(&self, node: usize) -> Option<AgentClient> {
        self.cluster.agents().get(node).map(|agent| agent.client().clone())
    }

    /// Has the agents from `from` on pull, and waits for those that stay and are no stragglers.
    pub(super) async fn deliver(&mut self, from: usize, model_bytes: u64, wave: &Wave) -> Result<Delivered> {
        let count = wave.starts.len();
        let wanted = count + wave.stragglers;
        let leavers = match &wave.departure {
            Some(departure) => departure.draw(count, wave.seed)?,
            None => Vec::new(),
        };
        let before = Tally::of(self.cluster.agents()).await;
        let release = Instant::now();
        let done: Vec<AtomicU64> = (0..wanted).map(|_| AtomicU64::new(0)).collect();
        let clients: Vec<AgentClient> =
            self.cluster.agents().iter().map(|agent| agent.client().clone()).collect();
        let reference = self.reference.as_str();
        let pull = |n: usize| {
            let start = wave.starts.get(n).or(wave.starts.first()).copied().unwrap_or_default();
            let (client, done) = (&clients[from + n], &done[n]);
            async move {
                let delivery = pull(client, reference, release, start, done).await;
                delivery
                    .map(|delivery| Delivery { node: from + n, ..delivery })
                    .map_err(|e| e.context(format!("node {}", from + n)))
            }
        };
        let (going, staying): (Vec<usize>, Vec<usize>) = (0..count).partition(|n| leavers.contains(n));
        let stayers: Vec<AgentClient> =
            (0..from).chain(staying.iter().map(|n| from + n)).map(|n| clients[n].clone()).collect();
        let goers: Vec<&mut AgentProcess> = self.cluster.agents_mut()[from..]
            .iter_mut()
            .enumerate()
            .filter_map(|(n, agent)| going.contains(&n).then_some(agent))
            .collect();
        let stay = futures::future::try_join_all(staying.iter().map(|n| pull(*n)));
        let depart = async {
            let Some(departure) = &wave.departure else { return Ok(None) };
            let nodes = going.iter().map(|n| from + n).collect();
            let all_bytes = model_bytes * count as u64;
            let carried_out = departure.carry_out(nodes, goers, &stayers, &done[..count], all_bytes, release);
            let pulls = futures::future::join_all(going.iter().map(|n| pull(*n)));
            let (departed, ended) = tokio::join!(carried_out, pulls);
            // Who has it all before it goes was no test of anything.
            match ended.iter().flatten().next() {
                Some(early) => {
                    let text =
                        format!("node {} was done before it was to go: name an earlier moment", early.node);
                    Err(Error::new(ErrorKind::Invalid, text))
                }
                None => departed.map(Some),
            }
        };
        let straggle = async {
            futures::future::join_all((count..wanted).map(pull)).await;
            // Nobody waits for them, and the slowest may be done in time.
            std::future::pending::<std::convert::Infallible>().await
        };
        let (mut deliveries, departed) = tokio::select! {
            both = async { tokio::try_join!(stay, depart) } => both?,
            never = straggle => match never {},
        };
        let after = Tally::of(self.cluster.agents()).await;
        for straggler in &mut self.cluster.agents_mut()[from + count..from + wanted] {
            straggler.kill()?;
        }
        after.charge(&before, departed.as_ref(), &mut deliveries);
        let sources = after.sources(&before, (model_bytes as f64 * SOURCE_SHARE) as u64);
        Ok(Delivered { deliveries, departed, sources })
    }
}

/// What each agent has cost and served so far; nothing of those that are gone.
struct Tally(Vec<Option<(ProcessStats, u64)>>);

impl Tally {
    async fn of(agents: &[AgentProcess]) -> Self {
        let read = agents.iter().map(|agent| async {
            let stats = agent.stats().ok()?;
            Some((stats, agent.client().status().await.ok()?.served_bytes))
        });
        Self(futures::future::join_all(read).await)
    }

    /// Notes in `deliveries` what they cost since `before`. What others did for them meanwhile, by serving
    /// or before they went, is shared out.
    fn charge(&self, before: &Self, departed: Option<&Departed>, deliveries: &mut [Delivery]) {
        let then = |n: usize| before.0[n].map_or(0.0, |(stats, _)| stats.cpu_seconds);
        let cost = |n: usize| self.0[n].map_or(0.0, |(stats, _)| stats.cpu_seconds - then(n));
        let theirs: Vec<usize> = deliveries.iter().map(|delivery| delivery.node).collect();
        let others: f64 = (0..self.0.len()).filter(|n| !theirs.contains(n)).map(cost).sum();
        let gone: f64 =
            departed.map_or(0.0, |gone| gone.cpu_seconds - gone.nodes.iter().map(|n| then(*n)).sum::<f64>());
        let share = (others + gone) / deliveries.len().max(1) as f64;
        for delivery in deliveries {
            let stats = self.0[delivery.node].map_or_else(ProcessStats::default, |(stats, _)| stats);
            delivery.stats = ProcessStats { cpu_seconds: cost(delivery.node) + share, ..stats };
        }
    }

    /// How many served more than `least` bytes since `before`.
    fn sources(&self, before: &Self, least: u64) -> usize {
        let served = |(now, then): (&Option<_>, &Option<_>)| {
            let bytes = |tally: &Option<(ProcessStats, u64)>| tally.map_or(0, |(_, served)| served);
            bytes(now).saturating_sub(bytes(then))
        };
        self.0.iter().zip(&before.0).map(served).filter(|bytes| *bytes > least).count()
    }
}

async fn pull(
    client: &AgentClient,
    reference: &str,
    release: Instant,
    start: Duration,
    done: &AtomicU64,
) -> Result<Delivery> {
    tokio::time::sleep_until((release + start).into()).await;
    let request = PullRequest { reference: reference.to_owned(), ..PullRequest::default() };
    let started = client.start_pull(&request).await?;
    let note = |status: &PullStatus| {
        done.store(status.done_bytes, Ordering::Relaxed);
        false
    };
    let ended = client.watch_pull_every(POLL_INTERVAL, &started.id, PATIENCE, note).await?;
    let finished = release.elapsed();
    done.store(ended.done_bytes, Ordering::Relaxed);
    match (ended.phase, ended.path) {
        (Phase::Complete, Some(path)) => Ok(Delivery {
            node: 0,
            path,
            finished,
            own: finished - start,
            sources: ended.sources,
            stats: ProcessStats::default(),
        }),
        (phase, _) => {
            let words = ended.error.map(|problem| problem.message).unwrap_or_default();
            Err(Error::new(ErrorKind::UNAVAILABLE, format!("pull of {reference} ended {phase:?}: {words}")))
        }
    }
}
