//! One artifact that somebody reads: its lease, its wish in the swarm, and who waits for which chunk.
//!
//! Joins the swarm at the first chunk that is missing; a swarm that fails is joined anew by the next read.
//! Lives as long as a file of it is open. Everybody who waits for a chunk waits for the same fetch.

use std::{
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coordinatorless_p2p::{
    ChunkSet,
    cluster::Wanted,
    exchange::{SwarmHandle, SwarmState, Urging},
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::touches::Touched;
use crate::{
    engine::Engine,
    error::{Error, ErrorKind, Result},
    fetch::{OriginSpans, spec_of},
    manifest::Blueprint,
    reference::Reference,
    store::Lease,
};

/// A chunk may come without a word: taken from another artifact by a pull. So often it is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Versions remembered as gone.
const LEFT_BEHIND_MAX: usize = 1024;

/// What a session is of.
pub(super) struct Of {
    /// What a pull of it names.
    pub(super) reference: Reference,
    /// Whether nobody else gives its files their paths.
    pub(super) publishes: bool,
    pub(super) blueprint: Arc<Blueprint>,
    pub(super) lease: Lease,
}

/// What every reader of one artifact shares.
pub(super) struct Session {
    pub(super) engine: Arc<Engine>,
    pub(super) blueprint: Arc<Blueprint>,
    pub(super) lease: Lease,
    reference: Reference,
    /// Nobody else gives its files their paths: there may be no pull.
    publishes: bool,
    left_behind: super::LeftBehind,
    touched: Arc<Touched>,
    /// The wish under way.
    joined: tokio::sync::Mutex<Option<Joined>>,
    /// Changes when a chunk comes, or the wish ends.
    arrivals: watch::Sender<u64>,
    end: Arc<End>,
    cancel: CancellationToken,
    _ends: DropGuard,
    tasks: TaskTracker,
}

/// How the last wish ended, where it failed.
#[derive(Default)]
struct End {
    failed: Mutex<Option<Arc<Error>>>,
    /// The origin left this version behind: no wish brings any more of it.
    over: AtomicBool,
}

#[derive(Clone)]
struct Joined {
    urging: Urging,
    ended: Arc<AtomicBool>,
}

impl Session {
    pub(super) fn new(
        engine: Arc<Engine>,
        of: Of,
        left_behind: super::LeftBehind,
        touched: Arc<Touched>,
        tasks: &TaskTracker,
    ) -> Arc<Self> {
        let Of { reference, publishes, blueprint, lease } = of;
        let cancel = engine.cancel.child_token();
        Arc::new(Self {
            touched,
            engine,
            reference,
            publishes,
            left_behind,
            blueprint,
            lease,
            joined: tokio::sync::Mutex::default(),
            arrivals: watch::Sender::default(),
            end: Arc::default(),
            _ends: cancel.clone().drop_guard(),
            cancel,
            tasks: tasks.clone(),
        })
    }

    /// Whether what this artifact was read from is not there any more: nothing is opened in it again.
    pub(super) fn is_over(&self) -> bool {
        self.end.over.load(Ordering::Acquire)
    }

    /// Ends the wish; reads that wait end as cancelled.
    pub(super) fn end(&self) {
        self.cancel.cancel();
    }

    /// Whether every file has its path.
    pub(super) fn is_complete(&self) -> bool {
        (0..self.blueprint.files.len()).all(|file| self.engine.store.is_published(&self.lease, file))
    }

    /// Waits until every chunk that `range` of `file` needs is here, having these fetched first, and what lies
    /// `ahead` next. How many were waited for. Cancel-safe.
    ///
    /// # Errors
    /// `Timeout` past `deadline`; as fetching.
    pub(super) async fn bring(
        self: &Arc<Self>,
        file: usize,
        range: Range<u64>,
        ahead: Option<Range<u64>>,
        deadline: Instant,
    ) -> Result<usize> {
        let missing = self.missing(file, range.clone());
        let next = ahead.map(|ahead| self.missing(file, ahead)).unwrap_or_default();
        if missing.is_empty() {
            if !next.is_empty() {
                // Nobody waits for these: what is wrong with them is told to who comes to them.
                if let Ok(Ok(joined)) = tokio::time::timeout_at(deadline, self.join()).await {
                    joined.urging.ahead(next);
                }
            }
            return Ok(0);
        }
        let waited = missing.len();
        self.wait_for(file, range, next, deadline).await?;
        Ok(waited)
    }

    fn missing(&self, file: usize, range: Range<u64>) -> Vec<u32> {
        let chunks = self.blueprint.chunks_overlapping(file, range);
        chunks.filter(|&index| !self.engine.store.holds(&self.lease, index)).collect()
    }

    async fn wait_for(
        self: &Arc<Self>,
        file: usize,
        range: Range<u64>,
        next: Vec<u32>,
        deadline: Instant,
    ) -> Result<()> {
        let mut arrivals = self.arrivals.subscribe();
        let mut urged: Option<Joined> = None;
        loop {
            let store = &self.engine.store;
            let Some(first) = store.first_missing(&self.lease, file, range.clone()) else { return Ok(()) };
            if self.cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "this agent is shutting down"));
            }
            let joined = match urged.take().filter(|joined| !joined.ended.load(Ordering::Acquire)) {
                Some(joined) => joined,
                None => {
                    self.failure()?;
                    let joined = tokio::time::timeout_at(deadline, self.join())
                        .await
                        .unwrap_or_else(|_| Err(self.late(file, first)))?;
                    joined.urging.urge(self.missing(file, range.clone()));
                    if !next.is_empty() {
                        joined.urging.ahead(next.clone());
                    }
                    joined
                }
            };
            urged = Some(joined);
            tokio::select! {
                _ = arrivals.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = tokio::time::sleep_until(deadline) => return Err(self.late(file, first)),
                () = self.cancel.cancelled() => {}
            }
            // One that failed since then tells why; a passing failure is tried once more by the next read.
            if urged.as_ref().is_some_and(|joined| joined.ended.load(Ordering::Acquire)) {
                self.take_failure()?;
            }
        }
    }

    /// Notes that a reader came to these bytes: what is read first is to be fetched first next time.
    pub(super) fn touch(&self, file: usize, range: Range<u64>) {
        self.touched.touch(file, range);
    }

    /// A chunk came. Where no pull does, what is whole is given its path.
    fn stored(self: &Arc<Self>, index: u32) {
        let Some(place) = self.blueprint.place(index).filter(|_| self.publishes) else { return };
        if !self.engine.store.is_whole(&self.lease, place.file) {
            return;
        }
        let session = self.clone();
        self.tasks.spawn(async move {
            let published = session.publish_all(place.file).await;
            if let Err(e) = published {
                tracing::warn!(reference = %session.reference, error = %e, "what was read is whole and cannot be published");
            }
        });
    }

    async fn publish_all(&self, file: usize) -> Result<()> {
        self.publish(file).await?;
        let swarm = self.lease.swarm;
        self.engine.store.publish(swarm, &self.engine.store.wanted(swarm)).await.map(drop)
    }

    /// Checks a whole file and gives it its path, whoever else is about to.
    ///
    /// # Errors
    /// As [`Store::publish_file`](crate::store::Store::publish_file).
    pub(super) async fn publish(&self, file: usize) -> Result<()> {
        self.engine.store.publish_file(self.lease.swarm, file).await.map(drop)
    }

    fn late(&self, file: usize, chunk: u32) -> Error {
        let path = &self.blueprint.files[file].path;
        let text = format!("chunk {chunk} of {path} of {} did not come in time", self.reference);
        Error::new(ErrorKind::Timeout, text)
    }

    /// Why nothing can come any more.
    fn failure(&self) -> Result<()> {
        if !self.is_over() {
            return Ok(());
        }
        self.take_failure()
    }

    fn take_failure(&self) -> Result<()> {
        let failed = self.end.failed.lock().clone();
        match failed {
            Some(e) => Err(Error::with_source(e.kind(), format!("{} cannot be read on", self.reference), e)),
            None => Ok(()),
        }
    }

    /// The wish under way, else a new one that wants nothing yet.
    async fn join(self: &Arc<Self>) -> Result<Joined> {
        let mut slot = self.joined.lock().await;
        if let Some(joined) = slot.as_ref().filter(|joined| !joined.ended.load(Ordering::Acquire)) {
            return Ok(joined.clone());
        }
        let engine = &self.engine;
        let source = match &self.reference {
            Reference::Ember(_) => None,
            reference => Some(OriginSpans::of(engine, engine.origins.open(reference)?, &self.blueprint)),
        };
        let manifest = engine.store.manifest(self.lease.swarm).map(|manifest| manifest.hashes.clone());
        let spec = spec_of(self.lease.swarm, &self.blueprint);
        let chunks = ChunkSet::new(self.blueprint.chunk_count());
        let handle = engine.cluster.want(Wanted { spec, chunks, source, manifest }).await?;
        if let Some(order) = engine.store.reading_order(self.lease.swarm).await {
            handle.order(order.chunks(self.blueprint.chunk_count()));
        }
        let joined = Joined { urging: handle.urging(), ended: Arc::default() };
        *self.end.failed.lock() = None;
        *slot = Some(joined.clone());
        let follow = follow(handle, Arc::downgrade(self), self.arrivals.clone(), self.cancel.clone());
        let (ended, arrivals) = (joined.ended.clone(), self.arrivals.clone());
        let (end, swarm, left_behind) = (self.end.clone(), self.lease.swarm, self.left_behind.clone());
        self.tasks.spawn(async move {
            if let Some(why) = follow.await {
                if why.kind() == ErrorKind::Corrupt {
                    end.over.store(true, Ordering::Release);
                    let mut left_behind = left_behind.lock();
                    if left_behind.len() >= LEFT_BEHIND_MAX {
                        left_behind.clear();
                    }
                    left_behind.insert(swarm);
                }
                *end.failed.lock() = Some(why);
            }
            ended.store(true, Ordering::Release);
            arrivals.send_modify(|n| *n += 1);
        });
        Ok(joined)
    }
}

/// Passes on every chunk that comes until the wish ends; says why it did, if it failed.
async fn follow(
    mut handle: SwarmHandle,
    session: Weak<Session>,
    arrivals: watch::Sender<u64>,
    cancel: CancellationToken,
) -> Option<Arc<Error>> {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return None,
            stored = handle.next_stored() => match stored {
                Some(index) => {
                    arrivals.send_modify(|n| *n += 1);
                    if let Some(session) = session.upgrade() {
                        session.stored(index);
                    }
                }
                None => break,
            },
        }
    }
    match &handle.progress().borrow().state {
        SwarmState::Failed(e) => Some(e.clone()),
        SwarmState::Running | SwarmState::Complete => None,
    }
}
