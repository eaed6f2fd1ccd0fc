//! One connection to one peer: who is there, whether it is in use, and since when it is not.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use crate::{node::NodeId, transport::Priority};

/// A connection whose handshake is done and whose peer is known.
pub(super) struct Link {
    pub(super) connection: quinn::Connection,
    pub(super) id: NodeId,
    pub(super) addr: SocketAddr,
    /// Whether we opened the connection; that end also closes it when it is no longer needed.
    pub(super) dialled: bool,
    pub(super) born: Instant,
    streams: AtomicUsize,
    /// How many streams have been given their turn to send.
    turns: AtomicU32,
    /// When it was last of use, in milliseconds after `born`.
    last_use: AtomicU64,
    runtime: Handle,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} at {}", self.id.short(), self.addr)
    }
}

impl Link {
    pub(super) fn new(
        connection: quinn::Connection,
        id: NodeId,
        addr: SocketAddr,
        dialled: bool,
        runtime: Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection,
            id,
            addr,
            dialled,
            born: Instant::now(),
            streams: AtomicUsize::new(0),
            turns: AtomicU32::new(0),
            last_use: AtomicU64::new(0),
            runtime,
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(super) fn touch(&self) {
        self.last_use.store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long no stream was open and no datagram went by; `None` while it is in use.
    pub(super) fn idle(&self) -> Option<Duration> {
        if self.streams.load(Ordering::Acquire) > 0 {
            return None;
        }
        let last = Duration::from_millis(self.last_use.load(Ordering::Relaxed));
        Some(self.born.elapsed().saturating_sub(last))
    }

    /// Whether something still has to go out or come in.
    pub(super) fn is_busy(&self) -> bool {
        self.is_open() && self.streams.load(Ordering::Acquire) > 0
    }

    pub(super) fn enter(self: &Arc<Self>) -> Arc<InUse> {
        self.streams.fetch_add(1, Ordering::AcqRel);
        Arc::new(InUse(Arc::clone(self)))
    }
}

/// So many streams of one priority have turns of their own; later ones come before those that are still there.
const TURNS: i32 = 1 << 30;

/// A stream's claim on its connection.
pub(super) struct InUse(Arc<Link>);

impl InUse {
    /// What quinn is to call the priority of a stream that has `priority` among ours: of equal ones, whoever
    /// asks first goes first.
    pub(super) fn turn(&self, priority: Priority) -> i32 {
        let turn = self.0.turns.fetch_add(1, Ordering::Relaxed) as i32 & (TURNS - 1);
        let first = match priority {
            Priority::Bulk => -2 * TURNS,
            Priority::Readers => -TURNS,
            Priority::Questions => 0,
            Priority::Words => TURNS,
        };
        first + (TURNS - 1 - turn)
    }

    /// Keeps the claim until `done`. Ends on its own when the connection does.
    pub(super) fn linger(self: &Arc<Self>, done: impl Future + Send + 'static) {
        let claim = Arc::clone(self);
        self.0.runtime.spawn(async move {
            done.await;
            drop(claim);
        });
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.touch();
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}
