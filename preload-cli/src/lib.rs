//! The command `preload`: bring models onto this node, warm a fleet, see how much longer it takes.
//!
//! ```text
//! args → session (a running agent, or the engine in this process) → client → output
//! ```
//!
//! Each command is one file below `command`. [`specimen`] and [`units`] also serve tests and benchmarks.
//! Deliberately absent: any way to the agent other than its HTTP API.

mod args;
pub mod client;
mod command;
mod demo;
pub mod failure;
mod interrupt;
mod options;
pub mod output;
mod reference;
mod session;
pub mod specimen;
pub mod units;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, Parser};
use emberline_agent::{error::ErrorKind, run};
use futures::future::LocalBoxFuture;

use crate::{
    args::{Asking, Cli, Command},
    failure::{Failure, Result},
    interrupt::unless_interrupted,
    options::Context,
    output::{Output, ProgressMode},
};

/// Runs one command line; everything the user sees has been said when it returns.
pub fn main(line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line: Vec<OsString> = line.into_iter().collect();
    let cli = match Cli::try_parse_from(&line) {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error, &line),
    };
    let Cli { global, command } = cli;
    let output = Output::new(global.json, global.quiet, global.progress);
    match execute(command, &Context { global, output }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit)
        }
    }
}

/// Help, the version, or what is wrong with the line; the last as a problem on stdout with `--json`.
fn misunderstood(error: &clap::Error, line: &[OsString]) -> ExitCode {
    // Where both streams are closed there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() && line.iter().any(|word| word == "--json") {
        let text = error.to_string();
        let sentence: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        let sentence = sentence.join(" ");
        let problem = Failure::new(ErrorKind::Invalid, sentence.trim_start_matches("error: "))
            .advice("see `preload --help`")
            .problem;
        let _ = Output::new(true, true, ProgressMode::None).answer(&problem, |_, _| String::new());
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn execute(command: Command, context: &Context) -> Result<()> {
    let command = match command {
        Command::Secret(secret) => return secret.run(context),
        Command::Completions(completions) => return completions.run(Cli::command()),
        Command::Asking(asking) => *asking,
    };
    let runtime = run::runtime()?;
    let done = runtime.block_on(ask(command, context));
    // Work that was abandoned (a file being hashed, say) is not worth waiting for.
    runtime.shutdown_background();
    done
}

/// The commands that talk to an agent. Boxed: each is a large state machine, one of them runs.
async fn ask(command: Asking, context: &Context) -> Result<()> {
    let work: LocalBoxFuture<'_, Result<()>> = match command {
        // These know better what an interruption should leave behind.
        Asking::Pull(pull) => return Box::pin(pull.run(context)).await,
        Asking::Warm(warm) => return Box::pin(warm.run(context)).await,
        Asking::Agent(agent) => return Box::pin(agent.run(context)).await,
        Asking::Demo(demo) => return Box::pin(demo.run(context)).await,
        Asking::Plan(plan) => Box::pin(plan.run(context)),
        Asking::Publish(publish) => Box::pin(publish.run(context)),
        Asking::Status(status) => Box::pin(status.run(context)),
        Asking::Ls(ls) => Box::pin(ls.run(context)),
        Asking::Path(path) => Box::pin(path.run(context)),
        Asking::Verify(verify) => Box::pin(verify.run(context)),
        Asking::Pin(pin) => Box::pin(pin.run(context)),
        Asking::Unpin(unpin) => Box::pin(unpin.run(context)),
        Asking::Record(record) => Box::pin(record.run(context)),
        Asking::Rm(rm) => Box::pin(rm.run(context)),
        Asking::Members(members) => Box::pin(members.run(context)),
        Asking::Limit(limit) => Box::pin(limit.run(context)),
        Asking::Drain(drain) => Box::pin(drain.run(context)),
    };
    unless_interrupted(work).await?.unwrap_or_else(|| Err(Failure::interrupted("interrupted")))
}
