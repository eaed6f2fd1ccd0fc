//! What should come next although nobody waits for it yet: what readers will come to, and the order in which
//! the artifact was read before.
//!
//! Only the head of the order counts, so that the rest goes on rarest first. Owns no requests.

use std::{collections::VecDeque, ops::Range};

use super::{Now, Swarm};
use crate::node::NodeId;

/// Chunks of read-ahead remembered; the oldest are forgotten.
const AHEAD_MAX: usize = 4096;
/// So much of the head of the order is sought at a time.
const HEAD: usize = 32;

/// An order of chunks, read-ahead in front.
#[derive(Debug, Default)]
pub(super) struct Order {
    ahead: VecDeque<u32>,
    recorded: Vec<u32>,
    /// Everything recorded in front of this is here.
    cursor: usize,
}

impl Order {
    pub(super) fn is_empty(&self) -> bool {
        self.ahead.is_empty() && self.cursor >= self.recorded.len()
    }

    /// The first chunks of the order that are lacking.
    fn head(&mut self, lacks: impl Fn(u32) -> bool) -> Vec<u32> {
        self.ahead.retain(|&index| lacks(index));
        while self.recorded.get(self.cursor).is_some_and(|&index| !lacks(index)) {
            self.cursor += 1;
        }
        let rest = self.recorded.get(self.cursor..).unwrap_or_default();
        // Chunks of the order that are here are skipped, but not for ever.
        let rest = rest.iter().copied().take(8 * HEAD);
        self.ahead.iter().copied().chain(rest).filter(|&index| lacks(index)).take(HEAD).collect()
    }
}

impl Swarm {
    /// Readers are about to come to these; what was not wanted is from now on.
    pub(super) fn ahead(&mut self, indices: Vec<u32>) {
        for index in indices {
            if self.want_too(index) && !self.order.ahead.contains(&index) {
                self.order.ahead.push_back(index);
            }
        }
        while self.order.ahead.len() > AHEAD_MAX {
            self.order.ahead.pop_front();
        }
    }

    /// The artifact was read in this order before.
    pub(super) fn ordered(&mut self, mut indices: Vec<u32>) {
        let count = self.chunks.len() as u32;
        indices.retain(|&index| index < count);
        indices.truncate(count as usize);
        (self.order.recorded, self.order.cursor) = (indices, 0);
    }

    /// The head of the order.
    fn head(&mut self) -> Vec<u32> {
        if self.order.is_empty() {
            return Vec::new();
        }
        let Self { order, wanted, held, .. } = self;
        order.head(|index| wanted.contains(index) && !held.contains(index))
    }

    /// Asks holders with a free place for the head of the order.
    pub(super) fn ask_in_order(&mut self, now: Now) {
        for index in self.head() {
            if self.inflight_bytes >= self.inflight_most() {
                return;
            }
            let chunk = self.chunks[index as usize];
            let is_free = chunk.asked == 0 && !chunk.arriving && chunk.holders > 0;
            if is_free && let Some(peer) = self.best_holder(now, index, |n| self.has_place(n)) {
                self.ask(now, peer, index);
            }
        }
    }

    /// The first chunks of the order that this node is to read from the origin, from the first of them to the
    /// end of the run in its span.
    pub(super) fn run_in_order(&mut self, now: Now) -> Option<(u32, Range<u32>)> {
        let stuck = self.takeover_after(now);
        let grace = now < self.began + self.config.meeting_grace;
        for index in self.head() {
            let s = self.span_of[index as usize];
            let span = &self.spans[s as usize];
            let is_claimed = span.claims.stand(now, stuck);
            if span.mine.is_some() || is_claimed || !self.is_orphan(index) {
                continue;
            }
            let chunks = span.chunks.clone();
            if self.owner(s, grace) == self.me {
                let end = (index..chunks.end).find(|&c| !self.is_orphan(c)).unwrap_or(chunks.end);
                return Some((s, index..end));
            }
        }
        None
    }

    /// The holder of a chunk that should bring it first, of those that `fit`.
    pub(super) fn best_holder(
        &self,
        now: Now,
        index: u32,
        fit: impl Fn(&super::Neighbour) -> bool,
    ) -> Option<NodeId> {
        self.neighbours
            .iter()
            .filter(|(_, n)| n.held.contains(index) && n.rest_until <= now && fit(n))
            .min_by(|(_, a), (_, b)| {
                let cost = |n: &super::Neighbour| (!n.same_zone, n.asked_bytes as f64 / n.rate.max(1.0));
                cost(a).partial_cmp(&cost(b)).unwrap_or(std::cmp::Ordering::Equal)
            })
            .map(|(id, _)| *id)
    }

    /// Has the chunk wanted, if it is not here; whether it is lacking now.
    pub(super) fn want_too(&mut self, index: u32) -> bool {
        if index >= self.chunks.len() as u32 || self.held.contains(index) {
            return false;
        }
        if self.wanted.insert(index) {
            self.missing += 1;
            self.complete_said = false;
            if self.chunks[index as usize].holders == 0 {
                self.span_mut(index).settle(false);
            }
            for neighbour in self.neighbours.values_mut() {
                neighbour.offer(index);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_what_lacks_of_the_read_ahead_and_then_of_the_record() {
        let mut order = Order { ahead: [7, 3].into(), recorded: vec![0, 1, 2, 3, 4], cursor: 0 };
        assert_eq!(order.head(|index| ![0, 1, 3].contains(&index)), [7, 2, 4]);
        assert_eq!((order.cursor, order.ahead.len()), (2, 1), "what is here is forgotten");
        assert!(order.head(|_| false).is_empty() && order.is_empty());
    }
}
