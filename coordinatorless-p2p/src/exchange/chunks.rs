//! One chunk, asked for and answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::read_frame;
use crate::{
    chunk::{ChunkHash, MAX_CHUNK_BYTES, SwarmId},
    error::{Error, ErrorKind, Result},
    precedence::Rank,
    seam::ChunkStore,
    throttle::Throttle,
    transport::{Peer, Priority, SendStream, Transport},
    wire::{self, ChunkReply, HEAD_BYTES_MAX, Opening},
};

/// What a peer answered to a request.
pub(crate) enum Answer {
    /// The bytes, not verified yet.
    Bytes(ChunkHash, Bytes),
    /// The hash they would have had; the caller did not need them, and the peer was told to stop.
    Unneeded(ChunkHash),
}

/// Which chunk to ask for, and how.
pub(crate) struct Question {
    pub(crate) swarm: SwarmId,
    pub(crate) index: u32,
    /// How long it is.
    pub(crate) len: u32,
    /// A reader waits for it, and the peer understands that.
    pub(crate) urgent: bool,
}

/// Asks `peer` for a chunk, unless its hash says that it is `unneeded`. Cancel-safe:
/// dropping it tells the peer to stop.
///
/// # Errors
/// `NotFound` when it is not there; `Unavailable` when the peer is busy or gone; `Timeout` after
/// `stall` without a byte; `Invalid` when the answer is of another length.
pub(crate) async fn request(
    transport: &dyn Transport,
    peer: Peer,
    question: Question,
    stall: Duration,
    unneeded: impl Fn(&ChunkHash) -> bool,
) -> Result<Answer> {
    let Question { swarm, index, len, urgent } = question;
    let (mut send, mut recv) = transport.open(peer).await?;
    send.set_priority(Priority::Questions);
    let opening =
        if urgent { Opening::UrgentChunk { swarm, index } } else { Opening::Chunk { swarm, index } };
    send.send(wire::frame(&opening)?, stall).await?;
    send.finish()?;
    let head = read_frame(&mut *recv, HEAD_BYTES_MAX, stall).await?;
    match wire::parse::<ChunkReply>(&head)? {
        ChunkReply::Found { hash, bytes } if bytes == len && unneeded(&hash) => Ok(Answer::Unneeded(hash)),
        ChunkReply::Found { hash, bytes } if bytes == len => {
            let body = recv.recv(len as usize, stall, &AtomicU64::new(0)).await?;
            Ok(Answer::Bytes(hash, body))
        }
        ChunkReply::Found { bytes, .. } => {
            Err(Error::new(ErrorKind::Invalid, format!("chunk {index} has {len} bytes, not {bytes}")))
        }
        ChunkReply::Missing => {
            Err(Error::new(ErrorKind::NotFound, format!("chunk {index} is not at {}", peer.addr)))
        }
        ChunkReply::Busy => Err(Error::new(ErrorKind::UNAVAILABLE, format!("{} is busy", peer.addr))),
    }
}

/// Chunks that readers wait for and that are served although as many as may be are being served already.
const UPLOADS_FOR_READERS: usize = 32;

/// Answers chunk requests, a bounded number at a time.
pub(crate) struct ChunkServer {
    store: Arc<dyn ChunkStore>,
    places: Semaphore,
    /// Beyond `places`, for chunks that readers wait for.
    places_for_readers: Semaphore,
    stall: Duration,
    served: AtomicU64,
    /// Payload that may leave.
    pub(crate) upload: Throttle,
}

impl ChunkServer {
    pub(crate) fn new(
        store: Arc<dyn ChunkStore>,
        uploads_max: usize,
        stall: Duration,
        upload: Throttle,
    ) -> Self {
        let places = Semaphore::new(uploads_max);
        let places_for_readers = Semaphore::new(UPLOADS_FOR_READERS);
        Self { store, places, places_for_readers, stall, served: AtomicU64::new(0), upload }
    }

