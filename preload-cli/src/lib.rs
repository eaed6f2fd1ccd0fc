//! The command `preload`: bring models onto this node, warm a fleet, see how much longer it takes.
//!
//!     args → session (a running agent, or the engine in this process) → client → output
//!
//! Each command is one file below `command`. [`specimen`] and [`units`] also serve tests and benchmarks.
//! Deliberately absent: any way to the agent other than its HTTP API.

mod args;
pub mod client;
mod command;
mod demo;
pub mod failure;
mod interrupt;
pub mod output;
mod reference;
mod session;
pub mod specimen;
pub mod units;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;
use emberline_agent::{error::ErrorKind, run};

use crate::{
    args::{Cli, Command},
    command::Context,
    failure::{Failure, Result},
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
        let sentence = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let problem = Failure::new(ErrorKind::Invalid, sentence).advice("see `preload --help`").problem;
        let _ = Output::new(true, true, ProgressMode::None).answer(&problem, |_, _| String::new());
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn execute(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Secret(secret) => return secret.run(context),
        Command::Completions(completions) => return completions.run(context),
        _ => {}
    }
    let runtime = run::runtime()?;
    let done = runtime.block_on(async {
        match command {
            Command::Pull(pull) => Box::pin(pull.run(context)).await,
            Command::Warm(warm) => Box::pin(warm.run(context)).await,
            Command::Plan(plan) => Box::pin(plan.run(context)).await,
            Command::Status(status) => Box::pin(status.run(context)).await,
            Command::Ls(ls) => Box::pin(ls.run(context)).await,
            Command::Path(path) => Box::pin(path.run(context)).await,
            Command::Verify(verify) => Box::pin(verify.run(context)).await,
            Command::Pin(pin) => Box::pin(pin.run(context)).await,
            Command::Unpin(unpin) => Box::pin(unpin.run(context)).await,
            Command::Rm(rm) => Box::pin(rm.run(context)).await,
            Command::Members(members) => Box::pin(members.run(context)).await,
            Command::Agent(agent) => Box::pin(agent.run(context)).await,
            Command::Demo(demo) => Box::pin(demo.run(context)).await,
            Command::Secret(_) | Command::Completions(_) => Ok(()),
        }
    });
    // Work that was abandoned (a file being hashed, say) is not worth waiting for.
    runtime.shutdown_background();
    done
}
