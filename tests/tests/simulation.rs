//! The swarm, the ring, the meeting place and the membership in virtual time, with many seeds: what must be
//! true of any herd, however its nodes come, go and are linked.
//!
//! Every failure names its seed; `swarm-sim --seed` replays what a plan describes.

use coordinatorless_p2p::{ChunkSet, ErrorKind};
use emberline_tests::swarm_sim::{Index, Links, Plan, Report, Setting, World, find, run};

/// A gigabit a second, in bytes.
const GIGABIT: f64 = 125e6;
const SECOND: u64 = 1_000_000_000;
/// What meeting takes before anything is read, whatever the model's size.
const MEETING_SECONDS: f64 = 0.6;

fn plan(nodes: usize, chunks: u64, seed: u64) -> Plan {
    Plan {
        nodes,
        model_bytes: chunks << 20,
        chunk_bytes: 1 << 20,
        links: Links { nodes: vec![GIGABIT], origin: GIGABIT, trunk: None },
        zones: 1,
        churn: 0.0,
        members_max: nodes.min(32),
        seed,
    }
}

fn simulate(plan: &Plan) -> Report {
    let report = run(plan, |_| {}).unwrap_or_else(|e| panic!("{plan:?}: {e}"));
    println!("{report}\n");
    report
}

/// How long everybody takes to notice a death here.
fn soon(_: Index) -> u64 {
    3 * SECOND
}

/// A world of `plan` in which everybody begins at once.
fn herd(plan: &Plan) -> World {
    let mut world = World::new(Setting::of(plan), plan.nodes);
    for node in 0..plan.nodes as Index {
        world.start(node, u64::from(node) * SECOND / 1000);
    }
    world
}

fn seconds_of(world: &World, node: usize) -> f64 {
    let peer = &world.peers[node];
    let done = peer.done_at.unwrap_or_else(|| panic!("node {node} is not done"));
    (done - peer.starts_at) as f64 / SECOND as f64
}

/// Lets everybody finish; says until when the last of `nodes` took, from its start.
fn finish(world: &mut World, seed: u64, nodes: impl IntoIterator<Item = usize>) -> f64 {
    assert!(world.run(world.now + 600 * SECOND), "seed {seed}: {}", world.laggards());
    nodes.into_iter().map(|n| seconds_of(world, n)).fold(0.0, f64::max)
}

#[test]
fn a_herd_of_any_size_ends_near_the_bound_and_reads_the_origin_once() {
    for (nodes, seeds, most) in
        [(1, 2, 1.05), (2, 4, 1.1), (10, 8, 1.15), (32, 3, 1.2), (33, 3, 1.3), (100, 4, 1.35)]
    {
        for seed in 0..seeds {
            let report = simulate(&plan(nodes, 512, seed));
            let most_seconds = MEETING_SECONDS + most * report.bound_seconds;
            assert!(report.makespan_seconds <= most_seconds, "seed {seed}: {report}");
            assert!(report.makespan_ratio >= 1.0, "seed {seed}: faster than light: {report}");
            assert!((1.0..=1.05).contains(&report.origin_ratio), "seed {seed}: {report}");
        }
    }
}

#[test]
fn one_seed_has_one_outcome_and_another_seed_another_one() {
    let plan = |seed| Plan { churn: 0.1, zones: 2, ..plan(50, 128, seed) };
    let (first, again, other) = (simulate(&plan(7)), simulate(&plan(7)), simulate(&plan(8)));
    assert_eq!(first, again, "seed 7");
    assert_ne!((first.events, first.makespan_seconds), (other.events, other.makespan_seconds));
}

#[test]
fn each_byte_crosses_a_zone_border_once_a_zone() {
    for (nodes, zones, seeds) in [(12, 3, 4), (100, 4, 3)] {
        for seed in 0..seeds {
            let report = simulate(&Plan { zones, ..plan(nodes, 512, seed) });
            assert!(report.cross_zone_ratio >= 1.0, "seed {seed}: a zone got less than the model: {report}");
            assert!(report.cross_zone_ratio <= 1.05, "seed {seed}: {report}");
            assert!(report.origin_ratio <= 1.05, "seed {seed}: {report}");
        }
    }
}

