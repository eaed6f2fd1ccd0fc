//! Which connection goes to which peer, which are superfluous, and who is shunned.
//!
//! Pure bookkeeping under one lock: nothing in here waits.
//!
//! Invariant: at most one connection a peer gets new streams. When both ends dial at once, both keep
//! the one that the node with the smaller id opened, and the other lives until its streams are done.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{errors, link::Link};
use crate::node::NodeId;

/// Two connections that are this close in age come from dialling at the same time; an older one
/// is replaced, because its peer has probably restarted.
const SAME_TIME: Duration = Duration::from_secs(3);

/// A superfluous connection without streams is kept this long, for words under way.
const RETIREMENT: Duration = Duration::from_secs(5);

/// Superfluous connections kept for one peer; the oldest is closed when there are more.
const MAX_RETIRED: usize = 4;

#[derive(Default)]
pub(super) struct Peers {
    live: HashMap<NodeId, Arc<Link>>,
    retired: HashMap<NodeId, Vec<Arc<Link>>>,
    /// Until when.
    shunned: HashMap<NodeId, Instant>,
}

impl Peers {
    /// The connection for new streams to `id`.
    pub(super) fn find(&self, id: NodeId) -> Option<Arc<Link>> {
        self.live.get(&id).filter(|l| l.is_open()).cloned()
    }

    /// The connection that was opened to `addr`, whoever answered there.
    pub(super) fn find_by_addr(&self, addr: SocketAddr) -> Option<Arc<Link>> {
        self.live.values().find(|l| l.dialled && l.addr == addr && l.is_open()).cloned()
    }

    pub(super) fn is_shunned(&self, id: NodeId) -> bool {
        self.shunned.get(&id).is_some_and(|until| Instant::now() < *until)
    }

    /// Enters a connection; false (and closed) when its peer is shunned.
    pub(super) fn admit(&mut self, link: &Arc<Link>, own: NodeId) -> bool {
        if self.is_shunned(link.id) {
            link.connection.close(errors::SHUNNED, b"shunned");
            return false;
        }
        let winner = match self.live.remove(&link.id) {
            Some(old) if old.is_open() => {
                let (winner, loser) =
                    if stays(&old, link, own) { (old, Arc::clone(link)) } else { (Arc::clone(link), old) };
                self.retire(loser);
                winner
            }
            _ => Arc::clone(link),
        };
        self.live.insert(link.id, winner);
        true
    }

    fn retire(&mut self, link: Arc<Link>) {
        link.touch();
        let retired = self.retired.entry(link.id).or_default();
        retired.retain(|l| l.is_open());
        if retired.len() >= MAX_RETIRED {
            retired.remove(0).connection.close(errors::DUPLICATE, b"too many connections");
        }
        retired.push(link);
    }

    /// Closes what nobody used for `idle_after` and forgets what is closed.
    pub(super) fn sweep(&mut self, idle_after: Duration) {
        self.live.retain(|_, link| {
            if link.dialled && link.idle().is_some_and(|idle| idle >= idle_after) {
                link.connection.close(errors::CLOSED, b"idle");
            }
            link.is_open()
        });
        self.retired.retain(|_, links| {
            links.retain(|link| {
                if link.dialled && link.idle().is_some_and(|idle| idle >= RETIREMENT) {
                    link.connection.close(errors::DUPLICATE, b"superfluous");
                }
                link.is_open()
            });
            !links.is_empty()
        });
    }

    pub(super) fn shun(&mut self, id: NodeId, time: Duration) {
        let now = Instant::now();
        self.shunned.retain(|_, until| now < *until);
        let until = self.shunned.entry(id).or_insert(now);
        *until = (*until).max(now + time);
        let links = self.live.remove(&id).into_iter().chain(self.retired.remove(&id).into_iter().flatten());
        for link in links {
            link.connection.close(errors::SHUNNED, b"shunned");
        }
    }

    /// Whether any connection still has something to send or to receive.
    pub(super) fn is_busy(&self) -> bool {
        self.live.values().chain(self.retired.values().flatten()).any(|l| l.is_busy())
    }
}

/// Whether the connection we have is kept for new streams now that there is another.
fn stays(old: &Link, new: &Link, own: NodeId) -> bool {
    let simultaneous = old.dialled != new.dialled && Instant::now().duration_since(old.born) < SAME_TIME;
    simultaneous && old.dialled == (own < old.id)
}
