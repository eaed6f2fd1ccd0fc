//! The two halves of a QUIC stream as the seam wants them.
//!
//! Bytes go out without a copy and come in with one, into a buffer of exactly the wanted size.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use quinn::ReadError;
use tokio::{io::AsyncReadExt, time::timeout};

use super::{errors, link::InUse};
use crate::{
    error::{Error, ErrorKind, Result},
    transport::{RecvStream, SendStream},
};

/// What is set aside for a message before its first bytes came; a peer that announces much and
/// sends nothing costs no more than this.
const FIRST_BUFFER_BYTES: usize = 64 << 10;

pub(super) struct QuicSend {
    stream: quinn::SendStream,
    link: Arc<InUse>,
    finished: bool,
}

impl QuicSend {
    pub(super) fn new(stream: quinn::SendStream, link: Arc<InUse>) -> Self {
        Self { stream, link, finished: false }
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

    fn set_priority(&mut self, priority: i32) {
        // Fails only on a stream that is gone, which the next send will tell.
        let _ = self.stream.set_priority(priority);
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

    fn failed(&self, error: io::Error) -> Error {
        let context = format!("receiving from {}", self.link);
        match error.downcast::<ReadError>() {
            Ok(e) => errors::read(context, e),
            Err(e) => Error::with_source(ErrorKind::UNAVAILABLE, context, e),
        }
    }
}

#[async_trait]
impl RecvStream for QuicRecv {
    async fn recv(&mut self, len: usize, stall: Duration, progress: &AtomicU64) -> Result<Bytes> {
        let mut buffer = BytesMut::with_capacity(len.min(FIRST_BUFFER_BYTES));
        while buffer.len() < len {
            if buffer.len() == buffer.capacity() {
                buffer.reserve(len - buffer.len());
            }
            let room = len - buffer.len();
            let read = match timeout(stall, self.stream.read_buf(&mut (&mut buffer).limit(room))).await {
                Ok(Ok(read)) => read,
                Ok(Err(e)) => return Err(self.failed(e)),
                Err(_) => {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("no byte from {} for {stall:?}", self.link),
                    ));
                }
            };
            if read == 0 {
                let kind = if self.started { ErrorKind::Invalid } else { ErrorKind::NotFound };
                let context =
                    format!("the stream from {} ended {} bytes early", self.link, len - buffer.len());
                return Err(Error::new(kind, context));
            }
            self.started = true;
            progress.fetch_add(read as u64, Ordering::Relaxed);
        }
        Ok(buffer.freeze())
    }
}
