//! Who may come in: a token where one is configured, and on a bare loopback door a `Host` that is ours.
//!
//! Denies by default: it stands in front of every route, known or not, and lets only
//! [`OPEN_PATHS`] past. Invariants: a door off loopback without a token is never built; the token is
//! compared in constant time and is never logged.
//!
//! Without a token, loopback alone is no protection from a browser on the same machine: a page can
//! point its own name at 127.0.0.1 (DNS rebinding), post across sites, or have the agent read by an image's
//! address. So `Host` and `Origin` must then name this machine, and a request that the browser says came from
//! another site is refused.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::problem::Failure;
use crate::{
    config::{self, HttpConfig},
    error::{Error, ErrorKind, Result},
};

/// What a probe may ask without a token: these say nothing but yes or no.
pub const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The door's rule of entry.
#[derive(Clone)]
pub struct Guard {
    rule: Rule,
}

#[derive(Clone)]
enum Rule {
    /// The BLAKE3 hash of the token: comparing hashes takes the same time whatever differs.
    Token(blake3::Hash),
    /// No token: only names of this machine, and these.
    LocalNames(Vec<String>),
}

impl Guard {
    /// Reads the token, if there is one.
    ///
    /// # Errors
    /// `Invalid` for a door that `listen`s off loopback without a token, and for a token that is
    /// empty or has characters no header can carry; `Denied` for a token file that others can read.
    pub fn new(config: &HttpConfig, listen: SocketAddr) -> Result<Self> {
        let rule = match &config.token_file {
            Some(file) => Rule::Token(blake3::hash(read_token(file)?.as_bytes())),
            None if is_loopback(listen.ip()) => Rule::LocalNames(config.allowed_hosts.clone()),
            None => return Err(config::token_is_missing(listen)),
        };
        Ok(Self { rule })
    }

    fn admit(&self, request: &Request) -> Result<(), Failure> {
        if OPEN_PATHS.contains(&request.uri().path()) {
            return Ok(());
        }
        match &self.rule {
            Rule::Token(expected) => match bearer(request.headers()) {
                Some(token) if blake3::hash(token) == *expected => Ok(()),
                Some(token) if is_for_hub(request) && split_hub_token(token, expected).is_some() => Ok(()),
                Some(_) => Err(unauthorized("the token is not the one of this agent")),
                None => Err(unauthorized("this agent wants a token")),
            },
            Rule::LocalNames(names) => {
                let is_named = |host: &str| names.iter().any(|name| name.eq_ignore_ascii_case(host));
                check_local(request, is_named).map_err(misdirected)
            }
        }
    }
}

/// Whether a request without a token means this machine: by address, as `localhost`, or by what `is_named`
/// knows.
///
/// # Errors
/// The header that says otherwise.
pub(in crate::expose) fn check_local<B>(
    request: &http::Request<B>,
    is_named: impl Fn(&str) -> bool,
) -> Result<(), &'static str> {
    let authority = request.uri().authority().map(|authority| Ok(authority.clone()));
    let host = authority.or_else(|| request.headers().get(header::HOST).map(parse_authority));
    match host {
        Some(Ok(host)) if is_ours(host.host(), &is_named, |_| true) => {}
        // Only HTTP/1.0 has no host, and no browser speaks that.
        None if request.version() <= axum::http::Version::HTTP_10 => {}
        Some(_) | None => return Err("Host"),
    }
    match request.headers().get(header::ORIGIN).map(origin_host) {
        None if is_cross_site(request.headers()) => Err("Sec-Fetch-Site"),
        None => Ok(()),
        Some(Some(origin)) if is_ours(origin.host(), &is_named, is_loopback) => Ok(()),
        Some(_) => Err("Origin"),
    }
}

/// Whether a browser says that a page of another site asked. Pages send no `Origin` with an image, a script or a
/// link; programs that are no browser do not say from where they ask. What a person typed comes from `none`.
fn is_cross_site(headers: &HeaderMap) -> bool {
    headers
        .get_all(SEC_FETCH_SITE)
        .iter()
        .any(|site| site.as_bytes().trim_ascii().eq_ignore_ascii_case(b"cross-site"))
}

/// Whether a request is for the Hugging Face endpoint, whose clients bring a token for the Hub.
fn is_for_hub(request: &Request) -> bool {
    request.uri().path().starts_with("/hf/")
}

