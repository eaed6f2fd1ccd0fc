//! The state machines of thousands of nodes in virtual time: mail, requests, readings, meetings, deaths.
//!
//! Does for each node what the shell of the product does, with the network of [`super::network`] for
//! sockets: greets, announces, requests, reads. Decides nothing about chunks or neighbours.
//!
//! Invariants: everything follows from the plan and its seed; nothing is iterated in an order that a hash
//! decides; a node that is dead neither hears nor says anything.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use coordinatorless_p2p::{
    ChunkHash, ChunkSet, Inventory, Node, NodeId, Ring,
    cluster::HOMES,
    error::ErrorKind,
    meeting::{MEET_AGAIN, MEET_EVERY, MeetingPlace},
    swarm::{DIRECT, Input, Member, Output, Swarm, SwarmConfig, SwarmSpec},
};

use super::{
    Links,
    mail::{Sizes, Word},
    network::{FlowId, HOPS, NO_LINK, Nanos, Network},
};

/// One way between nodes of one zone, and of two.
const NEAR: Nanos = 250_000;
const FAR: Nanos = 750_000;
/// From a request to the first byte of the origin's answer.
const ORIGIN_FIRST_BYTE: Nanos = 10_000_000;
/// How long a member that is asked to be home may take before the next one counts.
const TICK: Nanos = 50_000_000;

/// Somebody's number: its place in the world.
pub type Index = u32;

#[derive(Debug, Clone, Copy)]
enum Carried {
    Peer { from: Index, to: Index, chunk: u32 },
    Origin { to: Index, span: u32, chunk: u32 },
}

enum Event {
    FlowEnds(FlowId),
    /// A request reached whom it was for.
    Asked { node: Index, serial: u64 },
    /// The origin answers.
    Answered { node: Index, serial: u64 },
    Wake(Index),
    Tick(Index),
    Meet(Index, u32),
    Named(Index, Rc<Vec<NodeId>>),
    Starts(Index),
    Dies(Index),
    Notices { who: Index, dead: Index },
    /// The last one noticed.
    Gone(Index),
}

struct Timed {
    at: Nanos,
    number: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

enum Mail {
    Said { from: Index, word: Rc<Word> },
    Happened(Input),
}

struct Letter {
    at: Nanos,
    from: Index,
    to: Index,
    word: Rc<Word>,
}

struct Request {
    peer: Index,
    chunk: u32,
    serial: u64,
    flow: Option<FlowId>,
}

struct Reading {
    span: u32,
    chunks: std::ops::Range<u32>,
    serial: u64,
    flow: Option<FlowId>,
}

/// One node.
pub struct Peer {
    id: NodeId,
    pub zone: u32,
    links: (u32, u32),
    pub swarm: Option<Swarm>,
    pub alive: bool,
    pub starts_at: Nanos,
    pub done_at: Option<Nanos>,
    inbox: Vec<Mail>,
    is_waking: bool,
    woke_at: Nanos,
    /// To whom it speaks, and who is heard (a bit each).
    speaks_to: Vec<Index>,
    hears: Vec<u64>,
    requests: Vec<Request>,
    readings: Vec<Reading>,
    pub messages: u64,
    pub control_bytes: u64,
    pub peak_neighbours: usize,
}

impl Peer {
    fn hears(&self, from: Index) -> bool {
        self.hears.get(from as usize / 64).is_some_and(|word| word & (1 << (from % 64)) != 0)
    }

    fn set_hears(&mut self, from: Index, hears: bool) {
        if let Some(word) = self.hears.get_mut(from as usize / 64) {
            *word = if hears { *word | 1 << (from % 64) } else { *word & !(1 << (from % 64)) };
        }
    }
}

/// What the world did.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    pub events: u64,
    pub origin_bytes: u64,
    pub peer_bytes: u64,
    /// What came into each zone, from the origin and from other zones.
    pub into_zone_bytes: Vec<u64>,
    pub hedged_bytes: u64,
    pub shunned: u64,
}

/// What a world is made of.
pub struct Setting {
    pub spec: SwarmSpec,
    pub hashes: Arc<[ChunkHash]>,
    pub links: Links,
    pub zones: u32,
    pub seed: u64,
}

