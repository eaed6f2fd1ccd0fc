//! `preload members`: who is in the cluster.

use clap::Args;

use crate::{failure::Result, options::Context, output::table, session::Session};

/// List the members of the cluster as this node sees them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload members
  preload members --json | jq -r '.[].name'")]
pub(crate) struct Members {}

impl Members {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let session = Session::open_to_fleet(context).await?;
        let members = session.client().members().await;
        session.close().await;
        context.output.answer(&members?, |m, width| table::members(m, width))
    }
}
