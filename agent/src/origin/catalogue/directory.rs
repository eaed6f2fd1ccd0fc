//! A directory of this machine.
//!
//! A file system gives names in no order, so one reading of a directory finds the names of many pages: those are kept
//! for the pages that follow, and no more of them than [`AHEAD_NAMES`]. Only the names of a page are looked at. Links
//! that lead where `origins.allow` does not, and names that are not UTF-8, are left out.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;

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
/// Names kept behind a page: some 6 MB. A million are read in sixteen times.
const AHEAD_NAMES: usize = 64 << 10;

#[derive(Clone)]
pub(super) struct DirectoryCatalogue {
    origin: FileOrigin,
    root: PathBuf,
    ahead_names: usize,
    /// The last one that found more than a page.
    reading: Arc<Mutex<Option<Arc<Reading>>>>,
}

/// The first names behind one, as they were when the directory was read.
struct Reading {
    request: PageRequest,
    /// In order; with a slash where they are directories.
    names: Vec<(String, Found)>,
    /// There was nothing behind them.
    is_all: bool,
}

/// What a name was.
#[derive(Clone, Copy)]
enum Found {
    Directory,
    File,
}

impl Reading {
    /// Whether the names of a page that is not the first are among these.
    fn covers(&self, request: &PageRequest) -> bool {
        let Some(at) = request.start_after.as_deref() else { return false };
        let is_same = (&self.request.prefix, self.request.delimited) == (&request.prefix, request.delimited);
        let begins = self.request.start_after.as_deref().is_none_or(|from| from <= at);
        let ends = self.is_all || self.names.last().is_some_and(|(last, _)| at < last.as_str());
        is_same && begins && ends
    }
}

impl DirectoryCatalogue {
    pub(super) fn new(origin: FileOrigin, root: PathBuf) -> Self {
        Self { origin, root, ahead_names: AHEAD_NAMES, reading: Arc::default() }
    }

    /// The same, with so many names kept behind a page.
    #[cfg(test)]
    pub(super) fn with_ahead(self, ahead_names: usize) -> Self {
        Self { ahead_names, ..self }
    }

    fn collect(&self, mut request: PageRequest) -> Result<ListedPage> {
        let (directory, _) = request.prefix.rsplit_once('/').unwrap_or(("", ""));
        if !directory.is_empty() && directory.parse::<RelativePath>().is_err() {
            return Ok(ListedPage::default());
        }
        self.origin.real_root()?;
        let mut page = ListedPage::default();
        loop {
            let reading = self.reading_for(&request)?;
            let is_before = |key: &str| request.start_after.as_deref().is_some_and(|at| key <= at);
            let first = reading.names.partition_point(|(key, _)| is_before(key));
            for (key, found) in &reading.names[first..] {
                if page.names.len() == request.limit {
                    page.more = true;
                    return Ok(page);
                }
                page.names.extend(self.look(key, *found));
            }
            page.more = !reading.is_all;
            match reading.names.last() {
                // What stands behind them?
                Some((last, _)) if page.more && page.names.len() < request.limit => {
                    request.start_after = Some(last.clone());
                }
                _ => return Ok(page),
            }
        }
    }

    /// A reading that has the names of a page: the last one, or a new one.
    fn reading_for(&self, request: &PageRequest) -> Result<Arc<Reading>> {
        let kept = self.reading.lock().clone().filter(|reading| reading.covers(request));
        if let Some(reading) = kept {
            return Ok(reading);
        }
        // Who asks for one name asks whether there is any.
        let ahead_names = if request.limit == 1 { 0 } else { self.ahead_names };
        let wider = PageRequest { limit: request.limit + ahead_names, ..request.clone() };
        let mut page = Page::new(&wider);
        let (directory, _) = request.prefix.rsplit_once('/').unwrap_or(("", ""));
        self.walk(directory, &mut page, 0)?;
        let (names, is_all) = (page.names.into_iter().collect::<Vec<_>>(), !page.more);
        let is_more = names.len() > request.limit;
        let reading = Arc::new(Reading { request: request.clone(), names, is_all });
        if is_more {
            *self.reading.lock() = Some(reading.clone());
        }
        Ok(reading)
    }

    fn walk(&self, directory: &str, page: &mut Page<'_, Found>, depth: usize) -> Result<()> {
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
            match self.found(&entry, &key) {
                Some(Found::File) => page.take(key, Found::File),
                Some(Found::Directory) if page.is_delimited() => {
                    page.take(format!("{key}/"), Found::Directory);
                }
                Some(Found::Directory) => {
                    let may_enter = depth < MAX_DEPTH && page.may_hold(&format!("{key}/"));
                    if may_enter && self.metadata(&key).is_ok() {
                        self.walk(&key, page, depth + 1)?;
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// What an entry is, as far as the directory itself tells; links are followed where they may be.
    fn found(&self, entry: &fs::DirEntry, key: &str) -> Option<Found> {
        let mut kind = entry.file_type().ok()?;
        if kind.is_symlink() {
            kind = self.metadata(key).ok()?.file_type();
        }
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => Some(Found::Directory),
            (false, true) => Some(Found::File),
            (false, false) => None,
        }
    }

    /// What a name of a page is now; nothing where it may not be read, or is another thing by now.
    fn look(&self, key: &str, found: Found) -> Option<ListedName> {
        let metadata = self.metadata(key.trim_end_matches('/')).ok()?;
        match found {
            Found::Directory => metadata.is_dir().then(|| ListedName::Prefix(key.to_owned())),
            Found::File => metadata.is_file().then(|| ListedName::File(described(key.to_owned(), &metadata))),
        }
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

/// The first names that fit, however many there are, and what is known of each.
pub(super) struct Page<'a, T> {
    request: &'a PageRequest,
    names: BTreeMap<String, T>,
    more: bool,
}

impl<'a, T> Page<'a, T> {
    pub(super) fn new(request: &'a PageRequest) -> Self {
        Self { request, names: BTreeMap::new(), more: false }
    }

    pub(super) fn is_delimited(&self) -> bool {
        self.request.delimited
    }

    /// Takes a key, or a prefix with its slash.
    pub(super) fn take(&mut self, key: String, known: T) {
        let is_behind = self.request.start_after.as_deref().is_none_or(|at| key.as_str() > at);
        if !is_behind || !key.starts_with(&self.request.prefix) {
            return;
        }
        self.names.insert(key, known);
        if self.names.len() > self.request.limit {
            self.names.pop_last();
            self.more = true;
        }
    }

    /// Whether `key`, or what is below it, can be of this page.
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

impl Page<'_, ListedName> {
    pub(super) fn into_listed(self) -> ListedPage {
        ListedPage { names: self.names.into_values().collect(), more: self.more }
    }
}

#[async_trait]
impl Catalogue for DirectoryCatalogue {
    async fn page(&self, request: &PageRequest) -> Result<ListedPage> {
        let (catalogue, request) = (self.clone(), request.clone());
        blocking(move || catalogue.collect(request)).await
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
