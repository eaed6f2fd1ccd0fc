//! The namespace over HTTP: files by their path, whether they are here or not, and directories as JSON.
//!
//! `GET` and `HEAD` of a file as [`files`](super::files) answers them; `?list` of a directory by pages; `?presence`
//! of a file as [`presence`](super::presence) does. `HEAD` and `?stat` look at the listing only: nothing starts to
//! come for them.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, Method},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Door,
    extract::Asked,
    files::{self, CALLER, FileAnswers},
    presence,
    problem::Failure,
};
use crate::{
    api::{Listing, ListingEntry, Problem},
    error::{Error, ErrorKind},
    namespace::{Entry, NamespacePath, Page},
    origin::catalogue::MAX_PAGE_NAMES,
};

/// What is wanted of a path.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FsQuery {
    /// Answer with what is in the directory, as JSON; the value does not matter.
    list: Option<String>,
    /// Only names behind this one: what the page before gave as `next`.
    start_after: Option<String>,
    /// So many names at most, up to 1000.
    limit: Option<usize>,
    /// With `list`: only keys that begin with this, which may end inside a name; names are keys below the path.
    prefix: Option<String>,
    /// With `list`: every key below, however deep; names are keys below the path.
    recursive: Option<bool>,
    /// Answer with what is at the path, file or directory, as JSON; the value does not matter.
    stat: Option<String>,
    /// Answer with how much of the file is here, and where a whole one is, as JSON; it starts to come.
    presence: Option<String>,
    /// With `presence`: wait a while until more bytes than so many are here.
    more_than: Option<u64>,
    /// With `presence`: wait a while until the file is whole and checked.
    sealed: Option<bool>,
}

/// A file of the namespace, read while it comes; or a page of a directory, what is at the path, or how much of a
/// file is here.
#[utoipa::path(
    method(get, head),
    path = "/v1/fs/{*path}",
    tag = "files",
    params(("path" = String, Path, description = "mount and path below it, slashes included"), FsQuery),
    responses(FileAnswers)
)]
pub(super) async fn file(
    State(door): State<Door>,
    Path(path): Path<String>,
    Asked(query): Asked<FsQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let path: NamespacePath = path.parse()?;
    let agent = door.agent()?;
    if query.list.is_some() {
        return list(&door, &path, query).await;
    }
    if query.stat.is_some() {
        let entry = agent.namespace().stat(&path).await?;
        return Ok(Json(described(path.name().to_owned(), entry)).into_response());
    }
    if method != Method::HEAD {
        let file = agent.reader().open(&path, CALLER).await?;
        if query.presence.is_some() {
            let awaited =
                presence::Awaited { more_than: query.more_than, sealed: query.sealed == Some(true) };
            return Ok(Json(presence::of(&path, file, awaited).await?).into_response());
        }
        return files::coming(&method, &headers, file).await;
    }
    match agent.namespace().stat(&path).await? {
        Entry::File(entry) => Ok(files::described(&headers, &entry)),
        Entry::Directory => {
            let error = Error::new(ErrorKind::Invalid, format!("{path} is a directory"));
            Err(Failure::from(error).advice("add ?list to see what is in it"))
        }
    }
}

/// A page of the names that the namespace begins with: mounts and schemes.
#[utoipa::path(
    get,
    path = "/v1/fs",
    tag = "files",
    params(FsQuery),
    responses((status = 200, body = Listing), (status = 400, body = Problem))
)]
pub(super) async fn root(
    State(door): State<Door>,
    Asked(query): Asked<FsQuery>,
) -> Result<Response, Failure> {
    if query.stat.is_some() {
        return Ok(Json(described(String::new(), Entry::Directory)).into_response());
    }
    list(&door, &NamespacePath::root(), query).await
}

async fn list(door: &Door, path: &NamespacePath, query: FsQuery) -> Result<Response, Failure> {
    let namespace = door.agent()?.namespace();
    let (after, limit) = (query.start_after.as_deref(), query.limit.unwrap_or(MAX_PAGE_NAMES));
    let is_recursive = query.recursive.unwrap_or(false);
    let page = if is_recursive || query.prefix.is_some() {
        let prefix = query.prefix.unwrap_or_default();
        namespace.list_objects(path, &prefix, !is_recursive, after, limit).await?
    } else {
        namespace.list(path, after, limit).await?
    };
    Ok(Json(listing(path, page)).into_response())
}

fn listing(path: &NamespacePath, page: Page) -> Listing {
    let entries = page.names.into_iter().map(|named| described(named.name, named.entry));
    Listing { path: path.to_string(), entries: entries.collect(), next: page.next, stale: page.stale }
}

fn described(name: String, entry: Entry) -> ListingEntry {
    match entry {
        Entry::Directory => {
            ListingEntry { name, kind: "directory".to_owned(), bytes: None, etag: None, modified: None }
        }
        Entry::File(file) => ListingEntry {
            name,
            kind: "file".to_owned(),
            bytes: Some(file.bytes),
            etag: Some(file.etag),
            modified: file.modified.and_then(presence::seconds),
        },
    }
}
