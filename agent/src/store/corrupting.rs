//! A store that lies to peers: what a test has an agent serve instead of what it holds.
//!
//! Compiled only with the `faults` feature. `EMBERLINE_FAULT=serve.corrupt:<share>` flips one bit in that
//! share of the chunks read for peers, evenly spread and the first one included; the files stay as they are.
//! Every lie is told in the log of the liar, so that a test can see that it was told.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use coordinatorless_p2p::{ChunkHash, ChunkStore, Inventory, SwarmId, VerifiedChunk};

use super::Store;
use crate::error::Result;

/// The store as peers get to see it: as it is, unless the environment asks for lies.
pub(crate) fn served(store: Store) -> Arc<dyn ChunkStore> {
    let asked = std::env::var("EMBERLINE_FAULT").ok();
    let share = asked.as_deref().and_then(|text| text.strip_prefix("serve.corrupt:"));
    match share.and_then(|share| share.parse::<f64>().ok()) {
        Some(share) if share > 0.0 => {
            let every = (1.0 / share.min(1.0)).round() as u64;
            Arc::new(Corrupting { store, every, reads: AtomicU64::new(0) })
        }
        _ => Arc::new(store),
    }
}

struct Corrupting {
    store: Store,
    /// One read of so many is a lie.
    every: u64,
    reads: AtomicU64,
}

#[async_trait]
impl ChunkStore for Corrupting {
    fn inventory(&self, swarm: SwarmId) -> Result<Inventory> {
        self.store.inventory(swarm)
    }

    async fn read(&self, swarm: SwarmId, index: u32) -> Result<(ChunkHash, Bytes)> {
        let (hash, bytes) = self.store.read(swarm, index).await?;
        if !self.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.every) {
            return Ok((hash, bytes));
        }
        let mut bytes = BytesMut::from(bytes);
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
            tracing::warn!(chunk = index, "fault serve.corrupt: serving a chunk with a flipped bit");
        }
        Ok((hash, bytes.freeze()))
    }

    async fn write(&self, swarm: SwarmId, index: u32, chunk: VerifiedChunk) -> Result<()> {
        self.store.write(swarm, index, chunk).await
    }

    fn knows(&self, hash: &ChunkHash) -> bool {
        self.store.knows(hash)
    }

    async fn adopt(&self, swarm: SwarmId, index: u32, hash: ChunkHash) -> Result<bool> {
        self.store.adopt(swarm, index, hash).await
    }

    fn discard(&self, swarm: SwarmId, index: u32) -> Result<()> {
        self.store.discard(swarm, index)
    }
}
