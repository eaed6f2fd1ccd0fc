//! `limit-bench`: what requests on a link suffer from a swarm, with and without a limit.
//!
//! Arguments and printing; the measurement is in `emberline_tests::limit_bench`. Needs root, for network
//! namespaces. What it starts and makes is gone when it ends, also by Ctrl-C.

use std::process::ExitCode;

use clap::Parser;
use coordinatorless_p2p::Result;
use emberline_tests::{
    limit_bench::{Plan, run},
    namespaces,
    program::{exit, print_report, until_interrupted},
};

/// Measures how long small requests take on links that agents use, too.
///
/// A client and a server in the namespaces of two agents exchange small messages: with nothing else on the links,
/// while all agents pull a model, and while they pull another under a limit.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// How many nodes pull.
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Size of each of the two models.
    #[arg(long, default_value = "256MiB", value_parser = preload_cli::units::parse_bytes)]
    size: u64,
    /// Rate of each link, up and down, in Mbit/s.
    #[arg(long, default_value_t = 200)]
    rate_mbit: u32,
    /// What each agent may send, and take in, as a share of its link.
    #[arg(long, default_value_t = 0.5)]
    limit: f64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  limit-bench                                four nodes of 200 Mbit/s, limited to half of it
  limit-bench --rate-mbit 400 --limit 0.25 --json";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    exit("limit-bench", until_interrupted(measure(&arguments)))
}

async fn measure(arguments: &Arguments) -> Result<()> {
    namespaces::available()?;
    let report = run(&Plan {
        nodes: arguments.nodes,
        model_bytes: arguments.size,
        rate: u64::from(arguments.rate_mbit) * 1_000_000,
        limit: arguments.limit,
    })
    .await?;
    print_report(&report, arguments.json)
}
