//! Cores that talk to each other in a loop with a clock of its own.

use std::{collections::VecDeque, net::SocketAddr};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// When these tests happen, by the calendar.
const EPOCH_MS: u64 = 1_800_000_000_000;

fn node(n: u8) -> Node {
    Node {
        id: NodeId([n; 16]),
        name: format!("n{n}"),
        addr: ([10, 0, 0, n], 4000).into(),
        zone: String::new(),
        weight: Node::WEIGHT,
        generation: EPOCH_MS,
    }
}

struct World {
    began: Instant,
    now: Instant,
    cores: Vec<Core>,
    /// Nodes that neither hear nor act.
    stopped: Vec<bool>,
    /// Pairs that do not hear each other.
    cut: fn(u8, u8) -> bool,
    wire: VecDeque<(NodeId, Peer, Bytes)>,
    deaths: Vec<(NodeId, NodeId)>,
}

impl World {
    fn new(count: u8) -> Self {
        let began = Instant::now();
        let cores =
            (1..=count).map(|n| Core::new(node(n), MembershipConfig::default(), 1150, n.into())).collect();
        Self {
            began,
            now: began,
            cores,
            stopped: vec![false; count as usize],
            cut: |_, _| false,
            wire: VecDeque::new(),
            deaths: Vec::new(),
        }
    }

    fn moment(&self) -> Moment {
        let passed = self.now.saturating_duration_since(self.began).as_millis() as u64;
        Moment { at: self.now, epoch_ms: EPOCH_MS + passed }
    }

    fn seeded(count: u8) -> Self {
        let mut world = Self::new(count);
        world.announce_all(&[node(1).addr]);
        world.run(Duration::from_secs(20));
        assert!(world.cores.iter().all(|c| c.live().len() == count as usize), "the start went wrong");
        world.deaths.clear();
        world
    }

    fn announce_all(&mut self, seeds: &[SocketAddr]) {
        for i in 0..self.cores.len() {
            if !self.stopped[i] {
                let mut effects = Effects::default();
                let now = self.now;
                self.cores[i].announce(now, seeds, &mut effects);
                self.post(i, effects);
            }
        }
    }

    fn post(&mut self, from: usize, effects: Effects) {
        let id = self.cores[from].me().id;
        self.wire.extend(effects.send.into_iter().map(|(to, bytes)| (id, to, bytes)));
    }

    fn deliver(&mut self) {
        while let Some((from, to, bytes)) = self.wire.pop_front() {
            let Some(at) = self
                .cores
                .iter()
                .position(|c| c.me().addr == to.addr && to.id.is_none_or(|id| id == c.me().id))
            else {
                continue;
            };
            let (a, b) = (from.0[0], self.cores[at].me().id.0[0]);
            if self.stopped[at] || (self.cut)(a, b) || (self.cut)(b, a) {
                continue;
            }
            let mut effects = Effects::default();
            let before = self.cores[at].live();
            let moment = self.moment();
            let _ = self.cores[at].receive(moment, from, &bytes, &mut effects);
            self.record(at, &before);
            self.post(at, effects);
        }
    }

    fn record(&mut self, at: usize, before: &[Node]) {
        let after = self.cores[at].live();
        let lost = before.iter().filter(|n| !after.iter().any(|m| m.id == n.id));
        let own = self.cores[at].me().id;
        self.deaths.extend(lost.map(|n| (own, n.id)));
    }

    /// Lets time pass in steps of 10 ms.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut round = self.now;
        while self.now < end {
            self.now += Duration::from_millis(10);
            self.deliver();
            for at in 0..self.cores.len() {
                if self.stopped[at] || self.cores[at].next_due().is_none_or(|due| due > self.now) {
                    continue;
                }
                let mut effects = Effects::default();
                let before = self.cores[at].live();
                let now = self.now;
                self.cores[at].fire(now, &mut effects);
                self.record(at, &before);
                self.post(at, effects);
            }
            if self.now >= round {
                round += Duration::from_secs(5);
                self.announce_all(&[]);
            }
            self.deliver();
        }
    }

    fn live_ids(&self, at: usize) -> Vec<u8> {
        self.cores[at].live().iter().map(|n| n.id.0[0]).collect()
    }
}

#[test]
fn a_member_that_falls_silent_is_declared_down_by_all() {
    let mut world = World::seeded(4);
    world.stopped[3] = true;
    world.run(Duration::from_secs(15));
    for at in 0..3 {
        assert_eq!(world.live_ids(at), [1, 2, 3]);
    }
}

