//! Decorator: a catalogue with the retries, limits, deadlines and counters that origins have.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::{Catalogue, Listed, ListedPage, PageRequest};
use crate::{
    error::{Error, ErrorKind, Result},
    origin::{
        count::Entry,
        retry::{RetryPolicy, persist},
    },
};

pub(super) struct Careful<C> {
    pub(super) inner: C,
    pub(super) entry: Arc<Entry>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) policy: RetryPolicy,
    pub(super) patience: Duration,
}

impl<C> Careful<C> {
    async fn ask<T, F: Future<Output = Result<T>>>(&self, what: &str, ask: impl Fn() -> F) -> Result<T> {
        persist(self.policy, || async {
            let closed = |e| Error::with_source(ErrorKind::Cancelled, "origins are shutting down", e);
            let _place = self.permits.acquire().await.map_err(closed)?;
            self.entry.count_listing();
            let late =
                |_| Error::new(ErrorKind::Timeout, format!("{what} was not answered in {:?}", self.patience));
            let answer = tokio::time::timeout(self.patience, ask()).await.map_err(late).flatten();
            // That a name is not there is an answer, too.
            answer.inspect_err(|e| {
                if e.kind() != ErrorKind::NotFound {
                    self.entry.count_error(e.kind());
                }
            })
        })
        .await
    }
}

#[async_trait]
impl<C: Catalogue> Catalogue for Careful<C> {
    async fn page(&self, request: &PageRequest) -> Result<ListedPage> {
        self.ask(&request.prefix, || self.inner.page(request)).await
    }

    async fn file(&self, key: &str) -> Result<Listed> {
        self.ask(key, || self.inner.file(key)).await
    }
}
