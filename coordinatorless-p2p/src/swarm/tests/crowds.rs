//! One node's view of a swarm too large to know everybody: who becomes a reader, and whom it parts with.

use super::*;

/// One zone of a crowd has so many readers.
const READERS: usize = 32;
/// Long after the meeting, and long before a node loses patience with those who read.
const LATER: Duration = Duration::from_secs(20);

fn score(n: usize) -> u64 {
    reader_score(SwarmId([9; 32]), id(n))
}

/// The smallest crowd in which node 0 does not read, and those who rank better, best first.
fn crowd() -> (usize, Vec<usize>) {
    let betters = |nodes: usize| (1..nodes).filter(|n| score(*n) > score(0));
    let nodes = (60..1000).find(|n| betters(*n).count() >= READERS).expect("some crowd is large enough");
    let mut betters: Vec<usize> = betters(nodes).collect();
    betters.sort_by_key(|n| std::cmp::Reverse(score(*n)));
    (nodes, betters)
}

/// Node 0 as a member of a crowd that it has just met.
fn member_of(nodes: usize) -> Swarm {
    let everybody: Vec<NodeId> = (0..nodes).map(id).collect();
    let mut swarm = lone(cold(512), false);
    swarm.handle(Duration::ZERO, Input::Members(members(&everybody)));
    swarm.handle(Duration::ZERO, Input::Met(everybody[1..].to_vec()));
    swarm
}

fn speaks(swarm: &mut Swarm, now: Now, n: usize, held: ChunkSet) {
    let joined = Input::Joined { peer: id(n), same_zone: true, held, wanted: None, reads_origin: true };
    swarm.handle(now, joined);
}

fn reads(swarm: &mut Swarm) -> bool {
    drain(swarm).iter().any(|out| matches!(out, Output::FetchSpan { .. }))
}

/// A crowd of which so many readers have died that node 0 is the last to become one, while the swarm is at
/// work; and the readers it has now.
fn promoted() -> (Swarm, Vec<usize>) {
    let (nodes, betters) = crowd();
    let mut swarm = member_of(nodes);
    let ordinary = (1..nodes).find(|n| score(*n) < score(0)).expect("somebody ranks worse");
    let first: ChunkSet = std::iter::once(0).fold(cold(512), |mut set, c| {
        set.insert(c);
        set
    });
    speaks(&mut swarm, LATER, ordinary, first);
    swarm.handle(LATER, Input::Tick);
    assert!(!reads(&mut swarm), "node 0 is no reader yet");
    let (dead, living) = betters.split_at(betters.len() - (READERS - 1));
    let alive: Vec<NodeId> = (0..nodes).filter(|n| !dead.contains(n)).map(id).collect();
    swarm.handle(LATER, Input::Members(members(&alive)));
    (swarm, living.to_vec())
}

#[test]
fn who_reads_because_another_one_died_greets_the_readers_and_hears_all_of_them_first() {
    let (mut swarm, readers) = promoted();
    let out = drain(&mut swarm);
    for reader in &readers {
        let greeted = out.iter().filter(|o| **o == Output::Greet { peer: id(*reader) }).count();
        assert_eq!(greeted, 1, "reader {reader}");
    }
    assert!(!out.iter().any(|out| matches!(out, Output::FetchSpan { .. })), "it reads what others hold");
    let (last, others) = readers.split_last().expect("there are readers");
    for reader in others {
        speaks(&mut swarm, LATER + STEP, *reader, cold(512));
    }
    swarm.handle(LATER + Duration::from_secs(1), Input::Tick);
    assert!(!reads(&mut swarm), "one has not spoken");
    speaks(&mut swarm, LATER + Duration::from_secs(2), *last, cold(512));
    swarm.handle(LATER + Duration::from_secs(3), Input::Tick);
    assert!(reads(&mut swarm), "all have spoken");
}

#[test]
fn a_new_reader_does_not_wait_for_ever_for_one_that_does_not_speak() {
    let (mut swarm, _) = promoted();
    // What its one neighbour holds is here, or it would doubt that neighbour, which answers nothing.
    swarm.handle(LATER, Input::Stored { index: 0, hash: hash_of(0) });
    swarm.handle(LATER + Duration::from_secs(9), Input::Tick);
    assert!(!reads(&mut swarm));
    swarm.handle(LATER + Duration::from_secs(11), Input::Tick);
    assert!(reads(&mut swarm));
}

#[test]
fn a_reader_waits_for_a_new_one_as_little_as_before_where_nobody_has_got_anything() {
    let (nodes, betters) = crowd();
    let mut swarm = member_of(nodes);
    let alive: Vec<NodeId> =
        (0..nodes).filter(|n| !betters[..betters.len() - READERS + 1].contains(n)).map(id).collect();
    swarm.handle(Duration::ZERO, Input::Members(members(&alive)));
    swarm.handle(SwarmConfig::default().meeting_max + STEP, Input::Tick);
    assert!(reads(&mut swarm), "all would wait for one that is dead");
}

#[test]
fn who_reads_or_alone_holds_something_is_not_parted_with_when_there_are_too_many() {
    let (nodes, _) = crowd();
    let parted = |swarm: &mut Swarm| -> Vec<NodeId> {
        let everybody = (1..nodes).map(id).collect();
        drain(swarm);
        swarm.handle(LATER, Input::Met(everybody));
        let parted = |out| if let Output::Part { peer } = out { Some(peer) } else { None };
        drain(swarm).into_iter().filter_map(parted).collect()
    };
    let mut swarm = member_of(nodes);
    (1..nodes).for_each(|n| speaks(&mut swarm, STEP, n, cold(512)));
    let spare = parted(&mut swarm);
    let number = |peer: &NodeId| (1..nodes).find(|n| id(*n) == *peer).expect("a node");
    let [holder, reader] = [number(&spare[0]), number(&spare[1])];

    let mut swarm = member_of(nodes);
    let mut one = cold(512);
    one.insert(0);
    for n in 1..nodes {
        speaks(&mut swarm, STEP, n, if n == holder { one.clone() } else { cold(512) });
    }
    swarm.handle(STEP, Input::Claimed { peer: id(reader), span: 9 });
    let spare = parted(&mut swarm);
    assert!(!spare.is_empty());
    assert!(!spare.contains(&id(holder)), "its chunk would be read again");
    assert!(!spare.contains(&id(reader)), "its span would be read again");
}
