//! Whom a Hub lets into a repository: asked of the Hub itself, with the caller's own token or none.
//!
//! Two questions: what the repository is, which private ones deny, and the head of one of its files, which gated
//! ones deny. The node's own token has no part in it, and no redirect to another host is followed. Remembers
//! nothing.

use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::{HubOrigin, MAX_PAGE_BYTES, printable};
use crate::{
    error::{Error, ErrorKind, Result},
    origin::{
        Origins,
        client::{Answer, kind_of, same_place},
        secrets::{HubAccess, hub_endpoint},
    },
    reference::HubRepo,
    snapshot::RelativePath,
};

/// Renamed repositories redirect once; more is a loop.
const MAX_HOPS: usize = 3;
/// What the Hub says of a repository is passed on where it is not longer than this, in bytes of JSON.
const MAX_ABOUT_BYTES: usize = 16 << 10;
/// What is asked for where a gated repository shows no file that is not for anybody.
const PROBE: &str = "model.safetensors";
/// What of it is passed on: what clients choose code by. Nothing about content, which has a revision.
const ABOUT: [&str; 17] = [
    "_id",
    "author",
    "cardData",
    "config",
    "createdAt",
    "disabled",
    "downloads",
    "gated",
    "lastModified",
    "library_name",
    "likes",
    "pipeline_tag",
    "private",
    "sdk",
    "tags",
    "transformersInfo",
    "safetensors",
];

/// The Hub's answer about a caller.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    /// May read the files; and what the Hub says of the repository.
    LetIn(Map<String, Value>),
    /// May not.
    Refused(Refusal),
}

/// How the Hub refused, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// `X-Error-Code`; empty where it gave none.
    pub(crate) code: String,
    pub(crate) message: String,
}

#[derive(Deserialize)]
struct About {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Origins {
    /// Whether the Hub lets the bearer of `authorization`, or a stranger, read the files of `repo`. One attempt.
    /// Cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` and `Timeout` when it cannot be asked; `Invalid` for an answer that is none; `Denied` when
    /// the repository may not be used here.
    pub(crate) async fn admits(&self, repo: &HubRepo, authorization: Option<&HeaderValue>) -> Result<Entry> {
        self.asked_by(repo, authorization)?.admits().await
    }

    /// The branches and tags of `repo`, as the Hub tells them the bearer of `authorization`. Cancel-safe.
    ///
    /// # Errors
    /// As [`admits`](Self::admits); `NotFound` and `Denied` as the Hub says.
    pub(crate) async fn refs(&self, repo: &HubRepo, authorization: Option<&HeaderValue>) -> Result<Value> {
        self.asked_by(repo, authorization)?.refs().await
    }

    /// Reads `repo` with a caller's token from now on: the Hub has let him in.
    pub(crate) fn lend(&self, repo: &HubRepo, authorization: HeaderValue) {
        self.inner.lent.lend(repo, authorization);
    }

    /// Reads `repo` no more with the token of `authorization`, or with whichever was lent.
    pub(crate) fn unlend(&self, repo: &HubRepo, authorization: Option<&HeaderValue>) {
        self.inner.lent.unlend(repo, authorization);
    }

    /// Where the Hub is.
    ///
    /// # Errors
    /// `Invalid` where the settings name none.
    pub(crate) fn hub_endpoint(&self) -> Result<Url> {
        hub_endpoint(&self.inner.config.hf)
    }

