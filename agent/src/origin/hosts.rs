//! What this node knows of each host that it reads from: how much is under way, and until when the host
//! asked to be left alone.
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
    /// When it answered last, whatever it said.
    heard: Mutex<Option<Instant>>,
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
    /// Leaves the host alone for `duration` from now on; never shortens a hold.
    pub(crate) fn hold(&self, duration: Duration) {
        let Some(until) = Instant::now().checked_add(duration) else { return };
        let mut held = unpoisoned(&self.hold_until);
        *held = (*held).max(Some(until));
    }

    /// How long the host is still to be left alone.
    pub(crate) fn held_for(&self) -> Option<Duration> {
        let left = unpoisoned(&self.hold_until).as_ref()?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Notes that it answered.
    pub(crate) fn hear(&self) {
        *unpoisoned(&self.heard) = Some(Instant::now());
    }

    /// When it answered last.
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
        hosts.host("a").hold(Duration::from_secs(3600));
        let error = hosts.host("a").pass(Duration::from_secs(60)).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Unavailable { retry_after: Some(d) } if d.as_secs() > 3500)
        );
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
