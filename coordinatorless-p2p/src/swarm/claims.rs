//! Claims: the word of neighbours that they read a span, how fast they do, and who gives way to whom.
//!
//! Claims that cross are settled by rank, and the one that loses is taken back. Of a span whose reader is
//! slow, who has nothing else to read takes what lies behind the chunk under way; the reader hears the claim,
//! brings that one chunk and leaves the rest. When that chunk is the last one, it is soon read by somebody
//! else as well, and at once if its reader has always been slow. So an overtaken reader costs the origin one
//! chunk twice at most, and a node behind a narrow link holds nobody up by what it has claimed.

use std::{ops::Range, time::Duration};

use super::{Now, Swarm};
use crate::node::NodeId;

/// A claim older than this does not cross a new one: whoever makes that has heard of it.
const CROSSING: Duration = Duration::from_secs(1);
/// A reader is slow that will need longer than this for the rest of its span,
const LATE: Duration = Duration::from_secs(1);
/// and as many times as long for a chunk as whoever would take it over. By all that both have read: of one
/// origin that is shared, single readings go at rates as different as that.
const LATE_TIMES: f64 = 4.0;

/// A neighbour's word that it reads a span.
#[derive(Debug, Clone, Copy)]
struct Claim {
    by: NodeId,
    since: Now,
    progress: Now,
}

/// This node's own reading of a span.
#[derive(Debug, Clone)]
pub(super) struct Mine {
    /// What was asked of the origin and has not come yet.
    pub(super) left: Range<u32>,
    pub(super) since: Now,
    pub(super) progress: Now,
    pub(super) got: u32,
    /// Another one reads what lies behind the chunk under way.
    pub(super) is_overtaken: bool,
}

/// A span that this node reads no more and has not unclaimed yet.
#[derive(Debug, Clone)]
pub(super) struct Released {
    pub(super) span: u32,
    /// What it got of it.
    got: Range<u32>,
}

/// Of one span: more than one only while claims cross, or where one reader overtook another.
#[derive(Debug, Default)]
pub(super) struct Claims(Vec<Claim>);

impl Claims {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether somebody reads who made progress, or began, less than `stuck` ago.
    pub(super) fn stand(&self, now: Now, stuck: Duration) -> bool {
        self.0.iter().any(|claim| now < claim.progress + stuck)
    }

    /// Whether `peer` reads.
    pub(super) fn has(&self, peer: NodeId) -> bool {
        self.0.iter().any(|claim| claim.by == peer)
    }

    pub(super) fn add(&mut self, by: NodeId, now: Now) {
        self.remove(by);
        self.0.push(Claim { by, since: now, progress: now });
    }

    /// How many read it.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    fn remove(&mut self, by: NodeId) -> Option<Claim> {
        let at = self.0.iter().position(|claim| claim.by == by)?;
        Some(self.0.remove(at))
    }

    /// `by` is gone.
    pub(super) fn forget(&mut self, by: NodeId) {
        self.remove(by);
    }

    /// A neighbour announced a chunk; says how long that took, if it claimed the span.
    pub(super) fn progressed(&mut self, by: NodeId, now: Now) -> Option<Duration> {
        let claim = self.0.iter_mut().find(|claim| claim.by == by)?;
        Some(now.saturating_sub(std::mem::replace(&mut claim.progress, now)))
    }

    /// Whether all who read have for so long that none can have missed a claim of this node.
    fn are_settled(&self, now: Now) -> bool {
        self.0.iter().all(|claim| now >= claim.since + CROSSING)
    }
}

/// What becomes of this node's reading when a neighbour claims the same span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Keep,
    /// All but the chunk under way.
    GiveRest,
    Give,
}

