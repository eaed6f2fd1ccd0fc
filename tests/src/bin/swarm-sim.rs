//! `swarm-sim`: how the product's state machines bring a model onto thousands of nodes, in virtual time.
//!
//! Arguments and printing; the simulation is in `emberline_tests::swarm_sim`. Needs no privileges.

use std::process::ExitCode;

use clap::Parser;
use coordinatorless_p2p::{Error, ErrorKind, Result};
use emberline_tests::{
    program::{exit, print_report},
    rate,
    swarm_sim::{Links, Plan, Stage, run},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Simulates how thousands of nodes get one model.
///
/// The swarm, the ring, the meeting place and the membership are the product's own state machines; the
/// network is a fluid one whose links are shared max-min fairly. One seed, one outcome.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// How many nodes want the model, all at once.
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Size of the model.
    #[arg(long, default_value = "140GB", value_parser = preload_cli::units::parse_bytes)]
    model: u64,
    /// Size of its chunks. If not given, the product's own (1 to 4 MiB), or coarser ones where those would
    /// take more than minutes; the output says which.
    #[arg(long, value_parser = preload_cli::units::parse_bytes)]
    chunk: Option<u64>,
    /// Rate of each node's link, up and down: `10gbit`; several are dealt to the nodes in turn.
    #[arg(long, default_value = "10gbit", value_delimiter = ',', value_parser = rate::parse)]
    rate: Vec<u64>,
    /// Rate of the origin's link; as the first `--rate` if not given.
    #[arg(long, value_parser = rate::parse)]
    origin_rate: Option<u64>,
    /// Deal the nodes to this many zones; the origin is in none of them.
    #[arg(long, default_value_t = 1)]
    zones: usize,
    /// Rate of each zone's border, each way; not narrow if not given.
    #[arg(long, value_parser = rate::parse)]
    zone_rate: Option<u64>,
    /// So many of the nodes die without a word on the way, and as many new ones join.
    #[arg(long, default_value = "0%", value_parser = parse_share)]
    churn: f64,
    /// Simulate the membership of at most so many nodes: its work grows with the third power.
    #[arg(long, default_value_t = 1000)]
    members_max: usize,
    /// Of every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  swarm-sim --nodes 1000 --model 140GB --zones 4 --churn 5% --seed 7
  swarm-sim --nodes 100 --model 1GiB --rate 1gbit --json
  swarm-sim --nodes 64 --model 4GiB --rate 10gbit,2.5gbit    half of the links at a quarter
  swarm-sim --nodes 64 --zones 4 --zone-rate 10gbit --model 8GB   narrow borders between zones
  swarm-sim --nodes 1000 --model 4GB --chunk 1MiB            chunks as the product's, a smaller model

Exit codes: 0 simulated, 2 an argument that cannot be, 6 somebody never got the model.";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    exit("swarm-sim", simulate(&arguments))
}

fn simulate(arguments: &Arguments) -> Result<()> {
    let plan = plan(arguments)?;
    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
    // Nothing is drawn where stderr is no terminal.
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {elapsed}") {
        bar.set_style(style);
    }
    let report = run(&plan, |stage| match stage {
        Stage::Membership(members) => bar.set_message(format!("{members} members find each other")),
        Stage::Swarm { seconds, share } => {
            bar.set_message(format!("swarm after {seconds:.1} s of virtual time"));
            bar.set_position((share * 1000.0) as u64);
        }
    });
    bar.finish_and_clear();
    print_report(&report?, arguments.json)
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let bytes = |bits: u64| bits as f64 / 8.0;
    let chunk_bytes = match arguments.chunk {
        Some(chunk) => u32::try_from(chunk).map_err(|_| {
            Error::new(ErrorKind::Invalid, format!("chunks of {chunk} bytes: at most 256 MiB"))
        })?,
        None => Plan::feasible_chunk_bytes(arguments.model, arguments.nodes),
    };
    Ok(Plan {
        nodes: arguments.nodes,
        model_bytes: arguments.model,
        chunk_bytes,
        links: Links {
            nodes: arguments.rate.iter().copied().map(bytes).collect(),
            origin: bytes(arguments.origin_rate.or(arguments.rate.first().copied()).unwrap_or(0)),
            trunk: arguments.zone_rate.map(bytes),
        },
        zones: arguments.zones,
        churn: arguments.churn,
        members_max: arguments.members_max,
        seed: arguments.seed,
    })
}

/// Reads a share: `5%` or `0.05`.
fn parse_share(text: &str) -> std::result::Result<f64, String> {
    let wrong = || format!("{text:?} is not a share; write for example 5% or 0.05");
    let share = match text.trim().strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map_err(|_| wrong())? / 100.0,
        None => text.trim().parse().map_err(|_| wrong())?,
    };
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("{text:?} is not between 0% and 100%")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_are_plans_that_can_be() {
        let commands = EXAMPLES.lines().filter(|line| line.trim_start().starts_with("swarm-sim "));
        let mut count = 0;
        for line in commands {
            let command = line.trim().split("   ").next().unwrap_or_default();
            let arguments = Arguments::try_parse_from(command.split_whitespace()).expect(command);
            plan(&arguments).and_then(|plan| plan.check()).expect(command);
            count += 1;
        }
        assert_eq!(count, 5);
    }

    #[test]
    fn shares_are_read_as_people_write_them() {
        assert_eq!(parse_share("5%"), Ok(0.05));
        assert_eq!(parse_share("0.25"), Ok(0.25));
        for wrong in ["", "x", "101%", "-1%", "nan", "2"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }
}
