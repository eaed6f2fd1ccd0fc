//! `preload plan`: what a pull would do.

use std::time::Duration;

use clap::Args;
use emberline_agent::api::PlanRequest;
use tokio::time::{Instant, timeout};

use crate::{
    failure::Result,
    options::{Context, Patterns},
    output::{progress::origin_of, table},
    reference,
    session::Session,
    units,
};

/// How often an answer that does not come is worth a line.
const SAY_EVERY: Duration = Duration::from_secs(5);

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
    /// Give up after this long, for example 90s or 10m.
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    timeout: Option<Duration>,
}

impl Plan {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let request = PlanRequest {
            reference: reference::from_here(&self.reference)?,
            allow_patterns: self.patterns.allow,
            ignore_patterns: self.patterns.ignore,
            timeout_seconds: self.timeout.map(|limit| limit.as_secs_f64()),
        };
        let session = Session::open(context).await?;
        let plan = told_of(context, origin_of(&request.reference), session.client().plan(&request)).await;
        session.close().await;
        context.output.answer(&plan?, table::plan)
    }
}

/// Waits for `answer`, and says from time to time who is waited for.
async fn told_of<T>(context: &Context, origin: &str, answer: impl Future<Output = T>) -> T {
    let mut answer = Box::pin(answer);
    let began = Instant::now();
    loop {
        match timeout(SAY_EVERY, &mut answer).await {
            Ok(answer) => return answer,
            Err(_) => {
                let waited = units::seconds(began.elapsed().as_secs_f64().floor());
                context.output.note(&format!("asking {origin} for {waited}"));
            }
        }
    }
}
