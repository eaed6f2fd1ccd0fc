//! Errors as this door answers them: a status, a [`Problem`] in JSON, and `Retry-After` where it helps.
//!
//! The table from kinds to statuses is in `crate::error`; here is only its shape on the wire, and the
//! answers that are HTTP's own business (401, 404 for an unknown path, 405, 412, 416).

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
};

use crate::{
    api::Problem,
    error::{self, Error, ErrorKind},
};

/// What a caller is told to wait when the error does not know better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error on its way out of a handler.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    problem: Problem,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    /// `status` instead of the one the error's kind maps to.
    pub(super) fn with_status(status: StatusCode, error: &Error) -> Self {
        Self { status, problem: Problem::from(error), headers: Vec::new() }
    }

    /// A problem that came ready-made, as a failed pull carries it.
    pub(super) fn of_problem(problem: Problem) -> Self {
        let status = status_of(problem.error_kind());
        Self { status, problem, headers: Vec::new() }
    }

    /// Adds a response header.
    #[must_use]
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub(super) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.problem.advice = Some(advice.into());
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::with_status(status_of(error.kind()), &error)
    }
}

fn status_of(kind: ErrorKind) -> StatusCode {
    StatusCode::from_u16(error::http_status(kind)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl IntoResponse for Failure {
    fn into_response(mut self) -> Response {
        let busy = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&self.status);
        let seconds = match self.problem.retry_after_seconds {
            Some(seconds) => Some(seconds),
            None if busy && !error::waits_in_vain(&self.problem.message) => Some(RETRY_AFTER.as_secs_f64()),
            None => None,
        };
        if let Some(seconds) = seconds {
            // Whole seconds, rounded up: earlier would be too early.
            let whole = seconds.ceil().clamp(1.0, 86_400.0) as u64;
            self.headers.push((header::RETRY_AFTER, HeaderValue::from(whole)));
        }
        (self.status, AppendHeaders(self.headers), Json(self.problem)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_whole_seconds_and_only_where_it_helps() {
        let of = |kind| {
            let response = Failure::from(Error::new(kind, "x")).into_response();
            let header = response.headers().get(header::RETRY_AFTER).cloned();
            (response.status().as_u16(), header.map(|value| value.to_str().unwrap().to_owned()))
        };
        let after = |ms| ErrorKind::Unavailable { retry_after: Some(Duration::from_millis(ms)) };
        assert_eq!(of(after(1500)), (503, Some("2".to_owned())));
        assert_eq!(of(after(0)), (503, Some("1".to_owned())));
        assert_eq!(of(ErrorKind::UNAVAILABLE), (503, Some("1".to_owned())));
        assert_eq!(of(ErrorKind::NotFound), (404, None));
        let drained = Failure::from(Error::new(ErrorKind::UNAVAILABLE, "it was drained")).into_response();
        assert_eq!(drained.headers().get(header::RETRY_AFTER), None, "it does not come back by itself");
        assert_eq!(of(ErrorKind::Full), (507, None));
    }
}
