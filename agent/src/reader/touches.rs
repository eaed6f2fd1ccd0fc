//! In which order readers came to the chunks of an artifact, across all who open and close its files.
//!
//! Written down once readers have come to nothing new for a while, and when the agent stops; what was recorded
//! before an artifact was read here for the first time stays. So many artifacts at once, the one read longest ago
//! is forgotten first.

use std::{num::NonZeroUsize, ops::Range, sync::Arc, time::Duration};

use coordinatorless_p2p::{ChunkSet, SwarmId};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{engine::Engine, error::Result, manifest::Blueprint, order::ReadingOrder, records};

/// Readers that come to nothing new for so long have read what they came for.
const QUIET: Duration = Duration::from_secs(10);
/// Artifacts whose readers are followed.
const ARTIFACTS_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// What readers of one artifact came to.
pub(super) struct Touched {
    blueprint: Arc<Blueprint>,
    state: Mutex<State>,
}

struct State {
    seen: ChunkSet,
    order: Vec<u32>,
    /// How much of the order is written down.
    recorded: usize,
    last: Instant,
    /// Somebody recorded it before: that stays.
    is_settled: bool,
}

impl Touched {
    /// Notes that a reader came to these bytes.
    pub(super) fn touch(&self, file: usize, range: Range<u64>) {
        let mut state = self.state.lock();
        for index in self.blueprint.chunks_overlapping(file, range) {
            if state.seen.insert(index) {
                state.order.push(index);
                state.last = Instant::now();
            }
        }
    }

    fn order(&self) -> ReadingOrder {
        let order = self.state.lock().order.clone();
        ReadingOrder::new(self.blueprint.swarm_id(), order, self.blueprint.chunk_count())
    }

    /// Takes the order if it is time to write it down.
    fn take_due(&self, quiet: Duration) -> Option<ReadingOrder> {
        {
            let mut state = self.state.lock();
            if state.is_settled || state.recorded == state.order.len() || state.last.elapsed() < quiet {
                return None;
            }
            state.recorded = state.order.len();
        }
        Some(self.order())
    }
}

/// What readers of all artifacts came to.
pub(super) struct Touches {
    engine: Arc<Engine>,
    all: Mutex<LruCache<SwarmId, Arc<Touched>>>,
}

impl Touches {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, all: Mutex::new(LruCache::new(ARTIFACTS_MAX)) }
    }

    /// The one of an artifact.
    pub(super) fn of(&self, blueprint: &Arc<Blueprint>) -> Arc<Touched> {
        let swarm = blueprint.swarm_id();
        let mut all = self.all.lock();
        let fresh = || {
            let state = State {
                seen: ChunkSet::new(blueprint.chunk_count()),
                order: Vec::new(),
                recorded: 0,
                last: Instant::now(),
                is_settled: self.engine.store.has_reading_order(swarm),
            };
            Arc::new(Touched { blueprint: blueprint.clone(), state: Mutex::new(state) })
        };
        all.get_or_insert(swarm, fresh).clone()
    }

    /// Writes down what there is of an artifact, whatever was recorded before. False where nothing was read.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) async fn record(&self, swarm: SwarmId) -> Result<bool> {
        let touched = self.all.lock().get(&swarm).cloned();
        let Some(touched) = touched else { return Ok(false) };
        let order = touched.order();
        if order.is_empty() {
            return Ok(false);
        }
        {
            let mut state = touched.state.lock();
            (state.recorded, state.is_settled) = (state.order.len(), false);
        }
        self.keep(order).await?;
        Ok(true)
    }

    /// Forgets what was read of an artifact: the next reading counts.
    pub(super) fn forget(&self, swarm: SwarmId) {
        if let Some(touched) = self.all.lock().get(&swarm) {
            let mut state = touched.state.lock();
            state.seen = ChunkSet::new(touched.blueprint.chunk_count());
            state.order.clear();
            (state.recorded, state.is_settled) = (0, false);
        }
    }

    /// Writes down what is due until the agent stops, and then the rest.
    pub(super) async fn run(&self) {
        loop {
            let stops = tokio::select! {
                () = self.engine.cancel.cancelled() => true,
                () = tokio::time::sleep(QUIET / 2) => false,
            };
            let all: Vec<_> = self.all.lock().iter().map(|(_, touched)| touched.clone()).collect();
            let quiet = if stops { Duration::ZERO } else { QUIET };
            for order in all.iter().filter_map(|touched| touched.take_due(quiet)) {
                let swarm = order.swarm();
                if let Err(e) = self.keep(order).await {
                    tracing::warn!(swarm = %swarm.short(), error = %e, "the order in which an artifact was read cannot be kept");
                }
            }
            if stops {
                return;
            }
        }
    }

    async fn keep(&self, order: ReadingOrder) -> Result<()> {
        tracing::debug!(swarm = %order.swarm().short(), chunks = order.len(), "recording in which order it was read");
        self.engine.store.keep_reading_order(order.clone()).await?;
        records::offer(&self.engine, &order).await;
        Ok(())
    }
}
