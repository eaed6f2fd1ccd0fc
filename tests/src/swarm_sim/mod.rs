//! `swarm-sim`: thousands of nodes of the product's own state machines in virtual time.
//!
//! Swarm, ring, meeting place and membership are the product's; the network is a fluid one with
//! max-min-fair links. Two acts: first the members find each other, and those that are to die on the way
//! are missed; then, knowing each other, they want the model, and hear of each death when it was noticed.
//! Deterministic: one plan and seed, one outcome. Knows no sockets, files or clocks.

mod gossip;
mod mail;
mod network;
mod plan;
mod report;
mod world;

pub use gossip::{Findings, find};
pub use plan::{Links, Plan, bound_seconds, spec_of};
pub use report::Report;
pub use world::{Index, Ledger, Setting, World};

use coordinatorless_p2p::{Error, ErrorKind, Result};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Released together, nodes begin within this time.
const START_SPREAD_NANOS: u64 = 100_000_000;

/// How far a simulation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stage {
    /// So many members look for each other.
    Membership(usize),
    /// The swarm is at work.
    Swarm {
        /// Seconds since it began, of virtual time.
        seconds: f64,
        /// What has arrived ÷ all that is to arrive.
        share: f64,
    },
}

/// Simulates `plan` to its end; `watch` hears now and then how far that is.
///
/// # Errors
/// `Invalid` when the plan cannot be; `Timeout` when somebody has not got the model after twenty times the
/// bound and a minute, with the seed.
pub fn run(plan: &Plan, mut watch: impl FnMut(Stage)) -> Result<Report> {
    plan.check()?;
    let bound = bound_seconds(plan.model_bytes, plan.nodes, &plan.links);
    let mut rng = SmallRng::seed_from_u64(plan.seed);
    let changes = plan.changes();
    let everybody = plan.nodes + changes;
    let victims = draw(plan.nodes, changes, &mut rng);
    // Where nobody is to die in the swarm, one does in the gossip, so that noticing is measured at all.
    let members = everybody.min(plan.members_max).max(2);
    let missed: Vec<u32> = victims.iter().map(|v| v % members as u32).chain([1]).collect();
    let missed = distinct(missed);
    watch(Stage::Membership(members));
    let findings = find(members, plan.zones, &missed, plan.seed);

    let mut world = World::new(Setting::of(plan), everybody);
    for node in 0..plan.nodes as u32 {
        world.start(node, rng.random_range(0..START_SPREAD_NANOS));
    }
    let mut moment = || (bound * rng.random_range(0.1..0.9) * 1e9) as u64;
    for node in plan.nodes..everybody {
        world.start(node as u32, moment());
    }
    for victim in victims {
        let as_missed = missed.iter().position(|m| *m == victim % members as u32).unwrap_or(0);
        world.kill(victim, moment(), |who| findings.notice(as_missed, who % members as u32));
    }
    let limit = ((bound * 20.0 + 60.0) * 1e9) as u64;
    let watch = |world: &World| {
        let (seconds, share) = (world.now as f64 / 1e9, world.share());
        watch(Stage::Swarm { seconds, share });
    };
    if !world.run_watched(limit, watch) {
        return Err(Error::new(
            ErrorKind::Timeout,
            format!(
                "seed {}: not done after {:.0} s of virtual time: {}",
                plan.seed,
                limit as f64 / 1e9,
                world.laggards()
            ),
        ));
    }
    Ok(Report::of(plan, bound, &findings, members, &world))
}

/// Some of the nodes, each once.
fn draw(nodes: usize, count: usize, rng: &mut SmallRng) -> Vec<u32> {
    let mut all: Vec<u32> = (0..nodes as u32).collect();
    for at in 0..count {
        let other = rng.random_range(at..all.len());
        all.swap(at, other);
    }
    all.truncate(count);
    all
}

fn distinct(mut nodes: Vec<u32>) -> Vec<u32> {
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}
