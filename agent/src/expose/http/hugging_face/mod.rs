//! The Hugging Face endpoint: repositories of the Hub, read through this node by clients that know only the Hub.
//!
//! `HF_ENDPOINT=http://127.0.0.1:7580/hf`. Owns what each answer says and who may have it: the caller's own token
//! decides, [`admission`](crate::admission) asks the Hub. Every answer is of one commit, named in it. Bytes are
//! sent as [`files`] sends them. Never names a Xet hash: clients with Xet then take the plain route, which is here.

mod dripping;
mod listing;
mod refusal;
mod route;

use std::time::Duration;

use axum::{
    Json,
    body::{self, Body},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::{
    dripping::Dripping,
    refusal::{COMMIT, Refused},
    route::{Route, Wanted},
};
use super::{
    Door,
    extract::{BODY_TIMEOUT, MAX_BODY_BYTES},
    files,
};
use crate::{
    admission::Entered,
    agent::Agent,
    error::ErrorKind,
    manifest::{Blueprint, BlueprintFile},
    metrics,
    namespace::FileEntry,
    reader::{Caller, Contents},
    reference::{HubKind, HubRepo, Reference},
    snapshot::{Digest, RelativePath},
};

/// This door to the reader.
const CALLER: Caller = Caller { door: metrics::Door::Hub };
/// An answer begins after so long, with or without its first bytes: clients wait ten seconds for it.
const HEAD_WITHIN: Duration = Duration::from_secs(7);
/// Longer tokens are no Hub's.
const MAX_TOKEN_BYTES: usize = 4096;
/// The most paths that one request may ask about.
const MAX_PATHS: usize = 1000;

const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
/// The Hub could not be asked: this is what it said before.
const STALE: HeaderName = HeaderName::from_static("x-emberline-stale");

/// Repositories as the Hugging Face Hub serves them, for clients with `HF_ENDPOINT` set to this door's `/hf`.
#[utoipa::path(
    method(get, head, post),
    path = "/hf/{*path}",
    tag = "files",
    params(("path" = String, Path, description = "a route of the Hub: api/models/…, org/name/resolve/…")),
    responses(
        (status = 200, description = "as the Hub answers"),
        (status = 206, description = "a part of a file"),
        (status = 401, description = "the Hub does not let this caller in"),
        (status = 404, description = "no such repository, revision or file; X-Error-Code says which"),
    )
)]
pub(super) async fn hub(State(door): State<Door>, request: Request) -> Response {
    match door.agent() {
        Ok(agent) => answer(agent, request).await.unwrap_or_else(IntoResponse::into_response),
        Err(failure) => failure.into_response(),
    }
}

/// A question of somebody who may ask it.
struct Asked<'a> {
    agent: &'a Agent,
    method: Method,
    headers: HeaderMap,
    query: Query,
    repo: HubRepo,
    /// What the Hub says of the repository.
    about: std::sync::Arc<Map<String, Value>>,
    /// The Hub could not be asked whether it is still public.
    stale: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Query {
    /// Clients say `True`, `true` and `1`.
    recursive: Option<String>,
    blobs: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

async fn answer(agent: &Agent, request: Request) -> Result<Response, Refused> {
    let path = request.uri().path().strip_prefix("/hf/").unwrap_or_default();
    let Route { repo, wanted } = route::parse(path)?.ok_or_else(Refused::no_route)?;
    let takes_post = wanted == Wanted::PathsInfo;
    if takes_post != (request.method() == Method::POST) {
        return Err(Refused::method("this endpoint reads, and only paths-info takes POST"));
    }
    let query = axum::extract::Query::<Query>::try_from_uri(request.uri())
        .map_err(|_| Refused::invalid("the query cannot be read"))?
        .0;
    let token = token_of(request.headers());
    let (about, stale, is_public) = match agent.admissions().enter(&repo, token.as_ref()).await? {
        Entered::LetIn { about, stale, is_public } => (about, stale, is_public),
        Entered::Refused(refusal) => return Err(refusal.into()),
    };
    let (parts, body) = request.into_parts();
    let asked = Asked { agent, method: parts.method, headers: parts.headers, query, repo, about, stale };
    // A token goes nowhere where none is needed.
    let token = token.filter(|_| !is_public);
    match wanted {
        Wanted::About => asked.about().await,
        Wanted::Tree(directory) => asked.tree(&directory).await,
        Wanted::PathsInfo => asked.paths_info(body).await,
        Wanted::Refs => asked.refs(token.as_ref()).await,
        Wanted::File(path) => asked.file(&path).await,
    }
}

/// The caller's token for the Hub, as a header that is never shown.
fn token_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut value = headers.get(header::AUTHORIZATION)?.clone();
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer ") && !token.trim_ascii().is_empty();
    if !is_bearer || value.len() > MAX_TOKEN_BYTES {
        return None;
    }
    value.set_sensitive(true);
    Some(value)
}

