//! The agent's errors are the workspace's; here is the advice that goes with them.

use crate::api::Problem;
pub use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};

impl From<&Error> for Problem {
    fn from(e: &Error) -> Self {
        let (kind, retry_after) = match e.kind() {
            ErrorKind::NotFound => ("not_found", None),
            ErrorKind::Denied => ("denied", None),
            ErrorKind::Invalid => ("invalid", None),
            ErrorKind::Unavailable { retry_after } => ("unavailable", retry_after),
            ErrorKind::Timeout => ("timeout", None),
            ErrorKind::Corrupt => ("corrupt", None),
            ErrorKind::Full => ("full", None),
            ErrorKind::Cancelled => ("cancelled", None),
        };
        Self {
            kind: kind.to_owned(),
            message: e.to_string(),
            advice: None,
            retry_after_seconds: retry_after.map(|d| d.as_secs_f64()),
        }
    }
}
