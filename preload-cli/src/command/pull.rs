//! `preload pull`: bring models onto this node and print where they are.

use std::{cell::RefCell, path::PathBuf, time::Duration};

use clap::Args;
use emberline_agent::{
    api::{Phase, Problem, PullRequest, PullStatus},
    error::ErrorKind,
    placing::hub_snapshot_dir,
    reference::Reference,
};
use futures::future::join_all;
use serde::Serialize;

use crate::{
    client::Client,
    failure::{Failure, Result},
    interrupt::unless_interrupted,
    options::{Context, Patterns, Precedence},
    output::progress::Progress,
    reference,
    session::Session,
    units,
};

/// Bring models onto this node; the last line on stdout is the path.
///
/// What is here already is not fetched again. Ctrl-C keeps what has arrived: the same command goes
/// on from there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  preload pull s3://models/llama-3-8b
  preload pull hf://org/name@main --allow-pattern '*.safetensors' --to ./model
  preload pull hf://org/name --hf-cache ~/.cache/huggingface/hub
  preload pull gs://bucket/a az://container/b --timeout 10m
  preload pull s3://models/llama-3-8b --deadline 10m      before pulls that have more time
  preload pull s3://models/llama-3-8b --join 10.0.0.1:7581 --secret-file cluster.secret")]
pub(crate) struct Pull {
    /// What to bring: s3://, gs://, az://, abfs://, hf://, https://, ember://, or a path.
    #[arg(required = true, value_name = "REF")]
    references: Vec<String>,
    /// Also place the files here: hard links where possible, else copies.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Also make them a cache of the Hub's own clients in this directory, of links: HF_HUB_CACHE for them. On
    /// another file system than the data directory the links lead into that one: add --pin to keep them whole.
    #[arg(long, value_name = "DIR")]
    hf_cache: Option<PathBuf>,
    #[command(flatten)]
    patterns: Patterns,
    #[command(flatten)]
    precedence: Precedence,
    /// Read the files into the page cache, too.
    #[arg(long)]
    prefault: bool,
    /// Keep the artifact from eviction.
    #[arg(long)]
    pin: bool,
    /// Give up after this long, for example 90s or 10m.
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    timeout: Option<Duration>,
    /// Fail unless every chunk's hash is known beforehand: pulled here before, or ember://.
    #[arg(long)]
    require_manifest: bool,
}

/// One entry of the answer to several references.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Ended(Box<PullStatus>),
    Refused { reference: String, error: Problem },
}

impl Pull {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let requests = self.requests()?;
        let session = Session::open(context).await?;
        let results = pull_all(context, session.client(), &requests).await;
        session.close().await;
        self.answer(context, &requests, results?)
    }

    fn requests(&self) -> Result<Vec<PullRequest>> {
        if self.to.is_some() && self.references.len() > 1 {
            return Err(Failure::new(ErrorKind::Invalid, "--to takes the files of one reference only")
                .advice("run `preload pull REF --to DIR` once for each reference"));
        }
        let to = self.to.as_deref().map(reference::absolute).transpose()?;
        let hf_cache = self.hf_cache.as_deref().map(reference::absolute).transpose()?;
        let request = |typed: &String| {
            Ok(PullRequest {
                reference: reference::from_here(typed)?,
                allow_patterns: self.patterns.allow.clone(),
                ignore_patterns: self.patterns.ignore.clone(),
                to: to.clone(),
                hf_cache: hf_cache.clone(),
                prefault: self.prefault,
                timeout_seconds: self.timeout.map(|t| t.as_secs_f64()),
                pin: self.pin,
                require_manifest: self.require_manifest,
                priority: self.precedence.priority,
                deadline: self.precedence.deadline,
            })
        };
        self.references.iter().map(request).collect()
    }

    fn answer(
        &self,
        context: &Context,
        requests: &[PullRequest],
        results: Vec<Result<PullStatus>>,
    ) -> Result<()> {
        let several = results.len() > 1;
        let mut failed = None;
        let mut outcomes = Vec::with_capacity(results.len());
        for (request, result) in requests.iter().zip(results) {
            match result.and_then(succeeded) {
                Ok(status) => outcomes.push(Outcome::Ended(Box::new(status))),
                Err(failure) => {
                    if several {
                        context.output.failure(&failure.clone().answered());
                    }
                    let (reference, error) = (request.reference.clone(), failure.problem.clone());
                    outcomes.push(Outcome::Refused { reference, error });
                    failed.get_or_insert(failure);
                }
            }
        }
        match (failed, several) {
            (None, false) => context.output.answer(&outcomes[0], |outcome, _| self.path(outcome)),
            (Some(failure), false) => Err(failure),
            (failed, true) => {
                context.output.answer(&outcomes, |outcomes, _| {
                    let paths: Vec<String> = outcomes.iter().map(|o| self.path(o)).collect();
                    paths.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("\n")
                })?;
                failed.map_or(Ok(()), |first| Err(self.tally(first, &outcomes)))
            }
        }
    }

    /// The failure of several pulls: the first one's code, and how many there were.
    fn tally(&self, mut first: Failure, outcomes: &[Outcome]) -> Failure {
        let refused = outcomes.iter().filter(|o| matches!(o, Outcome::Refused { .. })).count();
        first.problem.message = format!("{refused} of {} pulls failed", outcomes.len());
        first.problem.advice = None;
        first.answered()
    }

    /// Where a person finds it, the folder or the file that was named: where they asked it to be put, else below
    /// `models/`.
    fn path(&self, outcome: &Outcome) -> String {
        let Outcome::Ended(status) = outcome else { return String::new() };
        let name = status.file.as_ref().and_then(|file| file.file_name());
        let within = |to: PathBuf| name.map_or_else(|| to.clone(), |name| to.join(name));
        let asked = self.to.as_deref().and_then(|to| reference::absolute(to).ok()).map(within);
        let asked = asked.or_else(|| self.in_hub_cache(status));
        let here = status.file.as_ref().or(status.path.as_ref());
        asked.as_ref().or(here).map(|p| p.display().to_string()).unwrap_or_default()
    }
}

