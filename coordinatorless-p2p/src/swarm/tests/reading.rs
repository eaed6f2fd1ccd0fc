//! Readers that do not wait for the whole: what they wait for, what they come to next, what was read before.

use super::*;

/// What is asked of the origin, chunk by chunk, whether by span or by itself.
fn asked_of_origin(said: &[Output]) -> Vec<u32> {
    let chunks = said.iter().flat_map(|output| match output {
        Output::FetchSpan { chunks, .. } => chunks.clone().collect(),
        Output::Rush { index } => vec![*index],
        _ => Vec::new(),
    });
    chunks.collect()
}

/// A node alone that wants nothing yet.
fn idle(chunks: u32) -> Swarm {
    let mut swarm = lone(cold(chunks), false);
    swarm.handle(Duration::ZERO, Input::Want(cold(chunks)));
    drain(&mut swarm);
    swarm
}

#[test]
fn a_chunk_that_a_reader_waits_for_is_read_by_itself_and_nothing_else_is() {
    let mut swarm = idle(2560);
    swarm.handle(STEP, Input::Urgent(vec![2559]));
    assert_eq!(asked_of_origin(&drain(&mut swarm)), [2559]);
    assert!(swarm.wanted().contains(2559) && swarm.missing() == 1);
    swarm.handle(STEP, Input::Rushed { index: 2559, failed: None });
    swarm.handle(STEP, Input::Stored { index: 2559, hash: hash_of(2559) });
    assert!(drain(&mut swarm).contains(&Output::Complete));
}

#[test]
fn a_reader_goes_past_the_queue_of_a_pull() {
    // Every stream is busy at the front of a large artifact when somebody wants its end.
    let mut swarm = lone(cold(2560), false);
    drain(&mut swarm);
    swarm.handle(STEP, Input::Tick);
    let planned = asked_of_origin(&drain(&mut swarm));
    assert!(!planned.contains(&2559));
    swarm.handle(STEP * 2, Input::Urgent(vec![2559]));
    assert_eq!(asked_of_origin(&drain(&mut swarm)), [2559]);
}

#[test]
fn what_this_node_is_about_to_read_anyway_is_not_read_twice() {
    let mut swarm = lone(cold(64), false);
    swarm.handle(STEP, Input::Tick);
    drain(&mut swarm);
    assert!(swarm.reading().any(|span| span == 0));
    // The first of a run that is under way; and the last of it, which a slow stream comes to late.
    swarm.handle(STEP, Input::Urgent(vec![0]));
    assert_eq!(asked_of_origin(&drain(&mut swarm)), [] as [u32; 0]);
    swarm.handle(STEP, Input::Urgent(vec![3]));
    assert_eq!(asked_of_origin(&drain(&mut swarm)), [3]);
}

#[test]
fn a_rush_that_fails_rests_and_is_tried_again_and_one_in_vain_is_called_off() {
    let mut swarm = idle(8);
    swarm.handle(STEP, Input::Urgent(vec![5]));
    drain(&mut swarm);
    swarm.handle(STEP, Input::Rushed { index: 5, failed: Some(ErrorKind::UNAVAILABLE) });
    let at_once: Vec<_> =
        drain(&mut swarm).into_iter().filter(|o| matches!(o, Output::Rush { .. })).collect();
    assert!(at_once.is_empty(), "{at_once:?}");
    swarm.handle(Duration::from_secs(1), Input::Tick);
    let again = drain(&mut swarm);
    assert!(asked_of_origin(&again).contains(&5), "{again:?}");
    swarm.handle(Duration::from_secs(1), Input::Urgent(vec![6]));
    drain(&mut swarm);
    swarm.handle(Duration::from_secs(1), Input::Stored { index: 6, hash: hash_of(6) });
    assert!(drain(&mut swarm).contains(&Output::CancelRush { index: 6 }));
}

#[test]
fn a_held_origin_is_not_rushed() {
    let mut swarm = idle(8);
    swarm.handle(STEP, Input::OriginHold { until: Duration::from_secs(9) });
    swarm.handle(STEP, Input::Urgent(vec![5]));
    swarm.handle(Duration::from_millis(8_900), Input::Tick);
    assert_eq!(asked_of_origin(&drain(&mut swarm)), [] as [u32; 0]);
    swarm.handle(Duration::from_secs(9), Input::Tick);
    assert_eq!(asked_of_origin(&drain(&mut swarm)), [5]);
}

