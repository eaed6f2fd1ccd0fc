//! What an S3 client is told: the workspace's errors as S3's codes, with what to do about them.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use s3s::{S3Error, S3ErrorCode};

use crate::error::{self, Error, ErrorKind};

/// An error as S3 tells it.
pub(super) fn told(e: &Error) -> S3Error {
    with_code(e, error::s3_code(e.kind()))
}

/// The same about a bucket as a whole.
pub(super) fn told_of_bucket(e: &Error) -> S3Error {
    match e.kind() {
        ErrorKind::NotFound => with_code(e, "NoSuchBucket"),
        _ => told(e),
    }
}

fn with_code(e: &Error, code: &'static str) -> S3Error {
    let message = e.to_string();
    let message = match error::advice(e.kind(), &message) {
        Some(advice) => format!("{message}; {advice}"),
        None => message,
    };
    let mut told = S3Error::with_message(
        S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError),
        message,
    );
    if let Ok(status) = StatusCode::from_u16(error::http_status(e.kind())) {
        told.set_status_code(status);
    }
    if let ErrorKind::Unavailable { retry_after: Some(after) } = e.kind() {
        let seconds = after.as_secs_f64().ceil() as u64;
        told.set_headers(HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from(seconds))]));
    }
    told
}

/// An error with a code of S3's own.
pub(super) fn said(code: S3ErrorCode, message: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    S3Error::with_message(code, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_kind_is_told_with_its_status_and_when_to_come_back() {
        let kinds = [
            (ErrorKind::NotFound, "NoSuchKey", 404),
            (ErrorKind::Denied, "AccessDenied", 403),
            (ErrorKind::Invalid, "InvalidArgument", 400),
            (ErrorKind::Unavailable { retry_after: Some(Duration::from_millis(1500)) }, "SlowDown", 503),
            (ErrorKind::Timeout, "ServiceUnavailable", 504),
            (ErrorKind::Corrupt, "InternalError", 502),
            (ErrorKind::Full, "InsufficientCapacity", 507),
            (ErrorKind::Cancelled, "OperationAborted", 409),
        ];
        for (kind, code, status) in kinds {
            let told = told(&Error::new(kind, "s3://b/k: why"));
            assert_eq!((told.code().as_str(), told.status_code().unwrap().as_u16()), (code, status));
            assert!(told.message().unwrap().contains("s3://b/k: why"));
            let after = told.headers().and_then(|headers| headers.get(header::RETRY_AFTER));
            assert_eq!(after.map(|value| value.to_str().unwrap()), (status == 503).then_some("2"));
        }
        assert_eq!(told_of_bucket(&Error::new(ErrorKind::NotFound, "x")).code().as_str(), "NoSuchBucket");
    }
}