/// All nodes, the origin, and what is under way.
pub struct World {
    setting: Setting,
    pub peers: Vec<Peer>,
    by_id: BTreeMap<NodeId, Index>,
    network: Network<Carried>,
    origin_link: u32,
    /// Into and out of each zone, where its border is narrow.
    trunks: Vec<(u32, u32)>,
    queue: BinaryHeap<Reverse<Timed>>,
    near: VecDeque<Letter>,
    far: VecDeque<Letter>,
    places: BTreeMap<Index, MeetingPlace>,
    members: Arc<[Member]>,
    ring: Ring,
    numbers: u64,
    pub now: Nanos,
    window: Nanos,
    nap: Nanos,
    pub origin_is_dead: bool,
    pub ledger: Ledger,
    sizes: Sizes,
}

impl World {
    /// `count` nodes dealt to the zones, none of which has started.
    pub fn new(setting: Setting, count: usize) -> Self {
        let links = &setting.links;
        let mut network = Network::new();
        let origin_link = network.add_link(links.origin);
        let trunks = match links.trunk {
            Some(rate) => (0..setting.zones).map(|_| (network.add_link(rate), network.add_link(rate))).collect(),
            None => Vec::new(),
        };
        let mut peers = Vec::with_capacity(count);
        for n in 0..count {
            let rate = links.nodes[n % links.nodes.len()];
            peers.push(Peer {
                id: id_of(n as Index),
                zone: n as u32 % setting.zones.max(1),
                links: (network.add_link(rate), network.add_link(rate)),
                swarm: None,
                alive: false,
                starts_at: 0,
                done_at: None,
                inbox: Vec::new(),
                is_waking: false,
                woke_at: 0,
                speaks_to: Vec::new(),
                hears: vec![0; count.div_ceil(64)],
                requests: Vec::new(),
                readings: Vec::new(),
                messages: 0,
                control_bytes: 0,
                peak_neighbours: 0,
            });
        }
        let fastest = links.nodes.iter().copied().fold(0.0, f64::max);
        let chunk = setting.spec.chunk_bytes.iter().copied().max().unwrap_or(1);
        // A chunk from one of two dozen holders takes about this long.
        let chunk_time = f64::from(chunk) * 24.0 / fastest * 1e9;
        let by_id = peers.iter().enumerate().map(|(n, p)| (p.id, n as Index)).collect();
        let into_zone_bytes = vec![0; setting.zones.max(1) as usize];
        let mut world = Self {
            peers,
            by_id,
            network,
            origin_link,
            trunks,
            queue: BinaryHeap::new(),
            near: VecDeque::new(),
            far: VecDeque::new(),
            places: BTreeMap::new(),
            members: Arc::from([]),
            ring: Ring::default(),
            numbers: 0,
            now: 0,
            window: (chunk_time / 6.0).clamp(1e6, 1e9) as Nanos,
            nap: (chunk_time / 40.0).clamp(2e5, 2e7) as Nanos,
            origin_is_dead: false,
            ledger: Ledger { into_zone_bytes, ..Ledger::default() },
            sizes: Sizes::measured(setting.spec.id),
            setting,
        };
        let everybody: Vec<Index> = (0..count as Index).collect();
        world.see_members(&everybody);
        world
    }

    fn see_members(&mut self, alive: &[Index]) {
        let zone = |n: Index| self.peers[n as usize].zone;
        let mut members: Vec<Member> =
            alive.iter().map(|&n| Member { id: self.peers[n as usize].id, zone: u64::from(zone(n)) }).collect();
        members.sort_unstable();
        self.members = members.into();
        let nodes: Vec<Node> = alive
            .iter()
            .map(|&n| Node {
                id: self.peers[n as usize].id,
                name: String::new(),
                addr: ([127, 0, 0, 1], 1).into(),
                zone: zone(n).to_string(),
                weight: Node::WEIGHT,
                generation: 0,
            })
            .collect();
        self.ring = Ring::new(&nodes);
    }

    /// Has a node begin to want the model, of which it holds `held`.
    pub fn start(&mut self, node: Index, at: Nanos) {
        self.peers[node as usize].starts_at = at;
        self.plan(at, Event::Starts(node));
    }

    /// Has a node die without a word; each of the others notices after as long as `notices` says.
    pub fn kill(&mut self, node: Index, at: Nanos, notices: impl Fn(Index) -> Nanos) {
        self.plan(at, Event::Dies(node));
        let mut last = 0;
        for who in (0..self.peers.len() as Index).filter(|who| *who != node) {
            let after = notices(who);
            last = last.max(after);
            self.plan(at + after, Event::Notices { who, dead: node });
        }
        self.plan(at + last, Event::Gone(node));
    }

