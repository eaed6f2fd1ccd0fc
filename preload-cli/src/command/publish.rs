//! `preload publish`: the manifest of a model, beside it at its origin.

use clap::Args;

use crate::{failure::Result, options::Context, output::table, reference, session::Session};

/// Write the manifest of a model beside it, so that later pulls know every hash from the start.
///
/// Brings the model here first, if it is not here yet. The file is `.emberline-manifest` in the model's
/// directory or prefix: file://, s3://, gs:// and az://. Publish again when the model changes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload publish s3://models/llama-3-8b-v2
  preload publish /srv/models/llama-3-8b
  preload publish gs://models/llama-3-8b --json")]
pub(crate) struct Publish {
    /// Which model.
    #[arg(value_name = "REF")]
    reference: String,
}

impl Publish {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let reference = reference::from_here(&self.reference)?;
        let session = Session::open(context).await?;
        let report = session.client().publish(&reference).await;
        session.close().await;
        context.output.answer(&report?, |report, _| table::publish(report))
    }
}
