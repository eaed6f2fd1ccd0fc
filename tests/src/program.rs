//! What the programs of this crate have in common: how they end, how they print what they measured, and what they do
//! when they are interrupted.

use std::{
    fmt::Display,
    future::Future,
    io::{self, Write},
    process::ExitCode,
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use emberline_agent::error::exit_code;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// Ends `program`: an error goes to stderr, and its kind gives the exit code that `preload` has for it.
pub fn exit(program: &str, outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::from(exit_code(error.kind()))
        }
    }
}

/// Runs `measure` to its end, or until SIGINT or SIGTERM, so that what it made is removed.
///
/// # Errors
/// What it fails with; `Cancelled` when it was interrupted; `Unavailable` without threads.
pub fn until_interrupted(measure: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| Error::with_source(ErrorKind::UNAVAILABLE, "runtime", e))?;
    runtime.block_on(async {
        tokio::select! {
            outcome = measure => outcome,
            () = interrupted() => Err(Error::new(ErrorKind::Cancelled, "interrupted")),
        }
    })
}

async fn interrupted() {
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

/// Prints a report, as one JSON value or as people read it.
///
/// # Errors
/// As [`print()`].
pub fn print_report<R: Display + Serialize>(report: &R, json: bool) -> Result<()> {
    if json { print_json(report) } else { print(report) }
}

/// Prints one JSON value.
///
/// # Errors
/// As [`print()`]; `Invalid` for what is no JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "report", e))?;
    print(&text)
}

/// Prints something and a line's end.
///
/// # Errors
/// When stdout cannot be written. Not when whoever reads it has gone: he wants no more of it.
pub fn print(text: &impl Display) -> Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.at(|| "write to stdout".to_owned()),
    }
}
