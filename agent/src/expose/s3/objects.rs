//! Objects: `GET` and `HEAD` of a key, with ranges and conditions, read while they come.
//!
//! Past s3s' own reading of these requests, which knows one range and one tag and refuses the rest as
//! malformed; what part is sent is decided where the HTTP door decides it. Preconditions are judged by the
//! listing first: nothing starts to come for an answer without a body.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use percent_encoding::percent_decode_str;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, route::S3Route};
use tokio::time::Instant;

use super::{
    credentials::require,
    errors::{said, told},
    inner::Inner,
    listing::told_date,
};
use crate::{
    error::ErrorKind,
    expose::http::{
        body::{FileBody, Segment},
        lazy_body::LazyBody,
        ranges::{self, Decision, Validators},
    },
    metrics,
    namespace::{Entry, FileEntry, NamespacePath},
    reader::{Caller, LazyFile},
};

/// This door to the reader.
const CALLER: Caller = Caller { door: metrics::Door::S3 };
/// How long the first bytes of an answer may take to come; less than clients wait for one.
const FIRST_BYTE: Duration = Duration::from_secs(50);
/// So many of them are waited for before the answer begins.
const FIRST_BYTES: u64 = 64 << 10;
/// What is asked of an object with these is not its bytes.
const ASPECTS: [&str; 10] = [
    "acl",
    "attributes",
    "legal-hold",
    "object-lambda",
    "restore",
    "retention",
    "select",
    "tagging",
    "torrent",
    "uploadId",
];
/// Headers that a query may ask for.
const OVERRIDES: [(&str, HeaderName); 6] = [
    ("response-cache-control", header::CACHE_CONTROL),
    ("response-content-disposition", header::CONTENT_DISPOSITION),
    ("response-content-encoding", header::CONTENT_ENCODING),
    ("response-content-language", header::CONTENT_LANGUAGE),
    ("response-content-type", header::CONTENT_TYPE),
    ("response-expires", header::EXPIRES),
];
const PARTS_COUNT: HeaderName = HeaderName::from_static("x-amz-mp-parts-count");

/// The object that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) bucket: String,
    pub(super) key: String,
}

/// Answers for objects.
#[derive(Clone)]
pub(super) struct Objects(pub(super) Arc<Inner>);

impl Objects {
    /// What object a request is about, if its path names one.
    pub(super) fn named(&self, uri: &Uri, headers: &HeaderMap) -> Option<Named> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let path = percent_decode_str(uri.path()).decode_utf8().ok()?;
        let path = path.strip_prefix('/')?;
        let (bucket, key) = match host.and_then(|host| self.0.domains.bucket(host)) {
            Some(bucket) => (bucket, path),
            None => path.split_once('/').map(|(bucket, key)| (bucket.to_owned(), key))?,
        };
        (!bucket.is_empty() && !key.is_empty()).then(|| Named { bucket, key: key.to_owned() })
    }
}

#[async_trait]
impl S3Route for Objects {
    fn is_match(&self, method: &Method, uri: &Uri, headers: &HeaderMap, extensions: &mut Extensions) -> bool {
        if !matches!(*method, Method::GET | Method::HEAD) || query(uri).any(|(name, _)| is_aspect(&name)) {
            return false;
        }
        match self.named(uri, headers) {
            Some(named) => {
                extensions.insert(named);
                true
            }
            None => false,
        }
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        require(request.credentials.is_some() || self.0.credentials.is_none())
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let Some(named) = request.extensions.get::<Named>() else {
            return Err(S3Error::new(S3ErrorCode::InternalError));
        };
        let path = self.0.buckets.object(&named.bucket, &named.key)?;
        let asked = Asked::new(&request)?;
        let agent = self.0.agent()?;
        let entry = match agent.namespace().stat(&path).await.map_err(|e| told(&e))? {
            Entry::File(entry) => entry,
            Entry::Directory => return Err(missing(&path)),
        };
        asked.check_version(&entry)?;
        let listed = Known { etag: &entry.etag, modified: told_date(entry.modified), bytes: entry.bytes };
        let reply = asked.decide(&listed)?;
        if request.method == Method::HEAD || reply.range.is_empty() {
            return Ok(asked.respond(&listed, reply, Body::empty()));
        }
        let file = agent.reader().open(&path, CALLER).await.map_err(|e| match e.kind() {
            ErrorKind::Invalid => missing(&path),
            _ => told(&e),
        })?;
        // It may be another version than the one that was listed.
        let known = Known { etag: file.etag(), modified: told_date(file.modified()), bytes: file.bytes() };
        let reply = asked.decide(&known)?;
        let body = body(&file, reply.range.clone()).await?;
        Ok(asked.respond(&known, reply, body))
    }
}

fn missing(path: &NamespacePath) -> S3Error {
    said(S3ErrorCode::NoSuchKey, format!("{path} is a directory, not an object"))
}

/// The bytes of `range`, as soon as the first of them can be had.
async fn body(file: &LazyFile, range: Range<u64>) -> S3Result<Body> {
    if range.is_empty() {
        return Ok(Body::empty());
    }
    if let Some(sealed) = file.sealed() {
        let body = FileBody::new(sealed, [Segment::File(range)]).through(CALLER.door);
        return Ok(Body::http_body_unsync(body));
    }
    let first_bytes = (range.end - range.start).min(FIRST_BYTES) as usize;
    let begun = file.read_at(range.start, first_bytes, Instant::now() + FIRST_BYTE).await;
    let begun = begun.map_err(|e| told(&e))?;
    Ok(Body::http_body_unsync(LazyBody::new(file.clone(), [Segment::File(range)], Some(begun))))
}

