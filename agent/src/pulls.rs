//! Pulls as jobs: started once, followed by many, remembered for a while.
//!
//! Owns the status of each and the rule that equal requests are one job. The work itself is
//! [`crate::fetch::bring`].

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use coordinatorless_p2p::exchange::Progress;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    agent::Inner,
    api::{Phase, Problem, PullRequest, PullStatus, Sources},
    error::{Error, ErrorKind, Result},
    fetch, metrics,
    resolve::Resolved,
    store::{Published, WantedFiles},
};

/// Ended pulls that are remembered.
const REMEMBERED_MAX: usize = 256;
/// Pulls under way at a time.
const RUNNING_MAX: usize = 256;
/// The rate is smoothed over about this long.
const RATE_WINDOW: Duration = Duration::from_secs(3);
/// Changes are told at most this often.
const REPORT_EVERY: Duration = Duration::from_millis(100);

struct Job {
    request: PullRequest,
    status: watch::Sender<PullStatus>,
    cancel: CancellationToken,
}

/// Every pull of this agent.
#[derive(Default)]
pub(crate) struct Pulls {
    jobs: Mutex<BTreeMap<u64, Job>>,
    totals: Mutex<Totals>,
    tasks: TaskTracker,
}

/// What all pulls brought since start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) sources: Sources,
    /// Bytes a second of the last pull that fetched anything; for estimates.
    pub(crate) last_rate: Option<f64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pulls {
    /// Starts a pull, or joins the one under way for the same request.
    pub(crate) fn start(
        &self,
        agent: &Arc<Inner>,
        request: PullRequest,
    ) -> Result<watch::Receiver<PullStatus>> {
        let mut jobs = lock(&self.jobs);
        let running = |job: &&Job| !job.status.borrow().phase.is_over();
        if let Some(job) = jobs.values().filter(running).find(|j| j.request == request) {
            return Ok(job.status.subscribe());
        }
        if jobs.values().filter(running).count() >= RUNNING_MAX {
            let retry_after = Some(Duration::from_secs(5));
            let text = format!("{RUNNING_MAX} pulls are under way already");
            return Err(Error::new(ErrorKind::Unavailable { retry_after }, text));
        }
        let number = jobs.last_key_value().map_or(1, |(n, _)| n + 1);
        let ended: VecDeque<u64> = jobs.iter().filter(|(_, j)| !running(j)).map(|(n, _)| *n).collect();
        for old in ended.iter().take(ended.len().saturating_sub(REMEMBERED_MAX)) {
            jobs.remove(old);
        }
        let (status, follow) = watch::channel(fresh_status(format!("p{number}"), &request));
        let cancel = agent.cancel.child_token();
        jobs.insert(number, Job { request: request.clone(), status: status.clone(), cancel: cancel.clone() });
        let agent = agent.clone();
        self.tasks.spawn(async move { run(agent, request, status, cancel).await });
        Ok(follow)
    }

    /// Every pull remembered, oldest first.
    pub(crate) fn list(&self) -> Vec<PullStatus> {
        lock(&self.jobs).values().map(|j| j.status.borrow().clone()).collect()
    }

    pub(crate) fn watch(&self, id: &str) -> Result<watch::Receiver<PullStatus>> {
        self.find(id, |job| job.status.subscribe())
    }

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

fn fresh_status(id: String, request: &PullRequest) -> PullStatus {
    PullStatus {
        id,
        reference: request.reference.clone(),
        swarm: None,
        revision: None,
        phase: Phase::Resolving,
        total_bytes: 0,
        done_bytes: 0,
        total_files: 0,
        done_files: 0,
        sources: Sources::default(),
        bytes_per_second: 0.0,
        eta_seconds: None,
        peers: 0,
        elapsed_seconds: 0.0,
        path: None,
        manifest: None,
        error: None,
        stale: false,
    }
}

async fn run(
    agent: Arc<Inner>,
    request: PullRequest,
    status: watch::Sender<PullStatus>,
    cancel: CancellationToken,
) {
    let reporter = Reporter::new(agent.clone(), status);
    let deadline = request.timeout_seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    let limit = async {
        match deadline {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, format!("pull of {} was cancelled", request.reference))),
        done = Box::pin(fetch::bring(&agent, &request, &reporter)) => done,
        () = limit => {
            let left = reporter.left_bytes();
            let text = format!("{} was not here after {:?} ({left} bytes to go)", request.reference, deadline.unwrap_or_default());
            Err(Error::new(ErrorKind::Timeout, text))
        }
    };
    reporter.end(result);
}

/// Writes one pull's status.
pub(crate) struct Reporter {
    agent: Arc<Inner>,
    status: watch::Sender<PullStatus>,
    state: Mutex<ReporterState>,
}

struct ReporterState {
    began: Instant,
    phase_began: Instant,
    told: Instant,
    /// The swarm's counters when this pull joined it.
    before: Progress,
    /// What was counted before the join, or in an earlier attempt.
    base: Sources,
    /// What the metrics have heard.
    counted: Sources,
    rate_at: Instant,
    rate_bytes: u64,
    fetch_began: Option<Instant>,
}

impl Reporter {
    fn new(agent: Arc<Inner>, status: watch::Sender<PullStatus>) -> Self {
        let now = Instant::now();
        let state = ReporterState {
            began: now,
            phase_began: now,
            told: now,
            before: Progress::default(),
            base: Sources::default(),
            counted: Sources::default(),
            rate_at: now,
            rate_bytes: 0,
            fetch_began: None,
        };
        Self { agent, status, state: Mutex::new(state) }
    }

