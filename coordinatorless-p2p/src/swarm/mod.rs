//! One artifact's swarm as a state machine: inputs in, requests out, no I/O and no clock.
//!
//! Owns who has which chunk, who reads which span from the origin, and what to ask of whom next.
//! Knows indices, sizes and hashes; never bytes, sockets, files or time of day. The shell in
//! [`crate::exchange`] feeds it and carries out what it says; the simulator does the same.
//!
//! Invariants: a chunk is asked of at most two holders at a time; a span is read from the origin
//! by this node only while its claim stands; nothing is announced before it is stored.

mod claims;
mod crowd;
mod doubt;
mod leaving;
mod order;
mod pace;
mod peers;
mod pick;
mod rush;
mod shunning;
mod spans;
mod words;

pub use crowd::{DIRECT, DRAWN, Member, SUCCESSORS, reader_score, readers_of_zone};
pub use words::{Allowance, Input, Output};

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::{
    chunk::{ChunkHash, ChunkSet, SwarmId},
    node::NodeId,
};
use claims::Released;
use crowd::Crowd;
use order::Order;
use pace::OriginPace;
use peers::Neighbour;
use rush::Urgent;
use shunning::Shunned;
use spans::{Ranking, SpanState};

/// The words of a greeting come within this time of the first.
const GREETING: Duration = Duration::from_millis(20);

/// Time since the swarm began, on the shell's monotonic clock.
pub type Now = Duration;

/// What is exchanged: fixed for the life of the swarm.
#[derive(Debug, Clone)]
pub struct SwarmSpec {
    /// The blueprint's hash.
    pub id: SwarmId,
    /// The length of every chunk.
    pub chunk_bytes: Arc<[u32]>,
    /// Runs of neighbouring chunks, each read from the origin in one request; they cover all chunks.
    pub spans: Arc<[Range<u32>]>,
}

/// How the swarm behaves.
#[derive(Debug, Clone)]
pub struct SwarmConfig {
    /// Seed of every random choice.
    pub seed: u64,
    /// How long members that are not known to take part count as owners, so that nodes which have
    /// not met yet do not read the same spans. Sane: a few round trips to the meeting place.
    pub meeting_grace: Duration,
    /// How long nothing is read although one home said that nobody takes part: homes that have just
    /// become homes know of nobody yet. Sane: a handshake and a round trip.
    pub meeting_quiet: Duration,
    /// How long nothing is read where more members live than know each other directly: a crowd that
    /// starts at once is to know who of it reads. Sane: two rounds of asking the meeting place.
    pub crowd_quiet: Duration,
    /// How long nothing is read from the origin while the meeting place has not answered, or those
    /// it named have not said what they hold. Sane: a handshake or two, far below a time-out.
    pub meeting_max: Duration,
    /// The shortest time without progress after which another node's span is taken over.
    pub takeover_min: Duration,
    /// The longest; three times as long where most readers are slow.
    pub takeover_max: Duration,
    /// Chunks asked of one holder at a time, beside what rate × round trip needs.
    pub requests_per_holder: u32,
    /// Bytes asked of all holders at a time; bounds memory.
    pub inflight_bytes_max: u64,
    /// A request this many times slower than usual is sent to a second holder.
    pub hedge_factor: f64,
    /// Hedged bytes ÷ received bytes never exceed this.
    pub hedge_budget: f64,
    /// How long a peer that lied or corrupted is shunned the first time; twice as long each further
    /// time. Sane: long against a swarm's work, short against a repair.
    pub shun_min: Duration,
    /// The longest, and how long after it the peer's past is forgotten.
    pub shun_max: Duration,
}

impl Default for SwarmConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            meeting_grace: Duration::from_millis(200),
            meeting_quiet: Duration::from_millis(60),
            crowd_quiet: Duration::from_millis(450),
            meeting_max: Duration::from_millis(1500),
            takeover_min: Duration::from_secs(3),
            takeover_max: Duration::from_secs(30),
            requests_per_holder: 1,
            inflight_bytes_max: 48 << 20,
            hedge_factor: 4.0,
            hedge_budget: 0.03,
            shun_min: Duration::from_secs(120),
            shun_max: Duration::from_secs(4 * 3600),
        }
    }
}

