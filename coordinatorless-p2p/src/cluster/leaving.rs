//! Leaving a cluster: nothing new is begun, what only this node holds is handed over, then it says goodbye.
//!
//! Owns the time that each part of it gets. What is handed over to whom is each swarm's business.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::sync::watch;

use super::{Cluster, lock};
use crate::exchange::inbox::Control;

/// What became of the chunks that a leaving node alone held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandOver {
    /// Bytes that nobody else held when it began, as far as this node knows, and others wanted.
    pub alone_bytes: u64,
    /// What of that went with the node.
    pub left_bytes: u64,
}

impl Cluster {
    /// From now on this node takes part in nothing new; [`leave`](Self::leave) does the rest. To be called
    /// before wishes are dropped, so that what is being read from the origin is read to its end.
    pub fn begin_leaving(&self) {
        if self.inner.leaving.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut parting = lock(&self.inner.parting);
        for running in lock(&self.inner.swarms).values() {
            let (tell, hear) = watch::channel(u64::MAX);
            if running.control.send(Control::Leave(tell)).is_ok() {
                parting.push(hear);
            }
        }
    }

    /// Takes part in nothing new, serves until the neighbours have what only this node holds, and leaves
    /// the cluster; all within `deadline`. Answers with what it alone held at first and in the end. Not
    /// cancel-safe: a cancelled one leaves the node between in and out.
    pub async fn leave(&self, deadline: Duration) -> HandOver {
        let end = tokio::time::Instant::now() + deadline;
        self.begin_leaving();
        let mut told = std::mem::take(&mut *lock(&self.inner.parting));
        // Homes shall not name this node any more; nobody waits for their answers.
        let (cluster, swarms) = (self.clone(), self.all_swarms());
        self.inner.tasks.spawn(async move { cluster.meet(&swarms, false).await });
        let mut outcome = HandOver::default();
        // A swarm that ends meanwhile has nothing to hand over.
        for hear in &mut told {
            let known = hear.wait_for(|bytes| *bytes < u64::MAX);
            if let Ok(Ok(bytes)) = tokio::time::timeout_at(end, known).await {
                outcome.alone_bytes += *bytes;
            }
        }
        let done = async |told: &mut Vec<watch::Receiver<u64>>| {
            for hear in told {
                // A swarm that has ended has nothing more.
                let _ = hear.wait_for(|bytes| *bytes == 0).await;
            }
        };
        if tokio::time::timeout_at(end - deadline / 2, done(&mut told)).await.is_err() {
            for running in lock(&self.inner.swarms).values() {
                let _ = running.control.send(Control::LeaveNow);
            }
            // The last tenth is for the farewell.
            let _ = tokio::time::timeout_at(end - deadline / 10, done(&mut told)).await;
        }
        outcome.left_bytes = told.iter().map(|hear| *hear.borrow()).filter(|bytes| *bytes < u64::MAX).sum();
        let rest = end.saturating_duration_since(tokio::time::Instant::now());
        self.inner.shared.membership.leave(rest).await;
        outcome
    }
}
