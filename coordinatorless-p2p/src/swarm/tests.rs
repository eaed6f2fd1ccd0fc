//! The state machines of several nodes in virtual time, over links that are shared fairly.

use super::*;
use crate::error::ErrorKind;
use crate::seam::Inventory;

mod crowds;
mod reading;

const STEP: Duration = Duration::from_millis(1);
const CHUNK: u32 = 1 << 20;
/// Bytes a millisecond of an ordinary link: 400 Mbit/s.
const LINK: f64 = 50_000.0;

fn id(n: usize) -> NodeId {
    // Spread like real ids: ranks are taken from them.
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(&n.to_le_bytes()).as_bytes()[..16]);
    NodeId(bytes)
}

fn members(ids: &[NodeId]) -> Arc<[Member]> {
    let mut members: Vec<Member> = ids.iter().map(|id| Member { id: *id, zone: 0 }).collect();
    members.sort_unstable();
    members.into()
}

fn hash_of(index: u32) -> ChunkHash {
    ChunkHash::of(&index.to_le_bytes())
}

fn spec(chunks: u32, span: u32) -> SwarmSpec {
    SwarmSpec {
        id: SwarmId([9; 32]),
        chunk_bytes: vec![CHUNK; chunks as usize].into(),
        spans: (0..chunks)
            .step_by(span as usize)
            .map(|s| s..(s + span).min(chunks))
            .collect::<Vec<_>>()
            .into(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Origin { span: u32 },
    Rush,
    Peer(usize),
}

struct Flow {
    to: usize,
    from: From,
    chunks: Range<u32>,
    left: f64,
}

struct SimNode {
    swarm: Swarm,
    up: f64,
    down: f64,
    alive: bool,
    done_at: Option<Now>,
    corrupts: bool,
}

/// What the world did.
#[derive(Default)]
struct Ledger {
    origin_bytes: u64,
    peer_bytes: u64,
    shunned: Vec<(usize, NodeId)>,
    hedges: usize,
    rushes: usize,
}

struct World {
    spec: SwarmSpec,
    nodes: Vec<SimNode>,
    flows: Vec<Flow>,
    mail: Vec<(usize, usize, Input)>,
    origin_up: f64,
    /// What each stream of the origin gets at most.
    origin_each: f64,
    /// How many times as much as others get of a link the origin's streams to a node get; once, if not said.
    favour: BTreeMap<usize, f64>,
    origin_dead: bool,
    /// Nodes that get nothing from the origin while peers send to them: their queues let it through last.
    starved: Vec<usize>,
    now: Now,
    ledger: Ledger,
}

impl World {
    fn new(spec: SwarmSpec, origin_up: f64) -> Self {
        Self {
            spec,
            nodes: Vec::new(),
            flows: Vec::new(),
            mail: Vec::new(),
            origin_up,
            origin_each: f64::INFINITY,
            favour: BTreeMap::new(),
            origin_dead: false,
            starved: Vec::new(),
            now: Duration::ZERO,
            ledger: Ledger::default(),
        }
    }

    /// A node that holds `held` starts now and greets everybody.
    fn start(&mut self, link: f64, held: ChunkSet) -> usize {
        self.start_all(&[(link, held)]);
        self.nodes.len() - 1
    }

    /// Nodes with these links and holdings start now, all at once, and greet everybody.
    fn start_all(&mut self, newcomers: &[(f64, ChunkSet)]) {
        let first = self.nodes.len();
        let count = self.spec.chunk_bytes.len() as u32;
        for (link, held) in newcomers {
            let n = self.nodes.len();
            let hashes = (0..count).map(|c| held.contains(c).then(|| hash_of(c))).collect();
            let config = SwarmConfig { seed: n as u64, ..SwarmConfig::default() };
            let inventory = Inventory { held: held.clone(), hashes };
            let wanted = ChunkSet::full(count);
            let swarm = Swarm::new(self.spec.clone(), config, id(n), inventory, wanted, false, self.now);
            let (up, down) = (*link, *link);
            self.nodes.push(SimNode { swarm, up, down, alive: true, done_at: None, corrupts: false });
        }
        // Who is alive is known before anything else: membership is older than any swarm.
        let ids: Vec<NodeId> = (0..self.nodes.len()).map(id).collect();
        let members = members(&ids);
        for node in &mut self.nodes {
            node.swarm.handle(self.now, Input::Members(members.clone()));
        }
        for n in first..self.nodes.len() {
            for other in (0..n).filter(|&other| self.nodes[other].alive).collect::<Vec<_>>() {
                self.greet(n, other);
                self.greet(other, n);
            }
            let others = ids.iter().copied().filter(|m| *m != id(n)).collect();
            self.mail.push((n, n, Input::Met(others)));
        }
    }

    /// A herd of nodes with nothing starts at once.
    fn herd(&mut self, nodes: usize, link: f64) {
        let count = self.spec.chunk_bytes.len() as u32;
        self.start_all(&vec![(link, cold(count)); nodes]);
    }

    fn greet(&mut self, from: usize, to: usize) {
        let swarm = &self.nodes[from].swarm;
        let held = swarm.held().clone();
        let items = held.iter().filter_map(|i| swarm.hash(i).map(|h| (i, h))).collect();
        let claims: Vec<u32> = swarm.reading().collect();
        let peer = id(from);
        let joined = Input::Joined { peer, same_zone: true, held, wanted: None, reads_origin: true };
        self.mail.push((from, to, joined));
        self.mail.push((from, to, Input::Have { peer, items }));
        for span in claims {
            self.mail.push((from, to, Input::Claimed { peer, span }));
        }
    }

    fn kill(&mut self, n: usize) {
        self.nodes[n].alive = false;
        self.flows.retain(|f| f.to != n);
        let broken: Vec<Flow> = {
            let (gone, rest) = self.flows.drain(..).partition(|f| f.from == From::Peer(n));
            self.flows = rest;
            gone
        };
        for flow in broken {
            let why = ErrorKind::UNAVAILABLE;
            self.mail.push((n, flow.to, Input::RequestFailed { peer: id(n), index: flow.chunks.start, why }));
        }
        for to in 0..self.nodes.len() {
            self.mail.push((n, to, Input::Left(id(n))));
        }
    }

    /// A node says that it goes, wants nothing more, and serves on.
    fn announce_leaving(&mut self, n: usize) {
        self.nodes[n].swarm.handle(self.now, Input::Leave);
        self.act(n);
        for to in (0..self.nodes.len()).filter(|&to| to != n) {
            self.mail.push((n, to, Input::Leaving(id(n))));
        }
    }

    /// Bytes that a node has stored and no other.
    fn stored_alone(&self, n: usize) -> u64 {
        let others = |c| (0..self.nodes.len()).any(|o| o != n && self.nodes[o].swarm.held().contains(c));
        self.nodes[n].swarm.held().iter().filter(|c| !others(*c)).count() as u64 * u64::from(CHUNK)
    }

    fn deliver(&mut self) {
        for (from, to, input) in std::mem::take(&mut self.mail) {
            let lives = from == to
                || self.nodes[from].alive
                || matches!(input, Input::Left(_) | Input::RequestFailed { .. });
            if self.nodes[to].alive && lives {
                self.nodes[to].swarm.handle(self.now, input);
            }
        }
    }

    fn act(&mut self, n: usize) {
        while let Some(output) = self.nodes[n].swarm.poll() {
            let me = id(n);
            let tell = |input: Input, world: &mut Self| {
                for to in (0..world.nodes.len()).filter(|&to| to != n) {
                    world.mail.push((n, to, input.clone()));
                }
            };
            match output {
                Output::Request { peer, index } => {
                    let from = (0..self.nodes.len()).find(|&p| id(p) == peer).unwrap();
                    let bytes = f64::from(self.spec.chunk_bytes[index as usize]);
                    if self
                        .flows
                        .iter()
                        .any(|f| f.to == n && f.from != From::Peer(from) && f.chunks == (index..index + 1))
                    {
                        self.ledger.hedges += 1;
                    }
                    if self.nodes[from].alive {
                        self.flows.push(Flow {
                            to: n,
                            from: From::Peer(from),
                            chunks: index..index + 1,
                            left: bytes,
                        });
                    }
                }
                Output::Cancel { peer, index } => {
                    let from = (0..self.nodes.len()).find(|&p| id(p) == peer).unwrap();
                    self.flows
                        .retain(|f| !(f.to == n && f.from == From::Peer(from) && f.chunks.start == index));
                }
                Output::FetchSpan { span, chunks } => {
                    if self.origin_dead {
                        self.mail.push((
                            n,
                            n,
                            Input::OriginDone { span, failed: Some(ErrorKind::UNAVAILABLE) },
                        ));
                    } else {
                        let left = f64::from(self.spec.chunk_bytes[chunks.start as usize]);
                        self.flows.push(Flow { to: n, from: From::Origin { span }, chunks, left });
                    }
                }
                Output::Rush { index } if self.origin_dead => {
                    let failed = Some(ErrorKind::UNAVAILABLE);
                    self.mail.push((n, n, Input::Rushed { index, failed }));
                }
                Output::Rush { index } => {
                    self.ledger.rushes += 1;
                    let left = f64::from(self.spec.chunk_bytes[index as usize]);
                    self.flows.push(Flow { to: n, from: From::Rush, chunks: index..index + 1, left });
                }
                Output::CancelRush { index } => {
                    self.call_off(|f| f.to == n && f.from == From::Rush && f.chunks.start == index);
                }
                Output::CancelSpan { span } => {
                    self.call_off(|f| f.to == n && f.from == From::Origin { span });
                }
                Output::Announce { items } => tell(Input::Have { peer: me, items }, self),
                Output::Claim { span } => tell(Input::Claimed { peer: me, span }, self),
                Output::Unclaim { span } => tell(Input::Unclaimed { peer: me, span }, self),
                Output::Settle { index } => {
                    self.ledger.origin_bytes += u64::from(CHUNK);
                    self.mail.push((n, n, Input::Settled { index, hash: hash_of(index) }));
                }
                Output::Shun { peer, .. } => self.ledger.shunned.push((n, peer)),
                Output::Complete => self.nodes[n].done_at = Some(self.now),
                Output::Discard { .. } | Output::Greet { .. } | Output::Part { .. } => {}
            }
        }
    }

    /// Ends readings of the origin; what came of the chunk under way came in vain.
    fn call_off(&mut self, is_ended: impl Fn(&Flow) -> bool) {
        let in_vain = |f: &Flow| f64::from(CHUNK) - f.left;
        let ended: f64 = self.flows.iter().filter(|f| is_ended(f)).map(in_vain).sum();
        self.ledger.origin_bytes += ended as u64;
        self.flows.retain(|f| !is_ended(f));
    }

    /// Max-min fair rates of all flows: the narrowest link is shared first.
    fn rates(&self) -> Vec<f64> {
        let source = |from: From| match from {
            From::Origin { .. } | From::Rush => 0,
            From::Peer(p) => 1 + p,
        };
        let n = self.nodes.len();
        // The last of its ends is the flow itself.
        let ends_of = |(i, f): (usize, &Flow)| [source(f.from), 1 + n + f.to, 1 + 2 * n + i];
        let ends: Vec<[usize; 3]> = self.flows.iter().enumerate().map(ends_of).collect();
        let most = |f: &Flow| if source(f.from) == 0 { self.origin_each } else { f64::INFINITY };
        let mut room: Vec<f64> = std::iter::once(self.origin_up)
            .chain(self.nodes.iter().map(|n| n.up))
            .chain(self.nodes.iter().map(|n| n.down))
            .chain(self.flows.iter().map(most))
            .collect();
        let is_fed = |n| self.flows.iter().any(|f| f.to == n && source(f.from) > 0);
        let starves = |f: &Flow| source(f.from) == 0 && self.starved.contains(&f.to) && is_fed(f.to);
        let mut rates: Vec<Option<f64>> = self.flows.iter().map(|f| starves(f).then_some(0.0)).collect();
        let favour = |f: &Flow| match source(f.from) {
            0 => self.favour.get(&f.to).copied().unwrap_or(1.0),
            _ => 1.0,
        };
        let favours: Vec<f64> = self.flows.iter().map(favour).collect();
        let mut open: Vec<(usize, f64)> = vec![(0, 0.0); room.len()];
        for ((ends, _), favour) in ends.iter().zip(&rates).zip(&favours).filter(|((_, r), _)| r.is_none()) {
            ends.iter().for_each(|l| open[*l] = (open[*l].0 + 1, open[*l].1 + favour));
        }
        while let Some((share, link)) = (0..room.len())
            .filter(|&l| open[l].0 > 0)
            .map(|l| (room[l] / open[l].1, l))
            .min_by(|a, b| a.0.total_cmp(&b.0))
        {
            for (i, ends) in ends.iter().enumerate().filter(|(_, ends)| ends.contains(&link)) {
                if rates[i].is_some() {
                    continue;
                }
                rates[i] = Some(share * favours[i]);
                for l in ends {
                    room[*l] -= share * favours[i];
                    open[*l] = (open[*l].0 - 1, open[*l].1 - favours[i]);
                }
            }
        }
        rates.into_iter().map(|r| r.unwrap_or(0.0)).collect()
    }

    /// One millisecond.
    fn step(&mut self) {
        self.now += STEP;
        let rates = self.rates();
        let mut flows = std::mem::take(&mut self.flows);
        for (flow, rate) in flows.iter_mut().zip(rates) {
            flow.left -= rate;
            if flow.left <= 0.0 {
                let index = flow.chunks.start;
                flow.chunks.start += 1;
                flow.left += f64::from(CHUNK);
                self.arrive(flow.to, flow.from, index, flow.chunks.is_empty());
            }
        }
        flows.retain(|f| !f.chunks.is_empty());
        // What arrivals started comes behind what goes on.
        flows.append(&mut self.flows);
        self.flows = flows;
        self.deliver();
        for n in 0..self.nodes.len() {
            if self.nodes[n].alive {
                self.nodes[n].swarm.handle(self.now, Input::Tick);
                self.act(n);
            }
        }
    }

    fn arrive(&mut self, to: usize, from: From, index: u32, last: bool) {
        let hash = hash_of(index);
        match from {
            From::Origin { span } => {
                self.ledger.origin_bytes += u64::from(CHUNK);
                self.mail.push((to, to, Input::OriginChunk { span, index }));
                self.mail.push((to, to, Input::Stored { index, hash }));
                if last {
                    self.mail.push((to, to, Input::OriginDone { span, failed: None }));
                }
            }
            From::Rush => {
                self.ledger.origin_bytes += u64::from(CHUNK);
                self.mail.push((to, to, Input::Rushed { index, failed: None }));
                self.mail.push((to, to, Input::Stored { index, hash }));
            }
            From::Peer(p) => {
                let peer = id(p);
                self.ledger.peer_bytes += u64::from(CHUNK);
                if self.nodes[p].corrupts {
                    self.mail.push((to, to, Input::RequestFailed { peer, index, why: ErrorKind::Corrupt }));
                } else {
                    self.mail.push((to, to, Input::Received { peer, index, round_trip: Some(STEP) }));
                    self.mail.push((to, to, Input::Stored { index, hash }));
                }
            }
        }
    }

    fn run(&mut self, limit: Duration) {
        while self.now < limit && self.nodes.iter().any(|n| n.alive && n.done_at.is_none()) {
            self.step();
        }
        for (n, node) in self.nodes.iter().enumerate() {
            assert!(
                !node.alive || node.done_at.is_some(),
                "node {n} lacks {} chunks after {limit:?}",
                node.swarm.missing()
            );
        }
    }

    fn makespan(&self) -> f64 {
        self.nodes.iter().filter_map(|n| n.done_at).max().unwrap().as_secs_f64()
    }

    fn model_bytes(&self) -> u64 {
        u64::from(CHUNK) * self.spec.chunk_bytes.len() as u64
    }

    fn origin_ratio(&self) -> f64 {
        self.ledger.origin_bytes as f64 / self.model_bytes() as f64
    }

    /// Kumar & Ross: no scheme distributes faster.
    fn bound(&self) -> f64 {
        let (f, n) = (self.model_bytes() as f64, self.nodes.len() as f64);
        let up: f64 = self.nodes.iter().map(|n| n.up).sum();
        let down = self.nodes.iter().map(|n| n.down).fold(f64::INFINITY, f64::min);
        (f / self.origin_up).max(f / down).max(n * f / (self.origin_up + up)) / 1000.0
    }
}

fn cold(chunks: u32) -> ChunkSet {
    ChunkSet::new(chunks)
}

#[test]
fn a_cold_herd_reads_the_origin_once_and_ends_near_the_bound() {
    // With sixteen it is 1.13 or 1.22, by the seed.
    for (nodes, limit) in [(1, 1.02), (2, 1.03), (4, 1.05), (8, 1.13), (16, 1.25)] {
        let mut world = World::new(spec(256, 4), LINK);
        world.herd(nodes, LINK);
        world.run(Duration::from_secs(120));
        let ratio = world.makespan() / world.bound();
        println!("N={nodes}: {ratio:.3} x bound, origin {:.3}", world.origin_ratio());
        assert!(world.origin_ratio() <= 1.02, "N={nodes}: origin {:.3}", world.origin_ratio());
        assert!(ratio <= limit, "N={nodes}: {ratio:.3} x the bound");
    }
}

#[test]
fn mixed_links_do_not_hold_the_fast_ones_back_from_the_origin() {
    let mut world = World::new(spec(256, 4), LINK);
    for n in 0..8 {
        world.start(if n % 2 == 0 { LINK } else { LINK / 4.0 }, cold(256));
    }
    world.run(Duration::from_secs(200));
    let ratio = world.makespan() / world.bound();
    println!("mixed: {ratio:.3}, origin {:.3}", world.origin_ratio());
    assert!(world.origin_ratio() <= 1.02 && ratio <= 1.2, "{ratio:.3}, origin {:.3}", world.origin_ratio());
}

#[test]
fn what_slow_nodes_read_and_do_not_get_holds_nobody_up() {
    let mut world = World::new(spec(256, 4), LINK);
    world.starved = (0..8).filter(|n| n % 2 == 1).collect();
    for n in 0..8 {
        world.start(if n % 2 == 0 { LINK } else { LINK / 4.0 }, cold(256));
    }
    world.run(Duration::from_secs(200));
    let of_fast = world.nodes.iter().step_by(2).filter_map(|n| n.done_at).max().unwrap().as_secs_f64();
    println!("the fast after {of_fast:.1} s, all after {:.1}", world.makespan());
    assert!(of_fast < world.bound() / 2.0, "the fast waited {of_fast:.1} of {:.1} s", world.makespan());
    assert!(world.makespan() <= 1.1 * world.bound(), "{:.3}", world.makespan() / world.bound());
    assert!(world.origin_ratio() <= 1.05, "origin {:.3}", world.origin_ratio());
}

#[test]
fn an_origin_that_is_slow_to_all_is_read_once_although_some_have_nothing_to_read() {
    // Four spans for eight nodes; the four that read share what brings each a chunk in four seconds.
    let mut world = World::new(spec(16, 4), f64::from(CHUNK) / 1000.0);
    world.herd(8, LINK);
    world.run(Duration::from_secs(200));
    let first = Duration::from_secs(4);
    assert!(first > SwarmConfig::default().takeover_min);
    assert!(world.origin_ratio() <= 1.02, "origin {:.3}", world.origin_ratio());
}

/// Streams that share a narrow link get very different parts of it. Who reads fast knows by that only how he
/// fares himself.
#[test]
fn an_origin_that_gives_some_a_tenth_of_what_others_get_is_read_once() {
    let favours = [[1.0, 0.1, 0.3, 0.1], [0.1, 1.0, 0.1, 0.3], [1.0, 0.1, 0.1, 0.1], [0.1, 1.0, 1.0, 1.0]];
    let (mut most, mut longest): (f64, f64) = (0.0, 0.0);
    for favours in favours {
        let mut world = World::new(spec(512, 4), LINK / 8.0);
        world.favour = (0..16).map(|n| (n, favours[n % 4])).collect();
        world.herd(16, LINK / 8.0);
        world.run(Duration::from_secs(300));
        let (origin, ratio) = (world.origin_ratio(), world.makespan() / world.bound());
        println!("{ratio:.3} x the bound, origin {origin:.3}");
        (most, longest) = (most.max(origin), longest.max(ratio));
    }
    assert!(most <= 1.03 && longest <= 1.3, "origin {most:.3}, {longest:.3} x the bound");
}

/// A narrow origin gives a few most of what it has, and the others a chunk in more than half a minute. What these
/// read comes all the same.
#[test]
fn an_origin_that_starves_most_of_its_readers_is_read_once() {
    let origin = LINK / 16.0;
    let (mut most, mut longest): (f64, f64) = (0.0, 0.0);
    for favoured in [0, 1] {
        let mut world = World::new(spec(256, 4), origin);
        world.favour = (0..16).map(|n| (n, if n % 5 == favoured { 1.0 } else { 0.03 })).collect();
        world.herd(16, origin);
        world.run(Duration::from_secs(300));
        let (origin, ratio) = (world.origin_ratio(), world.makespan() / world.bound());
        println!("{ratio:.3} x the bound, origin {origin:.3}");
        (most, longest) = (most.max(origin), longest.max(ratio));
    }
    assert!(most <= 1.02 && longest <= 1.4, "origin {most:.3}, {longest:.3} x the bound");
}

/// Object stores hold each connection to a rate of its own.
#[test]
fn an_origin_that_holds_each_stream_to_a_rate_is_read_by_many_whoever_joins() {
    let world = || {
        let mut world = World::new(spec(512, 4), 8.0 * LINK);
        world.origin_each = LINK / 16.0;
        world
    };
    let mut alone = world();
    alone.start(LINK, cold(512));
    alone.run(Duration::from_secs(300));
    let mut herd = world();
    herd.herd(2, LINK);
    herd.run(Duration::from_secs(300));
    let mut joined = world();
    joined.start(LINK, cold(512));
    while joined.now < Duration::from_secs(8) {
        joined.step();
    }
    joined.start(LINK, cold(512));
    joined.run(Duration::from_secs(300));
    let first = joined.nodes[0].done_at.unwrap().as_secs_f64();
    println!("alone {:.1} s, two at once {:.1} s, joined {first:.1} s", alone.makespan(), herd.makespan());
    // What it takes to find out how many streams bring more, however large the artifact.
    let most = alone.makespan() + 3.0;
    assert!(herd.makespan() <= most && first <= most);
}

#[test]
fn a_reader_that_repeats_what_it_has_makes_no_progress() {
    let mut swarm = lone(cold(8), false);
    drain(&mut swarm);
    swarm.handle(STEP, Input::Members(members(&[id(0), id(1)])));
    swarm.handle(STEP, Input::Met(vec![id(1)]));
    let (held, peer) = (cold(8), id(1));
    swarm.handle(STEP, Input::Joined { peer, same_zone: true, held, wanted: None, reads_origin: true });
    for span in 0..2 {
        swarm.handle(STEP, Input::Claimed { peer, span });
    }
    let items = vec![(0, hash_of(0)), (4, hash_of(4))];
    let mut now = STEP;
    while now < Duration::from_secs(60) {
        swarm.handle(now, Input::Have { peer, items: items.clone() });
        swarm.handle(now, Input::Tick);
        now += Duration::from_millis(100);
    }
    let read = |o: &Output| matches!(o, Output::FetchSpan { .. });
    assert!(drain(&mut swarm).iter().any(read), "its spans are its own for as long as it talks");
}

/// Node 0, which lacks span 1 of three and reads it in half a second a chunk, and node 1, which gives a chunk up
/// after eight seconds. What is lost then, nothing else is to be read.
fn beside_a_slow_reader() -> (Swarm, Now) {
    let held = (0..4).chain(8..12).fold(cold(12), |mut set, c| {
        set.insert(c);
        set
    });
    let (mut swarm, slow) = (lone(held, false), id(1));
    let wanted = None;
    swarm.handle(STEP, Input::Members(members(&[id(0), slow])));
    swarm.handle(STEP, Input::Met(vec![slow]));
    let joined = Input::Joined { peer: slow, same_zone: true, held: cold(12), wanted, reads_origin: true };
    swarm.handle(STEP, joined);
    let began = Duration::from_secs(1);
    swarm.handle(began, Input::Claimed { peer: slow, span: 0 });
    for half in 1..18 {
        let now = began + Duration::from_millis(500) * half;
        if swarm.reading().next().is_some() {
            let index = 3 + half;
            swarm.handle(now, Input::OriginChunk { span: 1, index });
            swarm.handle(now, Input::Stored { index, hash: hash_of(index) });
            if index == 7 {
                swarm.handle(now, Input::OriginDone { span: 1, failed: None });
            }
        }
        swarm.handle(now, Input::Tick);
    }
    assert_eq!(swarm.missing(), 0);
    let now = Duration::from_secs(10);
    swarm.handle(now, Input::Unclaimed { peer: slow, span: 0 });
    drain(&mut swarm);
    (swarm, now)
}

/// When it begins to read something, from `now` on.
fn reads_after(swarm: &mut Swarm, now: Now) -> Option<Duration> {
    let waits = (0..400).map(|tick| Duration::from_millis(50) * tick);
    waits.into_iter().find(|wait| {
        swarm.handle(now + *wait, Input::Tick);
        drain(swarm).iter().any(|o| matches!(o, Output::FetchSpan { .. }))
    })
}

#[test]
fn the_last_chunk_is_not_waited_for_where_its_reader_has_always_been_slow() {
    let (mut swarm, now) = beside_a_slow_reader();
    swarm.handle(now, Input::Claimed { peer: id(1), span: 2 });
    swarm.handle(now, Input::Lost { index: 8 });
    let waited = reads_after(&mut swarm, now).expect("it is read");
    // Whose claim may cross is heard first.
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_millis(1500), "{waited:?}");
}

#[test]
fn the_last_span_of_an_owner_that_has_always_been_slow_is_read_at_once() {
    let (mut swarm, now) = beside_a_slow_reader();
    let span =
        (0..3).find(|span| swarm.score(*span, id(1)) > swarm.score(*span, id(0))).expect("it owns some");
    // It lives, and is not stuck.
    swarm.handle(now, Input::Have { peer: id(1), items: vec![(5, hash_of(5))] });
    swarm.handle(now, Input::Lost { index: span * 4 });
    let waited = reads_after(&mut swarm, now).expect("it is read");
    assert!(waited < Duration::from_millis(200), "{waited:?}");
}

/// A node that got the first two chunks of a span when another one claimed what is behind them; neither chunk is
/// stored yet.
fn released_reading() -> (Swarm, Now, u32) {
    let (mut swarm, other, later) = (lone(cold(8), false), id(1), Duration::from_secs(9));
    join(&mut swarm, 1, cold(8));
    swarm.handle(Duration::from_secs(1), Input::Tick);
    let span = swarm.reading().next().expect("it reads");
    swarm.handle(later, Input::OriginChunk { span, index: span * 4 });
    swarm.handle(later, Input::Claimed { peer: other, span });
    drain(&mut swarm);
    swarm.handle(later + STEP, Input::OriginChunk { span, index: span * 4 + 1 });
    let said = drain(&mut swarm);
    assert!(said.contains(&Output::CancelSpan { span }), "{said:?}");
    assert!(!said.contains(&Output::Unclaim { span }), "{said:?}");
    (swarm, later + STEP * 2, span)
}

#[test]
fn a_span_is_unclaimed_behind_the_announcement_of_all_that_was_read_of_it() {
    let (mut swarm, now, span) = released_reading();
    let store = |swarm: &mut Swarm, index| {
        swarm.handle(now, Input::Stored { index, hash: hash_of(index) });
        drain(swarm)
    };
    // Stores end in any order.
    assert!(!store(&mut swarm, span * 4 + 1).contains(&Output::Unclaim { span }));
    let said = store(&mut swarm, span * 4);
    let announced = said.iter().position(|o| matches!(o, Output::Announce { .. }));
    let unclaimed = said.iter().position(|o| *o == Output::Unclaim { span });
    assert!(announced.is_some() && announced < unclaimed, "{said:?}");
}

#[test]
fn a_span_is_unclaimed_although_what_was_read_of_it_could_not_be_stored() {
    let (mut swarm, now, span) = released_reading();
    swarm.handle(now, Input::Lost { index: span * 4 });
    assert!(!drain(&mut swarm).contains(&Output::Unclaim { span }));
    swarm.handle(now, Input::Lost { index: span * 4 + 1 });
    let said = drain(&mut swarm);
    // Or claimed anew, which says the same and more.
    assert!(said.contains(&Output::Unclaim { span }) || said.contains(&Output::Claim { span }), "{said:?}");
}

#[test]
fn a_late_joiner_costs_the_origin_nothing() {
    let mut world = World::new(spec(128, 4), LINK);
    for _ in 0..4 {
        world.start(LINK, ChunkSet::full(128));
    }
    world.start(LINK, cold(128));
    world.run(Duration::from_secs(60));
    assert_eq!(world.ledger.origin_bytes, 0);
    let own = world.model_bytes() as f64 / LINK / 1000.0;
    println!("late joiner: {:.3} x its own downlink", world.makespan() / own);
    assert!(world.makespan() <= 1.15 * own);
}

#[test]
fn one_warm_seed_feeds_everybody_else_at_once() {
    let mut world = World::new(spec(256, 4), LINK);
    world.start(LINK, ChunkSet::full(256));
    world.herd(7, LINK);
    world.run(Duration::from_secs(60));
    assert_eq!(world.ledger.origin_bytes, 0);
    let own = world.model_bytes() as f64 / LINK / 1000.0;
    println!("one seed, seven joiners: {:.3} x their own downlink", world.makespan() / own);
    assert!(world.makespan() <= 1.35 * own);
}

#[test]
fn those_who_join_a_wave_are_bound_by_their_own_links() {
    let own = 256.0 * f64::from(CHUNK) / LINK / 1000.0;
    let mut world = World::new(spec(256, 4), LINK);
    let mut began = Vec::new();
    for (nodes, at) in [(1, 0.0), (2, 0.5), (5, 0.75), (1, 1.5)] {
        while world.now.as_secs_f64() < at * own {
            world.step();
        }
        began.extend(vec![world.now; nodes]);
        world.herd(nodes, LINK);
    }
    world.run(Duration::from_secs(60));
    let ratios: Vec<f64> =
        (0..began.len()).map(|n| (world.nodes[n].done_at.unwrap() - began[n]).as_secs_f64() / own).collect();
    println!("wave: {ratios:.2?} x their own downlink, origin {:.3}", world.origin_ratio());
    assert!(world.origin_ratio() <= 1.02, "origin {:.3}", world.origin_ratio());
    assert!(ratios.iter().all(|ratio| *ratio <= 1.25), "{ratios:.2?}");
    assert!(ratios[8] <= 1.10, "who came when all were warm took {:.2}", ratios[8]);
}

#[test]
fn what_a_dead_node_was_reading_is_read_by_others() {
    for victim in 0..4 {
        let mut world = World::new(spec(128, 4), LINK);
        world.herd(4, LINK);
        for _ in 0..800 {
            world.step();
        }
        assert!(
            world.nodes[victim].swarm.reading().count() > 0,
            "the victim read nothing: no fault was injected"
        );
        world.kill(victim);
        world.run(Duration::from_secs(60));
        assert!(world.origin_ratio() < 1.35, "origin {:.3}", world.origin_ratio());
    }
}

#[test]
fn what_only_leaving_nodes_hold_is_taken_from_them_first_and_costs_the_origin_nothing() {
    for leavers in [&[0][..], &[3], &[1, 2]] {
        let mut world = World::new(spec(128, 4), LINK);
        world.herd(5, LINK);
        // They read faster than they can pass on.
        let up = LINK / 8.0;
        leavers.iter().for_each(|&n| world.nodes[n].up = up);
        let alone = |world: &World| -> Vec<u64> {
            leavers.iter().map(|&n| world.nodes[n].swarm.only_here_bytes()).collect()
        };
        while leavers.iter().any(|&n| world.stored_alone(n) < 4 << 20) {
            world.step();
            assert!(world.now < Duration::from_secs(3), "only {:?} held alone: no fault", alone(&world));
        }
        let told = world.now;
        leavers.iter().for_each(|&n| world.announce_leaving(n));
        // Once all have heard it: what two that leave hold between them would go as well.
        world.step();
        world.step();
        let went = alone(&world);
        while alone(&world).iter().any(|bytes| *bytes > 0) {
            world.step();
            assert!(world.now < told + Duration::from_secs(10), "{:?} bytes are not taken", alone(&world));
        }
        let took = (world.now - told).as_secs_f64();
        let least = *went.iter().max().unwrap() as f64 / up / 1000.0;
        println!(
            "{leavers:?} alone held {went:?} bytes and were free after {took:.2} s of at least {least:.2}"
        );
        assert!(
            took <= 1.4 * least,
            "their links carried what others had as well: {took:.2} of {least:.2} s"
        );
        leavers.iter().for_each(|&n| world.kill(n));
        world.run(Duration::from_secs(60));
        assert!(world.origin_ratio() <= 1.02, "origin {:.3}", world.origin_ratio());
    }
}

#[test]
fn who_leaves_with_everybody_waits_for_nobody() {
    let mut swarm = lone(ChunkSet::full(8), false);
    join(&mut swarm, 1, cold(8));
    assert_eq!(swarm.only_here_bytes(), 8 * u64::from(CHUNK));
    swarm.handle(STEP, Input::Leaving(id(1)));
    assert_eq!(swarm.only_here_bytes(), 0);
}

#[test]
fn what_a_silent_neighbour_held_is_no_safer_for_that_when_this_node_leaves() {
    let mut swarm = lone(ChunkSet::full(8), false);
    for (n, held) in [(1, ChunkSet::full(8)), (2, cold(8))] {
        join(&mut swarm, n, held);
    }
    assert_eq!(swarm.only_here_bytes(), 0);
    // It was asked for something, and has not been heard of since.
    swarm.lost(0);
    swarm.ask(STEP, id(1), 0);
    swarm.handle(Duration::from_secs(60), Input::Tick);
    // What is being read again included.
    assert_eq!(swarm.only_here_bytes(), 8 * u64::from(CHUNK));
}

#[test]
fn what_was_asked_goes_on_when_a_neighbour_greets_anew() {
    let mut swarm = lone(cold(8), false);
    join(&mut swarm, 1, ChunkSet::full(8));
    let asked = |o: &Output| matches!(o, Output::Request { .. });
    assert!(drain(&mut swarm).iter().any(asked), "nothing was under way");
    join(&mut swarm, 1, ChunkSet::full(8));
    let said = drain(&mut swarm);
    assert!(!said.iter().any(|o| matches!(o, Output::Cancel { .. })), "{said:?}");
    // Unless the chunk is gone.
    join(&mut swarm, 1, cold(8));
    assert!(drain(&mut swarm).iter().any(|o| matches!(o, Output::Cancel { .. })));
    assert_eq!(swarm.inflight_bytes, 0);
}

#[test]
fn what_only_a_silent_node_held_is_read_again_long_before_it_is_known_to_be_dead() {
    let mut world = World::new(spec(128, 4), LINK);
    world.herd(4, LINK);
    // It reads faster than it can pass on, so that something is only there.
    world.nodes[3].up = LINK / 8.0;
    while world.stored_alone(3) < 4 << 20 {
        world.step();
    }
    let (at, alone) = (world.now, world.stored_alone(3));
    // Nobody hears of it, and what is asked of it is never answered.
    world.nodes[3].alive = false;
    world.flows.retain(|f| f.to != 3 && f.from != From::Peer(3));
    world.run(Duration::from_secs(60));
    let stuck = SwarmConfig::default().takeover_min;
    println!("{alone} bytes gone at {at:?}, all done at {:.2} s", world.makespan());
    let rest = Duration::from_secs_f64(1.5 * world.bound());
    assert!(world.makespan() <= (at + stuck + rest).as_secs_f64(), "{:.2} s", world.makespan());
    let allowed = 1.02 + (alone + 2 * u64::from(CHUNK)) as f64 / world.model_bytes() as f64;
    assert!(world.origin_ratio() <= allowed, "origin {:.3} of {allowed:.3}", world.origin_ratio());
}

#[test]
fn who_was_silent_and_speaks_again_is_a_holder_again() {
    let mut swarm = lone(cold(8), false);
    join(&mut swarm, 1, ChunkSet::full(8));
    assert_eq!(swarm.orphan_bytes(), 0);
    drain(&mut swarm);
    swarm.handle(Duration::from_secs(60), Input::Tick);
    assert_eq!(swarm.orphan_bytes(), 8 * u64::from(CHUNK), "what it holds is still waited for");
    swarm.handle(Duration::from_secs(61), Input::Have { peer: id(1), items: vec![(0, hash_of(0))] });
    assert_eq!(swarm.orphan_bytes(), 0);
    swarm.handle(Duration::from_secs(61), Input::Left(id(1)));
    assert_eq!(swarm.orphan_bytes(), 8 * u64::from(CHUNK));
}

#[test]
fn what_a_neighbour_is_reading_when_it_greets_is_left_to_it() {
    let mut swarm = lone(cold(8), false);
    drain(&mut swarm);
    swarm.handle(STEP, Input::Members(members(&[id(0), id(1)])));
    swarm.handle(STEP, Input::Met(vec![id(1)]));
    let held = cold(8);
    let peer = id(1);
    let now = SwarmConfig::default().meeting_grace;
    swarm.handle(now, Input::Joined { peer, same_zone: true, held, wanted: None, reads_origin: true });
    for span in 0..2 {
        swarm.handle(now, Input::Claimed { peer, span });
    }
    swarm.handle(now, Input::Tick);
    assert!(!drain(&mut swarm).iter().any(|o| matches!(o, Output::FetchSpan { .. })));
}

#[test]
fn half_of_the_nodes_may_die_and_the_rest_complete() {
    let mut world = World::new(spec(128, 4), LINK);
    world.herd(8, LINK);
    for _ in 0..1200 {
        world.step();
    }
    for n in [0, 2, 4, 6] {
        world.kill(n);
    }
    world.run(Duration::from_secs(90));
    assert!(world.origin_ratio() <= 2.0, "origin {:.3}", world.origin_ratio());
}

#[test]
fn a_reader_that_makes_no_progress_loses_its_spans() {
    let mut world = World::new(spec(32, 4), LINK);
    world.herd(2, LINK);
    world.run_until_first_claim(1);
    // It lives and talks but its origin reads bring nothing any more.
    world.flows.retain(|f| !(f.to == 1 && matches!(f.from, From::Origin { .. })));
    world.run(Duration::from_secs(60));
}

impl World {
    fn run_until_first_claim(&mut self, n: usize) {
        for _ in 0..2000 {
            if self.nodes[n].swarm.reading().count() > 0 {
                return;
            }
            self.step();
        }
        panic!("node {n} never read from the origin");
    }
}

#[test]
fn a_swarm_that_holds_everything_between_its_nodes_needs_no_origin() {
    let mut world = World::new(spec(64, 4), LINK);
    world.origin_dead = true;
    let mut halves = [cold(64), cold(64)];
    for c in 0..64 {
        halves[c as usize % 2].insert(c);
    }
    for half in halves {
        world.start(LINK, half);
    }
    world.run(Duration::from_secs(30));
    assert_eq!(world.ledger.origin_bytes, 0);
}

#[test]
fn a_peer_that_serves_wrong_bytes_is_shunned_and_the_rest_completes() {
    let mut world = World::new(spec(64, 4), LINK);
    world.start(LINK, ChunkSet::full(64));
    world.nodes[0].corrupts = true;
    world.start(LINK, ChunkSet::full(64));
    let n = world.start(LINK, cold(64));
    world.run(Duration::from_secs(30));
    assert!(world.ledger.shunned.contains(&(n, id(0))), "the fault did not fire, or nobody minded");
    assert!(!world.ledger.shunned.iter().any(|(_, p)| *p == id(1)));
}

#[test]
fn a_straggler_is_hedged() {
    let mut world = World::new(spec(128, 4), LINK);
    for _ in 0..7 {
        world.start(LINK, ChunkSet::full(128));
    }
    world.start(LINK / 400.0, ChunkSet::full(128));
    let n = world.start(LINK, cold(128));
    world.run(Duration::from_secs(60));
    assert!(world.ledger.hedges > 0, "nothing was hedged");
    let own = world.model_bytes() as f64 / LINK / 1000.0;
    let took = world.nodes[n].done_at.unwrap().as_secs_f64();
    assert!(took <= 1.3 * own, "{:.2} x", took / own);
}

fn lone(held: ChunkSet, trusted: bool) -> Swarm {
    let count = held.universe();
    let hashes = (0..count).map(|c| (trusted || held.contains(c)).then(|| hash_of(c))).collect();
    let inventory = Inventory { held, hashes };
    let wanted = ChunkSet::full(count);
    Swarm::new(spec(count, 4), SwarmConfig::default(), id(0), inventory, wanted, trusted, Duration::ZERO)
}

fn join(swarm: &mut Swarm, n: usize, held: ChunkSet) {
    let joined = Input::Joined { peer: id(n), same_zone: true, held, wanted: None, reads_origin: true };
    swarm.handle(Duration::ZERO, joined);
    swarm.handle(Duration::ZERO, Input::Tick);
}

fn drain(swarm: &mut Swarm) -> Vec<Output> {
    std::iter::from_fn(|| swarm.poll()).collect()
}

#[test]
fn one_fast_holder_is_never_without_a_request() {
    const CHUNKS: u32 = 512;
    let (sending, round_trip) = (Duration::from_millis(1), Duration::from_millis(5));
    let mut swarm = lone(cold(CHUNKS), false);
    join(&mut swarm, 1, ChunkSet::full(CHUNKS));
    let (mut now, mut free_at) = (Duration::ZERO, Duration::ZERO);
    let mut sent = std::collections::VecDeque::new();
    while swarm.missing() > 0 {
        for output in drain(&mut swarm) {
            if let Output::Request { index, .. } = output {
                // One after the other, as one connection carries them.
                free_at = free_at.max(now + round_trip) + sending;
                sent.push_back((free_at, index));
            }
        }
        let (came_at, index) = sent.pop_front().unwrap();
        now = came_at;
        swarm.handle(now, Input::Received { peer: id(1), index, round_trip: Some(round_trip) });
        swarm.handle(now, Input::Stored { index, hash: hash_of(index) });
    }
    let at_best = sending * CHUNKS + round_trip;
    assert!(now < at_best.mul_f64(1.1), "{now:?} where {at_best:?} would do");
}

#[test]
fn two_hashes_for_one_chunk_are_settled_by_the_origin_and_the_liar_is_shunned() {
    let mut swarm = lone(cold(8), false);
    join(&mut swarm, 1, ChunkSet::full(8));
    join(&mut swarm, 2, ChunkSet::full(8));
    let lie = ChunkHash::of(b"lie");
    swarm.handle(STEP, Input::Have { peer: id(1), items: vec![(3, lie)] });
    swarm.handle(STEP, Input::Have { peer: id(2), items: vec![(3, hash_of(3))] });
    assert!(drain(&mut swarm).contains(&Output::Settle { index: 3 }));
    swarm.handle(STEP, Input::Settled { index: 3, hash: hash_of(3) });
    let shunned: Vec<_> = drain(&mut swarm)
        .into_iter()
        .filter_map(|o| if let Output::Shun { peer, .. } = o { Some(peer) } else { None })
        .collect();
    assert_eq!(shunned, vec![id(1)]);
    assert_eq!(swarm.hash(3), Some(hash_of(3)));
}

#[test]
fn a_shunned_peer_is_a_neighbour_again_after_a_while_and_shunned_for_longer_the_next_time() {
    let mut swarm = lone(cold(8), false);
    let mut now = STEP;
    let mut times = Vec::new();
    for _ in 0..3 {
        let held = ChunkSet::full(8);
        let joined = Input::Joined { peer: id(1), same_zone: true, held, wanted: None, reads_origin: false };
        swarm.handle(now, joined.clone());
        assert_eq!(swarm.neighbours().count(), 1, "after {times:?}");
        swarm.handle(now, Input::RequestFailed { peer: id(1), index: 0, why: ErrorKind::Corrupt });
        let shunned = |o| if let Output::Shun { time, .. } = o { Some(time) } else { None };
        let time = drain(&mut swarm).into_iter().find_map(shunned).expect("it corrupts");
        swarm.handle(now + time - STEP, joined);
        assert_eq!(swarm.neighbours().count(), 0, "too early");
        times.push(time);
        now += time;
    }
    assert!(times.windows(2).all(|pair| pair[1] == 2 * pair[0]), "{times:?}");
}

#[test]
fn what_the_origin_gave_stands_against_what_a_peer_announced() {
    let mut swarm = lone(cold(8), false);
    join(&mut swarm, 1, cold(8));
    swarm.handle(STEP, Input::Have { peer: id(1), items: vec![(3, ChunkHash::of(b"lie"))] });
    assert_eq!(swarm.own_hash(3), None, "an announcement would be held against the origin");
    swarm.handle(STEP, Input::Stored { index: 3, hash: hash_of(3) });
    assert_eq!(swarm.own_hash(3), Some(hash_of(3)));
    assert!(drain(&mut swarm).iter().any(|o| matches!(o, Output::Shun { peer, .. } if *peer == id(1))));
}

#[test]
fn a_liar_that_left_leaves_no_hash_behind() {
    let mut swarm = lone(cold(8), false);
    join(&mut swarm, 1, cold(8));
    swarm.handle(STEP, Input::Have { peer: id(1), items: vec![(3, ChunkHash::of(b"lie"))] });
    assert!(swarm.hash(3).is_some());
    swarm.handle(STEP, Input::Left(id(1)));
    assert_eq!(swarm.hash(3), None);
}

#[test]
fn a_dispute_that_could_not_be_settled_is_opened_again() {
    let mut swarm = lone(cold(8), false);
    join(&mut swarm, 1, cold(8));
    join(&mut swarm, 2, cold(8));
    let dispute = |swarm: &mut Swarm| {
        swarm.handle(STEP, Input::Have { peer: id(1), items: vec![(3, ChunkHash::of(b"lie"))] });
        swarm.handle(STEP, Input::Have { peer: id(2), items: vec![(3, hash_of(3))] });
        drain(swarm).contains(&Output::Settle { index: 3 })
    };
    assert!(dispute(&mut swarm));
    swarm.handle(STEP, Input::Unsettled { index: 3 });
    assert!(dispute(&mut swarm), "it was never settled again");
}

#[test]
fn a_stored_chunk_whose_hash_was_a_lie_is_discarded_and_fetched_again() {
    let mut swarm = lone(cold(8), false);
    join(&mut swarm, 1, ChunkSet::full(8));
    let lie = ChunkHash::of(b"lie");
    swarm.handle(STEP, Input::Have { peer: id(1), items: vec![(3, lie)] });
    swarm.handle(STEP, Input::Stored { index: 3, hash: lie });
    join(&mut swarm, 2, ChunkSet::full(8));
    swarm.handle(STEP, Input::Have { peer: id(2), items: vec![(3, hash_of(3))] });
    swarm.handle(STEP, Input::Settled { index: 3, hash: hash_of(3) });
    assert!(drain(&mut swarm).contains(&Output::Discard { index: 3 }));
    assert!(!swarm.held().contains(3));
}

#[test]
fn a_hash_that_contradicts_the_manifest_shuns_without_asking_the_origin() {
    let mut swarm = lone(cold(8), true);
    join(&mut swarm, 1, ChunkSet::full(8));
    swarm.handle(STEP, Input::Have { peer: id(1), items: vec![(3, ChunkHash::of(b"lie"))] });
    let said = drain(&mut swarm);
    assert!(said.iter().any(|o| matches!(o, Output::Shun { peer, .. } if *peer == id(1))));
    assert!(!said.contains(&Output::Settle { index: 3 }));
}

#[test]
fn absurd_words_of_a_peer_are_refused_without_panic() {
    let mut swarm = lone(cold(8), false);
    join(&mut swarm, 1, ChunkSet::full(9));
    join(&mut swarm, 2, cold(8));
    swarm.handle(STEP, Input::Have { peer: id(2), items: vec![(8, hash_of(8))] });
    join(&mut swarm, 3, cold(8));
    swarm.handle(STEP, Input::Claimed { peer: id(3), span: 99 });
    swarm.handle(STEP, Input::Unclaimed { peer: id(4), span: 99 });
    swarm.handle(STEP, Input::Received { peer: id(4), index: 99, round_trip: None });
    swarm.handle(STEP, Input::Stored { index: 99, hash: hash_of(0) });
    swarm.handle(STEP, Input::Lost { index: 99 });
    swarm.handle(STEP, Input::OriginChunk { span: 99, index: 99 });
    swarm.handle(STEP, Input::OriginDone { span: 99, failed: None });
    swarm.handle(STEP, Input::Settled { index: 99, hash: hash_of(0) });
    swarm.handle(STEP, Input::Urgent(vec![99]));
    swarm.handle(STEP, Input::Ahead(vec![99]));
    swarm.handle(STEP, Input::Order(vec![99, 0, 0]));
    swarm.handle(STEP, Input::Rushed { index: 99, failed: None });
    swarm.handle(STEP, Input::Tick);
    let shunned = drain(&mut swarm).into_iter().filter(|o| matches!(o, Output::Shun { .. })).count();
    assert_eq!(shunned, 3);
}

#[test]
fn crossing_claims_are_settled_by_rank_and_only_one_goes_on() {
    let mut a = lone(cold(4), false);
    join(&mut a, 1, cold(4));
    let grace_over = Duration::from_secs(1);
    a.handle(grace_over, Input::Tick);
    let mine = a.reading().count() == 1;
    a.handle(grace_over, Input::Claimed { peer: id(1), span: 0 });
    let key = crate::ring::RendezvousKey::part(&[9; 32], 0);
    let other_first = crate::ring::rendezvous_score(id(1), key) > crate::ring::rendezvous_score(id(0), key);
    assert_eq!(mine, !other_first, "the first in rank reads");
    assert_eq!(a.reading().count() == 1, !other_first);
}

#[test]
fn nothing_is_read_before_those_who_may_hold_it_have_spoken() {
    let mut swarm = lone(cold(8), false);
    drain(&mut swarm);
    swarm.handle(STEP, Input::Members(members(&[id(0), id(1), id(2)])));
    let reads = |swarm: &mut Swarm| drain(swarm).iter().any(|o| matches!(o, Output::FetchSpan { .. }));
    assert!(!reads(&mut swarm), "read before the meeting place answered");
    swarm.handle(STEP * 2, Input::Met(vec![id(1)]));
    assert!(!reads(&mut swarm), "read before the participant said what it holds");
    join(&mut swarm, 1, ChunkSet::full(8));
    assert!(!reads(&mut swarm), "read what a neighbour holds");
}

#[test]
fn a_home_that_knows_nobody_is_believed_only_when_no_other_knew_better_in_time() {
    let mut swarm = lone(cold(8), false);
    drain(&mut swarm);
    swarm.handle(STEP, Input::Members(members(&[id(0), id(1), id(2)])));
    swarm.handle(STEP, Input::Met(vec![]));
    assert_eq!(swarm.reading().count(), 0);
    swarm.handle(STEP * 2, Input::Met(vec![id(1)]));
    let quiet = SwarmConfig::default().meeting_quiet;
    swarm.handle(quiet, Input::Tick);
    assert_eq!(swarm.reading().count(), 0, "the better answer was forgotten");
    swarm.handle(quiet, Input::Left(id(1)));
    swarm.handle(SwarmConfig::default().meeting_max, Input::Tick);
    assert!(swarm.reading().count() > 0);
}

#[test]
fn a_meeting_place_that_does_not_answer_holds_nobody_up_for_long() {
    let mut swarm = lone(cold(8), false);
    drain(&mut swarm);
    swarm.handle(STEP, Input::Members(members(&[id(0), id(1), id(2)])));
    swarm.handle(SwarmConfig::default().meeting_max, Input::Tick);
    assert!(swarm.reading().count() > 0);
}

#[test]
fn nothing_is_asked_for_that_is_not_wanted() {
    let mut swarm = lone(cold(8), false);
    let mut some = cold(8);
    some.insert(2);
    swarm.handle(STEP, Input::Want(some));
    drain(&mut swarm);
    join(&mut swarm, 1, ChunkSet::full(8));
    for _ in 0..3 {
        swarm.handle(Duration::from_secs(1), Input::Tick);
    }
    let asked: Vec<_> = drain(&mut swarm)
        .into_iter()
        .filter_map(|o| match o {
            Output::Request { index, .. } => Some(index),
            Output::FetchSpan { chunks, .. } => Some(chunks.start),
            _ => None,
        })
        .collect();
    assert!(asked.iter().all(|i| *i == 2), "{asked:?}");
}

#[test]
fn an_urgent_chunk_is_asked_for_before_all_others() {
    let mut swarm = lone(cold(64), false);
    swarm.handle(STEP, Input::Urgent(vec![40]));
    drain(&mut swarm);
    join(&mut swarm, 1, ChunkSet::full(64));
    let first = drain(&mut swarm)
        .into_iter()
        .find_map(|o| if let Output::Request { index, .. } = o { Some(index) } else { None });
    assert_eq!(first, Some(40));
}

#[test]
fn what_is_taken_from_this_disk_is_asked_of_nobody_until_that_fails() {
    let mut swarm = lone(cold(1), false);
    swarm.handle(STEP, Input::Adopting { index: 0 });
    let asks = |swarm: &mut Swarm| {
        let asked = |o: &Output| matches!(o, Output::Request { .. } | Output::FetchSpan { .. });
        drain(swarm).iter().filter(|o| asked(o)).count()
    };
    join(&mut swarm, 1, ChunkSet::full(1));
    swarm.handle(STEP, Input::Have { peer: id(1), items: vec![(0, hash_of(0))] });
    swarm.handle(Duration::from_secs(2), Input::Tick);
    assert_eq!(asks(&mut swarm), 0);
    swarm.handle(Duration::from_secs(2), Input::Lost { index: 0 });
    assert_eq!(asks(&mut swarm), 1);
}
