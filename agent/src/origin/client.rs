//! HTTP as origins need it: one request with its redirects, inside every limit.
//!
//! Owns connection pools, the checks of each hop, the hold windows that servers ask for, and how
//! statuses and transport failures become [`Error`]s. Bodies go through untouched. Knows nothing of
//! buckets, repositories or retries.
//!
//! Invariants: `Authorization` goes to the host it was meant for and nowhere else; no hop reaches a
//! metadata address or leaves the allow-list; no secret and no query stands in a message.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use url::Url;

use super::{
    config::OriginsConfig,
    guard::{AllowList, GuardedResolver, check_url, shown},
    hosts::{HostState, Hosts},
};
use crate::error::{Error, ErrorKind, IoContext, Result};

/// How much of an error's body is read for its message, in bytes.
const MAX_ERROR_BODY_BYTES: usize = 8 << 10;
/// Connecting, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends requests. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    hosts: Arc<Hosts>,
    allow: AllowList,
    max_redirects: usize,
    request_timeout: Duration,
    max_wait: Duration,
}

/// One request, before its redirects.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// `Authorization`, for the host of `url` only.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Ask {
    pub(crate) fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), authorization: None }
    }
}

/// The answer of the last hop.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: reqwest::Response,
    /// Headers of the first hop, if that was a redirect.
    pub(crate) redirect_headers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// A header of the last hop, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// A header of the first hop, where there was a redirect, else of the only one.
    pub(crate) fn first_header(&self, name: &str) -> Option<&str> {
        self.redirect_headers.as_ref().unwrap_or(self.response.headers()).get(name)?.to_str().ok()
    }

    /// The body, as it comes.
    pub(crate) fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        let what = shown(self.response.url());
        self.response.bytes_stream().map_err(move |e| transport_error(&what, e)).boxed()
    }

    /// The whole body, at most `limit` bytes, each piece within `patience`.
    pub(crate) async fn into_bytes(self, limit: usize, patience: Duration) -> Result<Bytes> {
        let what = shown(self.response.url());
        let mut body = self.into_stream();
        let mut whole = BytesMut::new();
        loop {
            match tokio::time::timeout(patience, body.next()).await {
                Err(_) => return Err(stalled(&what, patience, "body")),
                Ok(None) => return Ok(whole.freeze()),
                Ok(Some(piece)) => {
                    let piece = piece?;
                    if whole.len() + piece.len() > limit {
                        return Err(Error::new(
                            ErrorKind::Invalid,
                            format!("{what}: answer is longer than {limit} bytes"),
                        ));
                    }
                    whole.extend_from_slice(&piece);
                }
            }
        }
    }
}

/// Counts a stall and words it.
pub(crate) fn stalled(what: &str, patience: Duration, reason: &'static str) -> Error {
    crate::metrics::stalled(crate::metrics::Stall::Origin);
    Error::new(ErrorKind::Timeout, format!("{what}: no byte for {} s ({reason})", patience.as_secs_f64()))
}

impl Client {
    /// A client with a pool of its own. `ca_file` adds authorities to the system's.
    ///
    /// # Errors
    /// `Invalid` for a file without certificates, and what reading it brings.
    pub(crate) fn new(
        config: &OriginsConfig,
        ca_file: Option<&Path>,
        hosts: Arc<Hosts>,
        allow: AllowList,
    ) -> Result<Self> {
        Ok(Self {
            http: pool(config, ca_file, true)?,
            hosts,
            allow,
            max_redirects: config.max_redirects,
            request_timeout: config.request_timeout,
            max_wait: config.max_retry_wait,
        })
    }

