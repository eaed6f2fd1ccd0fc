//! Pulls as jobs: started once, followed by many, remembered for a while.
//!
//! Owns the status of each and the rule that equal requests are one job. The work itself is
//! [`crate::fetch::bring`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{PullRequest, PullStatus},
    engine::Engine,
    error::{Error, ErrorKind, Result},
    fetch,
    origin::Patterns,
    reference::Reference,
    report::{Reporter, Totals},
    vouching,
};

/// Ended pulls that are remembered.
const REMEMBERED_MAX: usize = 256;
/// Pulls under way at a time.
const RUNNING_MAX: usize = 256;
/// How the reason of a pull begins that ended because its agent stops.
pub(crate) const SHUTTING_DOWN: &str = "this agent is shutting down";
/// When a client of a stopping agent should ask again: restarts take about so long.
const AGENT_RETURNS: Duration = Duration::from_secs(5);

struct Job {
    request: PullRequest,
    now: bool,
    status: watch::Sender<PullStatus>,
    cancel: CancellationToken,
}

/// Every pull of this agent.
pub(crate) struct Pulls {
    pub(crate) engine: Arc<Engine>,
    jobs: Mutex<BTreeMap<u64, Job>>,
    totals: Arc<Mutex<Totals>>,
    tasks: TaskTracker,
}

