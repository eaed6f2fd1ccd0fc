//! Gives `object_store` our HTTP, and reads what a store's refusals mean.
//!
//! Owns the way of the library's requests through our client, the words for what a store answers, and the one
//! condition that the library cannot set. Retries nothing, signs nothing.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures::TryFutureExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use url::Url;

use super::{
    client::{self, Client, host_key},
    secrets::non_empty_var,
    stall::WatchedBody,
};
use crate::error::{Error, ErrorKind, Result};

/// How long a credential service may take in all; it is near, or it is not there.
const CREDENTIAL_TIMEOUT: Duration = Duration::from_secs(5);

tokio::task_local! {
    static ONLY_IF_NEW: ();
}

/// Runs `completing`, which completes an upload in parts, on the condition that there is no such object. The
/// library knows the condition, but not for uploads that go on under an id; like the library's own it is not
/// signed, and a store that does not know it passes it over.
pub(super) async fn only_if_new<F: Future>(completing: F) -> F::Output {
    ONLY_IF_NEW.scope((), completing).await
}

/// What a store answered when it was no success: the cause of an error.
#[derive(Debug)]
pub(super) struct StoreAnswer {
    pub(super) status: StatusCode,
    said: String,
}

impl fmt::Display for StoreAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store answers {}{}", self.status, self.said)
    }
}

impl std::error::Error for StoreAnswer {}

/// The two ways out: to the store, and to the services that hand out credentials.
#[derive(Debug, Clone)]
pub(super) struct Ways {
    pub(super) client: Client,
    pub(super) credentials: reqwest::Client,
    /// How long a body may go without a byte.
    pub(super) patience: Duration,
}

/// Gives `object_store` our HTTP.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) ways: Ways,
    /// The store's own host; everything else asked for is credentials.
    pub(super) host: String,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url: Url = (parts.uri.to_string().parse())
            .map_err(|e| failed(Error::with_source(ErrorKind::Invalid, "URL of the object store", e)))?;
        let is_store = host_key(&url) == self.host;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if is_store && *request.method() == Method::POST && ONLY_IF_NEW.try_with(|()| ()).is_ok() {
            request.headers_mut().insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        // Not by `is_empty`: object_store 0.14 says the opposite of a payload in parts.
        if body.content_length() > 0 {
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        let response = if is_store {
            let response = self.ways.client.execute(request).await.map_err(failed)?;
            refuse(response).await.map_err(failed)?
        } else {
            self.credentials(request).await.map_err(failed)?
        };
        let what = client::host_key(response.url());
        let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        let body = WatchedBody::new(body, what, self.ways.patience).map_err(failed);
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl Connector {
    /// Asks a credential service: it may be link-local, since no reference can name it.
    async fn credentials(&self, request: reqwest::Request) -> Result<reqwest::Response> {
        let what = format!("credentials from {}", request.url().host_str().unwrap_or_default());
        let asked = self.ways.credentials.execute(request).map_err(|e| {
            let why = client::transport_error(&what, e);
            Error::new(ErrorKind::Denied, why.to_string())
        });
        let answer = tokio::time::timeout(CREDENTIAL_TIMEOUT, asked)
            .await
            .map_err(|_| Error::new(ErrorKind::Denied, format!("{what}: no answer")))??;
        let status = answer.status();
        // The library takes a refusal of the token for the wish to be asked without one, if it may.
        let asks_without = status == StatusCode::FORBIDDEN && non_empty_var("AWS_IMDSV1_FALLBACK").is_some();
        if status.is_success() || asks_without {
            return Ok(answer);
        }
        Err(Error::new(ErrorKind::Denied, format!("{what}: the answer is {status}")))
    }
}

fn failed(error: Error) -> HttpError {
    let kind =
        if error.kind() == ErrorKind::Timeout { HttpErrorKind::Timeout } else { HttpErrorKind::Unknown };
    HttpError::new(kind, error)
}

/// Lets success through and turns everything else into what it means, in the store's own words.
async fn refuse(response: reqwest::Response) -> Result<reqwest::Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let headers = response.headers().clone();
    let body = client::error_body(response).await;
    let code = element(&body, "Code")
        .or_else(|| headers.get("x-ms-error-code")?.to_str().ok())
        .or_else(|| element(&body, "code"))
        .unwrap_or_default();
    let message: String = element(&body, "Message")
        .unwrap_or_default()
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect();
    let said = if message.is_empty() { String::new() } else { format!(" ({message})") };
    let (kind, why) = meaning(status, &headers, code);
    let code = if code.is_empty() { String::new() } else { format!(" {code}") };
    Err(Error::with_source(kind, why, StoreAnswer { status, said: format!("{code}{said}") }))
}

fn meaning(status: StatusCode, headers: &HeaderMap, code: &str) -> (ErrorKind, String) {
    let kind = client::kind_of(status, headers);
    let wrong_region = || {
        let region =
            headers.get("x-amz-bucket-region").and_then(|v| v.to_str().ok()).unwrap_or("another region");
        (ErrorKind::Invalid, format!("the bucket is in {region}: set origins.s3.region"))
    };
    match (code, kind) {
        ("NoSuchBucket" | "ContainerNotFound", _) => {
            (ErrorKind::NotFound, "no such bucket: check its name".into())
        }
        ("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed", _) => wrong_region(),
        ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) => {
            (ErrorKind::Denied, "the session has ended".into())
        }
        ("RequestTimeTooSkewed", _) => (ErrorKind::Denied, "this machine's clock is wrong".into()),
        ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AuthenticationFailed", _) => {
            (ErrorKind::Denied, "the credentials are wrong".into())
        }
        (_, Some(ErrorKind::Denied)) => (ErrorKind::Denied, "access denied".into()),
        (_, Some(ErrorKind::NotFound)) => (ErrorKind::NotFound, "no such object".into()),
        (_, Some(ErrorKind::Corrupt)) => (ErrorKind::Corrupt, "the object is another".into()),
        (_, Some(kind @ ErrorKind::Unavailable { .. })) => {
            (kind, "the store is not able to answer now".into())
        }
        (_, Some(kind)) => (kind, "the store refuses".into()),
        (_, None) if headers.contains_key("x-amz-bucket-region") => wrong_region(),
        (_, None) => (ErrorKind::Invalid, "the store redirects".into()),
    }
}

/// The text of the first `<name>` in an XML error.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let end = xml[start..].find('<')? + start;
    Some(xml[start..end].trim()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_classed_by_its_code_before_its_status() {
        let none = HeaderMap::new();
        let kind = |status, code| meaning(StatusCode::from_u16(status).unwrap(), &none, code).0;
        assert_eq!(kind(400, "ExpiredToken"), ErrorKind::Denied);
        assert_eq!(kind(404, "NoSuchBucket"), ErrorKind::NotFound);
        assert_eq!(kind(403, ""), ErrorKind::Denied);
        assert_eq!(kind(412, "PreconditionFailed"), ErrorKind::Corrupt);
        assert_eq!(kind(503, "SlowDown"), ErrorKind::UNAVAILABLE);
        assert_eq!(kind(301, "PermanentRedirect"), ErrorKind::Invalid);
        assert_eq!(kind(307, ""), ErrorKind::Invalid);
    }
}
