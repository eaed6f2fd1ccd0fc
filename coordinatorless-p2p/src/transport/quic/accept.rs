//! Connections, streams and datagrams that peers begin.
//!
//! Whoever connects costs us a handshake, so those are counted, limited in number and rate, and
//! made to prove their address under load. What a peer sends waits in bounded queues.

use std::{sync::Arc, time::Instant};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc::error::TrySendError},
    time::timeout,
};

use super::{
    Inner,
    errors::{self, connection},
    link::Link,
    stream::{QuicRecv, QuicSend},
};
use crate::{
    error::{Error, ErrorKind, Result},
    identity::node_id_of,
    node::NodeId,
    transport::Incoming,
};

/// What the accepting end says once it believes the other: the version of the greeting.
pub(super) const GREETING: &[u8] = &[1];

/// Tokens that come back at a steady rate, up to a second's worth.
struct Rate {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Rate {
    fn new(per_second: u32, at: Instant) -> Self {
        Self { per_second: per_second.into(), tokens: per_second.into(), at }
    }

    fn take(&mut self, now: Instant) -> bool {
        let back = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        (self.tokens, self.at) = ((self.tokens + back).min(self.per_second), now);
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

/// Takes connections until the transport closes.
pub(super) async fn serve(inner: Arc<Inner>) {
    let slots = Arc::new(Semaphore::new(inner.config.max_handshakes));
    let mut rate = Rate::new(inner.config.handshakes_per_second, Instant::now());
    while let Some(incoming) = inner.endpoint.accept().await {
        if inner.endpoint.open_connections() >= inner.config.max_connections {
            incoming.refuse();
            continue;
        }
        let unproven = !incoming.remote_address_validated();
        if unproven && slots.available_permits() <= inner.config.max_handshakes / 2 && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        // Ignored, the peer repeats its first packet a moment later: a queue that costs us nothing.
        let (true, Ok(slot)) = (rate.take(Instant::now()), Arc::clone(&slots).try_acquire_owned()) else {
            incoming.ignore();
            continue;
        };
        let from = incoming.remote_address();
        let task_inner = Arc::clone(&inner);
        inner.spawn(async move {
            if let Err(error) = greet(task_inner, incoming, slot).await {
                tracing::debug!(%from, %error, "connection refused");
            }
        });
    }
}

async fn greet(inner: Arc<Inner>, incoming: quinn::Incoming, slot: OwnedSemaphorePermit) -> Result<()> {
    let addr = incoming.remote_address();
    let context = || format!("connection from {addr}");
    let patience = inner.config.connect_timeout;
    let connecting = incoming.accept().map_err(|e| connection(context(), &e, ErrorKind::Timeout))?;
    let established = timeout(patience, connecting)
        .await
        .map_err(|_| Error::new(ErrorKind::Timeout, format!("{}: no handshake", context())))?
        .map_err(|e| connection(context(), &e, ErrorKind::Timeout))?;
    let id = peer_id(&established)?;
    let mut addr = established.remote_address();
    addr.set_ip(addr.ip().to_canonical());
    let link = Link::new(established, id, addr, false, inner.runtime.clone());
    if id == inner.identity.id() {
        link.connection.close(errors::CLOSED, b"this is yourself");
        return Err(Error::new(ErrorKind::Invalid, "we reached ourselves"));
    }
    if !inner.admit(&link) {
        return Ok(());
    }
    drop(slot);
    let greeting = async {
        let mut stream = link.connection.open_uni().await.ok()?;
        stream.write_all(GREETING).await.ok()?;
        stream.finish().ok()
    };
    // A peer that does not take its greeting will not use the connection either.
    let _ = timeout(patience, greeting).await;
    Ok(())
}

/// Whose certificate the connection has.
pub(super) fn peer_id(connection: &quinn::Connection) -> Result<NodeId> {
    let chain = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>().ok());
    match chain.as_deref().and_then(|c| c.first()) {
        Some(certificate) => node_id_of(certificate),
        None => Err(Error::new(ErrorKind::Denied, "the peer showed no certificate")),
    }
}

/// Hands the streams of one connection to the transport's owner, waiting while it is busy.
pub(super) async fn streams(inner: Arc<Inner>, link: Arc<Link>) {
    while let Ok((send, recv)) = link.connection.accept_bi().await {
        let claim = link.enter();
        let incoming = Incoming {
            from: link.id,
            addr: link.addr,
            send: Box::new(QuicSend::new(send, Arc::clone(&claim))),
            recv: Box::new(QuicRecv::new(recv, claim)),
        };
        if inner.incoming.send(incoming).await.is_err() {
            return;
        }
    }
}

/// Hands the datagrams of one connection to the transport's owner, dropping them while it is busy.
pub(super) async fn datagrams(inner: Arc<Inner>, link: Arc<Link>) {
    while let Ok(datagram) = link.connection.read_datagram().await {
        link.touch();
        match inner.datagrams.try_send((link.id, datagram)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => tracing::trace!(from = %link, "datagram dropped, queue full"),
            Err(TrySendError::Closed(_)) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_rate_grants_a_burst_and_then_a_steady_flow() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        assert_eq!((0..50).filter(|_| rate.take(start)).count(), 10);
        let later = start + Duration::from_millis(301);
        assert_eq!((0..50).filter(|_| rate.take(later)).count(), 3);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..50).filter(|_| rate.take(much_later)).count(), 10);
    }
}
