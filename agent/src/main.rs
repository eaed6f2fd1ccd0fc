//! `emberline-agent`: the daemon of one node.
//!
//! Owns the command line and the exit code; everything else is `emberline_agent::run`.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use emberline_agent::{
    api::Problem,
    config::Config,
    error::{Error, Result, exit_code},
    flags::{AgentFlags, Places, approval},
    run,
};
use tokio_util::sync::CancellationToken;

const EXAMPLES: &str = "\
Examples:
  emberline-agent --data-dir /mnt/nvme/emberline
      alone, on loopback
  emberline-agent --listen 0.0.0.0:7581 --secret-file /etc/emberline/cluster.secret --seed node-a:7581
      as a member of a cluster
  emberline-agent --print-config-example > /etc/emberline/agent.toml
      every key, with its default and meaning
  EMBERLINE_STORE__QUOTA_BYTES=200GiB emberline-agent --check-config
      says whether the configuration would work

Flags win over variables (EMBERLINE_CLUSTER__ZONE), variables over the file.

Exit codes: 0 stopped as asked, 1 a defect, 2 wrong usage or configuration, 3 something named does not
exist, 4 permission denied, 5 unavailable (an address in use), 6 time-out, 7 corrupt data, 8 disk or
quota full, 9 cancelled, 130 ended at once by a second signal.";

/// The Emberline agent: brings models from any origin to this node's disk, once for the whole cluster.
#[derive(Parser)]
#[command(name = "emberline-agent", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    flags: AgentFlags,
    /// Where artifacts live
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File with the cluster secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.flags.print_config_example {
        print!("{}", Config::example());
        return ExitCode::SUCCESS;
    }
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::from(exit_code(error.kind()))
        }
    }
}

fn serve(arguments: Arguments) -> Result<()> {
    let Arguments { flags, data_dir, secret_file } = arguments;
    let check_only = flags.check_config;
    let config = Config::load(&flags.sources(Places { data_dir, secret_file }))?;
    if check_only {
        println!("{}", approval(&config)?);
        return Ok(());
    }
    run::start_logging(&config.log)?;
    run::runtime()?.block_on(run::run(config, CancellationToken::new(), |_| {}))
}

/// What went wrong and what to do, for people.
fn say(error: &Error) {
    let problem = Problem::from(error);
    eprintln!("emberline-agent: {}", problem.message);
    if let Some(advice) = problem.advice {
        eprintln!("  {advice}");
    }
}