impl Pull {
    /// Where a client of the Hub finds it in the cache that was asked for.
    fn in_hub_cache(&self, status: &PullStatus) -> Option<PathBuf> {
        let cache = reference::absolute(self.hf_cache.as_deref()?).ok()?;
        match status.reference.parse() {
            Ok(Reference::Hub(repo)) => Some(hub_snapshot_dir(&cache, &repo, status.revision.as_deref()?)),
            _ => None,
        }
    }
}

/// Starts and follows all pulls at once; cancels those that run when the user wants out.
async fn pull_all(
    context: &Context,
    client: &Client,
    requests: &[PullRequest],
) -> Result<Vec<Result<PullStatus>>> {
    let progress = RefCell::new(context.output.progress());
    let running: RefCell<Vec<PullStatus>> = RefCell::default();
    let references: Vec<&str> = requests.iter().map(|request| request.reference.as_str()).collect();
    let labels = reference::labels(&references);
    let each = requests.iter().zip(&labels);
    let work = join_all(each.map(|(request, label)| pull_one(client, (request, label), &progress, &running)));
    let done = unless_interrupted(work).await?;
    progress.borrow_mut().finish();
    if let Some(results) = done {
        return Ok(results);
    }
    let running: Vec<PullStatus> = running.take().into_iter().filter(|s| !s.phase.is_over()).collect();
    let (here, wanted) = running.iter().fold((0, 0), |(h, w), s| (h + s.done_bytes, w + s.total_bytes));
    for status in &running {
        // An agent that is gone has nothing left to cancel.
        let _ = client.cancel::<PullStatus>(&status.id).await;
    }
    let message = format!("interrupted with {} of {} here", units::bytes(here), units::bytes(wanted));
    Err(Failure::interrupted(message).advice("run the same command again: it goes on from there"))
}

async fn pull_one(
    client: &Client,
    (request, label): (&PullRequest, &str),
    progress: &RefCell<Progress>,
    running: &RefCell<Vec<PullStatus>>,
) -> Result<PullStatus> {
    let started = client.start_pull(request).await?;
    running.borrow_mut().push(started.clone());
    client
        .follow(started, |status| {
            progress.borrow_mut().pull(label, status);
            if let Some(known) = running.borrow_mut().iter_mut().find(|known| known.id == status.id) {
                known.clone_from(status);
            }
        })
        .await
}

/// A pull that ended without the artifact is a failure.
fn succeeded(status: PullStatus) -> Result<PullStatus> {
    let reference = status.reference.clone();
    match (status.phase, status.error) {
        (Phase::Complete, _) => Ok(PullStatus { error: None, ..status }),
        (_, Some(problem)) => Err(problem.into()),
        (Phase::Cancelled, None) => {
            Err(Failure::new(ErrorKind::Cancelled, format!("pull of {reference} was cancelled"))
                .advice("somebody ended it; run it again to go on from there"))
        }
        (phase, None) => {
            Err(Failure::internal(format!("pull of {reference} ended as {phase:?} without a reason")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::pull;

    #[test]
    fn a_pull_that_ends_without_its_files_is_never_a_success() {
        assert!(succeeded(pull(Phase::Complete, 100)).is_ok());
        assert_eq!(succeeded(pull(Phase::Cancelled, 40)).unwrap_err().exit, 9);
        assert_eq!(succeeded(pull(Phase::Failed, 40)).unwrap_err().exit, 1);
        let error = Problem {
            kind: "full".to_owned(),
            message: "no room".to_owned(),
            advice: None,
            retry_after_seconds: None,
        };
        assert_eq!(
            succeeded(PullStatus { error: Some(error), ..pull(Phase::Failed, 40) }).unwrap_err().exit,
            8
        );
    }
}