/// How often requests are looked at for late ones: far below the least patience with one.
const HEDGE_EVERY: Duration = Duration::from_millis(25);

/// How much is known about a chunk's hash, and from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HashSource {
    Manifest,
    Myself,
    Peer(NodeId),
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    hash: Option<(ChunkHash, HashSource)>,
    holders: u16,
    /// Of these, how many in this node's zone.
    near: u16,
    /// Of all, who are about to leave.
    going: u16,
    /// Requests under way to holders.
    asked: u8,
    /// All bytes are here or about to be stored; asked of nobody else.
    arriving: bool,
}

impl Chunk {
    /// Whether everybody who holds it is about to leave.
    fn goes(&self) -> bool {
        self.holders == self.going
    }
}

/// The state machine.
pub struct Swarm {
    spec: SwarmSpec,
    config: SwarmConfig,
    me: NodeId,
    rng: SmallRng,
    began: Now,
    chunks: Vec<Chunk>,
    span_of: Vec<u32>,
    spans: Vec<SpanState>,
    held: ChunkSet,
    wanted: ChunkSet,
    missing: u32,
    neighbours: BTreeMap<NodeId, Neighbour>,
    /// The live members, sorted by id.
    members: Arc<[Member]>,
    crowd: Crowd,
    ranking: Ranking,
    /// When a chunk was stored last, and how long nothing may come before this node reads the origin
    /// although others are to read it.
    gained_at: Now,
    patience: Duration,
    /// When requests are looked at next for late ones.
    hedge_at: Now,
    /// The length of an ordinary chunk.
    usual_bytes: f64,
    /// Whom the meeting place named, once it answered.
    met: Option<Vec<NodeId>>,
    shunned: Shunned,
    disputes: HashMap<u32, Vec<(NodeId, ChunkHash)>>,
    urgent: Urgent,
    order: Order,
    released: Vec<Released>,
    /// Since when this node has had nothing to read from the origin, where it looked for something.
    idle_since: Option<Now>,
    allowed: Allowance,
    pace: OriginPace,
    inflight_bytes: u64,
    received_bytes: u64,
    hedged_bytes: u64,
    complete_said: bool,
    reads_origin: bool,
    /// Whether this node is about to leave.
    leaves: bool,
    announce: Vec<(u32, ChunkHash)>,
    out: VecDeque<Output>,
}

impl Swarm {
    /// A swarm as seen by `me`, who holds `held`, knows `hashes` and wants `wanted`.
    ///
    /// `trusted` says that `hashes` are a manifest's, not what this node computed itself.
    pub fn new(
        spec: SwarmSpec,
        config: SwarmConfig,
        me: NodeId,
        inventory: crate::seam::Inventory,
        wanted: ChunkSet,
        trusted: bool,
        now: Now,
    ) -> Self {
        let count = spec.chunk_bytes.len();
        let held = inventory.held;
        let unknown = Chunk { hash: None, holders: 0, near: 0, going: 0, asked: 0, arriving: false };
        let mut chunks = vec![unknown; count];
        for (chunk, hash) in chunks.iter_mut().zip(inventory.hashes) {
            let source = if trusted { HashSource::Manifest } else { HashSource::Myself };
            chunk.hash = hash.map(|h| (h, source));
        }
        let mut span_of = vec![0; count];
        for (s, span) in spec.spans.iter().enumerate() {
            for c in span.clone() {
                span_of[c as usize] = s as u32;
            }
        }
        let spans = spec.spans.iter().map(|s| SpanState::new(s.clone(), &held, &wanted)).collect();
        let missing = wanted.iter().filter(|&c| !held.contains(c)).count() as u32;
        let allowed = Allowance::whole(config.inflight_bytes_max);
        let rng = SmallRng::seed_from_u64(config.seed);
        // Of its own, so that who is patient for how long changes no other choice.
        let patience = SmallRng::seed_from_u64(!config.seed).random_range(1.0..4.0);
        // Chunks are at most a few times larger than this; it only scales budgets.
        let longest = spec.chunk_bytes.iter().take(64).copied().max().unwrap_or(1);
        let mut swarm = Self {
            rng,
            crowd: Crowd::default(),
            ranking: Ranking::default(),
            gained_at: now,
            patience: config.takeover_max.mul_f64(patience),
            hedge_at: now,
            usual_bytes: f64::from(longest.max(64 << 10)),
            pace: OriginPace::new(now),
            spec,
            config,
            me,
            began: now,
            chunks,
            span_of,
            spans,
            held,
            wanted,
            missing,
            neighbours: BTreeMap::new(),
            members: Arc::from([Member { id: me, zone: 0 }]),
            met: None,
            shunned: Shunned::default(),
            disputes: HashMap::new(),
            urgent: Urgent::default(),
            order: Order::default(),
            released: Vec::new(),
            idle_since: None,
            allowed,
            inflight_bytes: 0,
            received_bytes: 0,
            hedged_bytes: 0,
            complete_said: false,
            reads_origin: true,
            leaves: false,
            announce: Vec::new(),
            out: VecDeque::new(),
        };
        swarm.say_if_complete();
        swarm
    }

