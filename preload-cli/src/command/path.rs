//! `preload path`: where an artifact is.

use clap::Args;

use crate::{failure::Result, options::Context, reference, session::Session};

/// Print where a complete artifact is; never fetches.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload path s3://models/llama-3-8b
  ls \"$(preload path hf://org/name@main)\"")]
pub(crate) struct Path {
    /// Reference, swarm id or manifest hash.
    #[arg(value_name = "REF")]
    reference: String,
}

impl Path {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let reference = reference::from_here(&self.reference)?;
        let session = Session::open(context).await?;
        let answer = session.client().path(&reference).await;
        session.close().await;
        context.output.answer(&answer?, |a, _| a.file.as_ref().unwrap_or(&a.path).display().to_string())
    }
}
