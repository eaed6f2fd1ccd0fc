//! A Hugging Face Hub: the routes that its clients use, over a set of files.
//!
//! No package holds a Hub server that runs here (`hf-local-hub` comes without its server, `olah` only mirrors
//! another), so this one is ours; `tests/origins` proves it by having the real `huggingface_hub` download from
//! it. Large files are redirected to a second host with a signed URL, as the Hub does; that host refuses
//! requests that carry a token. It runs on threads of its own, so that dropping it ends its connections as well.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, Response, StatusCode, header},
};
use bytes::Bytes;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, runtime::Runtime};

/// One file of the repository.
#[derive(Debug, Clone)]
pub struct HubFile {
    /// Path in the repository.
    pub path: String,
    /// Content.
    pub bytes: Bytes,
    /// Whether it is kept as a large file: by SHA-256, on the second host.
    pub is_large: bool,
}

/// What the Hub holds and how it behaves.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// `org/name`.
    pub name: String,
    /// The route's word for its kind: `models`, `datasets`, `spaces`.
    pub kind: &'static str,
    /// The files of `main`.
    pub files: Vec<HubFile>,
    /// Entries a page of the listing.
    pub page: usize,
    /// The token that must come, where the repository is private.
    pub token: Option<String>,
    /// Whether it wants its terms accepted first.
    pub is_gated: bool,
}

/// One request that came.
#[derive(Debug, Clone)]
pub struct HubRequest {
    /// When.
    pub at: Instant,
    /// `hub` or `cdn`.
    pub host: &'static str,
    /// Method and path with query.
    pub line: String,
    /// Whether it carried a token.
    pub had_token: bool,
}

/// A running Hub. Stops on drop.
#[derive(Debug)]
pub struct Hub {
    url: String,
    state: Arc<HubState>,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct HubState {
    settings: HubSettings,
    commit: Mutex<String>,
    cdn: String,
    requests: Mutex<Vec<HubRequest>>,
    refusals: AtomicU32,
    signature: AtomicU32,
    /// Tokens whose bearers accepted the terms.
    admitted: Mutex<Vec<String>>,
    /// Of one body; 0: no limit.
    bytes_per_second: AtomicU64,
    served_bytes: AtomicU64,
}

/// Sent at a time where it is slow.
const SLOW_PIECE_BYTES: usize = 16 << 10;

type Answer = Response<Body>;

impl Hub {
    /// Starts one on two ports of loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(settings: HubSettings) -> super::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| format!("hub: {e}"))?;
        let listen = || async {
            // On the threads that will serve it.
            let bound = runtime.spawn(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).await;
            let listener = bound.map_err(|e| format!("hub: {e}"))?.map_err(|e| format!("hub: {e}"))?;
            let address = listener.local_addr().map_err(|e| format!("hub: {e}"))?;
            Ok::<(TcpListener, SocketAddr), String>((listener, address))
        };
        let ((hub, hub_address), (cdn, cdn_address)) = (listen().await?, listen().await?);
        let mut content = Sha1::new();
        for file in &settings.files {
            content.update(&file.bytes);
        }
        let state = Arc::new(HubState {
            commit: Mutex::new(hex(&content.finalize())),
            settings,
            cdn: format!("http://{cdn_address}"),
            requests: Mutex::default(),
            refusals: AtomicU32::new(0),
            signature: AtomicU32::new(1),
            admitted: Mutex::default(),
            bytes_per_second: AtomicU64::new(0),
            served_bytes: AtomicU64::new(0),
        });
        let on_hub = Router::new().fallback(serve_hub).with_state(state.clone());
        let on_cdn = Router::new().fallback(serve_cdn).with_state(state.clone());
        for (listener, router) in [(hub, on_hub), (cdn, on_cdn)] {
            runtime.spawn(async move {
                // Ends with the runtime; a broken listener shows as a failed request.
                let _ = axum::serve(listener, router).await;
            });
        }
        Ok(Self { url: format!("http://{hub_address}"), state, runtime: Some(runtime) })
    }

    /// Base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Base URL of the second host, where large files are.
    pub fn cdn_url(&self) -> String {
        self.state.cdn.clone()
    }

    /// What `main` stands for.
    pub fn commit(&self) -> String {
        self.state.commit()
    }

    /// Moves `main` to another commit: the old one is served no more.
    pub fn move_branch(&self, commit: &str) {
        *self.state.commit.lock().unwrap_or_else(PoisonError::into_inner) = commit.to_owned();
    }

    /// Answers the next `count` requests with 429.
    pub fn refuse_next(&self, count: u32) {
        self.state.refusals.store(count, Ordering::SeqCst);
    }

    /// The bearer of `token` has accepted the terms.
    pub fn admit(&self, token: &str) {
        self.state.admitted.lock().unwrap_or_else(PoisonError::into_inner).push(token.to_owned());
    }