/// The number of the first job: the time in milliseconds, so that ids of this process are not mistaken for
/// those of the one before it.
pub(crate) fn first_number() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    now.map_or(1, |since| since.as_millis() as u64)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pulls {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, jobs: Mutex::default(), totals: Arc::default(), tasks: TaskTracker::new() }
    }

    /// Starts a pull after looking at what can be looked at now, or joins the one under way for the
    /// same request. `now`: somebody asks for what the origin has at this moment, not for what it had lately.
    pub(crate) fn start(&self, request: PullRequest, now: bool) -> Result<watch::Receiver<PullStatus>> {
        if self.engine.cancel.is_cancelled() {
            return Err(stopping(&self.engine, ""));
        }
        let reference = request.reference.parse::<Reference>()?;
        Patterns::new(&request.allow_patterns, &request.ignore_patterns)?;
        let limit = time_limit(request.timeout_seconds)?;
        if request.hf_cache.is_some() && !matches!(reference, Reference::Hub(_)) {
            let text = format!("{reference} is no repository of a Hub: hf_cache takes hf:// alone");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        if [&request.to, &request.hf_cache].into_iter().flatten().any(|to| !to.is_absolute()) {
            return Err(Error::new(ErrorKind::Invalid, "the directory to place files in must be absolute"));
        }
        let mut jobs = lock(&self.jobs);
        let running = |job: &&Job| !job.status.borrow().phase.is_over();
        let (priority, deadline) = (request.priority.unwrap_or_default(), request.deadline);
        // It is the same pull however much it matters to whom.
        let request = PullRequest { priority: None, deadline: None, ..request };
        let wanted = |job: &&Job| {
            let is_the_same = job.request == request && job.now == now;
            is_the_same && !job.cancel.is_cancelled()
        };
        if let Some(job) = jobs.values().filter(running).find(wanted) {
            job.status.send_modify(|status| {
                status.askers += 1;
                status.priority = status.priority.max(priority);
                status.deadline = status.deadline.into_iter().chain(deadline).min();
            });
            return Ok(job.status.subscribe());
        }
        if jobs.values().filter(running).count() >= RUNNING_MAX {
            let retry_after = Some(Duration::from_secs(5));
            let text = format!("{RUNNING_MAX} pulls are under way already");
            return Err(Error::new(ErrorKind::Unavailable { retry_after }, text));
        }
        let number = jobs.last_key_value().map_or_else(first_number, |(n, _)| n + 1);
        let ended: VecDeque<u64> = jobs.iter().filter(|(_, j)| !running(j)).map(|(n, _)| *n).collect();
        for old in ended.iter().take(ended.len().saturating_sub(REMEMBERED_MAX)) {
            jobs.remove(old);
        }
        let fresh = PullStatus::new(format!("p{number}"), &request.reference);
        let (status, follow) = watch::channel(PullStatus { priority, deadline, ..fresh });
        let cancel = self.engine.cancel.child_token();
        jobs.insert(
            number,
            Job { request: request.clone(), now, status: status.clone(), cancel: cancel.clone() },
        );
        let engine = self.engine.clone();
        let origins = engine.origins.clone();
        let throttles = Box::new(move || origins.throttles(&reference));
        let reporter = Reporter::new(self.totals.clone(), status, throttles);
        let asked = Asked { request, now, limit };
        self.tasks.spawn(async move { run(&engine, asked, reporter, cancel).await });
        Ok(follow)
    }

    /// Keeps manifests at the homes of their swarms until the node stops.
    pub(crate) fn follow_ring(&self) {
        let engine = self.engine.clone();
        self.tasks.spawn(async move { vouching::follow_ring(&engine).await });
    }

    /// Every pull remembered, oldest first.
    pub(crate) fn list(&self) -> Vec<PullStatus> {
        lock(&self.jobs).values().map(|j| j.status.borrow().clone()).collect()
    }

    pub(crate) fn watch(&self, id: &str) -> Result<watch::Receiver<PullStatus>> {
        self.find(id, |job| job.status.subscribe())
    }

    /// One who asked wants it no more; it ends when nobody is left who does.
    pub(crate) fn withdraw(&self, id: &str) -> Result<()> {
        self.find(id, |job| {
            job.status.send_modify(|status| status.askers = status.askers.saturating_sub(1));
            if job.status.borrow().askers == 0 {
                job.cancel.cancel();
            }
        })
    }

    /// Ends it, whoever else wants it.
    pub(crate) fn cancel(&self, id: &str) -> Result<()> {
        self.find(id, |job| job.cancel.cancel())
    }

    fn find<T>(&self, id: &str, then: impl FnOnce(&Job) -> T) -> Result<T> {
        let number = id.strip_prefix('p').and_then(|n| n.parse::<u64>().ok());
        let jobs = lock(&self.jobs);
        let job = number.and_then(|n| jobs.get(&n));
        job.map(then).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no pull has the id {id:?}")))
    }

    pub(crate) fn totals(&self) -> Totals {
        *lock(&self.totals)
    }

    /// Waits until every job has ended; they end when the agent's token is cancelled.
    pub(crate) async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What a client hears when the agent goes: when it may come back, or that it takes nothing until somebody starts
/// it again.
fn stopping(engine: &Engine, what_then: &str) -> Error {
    let (why, retry_after) = match engine.drained.load(Ordering::Acquire) {
        true => (": it was drained, and pulls nothing until it is started again", None),
        false => ("", Some(AGENT_RETURNS)),
    };
    Error::new(ErrorKind::Unavailable { retry_after }, format!("{SHUTTING_DOWN}{why}{what_then}"))
}

/// A limit of somebody who asks, in seconds.
///
/// # Errors
/// `Invalid` for what is no time.
pub(crate) fn time_limit(seconds: Option<f64>) -> Result<Option<Duration>> {
    let no_time = || Error::new(ErrorKind::Invalid, "timeout_seconds is not a time");
    let limit = seconds.map(|s| Duration::try_from_secs_f64(s).map_err(|_| no_time())).transpose()?;
    if limit.is_some_and(|limit| limit.is_zero()) { Err(no_time()) } else { Ok(limit) }
}

/// What somebody asked for.
struct Asked {
    request: PullRequest,
    now: bool,
    limit: Option<Duration>,
}

async fn run(engine: &Engine, asked: Asked, reporter: Reporter, cancel: CancellationToken) {
    let Asked { request, now, limit: deadline } = asked;
    let limit = async {
        match deadline {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(why_cut_short(engine, &request.reference)),
        done = Box::pin(fetch::bring(engine, &request, now, &reporter)) => done,
        never = reporter.tick() => match never {},
        () = limit => {
            let (waited, missing) = (deadline.unwrap_or_default(), reporter.missing());
            let text = format!("{} was not here after {waited:?} ({missing})", request.reference);
            Err(Error::new(ErrorKind::Timeout, text))
        }
    };
    let sealed = result.as_ref().ok().and_then(|published| published.manifest);
    reporter.end(result);
    // The pull is over for who asked; the next version's shall know what this one consists of.
    if let Some(id) = sealed
        && let Some(swarm) = engine.store.find(&id.to_string())
    {
        tokio::select! {
            () = engine.cancel.cancelled() => {}
            () = vouching::offer(engine, swarm, id) => {}
        }
    }
}

fn why_cut_short(engine: &Engine, reference: &str) -> Error {
    if engine.cancel.is_cancelled() {
        let what_then = format!(
            "; what it has of {reference} is kept, and the pull goes on from there when it is asked for again"
        );
        stopping(engine, &what_then)
    } else {
        Error::new(ErrorKind::Cancelled, format!("pull of {reference} was cancelled"))
    }
}