    /// Payload bytes sent since start.
    pub(crate) fn served_bytes(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Answers one request; before others if it is `urgent`.
    pub(crate) async fn answer(
        &self,
        swarm: SwarmId,
        index: u32,
        urgent: bool,
        mut send: Box<dyn SendStream>,
    ) -> Result<()> {
        if urgent {
            send.set_priority(Priority::Readers);
        }
        let place = match self.places.try_acquire() {
            Err(_) if urgent => self.places_for_readers.try_acquire(),
            place => place,
        };
        let Ok(_place) = place else {
            return self.say(&mut *send, ChunkReply::Busy).await;
        };
        let rank = Rank { urgent, ..Rank::default() };
        let (hash, mut bytes) = match self.store.read(swarm, index).await {
            Ok(found) => found,
            Err(e) => {
                tracing::debug!(%swarm, index, error = %e, "a chunk that was asked for cannot be read");
                return self.say(&mut *send, ChunkReply::Missing).await;
            }
        };
        debug_assert!(bytes.len() <= MAX_CHUNK_BYTES as usize);
        let len = bytes.len() as u32;
        send.send(wire::frame(&ChunkReply::Found { hash, bytes: len })?, self.stall).await?;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(self.upload.piece_bytes()));
            self.upload.pass(piece.len(), rank).await;
            send.send(piece, self.stall).await?;
        }
        send.finish()?;
        self.served.fetch_add(len.into(), Ordering::Relaxed);
        Ok(())
    }

    async fn say(&self, send: &mut dyn SendStream, reply: ChunkReply) -> Result<()> {
        send.set_priority(Priority::Questions);
        send.send(wire::frame(&reply)?, self.stall).await?;
        send.finish()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::{sync::mpsc, time::Instant};

    use super::*;
    use crate::{chunk::VerifiedChunk, seam::Inventory};

    struct One(Bytes);

    #[async_trait]
    impl ChunkStore for One {
        fn inventory(&self, _: SwarmId) -> Result<Inventory> {
            Err(Error::new(ErrorKind::NotFound, "not asked for"))
        }
        async fn read(&self, _: SwarmId, _: u32) -> Result<(ChunkHash, Bytes)> {
            Ok((ChunkHash::of(&self.0), self.0.clone()))
        }
        async fn write(&self, _: SwarmId, _: u32, _: VerifiedChunk) -> Result<()> {
            Ok(())
        }
        fn knows(&self, _: &ChunkHash) -> bool {
            false
        }

        async fn adopt(&self, _: SwarmId, _: u32, _: ChunkHash) -> Result<bool> {
            Ok(false)
        }
        fn discard(&self, _: SwarmId, _: u32) -> Result<()> {
            Ok(())
        }
    }

    struct Wire(mpsc::UnboundedSender<Bytes>);

    #[async_trait]
    impl SendStream for Wire {
        async fn send(&mut self, bytes: Bytes, _: Duration) -> Result<()> {
            let _ = self.0.send(bytes);
            Ok(())
        }
        fn finish(&mut self) -> Result<()> {
            Ok(())
        }
        async fn stopped(&mut self) {
            std::future::pending().await
        }
        fn set_priority(&mut self, _: Priority) {}
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_served_keeps_to_the_limit_and_goes_out_in_small_pieces() {
        let content = Bytes::from(vec![7; 1 << 20]);
        let upload = Throttle::new(Some(1 << 20));
        let server = ChunkServer::new(Arc::new(One(content.clone())), 8, Duration::from_secs(30), upload);
        let serve = || async {
            let (wire, mut sent) = mpsc::unbounded_channel();
            let began = Instant::now();
            server.answer(SwarmId([1; 32]), 0, false, Box::new(Wire(wire))).await.unwrap();
            let (mut body, mut largest) = (Vec::new(), 0);
            // The head comes first.
            sent.recv().await.unwrap();
            while let Some(piece) = sent.recv().await {
                largest = largest.max(piece.len());
                body.extend_from_slice(&piece);
            }
            assert_eq!(body, content);
            (began.elapsed().as_secs_f64(), largest)
        };
        let (seconds, largest) = serve().await;
        assert!((0.9..1.1).contains(&seconds), "a MiB at a MiB a second took {seconds} s");
        assert!(largest <= 16 << 10, "{largest} bytes went out at once");
        server.upload.set(None);
        let (seconds, largest) = serve().await;
        assert!(seconds < 0.01 && largest == content.len(), "{seconds} s, {largest} bytes");
    }
}