    /// Sends `ask`, follows redirects, and answers with the last hop's head, whatever its status.
    /// Cancel-safe.
    ///
    /// # Errors
    /// `Denied` for a hop that may not be taken; `Timeout` when the head did not come; `Unavailable`
    /// when the host cannot be reached or asked to be left alone for longer than is waited.
    pub(crate) async fn send(&self, ask: Ask) -> Result<Answer> {
        let home = ask.url.clone();
        let mut url = ask.url;
        let mut redirect_headers = None;
        for _ in 0..=self.max_redirects {
            let mut request = reqwest::Request::new(ask.method.clone(), url.clone());
            request.headers_mut().extend(ask.headers.clone());
            request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if let Some(secret) = ask.authorization.as_ref().filter(|_| same_place(&home, &url)) {
                request.headers_mut().insert(header::AUTHORIZATION, secret.clone());
            }
            let response = self.execute(request).await?;
            let location = response.headers().get(header::LOCATION).filter(|_| follows(response.status()));
            let Some(location) = location else {
                return Ok(Answer { response, redirect_headers });
            };
            let next = location.to_str().ok().and_then(|text| url.join(text).ok()).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("{} redirects to what is not a URL", shown(&url)))
            })?;
            self.check_hop(&home, &url, &next)?;
            redirect_headers.get_or_insert_with(|| response.headers().clone());
            url = next;
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!("{} redirects more than {} times", shown(&home), self.max_redirects),
        ))
    }

    fn check_hop(&self, home: &Url, from: &Url, to: &Url) -> Result<()> {
        check_url(to).map_err(|e| e.context(format!("redirect from {}", shown(from))))?;
        if from.scheme() == "https" && to.scheme() == "http" {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("redirect from {} to {}, which is not encrypted", shown(from), shown(to)),
            ));
        }
        if same_place(home, to) {
            return Ok(());
        }
        self.allow.check(&shown(to)).map_err(|e| e.context(format!("redirect from {}", shown(from))))
    }

    /// Sends one request without following anything, after the host's hold and within the time for a head.
    pub(crate) async fn execute(&self, request: reqwest::Request) -> Result<reqwest::Response> {
        check_url(request.url())?;
        let what = shown(request.url());
        let host = self.host_of(request.url());
        host.pass(self.max_wait).await?;
        let response = match tokio::time::timeout(self.request_timeout, self.http.execute(request)).await {
            Err(_) => return Err(stalled(&what, self.request_timeout, "head")),
            Ok(answered) => answered.map_err(|e| transport_error(&what, e))?,
        };
        if asks_for_less(response.status()) {
            host.refuse(response.status().as_u16());
        } else {
            host.hear();
        }
        if let Some(wait) = asked_to_wait(response.status(), response.headers()) {
            host.hold(wait);
        }
        Ok(response)
    }

    fn host_of(&self, url: &Url) -> Arc<HostState> {
        self.hosts.host(&host_key(url))
    }
}

/// The name under which a URL's host has its limits.
pub(crate) fn host_key(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// A connection pool. HTTP/1.1 only: bulk reads multiplexed over one TCP connection share its window.
pub(crate) fn pool(config: &OriginsConfig, ca_file: Option<&Path>, guarded: bool) -> Result<reqwest::Client> {
    let roots = match ca_file {
        None => Vec::new(),
        Some(path) => {
            let pem = std::fs::read(path).at(|| format!("certificate authorities {}", path.display()))?;
            let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| {
                Error::with_source(
                    ErrorKind::Invalid,
                    format!("certificate authorities {}", path.display()),
                    e,
                )
            })?;
            if found.is_empty() {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("{} has no certificate in it", path.display()),
                ));
            }
            found
        }
    };
    let builder = || {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("emberline/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(config.max_concurrent_requests)
            .tcp_keepalive(Duration::from_secs(30));
        if guarded { builder.dns_resolver(Arc::new(GuardedResolver)) } else { builder }
    };
    let with_system = builder().tls_certs_merge(roots.clone()).build();
    // A container without system certificates can still use plain HTTP and authorities of its own.
    with_system.or_else(|_| builder().tls_certs_only(roots).build()).map_err(|e| {
        Error::with_source(ErrorKind::Invalid, "the HTTP client cannot be set up with these certificates", e)
    })
}

