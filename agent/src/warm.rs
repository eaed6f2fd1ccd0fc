//! Warm-ups: other nodes pull because one was asked.
//!
//! Owns whom a selector means and when a job counts as done. Each chosen node runs an ordinary
//! pull; this one only asks, follows, and takes the job back if told so.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{ChunkStore, Node, NodeId, SwarmId};
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{
        JobState, Phase, Problem, PullRequest, PullStatus, ScaleHook, Selector, WarmNode, WarmRequest,
        WarmStatus,
    },
    error::{Error, ErrorKind, Result},
    origin::Patterns,
    pulls::{self, Pulls, first_number},
    reference::Reference,
    resolve::Looking,
    services::{Service, from_json, refuse_local, to_json},
};

/// Ended jobs that are remembered, and jobs at a time.
const JOBS_MAX: usize = 256;
/// How often each node is asked how it is getting on.
const POLL_EVERY: Duration = Duration::from_millis(250);
/// How long it may take to learn what there is, and who has how much of it, before nodes are asked without knowing.
const LOOK_DEADLINE: Duration = Duration::from_secs(8);
/// Of a job that has a time limit, no more than this part.
const LOOK_PART: u32 = 4;
/// Nodes asked for that at a time.
const LOOKS_AT_ONCE: usize = 64;
/// How long a node has to answer one question.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// A node that does not answer for this long has failed.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// How often a node whose agent stopped amid its pull is asked again.
const ASKED_AGAIN_MAX: usize = 3;

struct Job {
    status: watch::Sender<WarmStatus>,
    cancel: CancellationToken,
}

/// Every warm-up that was asked of this agent.
pub(crate) struct Warms {
    pulls: Arc<Pulls>,
    jobs: Mutex<BTreeMap<u64, Job>>,
    tasks: TaskTracker,
}

