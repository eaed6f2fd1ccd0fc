//! Decorator: a read that goes without a byte for too long is over.
//!
//! The clock runs only while a consumer waits for the origin, never while the origin waits for the
//! consumer. Listings are watched request by request, where they are made.

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::time::{Instant, Sleep};

use super::{Origin, client::stalled};
use crate::{
    error::Result,
    snapshot::{Snapshot, SnapshotFile},
};

pub(super) struct Stall<O> {
    pub(super) inner: O,
    pub(super) timeout: Duration,
}

#[async_trait]
impl<O: Origin> Origin for Stall<O> {
    async fn snapshot(&self) -> Result<Snapshot> {
        self.inner.snapshot().await
    }

    async fn read(
        &self,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let body = self.inner.read(file, range).await?;
        let watched = Watched {
            body,
            what: file.path.to_string(),
            timeout: self.timeout,
            timer: Box::pin(tokio::time::sleep(self.timeout)),
            waiting: false,
            over: false,
        };
        Ok(watched.boxed())
    }
}

struct Watched {
    body: BoxStream<'static, Result<Bytes>>,
    what: String,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    over: bool,
}

impl Stream for Watched {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(next) = self.body.poll_next_unpin(context) {
            self.waiting = false;
            return Poll::Ready(next);
        }
        if !self.waiting {
            self.waiting = true;
            let until = Instant::now() + self.timeout;
            self.timer.as_mut().reset(until);
        }
        if self.timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.over = true;
        Poll::Ready(Some(Err(stalled(&self.what, self.timeout, "body"))))
    }
}