    /// Takes in what happened and decides what follows; the decisions wait in [`poll`](Self::poll).
    pub fn handle(&mut self, now: Now, input: Input) {
        // Who greets says next what it reads: deciding in between would read the same spans.
        let goes_on = match &input {
            Input::Joined { .. } => true,
            Input::Claimed { peer, .. } => {
                self.neighbours.get(peer).is_some_and(|n| now < n.greeted + GREETING)
            }
            _ => false,
        };
        self.take(now, input);
        if !goes_on {
            self.decide(now);
        }
    }

    /// Takes in what happened and decides nothing yet: for many inputs at a time, the last of which is
    /// [`handle`](Self::handle)d.
    pub fn take(&mut self, now: Now, input: Input) {
        match input {
            Input::Members(members) => self.members_changed(now, members),
            Input::Met(ids) => self.met(now, ids),
            Input::Joined { peer, same_zone, held, wanted, reads_origin } => {
                self.peer_joined(now, peer, Neighbour::new(same_zone, held, wanted, reads_origin, now));
            }
            Input::Left(peer) => self.peer_left(peer),
            Input::Leaving(peer) => self.peer_leaves(now, peer),
            Input::Leave => self.leave(),
            Input::LeaveNow => self.give_readings_up(),
            Input::Have { peer, items } => self.peer_has(now, peer, items),
            Input::Claimed { peer, span } => self.peer_claimed(now, peer, span),
            Input::Unclaimed { peer, span } => self.peer_unclaimed(now, peer, span),
            Input::OriginHold { until } => self.pace.hold(until),
            Input::Received { peer, index, round_trip } => self.received(now, peer, index, round_trip),
            Input::RequestFailed { peer, index, why } => self.request_failed(now, peer, index, why),
            Input::Stored { index, hash } => self.stored(now, index, hash),
            Input::Lost { index } => self.lost(index),
            Input::Adopting { index } => self.adopting(index),
            Input::OriginChunk { span, index } => self.origin_chunk(now, span, index),
            Input::OriginDone { span, failed } => self.origin_done(now, span, failed),
            Input::Settled { index, hash } => self.settled(now, index, hash),
            Input::Unsettled { index } => {
                self.disputes.remove(&index);
            }
            Input::Urgent(indices) => self.urged(now, indices),
            Input::Ahead(indices) => self.ahead(indices),
            Input::Order(indices) => self.ordered(indices),
            Input::Rushed { index, failed } => self.rushed(now, index, failed),
            Input::Allowed(allowed) => self.allowed = allowed,
            Input::Want(wanted) => self.want(now, wanted),
            Input::ReadsOrigin(reads) => self.reads_origin = reads,
            Input::Manifest(hashes) => {
                for (chunk, hash) in self.chunks.iter_mut().zip(hashes) {
                    chunk.hash = Some((hash, HashSource::Manifest));
                }
            }
            Input::Tick => {}
        }
    }

