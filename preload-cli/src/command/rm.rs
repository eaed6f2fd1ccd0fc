//! `preload rm`: remove artifacts from this disk.

use clap::Args;
use serde::Serialize;

use crate::{failure::Result, options::Context, reference, session::Session};

/// Remove artifacts from this node's disk.
///
/// Processes that have files of theirs open or mapped keep them until they close them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload rm s3://models/llama-2-7b
  preload rm hf://org/name@main --force          even when pinned or in use")]
pub(crate) struct Rm {
    /// Reference, swarm id or manifest hash.
    #[arg(required = true, value_name = "REF")]
    references: Vec<String>,
    /// Even when it is pinned or in use.
    #[arg(long, short)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct Removed {
    removed: Vec<String>,
}

impl Rm {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let references =
            self.references.iter().map(|r| reference::from_here(r)).collect::<Result<Vec<_>>>()?;
        let session = Session::open(context).await?;
        let mut removed = Vec::with_capacity(references.len());
        let mut done = Ok(());
        for reference in references {
            done = session.client().remove(&reference, self.force).await;
            if done.is_err() {
                break;
            }
            context.output.note(&format!("removed {reference}"));
            removed.push(reference);
        }
        session.close().await;
        done?;
        context.output.answer(&Removed { removed }, |_, _| String::new())
    }
}