    fn plan(&mut self, at: Nanos, event: Event) {
        self.numbers += 1;
        self.queue.push(Reverse(Timed { at, number: self.numbers, event }));
    }

    /// Lets time pass until everybody has the model, or until `limit`. True if everybody has it.
    pub fn run(&mut self, limit: Nanos) -> bool {
        while self.now < limit {
            if self.is_over() {
                return true;
            }
            let until = self.now + self.window;
            if std::env::var_os("DBG").is_some() && self.now / 1_000_000_000 != (self.now + self.window) / 1_000_000_000 {
                let total: u64 = self.setting.spec.chunk_bytes.iter().map(|b| u64::from(*b)).sum();
                let mut held: Vec<u32> = self.peers.iter().filter_map(|p| p.swarm.as_ref()).map(|s| s.held().len()).collect();
                held.sort_unstable();
                let readers = self.peers.iter().filter(|p| !p.readings.is_empty()).count();
                let nb: usize = self.peers.iter().filter_map(|p| p.swarm.as_ref()).map(|s| s.neighbours().count()).sum();
                let reqs: usize = self.peers.iter().map(|p| p.requests.len()).sum();
                let mut any = ChunkSet::new(self.setting.spec.chunk_bytes.len() as u32);
                for p in self.peers.iter().filter_map(|p| p.swarm.as_ref()) { for c in p.held().iter() { any.insert(c); } }
                let mut worst: Vec<(u32, usize)> = self.peers.iter().enumerate().filter_map(|(n, p)| Some((p.swarm.as_ref()?.held().len(), n))).collect();
                worst.sort_unstable();
                for (h, n) in worst.iter().take(12) { let p = &self.peers[*n]; let heard: u32 = p.hears.iter().map(|w| w.count_ones()).sum(); eprint!("[{n}: {h} nb {} h {heard} sp {} rq {} rd {} out {}] ", p.swarm.as_ref().unwrap().neighbours().count(), p.speaks_to.len(), p.requests.len(), p.readings.len(), self.peers.iter().flat_map(|q| &q.requests).filter(|r| r.peer == *n as u32).count()); }
                eprintln!();
                let q = |f: f64| held[((held.len() - 1) as f64 * f) as usize] as f64 / self.setting.spec.chunk_bytes.len() as f64;
                eprintln!("{:.1}s origin {:.3} any {:.3} held {:.3} {:.3} {:.3} {:.3} {:.3} reading {readers} nb {:.1} reqs {:.1}", self.now as f64/1e9, self.ledger.origin_bytes as f64 / total as f64, any.len() as f64 / self.setting.spec.chunk_bytes.len() as f64, q(0.0), q(0.1), q(0.5), q(0.9), q(1.0), nb as f64 / held.len() as f64, reqs as f64 / held.len() as f64);
            }
            let (network, queue, numbers) = (&mut self.network, &mut self.queue, &mut self.numbers);
            network.share(self.now, until, |at, id| {
                *numbers += 1;
                queue.push(Reverse(Timed { at, number: *numbers, event: Event::FlowEnds(id) }));
            });
            self.pass(until);
            self.now = until;
        }
        self.is_over()
    }

    fn is_over(&self) -> bool {
        self.peers.iter().all(|p| p.done_at.is_some() || !p.alive && p.starts_at <= self.now)
    }

    /// Everything that happens before `until`.
    fn pass(&mut self, until: Nanos) {
        loop {
            let at = |letter: Option<&Letter>| letter.map_or(Nanos::MAX, |l| l.at);
            let (near, far) = (at(self.near.front()), at(self.far.front()));
            let timed = self.queue.peek().map_or(Nanos::MAX, |Reverse(t)| t.at);
            let next = near.min(far).min(timed);
            if next >= until {
                return;
            }
            self.now = next;
            self.ledger.events += 1;
            let letter = if near == next {
                self.near.pop_front()
            } else if far == next {
                self.far.pop_front()
            } else {
                None
            };
            match letter {
                Some(Letter { from, to, word, .. }) => self.post(to, Mail::Said { from, word }),
                None => {
                    if let Some(Reverse(Timed { event, .. })) = self.queue.pop() {
                        self.happen(event);
                    }
                }
            }
        }
    }

