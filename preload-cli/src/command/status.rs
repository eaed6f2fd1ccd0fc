//! `preload status`: the agent in one glance.

use clap::Args;

use crate::{failure::Result, options::Context, output::table, session::Session};

/// Show the agent in one glance: disk, members, pulls under way, artifacts.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload status
  preload status --resident
  preload status --json --agent http://10.0.0.1:7580 --token-file agent.token")]
pub(crate) struct Status {
    /// Also count how much of each artifact is in memory, which costs a walk.
    #[arg(long)]
    resident: bool,
}

impl Status {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let session = Session::open(context).await?;
        let status = session.client().status(self.resident).await;
        session.close().await;
        context.output.answer(&status?, table::status)
    }
}
