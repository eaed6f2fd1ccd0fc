//! Files over HTTP: an opened file and a request's headers in, a response out.
//!
//! What part is sent is decided in [`ranges`], how its bytes travel in
//! [`super::body`]. Never compressed, never redirected: clients resume by byte position.

use std::{
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::{IntoParams, IntoResponses};

use super::{
    Door,
    body::{self, FileBody, Segment},
    extract::Asked,
    lazy_body::LazyBody,
    problem::Failure,
    ranges::{self, Decision, Validators},
};
use crate::{
    api::{Named, Problem},
    error::{Error, ErrorKind},
    metrics,
    namespace::FileEntry,
    reader::{Caller, LazyFile},
    reference::Reference,
    snapshot::RelativePath,
    store::OpenedFile,
};

/// This door to the reader.
pub(super) const CALLER: Caller = Caller { door: metrics::Door::Http };
/// How long the first bytes of an answer may take to come; less than an answer may.
const FIRST_BYTE: Duration = Duration::from_secs(50);
/// So many of them are waited for before the answer begins.
const FIRST_BYTES: usize = 64 << 10;
/// Whether the file is whole here: `sealed` or `coming`.
const STATE_HEADER: HeaderName = HeaderName::from_static("x-emberline-state");
/// The BLAKE3 name of its content, once it is sealed.
const HASH_HEADER: HeaderName = HeaderName::from_static("x-emberline-hash");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Names an artifact in a query.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NamedQuery {
    /// Reference, swarm id or manifest hash.
    pub(super) reference: String,
}

impl From<NamedQuery> for Named {
    fn from(query: NamedQuery) -> Self {
        Self { reference: query.reference }
    }
}

/// The answers to a question for a file, as `/openapi.json` tells them.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a description, never a value")]
pub(super) enum FileAnswers {
    /// The whole file.
    #[response(status = 200, content_type = "application/octet-stream")]
    Whole(Vec<u8>),
    /// The part, or several as multipart/byteranges.
    #[response(status = 206)]
    Part,
    /// The client has this version.
    #[response(status = 304)]
    Unchanged,
    /// No such artifact or file.
    #[response(status = 404)]
    Missing(Problem),
    /// Not the version in If-Match.
    #[response(status = 412)]
    Outdated(Problem),
    /// No such part.
    #[response(status = 416)]
    NoSuchPart(Problem),
    /// On its way, but neither its origin nor another node can be asked now; or, by id, not whole yet.
    #[response(status = 503)]
    NotNow(Problem),
}

/// One file of an artifact, by reference.
#[utoipa::path(
    method(get, head),
    path = "/v1/files/{*path}",
    tag = "files",
    params(("path" = String, Path, description = "path within the artifact, slashes included"), NamedQuery),
    responses(FileAnswers)
)]
pub(super) async fn by_reference(
    State(door): State<Door>,
    Path(path): Path<String>,
    Asked(query): Asked<NamedQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    open_and_answer(&door, &query.reference, &path, &method, &headers).await
}