#[test]
fn a_node_that_was_stopped_accuses_nobody() {
    // 20 s is the promise; 700 ms is less than a probe and more than an answer takes.
    for stop in [Duration::from_millis(700), Duration::from_secs(3), Duration::from_secs(20)] {
        let mut world = World::seeded(4);
        world.stopped[0] = true;
        world.run(stop);
        world.stopped[0] = false;
        world.run(Duration::from_secs(30));
        let accused: Vec<_> = world.deaths.iter().filter(|(_, dead)| *dead != node(1).id).collect();
        assert!(accused.is_empty(), "stopped for {stop:?}: {accused:?}");
        for at in 0..4 {
            assert_eq!(world.live_ids(at), [1, 2, 3, 4], "after {stop:?}");
        }
    }
}

#[test]
fn a_suspicion_does_not_ripen_while_the_one_who_has_it_is_stopped() {
    // Only two, so that the suspicion is the first one's own and not hearsay.
    let mut world = World::seeded(2);
    world.stopped[1] = true;
    let suspected = |w: &World| {
        w.cores[0].views().iter().any(|v| v.node.id == node(2).id && v.state == MemberState::Suspect)
    };
    while !suspected(&world) {
        world.run(Duration::from_millis(10));
        assert!(world.deaths.is_empty(), "the fault did not fire");
    }
    // Now the suspect is back and defends itself, while the one who suspects it hears nothing.
    (world.stopped[1], world.stopped[0]) = (false, true);
    world.run(Duration::from_secs(10));
    world.stopped[0] = false;
    world.run(Duration::from_secs(20));
    assert!(!world.deaths.contains(&(node(1).id, node(2).id)), "{:?}", world.deaths);
    for at in 0..2 {
        assert_eq!(world.live_ids(at), [1, 2]);
    }
}

#[test]
fn a_node_that_gets_the_processor_rarely_accuses_nobody() {
    let mut world = World::seeded(4);
    // Runs 10 ms in every 900: it hears nothing but what comes in that moment.
    for _ in 0..60 {
        world.stopped[0] = true;
        world.run(Duration::from_millis(890));
        world.stopped[0] = false;
        world.run(Duration::from_millis(10));
    }
    let accused: Vec<_> = world.deaths.iter().filter(|(_, dead)| *dead != node(1).id).collect();
    assert!(accused.is_empty(), "{accused:?}");
}

#[test]
fn halves_find_each_other_within_thirty_seconds() {
    let mut world = World::seeded(6);
    world.cut = |a, b| a <= 3 && b > 3;
    world.run(Duration::from_secs(120));
    assert_eq!((world.live_ids(0), world.live_ids(5)), (vec![1, 2, 3], vec![4, 5, 6]));
    world.cut = |_, _| false;
    world.run(Duration::from_secs(30));
    for at in 0..6 {
        assert_eq!(world.live_ids(at), [1, 2, 3, 4, 5, 6], "node {}", at + 1);
    }
}

#[test]
fn a_node_cut_off_from_everybody_comes_back() {
    let mut world = World::seeded(3);
    world.cut = |a, _| a == 1;
    world.run(Duration::from_secs(60));
    assert_eq!(world.live_ids(0), [1]);
    world.cut = |_, _| false;
    world.run(Duration::from_secs(30));
    for at in 0..3 {
        assert_eq!(world.live_ids(at), [1, 2, 3], "node {}", at + 1);
    }
}

fn say(world: &mut World, from: u8, to: u8, updates: Vec<Member<Name>>) -> Result<()> {
    let src = world.cores[from as usize - 1].me().clone();
    let dst = world.cores[to as usize - 1].me().clone();
    let gossip = Gossip {
        header: foca::Header { src: Name(src), src_incarnation: 0, dst: Name(dst), message: Message::Gossip },
        updates,
    };
    let mut effects = Effects::default();
    let (moment, at) = (world.moment(), to as usize - 1);
    let before = world.cores[at].live();
    let said = world.cores[at].receive(
        moment,
        NodeId([from; 16]),
        &wire::frame(&gossip.encode_body().unwrap()),
        &mut effects,
    );
    world.record(at, &before);
    world.post(at, effects);
    said
}

/// `from` tells `to` that it is thought to be down.
fn turn_undead(world: &mut World, from: u8, to: u8) {
    let header = foca::Header {
        src: current(world, from),
        src_incarnation: 0,
        dst: current(world, to),
        message: Message::TurnUndead,
    };
    let bytes = wire::frame(&Gossip { header, updates: vec![] }.encode_body().unwrap());
    let (moment, at, mut effects) = (world.moment(), to as usize - 1, Effects::default());
    world.cores[at].receive(moment, NodeId([from; 16]), &bytes, &mut effects).unwrap();
    world.post(at, effects);
}

