//! What a pull says of itself while it runs: phase, bytes by source, rate, time left.
//!
//! Owns the arithmetic from the swarm's counters to one pull's status, and the totals of all pulls.
//! Knows nothing of how the work is done.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Precedence, exchange::Progress};
use tokio::sync::watch;

use crate::{
    api::{Phase, Problem, PullStatus, Sources, precedence},
    error::{Error, ErrorKind, Result},
    metrics,
    resolve::Resolved,
    store::{Published, WantedFiles},
};

/// The rate is smoothed over about this long.
const RATE_WINDOW: Duration = Duration::from_secs(3);
/// Silence is worth a word from here on: a chunk of a slow origin takes a few seconds.
const QUIET: Duration = Duration::from_secs(5);
/// Changes are told at most this often.
const REPORT_EVERY: Duration = Duration::from_millis(100);

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

/// Writes one pull's status.
pub(crate) struct Reporter {
    totals: Arc<Mutex<Totals>>,
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
    /// When the last chunk came.
    heard: Instant,
    fetch_began: Option<Instant>,
}

impl Reporter {
    pub(crate) fn new(totals: Arc<Mutex<Totals>>, status: watch::Sender<PullStatus>) -> Self {
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
            heard: now,
            fetch_began: None,
        };
        Self { totals, status, state: Mutex::new(state) }
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
                state.heard = Instant::now();
            }
            s.quiet_seconds = None;
            if phase == Phase::Resolving {
                state.base = s.sources;
                state.before = Progress::default();
                state.heard = Instant::now();
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
            s.stale_reason.clone_from(&resolved.why_stale);
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
        let since = sources_since(&state.before, now);
        let sources = Sources {
            origin: state.base.origin + since.origin,
            peers: state.base.peers + since.peers,
            reused: state.base.reused + since.reused,
            wasted: state.base.wasted + since.wasted,
            hedged: state.base.hedged + since.hedged,
        };
        let tell = state.told.elapsed() >= REPORT_EVERY;
        self.status.send_if_modified(|s| {
            if s.sources != sources {
                state.heard = Instant::now();
            }
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

    /// How much the pull matters now.
    pub(crate) fn precedence(&self) -> Precedence {
        let status = self.status.borrow();
        precedence(status.priority, status.deadline)
    }

    pub(crate) fn left_bytes(&self) -> u64 {
        let status = self.status.borrow();
        status.total_bytes - status.done_bytes
    }

    pub(crate) fn end(&self, result: Result<Published>) {
        metrics::pull_ended(result.as_ref().map(|_| ()).map_err(Error::kind));
        self.update(|s, state| {
            metrics::phase(s.phase, state.phase_began.elapsed());
            s.eta_seconds = None;
            s.quiet_seconds = None;
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
                hedged: sources.hedged - state.counted.hedged,
            };
            state.counted = sources;
            metrics::received(fresh);
            let mut totals = lock(&self.totals);
            totals.sources.origin += fresh.origin;
            totals.sources.peers += fresh.peers;
            totals.sources.reused += fresh.reused;
            totals.sources.wasted += fresh.wasted;
            totals.sources.hedged += fresh.hedged;
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
    let quiet = state.heard.elapsed();
    let waits = matches!(s.phase, Phase::Resolving | Phase::Fetching);
    s.quiet_seconds = (waits && quiet >= QUIET).then_some(quiet.as_secs_f64());
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

/// Bytes by source since `before`.
fn sources_since(before: &Progress, now: &Progress) -> Sources {
    Sources {
        origin: now.origin_bytes.saturating_sub(before.origin_bytes),
        peers: now.peer_bytes.saturating_sub(before.peer_bytes),
        reused: now.reused_bytes.saturating_sub(before.reused_bytes),
        wasted: now.wasted_bytes.saturating_sub(before.wasted_bytes),
        hedged: now.hedged_bytes.saturating_sub(before.hedged_bytes),
    }
}
