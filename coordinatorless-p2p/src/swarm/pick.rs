//! Which chunk to ask of whom next: urgent first, then what is next in order, then the rarest of what each free holder has.
//!
//! Little is out to each holder and much in all: measured in a fluid model, one chunk out to each
//! holder brings the joiners of a wave to 1.1 × their own downlink where many to one needs 1.9 ×.

use std::time::Duration;

use rand::seq::SliceRandom;

use super::{DRAWN, Now, Output, SUCCESSORS, Swarm, peers::Asked};
use crate::node::NodeId;

/// What passes, beside the round trip, between the last byte of a chunk and the next request: hashing,
/// deciding, the holder's disk. Counts where links are fast.
const TURNAROUND: Duration = Duration::from_millis(2);

/// Requests that a member of a crowd has under way at least, where its neighbours hold what it lacks: a few
/// more than most have neighbours. No most: to ask fewer holders than have something costs a crowd of 300 a
/// tenth of its time in the simulator.
const CROWD_REQUESTS: usize = 28;

impl Swarm {
    /// Fills the free places of every holder.
    pub(super) fn ask_holders(&mut self, now: Now) {
        self.ask_urgent(now);
        self.ask_in_order(now);
        let is_source = self.sources();
        let mut free: Vec<(bool, NodeId)> = self
            .neighbours
            .iter()
            .filter(|(id, n)| n.rest_until <= now && self.has_place(n) && is_source(self, **id, n))
            .map(|(id, n)| (!n.same_zone, *id))
            .collect();
        free.shuffle(&mut self.rng);
        free.sort_by_key(|(far, _)| *far);
        let mut out: usize = self.neighbours.values().map(|n| n.asked.len()).sum();
        let mut again = true;
        while again {
            again = false;
            for &(_, peer) in &free {
                if self.inflight_bytes >= self.inflight_most() {
                    return;
                }
                if self.neighbours.get(&peer).is_some_and(|n| self.has_place(n))
                    && let Some(index) = self.draw_for(now, peer)
                {
                    self.ask(now, peer, index);
                    out += 1;
                    again = true;
                }
            }
        }
        if self.crowd.is_large() {
            self.ask_twice(now, CROWD_REQUESTS.saturating_sub(out));
        }
    }

    /// Which neighbours are asked at all. The readers of a crowd do not ask each other while others are there
    /// to be asked: what they have just read is to go to those who do not know all readers.
    fn sources(&self) -> fn(&Self, NodeId, &super::Neighbour) -> bool {
        let is_other = |(id, n): &(&NodeId, &super::Neighbour)| n.same_zone && !self.crowd.is_reader(**id);
        let reads_in_crowd = self.crowd.is_large() && self.crowd.is_reader(self.me);
        if reads_in_crowd && self.neighbours.iter().filter(is_other).count() >= SUCCESSORS + DRAWN {
            |swarm, id, n| !n.same_zone || !swarm.crowd.is_reader(id)
        } else {
            |_, _, _| true
        }
    }

    /// In a crowd all holders are busy and each gives every asker its share: who has fewer neighbours than
    /// others asks some of them for a second chunk, or it would be the last to finish.
    fn ask_twice(&mut self, now: Now, more: usize) {
        if more == 0 {
            return;
        }
        let is_source = self.sources();
        let has_one = |n: &super::Neighbour| n.same_zone && n.asked.len() == 1 && n.rest_until <= now;
        let once = self.neighbours.iter().filter(|(id, n)| has_one(n) && is_source(self, **id, n));
        let mut once: Vec<NodeId> = once.map(|(id, _)| *id).collect();
        once.shuffle(&mut self.rng);
        for peer in once.into_iter().take(more) {
            if self.inflight_bytes >= self.inflight_most() {
                return;
            }
            if let Some(index) = self.draw_for(now, peer) {
                self.ask(now, peer, index);
            }
        }
    }