fn follows(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether two URLs are served by one party: only then may it get the other's credentials.
pub(crate) fn same_place(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether a server says by this status that it is asked too much.
fn asks_for_less(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// How long the server asked to be left alone, for the statuses where that binds.
pub(crate) fn asked_to_wait(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !asks_for_less(status) {
        return None;
    }
    let Some(text) = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).map(str::trim) else {
        return until_reset(headers);
    };
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(std::time::SystemTime::now()).ok(),
    }
}

/// How long until a spent quota is refilled, as Hubs say it: `RateLimit: "api";r=0;t=42` (draft of the IETF's
/// HTTPAPI group).
fn until_reset(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("ratelimit")?.to_str().ok()?;
    let seconds = text.split([';', ',']).find_map(|part| part.trim().strip_prefix("t="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// What a status means where the server says nothing better. `None` for those that are no error.
pub(crate) fn kind_of(status: StatusCode, headers: &HeaderMap) -> Option<ErrorKind> {
    Some(match status.as_u16() {
        200..=399 => return None,
        401 | 403 | 407 => ErrorKind::Denied,
        404 | 410 => ErrorKind::NotFound,
        412 | 416 => ErrorKind::Corrupt,
        408 | 425 | 429 | 500.. => ErrorKind::Unavailable { retry_after: asked_to_wait(status, headers) },
        _ => ErrorKind::Invalid,
    })
}

/// The start of an error's body, for its message; empty when it does not come.
pub(crate) async fn error_body(response: reqwest::Response) -> String {
    let mut body = response.bytes_stream();
    let mut start = Vec::new();
    while start.len() < MAX_ERROR_BODY_BYTES {
        match tokio::time::timeout(Duration::from_secs(2), body.next()).await {
            Ok(Some(Ok(piece))) => start.extend_from_slice(&piece),
            _ => break,
        }
    }
    start.truncate(MAX_ERROR_BODY_BYTES);
    String::from_utf8_lossy(&start).into_owned()
}

/// Words and classes a failure below HTTP.
pub(crate) fn transport_error(what: &str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    if let Some(own) = find::<Error>(&error) {
        return Error::new(own.kind(), format!("{what}: {own}"));
    }
    if let Some(tls) = find::<rustls::Error>(&error) {
        if matches!(tls, rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) {
            let text = format!("{what}: what answers there does not speak TLS; is it http:// that is meant?");
            return Error::new(ErrorKind::Invalid, text);
        }
        // A connection that was merely cut during the handshake may come through next time.
        if matches!(tls, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) {
            return Error::new(
                ErrorKind::Denied,
                format!(
                    "{what}: the server's certificate is not trusted: {}; for a private authority set ca_file",
                    distrust(tls)
                ),
            );
        }
    }
    let kind = if error.is_timeout() {
        ErrorKind::Timeout
    } else if error.is_builder() {
        ErrorKind::Invalid
    } else {
        ErrorKind::UNAVAILABLE
    };
    let doing = if error.is_connect() { "cannot connect" } else { "connection broke" };
    let why = format!("{doing}: {}", innermost(&error));
    if error.is_connect() {
        return Error::with_source(kind, what, NotSent(why));
    }
    Error::new(kind, format!("{what}: {why}"))
}

/// Why a certificate is not trusted, in words; rustls has only the names of its types for most.
fn distrust(error: &rustls::Error) -> String {
    use rustls::CertificateError as Reason;
    let rustls::Error::InvalidCertificate(reason) = error else {
        return "it showed none".to_owned();
    };
    match reason {
        Reason::UnknownIssuer => "no authority that is known here has signed it".to_owned(),
        Reason::Expired | Reason::ExpiredContext { .. } => {
            "it has expired, or this machine's clock is wrong".to_owned()
        }
        Reason::NotValidYet | Reason::NotValidYetContext { .. } => {
            "it is not valid yet, or this machine's clock is wrong".to_owned()
        }
        Reason::NotValidForName => "it is for another name".to_owned(),
        Reason::NotValidForNameContext { expected, presented } => {
            format!("it is for {}, not for {}", presented.join(", "), expected.to_str())
        }
        Reason::Revoked => "it was revoked".to_owned(),
        Reason::BadSignature => "its signature is wrong".to_owned(),
        Reason::BadEncoding => "it cannot be read".to_owned(),
        Reason::Other(other) => in_words(&format!("{:?}", other.0)),
        other => in_words(&format!("{other:?}")),
    }
}

/// `ca used as end entity` for `CaUsedAsEndEntity`, and no more than the name of what carries more.
fn in_words(name: &str) -> String {
    let name: String = name.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

/// The cause of an error whose request was never sent.
#[derive(Debug)]
pub(crate) struct NotSent(String);

impl std::fmt::Display for NotSent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotSent {}

/// The first `T` among an error and its causes.
pub(crate) fn find<'a, T: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        // `io::Error::source` skips the error that it wraps.
        let wrapped = current.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        next = match wrapped {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    None
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(deeper) = last.source() {
        last = deeper;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(retry_after: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_str(retry_after).unwrap())])
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let wait = |text: &str| asked_to_wait(StatusCode::TOO_MANY_REQUESTS, &headers(text));
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(100));
        assert!(wait(&date).is_some_and(|d| (98..=100).contains(&d.as_secs())));
        let limited = HeaderMap::from_iter([(
            header::HeaderName::from_static("ratelimit"),
            HeaderValue::from_static("\"api\";r=0;t=42"),
        )]);
        assert_eq!(asked_to_wait(StatusCode::TOO_MANY_REQUESTS, &limited), Some(Duration::from_secs(42)));
        for bad in ["-1", "soon", "1e400", "NaN"] {
            assert_eq!(wait(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_certificate_is_distrusted_in_words() {
        use rustls::CertificateError as Reason;
        let words = |reason| distrust(&rustls::Error::InvalidCertificate(reason));
        assert_eq!(words(Reason::UnknownIssuer), "no authority that is known here has signed it");
        assert!(words(Reason::Expired).contains("clock"));
        assert_eq!(words(Reason::UnhandledCriticalExtension), "unhandled critical extension");
        let other = rustls::OtherError(Arc::new(std::fmt::Error));
        assert_eq!(words(Reason::Other(other)), "error");
        assert_eq!(in_words("CaUsedAsEndEntity"), "ca used as end entity");
        assert_eq!(in_words("NotValidFor { name: 1 }"), "not valid for");
    }

    #[tokio::test]
    async fn https_at_a_port_of_plain_http_is_explained() {
        coordinatorless_p2p::identity::install_crypto_provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let plain = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
            stream
        });
        let asked = pool(&OriginsConfig::default(), None, false).unwrap().get(&url).send().await.unwrap_err();
        let error = transport_error(&url, asked);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("is it http:// that is meant"), "{error}");
        plain.await.unwrap();
    }

    #[test]
    fn credentials_stay_with_scheme_host_and_port() {
        let url = |text| Url::parse(text).unwrap();
        assert!(same_place(&url("https://h/a"), &url("https://h:443/b")));
        for other in ["http://h/a", "https://h:444/", "https://h2/", "https://x.h/"] {
            assert!(!same_place(&url("https://h/a"), &url(other)), "{other}");
        }
    }
}