impl Asked<'_> {
    /// The files of the revision, of one commit.
    async fn contents(&self) -> Result<Contents, Refused> {
        let reference = Reference::Hub(self.repo.clone());
        self.agent.reader().contents(&reference).await.map_err(|e| match e.kind() {
            // The Hub has let the caller into the repository: it is the revision that is not there.
            ErrorKind::NotFound => Refused::no_revision(&self.repo.revision),
            ErrorKind::Denied => {
                self.agent.admissions().forget(&self.repo);
                e.into()
            }
            _ => e.into(),
        })
    }

    async fn about(&self) -> Result<Response, Refused> {
        let contents = self.contents().await?;
        let with_sizes = is_yes(self.query.blobs.as_deref());
        let about = listing::about(&self.repo, &contents.blueprint, &self.about, with_sizes);
        Ok(self.stamped(Json(about), &contents))
    }

    async fn tree(&self, directory: &str) -> Result<Response, Refused> {
        let contents = self.contents().await?;
        let limit = self.query.limit.unwrap_or(listing::PAGE_MAX);
        let recursive = is_yes(self.query.recursive.as_deref());
        let after = self.query.cursor.as_deref();
        let files = contents.blueprint.clone();
        let (below, after) = (directory.to_owned(), after.map(str::to_owned));
        // A repository may have very many files.
        let page = tokio::task::spawn_blocking(move || {
            listing::tree(&files, &below, recursive, after.as_deref(), limit)
        });
        let page = page.await.ok().flatten();
        let page =
            page.ok_or_else(|| Refused::no_entry(directory, contents.blueprint.revision.as_deref()))?;
        let mut response = self.stamped(Json(page.entries), &contents);
        if let Some(next) =
            page.next.and_then(|last| self.next_page(directory, recursive, limit, &last, &contents))
        {
            response.headers_mut().insert(header::LINK, next);
        }
        Ok(response)
    }

    /// The page behind the path `last`, of the same commit whatever the branch does meanwhile.
    fn next_page(
        &self,
        directory: &str,
        recursive: bool,
        limit: usize,
        last: &str,
        contents: &Contents,
    ) -> Option<HeaderValue> {
        // Clients want a whole URL; the host is the one that they know this agent by.
        let host = self.headers.get(header::HOST)?.to_str().ok()?;
        let forwarded = self.headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
        let scheme = if forwarded == Some("https") { "https" } else { "http" };
        let kind = match self.repo.kind {
            HubKind::Model => "models",
            HubKind::Dataset => "datasets",
            HubKind::Space => "spaces",
        };
        let name = &self.repo.name;
        let commit = contents.blueprint.revision.as_deref()?;
        let encoded = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let below: String = directory
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| format!("/{}", encoded(part)))
            .collect();
        let next = format!(
            "<{scheme}://{host}/hf/api/{kind}/{name}/tree/{commit}{below}?recursive={recursive}&limit={limit}&cursor={}>; rel=\"next\"",
            encoded(last)
        );
        HeaderValue::try_from(next).ok()
    }

    async fn paths_info(&self, body: Body) -> Result<Response, Refused> {
        let paths = paths_of(&self.headers, body).await?;
        let contents = self.contents().await?;
        Ok(self.stamped(Json(listing::paths_info(&contents.blueprint, &paths)), &contents))
    }

    /// As the Hub tells the caller; when it is gone, the branches that are here.
    async fn refs(&self, token: Option<&HeaderValue>) -> Result<Response, Refused> {
        let gone = match self.agent.refs(&self.repo, token).await {
            Ok(refs) => return Ok(Json(refs).into_response()),
            Err(e) if e.kind().is_transient() => e,
            Err(e) => return Err(e.into()),
        };
        let here = self.agent.revisions_here(&self.repo);
        if here.is_empty() {
            return Err(gone.into());
        }
        let branch = |(name, commit): (String, String)| {
            let full = if name.starts_with("refs/") { name.clone() } else { format!("refs/heads/{name}") };
            json!({"name": name, "ref": full, "targetCommit": commit})
        };
        let branches: Vec<Value> = here.into_iter().map(branch).collect();
        let mut response = Json(json!({"branches": branches, "converts": [], "tags": []})).into_response();
        response.headers_mut().insert(STALE, HeaderValue::from_static("1"));
        Ok(response)
    }

    async fn file(&self, path: &str) -> Result<Response, Refused> {
        let path: RelativePath = path.parse()?;
        let contents = self.contents().await?;
        let commit = contents.blueprint.revision.as_deref();
        let found = contents.blueprint.find(&path);
        let file =
            &contents.blueprint.files[found.ok_or_else(|| Refused::no_entry(path.as_str(), commit))?];
        if file.digest.is_none() {
            // Clients keep content under the tag: two files must never have one.
            return Err(Refused::no_digest(path.as_str()));
        }
        let mut response = if self.method == Method::HEAD {
            files::described(&self.headers, &FileEntry::in_artifact(file))
        } else {
            self.bytes(&contents.blueprint, &path).await?
        };
        if let Some(Digest::Sha256(_)) = file.digest {
            let tag = response.headers().get(header::ETAG).cloned();
            tag.map(|tag| response.headers_mut().insert(LINKED_ETAG, tag));
            response.headers_mut().insert(LINKED_SIZE, HeaderValue::from(file.size));
        }
        Ok(self.stamped(response, &contents))
    }

    /// The file as it comes, of the very commit.
    async fn bytes(&self, files: &Blueprint, path: &RelativePath) -> Result<Response, Refused> {
        let revision = files.revision.clone().unwrap_or_else(|| self.repo.revision.clone());
        let pinned = Reference::Hub(HubRepo { revision, ..self.repo.clone() });
        let opened = self.agent.reader().open_in(&pinned, path, CALLER).await;
        let file = opened.inspect_err(|e| {
            if e.kind() == ErrorKind::Denied {
                self.agent.admissions().forget(&self.repo);
            }
        })?;
        let is_coming = file.sealed().is_none();
        let begun = files::coming_within(&self.method, &self.headers, file, HEAD_WITHIN).await;
        let response = begun.unwrap_or_else(IntoResponse::into_response);
        if is_coming && response.status().is_success() {
            return Ok(response.map(|body| Body::new(Dripping::new(body))));
        }
        Ok(response)
    }

    /// What every answer says of where it is from.
    fn stamped(&self, answer: impl IntoResponse, contents: &Contents) -> Response {
        let mut response = answer.into_response();
        let commit = contents.blueprint.revision.as_deref().and_then(|commit| commit.parse().ok());
        commit.map(|commit| response.headers_mut().insert(COMMIT, commit));
        if self.stale || contents.stale {
            response.headers_mut().insert(STALE, HeaderValue::from_static("1"));
        }
        response
    }
}