/// What identifies an object to clients.
struct Known<'a> {
    /// Without quotes.
    etag: &'a str,
    modified: SystemTime,
    bytes: u64,
}

impl Known<'_> {
    fn quoted(&self) -> String {
        format!("\"{}\"", self.etag)
    }
}

/// How a request is answered.
struct Reply {
    status: StatusCode,
    /// What is sent; empty for an answer without a body.
    range: Range<u64>,
}

/// What is asked of an object.
struct Asked {
    conditions: HeaderMap,
    part_number: Option<u32>,
    version: Option<String>,
    overrides: HeaderMap,
}

impl Asked {
    /// # Errors
    /// `InvalidArgument` for a part number or header that cannot be; `InvalidRequest` for a part of a part.
    fn new(request: &S3Request<Body>) -> S3Result<Self> {
        let mut conditions = request.headers.clone();
        for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
            quote(&mut conditions, &name);
        }
        let mut asked = Self { conditions, part_number: None, version: None, overrides: HeaderMap::new() };
        for (name, value) in query(&request.uri) {
            match name.as_str() {
                "partNumber" => {
                    let number = value.parse().ok().filter(|number| (1..=10_000).contains(number));
                    let wrong = || said(S3ErrorCode::InvalidArgument, "partNumber must be 1 to 10000");
                    asked.part_number = Some(number.ok_or_else(wrong)?);
                }
                "versionId" => asked.version = Some(value),
                other => {
                    let known = OVERRIDES.iter().find(|(query, _)| *query == other);
                    if let Some((_, header)) = known {
                        let wrong =
                            |_| said(S3ErrorCode::InvalidArgument, format!("{other} is no header value"));
                        asked.overrides.insert(header, HeaderValue::try_from(value).map_err(wrong)?);
                    }
                }
            }
        }
        if asked.part_number.is_some() && asked.conditions.contains_key(header::RANGE) {
            let message = "a request names a range or a part, not both";
            return Err(said(S3ErrorCode::InvalidRequest, message));
        }
        Ok(asked)
    }

    fn check_version(&self, entry: &FileEntry) -> S3Result<()> {
        match &self.version {
            Some(version) if version != "null" && entry.version.object_version.as_ref() != Some(version) => {
                Err(said(
                    S3ErrorCode::NoSuchVersion,
                    "only the newest version of an object is read through here",
                ))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// # Errors
    /// `PreconditionFailed`, `InvalidRange`, `InvalidPart`.
    fn decide(&self, object: &Known<'_>) -> S3Result<Reply> {
        let (etag, bytes) = (object.quoted(), object.bytes);
        let validators = Validators { etag: &etag, modified: object.modified, bytes };
        // S3 takes ranges in HEAD as well.
        let decision = match ranges::decide(&Method::GET, &self.conditions, &validators) {
            Decision::Whole if self.part_number.is_some_and(|number| number > 1) => {
                let mut error =
                    said(S3ErrorCode::Custom("InvalidPartNumber".into()), "the object is one part");
                error.set_status_code(StatusCode::RANGE_NOT_SATISFIABLE);
                return Err(error);
            }
            Decision::Whole if self.part_number.is_some() && bytes > 0 => {
                Reply { status: StatusCode::PARTIAL_CONTENT, range: 0..bytes }
            }
            Decision::Whole => Reply { status: StatusCode::OK, range: 0..bytes },
            Decision::Parts(parts) => match parts.as_slice() {
                [part] => Reply { status: StatusCode::PARTIAL_CONTENT, range: part.clone() },
                // S3 knows one range a request and sends everything for more.
                _ => Reply { status: StatusCode::OK, range: 0..bytes },
            },
            Decision::NotModified => Reply { status: StatusCode::NOT_MODIFIED, range: 0..0 },
            Decision::PreconditionFailed => {
                let message = format!("the object is version {etag}, which the request does not want");
                return Err(said(S3ErrorCode::PreconditionFailed, message));
            }
            Decision::Unsatisfiable => {
                let message = format!("no part of an object of {bytes} bytes can be sent for this Range");
                let mut error = said(S3ErrorCode::InvalidRange, message);
                let range = (header::CONTENT_RANGE, text(format!("bytes */{bytes}")));
                error.set_headers(HeaderMap::from_iter([range]));
                return Err(error);
            }
        };
        Ok(decision)
    }

    fn respond(&self, object: &Known<'_>, reply: Reply, body: Body) -> S3Response<Body> {
        let Reply { status, range } = reply;
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, text(object.quoted()));
        headers.insert(header::LAST_MODIFIED, text(httpdate::fmt_http_date(object.modified)));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if status != StatusCode::NOT_MODIFIED {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
            headers.extend(self.overrides.clone());
        }
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), object.bytes);
            headers.insert(header::CONTENT_RANGE, text(range));
        }
        if self.part_number.is_some() {
            headers.insert(PARTS_COUNT, HeaderValue::from_static("1"));
        }
        let mut response = S3Response::with_status(body, status);
        response.headers = headers;
        response
    }
}

/// S3's clients leave the quotes of tags away now and then.
fn quote(headers: &mut HeaderMap, name: &HeaderName) {
    if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok())
        && !value.contains('"')
        && value.trim() != "*"
    {
        let quoted = text(format!("\"{}\"", value.trim()));
        headers.insert(name, quoted);
    }
}

fn query(uri: &Uri) -> impl Iterator<Item = (String, String)> {
    url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned()
}

fn is_aspect(name: &str) -> bool {
    ASPECTS.contains(&name)
}

/// A header value of printable characters, which is always valid.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}
