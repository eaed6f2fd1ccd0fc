//! The seam between the exchange and the network: authenticated streams and datagrams to peers.
//!
//! `quic` implements it over sockets, `memory` over channels; both hand over the same bytes. Knows
//! identities and addresses; never frames, chunks or swarms.

pub mod memory;
pub mod quic;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::atomic::AtomicU64, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    error::{Error, Result},
    node::NodeId,
};

/// Whom to reach: an address, and whom we expect there (`None` only for seeds).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whose certificate it must show.
    pub id: Option<NodeId>,
}

/// Authenticated, encrypted, multiplexed connections, opened on demand and kept.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Who we are to the others.
    fn id(&self) -> NodeId;

    /// Where we listen.
    fn local_addr(&self) -> SocketAddr;

    /// Opens a stream both ways, connecting first if need be. Cancel-safe.
    ///
    /// # Errors
    /// `Denied` when the peer's certificate is not of our cluster, has expired (both clocks in the
    /// message) or is not `peer.id`'s; `Timeout`; `Unavailable`.
    async fn open(&self, peer: Peer) -> Result<(Box<dyn SendStream>, Box<dyn RecvStream>)>;

    /// The next stream that a peer opened; `None` once closed. Cancel-safe.
    async fn accept(&self) -> Option<Incoming>;

    /// Sends up to [`MAX_DATAGRAM_BYTES`](Self::max_datagram_bytes) once, without promise of
    /// delivery. Connects in the background if need be; never blocks.
    fn send_datagram(&self, peer: Peer, datagram: Bytes);

    /// The next datagram that a peer sent; `None` once closed. Cancel-safe.
    async fn recv_datagram(&self) -> Option<(NodeId, Bytes)>;

    /// The largest datagram that every path carries.
    fn max_datagram_bytes(&self) -> usize;

    /// The smoothed round trip to a connected peer.
    fn round_trip(&self, peer: NodeId) -> Option<Duration>;

    /// Why the last attempt to reach somebody unknown at `addr` failed; `None` when it did not, or none was
    /// made. Remembered of a few addresses only: those of seeds.
    fn last_failure(&self, addr: SocketAddr) -> Option<Error>;

    /// Closes the connection to a peer and refuses it for a time (it lied or corrupted).
    fn shun(&self, peer: NodeId, time: Duration);

    /// Closes every connection after what was sent has gone out, or at `deadline`.
    async fn close(&self, deadline: Duration);
}

/// A stream that a peer opened.
pub struct Incoming {
    /// Whose certificate the connection has.
    pub from: NodeId,
    /// Where it comes from.
    pub addr: SocketAddr,
    /// Our answers.
    pub send: Box<dyn SendStream>,
    /// Its words.
    pub recv: Box<dyn RecvStream>,
}

/// The sending half of a stream. Dropping it unfinished resets it.
#[async_trait]
pub trait SendStream: Send {
    /// Queues bytes, waiting while the peer's window is full. Not cancel-safe: a cancelled send
    /// may have sent a part.
    ///
    /// # Errors
    /// `Cancelled` when the peer does not want more; `Unavailable` when the connection is gone;
    /// `Timeout` when nothing could be sent for `stall`.
    async fn send(&mut self, bytes: Bytes, stall: Duration) -> Result<()>;

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// `Unavailable` when the stream is gone.
    fn finish(&mut self) -> Result<()>;

    /// Waits until the peer takes no more: it said so, or the connection is gone. Cancel-safe.
    async fn stopped(&mut self);

    /// Higher goes first among the streams of one connection, also before what has begun; of equal ones, the
    /// one that called first. [`Priority::Bulk`], from its opening on, if never called. Orders what is queued
    /// towards the peer: where no more may be, the first to send goes first. Not in memory, where nothing queues.
    fn set_priority(&mut self, priority: Priority);
}

/// What goes first where a link is narrow.
#[derive(Debug, Clone, Copy)]
pub enum Priority {
    /// Chunks that nobody waits for.
    Bulk,
    /// Chunks that readers wait for.
    Readers,
    /// Questions and short answers: a link idles while they are on their way.
    Questions,
    /// Words about chunks: what is heard late is read twice.
    Words,
}

/// The receiving half of a stream. Dropping it tells the peer to stop.
#[async_trait]
pub trait RecvStream: Send {
    /// Reads exactly `len` bytes, adding to `progress` as they come. Not cancel-safe.
    ///
    /// # Errors
    /// `Timeout` when no byte came for `stall`; `Unavailable` when the connection is gone or the
    /// peer reset the stream; `Invalid` when the stream ended early; `NotFound` when it ended
    /// before the first byte.
    async fn recv(&mut self, len: usize, stall: Duration, progress: &AtomicU64) -> Result<Bytes>;
}
