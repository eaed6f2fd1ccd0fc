//! Repositories of a Hugging Face Hub, at any endpoint that speaks its protocol.
//!
//! A revision is resolved to a commit once, by the listing; reads go to that commit, so that a branch
//! which moves never mixes two. Large files bring their SHA-256, small ones their git blob id. Knows
//! nothing of Xet: the plain route is always there.
//!
//! Source: the routes as `huggingface_hub` 2.4 uses them.

mod admission;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderMap, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

pub(crate) use admission::{Entry as Admission, Refusal};

use super::{
    Origin, changed,
    client::{Answer, Ask, Client, host_key, kind_of, same_place},
    guard::shown,
    http::{ranged_body, set_range},
    listing,
    secrets::HubAccess,
};
use crate::{
    error::{Error, ErrorKind, Result},
    reference::{HubKind, HubRepo},
    snapshot::{Digest, FileVersion, RelativePath, Snapshot, SnapshotFile},
};

/// The longest page of a listing, in bytes.
const MAX_PAGE_BYTES: usize = 16 << 20;
/// The most pages of one listing.
const MAX_PAGES: usize = 4096;
/// How long the place that a file was redirected to is asked directly. Hubs sign such URLs for an hour;
/// going back every few minutes costs one request and keeps revoked access short.
const REDIRECT_LIFETIME: Duration = Duration::from_secs(300);
/// Everything but what stands unencoded in a path segment. A `/` in a branch name is encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A file of one commit: the commit, and the path in it.
type Pinned = (String, RelativePath);

/// One repository at one revision.
pub(super) struct HubOrigin {
    client: Client,
    access: HubAccess,
    reference: String,
    repo: HubRepo,
    patience: Duration,
    /// Where files of a commit were redirected to lately.
    targets: Mutex<HashMap<Pinned, (Url, Instant)>>,
    warned_of_ignored_range: AtomicBool,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl HubOrigin {
    pub(super) fn new(
        client: Client,
        access: HubAccess,
        reference: String,
        repo: HubRepo,
        patience: Duration,
    ) -> Self {
        Self {
            client,
            access,
            reference,
            repo,
            patience,
            targets: Mutex::default(),
            warned_of_ignored_range: AtomicBool::new(false),
        }
    }

    fn kind(&self) -> &'static str {
        match self.repo.kind {
            HubKind::Model => "models",
            HubKind::Dataset => "datasets",
            HubKind::Space => "spaces",
        }
    }

