//! Where the time of a measurement goes: samples of links, agents and cores while it runs.
//!
//! Reads counters only: interface counters of each namespace, the agents' `/v1/pulls` and `/metrics`,
//! `/proc/stat`. Drawing is [`picture`](super::picture)'s; what a sample means is said at [`Sample`].

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use coordinatorless_p2p::{IoContext, Result};
use emberline_agent::api::{Phase, PullStatus};
use serde::Serialize;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    client::AgentClient,
    namespaces::{LinkBytes, Namespace},
};

/// How often counters are read: often enough to see a tail, rarely enough to cost nothing.
const STEP: Duration = Duration::from_millis(250);

/// What happened from the common release until the last node had its copy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timeline {
    /// The origin and each node, in order.
    pub lanes: Vec<Lane>,
    /// Share of all cores that was busy.
    pub cpu: Vec<Reading>,
    /// Cores of the machine.
    pub cores: usize,
}

/// One machine's time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lane {
    /// `origin`, `node0`, ….
    pub name: String,
    /// What its link carries each way, in bytes a second.
    pub link_bytes_per_second: f64,
    /// In order of time.
    pub samples: Vec<Sample>,
}

/// What one machine did between the sample before and this one. Rates in bytes a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since the release.
    pub at: f64,
    /// Passed its interface outwards, headers included.
    pub sent: f64,
    /// Passed its interface inwards, headers included.
    pub received: f64,
    /// Stored after reading it from the origin.
    pub origin: f64,
    /// Stored after receiving it from another node.
    pub peers: f64,
    /// Cores busy with hashing what arrived.
    pub verifying: f64,
    /// Cores busy with, or waiting for, writing it.
    pub storing: f64,
    /// Where its pull stood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
}

/// One value of the whole machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reading {
    /// Seconds since the release.
    pub at: f64,
    /// From 0 to 1.
    pub share: f64,
}

/// A machine to watch.
pub(super) struct Watched {
    pub(super) namespace: Namespace,
    /// Absent for the origin and for rivals.
    pub(super) agent: Option<AgentClient>,
    pub(super) link_bytes_per_second: f64,
}

/// Samples until it is told to stop; dropping it stops it too.
pub(super) struct Recorder {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Timeline>,
}

/// The counters of one machine at one time.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    link: LinkBytes,
    origin: f64,
    peers: f64,
    verifying: f64,
    storing: f64,
    phase: Option<Phase>,
}

impl Recorder {
    /// Starts sampling `machines`, the origin first; the clock starts now.
    pub(super) fn start(machines: Vec<Watched>) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(record(machines, stopped)) }
    }

    /// What was seen so far.
    pub(super) async fn stop(self) -> Option<Timeline> {
        // Ends by itself as soon as the sender is gone.
        drop(self.stop);
        self.task.await.ok()
    }
}

async fn record(machines: Vec<Watched>, mut stopped: oneshot::Receiver<()>) -> Timeline {
    let release = Instant::now();
    let mut lanes: Vec<Lane> = machines
        .iter()
        .enumerate()
        .map(|(n, machine)| Lane {
            name: if n == 0 { "origin".to_owned() } else { format!("node{}", n - 1) },
            link_bytes_per_second: machine.link_bytes_per_second,
            samples: Vec::new(),
        })
        .collect();
    let mut before: HashMap<usize, (f64, Counters)> = HashMap::new();
    let (mut cpu, mut cpu_before) = (Vec::new(), Ticks::read().ok());
    let mut beat = tokio::time::interval(STEP);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let over = tokio::select! {
            _ = &mut stopped => true,
            _ = beat.tick() => false,
        };
        let read = futures::future::join_all(machines.iter().map(Watched::read)).await;
        let at = release.elapsed().as_secs_f64();
        for (n, counters) in read.into_iter().enumerate() {
            // A machine that cannot be read for once leaves a gap.
            let Ok(now) = counters else { continue };
            if let Some((then_at, then)) = before.insert(n, (at, now))
                && at > then_at
            {
                lanes[n].samples.push(Sample::between(at, at - then_at, &then, &now));
            }
        }
        let ticks = Ticks::read().ok();
        if let (Some(then), Some(now)) = (cpu_before, ticks)
            && now.all > then.all
        {
            cpu.push(Reading { at, share: (now.busy - then.busy) / (now.all - then.all) });
        }
        cpu_before = ticks;
        if over {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            return Timeline { lanes, cpu, cores };
        }
    }
}

