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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::origin::{exact::Exact, file::FileOrigin, guard::AllowList};

    #[tokio::test]
    async fn a_read_keeps_its_place_until_its_stream_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("m"), b"weights").unwrap();
        let inner = FileOrigin::new("m".into(), dir.path().to_owned(), AllowList::default());
        let limited = Limit { inner: Exact(inner), permits: Arc::new(Semaphore::new(1)) };
        let file = limited.snapshot().await.unwrap().files.remove(0);
        let first = limited.read(&file, 0..7).await.unwrap();
        let mut second = pin!(limited.read(&file, 0..7));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn a_range_that_is_not_in_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("m"), b"weights").unwrap();
        let origin = Exact(FileOrigin::new("m".into(), dir.path().to_owned(), AllowList::default()));
        let file = origin.snapshot().await.unwrap().files.remove(0);
        // Past the end by one, and backwards.
        for (start, end) in [(0, 8), (5, 4)] {
            let refused = origin.read(&file, start..end).await.err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
        }
    }
}