    /// `endpoint` + `path`, of which every part is encoded already.
    fn url(&self, path: &str) -> Result<Url> {
        let base = self.access.endpoint.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/{path}")).map_err(|e| {
            Error::with_source(ErrorKind::Invalid, format!("{}: no URL can be made of it", self.reference), e)
        })
    }

    fn name(&self) -> String {
        self.repo.name.split('/').map(encoded).collect::<Vec<_>>().join("/")
    }

    fn file_url(&self, commit: &str, path: &RelativePath) -> Result<Url> {
        let prefix = match self.repo.kind {
            HubKind::Model => String::new(),
            HubKind::Dataset | HubKind::Space => format!("{}/", self.kind()),
        };
        let path = path.as_str().split('/').map(encoded).collect::<Vec<_>>().join("/");
        self.url(&format!("{prefix}{}/resolve/{}/{path}", self.name(), encoded(commit)))
    }

    async fn get(&self, url: Url) -> Result<Answer> {
        self.client.send(Ask { authorization: self.access.authorization.clone(), ..Ask::get(url) }).await
    }

    /// The commit that the revision stands for now.
    async fn commit(&self) -> Result<String> {
        let path = format!("api/{}/{}/revision/{}", self.kind(), self.name(), encoded(&self.repo.revision));
        let answer = self.accepted(self.get(self.url(&path)?).await?, None)?;
        let text = answer.into_bytes(MAX_PAGE_BYTES, self.patience).await?;
        let revision: Revision = serde_json::from_slice(&text).map_err(|e| {
            Error::with_source(ErrorKind::Invalid, format!("{}: answer for its revision", self.reference), e)
        })?;
        if revision.sha.len() != 40 || !revision.sha.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{}: the Hub names {:?} as its commit, which is none", self.reference, revision.sha),
            ));
        }
        Ok(revision.sha)
    }

    async fn tree(&self, commit: &str) -> Result<Vec<SnapshotFile>> {
        let path = format!("api/{}/{}/tree/{commit}?recursive=true&expand=false", self.kind(), self.name());
        let first = self.url(&path)?;
        let mut next = Some(first.clone());
        let mut files = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(url) = next.take() else { return Ok(files) };
            let answer = self.accepted(self.get(url.clone()).await?, None)?;
            next = next_page(answer.response.headers(), &url);
            if let Some(elsewhere) = next.as_ref().filter(|n| !same_place(&first, n)) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("{}: listing goes on at {}, another host", self.reference, shown(elsewhere)),
                ));
            }
            let text = answer.into_bytes(MAX_PAGE_BYTES, self.patience).await?;
            let entries: Vec<Entry> = serde_json::from_slice(&text).map_err(|e| {
                Error::with_source(ErrorKind::Invalid, format!("{}: listing", self.reference), e)
            })?;
            for entry in entries.into_iter().filter(|entry| entry.r#type == "file") {
                files.push(described(entry, commit)?);
            }
            listing::check_count(&self.reference, files.len())?;
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!("{}: listing has more than {MAX_PAGES} pages", self.reference),
        ))
    }

    /// Where `file` was redirected to, if that was lately.
    fn known_target(&self, file: &Pinned) -> Option<Url> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let (url, since) = targets.get(file)?;
        if since.elapsed() < REDIRECT_LIFETIME {
            return Some(url.clone());
        }
        targets.remove(file);
        None
    }

    fn forget_target(&self, file: &Pinned) {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).remove(file);
    }

    /// Asks for a range, at the place the file was redirected to lately where there is one.
    async fn ask_range(&self, file: &SnapshotFile, commit: &str, range: &Range<u64>) -> Result<Answer> {
        let pinned = (commit.to_owned(), file.path.clone());
        if let Some(target) = self.known_target(&pinned) {
            let mut ask = Ask::get(target);
            set_range(&mut ask, range)?;
            match self.client.send(ask).await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                // The signature ran out, or the server did: the Hub names another place.
                Ok(_) | Err(_) => self.forget_target(&pinned),
            }
        }
        let url = self.file_url(commit, &file.path)?;
        let mut ask = Ask { authorization: self.access.authorization.clone(), ..Ask::get(url.clone()) };
        set_range(&mut ask, range)?;
        let answer = self.client.send(ask).await?;
        let last = answer.response.url();
        if answer.status().is_success() && !same_place(last, &url) {
            let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
            targets.insert(pinned, (last.clone(), Instant::now()));
        }
        Ok(answer)
    }

    /// An answer that is no error, else the error in the Hub's own words.
    fn accepted(&self, answer: Answer, file: Option<&SnapshotFile>) -> Result<Answer> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let reference = &self.reference;
        let code = answer.header("x-error-code").unwrap_or_default();
        let said =
            answer.header("x-error-message").map(|m| format!(" ({})", printable(m))).unwrap_or_default();
        let asked_with = self.access.token_source;
        let host = shown(&self.access.endpoint);
        let (kind, why) = match code {
            "GatedRepo" => (
                ErrorKind::Denied,
                format!(
                    "is gated: accept its terms at {}{}, then give a token that may read it in HF_TOKEN or origins.hf.token_file; asked with {asked_with}",
                    host.trim_end_matches('/'),
                    page_of(&self.repo),
                ),
            ),
            "RepoNotFound" => (
                ErrorKind::NotFound,
                format!(
                    "is not at {host}: check the name; a private one needs a token, asked with {asked_with}"
                ),
            ),
            "RevisionNotFound" => {
                (ErrorKind::NotFound, format!("has no branch, tag or commit {:?}", self.repo.revision))
            }
            "EntryNotFound" => (
                ErrorKind::NotFound,
                format!("has no file {}", file.map_or("of that name", |f| f.path.as_str())),
            ),
            "DisabledRepo" => (ErrorKind::Denied, "was disabled by the Hub".to_owned()),
            _ => by_status(&answer, asked_with),
        };
        Err(Error::new(kind, format!("{reference} {why}{said}")))
    }
}

/// What an answer without a code of the Hub's own means: it may be from where the Hub redirected to.
fn by_status(answer: &Answer, asked_with: &str) -> (ErrorKind, String) {
    let host = host_key(answer.response.url());
    let status = answer.status();
    // A status below 400 here is one that no redirect rule covers.
    let kind = kind_of(status, answer.response.headers()).unwrap_or(ErrorKind::Invalid);
    let why = match kind {
        ErrorKind::Denied => format!("may not be read: {host} answers {status}; asked with {asked_with}"),
        ErrorKind::NotFound => format!("is not at {host}: check name and revision; asked with {asked_with}"),
        _ => format!("cannot be read: {host} answers {status}"),
    };
    (kind, why)
}

