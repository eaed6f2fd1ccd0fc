//! How a command ends when it does not end well: a [`Problem`] for the reader and an exit code.
//!
//! The codes of the kinds are the agent's one table (`emberline_agent::error::exit_code`); here are
//! only the two that no kind has: a defect of ours, and Ctrl-C.

use emberline_agent::{
    api::Problem,
    error::{Error, ErrorKind, exit_code},
};

/// Exit code of a defect of ours.
const INTERNAL: u8 = 1;
/// Exit code after Ctrl-C, as shells have it: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// What `--help` says about exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  what was asked for is true
  1  a defect in Emberline itself
  2  wrong usage, reference or configuration
  3  not found            4  denied
  5  unavailable: try again later, also when too few nodes became warm
  6  timed out            7  corrupt bytes or an origin that changed
  8  no room: disk, quota or another limit
  9  cancelled            130  interrupted by Ctrl-C";

/// `Result` with [`Failure`].
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// For the reader.
    pub problem: Problem,
    /// For the caller.
    pub exit: u8,
    /// Whether the answer on stdout tells it already.
    pub answered: bool,
}

impl Failure {
    /// A failure of a kind; `message` as in [`Error`]: lower case, with the identifiers.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error::new(kind, message).into()
    }

    /// Something that cannot happen unless we are wrong.
    pub fn internal(message: impl Into<String>) -> Self {
        let problem = Problem {
            kind: "internal".to_owned(),
            message: message.into(),
            advice: Some("this is a defect in Emberline: please report it with the lines above".to_owned()),
            retry_after_seconds: None,
        };
        Self { problem, exit: INTERNAL, answered: false }
    }

    /// Ended by Ctrl-C or SIGTERM.
    pub fn interrupted(message: impl Into<String>) -> Self {
        let mut failure = Self::new(ErrorKind::Cancelled, message);
        failure.exit = INTERRUPTED;
        failure
    }

    /// Says what the reader can do about it.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.problem.advice = Some(advice.into());
        self
    }

    /// Keeps a `--json` answer that was given already from being followed by a second one.
    #[must_use]
    pub fn answered(mut self) -> Self {
        self.answered = true;
        self
    }

    /// Says what was being done.
    #[must_use]
    pub fn context(mut self, context: &str) -> Self {
        self.problem.message = format!("{context}: {}", self.problem.message);
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { exit: exit_code(error.kind()), problem: Problem::from(&error), answered: false }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = if problem.kind == "internal" { INTERNAL } else { exit_code(problem.error_kind()) };
        Self { problem, exit, answered: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_exit_code() {
        let kinds = [
            ErrorKind::NotFound,
            ErrorKind::Denied,
            ErrorKind::Invalid,
            ErrorKind::UNAVAILABLE,
            ErrorKind::Timeout,
            ErrorKind::Corrupt,
            ErrorKind::Full,
            ErrorKind::Cancelled,
        ];
        let codes = kinds.map(exit_code).into_iter().chain([0, INTERNAL, INTERRUPTED]);
        for code in codes {
            let named = EXIT_CODES.split_whitespace().any(|word| word == code.to_string());
            assert!(named, "exit code {code} is not in the help");
        }
    }

    #[test]
    fn a_problem_from_an_agent_keeps_its_exit_code() {
        let sent = Problem::from(&Error::new(ErrorKind::Full, "no room for 9 GiB"));
        assert_eq!(Failure::from(sent).exit, exit_code(ErrorKind::Full));
    }
}
