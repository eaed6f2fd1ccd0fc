//! Nodes that go while the others want the model: killed, told to stop, or given notice.
//!
//! Owns who goes, when, how, and what was only theirs when they went. The pulls are not its business.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, Result};
use emberline_agent::api::{ArtifactInfo, DrainHook, DrainReport, HeldFile, PullStatus};
use rand::{SeedableRng, rngs::SmallRng, seq::index::sample};
use serde::Serialize;

use super::held::Held;
use crate::{agent_process::AgentProcess, client::AgentClient};

/// How often progress is looked at for the moment to come.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How a node goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Going {
    /// `kill -9`.
    Killed,
    /// SIGTERM: the agent hands over what only it has within its `shutdown_deadline`.
    Stopped,
    /// `POST /v1/hooks/drain` with the notice as its deadline, `kill -9` when that has passed or the agent
    /// has left.
    Notified {
        /// The notice, in seconds.
        seconds: u64,
    },
}

/// How many go: a number of nodes or a share of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Many {
    /// So many.
    Nodes(usize),
    /// This share, at least one.
    Share(f64),
}

/// Nodes that go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Departure {
    /// How many.
    pub many: Many,
    /// As soon as the nodes hold this share of all that they want together.
    pub moment: f64,
    /// How.
    pub going: Going,
}

/// What became of those that went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Departed {
    /// How they went.
    pub going: Going,
    /// Which nodes.
    pub nodes: Vec<usize>,
    /// The share of all wanted bytes that was there when they were told.
    pub moment: f64,
    /// When they were told, from the release.
    pub told_seconds: f64,
    /// When the last of them was gone, from the release.
    pub gone_seconds: f64,
    /// Bytes that they held and nobody else when they were told.
    pub alone_when_told_bytes: u64,
    /// The same when they were gone: what the others have to read from the origin again.
    pub alone_when_gone_bytes: u64,
    /// What the origin had sent those that were killed and they had not stored: lost with them, too.
    pub unfinished_bytes: u64,
    /// What they had stored of what they read from the origin, when they were told.
    #[serde(skip)]
    pub read_bytes: u64,
    /// CPU time of all of them since they were started, when they were told.
    #[serde(skip)]
    pub cpu_seconds: f64,
    /// What agents said that were given notice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drained: Vec<DrainReport>,
}

impl Departure {
    /// Reads `WHO[@MOMENT]`: `2`, `0.5`, `50%`, `2@0.25`.
    ///
    /// # Errors
    /// A sentence for anything else.
    pub fn parse(text: &str, going: Going) -> std::result::Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "{text:?} {what}; write how many go, as a number (2) or a share (0.5, 50%), and if need be when, \
                 as the share of the bytes that is there by then (2@0.25)"
            )
        };
        let (who, when) = text.split_once('@').unwrap_or((text, "0.5"));
        let share = |text: &str| match text.strip_suffix('%') {
            Some(percent) => percent.parse::<f64>().map(|percent| percent / 100.0),
            None => text.parse::<f64>(),
        };
        let moment = share(when).ok().filter(|moment| (0.0..1.0).contains(moment));
        let moment = moment.ok_or_else(|| wrong("has a moment that is not between 0 and 1"))?;
        let many = match who.parse::<usize>() {
            Ok(0) => return Err(wrong("lets nobody go")),
            Ok(nodes) => Many::Nodes(nodes),
            Err(_) => Many::Share(
                share(who)
                    .ok()
                    .filter(|share| *share > 0.0 && *share < 1.0)
                    .ok_or_else(|| wrong("names no number and no share between 0 and 1"))?,
            ),
        };
        Ok(Self { many, moment, going })
    }

    /// How many of `nodes` go.
    ///
    /// # Errors
    /// `Invalid` when nobody would stay.
    pub fn count(&self, nodes: usize) -> Result<usize> {
        let count = match self.many {
            Many::Nodes(count) => count,
            Many::Share(share) => ((nodes as f64 * share).round() as usize).max(1),
        };
        if count < nodes {
            return Ok(count);
        }
        let text = format!("{count} of {nodes} nodes are to go: at least one must stay to be measured");
        Err(Error::new(ErrorKind::Invalid, text))
    }

    /// Which of `nodes` go: drawn by `seed`, ascending.
    pub(super) fn draw(&self, nodes: usize, seed: u64) -> Result<Vec<usize>> {
        let count = self.count(nodes)?;
        let mut drawn = sample(&mut SmallRng::seed_from_u64(seed), nodes, count).into_vec();
        drawn.sort_unstable();
        Ok(drawn)
    }

    /// Waits for the moment and lets `leavers` go.
    pub(super) async fn carry_out(
        &self,
        nodes: Vec<usize>,
        leavers: Vec<&mut AgentProcess>,
        stayers: &[AgentClient],
        done: &[AtomicU64],
        all_bytes: u64,
        release: Instant,
    ) -> Result<Departed> {
        let share = || {
            let here: u64 = done.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum();
            here as f64 / all_bytes as f64
        };
        while share() < self.moment {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let moment = share();
        let clients: Vec<AgentClient> = leavers.iter().map(|agent| agent.client().clone()).collect();
        let mut read_bytes = 0;
        for client in &clients {
            let pulls: Vec<PullStatus> = client.get("/v1/pulls").await?;
            read_bytes += pulls.iter().map(|pull| pull.sources.origin).sum::<u64>();
        }
        let stats = leavers.iter().map(|agent| agent.stats()).collect::<Result<Vec<_>>>()?;
        let cpu_seconds = stats.iter().map(|stats| stats.cpu_seconds).sum();
        let (theirs, others) = tokio::try_join!(held_by(&clients), held_by(stayers))?;
        let alone_when_told_bytes = theirs.bytes_beyond(&others);
        let told_seconds = release.elapsed().as_secs_f64();
        let gone = leavers.into_iter().map(|agent| self.let_go(agent));
        let drained = futures::future::try_join_all(gone).await?.into_iter().flatten().collect();
        let gone_seconds = release.elapsed().as_secs_f64();
        let alone_when_gone_bytes = match self.going {
            Going::Killed => alone_when_told_bytes,
            // They stored nothing after they were told but what was on its way.
            Going::Stopped | Going::Notified { .. } => theirs.bytes_beyond(&held_by(stayers).await?),
        };
        Ok(Departed {
            going: self.going,
            nodes,
            moment,
            told_seconds,
            gone_seconds,
            alone_when_told_bytes,
            alone_when_gone_bytes,
            unfinished_bytes: 0,
            read_bytes,
            cpu_seconds,
            drained,
        })
    }

    async fn let_go(&self, agent: &mut AgentProcess) -> Result<Option<DrainReport>> {
        match self.going {
            Going::Killed => agent.kill().map(|()| None),
            Going::Stopped => {
                let status = agent.stop().await?;
                if status.success() {
                    return Ok(None);
                }
                Err(Error::new(ErrorKind::Invalid, format!("{} stopped with {status}", agent.name())))
            }
            Going::Notified { seconds } => {
                let hook = DrainHook { deadline_seconds: Some(seconds as f64) };
                let client = agent.client().clone();
                let drained = client.post::<DrainReport>("/v1/hooks/drain", &hook);
                let drained = tokio::time::timeout(Duration::from_secs(seconds), drained).await;
                agent.kill()?;
                // Who did not make it in time is gone all the same.
                drained.ok().transpose()
            }
        }
    }
}

