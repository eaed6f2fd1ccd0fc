//! Departures that are announced: what only those who go hold is taken from them first.
//!
//! A neighbour that leaves is asked for nothing that others hold as well, so that its link carries what
//! would go with it, and each such chunk at first by one taker: the first in rank of those that want it.
//! The one who leaves reads to the end what it reads, and knows when nothing would go with it.

use std::time::Duration;

use super::{Now, Output, Swarm};
use crate::{
    node::NodeId,
    ring::{RendezvousKey, rendezvous_score},
};

/// How long a chunk that would go is left to the first in rank of those that want it.
const TAKE_TURNS: Duration = Duration::from_secs(2);

impl Swarm {
    /// Bytes held here, or about to be, that a neighbour which stays wants and none that stays holds.
    pub fn only_here_bytes(&self) -> u64 {
        let staying = || self.neighbours.values().filter(|n| n.leaving.is_none());
        if staying().next().is_none() {
            return 0;
        }
        let reading =
            self.spans.iter().filter_map(|span| span.mine.as_ref()).flat_map(|mine| mine.left.clone());
        // Who has fallen silent may be dead: what it held is not safe with it.
        let is_safe = |c: u32| staying().any(|n| !n.doubted && n.held.contains(c));
        let only_here = |c: &u32| !is_safe(*c) && staying().any(|n| n.wants(*c));
        self.held.iter().chain(reading).filter(only_here).map(|c| u64::from(self.len(c))).sum()
    }

    /// From now on nothing is asked for and no reading begun.
    pub(super) fn leave(&mut self) {
        self.leaves = true;
    }

    /// Gives up what this node reads from the origin: it would not be here in time.
    pub(super) fn give_readings_up(&mut self) {
        for span in self.reading().collect::<Vec<_>>() {
            if let Some(mine) = self.spans[span as usize].mine.take() {
                self.out.push_back(Output::CancelSpan { span });
                self.release(span, &mine);
            }
        }
    }

    /// Nothing is expected of `peer` any more but chunks, and the spans that it reads already.
    pub(super) fn peer_leaves(&mut self, now: Now, peer: NodeId) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        if !neighbour.leave(now) {
            return;
        }
        self.ranking.is_stale = true;
        let asked: Vec<u32> = neighbour.asked.keys().copied().collect();
        if !neighbour.doubted {
            neighbour.held.iter().for_each(|c| self.chunks[c as usize].going += 1);
        }
        for index in asked {
            if self.chunks[index as usize].goes() {
                continue;
            }
            self.take_request(peer, index);
            self.out.push_back(Output::Cancel { peer, index });
            self.offer_again(index);
        }
        // Those who said it before may share chunks with this one that nobody else has.
        let leaving: Vec<NodeId> =
            self.neighbours.iter().filter(|(_, n)| n.leaving.is_some()).map(|(id, _)| *id).collect();
        for peer in leaving {
            self.offer_what_goes(now, peer);
        }
    }

    /// Has `peer`, which leaves, offer what would go with it and is this node's to take.
    pub(super) fn offer_what_goes(&mut self, now: Now, peer: NodeId) {
        let Some(neighbour) = self.neighbours.get(&peer) else { return };
        let Some(since) = neighbour.leaving else { return };
        let offers: Vec<u32> = neighbour
            .held
            .iter()
            .filter(|&c| self.lacks(c) && self.chunks[c as usize].goes())
            .filter(|&c| now >= since + TAKE_TURNS || self.takes_first(c))
            .collect();
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.offer_only(offers);
        }
    }

    /// Whether this node is the first to take a chunk that only those who leave hold.
    pub(super) fn takes_first(&self, index: u32) -> bool {
        let score = |id| rendezvous_score(id, RendezvousKey::part(&self.spec.id.0, index));
        let mine = score(self.me);
        let staying = self.neighbours.iter().filter(|(_, n)| n.leaving.is_none() && n.wants(index));
        !staying.into_iter().any(|(id, _)| score(*id) > mine)
    }

    /// As [`takes_first`](Self::takes_first) of what a neighbour that leaves has just stored; true of others.
    pub(super) fn takes_first_if_leaving(&self, peer: NodeId, index: u32) -> bool {
        self.neighbours.get(&peer).is_none_or(|n| n.leaving.is_none()) || self.takes_first(index)
    }
}
