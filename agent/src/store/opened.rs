//! A published file that is open: what doors serve and what is placed in directories.

use std::{fs::File, sync::Arc};

use coordinatorless_p2p::ChunkHash;

/// A whole, published file, kept from eviction while this lives.
#[derive(Clone)]
pub struct OpenedFile {
    /// The open file; its bytes never change.
    pub file: Arc<File>,
    /// Size in bytes.
    pub bytes: u64,
    /// A BLAKE3 name for the content (over its chunk hashes): the ETag.
    pub etag: ChunkHash,
    /// Seconds since the epoch at which it was published.
    pub modified: u64,
    /// Keeps the artifact from eviction.
    pub lease: Arc<dyn std::any::Any + Send + Sync>,
}