#[test]
fn read_ahead_comes_in_its_order_and_before_everything_planned() {
    let mut swarm = lone(cold(256), false);
    swarm.handle(STEP, Input::Members(members(&[id(0), id(1)])));
    drain(&mut swarm);
    swarm.handle(STEP, Input::Ahead(vec![202, 203, 100]));
    swarm.handle(STEP, Input::Met(vec![]));
    swarm.handle(Duration::from_secs(2), Input::Tick);
    let asked = asked_of_origin(&drain(&mut swarm));
    // From the chunk that is next, not from the start of its span, which is 200.
    assert_eq!(asked[..3], [202, 203, 100], "{asked:?}");
}

#[test]
fn holders_are_asked_for_the_head_of_the_order_first() {
    let mut swarm = lone(cold(256), false);
    let order = vec![200, 10, 150];
    swarm.handle(STEP, Input::Members(members(&[id(0), id(1)])));
    swarm.handle(STEP, Input::Order(order.clone()));
    drain(&mut swarm);
    join(&mut swarm, 1, ChunkSet::full(256));
    let requests = |swarm: &mut Swarm| -> Vec<u32> {
        let asked = |o| if let Output::Request { index, .. } = o { Some(index) } else { None };
        drain(swarm).into_iter().filter_map(asked).collect()
    };
    let mut asked = requests(&mut swarm);
    for step in 0..2 {
        let (now, index) = (STEP * (step + 2), asked[step as usize]);
        swarm.handle(now, Input::Received { peer: id(1), index, round_trip: None });
        swarm.handle(now, Input::Stored { index, hash: hash_of(index) });
        asked.extend(requests(&mut swarm));
    }
    assert_eq!(asked[..3], order);
}

/// How many chunks a node has when it has the last of those that are read first.
fn chunks_until_first_tensors(order: Option<Vec<u32>>, first: &[u32]) -> u32 {
    let mut world = World::new(spec(256, 4), LINK);
    world.start(LINK, cold(256));
    if let Some(order) = order {
        world.nodes[0].swarm.handle(world.now, Input::Order(order));
    }
    while !first.iter().all(|index| world.nodes[0].swarm.held().contains(*index)) {
        world.step();
        assert!(world.now < Duration::from_secs(60));
    }
    world.nodes[0].swarm.held().len()
}

#[test]
fn a_recorded_order_brings_what_is_read_first_after_fewer_chunks() {
    // A header, and tensors from the end of the artifact to its middle.
    let first: Vec<u32> = [0].into_iter().chain((140..156).rev()).collect();
    let without = chunks_until_first_tensors(None, &first);
    let with = chunks_until_first_tensors(Some(first.clone()), &first);
    println!("{without} chunks without the order, {with} with it");
    assert!(with * 2 < without, "{with} of {without}");
}

#[test]
fn a_herd_that_reads_in_step_costs_the_origin_little_more_than_the_artifact() {
    let mut world = World::new(spec(128, 4), LINK);
    world.herd(8, LINK);
    let mut next = [0u32; 8];
    while world.now < Duration::from_secs(120) && world.nodes.iter().any(|n| n.done_at.is_none()) {
        for (n, at) in next.iter_mut().enumerate() {
            while *at < 128 && world.nodes[n].swarm.held().contains(*at) {
                *at += 1;
            }
            if *at < 128 {
                world.nodes[n].swarm.handle(world.now, Input::Urgent(vec![*at]));
            }
        }
        world.step();
    }
    assert!(world.nodes.iter().all(|n| n.done_at.is_some()));
    let (ratio, rushes) = (world.origin_ratio(), world.ledger.rushes);
    println!(
        "in step: origin {ratio:.3}, {rushes} rushes, {:.3} x the bound",
        world.makespan() / world.bound()
    );
    assert!(ratio <= 1.1, "origin {ratio:.3}");
}
