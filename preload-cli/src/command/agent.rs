//! `preload agent`: run the agent of this node, as `emberline-agent` does.

use std::path::PathBuf;

use clap::Args;
use emberline_agent::{
    config::{Config, ConfigSources, DEFAULT_FILE, Flag},
    run,
};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::failure::Result;

/// Run the agent of this node, with the options of `emberline-agent`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload agent --data-dir /mnt/nvme/emberline
  preload agent --listen 0.0.0.0:7581 --secret-file cluster.secret --seed node-a:7581
  EMBERLINE_STORE__QUOTA_BYTES=200GiB preload agent --check-config

Options win over variables (EMBERLINE_CLUSTER__ZONE), variables over the file.")]
pub(crate) struct Agent {
    /// Configuration file; /etc/emberline/agent.toml if it is there.
    #[arg(long, value_name = "FILE", env = "EMBERLINE_CONFIG")]
    config: Option<PathBuf>,
    /// Where to listen for HTTP.
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<String>,
    /// File with the token that HTTP callers must bring; required off loopback.
    #[arg(long, value_name = "FILE")]
    http_token_file: Option<String>,
    /// Where to listen for QUIC.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// What other nodes should dial, if it is not --listen.
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Option<String>,
    /// A member to join by; may be given more than once.
    #[arg(long, value_name = "HOST:PORT")]
    seed: Vec<String>,
    /// Availability zone of this node.
    #[arg(long)]
    zone: Option<String>,
    /// What people call this node.
    #[arg(long)]
    name: Option<String>,
    /// `text` or `json`.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives by module.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
    /// Print a commented configuration file and exit.
    #[arg(long)]
    print_config_example: bool,
}

impl Agent {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        if self.print_config_example {
            return context.output.answer(&Config::example(), |example, _| example.clone());
        }
        let check_only = self.check_config;
        let config = Config::load(&self.sources(context))?;
        if check_only {
            return context.output.answer(&config, |config, _| {
                format!(
                    "the configuration is fine: data in {}, HTTP on {}, QUIC on {}",
                    config.data_dir.display(),
                    config.http.listen,
                    config.cluster.listen
                )
            });
        }
        run::start_logging(&config.log)?;
        Ok(run::run(config, CancellationToken::new(), |_| {}).await?)
    }

    fn sources(self, context: &Context) -> ConfigSources {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let one =
            |flag, key, value: Option<String>| value.map(|value| Flag { flag, key, values: vec![value] });
        let seeds: Vec<String> = self.seed.into_iter().chain(context.global.join.clone()).collect();
        let seeds =
            (!seeds.is_empty()).then_some(Flag { flag: "--seed", key: "cluster.seeds", values: seeds });
        let verbose = match context.global.verbose {
            0 => None,
            1 => Some("debug".to_owned()),
            _ => Some("trace".to_owned()),
        };
        let flags = [
            one("--data-dir", "data_dir", text(&context.global.data_dir)),
            one("--http", "http.listen", self.http),
            one("--http-token-file", "http.token_file", self.http_token_file),
            one("--listen", "cluster.listen", self.listen),
            one("--advertise", "cluster.advertise", self.advertise),
            seeds,
            one("--secret-file", "cluster.secret_file", text(&context.global.secret_file)),
            one("--zone", "cluster.zone", self.zone),
            one("--name", "cluster.name", self.name),
            one("--log-format", "log.format", self.log_format),
            one("--log-level", "log.level", self.log_level.or(verbose)),
        ];
        let file = self.config.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists()));
        ConfigSources::of_process(file, flags.into_iter().flatten().collect())
    }
}