fn current(world: &World, n: u8) -> Name {
    Name(world.cores[n as usize - 1].me().clone())
}

#[test]
fn a_forged_death_of_a_member_that_is_heard_is_not_believed() {
    let mut world = World::seeded(3);
    // Let 3 be heard by 2 at this very moment.
    say(&mut world, 3, 2, vec![]).unwrap();
    let claim = Member::new(current(&world, 3), u16::MAX, State::Down);
    say(&mut world, 1, 2, vec![claim]).unwrap();
    assert_eq!(world.live_ids(1), [1, 2, 3]);
    world.run(Duration::from_secs(20));
    assert!(world.deaths.is_empty(), "{:?}", world.deaths);
}

#[test]
fn a_true_death_that_was_doubted_is_believed_in_the_end() {
    let mut world = World::seeded(3);
    say(&mut world, 3, 2, vec![]).unwrap();
    world.stopped[2] = true;
    let claim = Member::new(current(&world, 3), 0, State::Down);
    say(&mut world, 1, 2, vec![claim]).unwrap();
    world.run(Duration::from_millis(4_500));
    assert_eq!(world.live_ids(1), [1, 2]);
}

#[test]
fn our_own_death_makes_us_come_back() {
    let mut world = World::seeded(3);
    let claim = Member::new(current(&world, 2), u16::MAX, State::Down);
    for to in [2, 3] {
        say(&mut world, 1, to, vec![claim.clone()]).unwrap();
    }
    world.run(Duration::from_secs(20));
    for at in 0..3 {
        assert_eq!(world.live_ids(at), [1, 2, 3]);
    }
}

#[test]
fn a_flood_of_deaths_makes_us_come_back_once() {
    let mut world = World::seeded(3);
    let start = current(&world, 2).0.generation;
    let mut generations = vec![start];
    for _ in 0..100 {
        let claim = Member::new(current(&world, 2), u16::MAX, State::Down);
        say(&mut world, 1, 2, vec![claim]).unwrap();
        generations.push(current(&world, 2).0.generation);
    }
    generations.dedup();
    assert_eq!(generations.len(), 2, "{generations:?}");
}

#[test]
fn a_forged_description_of_a_member_is_outbid_by_that_member() {
    let mut world = World::seeded(3);
    let mut forged = current(&world, 3).0;
    (forged.addr, forged.generation) = (([10, 9, 9, 9], 1).into(), forged.generation + 1000);
    for to in [2, 3] {
        say(&mut world, 1, to, vec![Member::alive(Name(forged.clone()))]).unwrap();
    }
    world.run(Duration::from_secs(20));
    for core in &world.cores {
        let third = core.live().into_iter().find(|n| n.id == forged.id).unwrap();
        assert_eq!(third.addr, node(3).addr, "in the view of {}", core.me().name);
    }
}

#[test]
fn a_node_that_restarts_with_a_clock_set_back_is_not_locked_out() {
    let mut world = World::seeded(3);
    let mut again = node(3);
    again.generation -= 1_800_000;
    world.cores[2] = Core::new(again, MembershipConfig::default(), 1150, 33);
    world.announce_all(&[node(1).addr]);
    world.run(Duration::from_secs(10));
    for at in 0..3 {
        assert_eq!(world.live_ids(at), [1, 2, 3]);
    }
}

#[test]
fn gossip_in_the_name_of_another_node_is_denied() {
    let mut world = World::seeded(3);
    let gossip = Gossip {
        header: foca::Header {
            src: current(&world, 3),
            src_incarnation: 0,
            dst: current(&world, 2),
            message: Message::Gossip,
        },
        updates: vec![],
    };
    let bytes = wire::frame(&gossip.encode_body().unwrap());
    let now = world.moment();
    let err = world.cores[1].receive(now, NodeId([1; 16]), &bytes, &mut Effects::default()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Denied);
}

#[test]
fn descriptions_that_cannot_be_are_not_taken_over() {
    let mut world = World::seeded(2);
    let mut bad = node(9);
    bad.addr = "127.0.0.1:22".parse().unwrap();
    let mut late = node(8);
    late.generation = world.moment().epoch_ms + wire::MAX_AHEAD_MS + 1;
    say(
        &mut world,
        1,
        2,
        vec![Member::alive(Name(bad)), Member::alive(Name(late)), Member::alive(Name(node(7)))],
    )
    .unwrap();
    assert_eq!(world.live_ids(1), [1, 2, 7], "the possible one is taken, the others are not");
}

#[test]
fn a_million_members_are_not_taken() {
    let mut world = World::seeded(2);
    for core in &mut world.cores {
        core.config.max_members = 5;
    }
    for n in 10..200u8 {
        say(&mut world, 1, 2, vec![Member::alive(Name(node(n)))]).unwrap();
    }
    // Ourselves and five others.
    assert_eq!(world.cores[1].live().len(), 6);
}

