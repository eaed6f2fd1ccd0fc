//! Connections, streams and datagrams that peers begin.
//!
//! Whoever connects costs us a handshake, so those are counted, limited in number and rate, and
//! made to prove their address under load. What a peer sends waits in bounded queues.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc::error::TrySendError},
    time::timeout,
};

use super::{
    Inner,
    errors::{self, connection},
    link::Link,
    seldom::Seldom,
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
        let per_second = f64::from(per_second.max(1));
        Self { per_second, tokens: per_second, at }
    }

    /// Takes a token, and says how long to wait until it is there.
    fn take(&mut self, now: Instant) -> Duration {
        let back = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        (self.tokens, self.at) = ((self.tokens + back).min(self.per_second) - 1.0, now);
        Duration::from_secs_f64((-self.tokens / self.per_second).max(0.0))
    }
}

/// Takes connections until the transport closes.
pub(super) async fn serve(inner: Arc<Inner>) {
    let half = inner.config.max_handshakes / 2;
    let slots = Arc::new(Semaphore::new(inner.config.max_handshakes));
    let mut rate = Rate::new(inner.config.handshakes_per_second, Instant::now());
    let complained = Arc::new(Mutex::new(Seldom::default()));
    // Those who come while we wait for a slot or a token wait in the endpoint, which refuses them when
    // they become too many.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await
        && let Some(incoming) = inner.endpoint.quinn().accept().await
    {
        if inner.endpoint.quinn().open_connections() >= inner.config.max_connections {
            incoming.refuse();
            continue;
        }
        // From forged addresses comes at most half of the handshakes.
        if slots.available_permits() < half && !incoming.remote_address_validated() && incoming.may_retry() {
            // Fails for none that may be retried.
            let _ = incoming.retry();
            continue;
        }
        tokio::time::sleep(rate.take(Instant::now())).await;
        let from = incoming.remote_address();
        let (task_inner, complained) = (Arc::clone(&inner), Arc::clone(&complained));
        inner.spawn(async move {
            if let Err(error) = greet(task_inner, incoming, slot).await {
                complained.lock().unwrap_or_else(PoisonError::into_inner).tell(from.ip(), &error);
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
    use super::*;

    #[test]
    fn the_rate_grants_a_burst_and_then_a_steady_flow() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        assert!((0..10).all(|_| rate.take(start).is_zero()), "a second's worth at once");
        assert_eq!([rate.take(start), rate.take(start)].map(|d| d.as_millis()), [100, 200]);
        let later = start + Duration::from_millis(1_200);
        assert_eq!((0..20).filter(|_| rate.take(later).is_zero()).count(), 10);
    }
}
