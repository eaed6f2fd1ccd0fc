//! The seam over channels: a network inside the process, for tests and simulations.
//!
//! It has bounded windows, so that what would block on a network blocks here too, and faults on
//! request: partitions (silence, as a network does it), crashes, altered bytes. It has no
//! certificates: a node is who it was registered as.
//!
//! Invariant: no time passes in here but tokio's, so a paused clock makes a test of seconds instant.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{Incoming, Peer, RecvStream, SendStream, Transport};
use crate::{
    error::{Error, ErrorKind, Result},
    node::NodeId,
};

/// The largest piece that goes through a channel at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait to be read: a window of 1 MiB.
const WINDOW_PIECES: usize = 16;
/// Streams, and datagrams, that wait to be taken.
const QUEUE: usize = 1024;
/// How long an attempt to connect lasts when nobody answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same as on the real network.
const MAX_DATAGRAM_BYTES: usize = 1_150;

/// What happens to the bytes on their way; the first argument is the piece's offset in its stream.
pub type LinkHook = Arc<dyn Fn(u64, &mut [u8]) + Send + Sync>;

/// The network that the nodes share. Clones are the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Shared>);

#[derive(Default)]
struct Shared {
    net: Mutex<Net>,
    /// Told whenever partitions change.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Net {
    nodes: HashMap<SocketAddr, Arc<NodePort>>,
    connections: HashMap<(NodeId, NodeId), CancellationToken>,
    cuts: HashSet<(NodeId, NodeId)>,
    hooks: HashMap<(NodeId, NodeId), LinkHook>,
}

/// One node's place on the network.
struct NodePort {
    id: NodeId,
    addr: SocketAddr,
    streams: mpsc::Sender<Incoming>,
    datagrams: mpsc::Sender<(NodeId, Bytes)>,
    /// Until when.
    shunned: Mutex<HashMap<NodeId, Instant>>,
    gone: CancellationToken,
    /// Held by every pipe out of this node whose bytes are not all read.
    pending: Mutex<Weak<()>>,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl MemoryNetwork {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        self.0.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a node on the network, in the place of one that had this address before.
    pub fn node(&self, id: NodeId, addr: SocketAddr) -> Arc<dyn Transport> {
        let (streams, stream_queue) = mpsc::channel(QUEUE);
        let (datagrams, datagram_queue) = mpsc::channel(QUEUE);
        let port = Arc::new(NodePort {
            id,
            addr,
            streams,
            datagrams,
            shunned: Mutex::default(),
            gone: CancellationToken::new(),
            pending: Mutex::default(),
        });
        if let Some(old) = self.net().nodes.insert(addr, Arc::clone(&port)) {
            self.disconnect(&old);
        }
        Arc::new(MemoryTransport {
            network: self.clone(),
            port,
            streams: AsyncMutex::new(stream_queue),
            datagrams: AsyncMutex::new(datagram_queue),
        })
    }

    /// Lets nothing through between the two: what is sent waits, datagrams are lost.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.net().cuts.insert(pair(a, b));
        self.0.changed.send_replace(());
    }

