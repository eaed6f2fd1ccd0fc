//! Chunks that readers wait for: asked of their holders at once, and, where nobody has them, read from the
//! origin by themselves, past the queue.
//!
//! A rush is one chunk in one request, so that the last byte of a large file costs a chunk, not the span it
//! lies in. It makes no claim. Who would read the span anyway goes first: the one whose reading has claimed it,
//! then the participants in the order of their rank, each a while after the one before, so that a herd that
//! opens the same file at once still reads it once.

use std::{collections::BTreeMap, time::Duration};

use super::{Now, Output, Swarm, claims::Mine};
use crate::error::ErrorKind;

/// Rushes under way at a time.
const RUSHES_MAX: usize = 8;
/// Chunks that readers can wait for at a time; what is asked for beyond comes in its turn.
const URGENT_MAX: usize = 4096;
/// How long each who goes before has, at least and at most; between them what two chunks of a stream take.
const PATIENCE_MIN: Duration = Duration::from_millis(150);
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// So many who rank better are waited for.
const BETTERS_MAX: u32 = 3;
/// A chunk that this node's own reading comes to within this time is waited for.
const OWN_PATIENCE: Duration = Duration::from_millis(500);
/// A holder that has not sent a chunk by then is not waited for alone.
const HOLDER_PATIENCE: Duration = Duration::from_secs(2);

/// What readers wait for.
#[derive(Debug, Default)]
pub(super) struct Urgent {
    /// In the order they were asked for, and since when.
    waiting: Vec<(u32, Now)>,
    /// Being read by themselves.
    rushes: BTreeMap<u32, Now>,
}

impl Urgent {
    /// What readers wait for.
    pub(super) fn waiting(&self) -> impl Iterator<Item = u32> + '_ {
        self.waiting.iter().map(|(index, _)| *index)
    }

    /// Whether this node reads the chunk by itself now.
    pub(super) fn is_rushed(&self, index: u32) -> bool {
        self.rushes.contains_key(&index)
    }
}

impl Swarm {
    /// Readers wait for these; what was not wanted is from now on.
    pub(super) fn urged(&mut self, now: Now, indices: Vec<u32>) {
        for index in indices {
            if self.want_too(index)
                && self.urgent.waiting.len() < URGENT_MAX
                && !self.urgent.waiting.iter().any(|(waiting, _)| *waiting == index)
            {
                self.urgent.waiting.push((index, now));
            }
        }
    }

    /// Has holders send what readers wait for.
    pub(super) fn ask_urgent(&mut self, now: Now) {
        let mut waiting = std::mem::take(&mut self.urgent.waiting);
        waiting.retain(|&(index, _)| {
            if !self.lacks(index) {
                return false;
            }
            let chunk = self.chunks[index as usize];
            if chunk.asked == 0
                && !chunk.arriving
                && chunk.holders > 0
                && let Some(peer) = self.best_holder(now, index, |_| true)
            {
                self.ask(now, peer, index);
            }
            true
        });
        self.urgent.waiting = waiting;
    }

    /// Reads from the origin what readers wait for and nobody brings in time.
    pub(super) fn rush(&mut self, now: Now) {
        if self.pace.is_held(now) {
            return;
        }
        let room = RUSHES_MAX.saturating_sub(self.urgent.rushes.len());
        let due: Vec<u32> = self
            .urgent
            .waiting
            .iter()
            .filter(|&&(index, since)| {
                let is_free = self.lacks(index)
                    && !self.chunks[index as usize].arriving
                    && !self.urgent.is_rushed(index);
                is_free && now >= since + self.rush_patience(now, index)
            })
            .map(|(index, _)| *index)
            .take(room)
            .collect();
        for index in due {
            self.urgent.rushes.insert(index, now);
            self.out.push_back(Output::Rush { index });
        }
    }

    /// How long to wait for a chunk before it is rushed.
    fn rush_patience(&self, now: Now, index: u32) -> Duration {
        let stuck = self.stuck_after();
        let interval = self.pace.interval();
        if self.chunks[index as usize].holders > 0 {
            return HOLDER_PATIENCE;
        }
        let span = &self.spans[self.span_of[index as usize] as usize];
        if span.is_coming(index, now, stuck) {
            let before = |mine: &Mine| index.saturating_sub(mine.left.start);
            let before = span.mine.as_ref().map_or(0, before);
            let is_near = before == 0 || interval * (before + 1) <= OWN_PATIENCE;
            return if is_near { HOLDER_PATIENCE } else { Duration::ZERO };
        }
        let each = (interval * 2).clamp(PATIENCE_MIN, PATIENCE_MAX);
        let is_claimed = span.claims.stand(now, stuck);
        let betters = self.betters(index);
        each * betters.max(u32::from(is_claimed)).min(BETTERS_MAX)
    }

    /// How many participants rank better for the span of a chunk.
    fn betters(&self, index: u32) -> u32 {
        let span = self.span_of[index as usize];
        let mine = self.score(span, self.me);
        let reads = self.neighbours.iter().filter(|(_, n)| n.reads_any(index..index + 1));
        reads.filter(|(id, _)| self.score(span, **id) > mine).take(BETTERS_MAX as usize).count() as u32
    }

    /// A rush ended: its bytes are here and about to be stored, or it `failed`.
    pub(super) fn rushed(&mut self, now: Now, index: u32, failed: Option<ErrorKind>) {
        let Some(since) = self.urgent.rushes.remove(&index) else { return };
        match failed {
            None => {
                self.pace.chunk_interval(now.saturating_sub(since));
                self.chunks[index as usize].arriving = true;
                self.drop_requests(index, None);
            }
            Some(ErrorKind::Unavailable { retry_after }) => self.pace.failed(now, retry_after),
            Some(_) => self.pace.failed(now, None),
        }
    }

    /// A chunk is stored, whoever brought it: a rush for it is in vain.
    pub(super) fn end_rush(&mut self, index: u32) {
        if self.urgent.rushes.remove(&index).is_some() {
            self.out.push_back(Output::CancelRush { index });
        }
    }
}
