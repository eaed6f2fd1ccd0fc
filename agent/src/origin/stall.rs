//! Decorator: a read that goes without a byte for too long is over.
//!
//! The clock runs only while a consumer waits for the origin, never while the origin waits for the
//! consumer. Listings are watched answer by answer, where they are read.

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

use super::{
    Origin,
    client::{stalled, transport_error},
};
use crate::{
    error::{Error, Result},
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
        let watched =
            Watched { body, what: file.path.to_string(), watch: Watch::new(self.timeout), over: false };
        Ok(watched.boxed())
    }
}

/// Runs only from the first poll that found nothing until one finds something.
struct Watch {
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Watch {
    fn new(timeout: Duration) -> Self {
        Self { timeout, timer: Box::pin(tokio::time::sleep(timeout)), waiting: false }
    }

    fn came(&mut self) {
        self.waiting = false;
    }

    /// Ready once nothing has come for the whole time.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.waiting {
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.timeout);
        }
        self.timer.as_mut().poll(context)
    }
}

struct Watched {
    body: BoxStream<'static, Result<Bytes>>,
    what: String,
    watch: Watch,
    over: bool,
}

impl Stream for Watched {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(next) = self.body.poll_next_unpin(context) {
            self.watch.came();
            return Poll::Ready(next);
        }
        if self.watch.poll_waiting(context).is_pending() {
            return Poll::Pending;
        }
        self.over = true;
        Poll::Ready(Some(Err(stalled(&self.what, self.watch.timeout, "body"))))
    }
}

/// The same for the body of an HTTP answer: listings of object stores are read inside their library.
pub(super) struct WatchedBody {
    body: reqwest::Body,
    what: String,
    watch: Watch,
}

impl WatchedBody {
    pub(super) fn new(body: reqwest::Body, what: String, timeout: Duration) -> Self {
        Self { body, what, watch: Watch::new(timeout) }
    }
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>>>> {
        if let Poll::Ready(next) = Pin::new(&mut self.body).poll_frame(context) {
            self.watch.came();
            return Poll::Ready(next.map(|frame| frame.map_err(|e| transport_error(&self.what, e))));
        }
        if self.watch.poll_waiting(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(stalled(&self.what, self.watch.timeout, "body"))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
