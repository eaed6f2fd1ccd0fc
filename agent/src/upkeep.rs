//! What an agent does when nobody asks: look for rot, and read renewed certificates.
//!
//! Slow on purpose, and beside the data path: a pass reads at a rate that leaves the disk to others.
//! Ends with the engine's token.

use std::{sync::Arc, time::Duration};

use coordinatorless_p2p::Identity;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::TaskTracker;

use crate::{engine::Engine, error::ErrorKind, store::StoreConfig, verify};

/// How often certificates are read again. Those who renew them do it days before the end.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(10);
/// The first pass over the disk waits so long at most: a start has more urgent reads.
const FIRST_PASS_MAX: Duration = Duration::from_secs(600);

/// The tasks.
pub(crate) struct Upkeep {
    tasks: TaskTracker,
}

impl Upkeep {
    pub(crate) fn start(engine: Arc<Engine>, identity: Arc<Identity>, config: &StoreConfig) -> Self {
        let tasks = TaskTracker::new();
        let stop = engine.cancel.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(renew_certificates(identity)));
        if config.scrub_bytes_per_second > 0 {
            let (rate, every) = (config.scrub_bytes_per_second, config.scrub_every);
            tasks.spawn(stop.run_until_cancelled_owned(scrub(engine, rate, every)));
        }
        tasks.close();
        Self { tasks }
    }

    /// Waits until every task has ended; they end when the engine's token is cancelled.
    pub(crate) async fn drain(&self) {
        self.tasks.wait().await;
    }
}

async fn renew_certificates(identity: Arc<Identity>) {
    let mut told = String::new();
    loop {
        sleep(CERTIFICATES_EVERY).await;
        let identity = identity.clone();
        match tokio::task::spawn_blocking(move || identity.reload()).await {
            Ok(Ok(changed)) => {
                told.clear();
                if changed {
                    tracing::info!(
                        "the certificates have changed: new connections use those that are there now"
                    );
                }
            }
            // Once, not every few seconds; half a rotation may be on the disk.
            Ok(Err(e)) if e.to_string() != told => {
                told = e.to_string();
                tracing::warn!(error = %e, "the certificates cannot be read again; those from before stay in use");
            }
            Ok(Err(_)) => {}
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

async fn scrub(engine: Arc<Engine>, bytes_per_second: u64, every: Duration) {
    let mut next = Instant::now() + every.min(FIRST_PASS_MAX);
    loop {
        sleep_until(next).await;
        next = Instant::now() + every;
        for swarm in engine.store.swarms() {
            match verify::scrub(&engine, swarm, bytes_per_second).await {
                Ok(0) => {}
                Ok(chunks) => tracing::warn!(swarm = %swarm.short(), chunks, "rot was found and mended"),
                // Evicted meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => {
                    tracing::warn!(swarm = %swarm.short(), error = %e, "rot could not be looked for, or not mended")
                }
            }
        }
    }
}
