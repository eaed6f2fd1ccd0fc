//! How an agent ends: jobs first, then what only it has, then the cluster and the store; and how one that was
//! drained goes on without pulling.

use std::{sync::atomic::Ordering, time::Duration};

use super::Agent;
use crate::{
    api::{DrainHook, DrainReport},
    error::{Error, ErrorKind, Result},
};

/// The longest notice: a day.
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);

impl Agent {
    /// Whether pulls can be served now; the reason when not.
    ///
    /// # Errors
    /// `Unavailable` while stopping; `Full` when the disk cannot take a byte.
    pub fn ready(&self) -> Result<()> {
        if self.inner.engine.cancel.is_cancelled() {
            let text = match self.inner.engine.drained.load(Ordering::Acquire) {
                true => "this agent was drained: it pulls nothing until it is started again",
                false => "this agent is leaving the cluster",
            };
            return Err(Error::new(ErrorKind::UNAVAILABLE, text));
        }
        if self.inner.engine.store.space().free_bytes == 0 {
            let dir = self.inner.config.data_dir.display();
            return Err(Error::new(ErrorKind::Full, format!("no byte is free on the disk of {dir}")));
        }
        Ok(())
    }

    /// Ends the jobs under way: who follows them hears that this agent is going. To be called before the
    /// doors close.
    pub fn stop_jobs(&self) {
        self.inner.engine.cluster.begin_leaving();
        self.inner.engine.cancel.cancel();
    }

    /// Ends the jobs, hands over what only this node holds and leaves the cluster, within the deadline.
    /// The agent serves on what is here, to this machine. A second call waits for the first.
    ///
    /// # Errors
    /// `Invalid` for a deadline that is none.
    pub async fn drain(&self, hook: DrainHook) -> Result<DrainReport> {
        let deadline = match hook.deadline_seconds {
            None => self.inner.config.shutdown_deadline,
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|deadline| *deadline <= DRAIN_MAX)
                .ok_or_else(|| {
                    let text = format!("deadline_seconds is {seconds}, which is not between 0 and 86400");
                    Error::new(ErrorKind::Invalid, text)
                })?,
        };
        tracing::info!(seconds = deadline.as_secs_f64(), "told to leave the cluster");
        self.inner.engine.drained.store(true, Ordering::Release);
        self.stop_jobs();
        let agent = self.clone();
        // On a task of its own: whoever asked may hang up, and leaving goes on. A stop waits for it.
        let left =
            tokio::spawn(
                async move { agent.inner.departure.leave(&agent.inner.engine.cluster, deadline).await },
            );
        left.await.map_err(|e| Error::with_source(ErrorKind::Cancelled, "leaving was cut short", e))
    }

    /// Hands over what only this node holds and leaves the cluster, within `deadline`; or waits so long for
    /// an earlier call that does. To be called after [`stop_jobs`](Self::stop_jobs).
    pub async fn leave(&self, deadline: Duration) {
        let left = self.inner.departure.leave(&self.inner.engine.cluster, deadline);
        // A hook that was given more time goes on by itself; a farewell has a little more than the rest.
        let _ = tokio::time::timeout(deadline + deadline / 4, left).await;
    }

    /// Stops accepting, drains until `deadline`, says goodbye, syncs.
    pub async fn shutdown(&self, deadline: Duration) {
        let end = tokio::time::Instant::now() + deadline;
        self.stop_jobs();
        let jobs = async {
            tokio::join!(
                self.inner.pulls.drain(),
                self.inner.reader.drain(),
                self.inner.warms.drain(),
                self.inner.upkeep.drain()
            )
        };
        let jobs = tokio::time::timeout(deadline / 4, jobs);
        // Who leaves serves meanwhile; that jobs end takes none of the time for it.
        let _ = tokio::join!(jobs, self.leave(deadline / 2));
        self.inner.engine.cluster.shutdown(deadline / 4).await;
        let rest = end.saturating_duration_since(tokio::time::Instant::now());
        self.inner.engine.store.close(rest.max(Duration::from_secs(1))).await;
    }
}
