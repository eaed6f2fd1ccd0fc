//! A directory tree of HDFS.
//!
//! A page reads the directory once and keeps the names that it gives, no more: the name node's own paging goes by
//! its names without the slash that ours have behind directories.

use async_trait::async_trait;

use super::{Catalogue, Listed, ListedName, ListedPage, PageRequest, directory::Page};
use crate::{
    error::{Error, ErrorKind, Result},
    origin::{
        hdfs::{NameNode, modified, version_of},
        listing,
    },
    snapshot::RelativePath,
};

/// How deep a listing without delimiter goes.
const MAX_DEPTH: usize = 64;

pub(super) struct HdfsCatalogue {
    node: NameNode,
    reference: String,
    root: String,
}

impl HdfsCatalogue {
    pub(super) fn new(node: NameNode, reference: String, root: String) -> Self {
        Self { node, reference, root }
    }

    fn path(&self, key: &str) -> String {
        let root = self.root.trim_end_matches('/');
        match key {
            "" if root.is_empty() => "/".to_owned(),
            "" => root.to_owned(),
            key => format!("{root}/{key}"),
        }
    }

    /// Takes the names of one directory, and says which are to be looked into.
    async fn directory(&self, directory: &str, page: &mut Page<'_, ListedName>) -> Result<Vec<String>> {
        let path = self.path(directory);
        let names = self.node.list(&path, false).await?;
        let below = format!("{}/", path.trim_end_matches('/'));
        let mut deeper = Vec::new();
        while let Some(status) = names.next().await? {
            // A file lists itself.
            let Some(name) = status.path.strip_prefix(&below) else { continue };
            let key = if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
            if listing::is_control_file(&key) || key.parse::<RelativePath>().is_err() {
                continue;
            }
            if !status.isdir {
                let (size, version) = (status.length as u64, version_of(&status));
                let modified = modified(&status);
                let listed = Listed { key: key.clone(), size, version, digest: None, modified };
                page.take(key, ListedName::File(listed));
            } else if page.is_delimited() {
                let prefix = format!("{key}/");
                page.take(prefix.clone(), ListedName::Prefix(prefix));
            } else if page.may_hold(&format!("{key}/")) {
                deeper.push(key);
            }
        }
        Ok(deeper)
    }
}

#[async_trait]
impl Catalogue for HdfsCatalogue {
    async fn page(&self, request: &PageRequest) -> Result<ListedPage> {
        let (directory, _) = request.prefix.rsplit_once('/').unwrap_or(("", ""));
        if !directory.is_empty() && directory.parse::<RelativePath>().is_err() {
            return Ok(ListedPage::default());
        }
        let mut page = Page::new(request);
        let mut pending = vec![(directory.to_owned(), 0)];
        while let Some((at, depth)) = pending.pop() {
            if depth > 0 && !page.may_hold(&format!("{at}/")) {
                continue;
            }
            match self.directory(&at, &mut page).await {
                Ok(deeper) if depth < MAX_DEPTH => {
                    pending.extend(deeper.into_iter().rev().map(|key| (key, depth + 1)));
                }
                Ok(_) => {}
                // Nothing has this prefix; or it went while the page was read.
                Err(e) if e.kind() == ErrorKind::NotFound && !at.is_empty() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(page.into_listed())
    }

    async fn file(&self, key: &str) -> Result<Listed> {
        let missing = || Error::new(ErrorKind::NotFound, format!("{}: no file {key:?}", self.reference));
        key.parse::<RelativePath>().map_err(|_| missing())?;
        let status = self.node.status(&self.path(key)).await?;
        if status.isdir || listing::is_control_file(key) {
            return Err(missing());
        }
        let (size, version) = (status.length as u64, version_of(&status));
        Ok(Listed { key: key.to_owned(), size, version, digest: None, modified: modified(&status) })
    }
}