    /// Nobody has accepted the terms any more.
    pub fn admit_nobody(&self) {
        self.state.admitted.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Sends every body no faster than this; 0: as fast as it goes.
    pub fn pace(&self, bytes_per_second: u64) {
        self.state.bytes_per_second.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Bytes of files that were sent.
    pub fn served_bytes(&self) -> u64 {
        self.state.served_bytes.load(Ordering::SeqCst)
    }

    /// Makes every signed URL given out so far worthless.
    pub fn expire_signatures(&self) {
        self.state.signature.fetch_add(1, Ordering::SeqCst);
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<HubRequest> {
        self.state.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl HubState {
    fn commit(&self) -> String {
        self.commit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, host: &'static str, request: &Request) {
        let line = format!("{} {}", request.method(), request.uri());
        let had_token = request.headers().contains_key(header::AUTHORIZATION);
        let seen = HubRequest { at: Instant::now(), host, line, had_token };
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    fn resolve_revision(&self, revision: &str) -> Option<String> {
        let commit = self.commit();
        (revision == "main" || revision == "refs/pr/1" || revision == commit).then_some(commit)
    }
}

async fn serve_hub(State(state): State<Arc<HubState>>, request: Request) -> Answer {
    state.record("hub", &request);
    if state.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
        let mut answer = failure(StatusCode::TOO_MANY_REQUESTS, "", "too many requests");
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return answer;
    }
    let path = request.uri().path().to_owned();
    let settings = &state.settings;
    let api = format!("/api/{}/{}", settings.kind, settings.name);
    let prefix = if settings.kind == "models" { String::new() } else { format!("/{}", settings.kind) };
    let resolve = format!("{prefix}/{}/resolve/", settings.name);
    let wanted = settings.token.as_ref().map(|token| format!("Bearer {token}"));
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let is_ours = path == api || path.starts_with(&format!("{api}/")) || path.starts_with(&resolve);
    if !is_ours || (wanted.is_some() && wanted.as_deref() != sent) {
        // The Hub tells strangers of a private repository what it tells them of none at all.
        return failure(StatusCode::UNAUTHORIZED, "RepoNotFound", "Repository not found");
    }
    if let Some(rest) = path.strip_prefix(&resolve) {
        let admitted = state.admitted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let may_read = admitted.iter().any(|token| sent == Some(format!("Bearer {token}").as_str()));
        let (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
        // What a repository says of itself is for anybody who can see its page.
        let is_for_anybody = matches!(decoded(file).as_str(), "README.md" | ".gitattributes");
        if settings.is_gated && !may_read && !is_for_anybody {
            return failure(StatusCode::FORBIDDEN, "GatedRepo", "Access to this model is restricted");
        }
        return serve_file(&state, &request, &decoded(revision), &decoded(file));
    }
    let rest = path.strip_prefix(&api).unwrap_or_default().trim_start_matches('/');
    if rest == "refs" {
        let branch = json!({"name": "main", "ref": "refs/heads/main", "targetCommit": state.commit()});
        return json_answer(&json!({"branches": [branch], "converts": [], "tags": []}));
    }
    let (route, revision) = rest.split_once('/').unwrap_or((rest, "main"));
    let revision = if route == "tree" { revision.split('/').next().unwrap_or_default() } else { revision };
    let Some(commit) = state.resolve_revision(&decoded(revision)) else {
        return failure(StatusCode::NOT_FOUND, "RevisionNotFound", "Invalid rev id");
    };
    match route {
        "" | "revision" => {
            let siblings: Vec<_> = settings.files.iter().map(|f| json!({"rfilename": f.path})).collect();
            json_answer(
                &json!({"id": settings.name, "sha": commit, "siblings": siblings, "tags": [], "private": false,
                    "gated": if settings.is_gated { json!("auto") } else { json!(false) }}),
            )
        }
        "tree" => serve_tree(&state, &request),
        _ => failure(StatusCode::NOT_FOUND, "", "no such route"),
    }
}

fn serve_tree(state: &HubState, request: &Request) -> Answer {
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
        .collect();
    let start: usize = query.get("cursor").and_then(|c| c.parse().ok()).unwrap_or(0);
    let page = state.settings.page;
    let all = &state.settings.files;
    let mut entries = vec![json!({"type": "directory", "oid": "0", "size": 0, "path": "a-directory"})];
    for file in all.iter().skip(start).take(page) {
        let mut entry =
            json!({"type": "file", "oid": git_oid(file), "size": file.bytes.len(), "path": file.path});
        if file.is_large {
            entry["lfs"] = json!({"oid": hex(&Sha256::digest(&file.bytes)), "size": file.bytes.len(), "pointerSize": 133});
        }
        entries.push(entry);
    }
    let mut answer = json_answer(&json!(entries));
    if start + page < all.len() {
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        let next = format!(
            "<http://{host}{}?recursive=True&cursor={}>; rel=\"next\"",
            request.uri().path(),
            start + page
        );
        if let Ok(value) = HeaderValue::from_str(&next) {
            answer.headers_mut().insert(header::LINK, value);
        }
    }
    answer
}

fn serve_file(state: &Arc<HubState>, request: &Request, revision: &str, path: &str) -> Answer {
    let Some(commit) = state.resolve_revision(revision) else {
        return failure(StatusCode::NOT_FOUND, "RevisionNotFound", "Invalid rev id");
    };
    let Some(file) = state.settings.files.iter().find(|f| f.path == path) else {
        let mut answer = failure(StatusCode::NOT_FOUND, "EntryNotFound", "Entry not found");
        set(&mut answer, "x-repo-commit", &commit);
        return answer;
    };
    let mut answer = if file.is_large {
        let digest = hex(&Sha256::digest(&file.bytes));
        let signature = state.signature.load(Ordering::SeqCst);
        let mut answer = Answer::new(Body::empty());
        *answer.status_mut() = StatusCode::FOUND;
        set(&mut answer, "location", &format!("{}/{digest}?Signature={signature}", state.cdn));
        set(&mut answer, "x-linked-size", &file.bytes.len().to_string());
        set(&mut answer, "x-linked-etag", &format!("\"{digest}\""));
        answer
    } else {
        let mut answer = body(state, request, &file.bytes);
        set(&mut answer, "etag", &format!("\"{}\"", git_oid(file)));
        answer
    };
    set(&mut answer, "x-repo-commit", &commit);
    answer
}

async fn serve_cdn(State(state): State<Arc<HubState>>, request: Request) -> Answer {
    state.record("cdn", &request);
    if request.headers().contains_key(header::AUTHORIZATION) {
        return failure(StatusCode::BAD_REQUEST, "", "only one way to authenticate may be used");
    }
    let signature = format!("Signature={}", state.signature.load(Ordering::SeqCst));
    if request.uri().query() != Some(&signature) {
        return failure(StatusCode::FORBIDDEN, "", "the signature has ended");
    }
    let name = request.uri().path().trim_start_matches('/');
    let files = &state.settings.files;
    let Some(file) = files.iter().find(|f| hex(&Sha256::digest(&f.bytes)) == name) else {
        return failure(StatusCode::NOT_FOUND, "", "no such key");
    };
    let mut answer = body(&state, &request, &file.bytes);
    set(&mut answer, "etag", &format!("\"{name}\""));
    answer
}

/// The bytes, or the one range that was asked for.
fn body(state: &Arc<HubState>, request: &Request, bytes: &Bytes) -> Answer {
    let size = bytes.len();
    let range = request.headers().get(header::RANGE).and_then(|v| v.to_str().ok()).and_then(|text| {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        let first: usize = first.parse().ok()?;
        let last = last.parse().unwrap_or(usize::MAX).min(size.saturating_sub(1));
        Some((first, last))
    });
    let (status, content, content_range) = match range {
        Some((first, last)) if first <= last && first < size => (
            StatusCode::PARTIAL_CONTENT,
            bytes.slice(first..=last),
            Some(format!("bytes {first}-{last}/{size}")),
        ),
        Some(_) => (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new(), Some(format!("bytes */{size}"))),
        None => (StatusCode::OK, bytes.clone(), None),
    };
    let length = content.len();
    let is_head = *request.method() == Method::HEAD;
    let mut answer = Answer::new(if is_head { Body::empty() } else { paced(state.clone(), content) });
    *answer.status_mut() = status;
    set(&mut answer, "accept-ranges", "bytes");
    set(&mut answer, "content-length", &length.to_string());
    if let Some(value) = content_range {
        set(&mut answer, "content-range", &value);
    }
    answer
}

/// The bytes as fast as the Hub is, counted as they go.
fn paced(state: Arc<HubState>, content: Bytes) -> Body {
    Body::from_stream(futures::stream::unfold(content, move |mut rest| {
        let state = state.clone();
        async move {
            let rate = state.bytes_per_second.load(Ordering::SeqCst);
            let piece_bytes = if rate == 0 { rest.len() } else { rest.len().min(SLOW_PIECE_BYTES) };
            let piece = rest.split_to(piece_bytes);
            if piece.is_empty() {
                return None;
            }
            if rate > 0 {
                tokio::time::sleep(Duration::from_secs_f64(piece_bytes as f64 / rate as f64)).await;
            }
            state.served_bytes.fetch_add(piece_bytes as u64, Ordering::SeqCst);
            Some((Ok::<Bytes, std::io::Error>(piece), rest))
        }
    }))
}

fn failure(status: StatusCode, code: &str, message: &str) -> Answer {
    let mut answer = Answer::new(Body::from(json!({"error": message}).to_string()));
    *answer.status_mut() = status;
    if !code.is_empty() {
        set(&mut answer, "x-error-code", code);
    }
    set(&mut answer, "x-error-message", message);
    answer
}

fn json_answer(value: &serde_json::Value) -> Answer {
    let mut answer = Answer::new(Body::from(value.to_string()));
    set(&mut answer, "content-type", "application/json");
    answer
}

fn set(answer: &mut Answer, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

/// What git names a file by.
fn git_oid(file: &HubFile) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", file.bytes.len()));
    hash.update(&file.bytes);
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}
