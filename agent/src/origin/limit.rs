//! Decorator: so many requests at once to one host, and no more.
//!
//! A read holds its place until its stream ends or is dropped. All origins of a host share the places.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Origin;
use crate::{
    error::{Error, ErrorKind, Result},
    snapshot::{Snapshot, SnapshotFile},
};

pub(super) struct Limit<O> {
    pub(super) inner: O,
    pub(super) permits: Arc<Semaphore>,
}

impl<O> Limit<O> {
    async fn place(&self) -> Result<OwnedSemaphorePermit> {
        self.permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|e| Error::with_source(ErrorKind::Cancelled, "origins are shutting down", e))
    }
}

#[async_trait]
impl<O: Origin> Origin for Limit<O> {
    async fn snapshot(&self) -> Result<Snapshot> {
        let _place = self.place().await?;
        self.inner.snapshot().await
    }

    async fn read(
        &self,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let place = self.place().await?;
        let body = self.inner.read(file, range).await?;
        Ok(body
            .inspect(move |_| {
                // Owned by the closure, so that it goes when the stream goes.
                let _held = &place;
            })
            .boxed())
    }
}
