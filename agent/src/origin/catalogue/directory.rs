//! A directory of this machine.
//!
//! A page reads the directory once and keeps the names that it gives, no more. Links that lead where
//! `origins.allow` does not, and names that are not UTF-8, are left out.

use std::{collections::BTreeMap, fs, path::PathBuf};

use async_trait::async_trait;

use super::{Catalogue, Listed, ListedName, ListedPage, PageRequest};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    origin::{
        file::{FileOrigin, blocking, version_of},
        listing,
    },
    snapshot::RelativePath,
};

/// How deep a listing without delimiter goes.
const MAX_DEPTH: usize = 64;

#[derive(Clone)]
pub(super) struct DirectoryCatalogue {
    origin: FileOrigin,
    root: PathBuf,
}

impl DirectoryCatalogue {
    pub(super) fn new(origin: FileOrigin, root: PathBuf) -> Self {
        Self { origin, root }
    }

    fn collect(&self, request: &PageRequest) -> Result<ListedPage> {
        let (directory, _) = request.prefix.rsplit_once('/').unwrap_or(("", ""));
        let mut page = Page::new(request);
        if !directory.is_empty() && directory.parse::<RelativePath>().is_err() {
            return Ok(ListedPage::default());
        }
        self.origin.real_root()?;
        self.walk(directory, &mut page, 0)?;
        Ok(page.into_listed())
    }

    fn walk(&self, directory: &str, page: &mut Page<'_>, depth: usize) -> Result<()> {
        let path = self.root.join(directory);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if depth == 0 && !directory.is_empty() && is_missing(&e) => return Ok(()),
            Err(e) => return Err(e).at(|| path.display().to_string()),
        };
        for entry in entries {
            let entry = entry.at(|| path.display().to_string())?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let key = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            if listing::is_control_file(&key) || key.parse::<RelativePath>().is_err() || !page.may_take(&key)
            {
                continue;
            }
            let Ok(metadata) = self.metadata(&key) else { continue };
            if metadata.is_dir() && page.request.delimited {
                page.take(ListedName::Prefix(format!("{key}/")));
            } else if metadata.is_dir() {
                if depth < MAX_DEPTH && page.may_hold(&format!("{key}/")) {
                    self.walk(&key, page, depth + 1)?;
                }
            } else if metadata.is_file() {
                page.take(ListedName::File(described(key, &metadata)));
            }
        }
        Ok(())
    }

    /// What a key stands for, links followed where they may be.
    fn metadata(&self, key: &str) -> Result<fs::Metadata> {
        let path = self.root.join(key);
        fs::metadata(self.origin.real(&path)?).at(|| path.display().to_string())
    }
}

fn is_missing(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn described(key: String, metadata: &fs::Metadata) -> Listed {
    Listed {
        key,
        size: metadata.len(),
        version: version_of(metadata),
        digest: None,
        modified: metadata.modified().ok(),
    }
}

/// The first names that fit, however many there are.
pub(super) struct Page<'a> {
    request: &'a PageRequest,
    names: BTreeMap<String, ListedName>,
    more: bool,
}

impl<'a> Page<'a> {
    pub(super) fn new(request: &'a PageRequest) -> Self {
        Self { request, names: BTreeMap::new(), more: false }
    }

    pub(super) fn is_delimited(&self) -> bool {
        self.request.delimited
    }

    pub(super) fn into_listed(self) -> ListedPage {
        ListedPage { names: self.names.into_values().collect(), more: self.more }
    }

    pub(super) fn take(&mut self, name: ListedName) {
        let key = name.key();
        let is_behind = self.request.start_after.as_deref().is_none_or(|at| key > at);
        if !is_behind || !key.starts_with(&self.request.prefix) {
            return;
        }
        self.names.insert(key.to_owned(), name);
        if self.names.len() > self.request.limit {
            self.names.pop_last();
            self.more = true;
        }
    }

    /// Whether `key`, or what is below it, can be of this page: looking at what it is costs more.
    fn may_take(&mut self, key: &str) -> bool {
        // A directory counts with its slash, and may hold what a page goes on behind.
        let directory = format!("{key}/");
        let is_behind = |at: &str| key > at || directory.as_str() > at || at.starts_with(&directory);
        let is_full = self.names.len() >= self.request.limit;
        // Of keys that are not here yet the page takes those in front of its last.
        let is_past = is_full && self.names.last_key_value().is_some_and(|(last, _)| key > last.as_str());
        let fits = key.starts_with(&self.request.prefix) || self.request.prefix.starts_with(key);
        let fits = fits && self.request.start_after.as_deref().is_none_or(is_behind);
        self.more |= fits && is_past;
        fits && !is_past
    }

    /// Whether keys below `directory` can be of this page.
    pub(super) fn may_hold(&self, directory: &str) -> bool {
        let prefix = &self.request.prefix;
        let fits = directory.starts_with(prefix.as_str()) || prefix.starts_with(directory);
        let after = self.request.start_after.as_deref();
        let is_behind = after.is_none_or(|at| directory > at || at.starts_with(directory));
        let is_full = self.names.len() >= self.request.limit;
        let is_past =
            is_full && self.names.last_key_value().is_some_and(|(last, _)| directory > last.as_str());
        fits && is_behind && !is_past
    }
}

#[async_trait]
impl Catalogue for DirectoryCatalogue {
    async fn page(&self, request: &PageRequest) -> Result<ListedPage> {
        let (catalogue, request) = (self.clone(), request.clone());
        blocking(move || catalogue.collect(&request)).await
    }

    async fn file(&self, key: &str) -> Result<Listed> {
        let (catalogue, key) = (self.clone(), key.to_owned());
        blocking(move || {
            let missing = || {
                Error::new(ErrorKind::NotFound, format!("{key} is no file of {}", catalogue.root.display()))
            };
            key.parse::<RelativePath>().map_err(|_| missing())?;
            if fs::metadata(catalogue.root.join(&key)).is_err_and(|e| is_missing(&e)) {
                return Err(missing());
            }
            let metadata = catalogue.metadata(&key)?;
            if !metadata.is_file() || listing::is_control_file(&key) {
                return Err(missing());
            }
            Ok(described(key, &metadata))
        })
        .await
    }
}
