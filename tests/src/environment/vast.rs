//! An S3 bucket of any number of objects, whose names are made when they are asked for.
//!
//! Ours, because filling a real server with a million objects takes longer than all tests together; what real
//! servers answer is the other tests' matter. One directory of empty-handed names: it lists and describes them
//! and has no bytes to give. Anonymous.

use std::{
    fmt::Write,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, Response, StatusCode, header},
};
use tokio::{net::TcpListener, runtime::Runtime};

/// The directory of all objects.
const DIRECTORY: &str = "data/";
/// Size of each object.
const OBJECT_BYTES: u64 = 7;
const MODIFIED: &str = "2026-11-01T00:00:00.000Z";
const MODIFIED_HTTP: &str = "Sun, 01 Nov 2026 00:00:00 GMT";

/// A running one. Stops on drop.
#[derive(Debug)]
pub struct VastBucket {
    url: String,
    asked: Arc<Asked>,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Asked {
    objects: u64,
    pages: AtomicU64,
    names: AtomicU64,
}

impl VastBucket {
    /// Starts one with `objects` in `data/`, under every bucket's name.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(objects: u64) -> super::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| format!("vast bucket: {e}"))?;
        let bound = runtime.spawn(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).await;
        let bound = bound.map_err(|e| format!("vast bucket: {e}"))?;
        let listener = bound.map_err(|e| format!("vast bucket: {e}"))?;
        let address = listener.local_addr().map_err(|e| format!("vast bucket: {e}"))?;
        let asked = Arc::new(Asked { objects, pages: AtomicU64::new(0), names: AtomicU64::new(0) });
        let router = Router::new().fallback(serve).with_state(asked.clone());
        runtime.spawn(async move {
            // Ends with the runtime; a broken listener shows as a failed request.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url: format!("http://{address}"), asked, runtime: Some(runtime) })
    }

    /// Base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Names in `data/`, in order.
    pub fn names(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.asked.objects).map(name)
    }

    /// Pages that were asked for so far.
    pub fn pages(&self) -> u64 {
        self.asked.pages.load(Ordering::Relaxed)
    }

    /// Names that those pages had.
    pub fn names_given(&self) -> u64 {
        self.asked.names.load(Ordering::Relaxed)
    }
}

impl Drop for VastBucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn name(number: u64) -> String {
    format!("part-{number:09}.bin")
}

fn key(number: u64) -> String {
    format!("{DIRECTORY}{}", name(number))
}

fn etag(number: u64) -> String {
    format!("\"{number:032x}\"")
}

async fn serve(State(asked): State<Arc<Asked>>, request: Request) -> Response<Body> {
    // The bucket, and the key behind it.
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let object = path.split_once('/').map_or("", |(_, key)| key);
    let answer = match (request.method(), object) {
        (&Method::GET, "") => asked.page(request.uri().query().unwrap_or_default()),
        (&Method::HEAD, object) => asked.describe(object),
        _ => Response::builder().status(StatusCode::NOT_IMPLEMENTED).body(Body::empty()),
    };
    answer.unwrap_or_else(|_| Response::new(Body::empty()))
}

impl Asked {
    fn describe(&self, object: &str) -> axum::http::Result<Response<Body>> {
        let number = object
            .strip_prefix(DIRECTORY)
            .and_then(|name| name.strip_prefix("part-")?.strip_suffix(".bin")?.parse().ok())
            .filter(|number| *number < self.objects && key(*number) == object);
        let Some(number) = number else {
            return Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty());
        };
        Response::builder()
            .header(header::ETAG, etag(number))
            .header(header::LAST_MODIFIED, MODIFIED_HTTP)
            .header(header::CONTENT_LENGTH, OBJECT_BYTES)
            .body(Body::empty())
    }

    /// `ListObjectsV2`, going on behind `start-after` or a token, which is the last key of a page.
    fn page(&self, query: &str) -> axum::http::Result<Response<Body>> {
        let asked = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let value = pairs.find(|(key, _)| *key == name)?.1.replace('+', " ");
            Some(percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned())
        };
        let (prefix, limit) = (asked("prefix").unwrap_or_default(), asked("max-keys"));
        let limit = limit.and_then(|limit| limit.parse().ok()).unwrap_or(1000).min(1000);
        let after = asked("continuation-token").or_else(|| asked("start-after")).unwrap_or_default();
        let first = self.first(|key| key <= after.as_str() || key < prefix.as_str());
        let (mut xml, mut count, mut token) = (String::new(), 0_u64, None);
        if asked("delimiter").is_some() && DIRECTORY.starts_with(&prefix) && prefix != DIRECTORY {
            if after.as_str() < DIRECTORY {
                xml.push_str("<CommonPrefixes><Prefix>data/</Prefix></CommonPrefixes>");
            }
        } else {
            for number in first..self.objects {
                let key = key(number);
                if !key.starts_with(&prefix) {
                    break;
                }
                if count == limit {
                    token = number.checked_sub(1).map(self::key);
                    break;
                }
                count += 1;
                // Writing to a string does not fail.
                let _ = write!(
                    xml,
                    "<Contents><Key>{key}</Key><LastModified>{MODIFIED}</LastModified><ETag>{}</ETag>\
                     <Size>{OBJECT_BYTES}</Size></Contents>",
                    etag(number).replace('"', "&quot;")
                );
            }
        }
        let more = token.is_some();
        let token = token
            .map_or(String::new(), |token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
        self.pages.fetch_add(1, Ordering::Relaxed);
        self.names.fetch_add(count, Ordering::Relaxed);
        let xml = format!(
            "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{xml}</ListBucketResult>"
        );
        Response::builder().header(header::CONTENT_TYPE, "application/xml").body(xml.into())
    }

    /// The first object whose key is not `before` what is wanted.
    fn first(&self, before: impl Fn(&str) -> bool) -> u64 {
        let (mut low, mut high) = (0, self.objects);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(&key(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }
}
