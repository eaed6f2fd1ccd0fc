//! What this node knows of each host that it reads from: how much is under way, until when the host
//! asked to be left alone, and whether it throttles.
//!
//! One entry a host, shared by every origin on it. Knows nothing of requests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use crate::error::{Error, ErrorKind, Result};

/// Entries kept; beyond it, those that nobody uses and that are not held are forgotten.
const MAX_HOSTS: usize = 1024;
/// A host that wants more quiet than this is asked again all the same: one wrong answer of one URL must not
/// close the whole host to a node for hours. The swarm holds spans of an origin no longer, either.
const HOLD_MAX: Duration = Duration::from_secs(300);
/// For how long a host that said nothing since counts as throttling: longer than any wait between attempts that
/// it did not ask for.
const THROTTLES_FOR: Duration = Duration::from_secs(30);

/// All hosts.
#[derive(Debug)]
pub(crate) struct Hosts {
    entries: Mutex<HashMap<String, Arc<HostState>>>,
    max_concurrent: usize,
}

/// One host.
#[derive(Debug)]
pub(crate) struct HostState {
    name: String,
    hold_until: Mutex<Option<Instant>>,
    /// When it answered last, and not that it is asked too much.
    heard: Mutex<Option<Instant>>,
    /// When it last said that it is asked too much, and with which status, if it has said nothing else since.
    refused: Mutex<Option<(Instant, u16)>>,
    permits: Arc<Semaphore>,
}

impl Hosts {
    pub(crate) fn new(max_concurrent: usize) -> Self {
        Self { entries: Mutex::default(), max_concurrent: max_concurrent.min(Semaphore::MAX_PERMITS) }
    }

    /// The entry of `host`, made if need be.
    pub(crate) fn host(&self, host: &str) -> Arc<HostState> {
        let mut entries = unpoisoned(&self.entries);
        if let Some(found) = entries.get(host) {
            return found.clone();
        }
        if entries.len() >= MAX_HOSTS {
            entries.retain(|_, state| Arc::strong_count(state) > 1 || state.held_for().is_some());
        }
        let state = Arc::new(HostState {
            name: host.to_owned(),
            hold_until: Mutex::default(),
            heard: Mutex::default(),
            refused: Mutex::default(),
            permits: Arc::new(Semaphore::new(self.max_concurrent)),
        });
        entries.insert(host.to_owned(), state.clone());
        state
    }

    /// The hosts that asked to be left alone, by name and for how long still.
    pub(crate) fn held(&self) -> Vec<(String, Duration)> {
        let entries = unpoisoned(&self.entries);
        let mut held: Vec<_> =
            entries.values().filter_map(|host| Some((host.name.clone(), host.held_for()?))).collect();
        held.sort();
        held
    }
}

impl HostState {
    /// Leaves the host alone for `duration` from now on, [`HOLD_MAX`] at most; never shortens a hold.
    pub(crate) fn hold(&self, duration: Duration) {
        let until = Instant::now() + duration.min(HOLD_MAX);
        let mut held = unpoisoned(&self.hold_until);
        *held = (*held).max(Some(until));
    }

