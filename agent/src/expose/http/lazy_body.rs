//! File bodies of files that are on their way: each piece is sent as soon as it can be read.
//!
//! One piece is read at a time; what comes behind it is the reader's to fetch ahead. A file that is sealed
//! meanwhile goes on as a [`FileBody`]. Knows nothing of HTTP.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use hyper::body::{Body, Frame, SizeHint};

use super::body::{FileBody, Segment, bytes_of};
use crate::{error::Result, metrics, reader::LazyFile};

/// Read at a time: what a connection holds in memory, and there may be many.
const PIECE_BYTES: usize = 128 << 10;
/// A body that gets nothing for this long is cut off: the client comes back for the rest.
const PATIENCE: Duration = Duration::from_secs(120);

/// A response body made of pieces of one file, read as they come.
pub(in crate::expose) struct LazyBody {
    file: LazyFile,
    segments: VecDeque<Segment>,
    unsent_bytes: u64,
    /// The first bytes of the first stretch of the file, read beforehand.
    begun: Option<Bytes>,
    coming: Option<BoxFuture<'static, Result<Bytes>>>,
    sealed: Option<FileBody>,
}

impl LazyBody {
    /// The `segments` in order. File ranges must lie within the file.
    pub(in crate::expose) fn new(
        file: LazyFile,
        segments: impl IntoIterator<Item = Segment>,
        begun: Option<Bytes>,
    ) -> Self {
        let segments: VecDeque<_> = segments.into_iter().collect();
        let unsent_bytes = bytes_of(&segments);
        Self { file, segments, unsent_bytes, begun, coming: None, sealed: None }
    }

    /// Takes `piece` off the stretch of the file that is in front.
    fn send(&mut self, mut piece: Bytes) -> io::Result<Frame<Bytes>> {
        let Some(Segment::File(range)) = self.segments.front_mut() else {
            return Err(io::Error::other("a piece of no stretch"));
        };
        piece.truncate(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
        if piece.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        range.start += piece.len() as u64;
        if range.is_empty() {
            self.segments.pop_front();
        }
        self.unsent_bytes -= piece.len() as u64;
        metrics::served_bytes(self.file.caller().door, piece.len() as u64);
        Ok(Frame::data(piece))
    }
}

impl Body for LazyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(sealed) = &mut self.sealed {
                return Pin::new(sealed).poll_frame(cx);
            }
            if let Some(coming) = &mut self.coming {
                let arrived = match coming.poll_unpin(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(arrived) => arrived,
                };
                self.coming = None;
                return Poll::Ready(Some(
                    arrived.map_err(io::Error::other).and_then(|piece| self.send(piece)),
                ));
            }
            let range = match self.segments.front_mut() {
                None => return Poll::Ready(None),
                Some(Segment::Literal(bytes)) => {
                    let bytes = std::mem::take(bytes);
                    self.segments.pop_front();
                    self.unsent_bytes -= bytes.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Segment::File(range)) => range.clone(),
            };
            if let Some(begun) = self.begun.take() {
                return Poll::Ready(Some(self.send(begun)));
            }
            if let Some(sealed) = self.file.sealed() {
                let rest = std::mem::take(&mut self.segments);
                self.sealed = Some(FileBody::new(sealed, rest).through(self.file.caller().door));
                continue;
            }
            let file = self.file.clone();
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let deadline = tokio::time::Instant::now() + PATIENCE;
            self.coming = Some(async move { file.read_at(range.start, length, deadline).await }.boxed());
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.sealed {
            Some(sealed) => sealed.is_end_stream(),
            None => self.unsent_bytes == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.sealed {
            Some(sealed) => sealed.size_hint(),
            None => SizeHint::with_exact(self.unsent_bytes),
        }
    }
}