impl Warms {
    pub(crate) fn new(pulls: Arc<Pulls>) -> Self {
        Self { pulls, jobs: Mutex::default(), tasks: TaskTracker::new() }
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a warm-up after looking at what can be looked at now. What the origin has, and who has how much of it,
    /// is asked within the job.
    pub(crate) fn start(&self, request: WarmRequest) -> Result<watch::Receiver<WarmStatus>> {
        let reference: Reference = request.reference.parse()?;
        refuse_local(&reference)?;
        Patterns::new(&request.allow_patterns, &request.ignore_patterns)?;
        let limit = pulls::time_limit(request.timeout_seconds)?;
        let live = self.pulls.engine.cluster.membership().watch().borrow().clone();
        let whom = Whom::of(&live, &request.selector)?;
        let min_ready = request.min_ready.unwrap_or(whom.count());
        if min_ready > whom.count() {
            let text = format!("{min_ready} nodes shall be ready but only {} are chosen", whom.count());
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let mut jobs = self.jobs();
        if jobs.len() >= JOBS_MAX {
            jobs.retain(|_, j| j.status.borrow().state == JobState::Running);
        }
        if jobs.len() >= JOBS_MAX {
            return Err(Error::new(
                ErrorKind::UNAVAILABLE,
                format!("{JOBS_MAX} warm-ups are under way already"),
            ));
        }
        let number = jobs.last_key_value().map_or_else(first_number, |(n, _)| n + 1);
        let (status, follow) = watch::channel(WarmStatus {
            id: format!("w{number}"),
            reference: request.reference.clone(),
            state: JobState::Running,
            min_ready,
            ready: 0,
            nodes: whom.known().iter().map(fresh_node).collect(),
            elapsed_seconds: 0.0,
            error: None,
            priority: request.priority.unwrap_or_default(),
            deadline: request.deadline,
        });
        let cancel = self.pulls.engine.cancel.child_token();
        jobs.insert(number, Job { status: status.clone(), cancel: cancel.clone() });
        let pulls = self.pulls.clone();
        let job = Warming { began: Instant::now(), reference, whom, limit, status, cancel };
        self.tasks.spawn(async move { run(pulls, request, job).await });
        Ok(follow)
    }

    /// What an autoscaler's word means as a warm-up.
    ///
    /// # Errors
    /// `Invalid` when it says both or neither of count and selector, or a deadline that is no time.
    pub(crate) fn of_hook(hook: ScaleHook) -> Result<WarmRequest> {
        let selector = match (hook.count, hook.selector) {
            (Some(count), None) => Selector { nodes: Some(count), ..Selector::default() },
            (None, Some(selector)) => selector,
            (Some(_), Some(_)) | (None, None) => {
                return Err(Error::new(ErrorKind::Invalid, "say either count or selector"));
            }
        };
        Ok(WarmRequest {
            reference: hook.reference,
            selector,
            // At least a moment: one that is past ends as a time-out, which says what is missing.
            timeout_seconds: hook.deadline.map(|at| at.left().as_secs_f64().max(1e-3)),
            deadline: hook.deadline,
            priority: hook.priority,
            ..WarmRequest::default()
        })
    }

    pub(crate) fn list(&self) -> Vec<WarmStatus> {
        self.jobs().values().map(|j| j.status.borrow().clone()).collect()
    }

    pub(crate) fn watch(&self, id: &str) -> Result<watch::Receiver<WarmStatus>> {
        self.find(id, |job| job.status.subscribe())
    }

    pub(crate) fn cancel(&self, id: &str) -> Result<()> {
        self.find(id, |job| job.cancel.cancel())
    }

    fn find<T>(&self, id: &str, then: impl FnOnce(&Job) -> T) -> Result<T> {
        let number = id.strip_prefix('w').and_then(|n| n.parse::<u64>().ok());
        let jobs = self.jobs();
        let job = number.and_then(|n| jobs.get(&n));
        job.map(then).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no warm-up has the id {id:?}")))
    }

    pub(crate) async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn fresh_node(node: &Node) -> WarmNode {
    WarmNode {
        id: node.id,
        name: node.name.clone(),
        zone: node.zone.clone(),
        phase: Phase::Resolving,
        total_bytes: 0,
        done_bytes: 0,
        bytes_per_second: 0.0,
        eta_seconds: None,
        error: None,
    }
}

/// The live members that a selector means.
#[derive(Debug, PartialEq, Eq)]
enum Whom {
    /// These.
    These(Vec<Node>),
    /// So many of these: those that have most.
    Richest(usize, Vec<Node>),
}

impl Whom {
    fn of(live: &[Node], selector: &Selector) -> Result<Self> {
        let ways =
            [selector.all, selector.nodes.is_some(), selector.zone.is_some(), !selector.ids.is_empty()];
        if ways.iter().filter(|w| **w).count() != 1 {
            let text = "say exactly one of: all, a number of nodes, a zone, node ids";
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        if selector.all {
            return Ok(Self::These(live.to_vec()));
        }
        if let Some(zone) = &selector.zone {
            let nodes: Vec<Node> = live.iter().filter(|n| n.zone == *zone).cloned().collect();
            let none = || Error::new(ErrorKind::NotFound, format!("no live member is in zone {zone:?}"));
            return if nodes.is_empty() { Err(none()) } else { Ok(Self::These(nodes)) };
        }
        match selector.nodes {
            None => Ok(Self::These(by_names(live, &selector.ids)?)),
            Some(count) if count == 0 || count > live.len() => {
                let text = format!("{count} nodes are asked for, {} are alive", live.len());
                Err(Error::new(ErrorKind::Invalid, text))
            }
            Some(count) => Ok(Self::Richest(count, live.to_vec())),
        }
    }

    /// How many they are.
    fn count(&self) -> usize {
        match self {
            Self::These(nodes) => nodes.len(),
            Self::Richest(count, _) => *count,
        }
    }

    /// Those of whom it is known before anybody was asked what they have.
    fn known(&self) -> &[Node] {
        match self {
            Self::These(nodes) => nodes,
            Self::Richest(..) => &[],
        }
    }
}

/// Has the origin listed once for all, so that the homes tell each node what there is now, and says who they are.
async fn look(pulls: &Pulls, reference: &Reference, whom: Whom, within: Duration) -> Vec<Node> {
    let engine = &pulls.engine;
    let (count, live) = match &whom {
        Whom::These(_) => (0, &[][..]),
        Whom::Richest(count, live) => (*count, &live[..]),
    };
    let asked = async {
        let looking = Looking { outdated: None, now: true };
        match engine.resolver.resolve(reference, looking).await {
            Ok(resolved) if count > 0 => held_chunks(pulls, resolved.blueprint.swarm_id()).await,
            Ok(_) => HashMap::new(),
            Err(e) => {
                tracing::debug!(%reference, error = %e, "what is to be warmed is not known yet");
                HashMap::new()
            }
        }
    };
    let held = tokio::time::timeout(within, asked).await.unwrap_or_default();
    if let Whom::These(nodes) = whom {
        return nodes;
    }
    let key = *blake3::hash(reference.to_string().as_bytes()).as_bytes();
    // The ring may have got back meanwhile who was not alive when we were asked.
    let mut ranked = engine.cluster.ring().owners(&key, usize::from(u16::MAX));
    ranked.retain(|id| live.iter().any(|n| n.id == *id));
    let chosen = richest(ranked, &held, count);
    live.iter().filter(|n| chosen.contains(&n.id)).cloned().collect()
}

/// Each node once, in the order in which they are named: the name and the id of one node are the same node.
fn by_names(live: &[Node], names: &[String]) -> Result<Vec<Node>> {
    let mut nodes: Vec<Node> = Vec::with_capacity(names.len());
    for name in names {
        let node = by_name(live, name)?;
        if nodes.iter().all(|known| known.id != node.id) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

/// Those that have most, then those that come first in `ranked`.
fn richest(mut ranked: Vec<NodeId>, held: &HashMap<NodeId, u32>, count: usize) -> Vec<NodeId> {
    ranked.sort_by_key(|id| std::cmp::Reverse(held.get(id).copied().unwrap_or(0)));
    ranked.truncate(count);
    ranked
}

/// How many chunks the nodes have that take part in a swarm. Nodes that do not answer have none.
async fn held_chunks(pulls: &Pulls, swarm: SwarmId) -> HashMap<NodeId, u32> {
    let engine = &pulls.engine;
    let here = engine.store.inventory(swarm).map_or(0, |inventory| inventory.held.len());
    let asked = engine.cluster.participants(swarm).await.into_iter().map(|id| async move {
        let presence = engine.cluster.call(id, Service::Presence.number(), &swarm.0, ASK_DEADLINE).await;
        (id, presence.map_or(0, |bits| bits.iter().map(|byte| byte.count_ones()).sum()))
    });
    let held = futures::stream::iter(asked).buffer_unordered(LOOKS_AT_ONCE);
    held.chain(futures::stream::iter([(engine.cluster.id(), here)])).collect().await
}

fn by_name(live: &[Node], text: &str) -> Result<Node> {
    let mut found =
        live.iter().filter(|n| n.name == text || (text.len() >= 4 && n.id.to_string().starts_with(text)));
    match (found.next(), found.next()) {
        (Some(node), None) => Ok(node.clone()),
        (None, _) => Err(Error::new(ErrorKind::NotFound, format!("no live member is called {text:?}"))),
        (Some(a), Some(b)) => {
            let text = format!("{text:?} means {} and {}: say more digits of the id", a.id, b.id);
            Err(Error::new(ErrorKind::Invalid, text))
        }
    }
}

/// A warm-up under way.
struct Warming {
    began: Instant,
    reference: Reference,
    whom: Whom,
    limit: Option<Duration>,
    status: watch::Sender<WarmStatus>,
    cancel: CancellationToken,
}

async fn run(pulls: Arc<Pulls>, request: WarmRequest, job: Warming) {
    let Warming { began, reference, whom, limit, status, cancel } = job;
    let within = limit.map_or(LOOK_DEADLINE, |limit| LOOK_DEADLINE.min(limit / LOOK_PART));
    let nodes = tokio::select! {
        () = cancel.cancelled() => Vec::new(),
        nodes = look(&pulls, &reference, whom, within) => nodes,
    };
    status.send_modify(|s| {
        s.nodes = nodes.iter().map(fresh_node).collect();
        s.elapsed_seconds = began.elapsed().as_secs_f64();
    });
    let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
    let pull = PullRequest {
        reference: request.reference.clone(),
        allow_patterns: request.allow_patterns,
        ignore_patterns: request.ignore_patterns,
        prefault: request.prefault,
        timeout_seconds: left.map(|left| left.as_secs_f64().max(1e-3)),
        priority: request.priority,
        deadline: request.deadline,
        ..PullRequest::default()
    };
    let stop = cancel.child_token();
    let followers = nodes.iter().enumerate().map(|(place, node)| {
        let (pulls, pull, status, stop) = (&pulls, &pull, &status, stop.clone());
        async move {
            let told = |change: &dyn Fn(&mut WarmNode)| {
                status.send_modify(|s| {
                    change(&mut s.nodes[place]);
                    s.ready = s.nodes.iter().filter(|n| n.phase == Phase::Complete).count();
                    s.elapsed_seconds = began.elapsed().as_secs_f64();
                });
            };
            if let Err(e) = follow(pulls, node.id, pull, &stop, &told).await {
                let phase = if e.kind() == ErrorKind::Cancelled { Phase::Cancelled } else { Phase::Failed };
                told(&|n| (n.phase, n.error) = (phase, Some(Problem::from(&e))));
            }
        }
    });
    let all = futures::future::join_all(followers);
    let limit = async {
        match left {
            // The nodes have the same limit; they are given a moment to say so themselves.
            Some(left) => tokio::time::sleep(left.saturating_add(Duration::from_secs(2))).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(all);
    tokio::select! {
        _ = &mut all => {}
        () = limit => {
            stop.cancel();
            // Each follower takes its node's pull back, as far as the node answers.
            let _ = tokio::time::timeout(ASK_DEADLINE, &mut all).await;
        }
    }
    status.send_modify(|s| {
        s.elapsed_seconds = began.elapsed().as_secs_f64();
        if s.ready >= s.min_ready {
            s.state = JobState::Complete;
        } else if cancel.is_cancelled() && !pulls.engine.cancel.is_cancelled() {
            s.state = JobState::Cancelled;
        } else {
            s.state = JobState::Failed;
            s.error = Some(shortfall(s));
        }
    });
}

/// Why too few nodes are ready. Where none is and all give the same kind of reason, it is of that kind: what
/// does not exist, or is denied to all, will not come by trying later.
fn shortfall(s: &WarmStatus) -> Problem {
    let errors = || s.nodes.iter().filter_map(|n| n.error.as_ref().map(|e| (n, e)));
    let first = errors().next();
    let why = first.map(|(n, e)| format!(" ({}: {})", n.name, e.message)).unwrap_or_default();
    let text = format!("{} of {} nodes are ready{why}", s.ready, s.min_ready);
    let kind = first.map(|(_, e)| e.error_kind()).filter(|kind| {
        s.ready == 0 && errors().count() == s.nodes.len() && errors().all(|(_, e)| e.error_kind() == *kind)
    });
    Problem::from(&Error::new(kind.unwrap_or(ErrorKind::UNAVAILABLE), text))
}

/// Changes what is told of one node.
type Tell<'a> = dyn Fn(&dyn Fn(&mut WarmNode)) + Sync + 'a;

async fn begin(pulls: &Pulls, node: NodeId, pull: &PullRequest) -> Result<String> {
    if node == pulls.engine.cluster.id() {
        return Ok(pulls.start(pull.clone(), false)?.borrow().id.clone());
    }
    let ask = async |pull: &PullRequest| {
        let body = to_json(pull)?;
        pulls.engine.cluster.call(node, Service::Pull.number(), &body, ASK_DEADLINE).await
    };
    let answer = match ask(pull).await {
        // An agent of the version before this one knows no priorities: better without than not at all.
        Err(e) if e.kind() == ErrorKind::Invalid && (pull.priority.is_some() || pull.deadline.is_some()) => {
            ask(&PullRequest { priority: None, deadline: None, ..pull.clone() }).await?
        }
        answer => answer?,
    };
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Has one node pull and follows it to its end. When this agent stops, the nodes go on.
async fn follow(
    pulls: &Pulls,
    node: NodeId,
    pull: &PullRequest,
    stop: &CancellationToken,
    told: &Tell<'_>,
) -> Result<()> {
    let mut id = begin(pulls, node, pull).await?;
    let (mut heard, mut asked_again) = (Instant::now(), 0);
    loop {
        let cancelled = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(POLL_EVERY) => false,
        };
        if pulls.engine.cancel.is_cancelled() {
            let text = "this agent is shutting down; the nodes go on by themselves";
            return Err(Error::new(ErrorKind::UNAVAILABLE, text));
        }
        if cancelled {
            ask(pulls, node, Service::CancelPull, &id).await?;
            return Err(Error::new(ErrorKind::Cancelled, "the warm-up was cancelled"));
        }
        let status: PullStatus = match ask(pulls, node, Service::PullStatus, &id).await {
            Ok(answer) => from_json(&answer)?,
            // It knows the pull no more: its agent was restarted, and goes on when it is asked again.
            Err(e) if e.kind() == ErrorKind::NotFound && asked_again < ASKED_AGAIN_MAX => {
                match begin(pulls, node, pull).await {
                    Ok(fresh) => (id, asked_again) = (fresh, asked_again + 1),
                    Err(e) if is_absence(&e) && heard.elapsed() < SILENT_MAX => {}
                    Err(e) => return Err(e),
                }
                continue;
            }
            Err(e) if is_absence(&e) && heard.elapsed() < SILENT_MAX => continue,
            Err(e) => return Err(e),
        };
        if is_stopping(&status) && asked_again < ASKED_AGAIN_MAX && heard.elapsed() < SILENT_MAX {
            continue;
        }
        heard = Instant::now();
        told(&|n| {
            n.phase = status.phase;
            (n.total_bytes, n.done_bytes) = (status.total_bytes, status.done_bytes);
            (n.bytes_per_second, n.eta_seconds) = (status.bytes_per_second, status.eta_seconds);
            n.error.clone_from(&status.error);
        });
        if status.phase.is_over() {
            return Ok(());
        }
    }
}

/// Whether a node may only be away for a moment.
fn is_absence(e: &Error) -> bool {
    e.kind().is_transient() || e.kind() == ErrorKind::NotFound
}

/// Whether a pull ended because its agent is about to go and come back.
fn is_stopping(status: &PullStatus) -> bool {
    let problem = status.error.as_ref();
    status.phase == Phase::Failed
        && problem.is_some_and(|p| p.kind == "unavailable" && p.message.contains(pulls::SHUTTING_DOWN))
}

async fn ask(pulls: &Pulls, node: NodeId, service: Service, id: &str) -> Result<bytes::Bytes> {
    if node != pulls.engine.cluster.id() {
        return pulls.engine.cluster.call(node, service.number(), id.as_bytes(), ASK_DEADLINE).await;
    }
    if service == Service::CancelPull {
        pulls.withdraw(id)?;
        return Ok(bytes::Bytes::new());
    }
    let status = pulls.watch(id)?.borrow().clone();
    Ok(to_json(&status)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(byte: u8, name: &str) -> Node {
        Node {
            id: NodeId([byte; 16]),
            name: name.to_owned(),
            addr: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
            zone: String::new(),
            weight: Node::WEIGHT,
            generation: 1,
        }
    }

    #[test]
    fn a_node_that_is_named_twice_is_one_node() {
        let live = [member(1, "a"), member(2, "b")];
        let id = live[0].id.to_string();
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            by_names(&live, &names).unwrap().into_iter().map(|node| node.name).collect::<Vec<_>>()
        };
        assert_eq!(named(&["b", "a", "b"]), ["b", "a"]);
        assert_eq!(named(&["a", &id, &id[..6]]), ["a"]);
        assert_eq!(by_names(&live, &["c".to_owned()]).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn whom_a_selector_means_is_checked_before_anybody_is_asked() {
        let live = [member(1, "a"), member(2, "b"), Node { zone: "z".to_owned(), ..member(3, "c") }];
        let whom = |selector: Selector| {
            Whom::of(&live, &selector).map(|whom| (whom.count(), whom.known().len())).map_err(|e| e.kind())
        };
        let nodes = |count| Selector { nodes: Some(count), ..Selector::default() };
        let zone = |zone: &str| Selector { zone: Some(zone.to_owned()), ..Selector::default() };
        assert_eq!(whom(Selector { all: true, ..Selector::default() }), Ok((3, 3)));
        assert_eq!(whom(zone("z")), Ok((1, 1)));
        assert_eq!(whom(zone("mars")), Err(ErrorKind::NotFound));
        assert_eq!(whom(nodes(2)), Ok((2, 0)), "which two is known later");
        for wrong in [nodes(0), nodes(4), Selector::default(), Selector { all: true, ..nodes(2) }] {
            assert_eq!(whom(wrong.clone()), Err(ErrorKind::Invalid), "{wrong:?}");
        }
    }

    #[test]
    fn a_shortfall_is_of_the_kind_that_all_nodes_give_or_to_be_tried_again() {
        let node = |byte, kind: Option<ErrorKind>| WarmNode {
            error: kind.map(|kind| Problem::from(&Error::new(kind, "why"))),
            ..fresh_node(&member(byte, "n"))
        };
        let status = |ready, nodes| WarmStatus {
            id: "w1".to_owned(),
            reference: "s3://b/p".to_owned(),
            state: JobState::Failed,
            min_ready: 2,
            ready,
            nodes,
            elapsed_seconds: 1.0,
            error: None,
            priority: Default::default(),
            deadline: None,
        };
        let kind = |ready, kinds: [Option<ErrorKind>; 2]| {
            let nodes = kinds.into_iter().zip(1..).map(|(kind, byte)| node(byte, kind)).collect();
            shortfall(&status(ready, nodes)).error_kind()
        };
        let (missing, denied) = (Some(ErrorKind::NotFound), Some(ErrorKind::Denied));
        assert_eq!(kind(0, [missing, missing]), ErrorKind::NotFound);
        assert_eq!(kind(0, [missing, denied]), ErrorKind::UNAVAILABLE);
        assert_eq!(kind(0, [missing, None]), ErrorKind::UNAVAILABLE);
        assert_eq!(kind(1, [None, missing]), ErrorKind::UNAVAILABLE, "one node has it: it exists");
    }

    #[test]
    fn those_that_have_most_come_first_then_those_the_ring_names() {
        let [a, b, c, d] = [1, 2, 3, 4].map(|n| NodeId([n; 16]));
        let ring = vec![a, b, c, d];
        assert_eq!(richest(ring.clone(), &HashMap::new(), 2), [a, b]);
        let held = HashMap::from([(c, 10), (d, 100), (a, 0)]);
        assert_eq!(richest(ring.clone(), &held, 3), [d, c, a]);
        assert_eq!(richest(ring, &held, 4).len(), 4);
    }
}