    /// Puts something before a node, which looks at it when it wakes: a busy one takes several at a time.
    fn post(&mut self, to: Index, mail: Mail) {
        let peer = &mut self.peers[to as usize];
        if !peer.alive {
            return;
        }
        peer.inbox.push(mail);
        if !peer.is_waking {
            peer.is_waking = true;
            let at = self.now.max(peer.woke_at + self.nap);
            self.plan(at, Event::Wake(to));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::FlowEnds(id) => self.arrived(id),
            Event::Asked { node, serial } => self.asked(node, serial),
            Event::Answered { node, serial } => self.answered(node, serial),
            Event::Wake(node) => self.wake(node),
            Event::Tick(node) => {
                let peer = &self.peers[node as usize];
                if !peer.alive || peer.done_at.is_some() {
                    return;
                }
                if !peer.is_waking && self.now >= peer.woke_at + TICK {
                    self.post(node, Mail::Happened(Input::Tick));
                }
                self.plan(self.now + TICK, Event::Tick(node));
            }
            Event::Meet(node, round) => self.meet(node, round),
            Event::Named(node, ids) => self.post(node, Mail::Happened(Input::Met(ids.to_vec()))),
            Event::Starts(node) => self.begin(node),
            Event::Dies(node) => self.die(node),
            Event::Notices { who, dead } => self.notice(who, dead),
            Event::Gone(dead) => {
                let alive: Vec<Index> = (0..self.peers.len() as Index)
                    .filter(|n| *n != dead && (self.peers[*n as usize].alive || self.is_yet_to_start(*n)))
                    .collect();
                self.see_members(&alive);
                for place in self.places.values_mut() {
                    place.forget(self.peers[dead as usize].id);
                }
                for node in alive {
                    let members = Input::Members(self.members.clone());
                    self.post(node, Mail::Happened(members));
                }
            }
        }
    }

    fn is_yet_to_start(&self, node: Index) -> bool {
        let peer = &self.peers[node as usize];
        peer.swarm.is_none() && peer.starts_at > self.now
    }

    fn begin(&mut self, node: Index) {
        let spec = self.setting.spec.clone();
        let count = spec.chunk_bytes.len() as u32;
        let seed = self.setting.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(node);
        let usual = SwarmConfig::default();
        // As many chunks at a time as the product has of its own.
        let chunk = spec.chunk_bytes.iter().copied().max().unwrap_or(1);
        let inflight_bytes_max = usual.inflight_bytes_max.max(48 * u64::from(chunk));
        let config = SwarmConfig { seed, inflight_bytes_max, ..usual };
        let inventory = Inventory { held: ChunkSet::new(count), hashes: vec![None; count as usize] };
        let (me, now) = (self.peers[node as usize].id, Duration::from_nanos(self.now));
        let mut swarm = Swarm::new(spec, config, me, inventory, ChunkSet::full(count), false, now);
        swarm.take(now, Input::Members(self.members.clone()));
        let peer = &mut self.peers[node as usize];
        (peer.swarm, peer.alive) = (Some(swarm), true);
        self.meet(node, 0);
        self.plan(self.now + TICK, Event::Tick(node));
    }

    /// Asks the homes who else takes part, as the product's shell does and as often.
    fn meet(&mut self, node: Index, round: u32) {
        if !self.peers[node as usize].alive {
            return;
        }
        let swarm = self.setting.spec.id;
        let who = Member { id: self.peers[node as usize].id, zone: u64::from(self.peers[node as usize].zone) };
        for home in self.ring.owners(&swarm.0, HOMES) {
            let home = self.by_id[&home];
            let delay = if home == node { 0 } else { 2 * self.latency(node, home) };
            // A home that is dead and not known to be does not answer; one that has nothing to do lives all the same.
            if !self.peers[home as usize].alive && !self.is_yet_to_start(home) {
                continue;
            }
            let named = self.places.entry(home).or_default().meet(
                Duration::from_nanos(self.now),
                who,
                swarm,
                true,
            );
            if home != node {
                let (ask, answer) = self.sizes.meeting(named.len());
                self.count(node, ask);
                self.count(home, answer);
            }
            self.plan(self.now + delay, Event::Named(node, Rc::new(named)));
        }
        let wait = match MEET_AGAIN.get(round as usize) {
            Some(wait) if self.members.len() > DIRECT => *wait,
            _ => MEET_EVERY,
        };
        self.plan(self.now + wait.as_nanos() as Nanos, Event::Meet(node, round + 1));
    }