/// One file of an artifact, by the artifact's id.
#[utoipa::path(
    method(get, head),
    path = "/v1/artifacts/{id}/files/{*path}",
    tag = "files",
    params(
        ("id" = String, Path, description = "swarm id or manifest hash"),
        ("path" = String, Path, description = "path within the artifact, slashes included"),
    ),
    responses(FileAnswers)
)]
pub(super) async fn by_artifact(
    State(door): State<Door>,
    Path((id, path)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    open_and_answer(&door, &id, &path, &method, &headers).await
}

async fn open_and_answer(
    door: &Door,
    named: &str,
    path: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let path: RelativePath = path.parse()?;
    let agent = door.agent()?;
    let missing = match agent.open_file(named, path.as_str()).await {
        Ok(file) => return Ok(answer(method, headers, file)),
        Err(e) => e,
    };
    // What has a reference can be had although it is not here, or not whole.
    let is_on_its_way = matches!(missing.kind(), ErrorKind::NotFound | ErrorKind::Unavailable { .. });
    match named.parse::<Reference>() {
        Ok(reference) if is_on_its_way => {
            let file = agent.reader().open_in(&reference, &path, CALLER).await?;
            coming(method, headers, file).await
        }
        _ => Err(missing.into()),
    }
}

/// Answers for a file that may be on its way: as soon as its first bytes can be had, or with why they cannot.
pub(super) async fn coming(
    method: &Method,
    headers: &HeaderMap,
    file: LazyFile,
) -> Result<Response, Failure> {
    begin(method, headers, file, FIRST_BYTE, false).await
}

/// As [`coming`], but the answer begins after `patience` without its first bytes where these take longer.
pub(super) async fn coming_within(
    method: &Method,
    headers: &HeaderMap,
    file: LazyFile,
    patience: Duration,
) -> Result<Response, Failure> {
    begin(method, headers, file, patience, true).await
}

async fn begin(
    method: &Method,
    headers: &HeaderMap,
    file: LazyFile,
    patience: Duration,
    goes_on: bool,
) -> Result<Response, Failure> {
    let etag = format!("\"{}\"", file.etag());
    let modified = file.modified().unwrap_or(UNIX_EPOCH);
    let source = match file.sealed() {
        Some(sealed) => Source::Sealed(sealed),
        None => Source::Coming(file, None),
    };
    let mut served = Served { source, etag, modified };
    let decision = served.decide(method, headers);
    let first = match (&decision, method) {
        (_, &Method::HEAD) => None,
        (Decision::Whole, _) => Some(0),
        (Decision::Parts(parts), _) => parts.first().map(|part| part.start),
        (Decision::NotModified | Decision::PreconditionFailed | Decision::Unsatisfiable, _) => None,
    };
    if let (Some(offset), Source::Coming(file, begun)) = (first, &mut served.source) {
        let deadline = tokio::time::Instant::now() + patience;
        *begun = match file.read_at(offset, FIRST_BYTES, deadline).await {
            Ok(bytes) => Some(bytes),
            Err(e) if goes_on && e.kind() == ErrorKind::Timeout => None,
            Err(e) => return Err(e.into()),
        };
    }
    Ok(respond(method, served, decision))
}

/// Answers `HEAD` for a file of which only the listing is known.
pub(super) fn described(headers: &HeaderMap, entry: &FileEntry) -> Response {
    let source = Source::Listed(entry.bytes);
    let (etag, modified) = (format!("\"{}\"", entry.etag), entry.modified.unwrap_or(UNIX_EPOCH));
    let served = Served { source, etag, modified };
    let decision = served.decide(&Method::HEAD, headers);
    respond(&Method::HEAD, served, decision)
}

/// Answers `GET` or `HEAD` for a file with what its conditional and range headers ask for.
pub fn answer(method: &Method, headers: &HeaderMap, file: OpenedFile) -> Response {
    let etag = format!("\"{}\"", file.etag);
    let modified = UNIX_EPOCH + Duration::from_secs(file.modified);
    let served = Served { source: Source::Sealed(file), etag, modified };
    let decision = served.decide(method, headers);
    respond(method, served, decision)
}

/// Where bytes come from.
enum Source {
    Sealed(OpenedFile),
    /// With the first bytes of the answer, where it has any.
    Coming(LazyFile, Option<Bytes>),
    /// Nowhere yet: this many are said to be there.
    Listed(u64),
}

/// A file, and what identifies it to clients.
struct Served {
    source: Source,
    /// With its quotes.
    etag: String,
    modified: SystemTime,
}

impl Served {
    fn bytes(&self) -> u64 {
        match &self.source {
            Source::Sealed(file) => file.bytes,
            Source::Coming(file, _) => file.bytes(),
            Source::Listed(bytes) => *bytes,
        }
    }

    /// Dates in HTTP end with the year 9999.
    fn modified(&self) -> SystemTime {
        self.modified.min(UNIX_EPOCH + Duration::from_secs(253_402_300_799))
    }

    fn decide(&self, method: &Method, headers: &HeaderMap) -> Decision {
        let validators = Validators { etag: &self.etag, modified: self.modified(), bytes: self.bytes() };
        ranges::decide(method, headers, &validators)
    }

    fn into_body(self, segments: impl IntoIterator<Item = Segment>) -> Body {
        match self.source {
            Source::Sealed(file) => Body::new(FileBody::new(file, segments)),
            Source::Coming(file, begun) => Body::new(LazyBody::new(file, segments, begun)),
            Source::Listed(_) => Body::empty(),
        }
    }
}

fn respond(method: &Method, served: Served, decision: Decision) -> Response {
    let (etag, modified, bytes) = (served.etag.clone(), served.modified(), served.bytes());
    let state = match &served.source {
        Source::Sealed(file) => Presence::Sealed(file.etag.to_string()),
        Source::Coming(..) => Presence::Coming,
        Source::Listed(_) => Presence::Unknown,
    };
    let mut response = match decision {
        Decision::Whole => whole(method, served),
        Decision::Parts(parts) => match <[Range<u64>; 1]>::try_from(parts) {
            Ok([part]) => one_part(served, part),
            Err(parts) => many_parts(served, &parts),
        },
        Decision::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Decision::PreconditionFailed => {
            let error = Error::new(ErrorKind::Invalid, format!("the file here is version {etag}"));
            Failure::with_status(StatusCode::PRECONDITION_FAILED, &error)
                .advice("it is not the version asked for; start over with the new one")
                .into_response()
        }
        Decision::Unsatisfiable => {
            let error = Error::new(
                ErrorKind::Invalid,
                format!("no part of a file of {bytes} bytes can be sent for this Range"),
            );
            Failure::with_status(StatusCode::RANGE_NOT_SATISFIABLE, &error)
                .advice(format!("ask for at most {} ranges that start before its end", ranges::MAX_RANGES))
                .header(header::CONTENT_RANGE, text(format!("bytes */{bytes}")))
                .into_response()
        }
    };
    stamp(response.headers_mut(), &etag, modified, &state);
    response
}

/// How much of a file is here, as its answer says.
enum Presence {
    /// All, with this BLAKE3 name.
    Sealed(String),
    Coming,
    Unknown,
}

/// The headers that every answer about a file bears.
fn stamp(headers: &mut HeaderMap, etag: &str, modified: SystemTime, state: &Presence) {
    headers.insert(header::ETAG, text(etag.to_owned()));
    if modified > UNIX_EPOCH {
        headers.insert(header::LAST_MODIFIED, text(httpdate::fmt_http_date(modified)));
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // The same URL may mean a newer version tomorrow: keep it, but ask.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    match state {
        Presence::Sealed(hash) => {
            headers.insert(STATE_HEADER, HeaderValue::from_static("sealed"));
            headers.insert(HASH_HEADER, text(hash.clone()));
        }
        Presence::Coming => {
            headers.insert(STATE_HEADER, HeaderValue::from_static("coming"));
        }
        Presence::Unknown => {}
    }
}

fn whole(method: &Method, served: Served) -> Response {
    let bytes = served.bytes();
    let segments = (bytes > 0).then(|| Segment::File(0..bytes));
    let body = if method == Method::HEAD { Body::empty() } else { served.into_body(segments) };
    let headers = [(header::CONTENT_TYPE, OCTETS), (header::CONTENT_LENGTH, HeaderValue::from(bytes))];
    (StatusCode::OK, headers, body).into_response()
}

fn one_part(served: Served, part: Range<u64>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, OCTETS),
        (header::CONTENT_LENGTH, HeaderValue::from(part.end - part.start)),
        (header::CONTENT_RANGE, text(content_range(&part, served.bytes()))),
    ];
    (StatusCode::PARTIAL_CONTENT, headers, served.into_body([Segment::File(part)])).into_response()
}

