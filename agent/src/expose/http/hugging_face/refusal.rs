//! Errors as the Hub words them: a status, `X-Error-Code` by which clients choose what to raise, and a sentence.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    error::{self, Error, ErrorKind},
    origin::Refusal,
};

const CODE: HeaderName = HeaderName::from_static("x-error-code");
const MESSAGE: HeaderName = HeaderName::from_static("x-error-message");
pub(super) const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
/// When to come back if nobody said.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A request that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    status: u16,
    code: String,
    message: String,
    commit: Option<String>,
    retry_after: Option<Duration>,
}

impl Refused {
    fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, code: code.to_owned(), message, commit: None, retry_after: None }
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    pub(super) fn invalid(why: &str) -> Self {
        Self::new(400, "", why)
    }

    pub(super) fn method(why: &str) -> Self {
        Self::new(405, "", why)
    }

    pub(super) fn no_route() -> Self {
        Self::new(404, "", "this endpoint answers what reading repositories needs and nothing else")
    }

    pub(super) fn no_repository() -> Self {
        Self::new(404, "RepoNotFound", "Repository not found")
    }

    pub(super) fn no_revision(revision: &str) -> Self {
        Self::new(404, "RevisionNotFound", format!("no branch, tag or commit {revision:?}"))
    }

    pub(super) fn no_digest(path: &str) -> Self {
        Self::new(502, "", format!("the Hub does not say which content {path:?} has"))
    }

    pub(super) fn no_entry(path: &str, commit: Option<&str>) -> Self {
        let commit = commit.map(str::to_owned);
        Self { commit, ..Self::new(404, "EntryNotFound", format!("no file or directory {path:?}")) }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let message = match refusal.message.as_str() {
            "" => "the Hub does not let this caller in",
            message => message,
        };
        // A stranger to a private repository is told what he is told of none at all.
        let code = match refusal.code.as_str() {
            "" if refusal.status == 404 => "RepoNotFound",
            code => code,
        };
        Self::new(refusal.status, code, message)
    }
}

impl From<Error> for Refused {
    fn from(e: Error) -> Self {
        let retry_after = match e.kind() {
            ErrorKind::Unavailable { retry_after } => Some(retry_after.unwrap_or(RETRY_AFTER)),
            ErrorKind::Timeout => Some(RETRY_AFTER),
            ErrorKind::NotFound
            | ErrorKind::Denied
            | ErrorKind::Invalid
            | ErrorKind::Corrupt
            | ErrorKind::Full
            | ErrorKind::Cancelled => None,
        };
        Self { retry_after, ..Self::new(error::http_status(e.kind()), "", e.to_string()) }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut response = (status, Json(json!({ "error": self.message }))).into_response();
        let headers = response.headers_mut();
        let plain: String =
            self.message.chars().map(|c| if c.is_ascii() && !c.is_control() { c } else { '?' }).collect();
        let texts = [(CODE, Some(self.code)), (MESSAGE, Some(plain)), (COMMIT, self.commit)];
        for (name, text) in texts {
            let value =
                text.filter(|text| !text.is_empty()).and_then(|text| HeaderValue::try_from(text).ok());
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: earlier would be too early.
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(wait.as_secs_f64().ceil().clamp(1.0, 86_400.0) as u64),
            );
        }
        response
    }
}
