//! Who reads which span from the origin: rendezvous ranks, claims, take-over and help at the end.
//!
//! A span belongs to the participant that ranks first for it. Each reads its own from the front of the
//! artifact to the end, so that files become whole one after the other. A node that has none of its own
//! left helps the one with the longest backlog from the far end of its list, so helper and owner
//! meet as late as possible, and reads the last span of an owner that is known to be slow; where only slow
//! readers are left, it overtakes one of them. So the spans of nodes behind narrow links are read by others,
//! although ranks know no rates.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use rand::Rng;

use super::{
    DIRECT, Now, Output, Swarm,
    claims::{Claims, Mine},
};
use crate::{
    chunk::ChunkSet,
    error::ErrorKind,
    node::NodeId,
    ring::{RendezvousKey, rendezvous_score},
};

/// How long a ranking stands that depends on who makes progress.
const RANKED_FOR: Duration = Duration::from_secs(1);

/// One span.
#[derive(Debug)]
pub(super) struct SpanState {
    pub(super) chunks: Range<u32>,
    /// Wanted chunks that nobody known holds: only the origin has them.
    pub(super) orphans: u32,
    pub(super) claims: Claims,
    pub(super) mine: Option<Mine>,
}

impl SpanState {
    pub(super) fn new(chunks: Range<u32>, held: &ChunkSet, wanted: &ChunkSet) -> Self {
        let orphans = chunks.clone().filter(|&c| wanted.contains(c) && !held.contains(c)).count() as u32;
        Self { chunks, orphans, claims: Claims::default(), mine: None }
    }

    /// A chunk of this span is held by somebody now, or by nobody any more.
    pub(super) fn settle(&mut self, held: bool) {
        if held {
            self.orphans = self.orphans.saturating_sub(1);
        } else {
            self.orphans += 1;
        }
    }

    /// Whether this node's own reading will bring the chunk, unless it is stuck for that long.
    pub(super) fn is_coming(&self, index: u32, now: Now, stuck: Duration) -> bool {
        self.mine.as_ref().is_some_and(|m| m.left.contains(&index) && now < m.progress + stuck)
    }
}

/// Who ranks first for each span, as of the neighbours known now.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    pub(super) is_stale: bool,
    /// When it is to be computed anew although nobody came or went.
    until: Now,
    /// Whoever reads the span from the origin.
    owners: Vec<NodeId>,
    /// Whether this node is the one of its zone that asks other zones for chunks of the span.
    brings: Vec<bool>,
}

impl Ranking {
    /// Whether this node is the one of its zone that asks other zones for chunks of the span.
    pub(super) fn brings(&self, span: u32) -> bool {
        self.brings.get(span as usize).copied().unwrap_or(true)
    }
}

impl Swarm {
    /// Sees to it that the ranking is that of the participants known now.
    pub(super) fn rank(&mut self, now: Now) {
        let is_new = self.ranking.owners.is_empty();
        if !is_new && !self.ranking.is_stale && now < self.ranking.until {
            return;
        }
        let (stuck, meets_until) = (self.takeover_after(now), self.began + self.config.meeting_max);
        let has_just_begun = now >= meets_until && self.crowd.has_just_begun(now);
        let is_meeting = self.members.len() > 1 && (now < meets_until || has_just_begun);
        let reads = self.is_reading_for_others(now);
        let unmet = |id: &NodeId| is_meeting && *id != self.me && !self.neighbours.contains_key(id);
        // Readers who were named and have not spoken yet are counted on for a moment.
        let unmet_readers: Vec<NodeId> = self.crowd.readers().filter(unmet).collect();
        let unmet_near: Vec<NodeId> = self
            .unmet_of_this_zone()
            .into_iter()
            .filter(|id| unmet(id) && self.crowd.is_reader(*id))
            .collect();
        // Those it reads with have brought much across the border that a new reader has not heard of.
        let may_bring = reads && (self.met.is_some() || !is_meeting);
        let may_bring = may_bring && (!has_just_begun || unmet_near.is_empty());
        let rivals: Vec<(NodeId, &super::Neighbour)> = self
            .neighbours
            .iter()
            .filter(|(id, _)| self.crowd.is_reader(**id))
            .map(|(id, n)| (*id, n))
            .collect();
        let has_far = self.neighbours.values().any(|n| !n.same_zone);
        let (mut owners, mut brings) = (Vec::new(), Vec::new());
        for (s, span) in self.spans.iter().enumerate() {
            let (s, chunks) = (s as u32, span.chunks.clone());
            let mine = self.score(s, self.me);
            let mut best = (mine, self.me);
            let mut is_first_here = may_bring;
            for &(id, neighbour) in &rivals {
                if !neighbour.wants_any(chunks.clone()) {
                    continue;
                }
                let score = self.score(s, id);
                let is_late = now >= neighbour.progress + stuck;
                is_first_here &= score <= mine || !neighbour.same_zone || is_late;
                if neighbour.reads_any(chunks.clone()) && (score > best.0 || best.1 == self.me && !reads) {
                    best = (score, id);
                }
            }
            for &id in &unmet_readers {
                best = best.max((self.score(s, id), id));
            }
            is_first_here &= unmet_near.iter().all(|id| self.score(s, *id) <= mine);
            owners.push(best.1);
            brings.push(is_first_here);
        }
        let changed = self.ranking.brings != brings;
        let until = if has_far || is_meeting { now + RANKED_FOR } else { Now::MAX };
        self.ranking = Ranking { is_stale: false, until, owners, brings };
        if changed && has_far {
            // What others were to bring across the border was forgotten.
            for neighbour in self.neighbours.values_mut().filter(|n| !n.same_zone) {
                neighbour.offer_all(&self.held);
            }
        }
    }

