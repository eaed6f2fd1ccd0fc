//! `door-bench`: what each door makes of a file, beside nginx, a direct read and a mapping of the same file.
//!
//! Arguments and printing; the measurement is in `emberline_tests::door_bench`. Needs root, for the mount with
//! passthrough. What it starts and makes is gone when it ends, also by Ctrl-C.

use std::process::ExitCode;

use clap::Parser;
use coordinatorless_p2p::Result;
use emberline_tests::{
    door_bench::{Contender, Plan, Reader, run},
    program::{exit, print_report, until_interrupted},
};

/// Measures GB/s and CPU-seconds a GiB of every door, beside nginx and the file itself, in one run.
///
/// All have the same bytes, in the page cache, and take turns; HTTP is read by curl, files by this program.
/// Files that are "coming" are at an origin on the same disk when the turn begins.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Size of the file.
    #[arg(long, default_value = "512MiB", value_parser = preload_cli::units::parse_bytes)]
    size: u64,
    /// Turns of each; the figures are medians.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Be the client of files; the program starts itself so.
    #[arg(long, hide = true)]
    reader: Option<String>,
}

const EXAMPLES: &str = "Examples:
  door-bench
  door-bench --size 1GiB --runs 5 --json";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.reader {
        Some(task) => Reader::parse(task).and_then(|reader| reader.run()),
        None => until_interrupted(measure(&arguments)),
    };
    exit("door-bench", outcome)
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let plan = Plan { bytes: arguments.size, runs: arguments.runs, contenders: Contender::ALL.to_vec() };
    let report = run(&plan, |contender, rate| eprintln!("{} {rate:.2} GB/s", contender.name())).await?;
    print_report(&report, arguments.json)
}