    fn update(&self, change: impl FnOnce(&mut PullStatus, &mut ReporterState)) {
        let mut state = lock(&self.state);
        self.status.send_modify(|s| {
            change(s, &mut state);
            s.elapsed_seconds = state.began.elapsed().as_secs_f64();
        });
    }

    pub(crate) fn phase(&self, phase: Phase) {
        self.update(|s, state| {
            metrics::phase(s.phase, state.phase_began.elapsed());
            state.phase_began = Instant::now();
            if phase == Phase::Fetching {
                state.fetch_began = Some(Instant::now());
                (state.rate_at, state.rate_bytes) = (Instant::now(), s.done_bytes);
            }
            if phase == Phase::Resolving {
                state.base = s.sources;
                state.before = Progress::default();
            }
            s.phase = phase;
        });
    }

    pub(crate) fn resolved(&self, resolved: &Resolved, wanted: &WantedFiles) {
        self.update(|s, _| {
            s.swarm = Some(resolved.blueprint.swarm_id().to_string());
            s.revision.clone_from(&resolved.blueprint.revision);
            s.total_bytes = wanted.iter().map(|&f| resolved.blueprint.files[f].size).sum();
            s.total_files = wanted.len() as u64;
            (s.done_bytes, s.done_files) = (0, 0);
            s.stale = resolved.stale;
        });
    }

    /// So many bytes are here without any download.
    pub(crate) fn reused(&self, bytes: u64) {
        self.update(|s, state| {
            s.done_bytes = bytes;
            s.sources.reused = state.base.reused + bytes;
        });
    }

    pub(crate) fn joined(&self, before: &Progress) {
        self.update(|s, state| {
            state.before = before.clone();
            state.base = s.sources;
        });
    }

    pub(crate) fn progress(&self, now: &Progress) {
        let mut state = lock(&self.state);
        let since = fetch::sources_since(&state.before, now);
        let sources = Sources {
            origin: state.base.origin + since.origin,
            peers: state.base.peers + since.peers,
            reused: state.base.reused + since.reused,
            wasted: state.base.wasted + since.wasted,
        };
        let tell = state.told.elapsed() >= REPORT_EVERY;
        self.status.send_if_modified(|s| {
            s.sources = sources;
            let brought = sources.origin + sources.peers + sources.reused;
            s.done_bytes = brought.min(s.total_bytes);
            s.peers = now.neighbours;
            pace(s, &mut state);
            tell
        });
        if tell {
            state.told = Instant::now();
        }
    }

    /// Nothing changed, but time passed.
    pub(crate) fn beat(&self) {
        self.update(pace);
    }

    pub(crate) fn file_done(&self) {
        self.update(|s, _| s.done_files += 1);
    }

    fn left_bytes(&self) -> u64 {
        let status = self.status.borrow();
        status.total_bytes - status.done_bytes
    }

    fn end(&self, result: Result<Published>) {
        metrics::pull_ended(result.as_ref().map(|_| ()).map_err(Error::kind));
        self.update(|s, state| {
            metrics::phase(s.phase, state.phase_began.elapsed());
            s.eta_seconds = None;
            s.bytes_per_second = 0.0;
            s.peers = 0;
            match result {
                Ok(published) => {
                    s.phase = Phase::Complete;
                    s.done_bytes = s.total_bytes;
                    s.path = Some(published.path);
                    s.manifest = published.manifest.map(|m| m.to_string());
                }
                Err(e) => {
                    s.phase = if e.kind() == ErrorKind::Cancelled { Phase::Cancelled } else { Phase::Failed };
                    s.error = Some(Problem::from(&e));
                    tracing::warn!(reference = %s.reference, error = %e, "a pull ended without the artifact");
                }
            }
            let sources = s.sources;
            let fresh = Sources {
                origin: sources.origin - state.counted.origin,
                peers: sources.peers - state.counted.peers,
                reused: sources.reused - state.counted.reused,
                wasted: sources.wasted - state.counted.wasted,
            };
            state.counted = sources;
            metrics::received(fresh);
            let mut totals = lock(&self.agent.pulls.totals);
            totals.sources.origin += fresh.origin;
            totals.sources.peers += fresh.peers;
            totals.sources.reused += fresh.reused;
            totals.sources.wasted += fresh.wasted;
            let fetched = sources.origin + sources.peers;
            if let Some(began) = state.fetch_began
                && fetched > 0
            {
                totals.last_rate = Some(fetched as f64 / began.elapsed().as_secs_f64().max(1e-3));
            }
        });
    }
}

/// Rate and time left.
fn pace(s: &mut PullStatus, state: &mut ReporterState) {
    s.elapsed_seconds = state.began.elapsed().as_secs_f64();
    let took = state.rate_at.elapsed();
    if took < Duration::from_millis(200) {
        return;
    }
    let rate = s.done_bytes.saturating_sub(state.rate_bytes) as f64 / took.as_secs_f64();
    let weight = (took.as_secs_f64() / RATE_WINDOW.as_secs_f64()).min(1.0);
    s.bytes_per_second =
        if s.bytes_per_second == 0.0 { rate } else { s.bytes_per_second * (1.0 - weight) + rate * weight };
    (state.rate_at, state.rate_bytes) = (Instant::now(), s.done_bytes);
    let left = (s.total_bytes - s.done_bytes) as f64;
    s.eta_seconds =
        (s.phase == Phase::Fetching && s.bytes_per_second > 1.0).then(|| left / s.bytes_per_second);
}
