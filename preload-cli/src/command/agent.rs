//! `preload agent`: run the agent of this node, as `emberline-agent` does.

use clap::Args;
use emberline_agent::{
    config::Config,
    flags::{AgentFlags, Places, approval},
    run,
};
use tokio_util::sync::CancellationToken;

use crate::{
    failure::Result,
    options::{Context, Global},
};

/// Run the agent of this node, with the options of `emberline-agent`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload agent --data-dir /mnt/nvme/emberline
  preload agent --listen 0.0.0.0:7581 --secret-file cluster.secret --seed node-a:7581
  EMBERLINE_STORE__QUOTA_BYTES=200GiB preload agent --check-config

Options win over variables (EMBERLINE_CLUSTER__ZONE), variables over the file.")]
pub(crate) struct Agent {
    #[command(flatten)]
    flags: AgentFlags,
}

impl Agent {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let Self { mut flags } = self;
        if flags.print_config_example {
            return context.output.answer(&Config::example(), |example, _| example.clone());
        }
        let Global { data_dir, secret_file, join, verbose, .. } = context.global.clone();
        flags.seed.extend(join);
        flags.log_level = flags.log_level.or(match verbose {
            0 => None,
            1 => Some("debug".to_owned()),
            _ => Some("trace".to_owned()),
        });
        let check_only = flags.check_config;
        let config = Config::load(&flags.sources(Places { data_dir, secret_file }))?;
        if check_only {
            let approval = approval(&config)?;
            return context.output.answer(&config, |_, _| approval);
        }
        run::start_logging(&config.log)?;
        Ok(run::run(config, CancellationToken::new(), |_| {}).await?)
    }
}
