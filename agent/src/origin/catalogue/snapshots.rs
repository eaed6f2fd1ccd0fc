//! Origins that are listed whole or not at all: repositories of a Hub, and bases of plain HTTP servers.
//!
//! A repository has at most as many files as a snapshot may have; its one listing is kept for as long as
//! whoever keeps the catalogue wants.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use url::Url;

use super::{Catalogue, Listed, ListedName, ListedPage, PageRequest};
use crate::{
    error::{Error, ErrorKind, Result},
    origin::{Origin, Origins},
    reference::Reference,
    snapshot::{Snapshot, SnapshotFile},
};

/// The files of one snapshot, listed at the first question.
pub(super) struct SnapshotCatalogue {
    origin: Arc<dyn Origin>,
    snapshot: OnceCell<Arc<Snapshot>>,
}

impl SnapshotCatalogue {
    pub(super) fn of(origin: Arc<dyn Origin>) -> Self {
        Self { origin, snapshot: OnceCell::new() }
    }

    async fn snapshot(&self) -> Result<&Arc<Snapshot>> {
        self.snapshot.get_or_try_init(|| async { Ok(Arc::new(self.origin.snapshot().await?)) }).await
    }
}

#[async_trait]
impl Catalogue for SnapshotCatalogue {
    async fn page(&self, request: &PageRequest) -> Result<ListedPage> {
        Ok(page_of(self.snapshot().await?, "", request))
    }

    async fn file(&self, key: &str) -> Result<Listed> {
        let snapshot = self.snapshot().await?;
        let at = snapshot.files.binary_search_by(|file| file.path.as_str().cmp(key));
        match at {
            Ok(at) => Ok(described("", &snapshot.files[at])),
            Err(_) => {
                Err(Error::new(ErrorKind::NotFound, format!("{} has no file {key}", snapshot.reference)))
            }
        }
    }
}

/// A page of a snapshot, whose files stand below `base`.
pub(super) fn page_of(snapshot: &Snapshot, base: &str, request: &PageRequest) -> ListedPage {
    let mut page = ListedPage::default();
    let Some(prefix) = request.prefix.strip_prefix(base) else { return page };
    let after = request.start_after.as_deref().map(|at| at.strip_prefix(base).unwrap_or(at));
    // A directory sorts with its slash; so do the files below it.
    let first = snapshot.files.partition_point(|file| file.path.as_str() < prefix);
    let mut last: Option<String> = None;
    for file in &snapshot.files[first..] {
        let path = file.path.as_str();
        let Some(rest) = path.strip_prefix(prefix) else { break };
        let name = match rest.split_once('/') {
            Some((directory, _)) if request.delimited => format!("{prefix}{directory}/"),
            _ => path.to_owned(),
        };
        if after.is_some_and(|at| name.as_str() <= at) || last.as_deref() == Some(name.as_str()) {
            continue;
        }
        if page.names.len() == request.limit {
            page.more = true;
            break;
        }
        page.names.push(if name.ends_with('/') {
            ListedName::Prefix(format!("{base}{name}"))
        } else {
            ListedName::File(described(base, file))
        });
        last = Some(name);
    }
    page
}

fn described(base: &str, file: &SnapshotFile) -> Listed {
    Listed {
        key: format!("{base}{}", file.path),
        size: file.size,
        version: file.version.clone(),
        digest: file.digest,
        modified: None,
    }
}

/// What is below a base URL: single files by asking for them, directories where a listing file stands.
pub(super) struct BaseCatalogue {
    origins: Origins,
    base: Url,
}

impl BaseCatalogue {
    pub(super) fn new(origins: Origins, base: Url) -> Self {
        Self { origins, base }
    }

    fn url(&self, key: &str) -> Result<Url> {
        let mut url = self.base.clone();
        let refuse = |()| Error::new(ErrorKind::Invalid, format!("{} has no path", self.base));
        url.path_segments_mut().map_err(refuse)?.pop_if_empty().extend(key.split('/'));
        Ok(url)
    }
}

#[async_trait]
impl Catalogue for BaseCatalogue {
    async fn page(&self, request: &PageRequest) -> Result<ListedPage> {
        let base = request.prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
        let (url, base) = match base {
            "" => (self.base.clone(), String::new()),
            directory => (self.url(&format!("{directory}/"))?, format!("{directory}/")),
        };
        let snapshot = self.origins.open(&Reference::Http(url))?.snapshot().await?;
        Ok(page_of(&snapshot, &base, request))
    }

    async fn file(&self, key: &str) -> Result<Listed> {
        let snapshot = self.origins.open(&Reference::Http(self.url(key)?))?.snapshot().await?;
        let file = snapshot.files.first();
        let file =
            file.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{} has no {key}", self.base)))?;
        Ok(Listed { key: key.to_owned(), ..described("", file) })
    }
}