    /// Starts as many origin reads as the pace allows.
    pub(super) fn read_origin(&mut self, now: Now) {
        if self.is_meeting(now) {
            return;
        }
        if self.reads_origin {
            self.rush(now);
        }
        if !self.is_reading_for_others(now) || self.is_left_to_readers(now) {
            return;
        }
        let participants = 1 + self.neighbours.keys().filter(|id| self.crowd.is_reader(**id)).count();
        let others = self.spans.iter().filter(|s| s.orphans > 0).map(|s| s.claims.count()).sum();
        while self.reads_origin {
            let met_nobody = self.neighbours.is_empty() && now >= self.began + self.config.meeting_max;
            let alone = self.members.len() <= 1 || met_nobody;
            // Where chunks come fast, a reading whose last chunk is on its way does not count, so that the
            // next request is at the origin before this one ends.
            let nearly = u32::from(self.pace.is_fast());
            let ending = |m: &Mine| m.left.len() as u32 <= nearly;
            let busy = self.spans.iter().filter(|s| s.mine.as_ref().is_some_and(|m| !ending(m))).count();
            let open = self.spans.iter().filter(|s| s.mine.is_some()).count();
            let streams = if alone {
                self.pace.streams_alone(now)
            } else {
                self.pace.streams(now, participants, others, busy)
            };
            if busy >= streams || open > streams || open >= self.allowed.streams {
                return;
            }
            if busy > 0 {
                self.idle_since = None;
            } else {
                self.idle_since.get_or_insert(now);
            }
            let run = self.run_in_order(now).or_else(|| self.run_in_turn(now, busy));
            let Some((span, run)) = run else { return };
            self.idle_since = None;
            let left = run.clone();
            self.spans[span as usize].mine =
                Some(Mine { left, since: now, progress: now, got: 0, is_overtaken: false });
            self.crowd.has_read();
            self.released.retain(|released| released.span != span);
            self.out.push_back(Output::Claim { span });
            self.out.push_back(Output::FetchSpan { span, chunks: run });
        }
    }

    /// Whether others may be about to say that they hold what this node would read in vain.
    fn is_meeting(&self, now: Now) -> bool {
        if self.members.len() <= 1 || now >= self.began + self.config.meeting_max {
            return false;
        }
        match &self.met {
            None => true,
            // Where there may be a crowd, who reads is known when all who came at once have been named.
            Some(_) if self.members.len() > DIRECT && now < self.began + self.config.crowd_quiet => true,
            // Of a crowd those who read must have spoken.
            Some(_) if self.crowd.is_large() => self.awaits_readers(),
            // One home knows of nobody; another, older one may.
            Some(expected) if expected.is_empty() => now < self.began + self.config.meeting_quiet,
            Some(expected) => {
                expected.iter().any(|id| self.is_member(*id) && !self.neighbours.contains_key(id))
            }
        }
    }

