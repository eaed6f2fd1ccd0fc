//! Catalogues: origins asked for one page of names, or one name, instead of for everything.
//!
//! A [`Catalogue`] is what a namespace looks at; an [`Origin`](super::Origin) is what a model is read from.
//! Pages are in the order of their bytes and go on behind the last name that was seen, so a listing needs no
//! memory between two pages and any node can answer the next one. Not cached here.

mod careful;
mod directory;
mod hdfs;
mod objects;
mod snapshots;

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;

use super::{Inner, Origins, file, guard};
use crate::{
    error::{Error, ErrorKind, Result},
    reference::Reference,
    snapshot::{Digest, FileVersion},
};
use careful::Careful;
use directory::DirectoryCatalogue;
use hdfs::HdfsCatalogue;
use objects::ObjectCatalogue;
use snapshots::SnapshotCatalogue;

/// The most names of one page.
pub const MAX_PAGE_NAMES: usize = 1000;

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The whole key, below the root of the catalogue.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// What identifies its content, as far as the origin tells.
    pub version: FileVersion,
    /// The origin's own digest, where it tells one.
    pub digest: Option<Digest>,
    /// When it was changed last, where the origin tells.
    pub modified: Option<SystemTime>,
}

/// One name of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedName {
    /// A file.
    File(Listed),
    /// Keys that go on behind a slash; with the slash.
    Prefix(String),
}

impl ListedName {
    /// The key, or the prefix with its slash: what pages are ordered by and go on behind.
    pub fn key(&self) -> &str {
        match self {
            Self::File(file) => &file.key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// Which names are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// What every key begins with; may end inside a name.
    pub prefix: String,
    /// Whether keys with a further slash behind the prefix are given as one name.
    pub delimited: bool,
    /// Only names behind this one: a key, or a prefix as a page gave it.
    pub start_after: Option<String>,
    /// So many names at most, 1 to [`MAX_PAGE_NAMES`].
    pub limit: usize,
}

/// Names in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedPage {
    /// The names.
    pub names: Vec<ListedName>,
    /// Whether there may be more behind the last.
    pub more: bool,
}

/// A tree of names at an origin.
#[async_trait]
pub trait Catalogue: Send + Sync + 'static {
    /// One page; empty where nothing has the prefix. A page may be shorter than asked for and still have more
    /// behind it. Cancel-safe.
    ///
    /// # Errors
    /// `NotFound` where the root itself is missing and the origin tells; `Denied`; `Unavailable`; `Timeout`;
    /// `Invalid` where the origin cannot be listed.
    async fn page(&self, request: &PageRequest) -> Result<ListedPage>;

    /// The file with exactly this key. Cancel-safe.
    ///
    /// # Errors
    /// `NotFound` where there is none; as [`page`](Self::page).
    async fn file(&self, key: &str) -> Result<Listed>;
}

impl Origins {
    /// The names below what `reference` names: a bucket, a repository at a revision, a directory, a base URL.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn catalogue(&self, reference: &Reference) -> Result<Arc<dyn Catalogue>> {
        let inner = &self.inner;
        match reference {
            Reference::File(path) => {
                let origin = file::FileOrigin::new(reference.to_string(), path.clone(), inner.allow.clone());
                Ok(inner.careful(DirectoryCatalogue::new(origin, path.clone()), "file", "local", "local"))
            }
            Reference::S3(_) | Reference::Gs(_) | Reference::Az { .. } => {
                let (scheme, store, bucket) = inner.bucket(reference)?;
                let host = store.host.clone();
                let catalogue = ObjectCatalogue::new(store, reference.to_string());
                Ok(inner.careful(catalogue, scheme, &bucket.name, &host))
            }
            // What lists these has its decorators already.
            Reference::Hub(_) => Ok(Arc::new(SnapshotCatalogue::of(inner.open(reference)?))),
            Reference::Http(url) => {
                guard::check_url(url)?;
                Ok(Arc::new(snapshots::BaseCatalogue::new(self.clone(), url.clone())))
            }
            Reference::Hdfs(url) => {
                let (node, host) = inner.name_node(url)?;
                let catalogue = HdfsCatalogue::new(node, reference.to_string(), super::hdfs::path_of(url)?);
                Ok(inner.careful(catalogue, "hdfs", &host, &host))
            }
            Reference::Ember(_) => {
                Err(Error::new(ErrorKind::Invalid, format!("{reference} cannot be listed")))
            }
        }
    }
}

impl Inner {
    fn careful(
        &self,
        catalogue: impl Catalogue,
        scheme: &'static str,
        label: &str,
        host: &str,
    ) -> Arc<dyn Catalogue> {
        Arc::new(Careful {
            inner: catalogue,
            entry: self.ledger.entry(scheme, label),
            permits: self.hosts.host(host).permits(),
            policy: super::retry::RetryPolicy {
                retries: self.config.retries,
                max_wait: self.config.max_retry_wait,
            },
            patience: self.config.request_timeout,
        })
    }
}

#[cfg(test)]
mod tests;
