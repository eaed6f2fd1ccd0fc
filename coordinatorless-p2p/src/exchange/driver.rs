//! One swarm's task: feeds the state machine and carries out what it says.
//!
//! Owns every task that works for the swarm and joins them when it ends. Bytes are verified and
//! stored on the blocking pool; a bounded number of chunks is in memory at a time.

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    chunks,
    handle::{Progress, SwarmHandle, SwarmState},
    talk,
};
use crate::{
    chunk::{ChunkHash, ChunkSet, VerifiedChunk},
    cluster::Shared,
    error::{Error, ErrorKind, Result},
    node::NodeId,
    seam::{Inventory, SpanSource},
    swarm::{Input, Now, Output, Swarm, SwarmConfig, SwarmSpec},
    wire::{self, Word},
};

/// Events waiting for the task; whoever has more to say waits.
pub(crate) const EVENTS_MAX: usize = 1024;
/// Chunks of one swarm in memory at a time, received and not yet stored.
const STORING_MAX: usize = 24;
/// A swarm that nobody wants or talks about ends after this long; the next word revives it.
const IDLE_END: Duration = Duration::from_secs(60);
/// Participants known directly; above that, successors and random ones.
const NEIGHBOURS_DIRECT: usize = 32;
const NEIGHBOURS_SUCCESSORS: usize = 12;
const NEIGHBOURS_RANDOM: usize = 12;

/// Orders from the cluster and from handles. Few: one for each pull, meeting and end.
pub(crate) enum Control {
    Join(Box<Join>),
    Dropped(u64),
    Urgent(Vec<u32>),
    Participants(Vec<NodeId>),
    Members(Vec<NodeId>),
    End,
}

/// One embedder's wish.
pub(crate) struct Join {
    pub(crate) ticket: u64,
    pub(crate) wanted: ChunkSet,
    pub(crate) source: Option<Arc<dyn SpanSource>>,
    pub(crate) manifest: Option<Vec<ChunkHash>>,
    pub(crate) stored: mpsc::UnboundedSender<u32>,
    pub(crate) handle: tokio::sync::oneshot::Sender<watch::Receiver<Progress>>,
}

/// What tasks report.
pub(crate) enum Event {
    Heard { from: NodeId, talk: u64, word: Word },
    Silent { from: NodeId, talk: u64 },
    SpeakerEnded { to: NodeId, speaker: u64 },
    Received { peer: NodeId, index: u32, hash: ChunkHash, bytes: Bytes, place: OwnedSemaphorePermit },
    Refused { peer: NodeId, index: u32, error: Error },
    Origin { span: u32, index: u32, bytes: Bytes, place: OwnedSemaphorePermit },
    OriginDone { span: u32, reading: u64, error: Option<Error> },
    Stored { index: u32, hash: ChunkHash, source: Source },
    NotStored { index: u32, source: Source, error: Error },
    Settled { index: u32, result: Result<ChunkHash> },
}

/// Where a chunk came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Origin,
    Peer(NodeId),
    Disk,
}

struct Wish {
    wanted: ChunkSet,
    stored: mpsc::UnboundedSender<u32>,
}

struct Speaker {
    number: u64,
    queue: mpsc::Sender<Bytes>,
}

