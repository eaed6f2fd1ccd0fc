//! Buckets, one request a page.
//!
//! A page goes on behind a name rather than by the store's token, so any page can be asked for by anybody.
//! Empty objects that only mark a directory are no files.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::{ObjectMeta, ObjectStoreExt, list::PaginatedListOptions, path::Path as Key};

use super::{Catalogue, Listed, ListedName, ListedPage, PageRequest};
use crate::{
    error::{Error, ErrorKind, Result},
    origin::{listing, stores::Store},
    snapshot::FileVersion,
};

/// A whole bucket; keys are the store's.
pub(super) struct ObjectCatalogue {
    store: Arc<Store>,
    reference: String,
}

impl ObjectCatalogue {
    pub(super) fn new(store: Arc<Store>, reference: String) -> Self {
        Self { store, reference }
    }

    /// One request, and the store's token for what follows.
    async fn page_from(
        &self,
        request: &PageRequest,
        token: Option<String>,
    ) -> Result<(ListedPage, Option<String>)> {
        let options = PaginatedListOptions {
            offset: request.start_after.clone(),
            delimiter: request.delimited.then_some("/".into()),
            // The name that the page goes on behind may come again as a prefix, and markers are left out.
            max_keys: Some((request.limit + 1).min(super::MAX_PAGE_NAMES)),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let prefix = (!request.prefix.is_empty()).then_some(request.prefix.as_str());
        let listed = self.store.pages.list_paginated(prefix, options).await;
        let listed = listed.map_err(|e| self.failed(e, "listing"))?;
        let mut more = listed.page_token.is_some();
        let prefixes = listed.result.common_prefixes.into_iter();
        let mut names: Vec<ListedName> =
            prefixes.map(|prefix| ListedName::Prefix(format!("{prefix}/"))).collect();
        names.extend(listed.result.objects.into_iter().map(|object| ListedName::File(described(object))));
        names.sort_by(|a, b| a.key().cmp(b.key()));
        drop_markers(&mut names);
        let is_behind = |name: &ListedName| request.start_after.as_deref().is_none_or(|at| name.key() > at);
        names.retain(|name| {
            let key = name.key();
            // A key that ends in a slash comes without it: the marker of the directory that was asked for.
            is_behind(name) && key.starts_with(&request.prefix) && !listing::is_control_file(key)
        });
        if names.len() > request.limit {
            names.truncate(request.limit);
            more = true;
        }
        Ok((ListedPage { names, more }, listed.page_token))
    }

    fn failed(&self, error: object_store::Error, what: &str) -> Error {
        self.store.explain(error, &format!("{}: {what}", self.reference))
    }
}

#[async_trait]
impl Catalogue for ObjectCatalogue {
    async fn page(&self, request: &PageRequest) -> Result<ListedPage> {
        let mut token = None;
        loop {
            let (page, next) = self.page_from(request, token).await?;
            // A page of markers only says nothing that the next one could go on behind.
            if next.is_none() || !page.names.is_empty() {
                return Ok(page);
            }
            token = next;
        }
    }

    async fn file(&self, key: &str) -> Result<Listed> {
        let parsed = Key::parse(key).map_err(|e| {
            Error::with_source(
                ErrorKind::NotFound,
                format!("{}: no object is called {key:?}", self.reference),
                e,
            )
        })?;
        if parsed.as_ref() != key || key.is_empty() || listing::is_control_file(key) {
            return Err(Error::new(ErrorKind::NotFound, format!("{}: no object {key:?}", self.reference)));
        }
        let object = self.store.objects.head(&parsed).await.map_err(|e| self.failed(e, key))?;
        Ok(described(object))
    }
}

/// Leaves out empty objects that other names of the page go on behind: markers of directories.
pub(super) fn drop_markers(names: &mut Vec<ListedName>) {
    let mut markers = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let ListedName::File(file) = name else { continue };
        let below = format!("{}/", file.key);
        let next = names[at + 1..].iter().take_while(|n| n.key().starts_with(&file.key));
        if file.size == 0 && next.take(8).any(|n| n.key().starts_with(&below)) {
            markers.push(at);
        }
    }
    for at in markers.into_iter().rev() {
        names.remove(at);
    }
}

fn described(object: ObjectMeta) -> Listed {
    Listed {
        key: object.location.to_string(),
        size: object.size,
        version: FileVersion { etag: object.e_tag, object_version: object.version },
        digest: None,
        modified: Some(object.last_modified.into()),
    }
}