    /// Whether this node reads for a crowd and some who do so too have not said what they hold.
    fn awaits_readers(&self) -> bool {
        let is_unmet = |id: NodeId| id != self.me && !self.neighbours.contains_key(&id);
        self.crowd.is_reader(self.me) && self.crowd.readers().any(is_unmet)
    }

    /// Whether a new reader of a crowd, which has not heard from all others, leaves the reading to them. Not
    /// where nobody has got anything yet: all would wait for one that is dead.
    fn is_left_to_readers(&self, now: Now) -> bool {
        self.crowd.has_just_begun(now) && self.awaits_readers() && self.chunks.iter().any(|c| c.holders > 0)
    }

    /// The first unbroken run of chunks in the span that only the origin has.
    fn orphan_run(&self, span: u32) -> Option<Range<u32>> {
        self.orphan_run_of(self.spans[span as usize].chunks.clone())
    }

    pub(super) fn orphan_run_of(&self, chunks: Range<u32>) -> Option<Range<u32>> {
        let start = chunks.clone().find(|&c| self.is_orphan(c))?;
        let end = (start..chunks.end).find(|&c| !self.is_orphan(c)).unwrap_or(chunks.end);
        Some(start..end)
    }

    /// Whether a chunk is lacking, only the origin has it, and it is not on its way by itself.
    pub(super) fn is_orphan(&self, index: u32) -> bool {
        let chunk = &self.chunks[index as usize];
        self.lacks(index) && chunk.holders == 0 && !chunk.arriving && !self.urgent.is_rushed(index)
    }

    /// The span to read next and what of it: one of this node's own, one whose reader or owner is stuck, one
    /// that somebody else will come to late, or, where nothing is `busy` here, will be through with late.
    fn run_in_turn(&mut self, now: Now, busy: usize) -> Option<(u32, Range<u32>)> {
        let stuck = self.takeover_after(now);
        let grace = now < self.began + self.config.meeting_grace;
        let is_idle = busy == 0 && !grace;
        let mut own: Option<u32> = None;
        // By rank, or all who find a reader stuck or slow would take the same one.
        let mut stale: Option<(u64, u32)> = None;
        let mut slow: Option<(u64, u32)> = None;
        let mut last: Option<(u64, u32)> = None;
        let mut slow_readers = BTreeSet::new();
        let mut backlog: BTreeMap<NodeId, (u32, u32)> = BTreeMap::new();
        for (s, span) in self.spans.iter().enumerate() {
            if span.orphans == 0 || span.mine.is_some() || self.orphan_run(s as u32).is_none() {
                continue;
            }
            let s = s as u32;
            if span.claims.stand(now, stuck) {
                let rank = self.score(s, self.me);
                if is_idle && let Some(reader) = self.slow_reader(now, s, stuck) {
                    slow_readers.insert(reader);
                    slow = slow.max(self.overtaken_run(s).map(|_| (rank, s)));
                }
                if is_idle && span.orphans == 1 && self.is_last_chunk_late(now, s, stuck) {
                    last = last.max(Some((rank, s)));
                }
                continue;
            }
            let owner = self.owner(s, grace);
            let was_claimed = !span.claims.is_empty();
            if owner == self.me {
                own = own.or(Some(s));
            } else if was_claimed || self.neighbours.get(&owner).is_some_and(|n| now >= n.progress + stuck) {
                stale = stale.max(Some((self.score(s, self.me), s)));
            } else if self.neighbours.contains_key(&owner) {
                // The last one is the span its owner will come to last.
                let entry = backlog.entry(owner).or_insert((0, s));
                *entry = (entry.0 + 1, s);
            }
        }
        if let Some(span) = own.or(stale.map(|(_, span)| span)) {
            return Some((span, self.orphan_run(span)?));
        }
        if grace {
            return None;
        }
        // Helping with the last span of somebody who comes to it soon would only cross its own claim.
        backlog.retain(|owner, (count, _)| {
            *count >= 2 || slow_readers.contains(owner) || is_idle && self.is_known_slow(*owner)
        });
        let most = backlog.values().map(|b| b.0).max().unwrap_or(0);
        let mut longest: Vec<u32> = backlog.values().filter(|b| b.0 == most).map(|b| b.1).collect();
        longest.sort_unstable();
        if longest.is_empty() {
            let overtaken = slow.and_then(|(_, span)| Some((span, self.overtaken_run(span)?)));
            return overtaken.or_else(|| last.and_then(|(_, span)| Some((span, self.orphan_run(span)?))));
        }
        let span = longest[self.rng.random_range(0..longest.len())];
        Some((span, self.orphan_run(span)?))
    }