impl Swarm {
    pub(super) fn peer_claimed(&mut self, now: Now, peer: NodeId, span: u32) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        neighbour.progress = now;
        if self.spans.get(span as usize).is_none() {
            self.shun(now, peer, "claimed a span past the end");
            return;
        }
        self.spans[span as usize].claims.add(peer, now);
        match self.way(now, span, peer) {
            Way::Keep => {}
            Way::GiveRest => self.end_after_chunk(now, span),
            Way::Give => self.give_up(now, span),
        }
    }

    pub(super) fn peer_unclaimed(&mut self, now: Now, peer: NodeId, span: u32) {
        let Some(state) = self.spans.get_mut(span as usize) else { return };
        if let Some(gave_up) = state.claims.remove(peer)
            && let Some(reader) = self.neighbours.get_mut(&peer)
        {
            reader.read_in_vain(now.saturating_sub(gave_up.progress));
        }
    }

    fn way(&self, now: Now, span: u32, peer: NodeId) -> Way {
        let Some(mine) = &self.spans[span as usize].mine else { return Way::Keep };
        if mine.is_overtaken {
            return Way::Keep;
        }
        if now >= mine.since + CROSSING {
            return Way::GiveRest;
        }
        // Nearly done: what is left costs less than starting over there.
        let is_nearly_done = mine.got > 0 && mine.left.len() as u32 <= mine.got;
        let loses = self.score(span, peer) > self.score(span, self.me);
        if loses && !is_nearly_done { Way::Give } else { Way::Keep }
    }

    /// Ends a reading and says so.
    fn give_up(&mut self, now: Now, span: u32) {
        if let Some(mine) = self.spans[span as usize].mine.take() {
            self.pace.own_wait_ended(now.saturating_sub(mine.progress));
            self.out.push_back(super::Output::CancelSpan { span });
            self.release(span, &mine);
        }
    }

    /// Has a span unclaimed once all that this node got of it is announced: whoever heard it sooner would read that
    /// once more.
    pub(super) fn release(&mut self, span: u32, mine: &Mine) {
        let got = mine.left.start.saturating_sub(mine.got)..mine.left.start;
        self.released.push(Released { span, got });
    }

    /// Unclaims the released spans of which nothing is on its way into the store. What was stored is to be
    /// announced before.
    pub(super) fn unclaim_released(&mut self) {
        let Self { released, chunks, out, .. } = self;
        released.retain(|Released { span, got }| {
            let is_pending = got.clone().any(|c| chunks.get(c as usize).is_some_and(|chunk| chunk.arriving));
            if !is_pending {
                out.push_back(super::Output::Unclaim { span: *span });
            }
            is_pending
        });
    }

    /// Has a reading end behind the chunk that is under way.
    pub(super) fn end_after_chunk(&mut self, now: Now, span: u32) {
        let chunks = &self.chunks;
        let Some(mine) = &mut self.spans[span as usize].mine else { return };
        mine.is_overtaken = true;
        mine.left.end = mine.left.end.min(mine.left.start + 1);
        // What another one holds already is not read to the end.
        if mine.left.clone().all(|c| chunks[c as usize].holders > 0) {
            self.give_up(now, span);
        }
    }

    /// What others hold of a span needs no reading of this node's any more.
    pub(super) fn leave_to_holders(&mut self, now: Now, index: u32) {
        let span = self.span_of[index as usize];
        let Some(Mine { left, .. }) = &self.spans[span as usize].mine else { return };
        let is_needless = |c: u32| !self.lacks(c) || self.chunks[c as usize].holders > 0;
        if !left.is_empty() && left.contains(&index) && left.clone().skip(1).all(is_needless) {
            self.end_after_chunk(now, span);
        }
    }

    /// How long those who read take for a chunk from the origin, this node included, in the middle; of two, the
    /// faster one's.
    pub(super) fn usual_reading_pace(&self) -> Option<Duration> {
        let mut paces: Vec<Duration> =
            self.neighbours.values().map(super::Neighbour::usual_reading_pace).collect();
        paces.extend(self.pace.own_pace());
        paces.retain(|pace| !pace.is_zero());
        let middle = paces.len().checked_sub(1)? / 2;
        Some(*paces.select_nth_unstable(middle).1)
    }

    /// Whether `peer` is known to need more than [`LATE`] for a chunk, and [`LATE_TIMES`] as long as this node.
    pub(super) fn is_known_slow(&self, peer: NodeId) -> bool {
        let Some(own) = self.pace.own_pace() else { return false };
        let pace = self.neighbours.get(&peer).map(super::Neighbour::usual_reading_pace);
        pace.is_some_and(|pace| pace > own.mul_f64(LATE_TIMES).max(LATE))
    }

    /// Of a span that others read, the one who reads it, if it is slow beside this node. Who has read nothing
    /// yet does not know whether it is the origin that is slow.
    pub(super) fn slow_reader(&self, now: Now, span: u32, stuck: Duration) -> Option<NodeId> {
        let state = &self.spans[span as usize];
        if !state.claims.are_settled(now) {
            return None;
        }
        let standing = state.claims.0.iter().filter(|claim| now < claim.progress + stuck);
        let pace_of = |claim: &Claim| {
            let waiting = now.saturating_sub(claim.progress);
            self.neighbours.get(&claim.by).map(|reader| (reader.reading_pace(waiting), claim.by))
        };
        let (pace, reader) = standing.filter_map(pace_of).min()?;
        (pace * state.orphans > LATE && pace > self.pace.own_pace()?.mul_f64(LATE_TIMES)).then_some(reader)
    }

    /// Whether who has nothing else to read should not wait any longer for the last chunk of a span that another
    /// one reads: it costs little to read one chunk twice, and all may be waiting for it.
    pub(super) fn is_last_chunk_late(&self, now: Now, span: u32, stuck: Duration) -> bool {
        let claims = &self.spans[span as usize].claims;
        let Some(own) = self.pace.own_pace() else { return false };
        let patience = (own * 8).max(LATE).min(stuck);
        // Where most read slowly it may be the origin, of which they get more once this node reads nothing.
        let usual = self.usual_reading_pace().unwrap_or(own).min(stuck);
        let is_soon = |since| now < since + usual.max(patience);
        if usual > own.mul_f64(LATE_TIMES) && self.idle_since.is_none_or(is_soon) {
            return false;
        }
        if !claims.stand(now, patience) {
            return true;
        }
        // Who has always been slow is not waited for to see it once more.
        let is_slow = |claim: &Claim| {
            let left = |reader: &super::Neighbour| {
                reader.usual_reading_pace().saturating_sub(now.saturating_sub(claim.progress))
            };
            self.neighbours.get(&claim.by).is_some_and(|reader| left(reader) > (own * 2).max(LATE))
        };
        claims.are_settled(now) && claims.0.iter().all(is_slow)
    }

    /// What to read of a span whose reader is slow: all that follows the chunk it is about.
    pub(super) fn overtaken_run(&self, span: u32) -> Option<Range<u32>> {
        let chunks = self.spans[span as usize].chunks.clone();
        let under_way = chunks.clone().find(|&c| self.is_orphan(c))?;
        self.orphan_run_of(under_way + 1..chunks.end)
    }
}