    /// Bytes that may be asked of all holders at a time now.
    pub(super) fn inflight_most(&self) -> u64 {
        self.allowed.bytes.min(self.config.inflight_bytes_max)
    }

    pub(super) fn has_place(&self, neighbour: &super::Neighbour) -> bool {
        let mean = self.usual_bytes;
        let pipe = neighbour.rate * (neighbour.round_trip + TURNAROUND).as_secs_f64();
        let budget = f64::from(self.config.requests_per_holder) * mean + pipe;
        neighbour.asked.is_empty() || (neighbour.asked_bytes as f64) + mean / 2.0 < budget
    }

    fn draw_for(&mut self, now: Now, peer: NodeId) -> Option<u32> {
        let stuck = self.stuck_after();
        let leaving = self.neighbours.get(&peer).is_some_and(|n| n.leaving.is_some());
        if leaving && self.neighbours.get(&peer).is_some_and(|n| n.offers_nothing()) {
            self.offer_what_goes(now, peer);
        }
        let Self { neighbours, chunks, wanted, held, spans, span_of, ranking, rng, .. } = self;
        let neighbour = neighbours.get_mut(&peer)?;
        let is_near = neighbour.same_zone;
        let brings = |c: u32| is_near || chunks[c as usize].near == 0 && ranking.brings(span_of[c as usize]);
        // Who leaves is asked only for what may go with it, whatever the zone of whoever is to take it.
        let is_due = |c: u32| if leaving { chunks[c as usize].goes() } else { brings(c) };
        neighbour.draw(
            rng,
            |c| held.contains(c) || !wanted.contains(c) || !is_due(c),
            |c| {
                let chunk = chunks[c as usize];
                let coming = spans[span_of[c as usize] as usize].is_coming(c, now, stuck);
                (chunk.asked == 0 && !chunk.arriving && !coming).then_some(u32::from(chunk.holders))
            },
        )
    }

    pub(super) fn ask(&mut self, now: Now, peer: NodeId, index: u32) {
        let bytes = u64::from(self.len(index));
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        neighbour.asked.insert(index, Asked { at: now, hedged: false });
        neighbour.asked_bytes += bytes;
        self.inflight_bytes += bytes;
        self.chunks[index as usize].asked += 1;
        self.out.push_back(Output::Request { peer, index });
    }

    /// Sends requests that take far longer than usual to a second holder.
    pub(super) fn hedge(&mut self, now: Now) {
        let Some(usual) = self.usual_rate() else { return };
        let mut late = Vec::new();
        for (id, n) in &self.neighbours {
            for (index, asked) in &n.asked {
                let expected = n.asked_bytes.max(u64::from(self.len(*index))) as f64 / usual;
                let patience =
                    Duration::from_secs_f64((expected * self.config.hedge_factor).clamp(0.25, 30.0));
                if !asked.hedged && self.chunks[*index as usize].asked == 1 && now > asked.at + patience {
                    late.push((*id, *index));
                }
            }
        }
        for (slow, index) in late {
            let bytes = u64::from(self.len(index));
            // A first small allowance: before anything was received there is no budget to speak of.
            let budget = self.received_bytes as f64 * self.config.hedge_budget + (4 << 20) as f64;
            if (self.hedged_bytes + bytes) as f64 > budget {
                return;
            }
            let second = self
                .neighbours
                .iter()
                .filter(|(id, n)| {
                    **id != slow && n.held.contains(index) && n.rest_until <= now && self.has_place(n)
                })
                .max_by(|(_, a), (_, b)| {
                    (a.same_zone, a.rate)
                        .partial_cmp(&(b.same_zone, b.rate))
                        .unwrap_or(std::cmp::Ordering::Equal)
                })
                .map(|(id, _)| *id);
            if let Some(peer) = second {
                self.hedged_bytes += bytes;
                if let Some(asked) = self.neighbours.get_mut(&slow).and_then(|n| n.asked.get_mut(&index)) {
                    asked.hedged = true;
                }
                self.ask(now, peer, index);
            }
        }
    }
}
