//! What an S3 client is told: the workspace's errors as S3's codes, with what to do about them.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use s3s::{Body, S3Error, S3ErrorCode};

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

/// An answer of s3s's own, which says only the code of some errors, with a message.
pub(super) fn explained(mut response: Response<Body>) -> Response<Body> {
    if !response.status().is_client_error() && response.status() != StatusCode::NOT_IMPLEMENTED {
        return response;
    }
    let Some(xml) = response.body().bytes() else { return response };
    if let Some(with_message) = std::str::from_utf8(&xml).ok().and_then(add_message) {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(with_message);
    }
    response
}

/// `None` where there is a message already, or nothing better to say than the code.
fn add_message(xml: &str) -> Option<String> {
    const END: &str = "</Code>";
    let (head, rest) = xml.split_once(END)?;
    let (_, code) = head.rsplit_once("<Code>")?;
    if rest.contains("<Message>") {
        return None;
    }
    let message = match code {
        "SignatureDoesNotMatch" => {
            "the signature is not the one that this request has by the agent's s3.secret_key_file: check the secret key, \
             and that nothing on the way changes headers or the path"
        }
        "KeyTooLongError" => "a key has at most 1024 bytes",
        "InvalidURI" => "path or query are not UTF-8 in percent encoding",
        "InvalidBucketName" => "no bucket can be called that",
        "NotImplemented" => "this door has no such operation",
        "MethodNotAllowed" => "this door has no such operation for what the path names",
        "IncompleteBody" => "the body ended before the length that was promised",
        _ => return None,
    };
    Some(format!("{head}{END}<Message>{message}</Message>{rest}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_without_a_message_gets_one_and_others_stay() {
        let answer = |status: u16, xml: &str| {
            let response = Response::builder().status(status).body(Body::from(xml.to_owned())).unwrap();
            String::from_utf8(explained(response).body().bytes().unwrap().to_vec()).unwrap()
        };
        let told = answer(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>");
        assert!(told.starts_with("<Error><Code>SignatureDoesNotMatch</Code><Message>"), "{told}");
        assert!(told.contains("s3.secret_key_file") && told.ends_with("</Message></Error>"), "{told}");
        for (status, same) in [
            (403, "<Error><Code>SignatureDoesNotMatch</Code><Message>why</Message></Error>"),
            (400, "<Error><Code>Unheard</Code></Error>"),
            (404, "no XML"),
            (200, "<Code>KeyTooLongError</Code>"),
        ] {
            assert_eq!(answer(status, same), same);
        }
    }

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
