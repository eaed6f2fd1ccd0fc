//! One swarm's task: feeds the state machine and carries out what it says.
//!
//! Owns every task that works for the swarm and joins them when it ends. Bytes are verified and
//! stored on the blocking pool; a bounded number of chunks is in memory at a time.

mod adopting;
mod leaving;
mod neighbourhood;
mod readings;
mod requests;
mod storing;
mod turn;
mod wishes;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    turn::Turn,
    wishes::{Wish, Wishes},
};
use super::{
    inbox::{Control, Event, Join, Source, Ticket},
    talk,
};
use crate::{
    chunk::{ChunkHash, ChunkSet},
    embedding::Surroundings,
    error::ErrorKind,
    node::NodeId,
    seam::Inventory,
    swarm::{Input, Now, Output, Swarm, SwarmConfig, SwarmSpec},
    wire::{self, Word},
};

/// Chunks of one swarm in memory at a time, received and not yet stored.
const STORING_MAX: usize = 24;
/// A swarm that nobody wants or talks about ends after this long; the next word revives it.
const IDLE_END: Duration = Duration::from_secs(60);

struct Speaker {
    number: u64,
    /// Of the neighbour when it was spoken to; another one may be a new process, which has heard nothing.
    generation: u64,
    queue: mpsc::Sender<Bytes>,
}

/// One read of a span from the origin.
struct Reading {
    number: u64,
    /// Whose source it reads with.
    ticket: Ticket,
    task: AbortHandle,
}