    /// Undoes [`partition`](Self::partition).
    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.net().cuts.remove(&pair(a, b));
        self.0.changed.send_replace(());
    }

    /// Runs `hook` over the stream bytes from `from` to `to`, of streams opened from now on.
    pub fn hook(&self, from: NodeId, to: NodeId, hook: LinkHook) {
        self.net().hooks.insert((from, to), hook);
    }

    /// Flips every `nth` byte from `from` to `to`, of streams opened from now on.
    pub fn corrupt(&self, from: NodeId, to: NodeId, nth: u64) {
        let nth = nth.max(1);
        self.hook(
            from,
            to,
            Arc::new(move |offset, piece| {
                let first = (nth - 1 - offset % nth) as usize;
                piece.iter_mut().skip(first).step_by(nth as usize).for_each(|b| *b ^= 0xff);
            }),
        );
    }

    /// Takes a node off the network at once, as a crash does. Its peers notice at once.
    pub fn kill(&self, id: NodeId) {
        let ports: Vec<_> = self.net().nodes.values().filter(|p| p.id == id).cloned().collect();
        for port in ports {
            self.net().nodes.remove(&port.addr);
            self.disconnect(&port);
        }
    }

    fn disconnect(&self, port: &NodePort) {
        port.gone.cancel();
        self.net().connections.retain(|(a, b), connection| {
            let affected = *a == port.id || *b == port.id;
            if affected {
                connection.cancel();
            }
            !affected
        });
    }

    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.net().cuts.contains(&pair(a, b))
    }

    /// Waits while the two are cut off from each other.
    async fn passable(&self, a: NodeId, b: NodeId) {
        let mut changed = self.0.changed.subscribe();
        while self.is_cut(a, b) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn pipe(&self, from: &NodePort, to: &NodePort) -> (MemorySend, MemoryRecv) {
        let mut net = self.net();
        let connection = net.connections.entry(pair(from.id, to.id)).or_default().clone();
        let hook = net.hooks.get(&(from.id, to.id)).cloned();
        drop(net);
        let pending = {
            let mut slot = from.pending.lock().unwrap_or_else(PoisonError::into_inner);
            slot.upgrade().unwrap_or_else(|| {
                let fresh = Arc::new(());
                *slot = Arc::downgrade(&fresh);
                fresh
            })
        };
        let (sender, pieces) = mpsc::channel(WINDOW_PIECES);
        let finished = Arc::new(AtomicBool::new(false));
        let whom = |port: &NodePort| format!("node {} at {}", port.id.short(), port.addr);
        (
            MemorySend {
                network: self.clone(),
                ends: (from.id, to.id),
                to: whom(to),
                sender: Some(sender),
                finished: Arc::clone(&finished),
                connection: connection.clone(),
                hook,
                offset: 0,
                _pending: Arc::clone(&pending),
            },
            MemoryRecv {
                from: whom(from),
                pieces,
                rest: Bytes::new(),
                finished,
                connection,
                started: false,
                _pending: pending,
            },
        )
    }
}

struct MemoryTransport {
    network: MemoryNetwork,
    port: Arc<NodePort>,
    streams: AsyncMutex<mpsc::Receiver<Incoming>>,
    datagrams: AsyncMutex<mpsc::Receiver<(NodeId, Bytes)>>,
}

impl NodePort {
    fn shuns(&self, id: NodeId) -> bool {
        let shunned = self.shunned.lock().unwrap_or_else(PoisonError::into_inner);
        shunned.get(&id).is_some_and(|until| Instant::now() < *until)
    }
}

