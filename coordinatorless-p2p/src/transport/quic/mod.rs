//! The seam over QUIC: one UDP socket both ways, one connection a peer, TLS 1.3 with both
//! certificates checked.
//!
//! Connections are opened on demand, kept while they are of use, and closed by the end that opened
//! them. Runs on the tokio runtime it was bound in; one current-thread runtime an endpoint measured
//! 18 % faster than a shared multi-threaded one. Knows no frames.
//!
//! Invariants: nothing is believed before the peer's certificate was; every queue has a limit; all
//! tasks end with [`close`](QuicTransport::close) or when the transport is dropped.

mod accept;
mod config;
mod dial;
mod endpoint;
mod errors;
mod link;
mod peers;
mod seldom;
mod socket;
mod stream;

#[cfg(test)]
pub(super) mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Incoming, Peer, RecvStream, SendStream, Transport};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    identity::Identity,
    node::NodeId,
};
pub use config::QuicConfig;
use dial::Dials;
pub use endpoint::TunedEndpoint;
use link::Link;
use peers::Peers;
use stream::{QuicRecv, QuicSend};

/// A datagram of this size fits the smallest path that QUIC allows (1,200 bytes) with all headers.
const MAX_DATAGRAM_BYTES: usize = 1_150;

/// How often unused connections are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// [`Transport`] over QUIC.
pub struct QuicTransport {
    inner: Arc<Inner>,
    incoming: AsyncMutex<mpsc::Receiver<Incoming>>,
    datagrams: AsyncMutex<mpsc::Receiver<(NodeId, Bytes)>>,
}

struct Inner {
    identity: Arc<Identity>,
    config: QuicConfig,
    endpoint: TunedEndpoint,
    local: SocketAddr,
    runtime: tokio::runtime::Handle,
    peers: Mutex<Peers>,
    dials: Mutex<Dials>,
    incoming: mpsc::Sender<Incoming>,
    datagrams: mpsc::Sender<(NodeId, Bytes)>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl QuicTransport {
    /// Binds `addr` (`[::]` takes IPv4 as well) and serves from the tokio runtime of the caller.
    ///
    /// # Errors
    /// `Invalid` for a configuration that makes no sense; as the socket says when it cannot be bound.
    pub fn bind(addr: SocketAddr, identity: Arc<Identity>, config: QuicConfig) -> Result<Arc<Self>> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|e| {
            Error::with_source(ErrorKind::Invalid, "a QUIC endpoint needs a tokio runtime around it", e)
        })?;
        let endpoint = TunedEndpoint::bind(addr, &identity, &config)?;
        let local = endpoint.quinn().local_addr().at(|| format!("cannot bind UDP {addr}"))?;
        let (incoming, incoming_queue) = mpsc::channel(config.incoming_queue);
        let (datagrams, datagram_queue) = mpsc::channel(config.datagram_queue);
        let inner = Arc::new(Inner {
            identity,
            config,
            endpoint,
            local,
            runtime,
            peers: Mutex::default(),
            dials: Mutex::default(),
            incoming,
            datagrams,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        inner.spawn(accept::serve(Arc::clone(&inner)));
        inner.spawn(sweep(Arc::clone(&inner)));
        Ok(Arc::new(Self {
            inner,
            incoming: AsyncMutex::new(incoming_queue),
            datagrams: AsyncMutex::new(datagram_queue),
        }))
    }

    /// Who we are and whom we believe; for reloading certificates.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.inner.identity
    }
}

async fn sweep(inner: Arc<Inner>) {
    let mut tick = tokio::time::interval(SWEEP);
    while inner.stop.run_until_cancelled(tick.tick()).await.is_some() {
        inner.peers().sweep(inner.config.unused_after);
    }
}

impl Inner {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn_on(
            async move {
                stop.run_until_cancelled_owned(task).await;
            },
            &self.runtime,
        );
    }

    /// The address as our socket can reach it: IPv4 goes through an IPv6 socket in mapped form.
    fn reachable(&self, addr: SocketAddr) -> Result<SocketAddr> {
        match (self.local.ip(), addr.ip().to_canonical()) {
            (IpAddr::V4(_), IpAddr::V6(_)) => Err(Error::new(
                ErrorKind::Invalid,
                format!("{addr} cannot be reached from {}, which speaks IPv4 only", self.local),
            )),
            (IpAddr::V6(_), IpAddr::V4(ip)) => Ok((ip.to_ipv6_mapped(), addr.port()).into()),
            (IpAddr::V4(_), IpAddr::V4(ip)) => Ok((ip, addr.port()).into()),
            (IpAddr::V6(_), IpAddr::V6(_)) => Ok(addr),
        }
    }

    /// Enters a connection whose peer is known, and serves it. False when the peer is shunned.
    fn admit(self: &Arc<Self>, link: &Arc<Link>) -> bool {
        if !self.peers().admit(link, self.identity.id()) {
            return false;
        }
        self.spawn(accept::streams(Arc::clone(self), Arc::clone(link)));
        self.spawn(accept::datagrams(Arc::clone(self), Arc::clone(link)));
        true
    }

    async fn link(self: &Arc<Self>, peer: Peer) -> Result<Arc<Link>> {
        if let Some(link) = self.find(peer)? {
            return Ok(link);
        }
        dial::dial(self, peer).await
    }

    /// A connection that is there already.
    fn find(&self, peer: Peer) -> Result<Option<Arc<Link>>> {
        let peers = self.peers();
        let Some(id) = peer.id else { return Ok(peers.find_by_addr(peer.addr)) };
        if id == self.identity.id() {
            return Err(Error::new(ErrorKind::Invalid, format!("{} is ourselves", peer.addr)));
        }
        if peers.is_shunned(id) {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("node {} at {} is shunned", id.short(), peer.addr),
            ));
        }
        Ok(peers.find(id))
    }
}