#[async_trait]
impl Origin for HubOrigin {
    async fn snapshot(&self) -> Result<Snapshot> {
        let commit = self.commit().await?;
        let files = self.tree(&commit).await?;
        listing::snapshot(&self.reference, Some(commit), files)
    }

    async fn read(
        &self,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let Some(commit) = file.version.etag.as_deref() else {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{}: {} has no commit", self.reference, file.path),
            ));
        };
        let answer = self.ask_range(file, commit, &range).await?;
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(changed(&self.reference, file, "it is shorter than was listed"));
        }
        let answer = self.accepted(answer, Some(file))?;
        if let Some(other) = answer.first_header("x-repo-commit").filter(|c| *c != commit) {
            return Err(changed(
                &self.reference,
                file,
                &format!("the Hub serves commit {}", printable(other)),
            ));
        }
        ranged_body(answer, file, range, &self.reference, &self.warned_of_ignored_range)
    }
}

fn described(entry: Entry, commit: &str) -> Result<SnapshotFile> {
    let path: RelativePath = entry.path.parse()?;
    let wrong = |path: &RelativePath| {
        Error::new(ErrorKind::Invalid, format!("digest of {path} is not hex of its length"))
    };
    let (size, digest) = match (entry.lfs, entry.oid) {
        (Some(lfs), _) => {
            let hex = lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid);
            (lfs.size, Some(Digest::Sha256(from_hex(hex).ok_or_else(|| wrong(&path))?)))
        }
        (None, Some(oid)) => (entry.size, Some(Digest::GitSha1(from_hex(&oid).ok_or_else(|| wrong(&path))?))),
        (None, None) => (entry.size, None),
    };
    let version = FileVersion { etag: Some(commit.to_owned()), object_version: None };
    Ok(SnapshotFile { path, size, version, digest })
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [char::from(pair[0]).to_digit(16)?, char::from(pair[1]).to_digit(16)?];
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

/// The target of `rel="next"` in `Link` headers (RFC 8288), against the page it stands on.
fn next_page(headers: &HeaderMap, page: &Url) -> Option<Url> {
    let links = headers.get_all(http::header::LINK).iter().filter_map(|v| v.to_str().ok());
    for mut rest in links {
        // A target may hold commas: take links apart at their brackets.
        while let Some(open) = rest.find('<') {
            let (target, parameters) = rest[open + 1..].split_once('>')?;
            let end = parameters.find('<').unwrap_or(parameters.len());
            let is_next = parameters[..end].split([';', ',']).any(|p| {
                let (name, value) = p.split_once('=').unwrap_or_default();
                name.trim().eq_ignore_ascii_case("rel")
                    && value.trim().trim_matches('"').split(' ').any(|rel| rel.eq_ignore_ascii_case("next"))
            });
            if is_next {
                return page.join(target).ok();
            }
            rest = &parameters[end..];
        }
    }
    None
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn page_of(repo: &HubRepo) -> String {
    match repo.kind {
        HubKind::Model => format!("/{}", repo.name),
        HubKind::Dataset => format!("/datasets/{}", repo.name),
        HubKind::Space => format!("/spaces/{}", repo.name),
    }
}

/// A server's words, fit for one line of ours.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn link(text: &str) -> Option<String> {
        let headers = HeaderMap::from_iter([(http::header::LINK, HeaderValue::from_str(text).unwrap())]);
        next_page(&headers, &Url::parse("https://h/api/models/a/b/tree/c").unwrap()).map(Into::into)
    }

    #[test]
    fn the_next_page_is_found_among_other_links() {
        assert_eq!(link("<https://h/x?cursor=a,b>; rel=\"next\"").unwrap(), "https://h/x?cursor=a,b");
        assert_eq!(link("</p>; rel=prev, </n>; foo=1; rel=\"last next\"").unwrap(), "https://h/n");
        for none in ["</p>; rel=\"prev\"", "</p>; title=\"rel=next\"", "garbage", "<unclosed; rel=next"] {
            assert_eq!(link(none), None, "{none}");
        }
    }

    #[test]
    fn a_digest_of_the_wrong_length_is_refused() {
        assert_eq!(from_hex::<2>("00fF"), Some([0, 255]));
        for bad in ["00f", "00ff0", "00fg", "", "+1+2"] {
            assert_eq!(from_hex::<2>(bad), None, "{bad}");
        }
        let entry = |json: &str| described(serde_json::from_str(json).unwrap(), "c");
        assert!(entry(r#"{"type":"file","path":"a","size":1,"oid":"abc"}"#).is_err());
        assert!(entry(r#"{"type":"file","path":"../a","size":1}"#).is_err());
    }
}
