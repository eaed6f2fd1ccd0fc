//! `preload demo`: the whole of Emberline on one machine, with nothing to set up.
//!
//! Owns the story: an origin, a model, agents as processes of their own, a herd that pulls, a proof,
//! a kill, a late joiner. The agents are real: this same binary, on loopback, with a secret of their
//! own. What is told was measured from outside the agents wherever that can be: origin bytes by
//! the origin, time by the clock here, content by hashing every file again.
//!
//! Invariant: no agent outlives the demo, however it ends.

mod node;
mod origin;
mod proof;
mod report;
mod stage;

use std::{cell::RefCell, path::PathBuf, time::Duration};

use clap::Args;
use emberline_agent::{
    api::{PlanRequest, PullRequest, PullStatus},
    error::ErrorKind,
};
use futures::future::{join_all, try_join_all};
use tokio::time::{Instant, timeout};

use self::{
    node::Node,
    origin::OriginServer,
    proof::{Digests, Proof, Verdict},
    report::{CountedBy, NodeReport, Report},
    stage::Stage,
};
use crate::{
    failure::{Failure, Result},
    interrupt::unless_interrupted,
    options::Context,
    reference,
    specimen::Specimen,
    units,
};

/// How many safetensors files the model has.
const SHARDS: usize = 8;
/// How long agents may take to find each other.
const MEET_TIMEOUT: Duration = Duration::from_secs(30);

/// See it work: an origin and four agents on this machine, no cluster, no credentials, no GPU.
///
/// Makes a model, pulls it on every agent at once, hashes every byte again, kills an agent, and lets a
/// late joiner pull from its neighbours alone. Cleans up behind itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload demo
  preload demo --nodes 8 --size 1GiB
  preload demo --ref hf://org/name               with a model of yours
  preload demo --json | jq .origin_ratio")]
pub(crate) struct Demo {
    /// How many agents pull at once.
    #[arg(long, default_value_t = 4, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=32))]
    nodes: u16,
    /// How large a model to make.
    #[arg(long, default_value = "512MiB", value_name = "SIZE", value_parser = units::parse_bytes)]
    size: u64,
    /// Pull this instead of making a model.
    #[arg(long = "ref", value_name = "REF", conflicts_with = "size")]
    reference: Option<String>,
    /// Where to work; a temporary directory unless given. Must be empty or not there yet.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the files of the demo where they are.
    #[arg(long)]
    keep: bool,
    /// Give up when a pull takes longer than this.
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = units::parse_duration)]
    timeout: Duration,
}

/// What the agents pull, and what is known about it beforehand.
struct Subject {
    reference: String,
    bytes: u64,
    /// Ours, where we made the model.
    origin: Option<OriginServer>,
    /// What every file must be, where we made the model.
    expected: Option<Digests>,
}

/// One agent's pull, as it ended.
struct Pulled {
    status: PullStatus,
    seconds: f64,
}

