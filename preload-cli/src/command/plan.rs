//! `preload plan`: what a pull would do.

use clap::Args;
use emberline_agent::api::PlanRequest;

use crate::{
    failure::Result,
    options::{Context, Patterns},
    output::table,
    reference,
    session::Session,
};

/// Say what a pull would do: what is here, what would come from where, how long.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload plan s3://models/llama-3-8b
  preload plan hf://org/name@main --allow-pattern '*.safetensors'
  preload plan hf://org/name --json")]
pub(crate) struct Plan {
    /// What to ask about.
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    patterns: Patterns,
}

impl Plan {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let request = PlanRequest {
            reference: reference::from_here(&self.reference)?,
            allow_patterns: self.patterns.allow,
            ignore_patterns: self.patterns.ignore,
        };
        let session = Session::open(context).await?;
        let plan = session.client().plan(&request).await;
        session.close().await;
        context.output.answer(&plan?, table::plan)
    }
}
