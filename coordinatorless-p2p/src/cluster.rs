//! The shell: spawns, accepts, dispatches, and keeps the promises that need a clock.
//!
//! The one place that owns tasks and timers of the cluster. Everything it decides is decided by
//! pure parts: the ring, the meeting place, and one state machine a swarm.

mod leaving;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    chunk::{ChunkHash, ChunkSet, MAX_CHUNK_BYTES, SwarmId},
    embedding::Surroundings,
    error::{Error, ErrorKind, Result},
    exchange::{
        SwarmHandle, call,
        chunks::ChunkServer,
        driver::Driver,
        inbox::{Control, EVENTS_MAX, Event, Join, Talker},
        read_frame, talk,
    },
    meeting::{MEET_AGAIN, MEET_EVERY, MeetingPlace, RENEW_EVERY},
    membership::Membership,
    node::{Node, NodeId},
    precedence::Rank,
    ring::Ring,
    seam::SpanSource,
    swarm::{DIRECT, Member, SwarmSpec},
    throttle::Throttle,
    transport::Incoming,
    turns::Turns,
    wire::{self, FRAME_BYTES_MAX, HEAD_BYTES_MAX, MEET_SWARMS_MAX, Meet, Met, Opening},
};

pub use crate::embedding::{
    ClusterConfig, FIRST_HOST_SERVICE, Host, Limits, Observer, Parts, Unobserved, Work,
};
pub use leaving::HandOver;

const MEET_SERVICE: u16 = 1;
/// Homes of a key: successors on the ring.
pub const HOMES: usize = 3;

struct Running {
    control: mpsc::UnboundedSender<Control>,
    events: mpsc::Sender<Event>,
}

/// The node's part in the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Surroundings>,
    host: Arc<dyn Host>,
    began: Instant,
    ring: Mutex<Arc<Ring>>,
    server: ChunkServer,
    swarms: Mutex<HashMap<SwarmId, Running>>,
    meeting: Mutex<MeetingPlace>,
    tickets: AtomicU64,
    streams: Arc<tokio::sync::Semaphore>,
    /// Whether this node is about to leave, and takes part in nothing new.
    leaving: AtomicBool,
    /// What would go with it, swarm by swarm, once it leaves.
    parting: Mutex<Vec<watch::Receiver<u64>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// A wish to have a swarm's chunks here.