/// The task's state.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    spec: SwarmSpec,
    swarm: Swarm,
    began: Instant,
    events: mpsc::Sender<Event>,
    wishes: HashMap<u64, Wish>,
    source: Option<Arc<dyn SpanSource>>,
    speakers: HashMap<NodeId, Speaker>,
    listeners: HashMap<NodeId, u64>,
    requests: HashMap<(NodeId, u32), AbortHandle>,
    readings: HashMap<u32, (u64, AbortHandle)>,
    storing: Arc<Semaphore>,
    tasks: JoinSet<()>,
    progress: watch::Sender<Progress>,
    counter: u64,
    last_progress: Instant,
    last_company: Instant,
    origin_error: Option<Arc<Error>>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        spec: SwarmSpec,
        inventory: Inventory,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let count = spec.chunk_bytes.len() as u32;
        let began = Instant::now();
        let mut config: SwarmConfig = shared.config.swarm.clone();
        config.seed ^= rand::random::<u64>();
        let wanted = ChunkSet::new(count);
        let mut swarm =
            Swarm::new(spec.clone(), config, shared.transport.id(), inventory, wanted, false, Duration::ZERO);
        swarm.handle(Duration::ZERO, Input::ReadsOrigin(false));
        while swarm.poll().is_some() {}
        Self {
            shared,
            spec,
            swarm,
            began,
            events,
            wishes: HashMap::new(),
            source: None,
            speakers: HashMap::new(),
            listeners: HashMap::new(),
            requests: HashMap::new(),
            readings: HashMap::new(),
            storing: Arc::new(Semaphore::new(STORING_MAX)),
            tasks: JoinSet::new(),
            progress: watch::channel(Progress::default()).0,
            counter: 0,
            last_progress: began,
            last_company: began,
            origin_error: None,
        }
    }

    /// Runs until nobody needs the swarm, or it is told to end.
    pub(crate) async fn run(
        mut self,
        mut control: mpsc::UnboundedReceiver<Control>,
        mut events: mpsc::Receiver<Event>,
        cancel: CancellationToken,
    ) {
        let mut batch = Vec::with_capacity(64);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                order = control.recv() => match order {
                    None | Some(Control::End) => break,
                    Some(order) => self.obey(order),
                },
                n = events.recv_many(&mut batch, 64) => {
                    if n == 0 { break }
                    for event in batch.drain(..) {
                        self.take(event);
                    }
                }
                () = tokio::time::sleep(self.swarm.tick_interval()) => {
                    self.swarm.handle(self.now(), Input::Tick);
                    if self.is_idle() && control.is_empty() { break }
                    self.give_up_if_stuck();
                }
            }
            while self.tasks.try_join_next().is_some() {}
            self.act();
        }
        if let Ok(bye) = wire::frame(&Word::Bye) {
            self.broadcast(&bye);
        }
        self.speakers.clear();
        for abort in self.readings.values().map(|(_, abort)| abort).chain(self.requests.values()) {
            abort.abort();
        }
        events.close();
        let parting = async { while self.tasks.join_next().await.is_some() {} };
        // Stores under way run to the end; a neighbour that does not take our farewell is left.
        let _ = tokio::time::timeout(Duration::from_secs(2), parting).await;
    }

    fn now(&self) -> Now {
        self.began.elapsed()
    }

    fn is_idle(&mut self) -> bool {
        if !self.wishes.is_empty() || !self.listeners.is_empty() {
            self.last_company = Instant::now();
        }
        self.last_company.elapsed() > IDLE_END
    }

    fn obey(&mut self, order: Control) {
        match order {
            Control::Join(join) => self.join(*join),
            Control::Dropped(ticket) => {
                self.wishes.remove(&ticket);
                self.wants_changed();
            }
            Control::Urgent(chunks) => self.swarm.handle(self.now(), Input::Urgent(chunks)),
            Control::Participants(ids) => {
                self.meet(&ids);
                let expected = ids.into_iter().filter(|id| self.speakers.contains_key(id)).collect();
                self.swarm.handle(self.now(), Input::Met(expected));
            }
            Control::Members(ids) => {
                for id in self.listeners.keys().filter(|id| !ids.contains(id)).copied().collect::<Vec<_>>() {
                    self.forget(id);
                }
                self.swarm.handle(self.now(), Input::Members(ids));
            }
            Control::End => {}
        }
    }

    fn join(&mut self, join: Join) {
        if let Some(hashes) = join.manifest {
            self.swarm.handle(self.now(), Input::Manifest(hashes));
        }
        if join.source.is_some() {
            self.source = join.source;
        }
        self.last_progress = Instant::now();
        self.origin_error = None;
        // What the store got or gave up since it was last asked: adopted, evicted, found rotten.
        if let Ok(inventory) = self.shared.store.inventory(self.spec.id) {
            let gone: Vec<u32> = self.swarm.held().iter().filter(|&c| !inventory.held.contains(c)).collect();
            for index in gone {
                self.swarm.handle(self.now(), Input::Lost { index });
            }
            for index in inventory.held.iter() {
                if let Some(hash) = inventory.hashes.get(index as usize).copied().flatten() {
                    self.swarm.handle(self.now(), Input::Stored { index, hash });
                }
            }
        }
        self.wishes.insert(join.ticket, Wish { wanted: join.wanted, stored: join.stored });
        self.progress.send_modify(|p| p.state = SwarmState::Running);
        self.wants_changed();
        self.act();
        self.report();
        let _ = join.handle.send(self.progress.subscribe());
    }

    fn wants_changed(&mut self) {
        let mut wanted = ChunkSet::new(self.spec.chunk_bytes.len() as u32);
        for wish in self.wishes.values() {
            for index in wish.wanted.iter() {
                wanted.insert(index);
            }
        }
        let reads = self.source.is_some() && !self.wishes.is_empty();
        let now = self.now();
        self.swarm.handle(now, Input::Want(wanted));
        self.swarm.handle(now, Input::ReadsOrigin(reads));
        // Neighbours rank us by what we want and read: greet them anew.
        for id in self.speakers.keys().copied().collect::<Vec<_>>() {
            self.speak_to(id);
        }
    }

    /// Speaks to participants it does not speak to yet, within the limits of a neighbourhood.
    fn meet(&mut self, ids: &[NodeId]) {
        let me = self.shared.transport.id();
        let mut chosen: Vec<NodeId> = ids.iter().copied().filter(|id| *id != me).collect();
        if chosen.len() > NEIGHBOURS_DIRECT {
            chosen.sort_unstable();
            let at = chosen.partition_point(|id| *id < me);
            chosen.rotate_left(at);
            let mut rest = chosen.split_off(NEIGHBOURS_SUCCESSORS);
            let places = (NEIGHBOURS_SUCCESSORS + NEIGHBOURS_RANDOM)
                .saturating_sub(self.speakers.len().max(chosen.len()));
            use rand::seq::SliceRandom;
            rest.shuffle(&mut rand::rng());
            chosen.extend(rest.into_iter().take(places));
        }
        for id in chosen {
            if !self.speakers.contains_key(&id) {
                self.speak_to(id);
            }
        }
    }

    fn speak_to(&mut self, id: NodeId) {
        let Some(peer) = self.shared.peer(id) else { return };
        let Ok(first) = self.greeting() else { return };
        let (queue, frames) = mpsc::channel(talk::QUEUE_FRAMES_MAX);
        self.counter += 1;
        let number = self.counter;
        self.speakers.insert(id, Speaker { number, queue });
        let (shared, swarm, events) = (self.shared.clone(), self.spec.id, self.events.clone());
        self.tasks.spawn(async move {
            let stall = shared.config.stall;
            if let Err(e) = talk::speak(&*shared.transport, peer, swarm, first, frames, stall).await {
                tracing::debug!(peer = %id.short(), error = %e, "announcing to a neighbour ended");
            }
            let _ = events.send(Event::SpeakerEnded { to: id, speaker: number }).await;
        });
    }

    fn greeting(&self) -> Result<Vec<Bytes>> {
        let held = self.swarm.held().clone();
        let items: Vec<(u32, ChunkHash)> =
            held.iter().filter_map(|i| self.swarm.hash(i).map(|h| (i, h))).collect();
        let wanted = Some(self.swarm.wanted().clone()).filter(|w| !w.is_full());
        let reads_origin = self.source.is_some() && !self.wishes.is_empty();
        let mut frames = vec![wire::frame(&Word::Hello { held, wanted, reads_origin })?];
        for span in self.swarm.reading() {
            frames.push(wire::frame(&Word::Claim(span))?);
        }
        frames.extend(talk::have_frames(&items)?);
        Ok(frames)
    }

    fn take(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Heard { from, talk, word } => self.heard(from, talk, word),
            Event::Silent { from, talk } => {
                if self.listeners.get(&from) == Some(&talk) {
                    self.forget(from);
                }
            }
            Event::SpeakerEnded { to, speaker } => {
                if self.speakers.get(&to).is_some_and(|s| s.number == speaker) {
                    self.speakers.remove(&to);
                }
            }
            Event::Received { peer, index, hash, bytes, place } => {
                self.requests.remove(&(peer, index));
                self.received(peer, index, hash, bytes, place);
            }
            Event::Refused { peer, index, error } => {
                self.requests.remove(&(peer, index));
                tracing::debug!(peer = %peer.short(), index, error = %error, "a chunk request failed");
                if error.kind() == ErrorKind::Timeout {
                    self.shared.observer.stalled("peer");
                }
                self.swarm.handle(now, Input::RequestFailed { peer, index, why: error.kind() });
            }
            Event::Origin { span, index, bytes, place } => {
                self.swarm.handle(now, Input::OriginChunk { span, index });
                self.store(index, None, bytes, Source::Origin, place);
            }
            Event::OriginDone { span, reading, error } => self.origin_done(span, reading, error),
            Event::Stored { index, hash, source } => self.stored(index, hash, source),
            Event::NotStored { index, source, error } => self.not_stored(index, source, error),
            Event::Settled { index, result } => match result {
                Ok(hash) => self.swarm.handle(now, Input::Settled { index, hash }),
                Err(e) => tracing::warn!(index, error = %e, "a dispute about a hash could not be settled"),
            },
        }
    }

    fn heard(&mut self, from: NodeId, talk: u64, word: Word) {
        let now = self.now();
        match word {
            Word::Hello { held, wanted, reads_origin } => {
                self.listeners.insert(from, talk);
                let same_zone = self.shared.same_zone(from);
                self.swarm.handle(now, Input::Joined { peer: from, same_zone, held, wanted, reads_origin });
                if !self.speakers.contains_key(&from) {
                    self.speak_to(from);
                }
            }
            _ if self.listeners.get(&from) != Some(&talk) => {}
            Word::Have(items) => self.swarm.handle(now, Input::Have { peer: from, items }),
            Word::Claim(span) => self.swarm.handle(now, Input::Claimed { peer: from, span }),
            Word::Unclaim(span) => self.swarm.handle(now, Input::Unclaimed { peer: from, span }),
            Word::OriginHold(ms) => {
                let until = now + Duration::from_millis(ms.min(300_000).into());
                self.swarm.handle(now, Input::OriginHold { until });
            }
            Word::Bye => self.forget(from),
        }
    }

    fn forget(&mut self, peer: NodeId) {
        self.listeners.remove(&peer);
        self.speakers.remove(&peer);
        self.swarm.handle(self.now(), Input::Left(peer));
    }

    fn received(
        &mut self,
        peer: NodeId,
        index: u32,
        hash: ChunkHash,
        bytes: Bytes,
        place: OwnedSemaphorePermit,
    ) {
        let now = self.now();
        let round_trip = self.shared.transport.round_trip(peer);
        if self.swarm.hash(index).is_some_and(|known| known != hash) {
            // Not the bytes' fault: two nodes say different things. The announcement is a dispute.
            self.swarm.handle(now, Input::RequestFailed { peer, index, why: ErrorKind::Invalid });
            self.swarm.handle(now, Input::Have { peer, items: vec![(index, hash)] });
            self.progress.send_modify(|p| p.wasted_bytes += bytes.len() as u64);
            return;
        }
        self.swarm.handle(now, Input::Received { peer, index, round_trip });
        self.store(index, Some(hash), bytes, Source::Peer(peer), place);
    }

    fn store(
        &mut self,
        index: u32,
        announced: Option<ChunkHash>,
        bytes: Bytes,
        source: Source,
        place: OwnedSemaphorePermit,
    ) {
        let expected = announced.or(self.swarm.hash(index));
        let (shared, swarm, events) = (self.shared.clone(), self.spec.id, self.events.clone());
        self.tasks.spawn(async move {
            let verified = tokio::task::spawn_blocking(move || match expected {
                Some(hash) => VerifiedChunk::checked(bytes, hash),
                None => Ok(VerifiedChunk::hashed(bytes)),
            })
            .await
            .unwrap_or_else(|e| Err(Error::with_source(ErrorKind::Cancelled, "hashing was cut short", e)));
            let done = match verified {
                Ok(chunk) => {
                    let hash = chunk.hash();
                    shared.store.write(swarm, index, chunk).await.map(|()| hash)
                }
                Err(e) => Err(e),
            };
            drop(place);
            let event = match done {
                Ok(hash) => Event::Stored { index, hash, source },
                Err(error) => Event::NotStored { index, source, error },
            };
            let _ = events.send(event).await;
        });
    }

    fn stored(&mut self, index: u32, hash: ChunkHash, source: Source) {
        let bytes = u64::from(self.spec.chunk_bytes[index as usize]);
        let had = self.swarm.held().contains(index);
        self.swarm.handle(self.now(), Input::Stored { index, hash });
        self.last_progress = Instant::now();
        self.progress.send_modify(|p| match (had, source) {
            (true, _) => p.wasted_bytes += bytes,
            (false, Source::Origin) => p.origin_bytes += bytes,
            (false, Source::Peer(_)) => p.peer_bytes += bytes,
            (false, Source::Disk) => p.reused_bytes += bytes,
        });
        if !had {
            self.wishes.retain(|_, w| !w.wanted.contains(index) || w.stored.send(index).is_ok());
        }
    }

    fn not_stored(&mut self, index: u32, source: Source, error: Error) {
        let now = self.now();
        let bytes = u64::from(self.spec.chunk_bytes[index as usize]);
        self.progress.send_modify(|p| p.wasted_bytes += bytes);
        self.swarm.handle(now, Input::Lost { index });
        match (error.kind(), source) {
            (ErrorKind::Corrupt, Source::Peer(peer)) => {
                self.shared.observer.corrupt(peer, index);
                self.swarm.handle(now, Input::RequestFailed { peer, index, why: ErrorKind::Corrupt });
            }
            (ErrorKind::Corrupt, Source::Origin) => {
                let why = format!("origin changed: chunk {index} of swarm {}", self.spec.id.short());
                self.fail(error.context(why));
            }
            _ => self.fail(error.context(format!("chunk {index} could not be stored"))),
        }
    }

    fn origin_done(&mut self, span: u32, reading: u64, error: Option<Error>) {
        let now = self.now();
        if self.readings.get(&span).is_none_or(|(n, _)| *n != reading) {
            return;
        }
        self.readings.remove(&span);
        self.swarm.handle(now, Input::OriginDone { span, failed: error.as_ref().map(Error::kind) });
        let Some(error) = error else { return };
        if let ErrorKind::Unavailable { retry_after: Some(wait) } = error.kind()
            && let Ok(hold) = wire::frame(&Word::OriginHold(wait.as_millis().min(300_000) as u32))
        {
            self.broadcast(&hold);
        }
        tracing::warn!(span, error = %error, "reading a span from the origin failed");
        let fatal = error.kind() == ErrorKind::Corrupt;
        self.origin_error = Some(Arc::new(error));
        if fatal {
            self.fail_with_origin_error();
        }
    }

    /// An origin that says no for good and neighbours that cannot help either: say so.
    fn give_up_if_stuck(&mut self) {
        let Some(error) = &self.origin_error else { return };
        if self.swarm.missing() == 0 || self.wishes.is_empty() {
            return;
        }
        let patience = if error.kind().is_transient() {
            self.shared.config.give_up
        } else if self.listeners.is_empty() {
            Duration::ZERO
        } else {
            Duration::from_secs(5)
        };
        if self.last_progress.elapsed() > patience {
            self.fail_with_origin_error();
        }
    }

    fn fail_with_origin_error(&mut self) {
        if let Some(error) = self.origin_error.take() {
            let kind = error.kind();
            self.fail(Error::with_source(kind, format!("swarm {}", self.spec.id.short()), error));
        }
    }

    fn fail(&mut self, error: Error) {
        if matches!(self.progress.borrow().state, SwarmState::Failed(_)) {
            return;
        }
        tracing::warn!(swarm = %self.spec.id.short(), error = %error, "the swarm cannot go on here");
        let error = Arc::new(error);
        self.progress.send_modify(|p| p.state = SwarmState::Failed(error));
        self.wishes.clear();
        self.wants_changed();
    }

    fn broadcast(&mut self, frame: &Bytes) {
        let full: Vec<NodeId> = self
            .speakers
            .iter()
            .filter(|(_, s)| s.queue.try_send(frame.clone()).is_err())
            .map(|(id, _)| *id)
            .collect();
        for id in full {
            self.speakers.remove(&id);
            self.speak_to(id);
        }
    }

    fn act(&mut self) {
        while let Some(output) = self.swarm.poll() {
            match output {
                Output::Request { peer, index } => self.request(peer, index),
                Output::Cancel { peer, index } => {
                    if let Some(abort) = self.requests.remove(&(peer, index)) {
                        abort.abort();
                    }
                }
                Output::FetchSpan { span, chunks } => self.read(span, chunks),
                Output::CancelSpan { span } => {
                    if let Some((_, abort)) = self.readings.remove(&span) {
                        abort.abort();
                    }
                }
                Output::Announce { items } => {
                    for frame in talk::have_frames(&items).unwrap_or_default() {
                        self.broadcast(&frame);
                    }
                }
                Output::Claim { span } => self.say(&Word::Claim(span)),
                Output::Unclaim { span } => self.say(&Word::Unclaim(span)),
                Output::Settle { index } => self.settle(index),
                Output::Discard { index } => {
                    if let Err(e) = self.shared.store.discard(self.spec.id, index) {
                        tracing::warn!(index, error = %e, "a wrong chunk could not be discarded");
                    }
                }
                Output::Shun { peer, why } => self.shun(peer, why),
                Output::Complete => {}
            }
        }
        self.report();
    }

    fn say(&mut self, word: &Word) {
        if let Ok(frame) = wire::frame(word) {
            self.broadcast(&frame);
        }
    }

    fn shun(&mut self, peer: NodeId, why: &'static str) {
        tracing::error!(peer = %peer, swarm = %self.spec.id.short(), why, "a peer is shunned");
        self.shared.observer.shunned(peer, why);
        self.listeners.remove(&peer);
        self.speakers.remove(&peer);
        self.shared.transport.shun(peer);
    }

    fn report(&mut self) {
        let held = self.held_bytes();
        let (neighbours, missing) = (self.listeners.len(), self.swarm.missing());
        let wished = !self.wishes.is_empty();
        self.progress.send_if_modified(|p| {
            let complete = missing == 0 && wished && matches!(p.state, SwarmState::Running);
            let changed = p.held_bytes != held || p.neighbours != neighbours || complete;
            (p.held_bytes, p.neighbours) = (held, neighbours);
            if complete {
                p.state = SwarmState::Complete;
            }
            changed
        });
    }

    fn held_bytes(&self) -> u64 {
        let p = self.progress.borrow();
        p.origin_bytes + p.peer_bytes + p.reused_bytes
    }

    fn request(&mut self, peer: NodeId, index: u32) {
        let now = self.now();
        let Some(address) = self.shared.peer(peer) else {
            self.swarm.handle(now, Input::RequestFailed { peer, index, why: ErrorKind::UNAVAILABLE });
            return;
        };
        let len = self.spec.chunk_bytes[index as usize];
        let known = self.swarm.hash(index);
        let (shared, swarm, events) = (self.shared.clone(), self.spec.id, self.events.clone());
        let storing = self.storing.clone();
        let task = self.tasks.spawn(async move {
            if let Some(hash) = known
                && shared.store.adopt(swarm, index, hash).await.unwrap_or(false)
            {
                let _ = events.send(Event::Stored { index, hash, source: Source::Disk }).await;
                return;
            }
            let stall = shared.config.stall;
            let event = match chunks::request(&*shared.transport, address, swarm, index, len, stall).await {
                Ok((hash, bytes)) => match storing.acquire_owned().await {
                    Ok(place) => Event::Received { peer, index, hash, bytes, place },
                    Err(_) => return,
                },
                Err(error) => Event::Refused { peer, index, error },
            };
            let _ = events.send(event).await;
        });
        self.requests.insert((peer, index), task);
    }

    fn read(&mut self, span: u32, chunks: Range<u32>) {
        let now = self.now();
        let Some(source) = self.source.clone() else {
            self.swarm.handle(now, Input::OriginDone { span, failed: Some(ErrorKind::NotFound) });
            return;
        };
        self.counter += 1;
        let (reading, events, storing) = (self.counter, self.events.clone(), self.storing.clone());
        let task = self.tasks.spawn(async move {
            let (out, mut pieces) = mpsc::channel(1);
            let mut next = chunks.start;
            let end = chunks.end;
            let fetch = source.fetch(chunks, out);
            let done = events.clone();
            let pass = async move {
                while let Some(piece) = pieces.recv().await {
                    let (index, bytes) = piece?;
                    if index != next {
                        return Err(Error::new(
                            ErrorKind::Invalid,
                            format!("chunk {index} came instead of {next}"),
                        ));
                    }
                    next += 1;
                    let Ok(place) = storing.clone().acquire_owned().await else { break };
                    if events.send(Event::Origin { span, index, bytes, place }).await.is_err() {
                        break;
                    }
                }
                if next == end {
                    Ok(())
                } else {
                    Err(Error::new(ErrorKind::UNAVAILABLE, "the origin ended early"))
                }
            };
            let ((), passed) = tokio::join!(fetch, pass);
            let _ = done.send(Event::OriginDone { span, reading, error: passed.err() }).await;
        });
        self.readings.insert(span, (reading, task));
    }

    fn settle(&mut self, index: u32) {
        let Some(source) = self.source.clone() else { return };
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let (out, mut pieces) = mpsc::channel(1);
            let ((), piece) = tokio::join!(source.fetch(index..index + 1, out), pieces.recv());
            let result = match piece {
                Some(Ok((_, bytes))) => Ok(ChunkHash::of(&bytes)),
                Some(Err(e)) => Err(e),
                None => Err(Error::new(ErrorKind::UNAVAILABLE, "the origin sent nothing")),
            };
            let _ = events.send(Event::Settled { index, result }).await;
        });
    }
}

/// The embedder's end of a swarm that runs.
pub(crate) fn handle(
    swarm: crate::chunk::SwarmId,
    ticket: u64,
    control: mpsc::UnboundedSender<Control>,
    progress: watch::Receiver<Progress>,
    stored: mpsc::UnboundedReceiver<u32>,
) -> SwarmHandle {
    SwarmHandle { swarm, ticket, control, progress, stored }
}
