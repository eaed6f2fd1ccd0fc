//! Masterless chunk exchange.
//!
//! Nodes that want the same thing find each other on a consistent-hash ring, split the reading of
//! its origin between them, and pass verified chunks on as they arrive. There is no tracker and no
//! leader. This crate knows chunks and peers; it never knows models, URLs or files.
//!
//! Pure and without clock: [`chunk`], [`node`], [`ring`], [`meeting`], [`swarm`], [`wire`].
//! With sockets and timers: [`transport`], [`exchange`], [`membership`], and the shell [`cluster`].

pub mod buffer;
pub mod chunk;
pub mod cluster;
mod embedding;
pub mod error;
pub mod exchange;
pub mod identity;
pub mod meeting;
pub mod membership;
pub mod node;
mod precedence;
pub mod ring;
pub mod seam;
pub mod swarm;
mod throttle;
pub mod transport;
mod turns;
pub mod wire;

pub use chunk::{ChunkHash, ChunkSet, MAX_CHUNK_BYTES, SwarmId, VerifiedChunk};
pub use error::{Error, ErrorKind, IoContext, Result};
pub use identity::{ClusterSecret, Identity, NodeKey};
pub use membership::{Membership, MembershipConfig};
pub use node::{Node, NodeId};
pub use precedence::Precedence;
pub use ring::Ring;
pub use seam::{ChunkStore, Inventory, SpanSource};
