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
    metrics, quantity,
    resolve::Resolved,
    store::{Published, WantedFiles},
};

/// The rate is smoothed over about this long.
const RATE_WINDOW: Duration = Duration::from_secs(3);
/// Silence is worth a word from here on: a chunk of a slow origin takes a few seconds.
const QUIET: Duration = Duration::from_secs(5);
/// That the origin throttles is worth one sooner.
const THROTTLED: Duration = Duration::from_secs(1);
/// How often a pull that waits says that it still does. Fetching has its own beat.
const TICK_EVERY: Duration = Duration::from_secs(1);
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

/// Tells in words that the origin throttles, where it does.
pub(crate) type Throttles = dyn Fn() -> Option<String> + Send + Sync;

/// Writes one pull's status.
pub(crate) struct Reporter {
    totals: Arc<Mutex<Totals>>,
    status: watch::Sender<PullStatus>,
    throttles: Box<Throttles>,
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
    /// The name of the one file, where the reference names a file.
    sole_file: Option<String>,
    /// What of `reused` was here under this name: nothing had to be done for it.
    held: u64,
    rate_at: Instant,
    rate_bytes: u64,
    /// When the last chunk came.
    heard: Instant,
    fetch_began: Option<Instant>,
}

impl Reporter {
    pub(crate) fn new(
        totals: Arc<Mutex<Totals>>,
        status: watch::Sender<PullStatus>,
        throttles: Box<Throttles>,
    ) -> Self {
        let now = Instant::now();
        let state = ReporterState {
            began: now,
            phase_began: now,
            told: now,
            before: Progress::default(),
            base: Sources::default(),
            counted: Sources::default(),
            sole_file: None,
            held: 0,
            rate_at: now,
            rate_bytes: 0,
            heard: now,
            fetch_began: None,
        };
        Self { totals, status, throttles, state: Mutex::new(state) }
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
            (s.quiet_seconds, s.throttle) = (None, None);
            if phase == Phase::Resolving {
                state.base = s.sources;
                state.before = Progress::default();
                state.heard = Instant::now();
            }
            s.phase = phase;
        });
    }

    pub(crate) fn resolved(&self, resolved: &Resolved, wanted: &WantedFiles) {
        self.update(|s, state| {
            state.sole_file = resolved.blueprint.sole_file();
            s.swarm = Some(resolved.blueprint.swarm_id().to_string());
            s.revision.clone_from(&resolved.blueprint.revision);
            s.total_bytes = wanted.iter().map(|&f| resolved.blueprint.files[f].size).sum();
            s.total_files = wanted.len() as u64;
            (s.done_bytes, s.done_files) = (0, 0);
            s.stale = resolved.stale;
            s.stale_reason.clone_from(&resolved.why_stale);
        });
    }

    /// So many bytes were here before anything was done.
    pub(crate) fn held(&self, bytes: u64) {
        self.reused(bytes);
        lock(&self.state).held += bytes;
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
            pace(s, &mut state, &self.throttles);
            tell
        });
        if tell {
            state.told = Instant::now();
        }
    }

    /// Nothing changed, but time passed.
    pub(crate) fn beat(&self) {
        self.update(|s, state| pace(s, state, &self.throttles));
    }

    /// Tells for how long the pull has been waiting, wherever it waits. Never ends.
    pub(crate) async fn tick(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(TICK_EVERY).await;
            if self.status.borrow().phase != Phase::Fetching {
                self.update(|_, _| {});
            }
        }
    }

    pub(crate) fn file_done(&self) {
        self.update(|s, _| s.done_files += 1);
    }

    /// How much the pull matters now.
    pub(crate) fn precedence(&self) -> Precedence {
        let status = self.status.borrow();
        precedence(status.priority, status.deadline)
    }

    /// What is missing, for who does not wait any longer.
    pub(crate) fn missing(&self) -> String {
        let status = self.status.borrow();
        match status.phase {
            Phase::Resolving => {
                (self.throttles)().unwrap_or_else(|| "the origin had not answered yet".to_owned())
            }
            _ => format!("{} to go", quantity::exactly(status.total_bytes - status.done_bytes)),
        }
    }

    pub(crate) fn end(&self, result: Result<Published>) {
        metrics::pull_ended(result.as_ref().map(|_| ()).map_err(Error::kind));
        self.update(|s, state| {
            metrics::phase(s.phase, state.phase_began.elapsed());
            s.eta_seconds = None;
            (s.quiet_seconds, s.throttle) = (None, None);
            s.bytes_per_second = 0.0;
            s.peers = 0;
            match result {
                Ok(published) => {
                    s.phase = Phase::Complete;
                    s.done_bytes = s.total_bytes;
                    s.file = state.sole_file.as_ref().map(|name| published.path.join(name));
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
            // The totals are of work: what was here is no more after the tenth pull of it.
            let fresh = Sources { reused: fresh.reused.saturating_sub(state.held), ..fresh };
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

/// Rate and time left, and why nothing comes where that is known.
fn pace(s: &mut PullStatus, state: &mut ReporterState, throttles: &Throttles) {
    s.elapsed_seconds = state.began.elapsed().as_secs_f64();
    let quiet = state.heard.elapsed();
    let waits = matches!(s.phase, Phase::Resolving | Phase::Fetching);
    s.quiet_seconds = (waits && quiet >= QUIET).then_some(quiet.as_secs_f64());
    s.throttle = (waits && quiet >= THROTTLED).then(throttles).flatten();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn reporter() -> (Reporter, watch::Receiver<PullStatus>, Arc<Mutex<Totals>>) {
        let totals: Arc<Mutex<Totals>> = Arc::default();
        let (status, follow) = watch::channel(PullStatus::new("p1", "s3://b/p"));
        (Reporter::new(totals.clone(), status, Box::new(|| None)), follow, totals)
    }

    fn published() -> Result<Published> {
        Ok(Published { path: "/models/p".into(), manifest: None })
    }

    #[test]
    fn the_totals_count_what_was_taken_from_elsewhere_and_not_what_was_here() {
        let (reporter, follow, totals) = reporter();
        reporter.phase(Phase::Resolving);
        reporter.held(100);
        reporter.end(published());
        assert_eq!(follow.borrow().sources.reused, 100, "its own status says what it found");
        assert_eq!(lock(&totals).sources.reused, 0, "it had nothing to do");

        let (reporter, follow, totals) = self::reporter();
        reporter.phase(Phase::Resolving);
        reporter.held(100);
        reporter.reused(130);
        reporter.end(published());
        assert_eq!((follow.borrow().sources.reused, lock(&totals).sources.reused), (130, 30));
    }

    #[test]
    fn a_pull_that_the_origin_throttles_says_so_while_nothing_comes_and_at_its_end() {
        let (status, follow) = watch::channel(PullStatus::new("p1", "s3://b/p"));
        let throttles = || Some("the origin throttles (429)".to_owned());
        let reporter = Reporter::new(Arc::default(), status, Box::new(throttles));
        reporter.phase(Phase::Resolving);
        reporter.beat();
        assert_eq!(follow.borrow().throttle, None, "nobody waits yet");
        lock(&reporter.state).heard -= THROTTLED;
        reporter.beat();
        assert_eq!(follow.borrow().throttle, throttles());
        assert_eq!(Some(reporter.missing()), throttles());
        reporter.phase(Phase::Fetching);
        reporter.beat();
        assert_eq!(follow.borrow().throttle, None, "it has answered since");
    }

    #[test]
    fn who_gives_up_hears_what_is_missing_or_that_nothing_is_known_yet() {
        let (reporter, _follow, _totals) = reporter();
        reporter.phase(Phase::Resolving);
        assert_eq!(reporter.missing(), "the origin had not answered yet");
        reporter.phase(Phase::Fetching);
        assert_eq!(reporter.missing(), "0 bytes to go");
    }
}