pub struct Wanted {
    /// How it is cut.
    pub spec: SwarmSpec,
    /// Which chunks.
    pub chunks: ChunkSet,
    /// Where they come from in the end; `None`: from peers only.
    pub source: Option<Arc<dyn SpanSource>>,
    /// Every hash, where a manifest tells.
    pub manifest: Option<Vec<ChunkHash>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded maps are consistent between statements; a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// Starts accepting, announcing and renewing on the current runtime.
    pub fn start(parts: Parts, config: ClusterConfig) -> Self {
        let ring = Ring::new(&parts.membership.watch().borrow());
        let shared = Arc::new(Surroundings {
            transport: parts.transport,
            membership: parts.membership,
            store: parts.store.clone(),
            observer: parts.observer,
            download: Throttle::new(config.limits.download),
            cross_zone: AtomicU64::new(0),
            turns: parking_lot::Mutex::new(Turns::new(config.swarm.inflight_bytes_max)),
            began: tokio::time::Instant::now(),
            config,
        });
        let inner = Arc::new(Inner {
            server: ChunkServer::new(
                parts.store,
                shared.config.uploads_max,
                shared.config.stall,
                Throttle::new(shared.config.limits.upload),
            ),
            swarms: Mutex::new(HashMap::new()),
            meeting: Mutex::new(MeetingPlace::default()),
            tickets: AtomicU64::new(1),
            streams: Arc::new(tokio::sync::Semaphore::new(shared.config.streams_max)),
            leaving: AtomicBool::new(false),
            parting: Mutex::default(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            host: parts.host,
            began: Instant::now(),
            ring: Mutex::new(Arc::new(ring)),
            shared,
        });
        let cluster = Self { inner };
        cluster.inner.tasks.spawn(cluster.clone().accept());
        cluster.inner.tasks.spawn(cluster.clone().watch_members());
        cluster.inner.tasks.spawn(cluster.clone().renew());
        cluster
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.inner.shared.transport.id()
    }

    /// Who is alive, and how to hear of changes.
    pub fn membership(&self) -> &Membership {
        &self.inner.shared.membership
    }

    /// The ring over live members, as of now.
    pub fn ring(&self) -> Arc<Ring> {
        lock(&self.inner.ring).clone()
    }

    /// The homes of a key, best first.
    pub fn homes(&self, key: &[u8; 32]) -> Vec<NodeId> {
        self.ring().owners(key, HOMES)
    }

    /// Payload bytes sent to other nodes since start.
    pub fn served_bytes(&self) -> u64 {
        self.inner.server.served_bytes()
    }

    /// Payload bytes received from nodes of other zones since start, whether they were of use or not.
    pub fn cross_zone_bytes(&self) -> u64 {
        self.inner.shared.cross_zone.load(Ordering::Relaxed)
    }

    /// Whether a live member is in this node's zone; false for others.
    pub fn is_near(&self, node: NodeId) -> bool {
        self.inner.shared.membership.lookup(node).is_some() && self.inner.shared.same_zone(node)
    }

    /// How much may come in at once from somewhere else than another node; `None`: anything.
    pub fn bite_bytes(&self) -> Option<u64> {
        self.inner.shared.download.bite_bytes()
    }

    /// Waits until so many bytes may come in from somewhere else than another node. Cancel-safe.
    pub async fn take_in(&self, bytes: usize) {
        self.inner.shared.download.pass(bytes, Rank::default()).await;
    }

    /// The limits as they are now.
    pub fn limits(&self) -> Limits {
        Limits { upload: self.inner.server.upload.rate(), download: self.inner.shared.download.rate() }
    }

    /// Changes the limits, for transfers under way as well.
    pub fn set_limits(&self, limits: Limits) {
        self.inner.server.upload.set(limits.upload);
        self.inner.shared.download.set(limits.download);
    }

    /// Wants chunks of a swarm here. The wish lasts as long as the handle.
    ///
    /// # Errors
    /// `Cancelled` while shutting down; `NotFound` when the store does not know the swarm.
    pub async fn want(&self, wanted: Wanted) -> Result<SwarmHandle> {
        let swarm = wanted.spec.id;
        let ticket = self.inner.tickets.fetch_add(1, Ordering::Relaxed);
        let (stored, stored_here) = mpsc::unbounded_channel();
        let mut join = Some((wanted.chunks, wanted.source, wanted.manifest, stored));
        // Twice: a swarm that ends just now does not hear; the next one does.
        for _ in 0..2 {
            let control = self.running(&wanted.spec)?.control;
            let Some((chunks, source, manifest, stored)) = join.take() else { break };
            let (handle_here, handle_there) = oneshot::channel();
            let order = Control::Join(Box::new(Join {
                ticket,
                wanted: chunks,
                source,
                manifest,
                stored,
                handle: handle_here,
            }));
            if let Err(mpsc::error::SendError(Control::Join(order))) = control.send(order) {
                lock(&self.inner.swarms).remove(&swarm);
                join = Some((order.wanted, order.source, order.manifest, order.stored));
                continue;
            }
            if let Ok(progress) = handle_there.await {
                let cluster = self.clone();
                self.inner.tasks.spawn(async move { cluster.join(swarm).await });
                return Ok(SwarmHandle::new(swarm, ticket, control, progress, stored_here));
            }
        }
        Err(Error::new(ErrorKind::Cancelled, format!("swarm {} is ending", swarm.short())))
    }

    /// Ends what this node does in a swarm, because the artifact is leaving the store.
    pub fn forget(&self, swarm: SwarmId) {
        if let Some(running) = lock(&self.inner.swarms).remove(&swarm) {
            let _ = running.control.send(Control::End);
        }
        let cluster = self.clone();
        self.inner.tasks.spawn(async move { cluster.meet(&[swarm], false).await });
    }

    /// Participants of a swarm as its homes know them, without this node.
    pub async fn participants(&self, swarm: SwarmId) -> Vec<NodeId> {
        // Only asking must not end a participation: it goes out as a renewal if there is one.
        let joins = lock(&self.inner.swarms).contains_key(&swarm);
        let mut all = Vec::new();
        self.ask_homes(&[swarm], joins, |_, participants| all.extend(participants)).await;
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Calls a service of another node. Cancel-safe.
    ///
    /// # Errors
    /// What the other said; `Timeout`; `NotFound` when it is not a member.
    pub async fn call(&self, node: NodeId, service: u16, body: &[u8], deadline: Duration) -> Result<Bytes> {
        let shared = &self.inner.shared;
        let peer = shared.peer(node).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("node {} is not a live member", node.short()))
        })?;
        call::call(&*shared.transport, peer, service, body, deadline).await
    }

    /// Ends every swarm and joins every task, within `deadline`; after [`leave`](Self::leave), or others
    /// notice only after a while.
    pub async fn shutdown(&self, deadline: Duration) {
        let end = tokio::time::Instant::now() + deadline;
        self.inner.shared.membership.leave(deadline / 2).await;
        for running in lock(&self.inner.swarms).values() {
            let _ = running.control.send(Control::End);
        }
        self.inner.tasks.close();
        self.inner.cancel.cancel();
        let _ = tokio::time::timeout_at(end, self.inner.tasks.wait()).await;
        let rest = end.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_millis(50));
        self.inner.shared.transport.close(rest).await;
    }

    /// The running swarm, started if need be.
    fn running(&self, spec: &SwarmSpec) -> Result<Running> {
        let mut swarms = lock(&self.inner.swarms);
        if let Some(running) = swarms.get(&spec.id)
            && !running.control.is_closed()
        {
            return Ok(Running { control: running.control.clone(), events: running.events.clone() });
        }
        if self.inner.cancel.is_cancelled() || self.inner.leaving.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "this node is shutting down"));
        }
        if spec.chunk_bytes.iter().any(|b| *b == 0 || *b > MAX_CHUNK_BYTES) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("swarm {} has chunks of a wrong size", spec.id.short()),
            ));
        }
        let inventory = self.inner.shared.store.inventory(spec.id)?;
        let (control, orders) = mpsc::unbounded_channel();
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let driver = Driver::new(self.inner.shared.clone(), spec.clone(), inventory, events.clone());
        self.inner.tasks.spawn(driver.run(orders, inbox, self.inner.cancel.clone()));
        let _ = control.send(Control::Members(members_of(&self.membership().watch().borrow())));
        swarms.insert(spec.id, Running { control: control.clone(), events: events.clone() });
        Ok(Running { control, events })
    }

    async fn accept(self) {
        loop {
            let incoming = tokio::select! {
                () = self.inner.cancel.cancelled() => return,
                incoming = self.inner.shared.transport.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            // Past the limit the stream is dropped, which the peer hears at once.
            let Ok(place) = self.inner.streams.clone().try_acquire_owned() else { continue };
            let cluster = self.clone();
            self.inner.tasks.spawn(async move {
                let from = incoming.from;
                let serve = cluster.serve(incoming);
                tokio::select! {
                    () = cluster.inner.cancel.cancelled() => {}
                    served = serve => if let Err(e) = served {
                        tracing::debug!(peer = %from.short(), error = %e, "a stream ended early");
                    }
                }
                drop(place);
            });
        }
    }

    async fn serve(&self, mut incoming: Incoming) -> Result<()> {
        let stall = self.inner.shared.config.stall;
        let head = read_frame(&mut *incoming.recv, HEAD_BYTES_MAX, stall).await?;
        match wire::parse::<Opening>(&head)? {
            Opening::Chunk { swarm, index } => {
                self.inner.server.answer(swarm, index, false, incoming.send).await
            }
            Opening::UrgentChunk { swarm, index } => {
                self.inner.server.answer(swarm, index, true, incoming.send).await
            }
            Opening::Talk { swarm, version } => {
                let spec = self.inner.host.spec(swarm)?;
                let events = self.running(&spec)?.events;
                let talk = self.inner.tickets.fetch_add(1, Ordering::Relaxed);
                let speaker = Talker { id: incoming.from, talk, version };
                talk::listen(speaker, incoming.recv, events).await;
                Ok(())
            }
            Opening::Call { service } => {
                let body = read_frame(&mut *incoming.recv, FRAME_BYTES_MAX, stall).await?;
                let result = match service {
                    MEET_SERVICE => self.meet_here(incoming.from, &body),
                    s if s >= FIRST_HOST_SERVICE => self.inner.host.call(incoming.from, s, body).await,
                    s => Err(Error::new(ErrorKind::NotFound, format!("service {s} is not known here"))),
                };
                call::answer(incoming.send, result, stall).await
            }
        }
    }

    fn meet_here(&self, from: NodeId, body: &[u8]) -> Result<Bytes> {
        let meet: Meet = wire::parse(body)?;
        if meet.swarms.len() > MEET_SWARMS_MAX {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{} swarms in one question", meet.swarms.len()),
            ));
        }
        let now = self.inner.began.elapsed();
        let zone = self.inner.shared.membership.lookup(from).map_or(0, |node| node.zone_key());
        let who = Member { id: from, zone };
        let mut place = lock(&self.inner.meeting);
        let participants = meet.swarms.iter().map(|s| place.meet(now, who, *s, meet.joins)).collect();
        encode(&Met { participants })
    }

    /// Announces a swarm that just began here. Where there may be a crowd that starts at once, those who
    /// were first learn of the rest soon.
    async fn join(&self, swarm: SwarmId) {
        self.meet(&[swarm], true).await;
        for wait in MEET_AGAIN {
            if self.membership().watch().borrow().len() <= DIRECT {
                return;
            }
            tokio::select! {
                () = self.inner.cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if lock(&self.inner.swarms).get(&swarm).is_none_or(|running| running.control.is_closed()) {
                return;
            }
            self.meet(&[swarm], true).await;
        }
    }

    /// Tells the homes of `swarms` that this node takes part (or left) and passes on who else does,
    /// each answer as it comes: a home that just died holds nobody up.
    async fn meet(&self, swarms: &[SwarmId], joins: bool) {
        self.ask_homes(swarms, joins, |swarm, participants| {
            if joins && let Some(running) = lock(&self.inner.swarms).get(&swarm) {
                let _ = running.control.send(Control::Participants(participants));
            }
        })
        .await;
    }

    /// Asks the homes of each swarm who takes part; `heard` is called for every answer.
    async fn ask_homes(
        &self,
        swarms: &[SwarmId],
        joins: bool,
        mut heard: impl FnMut(SwarmId, Vec<NodeId>) + Send,
    ) {
        let me = self.id();
        let mut by_home: HashMap<NodeId, Vec<SwarmId>> = HashMap::new();
        for swarm in swarms {
            for home in self.homes(&swarm.0) {
                by_home.entry(home).or_default().push(*swarm);
            }
        }
        let deadline = self.inner.shared.config.meet_deadline;
        let mut asked: futures::stream::FuturesUnordered<_> = by_home
            .into_iter()
            .flat_map(|(home, swarms)| {
                swarms.chunks(MEET_SWARMS_MAX).map(|part| (home, part.to_vec())).collect::<Vec<_>>()
            })
            .map(|(home, swarms)| async move {
                let body = encode(&Meet { swarms: swarms.clone(), joins })?;
                let answer = if home == me {
                    self.meet_here(me, &body)?
                } else {
                    self.call(home, MEET_SERVICE, &body, deadline).await?
                };
                let met: Met = wire::parse(&answer)?;
                Ok::<_, Error>((home, swarms.into_iter().zip(met.participants).collect::<Vec<_>>()))
            })
            .collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok((_, pairs)) => {
                    for (swarm, participants) in pairs {
                        heard(swarm, participants.into_iter().filter(|id| *id != me).collect());
                    }
                }
                Err(e) => tracing::debug!(error = %e, "a home did not answer"),
            }
        }
    }

    async fn watch_members(self) {
        let mut members = self.inner.shared.membership.watch();
        let mut last: Vec<NodeId> = Vec::new();
        loop {
            let nodes = members.borrow_and_update().clone();
            *lock(&self.inner.ring) = Arc::new(Ring::new(&nodes));
            let ids: Vec<NodeId> = nodes.iter().map(|n| n.id).collect();
            for gone in last.iter().filter(|id| !ids.contains(id)) {
                lock(&self.inner.meeting).forget(*gone);
            }
            last.clone_from(&ids);
            let alive = members_of(&nodes);
            for running in lock(&self.inner.swarms).values() {
                let _ = running.control.send(Control::Members(alive.clone()));
            }
            // The homes may have changed with the members: tell the new ones what is here.
            let swarms = self.all_swarms();
            if !swarms.is_empty() && nodes.len() > 1 {
                self.meet(&swarms, !self.inner.leaving.load(Ordering::Relaxed)).await;
            }
            tokio::select! {
                () = self.inner.cancel.cancelled() => return,
                changed = members.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn renew(self) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = self.inner.cancel.cancelled() => return,
                () = tokio::time::sleep(MEET_EVERY) => {}
            }
            self.end_evicted();
            let swarms = if renewed.elapsed() >= RENEW_EVERY {
                renewed = Instant::now();
                self.all_swarms()
            } else {
                self.running_swarms()
            };
            if !swarms.is_empty() {
                self.meet(&swarms, !self.inner.leaving.load(Ordering::Relaxed)).await;
            }
        }
    }

    /// Ends swarms whose artifact the store has given up: they would announce what is gone.
    fn end_evicted(&self) {
        let here = self.inner.host.holdings();
        lock(&self.inner.swarms).retain(|swarm, running| {
            let stays = here.contains(swarm);
            if !stays {
                let _ = running.control.send(Control::End);
            }
            stays
        });
    }

    fn running_swarms(&self) -> Vec<SwarmId> {
        let mut running = lock(&self.inner.swarms);
        running.retain(|_, r| !r.control.is_closed());
        running.keys().copied().collect()
    }

    /// Swarms that run or of which something is here.
    fn all_swarms(&self) -> Vec<SwarmId> {
        let mut swarms = self.running_swarms();
        swarms.extend(self.inner.host.holdings());
        swarms.sort_unstable();
        swarms.dedup();
        swarms
    }
}

/// The live nodes, sorted by id, as swarms see them.
fn members_of(nodes: &[Node]) -> Arc<[Member]> {
    nodes.iter().map(|node| Member { id: node.id, zone: node.zone_key() }).collect()
}

fn encode<T>(value: &T) -> Result<Bytes>
where
    T: for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<
                rkyv::util::AlignedVec,
                rkyv::ser::allocator::ArenaHandle<'a>,
                rkyv::rancor::Error,
            >,
        >,
{
    Ok(wire::frame(value)?.slice(4..))
}
