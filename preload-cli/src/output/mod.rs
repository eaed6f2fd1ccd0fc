//! What the reader sees: answers on stdout, everything else on stderr.
//!
//! With `--json` stdout gets one JSON value and nothing else. Human tables are made by [`table`],
//! progress by [`progress`]; both are pure up to the last line. A reader that closes the pipe early
//! is no error.

pub mod progress;
pub mod table;

use std::io::{self, IsTerminal, Write};

use emberline_agent::error::{IoContext, Result as AgentResult};
use serde::Serialize;

use self::progress::{Progress, Style};
use crate::failure::{Failure, Result};

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressMode {
    /// Bars on a terminal, lines elsewhere; none with --json or --quiet.
    #[default]
    Auto,
    /// Bars.
    Bar,
    /// A line at every change of phase and every few seconds.
    Plain,
    /// One JSON object a line.
    Json,
    /// Nothing.
    None,
}

/// Where answers and remarks go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    quiet: bool,
    progress: ProgressMode,
    /// Columns of the terminal; absent when stdout is none, and then nothing is wrapped.
    width: Option<u16>,
}

impl Output {
    /// As the options say and the terminal allows.
    pub fn new(json: bool, quiet: bool, progress: ProgressMode) -> Self {
        let width = io::stdout().is_terminal().then(terminal_width).flatten();
        Self { json, quiet, progress, width }
    }

    /// Whether answers are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Gives the answer of a command: `value` as JSON, or what `render` makes of it for people, who
    /// have so many columns.
    ///
    /// # Errors
    /// As writing to stdout; not for a closed pipe.
    pub fn answer<T: Serialize>(
        &self,
        value: &T,
        render: impl FnOnce(&T, Option<u16>) -> String,
    ) -> Result<()> {
        let mut text = if self.json {
            serde_json::to_string(value).map_err(|e| Failure::internal(format!("answer as JSON: {e}")))?
        } else {
            render(value, self.width)
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let mut stdout = io::stdout().lock();
        Ok(unless_closed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))?)
    }

    /// A remark for a person; not with `--quiet` or `--json`.
    pub fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            to_stderr(text);
        }
    }

    /// Says why a command failed.
    pub fn failure(&self, failure: &Failure) {
        to_stderr(&failure_text(failure));
        if self.json && !failure.answered {
            // There is nobody left to tell when this fails too.
            let _ = self.answer(&failure.problem, |_, _| String::new());
        }
    }

    /// A place for progress to be shown.
    pub fn progress(&self) -> Progress {
        Progress::new(match self.progress {
            ProgressMode::Auto if self.json || self.quiet => Style::Silent,
            ProgressMode::Auto if io::stderr().is_terminal() => Style::Bars,
            ProgressMode::Auto | ProgressMode::Plain => Style::Plain,
            ProgressMode::Bar => Style::Bars,
            ProgressMode::Json => Style::Json,
            ProgressMode::None => Style::Silent,
        })
    }
}

/// `error: <sentence>` and, on the next line, `help: <advice>`.
fn failure_text(failure: &Failure) -> String {
    let problem = &failure.problem;
    let mut text = format!("error: {}", problem.message);
    if let Some(advice) = &problem.advice {
        text += &format!("\nhelp: {advice}");
    }
    if let Some(seconds) = problem.retry_after_seconds {
        text += &format!("\nhelp: try again in {}", crate::units::seconds(seconds));
    }
    text
}

/// Writes a line to stderr, whose closing is nobody's business.
fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn unless_closed(written: io::Result<()>) -> AgentResult<()> {
    match written {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.at(|| "write to stdout".to_owned()),
    }
}

fn terminal_width() -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col >= 40).then_some(size.ws_col)
}

#[cfg(test)]
mod tests {
    use emberline_agent::error::ErrorKind;

    use super::*;

    #[test]
    fn a_failure_is_a_sentence_and_advice() {
        let mut failure = Failure::new(ErrorKind::NotFound, "no bucket models").advice("check its name");
        assert_eq!(failure_text(&failure), "error: no bucket models\nhelp: check its name");
        failure.problem.retry_after_seconds = Some(3.0);
        assert!(failure_text(&failure).ends_with("help: try again in 3.00 s"));
    }
}