    fn count(&mut self, node: Index, bytes: u64) {
        let peer = &mut self.peers[node as usize];
        peer.messages += 1;
        peer.control_bytes += bytes;
    }

    fn latency(&self, a: Index, b: Index) -> Nanos {
        if self.peers[a as usize].zone == self.peers[b as usize].zone { NEAR } else { FAR }
    }

    fn die(&mut self, node: Index) {
        let peer = &mut self.peers[node as usize];
        peer.alive = false;
        peer.inbox.clear();
        let flows = peer.requests.drain(..).filter_map(|r| r.flow);
        let flows: Vec<FlowId> = flows.chain(peer.readings.drain(..).filter_map(|r| r.flow)).collect();
        flows.into_iter().for_each(|id| self.network.end(id));
        // What it was sending stops; those who wait for it do not know yet.
        for to in 0..self.peers.len() {
            for at in 0..self.peers[to].requests.len() {
                let request = &mut self.peers[to].requests[at];
                if request.peer == node && let Some(flow) = request.flow.take() {
                    self.network.end(flow);
                }
            }
        }
    }

    fn notice(&mut self, who: Index, dead: Index) {
        let id = self.peers[dead as usize].id;
        let peer = &mut self.peers[who as usize];
        peer.speaks_to.retain(|n| *n != dead);
        if peer.alive && peer.hears(dead) {
            peer.set_hears(dead, false);
            self.post(who, Mail::Happened(Input::Left(id)));
        }
    }

    fn wake(&mut self, node: Index) {
        let now = Duration::from_nanos(self.now);
        let peer = &mut self.peers[node as usize];
        (peer.is_waking, peer.woke_at) = (false, self.now);
        if !peer.alive {
            return;
        }
        let mut inbox = std::mem::take(&mut peer.inbox);
        let Some(mut swarm) = peer.swarm.take() else { return };
        for mail in inbox.drain(..) {
            match mail {
                Mail::Happened(input) => swarm.take(now, input),
                Mail::Said { from, word } => self.hear(&mut swarm, node, from, &word),
            }
        }
        swarm.handle(now, Input::Tick);
        self.act(&mut swarm, node);
        let peer = &mut self.peers[node as usize];
        peer.peak_neighbours = peer.peak_neighbours.max(swarm.neighbours().count());
        peer.swarm = Some(swarm);
        if peer.inbox.is_empty() {
            // Its room is kept.
            peer.inbox = inbox;
        }
    }

    fn hear(&mut self, swarm: &mut Swarm, node: Index, from: Index, word: &Word) {
        let now = Duration::from_nanos(self.now);
        let peer = self.peers[from as usize].id;
        match word {
            Word::Hello { held, claims } => {
                if !swarm.admits(peer) {
                    return self.part(node, from);
                }
                self.peers[node as usize].set_hears(from, true);
                let same_zone = self.peers[from as usize].zone == self.peers[node as usize].zone;
                let joined =
                    Input::Joined { peer, same_zone, held: held.clone(), wanted: None, reads_origin: true };
                swarm.take(now, joined);
                for span in claims {
                    swarm.take(now, Input::Claimed { peer, span: *span });
                }
                let items: Vec<_> = held.iter().map(|c| (c, self.setting.hashes[c as usize])).collect();
                if !items.is_empty() {
                    swarm.take(now, Input::Have { peer, items });
                }
                if !self.peers[node as usize].speaks_to.contains(&from) {
                    self.speak(swarm, node, from);
                }
            }
            Word::Bye => {
                self.peers[node as usize].speaks_to.retain(|n| *n != from);
                if self.peers[node as usize].hears(from) {
                    self.peers[node as usize].set_hears(from, false);
                    swarm.take(now, Input::Left(peer));
                }
            }
            _ if !self.peers[node as usize].hears(from) => {}
            Word::Have(chunks) => {
                let items = chunks.iter().map(|c| (*c, self.setting.hashes[*c as usize])).collect();
                swarm.take(now, Input::Have { peer, items });
            }
            Word::Claim(span) => swarm.take(now, Input::Claimed { peer, span: *span }),
            Word::Unclaim(span) => swarm.take(now, Input::Unclaimed { peer, span: *span }),
        }
    }