    /// The next thing to do, in order.
    pub fn poll(&mut self) -> Option<Output> {
        if !self.announce.is_empty() && self.out.is_empty() {
            return Some(Output::Announce { items: std::mem::take(&mut self.announce) });
        }
        if self.out.is_empty() {
            self.unclaim_released();
        }
        self.out.pop_front()
    }

    /// What is stored here.
    pub fn held(&self) -> &ChunkSet {
        &self.held
    }

    /// What is wanted here.
    pub fn wanted(&self) -> &ChunkSet {
        &self.wanted
    }

    /// Chunks wanted and not stored yet.
    pub fn missing(&self) -> u32 {
        self.missing
    }

    /// The hash of a chunk as far as it is known.
    pub fn hash(&self, index: u32) -> Option<ChunkHash> {
        self.chunks.get(index as usize)?.hash.map(|(h, _)| h)
    }

    /// The hash of a chunk if it is known from a manifest or from this node's own reading: what bytes of
    /// the origin must have. What a peer announced is not held against the origin.
    pub fn own_hash(&self, index: u32) -> Option<ChunkHash> {
        match self.chunks.get(index as usize)?.hash? {
            (hash, HashSource::Manifest | HashSource::Myself) => Some(hash),
            (_, HashSource::Peer(_)) => None,
        }
    }

    /// Whether readers wait for anything.
    pub fn has_readers(&self) -> bool {
        self.urgent.waiting().any(|index| self.lacks(index))
    }

    /// Whether a reader waits for a chunk.
    pub fn is_urgent(&self, index: u32) -> bool {
        self.urgent.waiting().any(|waiting| waiting == index)
    }

    /// Participants known now, without this node.
    pub fn neighbours(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.neighbours.keys().copied()
    }