#[test]
fn a_word_to_an_address_that_nobody_has_is_refused() {
    let mut world = World::seeded(3);
    let mut victim = current(&world, 3).0;
    victim.addr = ([192, 0, 2, 1], 53).into();
    let gossip = Gossip {
        header: foca::Header {
            src: current(&world, 1),
            src_incarnation: 0,
            dst: current(&world, 2),
            message: Message::PingReq { target: Name(victim), probe_number: 1 },
        },
        updates: vec![],
    };
    let bytes = wire::frame(&gossip.encode_body().unwrap());
    let mut effects = Effects::default();
    let now = world.moment();
    let err = world.cores[1].receive(now, NodeId([1; 16]), &bytes, &mut effects).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Invalid);
    assert!(effects.send.is_empty());
}

#[test]
fn a_changed_description_reaches_all_and_nobody_is_thought_dead() {
    let mut world = World::seeded(4);
    let mut effects = Effects::default();
    let now = world.moment();
    world.cores[0].update(now, |n| n.zone = "b".into(), &mut effects).unwrap();
    world.post(0, effects);
    world.run(Duration::from_secs(10));
    for core in &world.cores {
        assert_eq!(core.live().iter().find(|n| n.id == node(1).id).unwrap().zone, "b");
    }
    assert!(world.deaths.is_empty(), "{:?}", world.deaths);
}

#[test]
fn a_node_that_came_back_finds_the_others_though_they_look_for_it_elsewhere() {
    let mut world = World::seeded(3);
    // As dated as the true one, and its address beats the true one's: so 1 and 2 hold node 3 for another
    // one that is down, and what they send to it arrives nowhere.
    let mut forged = current(&world, 3).0;
    forged.addr = ([10, 45, 0, 3], 4000).into();
    let claim = Member::new(Name(forged.clone()), 0, State::Down);
    for to in [1, 2] {
        world.cores[to as usize - 1].heard.clear();
        say(&mut world, 3 - to, to, vec![Member::alive(Name(forged.clone())), claim.clone()]).unwrap();
        assert!(!world.live_ids(to as usize - 1).contains(&3), "the fault did not fire");
    }
    // What it says to them as it comes back is lost.
    let before = current(&world, 3).0.generation;
    turn_undead(&mut world, 1, 3);
    assert!(current(&world, 3).0.generation > before, "node 3 did not come back");
    world.wire.clear();
    world.run(Duration::from_secs(30));
    for at in 0..3 {
        assert_eq!(world.live_ids(at), [1, 2, 3], "node {}", at + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_datagrams_neither_harm_nor_kill(
        datagrams in prop::collection::vec((1u8..4, any::<prop::sample::Index>(), any::<u8>(), 0u8..11, any::<u16>()), 1..40),
    ) {
        let mut world = World::seeded(3);
        for (from, at, value, kind, incarnation) in datagrams {
            let third = current(&world, 3);
            let message = match kind {
                0 => Message::Ping(value),
                1 => Message::Ack(value),
                2 => Message::PingReq { target: third.clone(), probe_number: value },
                3 => Message::IndirectPing { origin: third.clone(), probe_number: value },
                4 => Message::IndirectAck { target: third.clone(), probe_number: value },
                5 => Message::ForwardedAck { origin: third.clone(), probe_number: value },
                6 => Message::Announce,
                7 => Message::Feed,
                8 => Message::Gossip,
                9 => Message::Broadcast,
                _ => Message::TurnUndead,
            };
            let state = [State::Alive, State::Suspect, State::Down][value as usize % 3];
            let gossip = Gossip {
                header: foca::Header {
                    src: current(&world, from),
                    src_incarnation: incarnation,
                    dst: current(&world, 2),
                    message,
                },
                updates: vec![Member::new(third, incarnation, state)],
            };
            let mut bytes = wire::frame(&gossip.encode_body().unwrap()).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= value;
            let mut effects = Effects::default();
            let now = world.moment();
            let _ = world.cores[1].receive(now, NodeId([from; 16]), &bytes, &mut effects);
            world.post(1, effects);
        }
        world.run(Duration::from_secs(60));
        // Invented members may be left; the real ones are all there.
        for core in &world.cores {
            for n in 1..=3 {
                prop_assert!(
                    core.live().iter().any(|m| m.id == node(n).id),
                    "{} misses {n}: {:#?}",
                    core.me().name,
                    world.cores.iter().map(|c| (c.me(), c.views())).collect::<Vec<_>>()
                );
            }
        }
    }
}