    fn part(&mut self, node: Index, from: Index) {
        self.peers[node as usize].set_hears(from, false);
        self.peers[node as usize].speaks_to.retain(|n| *n != from);
        self.send(node, from, Rc::new(Word::Bye));
    }

    fn speak(&mut self, swarm: &Swarm, node: Index, to: Index) {
        self.peers[node as usize].speaks_to.push(to);
        let hello = Word::Hello { held: swarm.held().clone(), claims: swarm.reading().collect() };
        self.send(node, to, Rc::new(hello));
    }

    fn send(&mut self, from: Index, to: Index, word: Rc<Word>) {
        self.count(from, self.sizes.word(&word));
        let latency = self.latency(from, to);
        let letter = Letter { at: self.now + latency, from, to, word };
        if latency == NEAR { self.near.push_back(letter) } else { self.far.push_back(letter) }
    }

    fn say(&mut self, from: Index, word: Word) {
        let word = Rc::new(word);
        for at in 0..self.peers[from as usize].speaks_to.len() {
            let to = self.peers[from as usize].speaks_to[at];
            self.send(from, to, word.clone());
        }
    }

    fn act(&mut self, swarm: &mut Swarm, node: Index) {
        while let Some(output) = swarm.poll() {
            match output {
                Output::Greet { peer } => {
                    let to = self.by_id[&peer];
                    if !self.peers[node as usize].speaks_to.contains(&to) {
                        self.speak(swarm, node, to);
                    }
                }
                Output::Part { peer } => self.part(node, self.by_id[&peer]),
                Output::Request { peer, index } => {
                    let peer = self.by_id[&peer];
                    self.numbers += 1;
                    let serial = self.numbers;
                    let requests = &mut self.peers[node as usize].requests;
                    if requests.iter().any(|r| r.chunk == index) {
                        self.ledger.hedged_bytes += u64::from(self.setting.spec.chunk_bytes[index as usize]);
                    }
                    requests.push(Request { peer, chunk: index, serial, flow: None });
                    self.count(node, self.sizes.request);
                    self.count(peer, self.sizes.reply);
                    let at = self.now + 2 * self.latency(node, peer);
                    self.plan(at, Event::Asked { node, serial });
                }
                Output::Cancel { peer, index } => {
                    let peer = self.by_id[&peer];
                    let requests = &mut self.peers[node as usize].requests;
                    if let Some(at) = requests.iter().position(|r| r.peer == peer && r.chunk == index) {
                        let flow = requests.swap_remove(at).flow;
                        flow.into_iter().for_each(|id| self.network.end(id));
                    }
                }
                Output::FetchSpan { span, chunks } => {
                    self.numbers += 1;
                    let serial = self.numbers;
                    self.peers[node as usize].readings.push(Reading { span, chunks, serial, flow: None });
                    self.plan(self.now + ORIGIN_FIRST_BYTE, Event::Answered { node, serial });
                }
                Output::CancelSpan { span } => {
                    let readings = &mut self.peers[node as usize].readings;
                    if let Some(at) = readings.iter().position(|r| r.span == span) {
                        let flow = readings.swap_remove(at).flow;
                        flow.into_iter().for_each(|id| self.network.end(id));
                    }
                }
                Output::Announce { items } => {
                    self.say(node, Word::Have(items.into_iter().map(|(c, _)| c).collect()));
                }
                Output::Claim { span } => self.say(node, Word::Claim(span)),
                Output::Unclaim { span } => self.say(node, Word::Unclaim(span)),
                Output::Shun { .. } => self.ledger.shunned += 1,
                Output::Complete => self.peers[node as usize].done_at = Some(self.now),
                Output::Settle { .. } | Output::Discard { .. } | Output::Rush { .. } | Output::CancelRush { .. } => {}
            }
        }
    }

    fn asked(&mut self, node: Index, serial: u64) {
        let requests = &self.peers[node as usize].requests;
        let Some(at) = requests.iter().position(|r| r.serial == serial) else { return };
        let (from, chunk) = (requests[at].peer, requests[at].chunk);
        if !self.peers[from as usize].alive {
            return;
        }
        let bytes = f64::from(self.setting.spec.chunk_bytes[chunk as usize]);
        let way = self.way(from, node);
        let carried = Carried::Peer { from, to: node, chunk };
        let (id, ends) = self.network.begin(self.now, way, bytes, carried);
        self.peers[node as usize].requests[at].flow = Some(id);
        self.expect(id, ends);
    }