impl Demo {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let stage = Stage::set(self.dir.as_deref(), self.keep)?;
        let report = match unless_interrupted(Box::pin(self.play(context, &stage))).await? {
            Some(report) => report?,
            None => return Err(Failure::interrupted("interrupted; the agents are stopped")),
        };
        context.output.answer(&report, report::render)?;
        if report.verified {
            return Ok(());
        }
        let message = format!("the files of {} are not what they must be", report.unverified().join(", "));
        Err(Failure::new(ErrorKind::Corrupt, message)
            .advice("run it again with --keep and look; this is a defect, please report it")
            .answered())
    }

    async fn play(&self, context: &Context, stage: &Stage) -> Result<Report> {
        let output = &context.output;
        let subject = self.subject(context, stage).await?;
        output.note(&format!("starting {} agents", self.nodes));
        let mut nodes = self.start_agents(stage).await?;
        let subject = self.measured(subject, &nodes, stage).await?;

        let size = units::bytes(subject.bytes);
        output.note(&format!("pulling {size} on {} nodes at once from {}", nodes.len(), subject.reference));
        let started = Instant::now();
        let pulled = self.pull(context, &subject, &nodes).await?;
        let seconds = started.elapsed().as_secs_f64();
        let origin_bytes = subject.origin_bytes(&pulled);

        output.note("hashing every file on every node again");
        let proof = Proof::new(&subject.expected, &pulled).await?;
        let herd = reports(&nodes, &pulled, proof.check(&pulled).await?);

        let killed = nodes.remove(0);
        let killed_name = killed.name.clone();
        output.note(&format!(
            "kill -9 {killed_name}, by which the others had joined; one more node comes late"
        ));
        killed.kill().await?;
        let late = [self.start_late_joiner(stage, &nodes).await?];
        let pulled = self.pull(context, &subject, &late).await?;
        let late_origin_bytes = match &subject.origin {
            Some(origin) => origin.body_bytes().saturating_sub(origin_bytes),
            None => subject.origin_bytes(&pulled),
        };
        let late = reports(&late, &pulled, proof.check(&pulled).await?).pop();
        let late = late.ok_or_else(|| Failure::internal("the late joiner has no report"))?;

        Ok(Report {
            nodes: herd.len(),
            model_bytes: subject.bytes,
            origin_bytes,
            origin_ratio: origin_bytes as f64 / subject.bytes.max(1) as f64,
            peer_bytes: herd.iter().map(|node| node.peer_bytes).sum(),
            seconds,
            verified: proof.is_complete() && herd.iter().chain([&late]).all(|node| node.verified),
            late_joiner_origin_bytes: late_origin_bytes,
            late_joiner_peer_bytes: late.peer_bytes,
            late_joiner_seconds: late.seconds,
            origin_requests: subject.origin.as_ref().map(OriginServer::requests),
            origin_bytes_counted_by: subject.counted_by(),
            verified_against: proof.against(),
            reference: subject.reference.clone(),
            killed: killed_name,
            per_node: herd,
            late_joiner: late,
            kept: stage.kept(),
        })
    }

    /// A model of our own behind an origin of our own, or what the user named.
    async fn subject(&self, context: &Context, stage: &Stage) -> Result<Subject> {
        if let Some(typed) = &self.reference {
            let reference = reference::from_here(typed)?;
            return Ok(Subject { reference, bytes: 0, origin: None, expected: None });
        }
        stage.needs(self.size, u64::from(self.nodes) + 2)?;
        context.output.note(&format!(
            "making a model of {} in {}",
            units::bytes(self.size),
            stage.dir().display()
        ));
        let dir = stage.dir().join("origin");
        let specimen = Specimen { total_bytes: self.size, shards: SHARDS, seed: rand::random() };
        let target = dir.clone();
        let expected = blocking(move || {
            specimen.write(&target)?;
            let digests = Digests::of_tree(&target)?;
            origin::write_listing(&target, &digests)?;
            Ok(digests)
        })
        .await?;
        let origin = OriginServer::start(dir).await?;
        Ok(Subject {
            reference: origin.reference(),
            bytes: expected.bytes(),
            origin: Some(origin),
            expected: Some(expected),
        })
    }

    /// Asks an agent how large the user's own model is, and whether it fits.
    async fn measured(&self, subject: Subject, nodes: &[Node], stage: &Stage) -> Result<Subject> {
        let (None, [first, ..]) = (&subject.origin, nodes) else { return Ok(subject) };
        let request = PlanRequest { reference: subject.reference.clone(), ..PlanRequest::default() };
        let bytes = first.client.plan(&request).await?.total_bytes;
        stage.needs(bytes, u64::from(self.nodes) + 1)?;
        Ok(Subject { bytes, ..subject })
    }

    /// The first by itself, the others by way of it; done when each sees all.
    async fn start_agents(&self, stage: &Stage) -> Result<Vec<Node>> {
        let first = Node::start(stage, "node-1", &[]).await?;
        let seeds = [first.bound.quic];
        let names: Vec<String> = (2..=self.nodes).map(|i| format!("node-{i}")).collect();
        let others = try_join_all(names.iter().map(|name| Node::start(stage, name, &seeds))).await?;
        let nodes: Vec<Node> = std::iter::once(first).chain(others).collect();
        try_join_all(nodes.iter().map(|node| node.meet(nodes.len(), MEET_TIMEOUT))).await?;
        Ok(nodes)
    }

    async fn start_late_joiner(&self, stage: &Stage, survivors: &[Node]) -> Result<Node> {
        let seeds: Vec<_> = survivors.iter().map(|node| node.bound.quic).collect();
        let name = format!("node-{}", self.nodes + 1);
        let late = Node::start(stage, &name, &seeds).await?;
        late.meet(survivors.len() + 1, MEET_TIMEOUT).await?;
        Ok(late)
    }

    /// Pulls on all nodes at once; every one must end well.
    async fn pull(&self, context: &Context, subject: &Subject, nodes: &[Node]) -> Result<Vec<Pulled>> {
        let progress = RefCell::new(context.output.progress());
        let request = PullRequest {
            reference: subject.reference.clone(),
            timeout_seconds: Some(self.timeout.as_secs_f64()),
            ..PullRequest::default()
        };
        let started = Instant::now();
        let pull_on = |node: &'_ Node| {
            let (client, name) = (node.client.clone(), node.name.clone());
            let (request, progress) = (&request, &progress);
            async move {
                let first = client.start_pull(request).await?;
                let status = client.follow(first, |status| progress.borrow_mut().pull(&name, status)).await?;
                let seconds = started.elapsed().as_secs_f64();
                match (&status.error, status.path.is_some()) {
                    (Some(problem), _) => Err(Failure::from(problem.clone())),
                    (None, true) => Ok(Pulled { status, seconds }),
                    (None, false) => Err(Failure::internal("the pull ended without a path")),
                }
            }
        };
        let all = join_all(nodes.iter().map(|node| async move { (node, pull_on(node).await) }));
        let slack = Duration::from_secs(10);
        let results = timeout(self.timeout + slack, all).await.map_err(|_| {
            let waited = units::seconds(self.timeout.as_secs_f64());
            Failure::new(ErrorKind::Timeout, format!("the agents were not done after {waited}"))
                .advice("allow more with --timeout, or run it with --keep and read the agents' logs")
        })?;
        progress.borrow_mut().finish();
        let ended = results.into_iter().map(|(node, result)| result.map_err(|failure| node.blame(failure)));
        ended.collect()
    }
}

impl Subject {
    /// Bytes that left the origin: counted there, or, where it is not ours, by those who read them.
    fn origin_bytes(&self, pulled: &[Pulled]) -> u64 {
        match &self.origin {
            Some(origin) => origin.body_bytes(),
            None => pulled.iter().map(|p| p.status.sources.origin).sum(),
        }
    }

    fn counted_by(&self) -> CountedBy {
        if self.origin.is_some() { CountedBy::Origin } else { CountedBy::Agents }
    }
}

fn reports(nodes: &[Node], pulled: &[Pulled], verdicts: Vec<Verdict>) -> Vec<NodeReport> {
    let parts = nodes.iter().zip(pulled).zip(verdicts);
    parts.map(|((node, pulled), verdict)| NodeReport::new(&node.name, pulled, verdict)).collect()
}

/// Runs work that blocks where it blocks nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(defect) => Err(Failure::internal(defect.to_string())),
    }
}
