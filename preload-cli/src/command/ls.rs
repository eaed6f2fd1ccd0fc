//! `preload ls`: what is on this disk.

use clap::Args;

use crate::{failure::Result, options::Context, output::table, session::Session};

/// List what is on this node's disk.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload ls
  preload ls --resident
  preload ls --json | jq -r '.[] | select(.complete) | .path'")]
pub(crate) struct Ls {
    /// Also count how much of each artifact is in memory, which costs a walk.
    #[arg(long)]
    resident: bool,
}

impl Ls {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let session = Session::open(context).await?;
        let artifacts = session.client().artifacts(self.resident).await;
        session.close().await;
        context.output.answer(&artifacts?, |a, width| table::artifacts(a, width))
    }
}