/// The part behind the last colon of `AGENT:HUB`, if the part in front is this agent's token: clients of the Hub
/// can send one token, and two doors want to see one.
fn split_hub_token<'a>(token: &'a [u8], expected: &blake3::Hash) -> Option<&'a [u8]> {
    let colon = token.iter().rposition(|&byte| byte == b':')?;
    (blake3::hash(&token[..colon]) == *expected).then(|| &token[colon + 1..])
}

impl Guard {
    /// Takes this agent's own token out of a request for the Hub: it is not the Hub's to see.
    fn keep_own_token(&self, request: &mut Request) {
        let Rule::Token(expected) = &self.rule else { return };
        if !is_for_hub(request) {
            return;
        }
        let rest = bearer(request.headers()).and_then(|token| split_hub_token(token, expected));
        let rest = rest.filter(|token| !token.is_empty()).map(|token| [b"Bearer ", token].concat());
        request.headers_mut().remove(header::AUTHORIZATION);
        if let Some(mut value) = rest.and_then(|rest| HeaderValue::from_bytes(&rest).ok()) {
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
    }
}

/// The middleware around everything.
pub(super) async fn stand(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    match guard.admit(&request) {
        Ok(()) => {
            guard.keep_own_token(&mut request);
            next.run(request).await
        }
        Err(failure) => failure.into_response(),
    }
}

fn read_token(file: &Path) -> Result<String> {
    let text = config::read_private(file, "HTTP token")?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("HTTP token in {} must be one line of printable characters", file.display()),
        ));
    }
    Ok(token.to_owned())
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn parse_authority(value: &HeaderValue) -> Result<Authority, ()> {
    Authority::try_from(value.as_bytes()).map_err(drop)
}

/// The host of an `Origin`; `null` and everything else that is no URL has none.
fn origin_host(value: &HeaderValue) -> Option<Authority> {
    let (_, authority) = value.to_str().ok()?.split_once("://")?;
    authority.parse().ok()
}

/// Whether a host is this machine's by definition, by configuration, or an address that `allowed`
/// lets pass. An address in `Host` cannot have been rebound; a page's own address in `Origin` can be
/// anybody's.
fn is_ours(host: &str, is_named: impl Fn(&str) -> bool, allowed: impl FnOnce(IpAddr) -> bool) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || bare.parse().is_ok_and(allowed)
        || is_named(host)
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn unauthorized(message: &str) -> Failure {
    Failure::with_status(StatusCode::UNAUTHORIZED, &Error::new(ErrorKind::Denied, message))
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"emberline\""))
        .advice("send `Authorization: Bearer TOKEN` with the token in the agent's `http.token_file`")
}

