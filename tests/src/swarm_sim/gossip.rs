//! The membership of thousands of nodes in virtual time: the product's protocol core, datagrams with a
//! latency, a start from seeds and deaths without a word.
//!
//! Runs before the swarm, for members know each other before they want a model; what it found, who noticed
//! which death how late, is what the swarm is told in its turn.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use coordinatorless_p2p::{
    MembershipConfig, Node, NodeId,
    membership::{Core, Effects, Moment},
    transport::Peer,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

/// One way.
const LATENCY: Duration = Duration::from_micros(250);
/// The largest datagram that passes everywhere.
const DATAGRAM_BYTES: usize = 1150;
/// Nodes that everybody is told of.
const SEEDS: usize = 3;
/// When they begin, by the calendar.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// While alone a node tries its seeds after this long, then after twice as long, and so on.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longer than any membership takes to find itself.
const CONVERGE_MAX: Duration = Duration::from_secs(600);
/// How long what the gossip costs is counted while nothing happens.
const QUIET: Duration = Duration::from_secs(5);
/// Deaths fall into this time.
const DEATHS: Duration = Duration::from_secs(10);
/// All must have noticed them this long after the last one.
const NOTICE_MAX: Duration = Duration::from_secs(60);
/// IPv4, UDP, QUIC's short header and tag, and a datagram frame's header.
const PACKET_BYTES: u64 = 20 + 8 + 27 + 3;

/// What the members found.
#[derive(Debug, Clone)]
pub struct Findings {
    /// Until everybody knew everybody, from the first one's start.
    pub converge_seconds: f64,
    /// From a death until the last one noticed, the worst of all deaths.
    pub detect_seconds: f64,
    /// How often somebody took one who lives for dead.
    pub false_deaths: u64,
    /// Sent by each node in a quiet second.
    pub messages_per_second: f64,
    /// The same in bytes.
    pub bytes_per_second: f64,
    /// Datagrams, timers and rounds.
    pub events: u64,
    /// Nanoseconds from each victim's death until each node noticed.
    notices: Vec<Vec<u64>>,
}

impl Findings {
    /// How long `who` took to notice the death of the `victim`th to die.
    pub fn notice(&self, victim: usize, who: u32) -> u64 {
        self.notices[victim][who as usize]
    }
}

struct Members {
    began: Instant,
    now: Instant,
    cores: Vec<Core>,
    alive: Vec<bool>,
    /// How many others each knows to live.
    known: Vec<u32>,
    /// When each core is to be fired next, and which of the planned firings is the current one.
    planned: Vec<Option<Instant>>,
    waits: Vec<Duration>,
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
    rounds: BinaryHeap<Reverse<(Instant, u32)>>,
    mail: VecDeque<(Instant, u32, Peer, Bytes)>,
    died: Vec<Option<(usize, Instant)>>,
    notices: Vec<Vec<u64>>,
    unnoticed: usize,
    false_deaths: u64,
    messages: u64,
    bytes: u64,
    events: u64,
    config: MembershipConfig,
}

fn addr_of(node: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(u32::from_be_bytes([10, 0, 0, 0]) + 256 + node), 4000).into()
}

fn index_of(addr: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(addr) = addr else { return None };
    addr.ip().to_bits().checked_sub(u32::from_be_bytes([10, 0, 0, 0]) + 256).map(|n| n as usize)
}

fn id_of(node: u32) -> NodeId {
    let mut id = super::world::id_of(node);
    id.0[12..].copy_from_slice(&node.to_be_bytes());
    id
}

fn number_of(id: NodeId) -> usize {
    u32::from_be_bytes([id.0[12], id.0[13], id.0[14], id.0[15]]) as usize
}