    fn expect(&mut self, id: FlowId, ends: Option<Nanos>) {
        // Past the window rates are other ones.
        let until = self.now - self.now % self.window + self.window;
        if let Some(at) = ends.filter(|at| *at < until) {
            self.plan(at, Event::FlowEnds(id));
        }
    }

    fn way(&self, from: Index, to: Index) -> [u32; HOPS] {
        let (a, b) = (&self.peers[from as usize], &self.peers[to as usize]);
        let mut way = [a.links.0, b.links.1, NO_LINK, NO_LINK];
        if a.zone != b.zone && !self.trunks.is_empty() {
            (way[2], way[3]) = (self.trunks[a.zone as usize].1, self.trunks[b.zone as usize].0);
        }
        way
    }

    fn answered(&mut self, node: Index, serial: u64) {
        let peer = &self.peers[node as usize];
        let Some(at) = peer.readings.iter().position(|r| r.serial == serial) else { return };
        let (span, chunk) = (peer.readings[at].span, peer.readings[at].chunks.start);
        if self.origin_is_dead {
            self.peers[node as usize].readings.swap_remove(at);
            let failed = Input::OriginDone { span, failed: Some(ErrorKind::UNAVAILABLE) };
            return self.post(node, Mail::Happened(failed));
        }
        let mut way = [self.origin_link, peer.links.1, NO_LINK, NO_LINK];
        if let Some((into, _)) = self.trunks.get(peer.zone as usize) {
            way[2] = *into;
        }
        let bytes = f64::from(self.setting.spec.chunk_bytes[chunk as usize]);
        let (id, ends) = self.network.begin(self.now, way, bytes, Carried::Origin { to: node, span, chunk });
        self.peers[node as usize].readings[at].flow = Some(id);
        self.expect(id, ends);
    }

    fn arrived(&mut self, id: FlowId) {
        let Some(carried) = self.network.tag(id) else { return };
        match carried {
            Carried::Peer { from, to, chunk } => {
                self.network.end(id);
                let bytes = u64::from(self.setting.spec.chunk_bytes[chunk as usize]);
                self.ledger.peer_bytes += bytes;
                let (a, b) = (self.peers[from as usize].zone, self.peers[to as usize].zone);
                if a != b {
                    self.ledger.into_zone_bytes[b as usize] += bytes;
                }
                self.peers[to as usize].requests.retain(|r| r.flow != Some(id));
                let round_trip = Some(Duration::from_nanos(2 * self.latency(from, to)));
                let peer = self.peers[from as usize].id;
                self.post(to, Mail::Happened(Input::Received { peer, index: chunk, round_trip }));
                self.stored(to, chunk);
            }
            Carried::Origin { to, span, chunk } => {
                let bytes = u64::from(self.setting.spec.chunk_bytes[chunk as usize]);
                self.ledger.origin_bytes += bytes;
                let zone = self.peers[to as usize].zone;
                self.ledger.into_zone_bytes[zone as usize] += bytes;
                self.post(to, Mail::Happened(Input::OriginChunk { span, index: chunk }));
                self.stored(to, chunk);
                self.read_on(to, span, chunk + 1, id);
            }
        }
    }

    fn stored(&mut self, node: Index, index: u32) {
        let hash = self.setting.hashes[index as usize];
        self.post(node, Mail::Happened(Input::Stored { index, hash }));
    }

    fn read_on(&mut self, to: Index, span: u32, chunk: u32, id: FlowId) {
        let readings = &mut self.peers[to as usize].readings;
        let Some(at) = readings.iter().position(|r| r.flow == Some(id)) else { return self.network.end(id) };
        if chunk >= readings[at].chunks.end {
            readings.swap_remove(at);
            self.network.end(id);
            return self.post(to, Mail::Happened(Input::OriginDone { span, failed: None }));
        }
        let bytes = f64::from(self.setting.spec.chunk_bytes[chunk as usize]);
        let ends = self.network.go_on(self.now, id, bytes, Carried::Origin { to, span, chunk });
        self.expect(id, ends);
    }

    /// What all nodes said beside payload, by kind of node: messages and bytes.
    pub fn control(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.peers.iter().map(|p| (p.messages, p.control_bytes))
    }
}

/// An id that looks like real ones: ranks are taken from it.
pub(super) fn id_of(node: Index) -> NodeId {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(&node.to_le_bytes()).as_bytes()[..16]);
    NodeId(bytes)
}