fn misdirected(which: &str) -> Failure {
    let error = Error::new(ErrorKind::Denied, format!("the request's {which} does not name this machine"));
    Failure::with_status(StatusCode::FORBIDDEN, &error)
        .advice("use an address or `localhost`, or add the name to `http.allowed_hosts`, or set a token")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use axum::body::Body;

    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn request(path: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn status(guard: &Guard, path: &str, headers: &[(&str, &str)]) -> u16 {
        match guard.admit(&request(path, headers)) {
            Ok(()) => 200,
            Err(failure) => failure.into_response().status().as_u16(),
        }
    }

    #[test]
    fn without_a_token_only_names_of_this_machine_come_in() {
        let config = HttpConfig { allowed_hosts: vec!["node-7.lan".to_owned()], ..HttpConfig::default() };
        let guard = Guard::new(&config, LOOPBACK).unwrap();
        let host = |host: &str| status(&guard, "/v1/status", &[("host", host)]);
        for ours in [
            "127.0.0.1",
            "127.0.0.1:7580",
            "localhost:7580",
            "LOCALHOST",
            "[::1]:7580",
            "a.localhost",
            "Node-7.LAN",
        ] {
            assert_eq!(host(ours), 200, "{ours}");
        }
        for foreign in [
            "evil.example",
            "evil.example:7580",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "a b",
        ] {
            assert_eq!(host(foreign), 403, "{foreign}");
        }
        assert_eq!(status(&guard, "/v1/status", &[]), 403);
        assert_eq!(status(&guard, "http://evil.example/v1/status", &[("host", "localhost")]), 403);
        let from = |origin| status(&guard, "/v1/status", &[("host", "localhost"), ("origin", origin)]);
        assert_eq!(from("http://localhost:3000"), 200);
        assert_eq!(from("https://evil.example"), 403);
        assert_eq!(from("http://127.0.0.1:3000"), 200);
        assert_eq!(from("http://203.0.113.9"), 403);
        assert_eq!(from("null"), 403);
    }

    #[test]
    fn a_page_of_another_site_cannot_have_the_agent_read_without_a_token() {
        let guard = Guard::new(&HttpConfig::default(), LOOPBACK).unwrap();
        let asked = |headers: &[(&str, &str)]| {
            let headers: Vec<_> = [("host", "localhost:7580")].iter().chain(headers).copied().collect();
            status(&guard, "/hf/org/name/resolve/main/config.json", &headers)
        };
        // As browsers send an image, a script, a link of a page; no page can leave it out.
        for mode in ["no-cors", "navigate"] {
            assert_eq!(asked(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", mode)]), 403, "{mode}");
        }
        assert_eq!(asked(&[("sec-fetch-site", "Cross-Site")]), 403);
        assert_eq!(asked(&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")]), 403);
        // Typed by a person; a page of this agent's; one of another port of this machine; Node's own fetch.
        for site in ["none", "same-origin", "same-site"] {
            assert_eq!(asked(&[("sec-fetch-site", site)]), 200, "{site}");
        }
        assert_eq!(asked(&[("sec-fetch-mode", "cors")]), 200);
        // 127.0.0.1 and localhost are two sites to a browser, and one machine.
        let here = [("sec-fetch-site", "cross-site"), ("origin", "http://127.0.0.1:3000")];
        assert_eq!(asked(&here), 200);
        assert_eq!(asked(&[("sec-fetch-site", "cross-site"), ("origin", "http://evil.example")]), 403);
    }

    #[test]
    fn with_a_token_only_its_bearer_comes_in() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "s3cret\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let config = HttpConfig { token_file: Some(file), ..HttpConfig::default() };
        let guard = Guard::new(&config, LOOPBACK).unwrap();
        let with = |value: &str| status(&guard, "/v1/status", &[("authorization", value)]);
        assert_eq!(with("Bearer s3cret"), 200);
        assert_eq!(with("bearer  s3cret"), 200);
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Bearer ", "Bearer", "Basic s3cret", "s3cret", ""] {
            assert_eq!(with(wrong), 401, "{wrong}");
        }
        assert_eq!(status(&guard, "/healthz", &[("host", "evil.example")]), 200);
        assert_eq!(status(&guard, "/healthz/", &[]), 401);
        assert_eq!(status(&guard, "//healthz", &[]), 401);
    }

    #[test]
    fn the_hubs_token_comes_behind_ours_and_ours_goes_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "s3:cret").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let config = HttpConfig { token_file: Some(file), ..HttpConfig::default() };
        let guard = Guard::new(&config, LOOPBACK).unwrap();
        let left = |path: &str, token: &str| {
            let mut request = request(path, &[("authorization", &format!("Bearer {token}"))]);
            guard.admit(&request).is_ok().then(|| {
                guard.keep_own_token(&mut request);
                let left = request.headers().get("authorization");
                left.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
            })
        };
        assert_eq!(left("/hf/api/models/a/b", "s3:cret"), Some(String::new()));
        assert_eq!(left("/hf/api/models/a/b", "s3:cret:"), Some(String::new()));
        assert_eq!(left("/hf/api/models/a/b", "s3:cret:hf_x"), Some("Bearer hf_x".to_owned()));
        for wrong in ["hf_x", "s3:hf_x", "s3:cret:hf:x", ":s3:cret", "s3:cre:hf_x"] {
            assert_eq!(left("/hf/api/models/a/b", wrong), None, "{wrong}");
        }
        assert_eq!(left("/v1/status", "s3:cret:hf_x"), None);
        assert_eq!(left("/v1/status", "s3:cret"), Some("Bearer s3:cret".to_owned()));
    }

    #[test]
    fn a_door_off_loopback_without_a_token_is_not_built() {
        for listen in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "[2001:db8::1]:80"] {
            let error = Guard::new(&HttpConfig::default(), listen.parse().unwrap()).err().expect(listen);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("token_file"), "{error}");
        }
        for listen in ["127.0.0.1:80", "127.8.8.8:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert!(Guard::new(&HttpConfig::default(), listen.parse().unwrap()).is_ok(), "{listen}");
        }
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        for text in ["", "\n", "two words", "tab\there", "über"] {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(read_token(&file).is_err(), "{text:?}");
        }
    }
}
