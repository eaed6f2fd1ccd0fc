//! `preload warm`: have other nodes bring a model.

use std::{cell::RefCell, num::NonZeroUsize, time::Duration};

use clap::Args;
use emberline_agent::{
    api::{JobState, Selector, WarmRequest, WarmStatus},
    error::ErrorKind,
};

use crate::{
    client::Client,
    failure::{Failure, Result},
    interrupt::unless_interrupted,
    options::{Context, Patterns, Precedence},
    output::table,
    reference,
    session::Session,
    units,
};

/// Have other nodes bring a model, before anything there asks for it.
///
/// With --wait the command ends when enough nodes have it, or when that cannot become true any more;
/// then the exit code is not 0.
#[derive(Debug, Args)]
#[command(
    override_usage = "preload warm [OPTIONS] <REF> <--all|--nodes <COUNT>|--zone <ZONE>|--node <NODE>...>",
    after_help = "\
Examples:
  preload warm s3://models/llama-3-8b --all --wait
  preload warm hf://org/name --nodes 4 --min-ready 3 --wait --timeout 10m
  preload warm s3://models/llama-3-8b --zone eu-1a --priority low
  preload warm s3://models/llama-3-8b --node gpu-7 gpu-8"
)]
pub(crate) struct Warm {
    /// What to bring.
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    patterns: Patterns,
    #[command(flatten)]
    precedence: Precedence,
    /// How many nodes must have it; all chosen ones unless given.
    #[arg(long, value_name = "COUNT")]
    min_ready: Option<NonZeroUsize>,
    /// Stay until it is done.
    #[arg(long)]
    wait: bool,
    /// Give up after this long, for example 10m.
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    timeout: Option<Duration>,
    /// Read the files into the page cache of those nodes, too.
    #[arg(long)]
    prefault: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// Every live member.
    #[arg(long)]
    all: bool,
    /// So many: those that have most of it, then those the ring names for it.
    #[arg(long, value_name = "COUNT")]
    nodes: Option<NonZeroUsize>,
    /// Every live member of this zone.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// These, by name, id or the first digits of the id; REF goes in front.
    #[arg(long = "node", value_name = "NODE", num_args = 1..)]
    ids: Vec<String>,
}

impl Warm {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let request = WarmRequest {
            reference: reference::from_here(&self.reference)?,
            selector: Selector {
                all: self.whom.all,
                nodes: self.whom.nodes.map(NonZeroUsize::get),
                zone: self.whom.zone.clone(),
                ids: self.whom.ids.clone(),
            },
            allow_patterns: self.patterns.allow.clone(),
            ignore_patterns: self.patterns.ignore.clone(),
            min_ready: self.min_ready.map(NonZeroUsize::get),
            timeout_seconds: self.timeout.map(|t| t.as_secs_f64()),
            prefault: self.prefault,
            priority: self.precedence.priority,
            deadline: self.precedence.deadline,
        };
        let session = Session::open_to_fleet(context).await?;
        // The job lives in the agent; one in this process ends with it.
        let wait = self.wait || session.is_own_engine();
        let ended = warm(context, session.client(), &request, wait).await;
        session.close().await;
        let status = ended?;
        context.output.answer(&status, table::warm)?;
        judge(&status)
    }
}

async fn warm(context: &Context, client: &Client, request: &WarmRequest, wait: bool) -> Result<WarmStatus> {
    let started = client.start_warm(request).await?;
    if !wait {
        return Ok(started);
    }
    let id = started.id.clone();
    let progress = RefCell::new(context.output.progress());
    let followed =
        unless_interrupted(client.follow(started, |status| progress.borrow_mut().warm(status))).await?;
    progress.borrow_mut().finish();
    match followed {
        Some(ended) => ended,
        None => {
            // An agent that is gone has nothing left to cancel.
            let _ = client.cancel::<WarmStatus>(&id).await;
            Err(Failure::interrupted(format!("interrupted; {id} is cancelled on its nodes")))
        }
    }
}

/// Fewer ready nodes than needed is a failure, with the code of its reason.
fn judge(status: &WarmStatus) -> Result<()> {
    let (kind, what) = match status.state {
        JobState::Running | JobState::Complete => return Ok(()),
        JobState::Failed => (ErrorKind::UNAVAILABLE, "cannot be met"),
        JobState::Cancelled => (ErrorKind::Cancelled, "was cancelled"),
    };
    let failure = match &status.error {
        Some(problem) => problem.clone().into(),
        None => Failure::new(
            kind,
            format!(
                "warm-up of {} {what}: {} of {} needed are ready",
                status.reference,
                units::count(status.ready as u64, "node"),
                status.min_ready
            ),
        ),
    };
    Err(failure.answered())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: JobState) -> WarmStatus {
        WarmStatus {
            id: "w1".to_owned(),
            reference: "s3://b/p".to_owned(),
            state,
            min_ready: 3,
            ready: 2,
            nodes: Vec::new(),
            elapsed_seconds: 1.0,
            error: None,
            priority: Default::default(),
            deadline: None,
        }
    }

    #[test]
    fn a_shortfall_is_never_exit_code_0() {
        assert!(judge(&status(JobState::Complete)).is_ok());
        let short = judge(&status(JobState::Failed)).unwrap_err();
        assert_eq!(short.exit, 5);
        assert!(short.problem.message.contains("2 nodes of 3 needed"), "{short:?}");
        assert!(short.answered, "the status on stdout is the one JSON value");
        assert_eq!(judge(&status(JobState::Cancelled)).unwrap_err().exit, 9);
    }
}
