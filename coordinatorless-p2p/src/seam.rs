//! What the swarm asks of whoever embeds it: a place to keep chunks, and a place they come from.
//!
//! `agent` implements both over files and origins; `memory` implements both for tests and
//! simulations. Chunks are named by (swarm, index) or by hash, never by path.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    chunk::{ChunkHash, ChunkSet, SwarmId, VerifiedChunk},
    error::Result,
};

/// Where verified chunks are kept. Shared by every swarm of the node.
#[async_trait]
pub trait ChunkStore: Send + Sync + 'static {
    /// What is here of `swarm`, with the hash of every chunk in the set.
    ///
    /// # Errors
    /// `NotFound` when the swarm is unknown here.
    fn inventory(&self, swarm: SwarmId) -> Result<Inventory>;

    /// The bytes of a chunk that is here, and the hash they had when they were stored.
    /// The receiver checks them; the store need not. Cancel-safe.
    ///
    /// # Errors
    /// `NotFound` when the chunk is not here.
    async fn read(&self, swarm: SwarmId, index: u32) -> Result<(ChunkHash, Bytes)>;

    /// Keeps a chunk; it can be read by others as soon as this returns. Writing what is already
    /// here is a success without effect. Not cancel-safe: run to the end once started.
    ///
    /// # Errors
    /// `Invalid` when the length is not the one the blueprint has for `index`; `Full` when the
    /// disk or quota is exhausted.
    async fn write(&self, swarm: SwarmId, index: u32, chunk: VerifiedChunk) -> Result<()>;

    /// Whether a chunk with this hash lies on this node's disk under any artifact, so that
    /// [`adopt`](Self::adopt) is worth its while. Answers from memory; never blocks.
    fn knows(&self, hash: &ChunkHash) -> bool;

    /// Takes the chunk with this hash from another artifact on this node's disk, by reflink or
    /// copy, re-hashed on the way. True if it is here now.
    ///
    /// # Errors
    /// `Full`; a copy that turned out rotten is not an error but `false`.
    async fn adopt(&self, swarm: SwarmId, index: u32, hash: ChunkHash) -> Result<bool>;

    /// Forgets a chunk whose hash turned out to be wrong, so that it is fetched again.
    ///
    /// # Errors
    /// `NotFound` when the swarm is unknown here.
    fn discard(&self, swarm: SwarmId, index: u32) -> Result<()>;
}

/// What a node holds of a swarm.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// Which chunks.
    pub held: ChunkSet,
    /// Their hashes, one for every chunk of the swarm; `Some` at least where held, elsewhere where a
    /// manifest tells.
    pub hashes: Vec<Option<ChunkHash>>,
}

/// Where chunks come from when no neighbour has them.
#[async_trait]
pub trait SpanSource: Send + Sync + 'static {
    /// Reads `chunks` (neighbours in one file) in order in one request and sends each as soon as
    /// it is complete. Ends when all are sent, at the first error (sent as the last item), or
    /// when the receiver is dropped. Owns its own stall time-out and retries.
    async fn fetch(&self, chunks: Range<u32>, out: mpsc::Sender<Result<(u32, Bytes)>>);
}