impl fmt::Display for Going {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed => f.write_str("killed"),
            Self::Stopped => f.write_str("stopped"),
            Self::Notified { seconds } => write!(f, "given {seconds} s notice"),
        }
    }
}

/// What any of these agents holds of the one artifact there is.
async fn held_by(agents: &[AgentClient]) -> Result<Held> {
    let asked = agents.iter().map(|agent| async move {
        let Some(artifact) = agent.get::<Vec<ArtifactInfo>>("/v1/artifacts").await?.pop() else {
            return Ok(Held::default());
        };
        let files: Vec<HeldFile> = agent.get(&format!("/v1/artifacts/{}/held", artifact.swarm)).await?;
        Ok::<_, Error>(Held::new(files))
    });
    Ok(Held::union(&futures::future::try_join_all(asked).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_and_when_is_read_from_a_word() {
        let parse = |text| Departure::parse(text, Going::Killed).map(|d| (d.many, d.moment));
        assert_eq!(parse("2"), Ok((Many::Nodes(2), 0.5)));
        assert_eq!(parse("0.5"), Ok((Many::Share(0.5), 0.5)));
        assert_eq!(parse("25%@0.75"), Ok((Many::Share(0.25), 0.75)));
        assert_eq!(parse("1@10%"), Ok((Many::Nodes(1), 0.1)));
        for wrong in ["", "0", "1.5", "0.0", "-1", "many", "2@", "2@1", "2@-0.1", "2@half", "100%"] {
            let sentence = parse(wrong).expect_err(wrong);
            assert!(sentence.contains("a number (2) or a share"), "{sentence}");
        }
    }

    #[test]
    fn at_least_one_goes_and_at_least_one_stays() {
        let departure = |many| Departure { many, moment: 0.5, going: Going::Killed };
        assert_eq!(departure(Many::Share(0.5)).count(8).ok(), Some(4));
        assert_eq!(departure(Many::Share(0.01)).count(8).ok(), Some(1));
        let refused = departure(Many::Nodes(9)).count(4).expect_err("9 of 4");
        assert!(refused.to_string().contains("9 of 4 nodes"), "{refused}");
        assert!(departure(Many::Nodes(4)).count(4).is_err());
        let drawn = departure(Many::Nodes(3)).draw(8, 7).expect("drawn");
        assert!(drawn.windows(2).all(|pair| pair[0] < pair[1]) && drawn.len() == 3, "{drawn:?}");
    }
}