fn many_parts(served: Served, parts: &[Range<u64>]) -> Response {
    // 128 random bits: no model contains them by chance, and nobody can plan for them.
    let boundary = format!("{:032x}", rand::random::<u128>());
    let mut segments = Vec::with_capacity(2 * parts.len() + 1);
    for part in parts {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {}\r\n\r\n",
            content_range(part, served.bytes())
        );
        segments.push(Segment::Literal(Bytes::from(head)));
        segments.push(Segment::File(part.clone()));
    }
    segments.push(Segment::Literal(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    let headers = [
        (header::CONTENT_TYPE, text(format!("multipart/byteranges; boundary={boundary}"))),
        (header::CONTENT_LENGTH, HeaderValue::from(body::bytes_of(&segments))),
    ];
    (StatusCode::PARTIAL_CONTENT, headers, served.into_body(segments)).into_response()
}

fn content_range(part: &Range<u64>, bytes: u64) -> String {
    format!("bytes {}-{}/{bytes}", part.start, part.end - 1)
}

/// A header value of digits, hex, and punctuation, which is always valid.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use coordinatorless_p2p::ChunkHash;

    use super::*;

    /// 22 November 2026, 09:00:00 GMT.
    const PUBLISHED: u64 = 1_795_338_000;

    fn opened(content: &[u8]) -> OpenedFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        OpenedFile {
            file: Arc::new(file),
            bytes: content.len() as u64,
            etag: ChunkHash::of(content),
            modified: PUBLISHED,
            lease: Arc::new(()),
        }
    }

    struct Got {
        status: u16,
        headers: HeaderMap,
        body: Vec<u8>,
    }

    impl Got {
        fn header(&self, name: header::HeaderName) -> &str {
            self.headers.get(name).map_or("", |value| value.to_str().unwrap())
        }
    }

    async fn ask(method: Method, content: &[u8], headers: &[(header::HeaderName, &str)]) -> Got {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let response = answer(&method, &headers, opened(content));
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Got { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    #[tokio::test]
    async fn a_whole_file_comes_with_its_length_tag_and_date() {
        let got = ask(Method::GET, b"0123456789", &[]).await;
        assert_eq!((got.status, got.body.as_slice()), (200, b"0123456789".as_slice()));
        assert_eq!(got.header(header::CONTENT_LENGTH), "10");
        assert_eq!(got.header(header::CONTENT_TYPE), "application/octet-stream");
        assert_eq!(got.header(header::ACCEPT_RANGES), "bytes");
        assert_eq!(got.header(header::LAST_MODIFIED), "Sun, 22 Nov 2026 09:00:00 GMT");
        assert_eq!(got.header(header::ETAG), format!("\"{}\"", ChunkHash::of(b"0123456789")));
        assert!(!got.headers.contains_key(header::CONTENT_ENCODING));
    }

    #[tokio::test]
    async fn head_says_the_length_and_sends_nothing() {
        let got = ask(Method::HEAD, b"0123456789", &[(header::RANGE, "bytes=0-1")]).await;
        assert_eq!((got.status, got.body.len()), (200, 0));
        assert_eq!(got.header(header::CONTENT_LENGTH), "10");
    }

    #[tokio::test]
    async fn one_range_is_a_plain_part() {
        let got = ask(Method::GET, b"0123456789", &[(header::RANGE, "bytes=2-4")]).await;
        assert_eq!((got.status, got.body.as_slice()), (206, b"234".as_slice()));
        assert_eq!(got.header(header::CONTENT_RANGE), "bytes 2-4/10");
        assert_eq!(got.header(header::CONTENT_LENGTH), "3");
    }

    #[tokio::test]
    async fn several_ranges_are_a_multipart_whose_length_is_told_beforehand() {
        let got = ask(Method::GET, b"0123456789", &[(header::RANGE, "bytes=8-, 0-1")]).await;
        assert_eq!(got.status, 206);
        assert_eq!(got.header(header::CONTENT_LENGTH), got.body.len().to_string());
        let boundary =
            got.header(header::CONTENT_TYPE).strip_prefix("multipart/byteranges; boundary=").unwrap();
        let part = |range: &str, bytes: &str| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {range}/10\r\n\r\n{bytes}"
            )
        };
        let expected = format!("{}{}\r\n--{boundary}--\r\n", part("8-9", "89"), part("0-1", "01"));
        assert_eq!(String::from_utf8(got.body).unwrap(), expected);
    }

    #[tokio::test]
    async fn a_refused_range_says_the_size() {
        let got = ask(Method::GET, b"0123456789", &[(header::RANGE, "bytes=10-")]).await;
        assert_eq!(got.status, 416);
        assert_eq!(got.header(header::CONTENT_RANGE), "bytes */10");
        let problem: Problem = serde_json::from_slice(&got.body).unwrap();
        assert_eq!(problem.kind, "invalid");
    }

    #[tokio::test]
    async fn a_stale_if_match_is_412_and_a_known_tag_304_without_a_body() {
        let got = ask(Method::GET, b"0123456789", &[(header::IF_MATCH, "\"stale\"")]).await;
        assert_eq!(got.status, 412);
        let etag = format!("\"{}\"", ChunkHash::of(b"0123456789"));
        let got = ask(Method::GET, b"0123456789", &[(header::IF_NONE_MATCH, &etag)]).await;
        assert_eq!((got.status, got.body.len()), (304, 0));
        assert_eq!(got.header(header::ETAG), etag);
        let stale = [(header::IF_RANGE, "\"stale\""), (header::RANGE, "bytes=0-1")];
        assert_eq!(ask(Method::GET, b"0123456789", &stale).await.status, 200);
    }

    #[tokio::test]
    async fn an_empty_file_is_an_empty_answer() {
        let got = ask(Method::GET, b"", &[(header::RANGE, "bytes=0-")]).await;
        assert_eq!((got.status, got.body.len()), (200, 0));
        assert_eq!(got.header(header::CONTENT_LENGTH), "0");
    }
}