#[test]
fn those_who_die_are_taken_over_and_those_who_join_are_fed() {
    for (nodes, seeds) in [(10, 8), (100, 3)] {
        for seed in 0..seeds {
            let plan = Plan { churn: 0.2, zones: 2, ..plan(nodes, 512, seed) };
            let report = simulate(&plan);
            assert_eq!(report.changes, nodes / 5, "seed {seed}: nobody died");
            assert!(report.origin_ratio <= 1.25, "seed {seed}: {report}");
            assert_eq!(report.false_deaths, 0, "seed {seed}");
        }
    }
}

#[test]
fn what_a_dead_reader_claimed_is_read_by_others() {
    for seed in 0..6 {
        let plan = plan(10, 256, seed);
        let mut world = herd(&plan);
        world.run(SECOND);
        let reading =
            |world: &World, n: usize| world.peers[n].swarm.as_ref().map_or(0, |s| s.reading().count());
        let victim = (0..10).find(|n| reading(&world, *n) > 0).expect("somebody reads");
        assert!(world.ledger.claims > 0);
        let at = world.now;
        world.kill(victim as Index, at, soon);
        finish(&mut world, seed, (0..10).filter(|n| *n != victim));
        assert!(world.peers[victim].done_at.is_none(), "seed {seed}: the dead go on");
        // Only what the dead one alone held is read again.
        let origin = world.ledger.origin_bytes as f64 / plan.model_bytes as f64;
        assert!((1.0..=1.15).contains(&origin), "seed {seed}: origin {origin:.3}");
    }
}

#[test]
fn nobody_claims_what_another_one_reads() {
    for (nodes, seed) in [(2, 1), (10, 2), (10, 3), (32, 4), (100, 5)] {
        let plan = plan(nodes, 512, seed);
        let mut world = herd(&plan);
        finish(&mut world, seed, 0..nodes);
        let spans = Setting::of(&plan).spec.spans.len() as f64;
        let claims = world.ledger.claims as f64 / spans;
        assert!((1.0..=1.3).contains(&claims), "seed {seed}: {claims:.2} claims a span of {nodes} nodes");
    }
}

#[test]
fn a_meeting_place_may_die_and_those_who_join_later_are_fed_all_the_same() {
    for (nodes, seed) in [(10, 1), (10, 2), (10, 3), (100, 4), (100, 5)] {
        let plan = plan(nodes, 512, seed);
        let mut world = World::new(Setting::of(&plan), nodes);
        let homes = world.homes();
        let late: Vec<Index> = (0..nodes as Index).rev().filter(|n| !homes.contains(n)).take(2).collect();
        for node in (0..nodes as Index).filter(|n| !late.contains(n)) {
            world.start(node, u64::from(node) * SECOND / 1000);
        }
        for home in &homes {
            world.kill(*home, SECOND, soon);
        }
        // Before the deaths were noticed, and after.
        world.start(late[0], 2 * SECOND);
        world.start(late[1], 8 * SECOND);
        let is_home = |n: &usize| homes.contains(&(*n as Index));
        finish(&mut world, seed, (0..nodes).filter(|n| !is_home(n)));
        assert!(homes.iter().all(|home| world.peers[*home as usize].done_at.is_none()), "seed {seed}");
        let origin = world.ledger.origin_bytes as f64 / plan.model_bytes as f64;
        assert!(origin <= 1.4, "seed {seed}: origin {origin:.3}");
    }
}

#[test]
fn a_straggler_is_hedged_within_the_budget_and_holds_nobody_up() {
    for (nodes, seed) in [(10, 1), (10, 2), (10, 3), (10, 4), (100, 1), (100, 3)] {
        let slow = 4;
        let seconds = |slow_rate: f64| {
            let mut rates = vec![GIGABIT; nodes];
            rates[slow] = slow_rate;
            let links = Links { nodes: rates, origin: GIGABIT, trunk: None };
            let mut world = herd(&Plan { links, ..plan(nodes, 512, seed) });
            (finish(&mut world, seed, (0..nodes).filter(|n| *n != slow)), world)
        };
        let ((even, _), (others, world)) = (seconds(GIGABIT), seconds(GIGABIT / 100.0));
        println!("seed {seed}: {even:.2} s without a straggler, {others:.2} s with one");
        assert!(others <= 1.2 * even, "seed {seed}: {others:.2} s, {even:.2} s without a straggler");
        let hedged = world.ledger.hedged_bytes as f64 / world.ledger.peer_bytes as f64;
        assert!(hedged <= 0.04, "seed {seed}: {hedged:.3} asked twice");
    }
}