impl FileEntry {
    fn in_artifact(file: &BlueprintFile) -> Self {
        let etag =
            crate::namespace::etag_of(file.path.as_str(), file.size, &file.version, file.digest.as_ref());
        Self { bytes: file.size, etag, modified: None, version: file.version.clone(), digest: file.digest }
    }
}

fn is_yes(text: Option<&str>) -> bool {
    text.is_some_and(|text| matches!(text, "1") || text.eq_ignore_ascii_case("true"))
}

/// The paths in the body of a paths-info question: JSON from some clients, a form from others.
async fn paths_of(headers: &HeaderMap, body: Body) -> Result<Vec<String>, Refused> {
    #[derive(Deserialize)]
    struct Wanted {
        paths: Vec<String>,
    }
    let text = tokio::time::timeout(BODY_TIMEOUT, body::to_bytes(body, MAX_BODY_BYTES)).await;
    let text = text
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| Refused::invalid("the body is too long or did not come"))?;
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let paths: Vec<String> = if content_type.starts_with("application/json") {
        let wanted: Wanted = serde_json::from_slice(&text)
            .map_err(|_| Refused::invalid("the body is not {\"paths\": […]}"))?;
        wanted.paths
    } else {
        let pairs = url::form_urlencoded::parse(&text);
        pairs.filter(|(name, _)| name == "paths").map(|(_, path)| path.into_owned()).collect()
    };
    if paths.len() > MAX_PATHS {
        return Err(Refused::invalid("at most 1000 paths at a time"));
    }
    Ok(paths)
}
