//! `preload members`: who is in the cluster.

use clap::Args;
use emberline_agent::api::Member;

use crate::{client::Client, failure::Result, options::Context, output::table, session::Session};

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
        let answer = members_and_why_none(session.client()).await;
        session.close().await;
        let (members, lonely) = answer?;
        context.output.answer(&members, |m, width| table::members(m, width))?;
        if let Some(lonely) = lonely {
            context.output.note(&lonely);
        }
        Ok(())
    }
}

/// The members, and why there are no others, where that is known.
async fn members_and_why_none(client: &Client) -> Result<(Vec<Member>, Option<String>)> {
    let members = client.members().await?;
    let alone = members.iter().filter(|member| member.state != "down").count() < 2;
    let lonely = if alone { table::lonely(&client.status(false).await?) } else { None };
    Ok((members, lonely))
}
