//! Leaving the cluster: told once, whoever tells, with time for others to take what only this node has.
//!
//! Owns the rule that leaving happens once. What is handed over, and how, is the cluster's.

use std::time::{Duration, Instant};

use coordinatorless_p2p::cluster::Cluster;
use tokio::sync::OnceCell;

use crate::api::DrainReport;

/// This node's departure.
#[derive(Default)]
pub(crate) struct Departure(OnceCell<DrainReport>);

impl Departure {
    /// Leaves within `deadline`, or waits until an earlier call has. Cancel-safe in that the next call
    /// begins again.
    pub(crate) async fn leave(&self, cluster: &Cluster, deadline: Duration) -> DrainReport {
        let leave = || async {
            let began = Instant::now();
            let outcome = cluster.leave(deadline).await;
            let report = DrainReport {
                alone_bytes: outcome.alone_bytes,
                left_bytes: outcome.left_bytes,
                seconds: began.elapsed().as_secs_f64(),
            };
            if report.left_bytes > 0 {
                tracing::warn!(?report, "left the cluster with what nobody else has");
            } else {
                tracing::info!(?report, "left the cluster");
            }
            report
        };
        *self.0.get_or_init(leave).await
    }
}