#[test]
fn a_late_joiner_among_warm_nodes_is_bound_by_its_own_link_and_costs_the_origin_nothing() {
    for (nodes, seed) in [(10, 1), (10, 2), (100, 3)] {
        let plan = plan(nodes, 512, seed);
        let mut world = World::new(Setting::of(&plan), nodes);
        for node in 1..nodes as Index {
            world.start_with(node, u64::from(node) * SECOND / 1000, ChunkSet::full(512));
        }
        world.start(0, 2 * SECOND);
        let took = finish(&mut world, seed, [0]);
        let own = plan.model_bytes as f64 / GIGABIT;
        assert!(took <= 1.15 * own, "seed {seed}: {took:.2} s of {own:.2} s");
        assert_eq!(world.ledger.origin_bytes, 0, "seed {seed}");
    }
}

#[test]
fn what_the_nodes_hold_between_them_needs_no_origin() {
    for (nodes, seed) in [(10, 1), (10, 2), (100, 3)] {
        let plan = plan(nodes, 256, seed);
        let mut world = World::new(Setting::of(&plan), nodes);
        for node in 0..nodes as u32 {
            let held: ChunkSet = set(256, (0..256).filter(|c| c % nodes as u32 == node));
            world.start_with(node, 0, held);
        }
        world.origin_is_dead = true;
        finish(&mut world, seed, 0..nodes);
        assert_eq!(world.ledger.origin_bytes, 0, "seed {seed}");
    }
}

fn set(universe: u32, chunks: impl IntoIterator<Item = u32>) -> ChunkSet {
    let mut set = ChunkSet::new(universe);
    for chunk in chunks {
        set.insert(chunk);
    }
    set
}

#[test]
fn members_find_each_other_miss_the_dead_and_take_nobody_who_lives_for_dead() {
    for (count, seeds) in [(3, 8), (10, 8), (100, 3)] {
        for seed in 0..seeds {
            let findings = find(count, 2, &[1], seed);
            assert!(findings.converge_seconds <= 30.0, "seed {seed}: {findings:?}");
            assert!(findings.detect_seconds > 0.0, "seed {seed}: nobody died");
            assert!(findings.detect_seconds <= 30.0, "seed {seed}: {}", findings.detect_seconds);
            assert_eq!(findings.false_deaths, 0, "seed {seed}");
        }
    }
}

#[test]
fn what_each_node_says_for_a_chunk_hardly_grows_with_the_herd() {
    let (few, many) = (simulate(&plan(50, 256, 1)), simulate(&plan(400, 256, 1)));
    let growth = many.control_messages_per_chunk / few.control_messages_per_chunk;
    let logarithm = 400f64.ln() / 50f64.ln();
    assert!(growth <= logarithm, "{growth:.2}, the logarithm grows by {logarithm:.2}");
    assert!(many.neighbours_max <= 128, "{} neighbours", many.neighbours_max);
    assert!(many.control_bytes_ratio < 0.01, "{many}");
}

#[test]
fn plans_that_cannot_be_are_refused_and_named() {
    let base = || plan(10, 16, 1);
    let wrong = [
        (Plan { nodes: 0, ..base() }, "0 nodes"),
        (Plan { zones: 11, ..base() }, "11 zones"),
        (Plan { zones: 0, ..base() }, "0 zones"),
        (Plan { churn: 0.6, ..base() }, "churn of 60"),
        (Plan { chunk_bytes: 0, ..base() }, "chunks of 0"),
        (Plan { model_bytes: 0, ..base() }, "0 bytes"),
        (Plan { links: Links { nodes: vec![0.0], origin: 1.0, trunk: None }, ..base() }, "rate above zero"),
    ];
    for (plan, named) in wrong {
        let error = run(&plan, |_| {}).expect_err(named);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(named), "{error}");
    }
}