impl Members {
    fn new(count: usize, zones: usize, seed: u64, rng: &mut SmallRng) -> Self {
        let (began, config) = (Instant::now(), MembershipConfig::default());
        let node = |n: u32| Node {
            id: id_of(n),
            name: format!("node-{n}"),
            addr: addr_of(n),
            zone: format!("zone-{}", n as usize % zones.max(1)),
            weight: Node::WEIGHT,
            generation: EPOCH_MS,
        };
        let core = |n: u32| {
            let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(n) << 20);
            Core::new(node(n), config.clone(), DATAGRAM_BYTES, seed)
        };
        let starts = (0..count as u32).map(|n| {
            Reverse((began + Duration::from_nanos(rng.random_range(0..super::START_SPREAD_NANOS)), n))
        });
        Self {
            began,
            now: began,
            cores: (0..count as u32).map(core).collect(),
            alive: vec![true; count],
            known: vec![0; count],
            planned: vec![None; count],
            waits: vec![FIRST_WAIT; count],
            timers: BinaryHeap::new(),
            rounds: starts.collect(),
            mail: VecDeque::new(),
            died: vec![None; count],
            notices: Vec::new(),
            unnoticed: 0,
            false_deaths: 0,
            messages: 0,
            bytes: 0,
            events: 0,
            config,
        }
    }

    fn take(&mut self, node: u32, effects: Effects) {
        let n = node as usize;
        for (id, is_up) in effects.turns {
            self.known[n] = if is_up { self.known[n] + 1 } else { self.known[n].saturating_sub(1) };
            if is_up {
                continue;
            }
            match self.died[number_of(id)] {
                Some((victim, at)) => {
                    let noticed = &mut self.notices[victim][n];
                    if *noticed == u64::MAX {
                        *noticed = (self.now - at).as_nanos() as u64;
                        self.unnoticed -= 1;
                    }
                }
                None => self.false_deaths += 1,
            }
        }
        for (to, datagram) in effects.send {
            self.messages += 1;
            self.bytes += PACKET_BYTES + datagram.len() as u64;
            self.mail.push_back((self.now + LATENCY, node, to, datagram));
        }
        let due = self.cores[n].next_due();
        if let Some(at) = due
            && self.planned[n].is_none_or(|planned| at < planned)
        {
            self.planned[n] = Some(at);
            self.timers.push(Reverse((at, node)));
        }
    }

    /// Lets time pass until `until`, or until `is_done`.
    fn run(&mut self, until: Instant, is_done: impl Fn(&Self) -> bool) -> bool {
        loop {
            let mail = self.mail.front().map(|m| m.0);
            let timer = self.timers.peek().map(|Reverse(t)| t.0);
            let round = self.rounds.peek().map(|Reverse(r)| r.0);
            let Some(next) = mail.into_iter().chain(timer).chain(round).min().filter(|at| *at < until) else {
                self.now = until;
                return is_done(self);
            };
            self.now = self.now.max(next);
            self.events += 1;
            if mail == Some(next) {
                self.deliver();
            } else if timer == Some(next) {
                self.fire();
            } else {
                self.round();
            }
            if self.events.is_multiple_of(64) && is_done(self) {
                return true;
            }
        }
    }

    fn deliver(&mut self) {
        let Some((_, from, to, datagram)) = self.mail.pop_front() else { return };
        let Some(n) = index_of(to.addr).filter(|n| self.alive.get(*n) == Some(&true)) else { return };
        let passed = (self.now - self.began).as_millis() as u64;
        let moment = Moment { at: self.now, epoch_ms: EPOCH_MS + passed };
        let mut effects = Effects::default();
        // What is refused changes nothing.
        let _ = self.cores[n].receive(moment, id_of(from), &datagram, &mut effects);
        self.take(n as u32, effects);
    }

    fn fire(&mut self) {
        let Some(Reverse((at, node))) = self.timers.pop() else { return };
        let n = node as usize;
        if self.planned[n] != Some(at) || !self.alive[n] {
            return;
        }
        self.planned[n] = None;
        let mut effects = Effects::default();
        if self.cores[n].next_due().is_some_and(|due| due <= self.now) {
            self.cores[n].fire(self.now, &mut effects);
        }
        self.take(node, effects);
    }

    fn round(&mut self) {
        let Some(Reverse((_, node))) = self.rounds.pop() else { return };
        let n = node as usize;
        if !self.alive[n] {
            return;
        }
        let seeds: Vec<SocketAddr> = (0..SEEDS.min(self.cores.len()) as u32).map(addr_of).collect();
        let mut effects = Effects::default();
        self.cores[n].announce(self.now, &seeds, &mut effects);
        let wait = if self.known[n] == 0 { self.waits[n] } else { self.config.reunite_every };
        self.waits[n] = (self.waits[n] * 2).min(self.config.reunite_every);
        self.rounds.push(Reverse((self.now + wait, node)));
        self.take(node, effects);
    }

    fn kill(&mut self, node: usize) {
        self.alive[node] = false;
        self.died[node] = Some((self.notices.len(), self.now));
        let to_notice = |n: usize| if self.alive[n] { u64::MAX } else { 0 };
        let notices: Vec<u64> = (0..self.cores.len()).map(to_notice).collect();
        self.unnoticed += notices.iter().filter(|at| **at == u64::MAX).count();
        // The dead notice nothing any more.
        for earlier in &mut self.notices {
            if std::mem::replace(&mut earlier[node], 0) == u64::MAX {
                self.unnoticed -= 1;
            }
        }
        self.notices.push(notices);
    }
}

/// Starts `count` nodes that know but seeds, lets `victims` die one after the other once all know each other.
pub fn find(count: usize, zones: usize, victims: &[u32], seed: u64) -> Findings {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut members = Members::new(count, zones, seed, &mut rng);
    let all = count as u32 - 1;
    members.run(members.began + CONVERGE_MAX, |m| m.known.iter().all(|known| *known == all));
    let converged = members.now - members.began;
    let (messages, bytes) = (members.messages, members.bytes);
    members.run(members.now + QUIET, |_| false);
    let quiet = QUIET.as_secs_f64() * count as f64;
    let per_second = ((members.messages - messages) as f64 / quiet, (members.bytes - bytes) as f64 / quiet);
    let mut moments: Vec<Duration> = victims.iter().map(|_| DEATHS.mul_f64(rng.random())).collect();
    moments.sort_unstable();
    let from = members.now;
    for (victim, after) in victims.iter().zip(moments) {
        members.run(from + after, |_| false);
        members.kill(*victim as usize);
    }
    members.run(members.now + NOTICE_MAX, |m| m.unnoticed == 0);
    let never = NOTICE_MAX.as_nanos() as u64;
    members.notices.iter_mut().flatten().filter(|n| **n == u64::MAX).for_each(|n| *n = never);
    let worst = members.notices.iter().flatten().copied().max().unwrap_or(0);
    Findings {
        converge_seconds: converged.as_secs_f64(),
        detect_seconds: worst as f64 / 1e9,
        false_deaths: members.false_deaths,
        messages_per_second: per_second.0,
        bytes_per_second: per_second.1,
        events: members.events,
        notices: members.notices,
    }
}