    /// Without progress for this long, another reader of the origin counts as stuck.
    pub(super) fn takeover_after(&self, now: Now) -> Duration {
        let waits = self.spans.iter().filter_map(|s| s.mine.as_ref()).map(|m| now.saturating_sub(m.progress));
        let waiting = waits.max().unwrap_or_default();
        let (min, max) = (self.config.takeover_min, self.config.takeover_max);
        self.pace.takeover_after(min, max, waiting, self.usual_reading_pace())
    }

    /// Without progress for this long, a reading of this node's own or a neighbour counts as stuck.
    pub(super) fn stuck_after(&self) -> Duration {
        self.pace.stuck_after(self.config.takeover_min, self.config.takeover_max)
    }

    pub(super) fn score(&self, span: u32, node: NodeId) -> u64 {
        rendezvous_score(node, RendezvousKey::part(&self.spec.id.0, span))
    }

    /// Who ranks first for a span, among participants that want it; in the first moments among all
    /// members, most of which this node has not met yet.
    pub(super) fn owner(&self, span: u32, grace: bool) -> NodeId {
        let owner = self.ranking.owners.get(span as usize).copied().unwrap_or(self.me);
        if !grace || owner != self.me || self.crowd.is_large() {
            return owner;
        }
        let mine = self.score(span, self.me);
        let unmet = self.members.iter().map(|m| m.id).filter(|id| !self.neighbours.contains_key(id));
        unmet.into_iter().find(|id| self.score(span, *id) > mine).unwrap_or(self.me)
    }

    pub(super) fn origin_chunk(&mut self, now: Now, span: u32, index: u32) {
        let Some(chunk) = self.chunks.get_mut(index as usize) else { return };
        chunk.arriving = true;
        self.drop_requests(index, None);
        if let Some(mine) = self.spans.get_mut(span as usize).and_then(|s| s.mine.as_mut()) {
            let took = now.saturating_sub(mine.progress);
            mine.progress = now;
            mine.got += 1;
            mine.left.start = index + 1;
            let is_through = mine.is_overtaken && mine.left.is_empty();
            self.pace.own_chunk(took);
            if is_through {
                self.end_after_chunk(now, span);
            }
        }
    }

    pub(super) fn origin_done(&mut self, now: Now, span: u32, failed: Option<ErrorKind>) {
        let Some(state) = self.spans.get_mut(span as usize) else { return };
        let mine = state.mine.take();
        let chunks = state.chunks.clone();
        // Others may read what is left: the reading failed, or an overtaken reader has the rest, who may be stuck.
        if let Some(mine) = &mine
            && (failed.is_some() || chunks.into_iter().any(|c| self.is_orphan(c)))
        {
            self.release(span, mine);
        }
        if let Some(kind) = failed {
            let retry_after = match kind {
                ErrorKind::Unavailable { retry_after } => retry_after,
                ErrorKind::NotFound
                | ErrorKind::Denied
                | ErrorKind::Invalid
                | ErrorKind::Timeout
                | ErrorKind::Corrupt
                | ErrorKind::Full
                | ErrorKind::Cancelled => None,
            };
            self.pace.failed(now, retry_after);
        }
    }

    /// Ends this node's own reading when others brought what was left of it.
    pub(super) fn stop_needless_reading(&mut self, index: u32) {
        let span = self.span_of[index as usize];
        let left = self.spans[span as usize].mine.as_ref().map(|m| m.left.clone());
        if let Some(left) = left
            && !left.is_empty()
            && left.contains(&index)
            && !left.clone().any(|c| self.lacks(c))
        {
            self.spans[span as usize].mine = None;
            self.out.push_back(Output::CancelSpan { span });
        }
    }

    /// When something may have to be done although nothing happens.
    pub fn tick_interval(&self) -> Duration {
        if self.missing > 0 { Duration::from_millis(50) } else { Duration::from_secs(1) }
    }
}