impl MemoryTransport {
    /// Whoever listens at the peer's address, if both may talk.
    fn reach(&self, peer: Peer) -> Result<Arc<NodePort>> {
        let refuse =
            |kind, why: String| Err(Error::new(kind, format!("cannot connect to {}: {why}", peer.addr)));
        if self.port.gone.is_cancelled() {
            return refuse(ErrorKind::Cancelled, "the transport is closed".to_owned());
        }
        let Some(port) = self.network.net().nodes.get(&peer.addr).cloned() else {
            return refuse(ErrorKind::UNAVAILABLE, "nobody listens there".to_owned());
        };
        if port.id == self.port.id {
            return refuse(ErrorKind::Invalid, "that is ourselves".to_owned());
        }
        if let Some(expected) = peer.id.filter(|id| *id != port.id) {
            return refuse(
                ErrorKind::Denied,
                format!("expected node {expected}, but node {} answered", port.id),
            );
        }
        if self.port.shuns(port.id) || port.shuns(self.port.id) {
            return refuse(ErrorKind::Denied, format!("node {} is shunned, or shuns us", port.id));
        }
        Ok(port)
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn id(&self) -> NodeId {
        self.port.id
    }

    fn local_addr(&self) -> SocketAddr {
        self.port.addr
    }

    async fn open(&self, peer: Peer) -> Result<(Box<dyn SendStream>, Box<dyn RecvStream>)> {
        let port = self.reach(peer)?;
        timeout(CONNECT_TIMEOUT, self.network.passable(self.port.id, port.id)).await.map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "node {} at {} did not answer within {CONNECT_TIMEOUT:?}",
                    port.id.short(),
                    port.addr
                ),
            )
        })?;
        let (send, their_recv) = self.network.pipe(&self.port, &port);
        let (their_send, recv) = self.network.pipe(&port, &self.port);
        let incoming = Incoming {
            from: self.port.id,
            addr: self.port.addr,
            send: Box::new(their_send),
            recv: Box::new(their_recv),
        };
        match port.streams.send(incoming).await {
            Ok(()) => Ok((Box::new(send), Box::new(recv))),
            Err(_) => Err(Error::new(ErrorKind::UNAVAILABLE, format!("{} is gone", peer.addr))),
        }
    }

    async fn accept(&self) -> Option<Incoming> {
        let mut streams = self.streams.lock().await;
        self.port.gone.run_until_cancelled(streams.recv()).await.flatten()
    }

    fn send_datagram(&self, peer: Peer, datagram: Bytes) {
        let Ok(port) = self.reach(peer) else { return };
        if datagram.len() <= MAX_DATAGRAM_BYTES && !self.network.is_cut(self.port.id, port.id) {
            // A full queue loses datagrams, as a network does.
            let _ = port.datagrams.try_send((self.port.id, datagram));
        }
    }

    async fn recv_datagram(&self) -> Option<(NodeId, Bytes)> {
        let mut datagrams = self.datagrams.lock().await;
        self.port.gone.run_until_cancelled(datagrams.recv()).await.flatten()
    }

    fn max_datagram_bytes(&self) -> usize {
        MAX_DATAGRAM_BYTES
    }

    fn round_trip(&self, peer: NodeId) -> Option<Duration> {
        self.network
            .net()
            .connections
            .contains_key(&pair(self.port.id, peer))
            .then_some(Duration::from_micros(50))
    }

    fn last_failure(&self, addr: SocketAddr) -> Option<Error> {
        self.reach(Peer { addr, id: None }).err()
    }

    fn shun(&self, peer: NodeId, time: Duration) {
        let until = Instant::now() + time;
        self.port.shunned.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, until);
        if let Some(connection) = self.network.net().connections.remove(&pair(self.port.id, peer)) {
            connection.cancel();
        }
    }

    async fn close(&self, deadline: Duration) {
        let deadline = Instant::now() + deadline;
        {
            let mut net = self.network.net();
            if net.nodes.get(&self.port.addr).is_some_and(|p| Arc::ptr_eq(p, &self.port)) {
                net.nodes.remove(&self.port.addr);
            }
        }
        let mut look = tokio::time::interval(Duration::from_millis(5));
        let drained = async {
            while self.port.pending.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0 {
                look.tick().await;
            }
        };
        let _ = timeout_at(deadline, drained).await;
        self.network.disconnect(&self.port);
    }
}

struct MemorySend {
    network: MemoryNetwork,
    ends: (NodeId, NodeId),
    to: String,
    sender: Option<mpsc::Sender<Bytes>>,
    finished: Arc<AtomicBool>,
    connection: CancellationToken,
    hook: Option<LinkHook>,
    offset: u64,
    _pending: Arc<()>,
}

#[async_trait]
impl SendStream for MemorySend {
    async fn send(&mut self, mut bytes: Bytes, stall: Duration) -> Result<()> {
        let gone = || Error::new(ErrorKind::UNAVAILABLE, format!("the stream to {} is gone", self.to));
        let Some(sender) = &self.sender else { return Err(gone()) };
        while !bytes.is_empty() {
            let mut piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            if let Some(hook) = &self.hook {
                let mut altered = BytesMut::from(&piece[..]);
                hook(self.offset, &mut altered);
                piece = altered.freeze();
            }
            self.offset += piece.len() as u64;
            let pass = async {
                self.network.passable(self.ends.0, self.ends.1).await;
                sender.send(piece).await
            };
            match self.connection.run_until_cancelled(timeout(stall, pass)).await {
                None => return Err(gone()),
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(_))) => {
                    return Err(Error::new(ErrorKind::Cancelled, format!("{} wants no more", self.to)));
                }
                Some(Err(_)) => {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("{} took no bytes for {stall:?}", self.to),
                    ));
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if self.connection.is_cancelled() || self.sender.is_none() {
            return Err(Error::new(ErrorKind::UNAVAILABLE, format!("the stream to {} is gone", self.to)));
        }
        self.finished.store(true, Ordering::Release);
        self.sender = None;
        Ok(())
    }

    async fn stopped(&mut self) {
        if let Some(sender) = &self.sender {
            self.connection.run_until_cancelled(sender.closed()).await;
        }
    }

    fn set_priority(&mut self, _: super::Priority) {}
}