impl Watched {
    async fn read(&self) -> Result<Counters> {
        let link = self.namespace.bytes().await?;
        let Some(agent) = &self.agent else { return Ok(Counters { link, ..Counters::default() }) };
        let pulls: Vec<PullStatus> = agent.get("/v1/pulls").await?;
        let metrics = agent.metrics().await?;
        Ok(Counters {
            link,
            origin: pulls.iter().map(|pull| pull.sources.origin as f64).sum(),
            peers: pulls.iter().map(|pull| pull.sources.peers as f64).sum(),
            verifying: metric(&metrics, r#"emberline_chunk_seconds_sum{work="verify"}"#),
            storing: metric(&metrics, r#"emberline_chunk_seconds_sum{work="store"}"#),
            phase: pulls.last().map(|pull| pull.phase),
        })
    }
}

impl Sample {
    fn between(at: f64, took: f64, then: &Counters, now: &Counters) -> Self {
        // Counters only grow, unless an agent was started anew: then this sample says nothing.
        let rate = |then: f64, now: f64| (now - then).max(0.0) / took;
        Self {
            at,
            sent: rate(then.link.sent as f64, now.link.sent as f64),
            received: rate(then.link.received as f64, now.link.received as f64),
            origin: rate(then.origin, now.origin),
            peers: rate(then.peers, now.peers),
            verifying: rate(then.verifying, now.verifying),
            storing: rate(then.storing, now.storing),
            phase: now.phase,
        }
    }
}

/// The value of a metric, labels included in its name, in Prometheus' text format; 0 where it is absent.
fn metric(text: &str, name: &str) -> f64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0.0)
}

/// Clock ticks of all cores since boot.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ticks {
    busy: f64,
    all: f64,
}

impl Ticks {
    fn read() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").at(|| "/proc/stat".to_owned())?;
        Ok(Self::parse(&text))
    }

    /// The first line of proc(5)'s `stat`: idle and waiting for disks are the fourth and fifth number;
    /// the ninth and tenth are counted in the first two already.
    fn parse(text: &str) -> Self {
        let numbers: Vec<f64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|number| number.parse().ok())
            .collect();
        let all: f64 = numbers.iter().sum();
        let idle: f64 = numbers.iter().skip(3).take(2).sum();
        Self { busy: all - idle, all }
    }
}

impl Timeline {
    /// For each lane, the share of what its link could have carried until `end` that it did carry: sent
    /// for the origin, received for nodes.
    pub fn shares(&self, end: f64) -> Vec<f64> {
        self.lanes
            .iter()
            .enumerate()
            .map(|(n, lane)| {
                let mut carried = 0.0;
                let mut from = 0.0;
                for sample in &lane.samples {
                    let rate = if n == 0 { sample.sent } else { sample.received };
                    carried += rate * (sample.at.min(end) - from).max(0.0);
                    from = sample.at;
                }
                carried / (lane.link_bytes_per_second * end).max(1.0)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# TYPE a counter\na_total 1\na 2.5\na{x=\"y\"} 3\n";
        assert_eq!(metric(text, "a"), 2.5);
        assert_eq!(metric(text, "b"), 0.0);
    }

    #[test]
    fn busy_ticks_leave_out_idle_and_waiting() {
        let ticks = Ticks::parse("cpu  10 0 20 60 10 0 0 0 5 0\ncpu0 1 1 1 1\n");
        assert_eq!(ticks, Ticks { busy: 30.0, all: 100.0 });
        assert_eq!(Ticks::parse(""), Ticks { busy: 0.0, all: 0.0 });
    }

    #[test]
    fn the_share_of_a_link_is_what_it_carried_of_what_it_could() {
        let sample = |at, received| Sample { at, received, ..Sample::default() };
        let lane =
            |name: &str, samples| Lane { name: name.to_owned(), link_bytes_per_second: 100.0, samples };
        let timeline = Timeline {
            lanes: vec![lane("origin", vec![]), lane("node0", vec![sample(1.0, 100.0), sample(2.0, 50.0)])],
            cpu: vec![],
            cores: 2,
        };
        assert_eq!(timeline.shares(2.0), [0.0, 0.75]);
    }
}
