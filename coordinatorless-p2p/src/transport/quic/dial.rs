//! Connections that we begin: one attempt a peer at a time, shared by all who want it.
//!
//! Invariant: an attempt goes on when the one who asked first gives up, and ends by its own
//! time-out; datagrams that wait for it are few.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use tokio::{sync::watch, time::timeout};

use super::{
    Inner,
    accept::{GREETING, peer_id},
    errors,
    link::Link,
    seldom::Seldom,
};
use crate::{
    error::{Error, ErrorKind, Result},
    transport::Peer,
};

/// Datagrams that wait for one connection; the oldest goes when there are more.
const MAX_WAITING: usize = 16;

/// Attempts under way at once that datagrams may cause.
const MAX_DIALS: usize = 1024;

/// Addresses whose last failure is remembered: as many as there are of seeds.
const MAX_FAILURES: usize = 64;

/// An attempt's end, for all who wait for it.
type Outcome = Option<Result<Arc<Link>, Arc<Error>>>;

/// The attempts under way.
#[derive(Default)]
pub(super) struct Dials {
    under_way: HashMap<Peer, Dial>,
    complained: Seldom,
    /// Why nobody was reached at an address, where it was not known who would answer.
    failures: HashMap<SocketAddr, Arc<Error>>,
}

impl Dials {
    /// See [`Transport::last_failure`](crate::transport::Transport::last_failure).
    pub(super) fn last_failure(&self, addr: SocketAddr) -> Option<Error> {
        self.failures.get(&addr).map(|error| Error::new(error.kind(), error.to_string()))
    }

    fn ended(&mut self, peer: Peer, result: &Result<Arc<Link>, Arc<Error>>) {
        match result {
            Ok(_) => drop(self.failures.remove(&peer.addr)),
            Err(error) => {
                self.complained.tell(peer.addr.ip(), error);
                let known = self.failures.contains_key(&peer.addr) || self.failures.len() < MAX_FAILURES;
                if peer.id.is_none() && known {
                    self.failures.insert(peer.addr, Arc::clone(error));
                }
            }
        }
    }
}

struct Dial {
    outcome: watch::Receiver<Outcome>,
    waiting: VecDeque<Bytes>,
}

/// Sends at once and without promise.
pub(super) fn send_datagram(link: &Link, datagram: Bytes) {
    link.touch();
    if let Err(error) = link.connection.send_datagram(datagram) {
        tracing::debug!(to = %link, %error, "datagram dropped");
    }
}

/// Sends as soon as there is a connection, if there will be one.
pub(super) fn send_later(inner: &Arc<Inner>, peer: Peer, datagram: Bytes) {
    let mut dials = inner.dials.lock().unwrap_or_else(PoisonError::into_inner);
    if !dials.under_way.contains_key(&peer) {
        if dials.under_way.len() >= MAX_DIALS {
            tracing::debug!(to = %peer.addr, "datagram dropped, too many connections under way");
            return;
        }
        begin(inner, &mut dials, peer);
    }
    if let Some(dial) = dials.under_way.get_mut(&peer) {
        if dial.waiting.len() >= MAX_WAITING {
            dial.waiting.pop_front();
        }
        dial.waiting.push_back(datagram);
    }
}

/// Connects, or waits for the attempt that is under way. Cancel-safe.
pub(super) async fn dial(inner: &Arc<Inner>, peer: Peer) -> Result<Arc<Link>> {
    let mut outcome = {
        let mut dials = inner.dials.lock().unwrap_or_else(PoisonError::into_inner);
        match dials.under_way.get(&peer) {
            Some(dial) => dial.outcome.clone(),
            None => begin(inner, &mut dials, peer),
        }
    };
    let ended = outcome.wait_for(Option::is_some).await.map(|o| o.clone());
    match ended {
        Ok(Some(Ok(link))) => Ok(link),
        // Every waiter gets an error of its own, with the kind and words of the one there was.
        Ok(Some(Err(error))) => Err(Error::new(error.kind(), error.to_string())),
        Ok(None) | Err(_) => Err(Error::new(
            ErrorKind::Cancelled,
            format!("connecting to {} ended with the transport", peer.addr),
        )),
    }
}

fn begin(inner: &Arc<Inner>, dials: &mut Dials, peer: Peer) -> watch::Receiver<Outcome> {
    let (done, outcome) = watch::channel(None);
    dials.under_way.insert(peer, Dial { outcome: outcome.clone(), waiting: VecDeque::new() });
    let task_inner = Arc::clone(inner);
    inner.spawn(async move {
        let result = connect(&task_inner, peer).await.map_err(Arc::new);
        let dial = {
            let mut dials = task_inner.dials.lock().unwrap_or_else(PoisonError::into_inner);
            dials.ended(peer, &result);
            dials.under_way.remove(&peer)
        };
        if let (Ok(link), Some(dial)) = (&result, dial) {
            for datagram in dial.waiting {
                send_datagram(link, datagram);
            }
        }
        // Nobody may be waiting, which is fine.
        let _ = done.send(Some(result));
    });
    outcome
}

async fn connect(inner: &Arc<Inner>, peer: Peer) -> Result<Arc<Link>> {
    let whom = match peer.id {
        Some(id) => format!("node {} at {}", id.short(), peer.addr),
        None => peer.addr.to_string(),
    };
    let patience = inner.config.connect_timeout;
    match timeout(patience, handshake(inner, peer, &whom)).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::Timeout, format!("{whom} did not answer within {patience:?}"))),
    }
}

async fn handshake(inner: &Arc<Inner>, peer: Peer, whom: &str) -> Result<Arc<Link>> {
    let context = || format!("cannot connect to {whom}");
    let lost = |e| errors::connection(context(), &e, ErrorKind::Timeout);
    let connecting = inner
        .endpoint
        .connect(&inner.identity, peer.id, inner.reachable(peer.addr)?)
        .map_err(|e| e.context(context()))?;
    let connection = connecting.await.map_err(lost)?;
    let id = peer_id(&connection)?;
    if id == inner.identity.id() {
        connection.close(errors::CLOSED, b"this is yourself");
        return Err(Error::new(ErrorKind::Invalid, format!("{whom} is ourselves")));
    }
    // In TLS 1.3 the dialling end is done before the other has judged its certificate. The greeting
    // tells the verdict here, where it can be named, rather than in the middle of the first stream.
    let mut greeting = connection.accept_uni().await.map_err(lost)?;
    let words = greeting
        .read_to_end(GREETING.len())
        .await
        .map_err(|e| Error::with_source(ErrorKind::UNAVAILABLE, format!("{}: no greeting", context()), e))?;
    if words != GREETING {
        connection.close(errors::CLOSED, b"unknown greeting");
        return Err(Error::new(ErrorKind::Invalid, format!("{}: unknown greeting", context())));
    }
    let link = Link::new(connection, id, peer.addr, true, inner.runtime.clone());
    if inner.admit(&link) {
        Ok(link)
    } else {
        Err(Error::new(ErrorKind::Denied, format!("{whom} is node {}, which is shunned", id.short())))
    }
}
