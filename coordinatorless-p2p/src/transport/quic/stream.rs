//! The two halves of a QUIC stream as the seam wants them.
//!
//! Bytes go out without a copy and come in with one, into a buffer of exactly the wanted size.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;

use super::{errors, link::InUse};
use crate::{
    buffer,
    error::{Error, ErrorKind, Result},
    transport::{Priority, RecvStream, SendStream},
};

/// So much of a message must have come before room for all of it is set aside: a peer that announces much
/// and sends little costs no more than this.
const FIRST_BYTES: usize = 64 << 10;

pub(super) struct QuicSend {
    stream: quinn::SendStream,
    link: Arc<InUse>,
    finished: bool,
}

impl QuicSend {
    pub(super) fn new(stream: quinn::SendStream, link: Arc<InUse>) -> Self {
        let mut stream = Self { stream, link, finished: false };
        stream.set_priority(Priority::Bulk);
        stream
    }
}

#[async_trait]
impl SendStream for QuicSend {
    async fn send(&mut self, bytes: Bytes, stall: Duration) -> Result<()> {
        let mut rest = [bytes];
        while !rest[0].is_empty() {
            match timeout(stall, self.stream.write_chunks(&mut rest)).await {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => return Err(errors::write(format!("sending to {}", self.link), e)),
                Err(_) => {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("{} took no bytes for {stall:?}", self.link),
                    ));
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.stream.finish().map_err(|e| {
            Error::with_source(ErrorKind::UNAVAILABLE, format!("the stream to {} is gone", self.link), e)
        })?;
        self.finished = true;
        Ok(())
    }

    async fn stopped(&mut self) {
        let _ = self.stream.stopped().await;
    }

    fn set_priority(&mut self, priority: Priority) {
        // Fails only on a stream that is gone, which the next send will tell.
        let _ = self.stream.set_priority(self.link.turn(priority));
    }
}

impl Drop for QuicSend {
    fn drop(&mut self) {
        if self.finished {
            // The connection counts as used until the last byte has arrived, so that a close waits.
            self.link.linger(self.stream.stopped());
        } else {
            // quinn would finish it, and the peer would take a part for the whole.
            let _ = self.stream.reset(errors::GIVEN_UP);
        }
    }
}

pub(super) struct QuicRecv {
    stream: quinn::RecvStream,
    link: Arc<InUse>,
    started: bool,
}

impl QuicRecv {
    pub(super) fn new(stream: quinn::RecvStream, link: Arc<InUse>) -> Self {
        Self { stream, link, started: false }
    }
}

#[async_trait]
impl RecvStream for QuicRecv {
    async fn recv(&mut self, len: usize, stall: Duration, progress: &AtomicU64) -> Result<Bytes> {
        let mut gathered = Gathered::default();
        while gathered.len < len {
            let rest = len - gathered.len;
            let piece = match timeout(stall, self.stream.read_chunk(rest, true)).await {
                Ok(Ok(Some(chunk))) => chunk.bytes,
                Ok(Ok(None)) => {
                    let kind = if self.started { ErrorKind::Invalid } else { ErrorKind::NotFound };
                    let context = format!("the stream from {} ended {rest} bytes early", self.link);
                    return Err(Error::new(kind, context));
                }
                Ok(Err(e)) => return Err(errors::read(format!("receiving from {}", self.link), e)),
                Err(_) => {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("no byte from {} for {stall:?}", self.link),
                    ));
                }
            };
            self.started = true;
            progress.fetch_add(piece.len() as u64, Ordering::Relaxed);
            gathered.add(piece, len);
        }
        Ok(gathered.finish(len))
    }
}

/// What has come of one message: the pieces as they are while they are few, then one buffer.
#[derive(Default)]
struct Gathered {
    pieces: Vec<Bytes>,
    buffer: Vec<u8>,
    len: usize,
}

impl Gathered {
    fn add(&mut self, piece: Bytes, whole: usize) {
        self.len += piece.len();
        if self.buffer.capacity() > 0 {
            self.buffer.extend_from_slice(&piece);
            return;
        }
        self.pieces.push(piece);
        if self.len >= FIRST_BYTES && self.pieces.len() > 1 {
            self.pour(whole);
        }
    }

    fn pour(&mut self, whole: usize) {
        self.buffer = buffer::take(whole);
        self.pieces.drain(..).for_each(|piece| self.buffer.extend_from_slice(&piece));
    }

    fn finish(mut self, whole: usize) -> Bytes {
        match self.pieces.as_slice() {
            [only] => only.clone(),
            [_, _, ..] => {
                self.pour(whole);
                buffer::share(self.buffer)
            }
            [] => buffer::share(self.buffer),
        }
    }
}