    fn asked_by(&self, repo: &HubRepo, authorization: Option<&HeaderValue>) -> Result<HubOrigin> {
        let mut access = HubAccess::new(&self.inner.config.hf)?;
        access.token_source = if authorization.is_some() { "the caller's token" } else { "no token" };
        access.authorization = authorization.cloned();
        if let Some(token) = &mut access.authorization {
            token.set_sensitive(true);
        }
        self.inner.hub_origin(format!("hf://{repo}"), repo, access).map(|(origin, _)| origin)
    }
}

/// Whether a Hub gives a file to strangers though its repository is gated.
fn is_for_anybody(path: &str) -> bool {
    path == "README.md" || path.starts_with('.')
}

impl HubOrigin {
    async fn admits(&self) -> Result<Entry> {
        let answer = self.get(self.url(&format!("api/{}/{}", self.kind(), self.name()))?).await?;
        if let Some(refusal) = self.refused(&answer)? {
            return Ok(Entry::Refused(refusal));
        }
        let text = answer.into_bytes(MAX_PAGE_BYTES, self.patience).await?;
        let about: About = serde_json::from_slice(&text).map_err(|e| {
            Error::with_source(ErrorKind::Invalid, format!("{}: what it is", self.reference), e)
        })?;
        let is_gated =
            about.rest.get("gated").is_some_and(|gated| !matches!(gated, Value::Null | Value::Bool(false)));
        let mut known = about.rest;
        known.retain(|name, _| ABOUT.contains(&name.as_str()));
        if serde_json::to_vec(&known).is_ok_and(|text| text.len() > MAX_ABOUT_BYTES) {
            known.retain(|_, value| !value.is_object() && !value.is_array());
        }
        let file =
            about.siblings.iter().map(|file| file.rfilename.as_str()).find(|name| !is_for_anybody(name));
        let (commit, file) = match (about.sha, file) {
            (Some(commit), Some(file)) => (commit, file),
            // Who may read a file that is not there may read the others, on other branches too.
            (commit, _) if is_gated => (commit.unwrap_or_else(|| "main".to_owned()), PROBE),
            _ => return Ok(Entry::LetIn(known)),
        };
        let path: RelativePath = file.parse()?;
        Ok(match self.may_read(&commit, &path).await? {
            None => Entry::LetIn(known),
            Some(refusal) => Entry::Refused(refusal),
        })
    }

    /// How the head of a file is refused, if it is.
    async fn may_read(&self, commit: &str, path: &RelativePath) -> Result<Option<Refusal>> {
        let home = self.file_url(commit, path)?;
        let mut url = home.clone();
        for _ in 0..MAX_HOPS {
            let mut request = reqwest::Request::new(Method::HEAD, url.clone());
            request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if let Some(secret) = &self.access.authorization {
                request.headers_mut().insert(header::AUTHORIZATION, secret.clone());
            }
            let response = self.client.execute(request).await?;
            // What names the commit is about the file, wherever its bytes are.
            let is_let_in = response.headers().contains_key("x-repo-commit")
                && (response.status().is_success()
                    || response.status().is_redirection()
                    || response.status() == StatusCode::NOT_FOUND);
            if is_let_in {
                return Ok(None);
            }
            if response.status().is_redirection() {
                let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
                let next =
                    location.and_then(|text| url.join(text).ok()).filter(|next| same_place(&home, next));
                url = next.ok_or_else(|| self.odd("redirects the head of a file to another host"))?;
                continue;
            }
            let refused = self.refused(&Answer { response, redirect_headers: None })?;
            return refused
                .map(Some)
                .ok_or_else(|| self.odd("answers the head of a file without its commit"));
        }
        Err(self.odd("redirects the head of a file again and again"))
    }

    async fn refs(&self) -> Result<Value> {
        let path = format!("api/{}/{}/refs", self.kind(), self.name());
        let answer = self.accepted(self.get(self.url(&path)?).await?, None)?;
        let text = answer.into_bytes(MAX_PAGE_BYTES, self.patience).await?;
        serde_json::from_slice(&text)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("{}: its refs", self.reference), e))
    }

    /// A refusal of this caller; `None` for success.
    ///
    /// # Errors
    /// Everything else that is no success.
    fn refused(&self, answer: &Answer) -> Result<Option<Refusal>> {
        let status = answer.status();
        if status.is_success() {
            return Ok(None);
        }
        let said = |name| answer.header(name).map(printable).unwrap_or_default();
        match kind_of(status, answer.response.headers()) {
            Some(ErrorKind::Denied | ErrorKind::NotFound) => Ok(Some(Refusal {
                status: status.as_u16(),
                code: said("x-error-code"),
                message: said("x-error-message"),
            })),
            Some(kind) => Err(Error::new(kind, format!("{}: the Hub answers {status}", self.reference))),
            None => Err(self.odd("redirects to nowhere")),
        }
    }

    fn odd(&self, what: &str) -> Error {
        Error::new(ErrorKind::Invalid, format!("{}: the Hub {what}", self.reference))
    }
}