#[async_trait]
impl Transport for QuicTransport {
    fn id(&self) -> NodeId {
        self.inner.identity.id()
    }

    fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    async fn open(&self, peer: Peer) -> Result<(Box<dyn SendStream>, Box<dyn RecvStream>)> {
        // Once more when the connection turns out to be closing: its other end may just have found
        // it unused.
        for attempt in 0.. {
            let link = self.inner.link(peer).await?;
            let claim = link.enter();
            let patience = self.inner.config.connect_timeout;
            match timeout(patience, link.connection.open_bi()).await {
                Ok(Ok((send, recv))) => {
                    return Ok((
                        Box::new(QuicSend::new(send, Arc::clone(&claim))),
                        Box::new(QuicRecv::new(recv, claim)),
                    ));
                }
                Ok(Err(e)) if attempt > 0 => {
                    return Err(errors::connection(
                        format!("no stream to {link}"),
                        &e,
                        ErrorKind::UNAVAILABLE,
                    ));
                }
                Ok(Err(_)) => {}
                Err(_) => {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("{link} lets us open no further stream for {patience:?}"),
                    ));
                }
            }
        }
        Err(Error::new(ErrorKind::UNAVAILABLE, format!("no stream to {}", peer.addr)))
    }

    async fn accept(&self) -> Option<Incoming> {
        // Held by whoever waits for the next stream; others queue behind, fairly.
        let mut incoming = self.incoming.lock().await;
        self.inner.stop.run_until_cancelled(incoming.recv()).await.flatten()
    }

    fn send_datagram(&self, peer: Peer, datagram: Bytes) {
        match self.inner.find(peer) {
            Ok(Some(link)) => dial::send_datagram(&link, datagram),
            Ok(None) => dial::send_later(&self.inner, peer, datagram),
            Err(error) => tracing::debug!(%error, "datagram dropped"),
        }
    }

    async fn recv_datagram(&self) -> Option<(NodeId, Bytes)> {
        let mut datagrams = self.datagrams.lock().await;
        self.inner.stop.run_until_cancelled(datagrams.recv()).await.flatten()
    }

    fn max_datagram_bytes(&self) -> usize {
        MAX_DATAGRAM_BYTES
    }

    fn round_trip(&self, peer: NodeId) -> Option<Duration> {
        self.inner.peers().find(peer).map(|l| l.connection.rtt())
    }

    fn last_failure(&self, addr: SocketAddr) -> Option<Error> {
        let dials = self.inner.dials.lock().unwrap_or_else(PoisonError::into_inner);
        dials.last_failure(addr)
    }

    fn shun(&self, peer: NodeId, time: Duration) {
        tracing::warn!(node = %peer, seconds = time.as_secs(), "shunned");
        self.inner.peers().shun(peer, time);
    }

    async fn close(&self, deadline: Duration) {
        let inner = &self.inner;
        let deadline = Instant::now() + deadline;
        inner.endpoint.quinn().set_server_config(None);
        let mut look = tokio::time::interval(Duration::from_millis(5));
        let quiet = async {
            while inner.peers().is_busy() {
                look.tick().await;
            }
        };
        let _ = timeout_at(deadline, quiet).await;
        inner.stop.cancel();
        inner.endpoint.quinn().close(errors::CLOSED, b"closing");
        inner.tasks.close();
        inner.tasks.wait().await;
        // Lets the farewell leave the socket; a peer that does not hear it waits for its time-out.
        let farewell = Instant::now() + Duration::from_millis(200);
        let _ = timeout_at(deadline.max(farewell), inner.endpoint.quinn().wait_idle()).await;
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        self.inner.stop.cancel();
        self.inner.endpoint.quinn().close(errors::CLOSED, b"dropped");
    }
}
