//! `preload pin` and `preload unpin`: keep artifacts from eviction, or let them go.

use clap::Args;
use serde::Serialize;

use crate::{failure::Result, options::Context, reference, session::Session};

/// Keep artifacts from eviction.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload pin s3://models/llama-3-8b
  preload pull s3://models/llama-3-8b --pin      bring it and pin it at once")]
pub(crate) struct Pin {
    /// Reference, swarm id or manifest hash.
    #[arg(required = true, value_name = "REF")]
    references: Vec<String>,
}

/// Let artifacts be evicted again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload unpin s3://models/llama-3-8b")]
pub(crate) struct Unpin {
    /// Reference, swarm id or manifest hash.
    #[arg(required = true, value_name = "REF")]
    references: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Pinned {
    reference: String,
    pinned: bool,
}

impl Pin {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        set(context, &self.references, true).await
    }
}

impl Unpin {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        set(context, &self.references, false).await
    }
}

async fn set(context: &Context, references: &[String], pinned: bool) -> Result<()> {
    let references = references.iter().map(|r| reference::from_here(r)).collect::<Result<Vec<_>>>()?;
    let session = Session::open(context).await?;
    let mut done = Ok(());
    for reference in &references {
        done = session.client().pin(reference, pinned).await;
        if done.is_err() {
            break;
        }
    }
    session.close().await;
    done?;
    let answer: Vec<Pinned> = references.into_iter().map(|reference| Pinned { reference, pinned }).collect();
    context.output.answer(&answer, |answer, _| {
        let word = if pinned { "pinned" } else { "unpinned" };
        answer.iter().map(|p| format!("{word} {}\n", p.reference)).collect()
    })
}
