//! `emberline-agent`: the daemon of one node.
//!
//! Owns the command line and the exit code; everything else is `emberline_agent::run`.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use emberline_agent::{
    api::Problem,
    config::{Config, ConfigSources, DEFAULT_FILE, Flag},
    error::{Error, Result, exit_code},
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
    /// Configuration file; /etc/emberline/agent.toml if it is there
    #[arg(long, value_name = "FILE", env = "EMBERLINE_CONFIG")]
    config: Option<PathBuf>,
    /// Where artifacts live
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Where to listen for HTTP
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<String>,
    /// File with the token HTTP callers must bring; required off loopback
    #[arg(long, value_name = "FILE")]
    http_token_file: Option<String>,
    /// Where to listen for QUIC
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// What other nodes should dial, if it is not --listen
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Option<String>,
    /// A member to join by; may be given more than once
    #[arg(long, value_name = "HOST:PORT")]
    seed: Vec<String>,
    /// File with the cluster secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<String>,
    /// Availability zone of this node
    #[arg(long)]
    zone: Option<String>,
    /// What people call this node
    #[arg(long)]
    name: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug, trace, or directives by module
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Check the configuration and exit
    #[arg(long)]
    check_config: bool,
    /// Print a commented configuration file and exit
    #[arg(long)]
    print_config_example: bool,
}

impl Arguments {
    fn sources(self) -> ConfigSources {
        let one =
            |flag, key, value: Option<String>| value.map(|value| Flag { flag, key, values: vec![value] });
        let seeds =
            (!self.seed.is_empty()).then(|| Flag { flag: "--seed", key: "cluster.seeds", values: self.seed });
        let flags = [
            one("--data-dir", "data_dir", self.data_dir),
            one("--http", "http.listen", self.http),
            one("--http-token-file", "http.token_file", self.http_token_file),
            one("--listen", "cluster.listen", self.listen),
            one("--advertise", "cluster.advertise", self.advertise),
            seeds,
            one("--secret-file", "cluster.secret_file", self.secret_file),
            one("--zone", "cluster.zone", self.zone),
            one("--name", "cluster.name", self.name),
            one("--log-format", "log.format", self.log_format),
            one("--log-level", "log.level", self.log_level),
        ];
        let default_file = || Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists());
        ConfigSources::of_process(self.config.or_else(default_file), flags.into_iter().flatten().collect())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.print_config_example {
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
    let check_only = arguments.check_config;
    let config = Config::load(&arguments.sources())?;
    if check_only {
        println!(
            "the configuration is fine: data in {}, HTTP on {}, QUIC on {}",
            config.data_dir.display(),
            config.http.listen,
            config.cluster.listen
        );
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