/// The task's state.
pub(crate) struct Driver {
    shared: Arc<Surroundings>,
    spec: SwarmSpec,
    swarm: Swarm,
    began: Instant,
    events: mpsc::Sender<Event>,
    wishes: Wishes,
    turn: Turn,
    speakers: HashMap<NodeId, Speaker>,
    listeners: HashMap<NodeId, u64>,
    /// Which words each of them knows.
    versions: HashMap<NodeId, u16>,
    requests: HashMap<(NodeId, u32), AbortHandle>,
    readings: HashMap<u32, Reading>,
    rushes: HashMap<u32, Reading>,
    storing: Arc<Semaphore>,
    adoptable: VecDeque<(u32, ChunkHash)>,
    /// In the queue or being copied.
    adopting: HashSet<u32>,
    copies: usize,
    tasks: JoinSet<()>,
    counter: u64,
    last_progress: Instant,
    last_company: Instant,
    /// Who waits for this node to have handed over what only it holds, once it leaves.
    leaving: Option<watch::Sender<u64>>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Surroundings>,
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
            turn: Turn::new(shared.clone()),
            shared,
            spec,
            swarm,
            began,
            events,
            wishes: Wishes::default(),
            speakers: HashMap::new(),
            listeners: HashMap::new(),
            versions: HashMap::new(),
            requests: HashMap::new(),
            readings: HashMap::new(),
            rushes: HashMap::new(),
            storing: Arc::new(Semaphore::new(STORING_MAX)),
            adoptable: VecDeque::new(),
            adopting: HashSet::new(),
            copies: 0,
            tasks: JoinSet::new(),
            counter: 0,
            last_progress: began,
            last_company: began,
            leaving: None,
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
            self.take_turn();
            self.act();
            self.tell_what_would_go();
        }
        self.turn.leave();
        if let Ok(bye) = wire::frame(&Word::Bye) {
            self.broadcast(&bye);
        }
        self.speakers.clear();
        let readings = self.readings.values().chain(self.rushes.values());
        for abort in readings.map(|r| &r.task).chain(self.requests.values()) {
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
        if !self.wishes.is_empty() {
            self.last_company = Instant::now();
        }
        self.last_company.elapsed() > IDLE_END
    }

    fn obey(&mut self, order: Control) {
        match order {
            Control::Join(join) => self.join(*join),
            Control::Dropped(ticket) => {
                self.wishes.remove(ticket);
                self.wants_changed();
            }
            Control::Urgent { ticket, chunks } => self.widen(ticket, chunks, Input::Urgent),
            Control::Ahead { ticket, chunks } => self.widen(ticket, chunks, Input::Ahead),
            Control::Order(chunks) => self.swarm.handle(self.now(), Input::Order(chunks)),
            Control::Matters(ticket, precedence) => self.wishes.matters(ticket, precedence),
            Control::Participants(ids) => self.swarm.handle(self.now(), Input::Met(ids)),
            Control::Members(ids) => {
                let lives = |id: &NodeId| ids.binary_search_by_key(id, |member| member.id).is_ok();
                for id in self.listeners.keys().filter(|id| !lives(id)).copied().collect::<Vec<_>>() {
                    self.forget(id);
                }
                self.swarm.handle(self.now(), Input::Members(ids));
            }
            Control::Leave(told) => self.leave(told),
            Control::LeaveNow => self.leave_now(),
            Control::End => {}
        }
    }

    /// Has a wish that is still there want more.
    fn widen(&mut self, ticket: Ticket, chunks: Vec<u32>, input: fn(Vec<u32>) -> Input) {
        if self.wishes.widen(ticket, &chunks, self.swarm.held()) {
            self.swarm.handle(self.now(), input(chunks));
        }
    }

    fn join(&mut self, join: Join) {
        if let Some(hashes) = join.manifest {
            self.swarm.handle(self.now(), Input::Manifest(hashes));
        }
        self.look_again();
        let wish = Wish::new(join.wanted, join.source, join.stored);
        let progress = self.wishes.add(join.ticket, wish, self.swarm.held());
        self.wants_changed();
        self.act();
        let _ = join.handle.send(progress);
    }

    /// Takes in what the store got or gave up since it was last asked: adopted, evicted, found rotten.
    fn look_again(&mut self) {
        let Ok(inventory) = self.shared.store.inventory(self.spec.id) else { return };
        let before = self.swarm.held().clone();
        for index in before.iter().filter(|&c| !inventory.held.contains(c)) {
            self.swarm.handle(self.now(), Input::Lost { index });
        }
        for index in inventory.held.iter() {
            if let Some(hash) = inventory.hashes.get(index as usize).copied().flatten() {
                self.swarm.handle(self.now(), Input::Stored { index, hash });
            }
            if !before.contains(index) {
                self.wishes.stored(index);
            }
        }
        self.wishes.recount(self.swarm.held());
    }

    fn wants_changed(&mut self) {
        if self.leaving.is_some() {
            return;
        }
        let wanted = self.wishes.wanted(self.spec.chunk_bytes.len() as u32);
        let reads = self.wishes.source().is_some();
        let now = self.now();
        self.swarm.handle(now, Input::Want(wanted));
        self.adopt_announced();
        self.swarm.handle(now, Input::ReadsOrigin(reads));
        // Neighbours rank us by what we want and read: greet them anew.
        for id in self.speakers.keys().copied().collect::<Vec<_>>() {
            self.speak_to(id);
        }
    }

    fn take(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Heard { from, word } => {
                self.last_company = Instant::now();
                self.heard(from, word);
            }
            Event::Silent { from, talk } => {
                if self.listeners.get(&from) == Some(&talk) {
                    self.unheard(from);
                }
            }
            Event::SpeakerEnded { to, speaker } => {
                if self.speakers.get(&to).is_some_and(|s| s.number == speaker) {
                    self.speakers.remove(&to);
                    self.speak_again_soon(to);
                }
            }
            Event::SpeakAgain { to } => {
                if self.listeners.contains_key(&to) && !self.speakers.contains_key(&to) {
                    self.speak_to(to);
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
            Event::Origin { span, ticket, index, bytes, place } => {
                self.swarm.handle(now, Input::OriginChunk { span, index });
                self.store(index, None, bytes, Source::Origin(ticket), place);
            }
            Event::OriginDone { span, reading, error } => self.origin_done(span, reading, error),
            Event::Rushed { index, reading, result } => self.rushed(index, reading, result),
            Event::Stored { index, hash, source } => self.stored(index, hash, source),
            Event::Adopted { index, hash, is_here } => self.adopted(index, hash, is_here),
            Event::NotStored { index, source, error } => self.not_stored(index, source, error),
            Event::Settled { index, result } => match result {
                Ok(hash) => self.swarm.handle(now, Input::Settled { index, hash }),
                Err(e) => {
                    tracing::warn!(index, error = %e, "a dispute about a hash could not be settled");
                    self.swarm.handle(now, Input::Unsettled { index });
                }
            },
        }
    }

    fn act(&mut self) {
        while let Some(output) = self.swarm.poll() {
            match output {
                // Who wants nothing waits to be spoken to, or two who have all would keep each other awake.
                Output::Greet { peer } => {
                    if !self.wishes.is_empty() && !self.speakers.contains_key(&peer) {
                        self.speak_to(peer);
                    }
                }
                Output::Part { peer } => self.part(peer),
                Output::Request { peer, index } => self.request(peer, index),
                Output::Cancel { peer, index } => {
                    if let Some(abort) = self.requests.remove(&(peer, index)) {
                        abort.abort();
                    }
                }
                Output::FetchSpan { span, chunks } => self.read(span, chunks),
                Output::CancelSpan { span } => {
                    if let Some(reading) = self.readings.remove(&span) {
                        reading.task.abort();
                    }
                }
                Output::Rush { index } => self.rush(index),
                Output::CancelRush { index } => {
                    if let Some(rush) = self.rushes.remove(&index) {
                        rush.task.abort();
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
                    self.wishes.recount(self.swarm.held());
                }
                Output::Shun { peer, time, why } => self.shun(peer, time, why),
                Output::Complete => {}
            }
        }
        let hedged = self.swarm.hedged_bytes();
        self.wishes.count(|p| p.hedged_bytes = hedged);
        self.wishes.tell(self.listeners.len());
    }
}