struct MemoryRecv {
    from: String,
    pieces: mpsc::Receiver<Bytes>,
    rest: Bytes,
    finished: Arc<AtomicBool>,
    connection: CancellationToken,
    started: bool,
    _pending: Arc<()>,
}

impl MemoryRecv {
    fn ended(&self, missing: usize) -> Error {
        if !self.finished.load(Ordering::Acquire) {
            return Error::new(ErrorKind::UNAVAILABLE, format!("{} gave the stream up", self.from));
        }
        let kind = if self.started { ErrorKind::Invalid } else { ErrorKind::NotFound };
        Error::new(kind, format!("the stream from {} ended {missing} bytes early", self.from))
    }
}

#[async_trait]
impl RecvStream for MemoryRecv {
    async fn recv(&mut self, len: usize, stall: Duration, progress: &AtomicU64) -> Result<Bytes> {
        let mut buffer = BytesMut::with_capacity(len.min(PIECE_BYTES));
        while buffer.len() < len {
            if self.rest.is_empty() {
                let next = timeout(stall, self.pieces.recv());
                self.rest = match self.connection.run_until_cancelled(next).await {
                    None => {
                        let context = format!("the connection to {} is gone", self.from);
                        return Err(Error::new(ErrorKind::UNAVAILABLE, context));
                    }
                    Some(Ok(Some(piece))) => piece,
                    Some(Ok(None)) => return Err(self.ended(len - buffer.len())),
                    Some(Err(_)) => {
                        let context = format!("no byte from {} for {stall:?}", self.from);
                        return Err(Error::new(ErrorKind::Timeout, context));
                    }
                };
            }
            let piece = self.rest.split_to(self.rest.len().min(len - buffer.len()));
            buffer.extend_from_slice(&piece);
            self.started = true;
            progress.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(buffer.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(3);

    fn node(network: &MemoryNetwork, n: u8) -> (NodeId, Arc<dyn Transport>) {
        let id = NodeId([n; 16]);
        (id, network.node(id, ([127, 0, 0, 1], n.into()).into()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_is_silence_until_it_heals() {
        let network = MemoryNetwork::new();
        let ((a, here), (b, there)) = (node(&network, 1), node(&network, 2));
        let peer = Peer { addr: there.local_addr(), id: Some(b) };
        let (mut send, _recv) = here.open(peer).await.unwrap();
        network.partition(a, b);
        assert_eq!(send.send(Bytes::from_static(b"x"), STALL).await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(here.open(peer).await.err().unwrap().kind(), ErrorKind::Timeout);
        network.heal(a, b);
        send.send(Bytes::from_static(b"y"), STALL).await.unwrap();
        here.open(peer).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_killed_node_fails_the_streams_to_it_at_once() {
        let network = MemoryNetwork::new();
        let ((_, here), (b, there)) = (node(&network, 1), node(&network, 2));
        let peer = Peer { addr: there.local_addr(), id: Some(b) };
        let (_send, mut recv) = here.open(peer).await.unwrap();
        network.kill(b);
        let err = recv.recv(1, STALL, &AtomicU64::new(0)).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::UNAVAILABLE);
        assert_eq!(here.open(peer).await.err().unwrap().kind(), ErrorKind::UNAVAILABLE);
        assert!(there.accept().await.is_none());
    }

    #[tokio::test]
    async fn every_nth_byte_is_flipped_across_pieces() {
        let network = MemoryNetwork::new();
        let ((a, here), (b, there)) = (node(&network, 1), node(&network, 2));
        network.corrupt(a, b, 1000);
        let (mut send, _recv) = here.open(Peer { addr: there.local_addr(), id: Some(b) }).await.unwrap();
        let len = 3 * PIECE_BYTES + 17;
        let sending =
            tokio::spawn(async move { send.send(vec![0u8; len].into(), STALL).await.map(|()| send) });
        let mut incoming = there.accept().await.unwrap();
        let got = incoming.recv.recv(len, STALL, &AtomicU64::new(0)).await.unwrap();
        let flipped: Vec<usize> = (0..len).filter(|i| got[*i] != 0).collect();
        assert_eq!(flipped, (999..len).step_by(1000).collect::<Vec<_>>());
        sending.await.unwrap().unwrap();
    }
}
