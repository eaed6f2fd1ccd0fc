//! `preload path`: where an artifact is.

use clap::Args;

use crate::{failure::Result, options::Context, reference, session::Session, units};

/// Print where an artifact is that is whole, as far as it was asked for; never fetches.
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
        let answer = answer?;
        if answer.files < answer.all_files {
            context.output.note(&format!(
                "only {} of {} of {reference} were asked for and are here; `preload pull` without patterns brings the \
                 rest",
                answer.files,
                units::count(answer.all_files, "file")
            ));
        }
        context.output.answer(&answer, |a, _| a.file.as_ref().unwrap_or(&a.path).display().to_string())
    }
}