    /// How long the host is still to be left alone.
    pub(crate) fn held_for(&self) -> Option<Duration> {
        let left = unpoisoned(&self.hold_until).as_ref()?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Notes that it answered what it was asked.
    pub(crate) fn hear(&self) {
        *unpoisoned(&self.heard) = Some(Instant::now());
        *unpoisoned(&self.refused) = None;
    }

    /// Notes that it answered by `status` that it is asked too much. That is no answer to what it was asked.
    pub(crate) fn refuse(&self, status: u16) {
        *unpoisoned(&self.refused) = Some((Instant::now(), status));
    }

    /// In words, that it throttles and when it is asked again; `None` where it does not.
    pub(crate) fn throttles(&self) -> Option<String> {
        let left = self.held_for();
        let refused = *unpoisoned(&self.refused);
        let does = match refused.filter(|(at, _)| left.is_some() || at.elapsed() < THROTTLES_FOR) {
            Some((_, 429)) => "throttles (429)".to_owned(),
            Some((_, status)) => format!("is busy ({status})"),
            // Another node was told.
            None => left.map(|_| "asked to be left alone".to_owned())?,
        };
        let again = left.map(|left| format!(", asked again in {} s", left.as_secs_f64().ceil()));
        Some(format!("the origin {does}{}", again.unwrap_or_default()))
    }

    /// When it answered last what it was asked.
    pub(crate) fn heard(&self) -> Option<Instant> {
        *unpoisoned(&self.heard)
    }

    /// Waits until the host may be asked again. Cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` at once when that is more than `patience` away.
    pub(crate) async fn pass(&self, patience: Duration) -> Result<()> {
        // A hold may be extended during the wait, so look again after it.
        while let Some(left) = self.held_for() {
            if left > patience {
                return Err(Error::new(
                    ErrorKind::Unavailable { retry_after: Some(left) },
                    format!("{} asked to be left alone for {} s more", self.name, left.as_secs_f64().ceil()),
                ));
            }
            tokio::time::sleep(left).await;
        }
        Ok(())
    }

    /// The right to one request; waits for its turn.
    pub(crate) fn permits(&self) -> Arc<Semaphore> {
        self.permits.clone()
    }
}

/// The guarded values are replaced whole, so a panic elsewhere cannot have left them half-written.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_passes_before_the_longest_hold_ends() {
        let hosts = Hosts::new(1);
        let start = Instant::now();
        hosts.host("a").hold(Duration::from_secs(10));
        hosts.host("a").hold(Duration::from_secs(3));
        hosts.host("b").pass(Duration::MAX).await.unwrap();
        assert_eq!(hosts.held(), [("a".to_owned(), Duration::from_secs(10))]);
        assert_eq!(start.elapsed(), Duration::ZERO);
        hosts.host("a").pass(Duration::from_secs(60)).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_beyond_patience_is_handed_to_the_caller() {
        let hosts = Hosts::new(1);
        hosts.host("a").hold(Duration::from_secs(200));
        let error = hosts.host("a").pass(Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable { retry_after: Some(d) } if d.as_secs() > 190));
    }

    #[tokio::test(start_paused = true)]
    async fn no_word_of_a_host_closes_it_for_longer_than_five_minutes() {
        let hosts = Hosts::new(1);
        // Ten minutes, a year, and what no clock can count.
        for seconds in [600, 31_536_000, u64::MAX] {
            let host = seconds.to_string();
            hosts.host(&host).hold(Duration::from_secs(seconds));
            assert_eq!(hosts.host(&host).held_for(), Some(HOLD_MAX), "asked for {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_throttles_until_it_answers_something_else_or_is_not_heard_of_for_long() {
        let hosts = Hosts::new(1);
        let host = hosts.host("a");
        assert_eq!(host.throttles(), None);
        host.refuse(429);
        assert_eq!(host.throttles().unwrap(), "the origin throttles (429)");
        assert_eq!(host.heard(), None, "that is no answer to what it was asked");
        host.hold(Duration::from_secs(3));
        assert_eq!(host.throttles().unwrap(), "the origin throttles (429), asked again in 3 s");
        tokio::time::sleep(THROTTLES_FOR).await;
        assert_eq!(host.throttles(), None);
        host.refuse(503);
        assert_eq!(host.throttles().unwrap(), "the origin is busy (503)");
        host.hear();
        assert_eq!(host.throttles(), None);
        host.hold(Duration::from_secs(2));
        assert_eq!(host.throttles().unwrap(), "the origin asked to be left alone, asked again in 2 s");
    }

    #[test]
    fn hosts_that_nobody_uses_are_forgotten() {
        let hosts = Hosts::new(1);
        let kept = hosts.host("kept");
        for n in 0..2 * MAX_HOSTS {
            hosts.host(&format!("h{n}"));
        }
        assert!(unpoisoned(&hosts.entries).len() <= MAX_HOSTS + 1);
        assert!(Arc::ptr_eq(&kept, &hosts.host("kept")));
    }
}