    /// Spans this node is reading from the origin now.
    pub fn reading(&self) -> impl Iterator<Item = u32> + '_ {
        self.spans.iter().enumerate().filter(|(_, s)| s.mine.is_some()).map(|(i, _)| i as u32)
    }

    /// Memory that this state takes, about.
    pub fn state_bytes(&self) -> usize {
        let neighbours: usize = self.neighbours.values().map(Neighbour::state_bytes).sum();
        size_of::<Self>()
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.span_of.capacity() * size_of::<u32>()
            + self.spans.capacity() * size_of::<SpanState>()
            + 2 * self.chunks.len() / 8
            + neighbours
    }

    /// Wanted bytes that no known neighbour holds and this node lacks.
    pub fn orphan_bytes(&self) -> u64 {
        let orphan = |c: &u32| !self.held.contains(*c) && self.chunks[*c as usize].holders == 0;
        self.wanted.iter().filter(orphan).map(|c| u64::from(self.len(c))).sum()
    }

    /// Bytes asked of a second holder because the first was slow: what came twice is at most this.
    pub fn hedged_bytes(&self) -> u64 {
        self.hedged_bytes
    }

    fn len(&self, index: u32) -> u32 {
        self.spec.chunk_bytes[index as usize]
    }

    /// Whether a chunk is wanted and not stored yet; false past the end.
    pub fn lacks(&self, index: u32) -> bool {
        self.wanted.contains(index) && !self.held.contains(index)
    }

    fn decide(&mut self, now: Now) {
        if self.missing == 0 || self.leaves {
            return;
        }
        let looks = now >= self.hedge_at;
        if looks {
            self.hedge_at = now + HEDGE_EVERY;
            self.doubt_the_silent(now);
        }
        self.rank(now);
        self.ask_holders(now);
        if looks {
            self.hedge(now);
        }
        self.read_origin(now);
    }

    fn stored(&mut self, now: Now, index: u32, hash: ChunkHash) {
        let Some(chunk) = self.chunks.get_mut(index as usize) else { return };
        chunk.arriving = false;
        let liar = match chunk.hash {
            Some((said, HashSource::Peer(peer))) if said != hash => Some(peer),
            _ => None,
        };
        if chunk.hash.is_none() || liar.is_some() {
            chunk.hash = Some((hash, HashSource::Myself));
        }
        if let Some(peer) = liar {
            self.shun(now, peer, "announced a hash that the origin does not confirm");
        }
        if !self.held.insert(index) {
            return;
        }
        self.gained_at = now;
        self.drop_requests(index, None);
        self.end_rush(index);
        if self.wanted.contains(index) {
            self.missing -= 1;
        }
        self.stop_needless_reading(index);
        if self.chunks[index as usize].holders == 0 && self.wanted.contains(index) {
            self.span_mut(index).settle(true);
            self.pace.first_arrival(now, self.len(index));
        }
        self.announce.push((index, hash));
        self.say_if_complete();
    }

    fn say_if_complete(&mut self) {
        if self.missing == 0 && !self.complete_said {
            self.complete_said = true;
            self.out.push_back(Output::Complete);
        }
    }

    fn lost(&mut self, index: u32) {
        let Some(chunk) = self.chunks.get_mut(index as usize) else { return };
        chunk.arriving = false;
        let unheld = chunk.holders == 0;
        if self.held.remove(index) && self.wanted.contains(index) {
            self.missing += 1;
            self.complete_said = false;
            if unheld {
                self.span_mut(index).settle(false);
            }
        }
        for neighbour in self.neighbours.values_mut() {
            neighbour.offer(index);
        }
    }

    fn want(&mut self, now: Now, wanted: ChunkSet) {
        if !wanted.is_sound(self.chunks.len() as u32) {
            return;
        }
        if self.missing == 0 {
            // A new wish: others may be about to have the same one, and who took part may have changed.
            (self.began, self.gained_at) = (now, now);
            self.met = None;
        }
        self.wanted = wanted;
        self.ranking.is_stale = true;
        self.missing = self.wanted.iter().filter(|&c| !self.held.contains(c)).count() as u32;
        self.complete_said = false;
        for s in 0..self.spans.len() {
            let chunks = self.spec.spans[s].clone();
            let orphans =
                chunks.clone().filter(|&c| self.lacks(c) && self.chunks[c as usize].holders == 0).count();
            self.spans[s].orphans = orphans as u32;
            if !chunks.clone().any(|c| self.lacks(c))
                && let Some(mine) = self.spans[s].mine.take()
            {
                self.out.push_back(Output::CancelSpan { span: s as u32 });
                self.release(s as u32, &mine);
            }
        }
        for neighbour in self.neighbours.values_mut() {
            neighbour.offer_all(&self.held);
        }
        self.say_if_complete();
    }

    fn span_mut(&mut self, index: u32) -> &mut SpanState {
        &mut self.spans[self.span_of[index as usize] as usize]
    }

    fn settled(&mut self, now: Now, index: u32, hash: ChunkHash) {
        let Some(announced) = self.disputes.remove(&index) else { return };
        for (peer, said) in announced {
            if said != hash {
                self.shun(now, peer, "announced a hash that the origin does not confirm");
            }
        }
        let wrong = self.chunks[index as usize].hash.is_some_and(|(h, _)| h != hash);
        self.chunks[index as usize].hash = Some((hash, HashSource::Manifest));
        if wrong && self.held.contains(index) {
            self.out.push_back(Output::Discard { index });
            self.lost(index);
        }
    }

    fn shun(&mut self, now: Now, peer: NodeId, why: &'static str) {
        let (first, last) = (self.config.shun_min, self.config.shun_max);
        if let Some(time) = self.shunned.add(now, peer, first, last) {
            self.peer_left(peer);
            self.out.push_back(Output::Shun { peer, time, why });
        }
    }
}

#[cfg(test)]
mod tests;
