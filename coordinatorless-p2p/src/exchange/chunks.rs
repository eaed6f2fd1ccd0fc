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
    seam::ChunkStore,
    transport::{Peer, SendStream, Transport},
    wire::{self, ChunkReply, HEAD_BYTES_MAX, Opening},
};

/// What a peer answered to a request.
pub(crate) enum Answer {
    /// The bytes, not verified yet.
    Bytes(ChunkHash, Bytes),
    /// The hash they would have had; the caller did not need them, and the peer was told to stop.
    Unneeded(ChunkHash),
}

/// Asks `peer` for a chunk of `len` bytes, unless its hash says that it is `unneeded`. Cancel-safe:
/// dropping it tells the peer to stop.
///
/// # Errors
/// `NotFound` when it is not there; `Unavailable` when the peer is busy or gone; `Timeout` after
/// `stall` without a byte; `Invalid` when the answer is of another length.
pub(crate) async fn request(
    transport: &dyn Transport,
    peer: Peer,
    swarm: SwarmId,
    index: u32,
    len: u32,
    stall: Duration,
    unneeded: impl Fn(&ChunkHash) -> bool,
) -> Result<Answer> {
    let (mut send, mut recv) = transport.open(peer).await?;
    send.send(wire::frame(&Opening::Chunk { swarm, index })?, stall).await?;
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

/// Answers chunk requests, a bounded number at a time.
pub(crate) struct ChunkServer {
    store: Arc<dyn ChunkStore>,
    places: Semaphore,
    stall: Duration,
    served: AtomicU64,
}

impl ChunkServer {
    pub(crate) fn new(store: Arc<dyn ChunkStore>, uploads_max: usize, stall: Duration) -> Self {
        Self { store, places: Semaphore::new(uploads_max), stall, served: AtomicU64::new(0) }
    }

    /// Payload bytes sent since start.
    pub(crate) fn served_bytes(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Answers one request.
    pub(crate) async fn answer(
        &self,
        swarm: SwarmId,
        index: u32,
        mut send: Box<dyn SendStream>,
    ) -> Result<()> {
        let Ok(_place) = self.places.try_acquire() else {
            return self.say(&mut *send, ChunkReply::Busy).await;
        };
        let (hash, bytes) = match self.store.read(swarm, index).await {
            Ok(found) => found,
            Err(e) => {
                tracing::debug!(%swarm, index, error = %e, "a chunk that was asked for cannot be read");
                return self.say(&mut *send, ChunkReply::Missing).await;
            }
        };
        debug_assert!(bytes.len() <= MAX_CHUNK_BYTES as usize);
        let len = bytes.len() as u32;
        send.send(wire::frame(&ChunkReply::Found { hash, bytes: len })?, self.stall).await?;
        send.send(bytes, self.stall).await?;
        send.finish()?;
        self.served.fetch_add(len.into(), Ordering::Relaxed);
        Ok(())
    }

    async fn say(&self, send: &mut dyn SendStream, reply: ChunkReply) -> Result<()> {
        send.send(wire::frame(&reply)?, self.stall).await?;
        send.finish()
    }
}
