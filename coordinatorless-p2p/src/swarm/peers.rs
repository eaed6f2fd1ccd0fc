//! Neighbours of a swarm: what each holds, what was asked of it, how fast it answers.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, rngs::SmallRng};

use super::{HashSource, Now, Output, Swarm};
use crate::{
    chunk::{ChunkHash, ChunkSet},
    error::ErrorKind,
    node::NodeId,
};

/// What a holder counts as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// It is in this node's zone.
    pub(super) near: bool,
    /// It is about to leave.
    pub(super) leaving: bool,
}

/// A request under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) at: Now,
    /// A second holder was asked too.
    pub(super) hedged: bool,
}

/// What this node knows of a participant it exchanges with.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) same_zone: bool,
    pub(super) held: ChunkSet,
    wanted: Option<ChunkSet>,
    reads_origin: bool,
    /// It is silent: what it holds is not counted on.
    pub(super) doubted: bool,
    /// When it said that it goes.
    pub(super) leaving: Option<Now>,
    /// Chunks it holds that may be missing here; cleaned when drawn from.
    offers: Vec<u32>,
    pub(super) asked: BTreeMap<u32, Asked>,
    pub(super) asked_bytes: u64,
    /// Smoothed bytes per second that come from it while something is asked of it; 0 until the first answer.
    pub(super) rate: f64,
    /// Bytes of the last chunks and the seconds they took, older ones counting less.
    lately: (f64, f64),
    /// When the last chunk came from it.
    received_at: Now,
    pub(super) round_trip: Duration,
    /// When it said what it holds.
    pub(super) greeted: Now,
    /// When it last stored, claimed or answered anything.
    pub(super) progress: Now,
    /// How long it has taken to read what it claimed and announced, and how many chunks that is.
    read: (Duration, u32),
    /// Not asked before then, after a failure.
    pub(super) rest_until: Now,
    failures: u32,
}

impl Neighbour {
    pub(super) fn new(
        same_zone: bool,
        held: ChunkSet,
        wanted: Option<ChunkSet>,
        reads_origin: bool,
        now: Now,
    ) -> Self {
        Self {
            same_zone,
            offers: Vec::new(),
            held,
            wanted,
            reads_origin,
            doubted: false,
            leaving: None,
            asked: BTreeMap::new(),
            asked_bytes: 0,
            rate: 0.0,
            lately: (0.0, 0.0),
            received_at: Duration::ZERO,
            round_trip: Duration::ZERO,
            greeted: now,
            progress: now,
            read: (Duration::ZERO, 0),
            rest_until: Duration::ZERO,
            failures: 0,
        }
    }

    pub(super) fn state_bytes(&self) -> usize {
        let sets = 1 + usize::from(self.wanted.is_some());
        size_of::<Self>()
            + sets * self.held.universe() as usize / 8
            + self.offers.capacity() * size_of::<u32>()
            + self.asked.len() * size_of::<(u32, Asked)>()
    }

    /// A chunk came that was asked for `asked_at`. What is asked for at a time comes one after the other: a chunk
    /// has taken the time since the one before it.
    fn came(&mut self, now: Now, asked_at: Now, bytes: u32) {
        let took = now.saturating_sub(asked_at.max(self.received_at)).as_secs_f64();
        self.received_at = now;
        // Not the mean of rates: of two chunks that are noticed together one has taken no time, and a tiny one says
        // little.
        let (came, spent) = self.lately;
        self.lately = (came * 0.7 + f64::from(bytes), spent * 0.7 + took);
        self.rate = self.lately.0 / self.lately.1.max(1e-6);
    }

    pub(super) fn offer(&mut self, index: u32) {
        if self.held.contains(index) {
            self.offers.push(index);
        }
    }

    /// Forgets what was offered and offers everything it holds that is not in `held`.
    pub(super) fn offer_all(&mut self, held: &ChunkSet) {
        self.offers = self.held.iter().filter(|&c| !held.contains(c)).collect();
    }

    /// It begins to read nothing more.
    /// False if it said so before.
    pub(super) fn leave(&mut self, now: Now) -> bool {
        self.reads_origin = false;
        let first = self.leaving.is_none();
        self.leaving.get_or_insert(now);
        first
    }

    /// How long it takes to read a chunk from the origin; at least so long as it has been `waiting` for one.
    pub(super) fn reading_pace(&self, waiting: Duration) -> Duration {
        let (took, chunks) = self.read;
        (took + waiting) / (chunks + 1)
    }

    /// How long it took to read a chunk from the origin, at least; nothing before it has read any or given up.
    pub(super) fn usual_reading_pace(&self) -> Duration {
        self.read.0 / self.read.1.max(1)
    }

    /// It gave a chunk up after so long: before it has read any, it takes at least the longest of such times.
    pub(super) fn read_in_vain(&mut self, waited: Duration) {
        self.read.0 = if self.read.1 == 0 { self.read.0.max(waited) } else { self.read.0 + waited };
    }

    pub(super) fn standing(&self) -> Standing {
        Standing { near: self.same_zone, leaving: self.leaving.is_some() }
    }

    /// Forgets what was offered for `offers`.
    pub(super) fn offer_only(&mut self, offers: Vec<u32>) {
        self.offers = offers;
    }

    /// Whether nothing is offered that was not found void.
    pub(super) fn offers_nothing(&self) -> bool {
        self.offers.is_empty()
    }

    /// Whether it wants a chunk and does not hold it.
    pub(super) fn wants(&self, index: u32) -> bool {
        !self.held.contains(index) && self.wanted.as_ref().is_none_or(|w| w.contains(index))
    }

    /// Whether it will read some of these chunks from the origin.
    pub(super) fn reads_any(&self, chunks: std::ops::Range<u32>) -> bool {
        self.reads_origin && self.wants_any(chunks)
    }

    /// Whether it wants some of these chunks.
    pub(super) fn wants_any(&self, chunks: std::ops::Range<u32>) -> bool {
        self.wanted.as_ref().is_none_or(|w| chunks.into_iter().any(|c| w.contains(c)))
    }

    /// The rarest of a few chunks drawn at random that `fit`; offers found void are forgotten.
    pub(super) fn draw(
        &mut self,
        rng: &mut SmallRng,
        void: impl Fn(u32) -> bool,
        fit: impl Fn(u32) -> Option<u32>,
    ) -> Option<u32> {
        const SAMPLE: usize = 24;
        let mut best: Option<(u32, u32)> = None;
        let mut looked = 0;
        // Twice the sample bounds the work when most of the offers are under way already.
        for _ in 0..SAMPLE * 4 {
            if self.offers.is_empty() || looked >= SAMPLE {
                break;
            }
            let at = rng.random_range(0..self.offers.len());
            let index = self.offers[at];
            if void(index) {
                self.offers.swap_remove(at);
                continue;
            }
            looked += 1;
            if let Some(rarity) = fit(index)
                && best.is_none_or(|(_, r)| rarity < r)
            {
                best = Some((index, rarity));
            }
        }
        best.map(|(index, _)| index)
    }
}

impl Swarm {
    pub(super) fn peer_joined(&mut self, now: Now, peer: NodeId, mut neighbour: Neighbour) {
        let count = self.chunks.len() as u32;
        if peer == self.me || self.shunned.contains(now, peer) {
            return;
        }
        if !neighbour.held.is_sound(count) || neighbour.wanted.as_ref().is_some_and(|w| !w.is_sound(count)) {
            self.shun(now, peer, "sent a bitmap of another size");
            return;
        }
        let before = self.part_from(peer);
        neighbour.offer_all(&self.held);
        if let Some(before) = before {
            self.go_on_asking(peer, &mut neighbour, before);
        }
        for index in neighbour.held.iter() {
            self.holder_gained(now, index, neighbour.standing());
        }
        // What it had before it came is no haste of the origin's.
        self.pace.measure_afresh();
        self.neighbours.insert(peer, neighbour);
        self.ranking.is_stale = true;
    }

    /// A neighbour does not hold a chunk any more, or is not counted on for it.
    pub(super) fn holder_lost(&mut self, index: u32, standing: Standing) {
        let chunk = &mut self.chunks[index as usize];
        chunk.holders -= 1;
        chunk.near -= u16::from(standing.near);
        chunk.going -= u16::from(standing.leaving);
        if chunk.holders == 0 && self.lacks(index) {
            self.span_mut(index).settle(false);
        }
    }

    pub(super) fn holder_gained(&mut self, now: Now, index: u32, standing: Standing) {
        let chunk = &mut self.chunks[index as usize];
        chunk.holders += 1;
        chunk.near += u16::from(standing.near);
        chunk.going += u16::from(standing.leaving);
        if chunk.holders == 1 && self.lacks(index) {
            let bytes = self.len(index);
            self.span_mut(index).settle(true);
            self.pace.first_arrival(now, bytes);
        }
    }

    pub(super) fn peer_left(&mut self, peer: NodeId) {
        let Some(gone) = self.part_from(peer) else { return };
        for index in gone.asked.into_keys() {
            self.cancel(peer, index);
        }
    }

    fn cancel(&mut self, peer: NodeId, index: u32) {
        self.chunks[index as usize].asked -= 1;
        self.inflight_bytes -= u64::from(self.len(index));
        self.out.push_back(Output::Cancel { peer, index });
    }

    /// A neighbour that greets anew is asked for what it was asked before, as far as it still has it.
    fn go_on_asking(&mut self, peer: NodeId, neighbour: &mut Neighbour, before: Neighbour) {
        (neighbour.rate, neighbour.lately) = (before.rate, before.lately);
        neighbour.received_at = before.received_at;
        neighbour.read = before.read;
        neighbour.round_trip = before.round_trip;
        for (index, asked) in before.asked {
            if neighbour.held.contains(index) {
                neighbour.asked_bytes += u64::from(self.len(index));
                neighbour.asked.insert(index, asked);
            } else {
                self.cancel(peer, index);
            }
        }
    }

    /// Forgets what a neighbour holds and does; what it was asked for is the caller's to settle.
    fn part_from(&mut self, peer: NodeId) -> Option<Neighbour> {
        let gone = self.neighbours.remove(&peer)?;
        self.ranking.is_stale = true;
        for index in gone.held.iter() {
            let here = self.held.contains(index);
            let chunk = &mut self.chunks[index as usize];
            if !here && chunk.hash.is_some_and(|(_, source)| source == HashSource::Peer(peer)) {
                // Nobody vouches for it any more; whoever holds the chunk will say it again.
                chunk.hash = None;
            }
            if !gone.doubted {
                self.holder_lost(index, gone.standing());
            }
        }
        for span in &mut self.spans {
            span.claims.forget(peer);
        }
        Some(gone)
    }

    pub(super) fn peer_has(&mut self, now: Now, peer: NodeId, items: Vec<(u32, ChunkHash)>) {
        self.believe_again(now, peer);
        for (index, hash) in items {
            let Some(chunk) = self.chunks.get(index as usize) else {
                self.shun(now, peer, "announced a chunk past the end");
                return;
            };
            match chunk.hash {
                Some((known, HashSource::Manifest)) if known != hash => {
                    self.shun(now, peer, "announced a hash that the manifest does not have");
                    return;
                }
                Some((known, source)) if known != hash => self.dispute(index, peer, hash, known, source),
                Some(_) => {}
                None => self.chunks[index as usize].hash = Some((hash, HashSource::Peer(peer))),
            }
            let first = self.takes_first_if_leaving(peer, index);
            let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
            neighbour.progress = now;
            let is_new = neighbour.held.insert(index);
            if is_new {
                if first && !self.held.contains(index) {
                    neighbour.offer(index);
                }
                let standing = neighbour.standing();
                self.holder_gained(now, index, standing);
            }
            if is_new && let Some(took) = self.span_mut(index).claims.progressed(peer, now) {
                self.pace.chunk_interval(took);
                if let Some(reader) = self.neighbours.get_mut(&peer) {
                    reader.read = (reader.read.0 + took, reader.read.1 + 1);
                }
            }
            self.leave_to_holders(now, index);
        }
    }

    fn dispute(&mut self, index: u32, peer: NodeId, hash: ChunkHash, known: ChunkHash, source: HashSource) {
        let first = !self.disputes.contains_key(&index);
        let said = self.disputes.entry(index).or_default();
        if let HashSource::Peer(other) = source
            && first
        {
            said.push((other, known));
        }
        if !said.iter().any(|(p, _)| *p == peer) {
            said.push((peer, hash));
        }
        if first {
            self.out.push_back(Output::Settle { index });
        }
    }

    pub(super) fn received(&mut self, now: Now, peer: NodeId, index: u32, round_trip: Option<Duration>) {
        let bytes = self.spec.chunk_bytes.get(index as usize).copied().unwrap_or(0);
        let Some(asked) = self.take_request(peer, index) else { return };
        self.believe_again(now, peer);
        self.received_bytes += u64::from(bytes);
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.came(now, asked.at, bytes);
            neighbour.round_trip = round_trip.unwrap_or(neighbour.round_trip);
            neighbour.failures = 0;
            neighbour.progress = now;
        }
        self.chunks[index as usize].arriving = true;
        self.drop_requests(index, Some(peer));
    }

    pub(super) fn request_failed(&mut self, now: Now, peer: NodeId, index: u32, why: ErrorKind) {
        if why == ErrorKind::Corrupt {
            if let Some(chunk) = self.chunks.get_mut(index as usize) {
                chunk.arriving = false;
                if chunk.hash.is_some_and(|(_, source)| source == HashSource::Peer(peer)) {
                    chunk.hash = None;
                }
            }
            self.take_request(peer, index);
            self.shun(now, peer, "served bytes that do not have their hash");
            self.offer_again(index);
            return;
        }
        if self.take_request(peer, index).is_none() {
            return;
        }
        let (unheld, standing) = {
            let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
            let unheld = if why == ErrorKind::NotFound && !neighbour.doubted {
                neighbour.held.remove(index)
            } else {
                neighbour.failures = (neighbour.failures + 1).min(6);
                neighbour.rest_until = now + Duration::from_millis(100 << neighbour.failures);
                neighbour.offer(index);
                false
            };
            (unheld, neighbour.standing())
        };
        if unheld {
            self.holder_lost(index, standing);
        }
    }

    pub(super) fn offer_again(&mut self, index: u32) {
        for neighbour in self.neighbours.values_mut() {
            neighbour.offer(index);
        }
    }

    /// A chunk comes from this disk: nobody is asked for it any more.
    pub(super) fn adopting(&mut self, index: u32) {
        let Some(chunk) = self.chunks.get_mut(index as usize) else { return };
        chunk.arriving = true;
        self.drop_requests(index, None);
    }

    /// Ends the bookkeeping of one request.
    pub(super) fn take_request(&mut self, peer: NodeId, index: u32) -> Option<Asked> {
        let bytes = u64::from(*self.spec.chunk_bytes.get(index as usize)?);
        let neighbour = self.neighbours.get_mut(&peer)?;
        let asked = neighbour.asked.remove(&index)?;
        neighbour.asked_bytes -= bytes;
        self.inflight_bytes -= bytes;
        self.chunks[index as usize].asked -= 1;
        Some(asked)
    }

    /// Cancels every request for a chunk, except the one to `winner`.
    pub(super) fn drop_requests(&mut self, index: u32, winner: Option<NodeId>) {
        if self.chunks[index as usize].asked == 0 {
            return;
        }
        let losers: Vec<NodeId> = self
            .neighbours
            .iter()
            .filter(|(id, n)| Some(**id) != winner && n.asked.contains_key(&index))
            .map(|(id, _)| *id)
            .collect();
        for peer in losers {
            self.take_request(peer, index);
            self.out.push_back(Output::Cancel { peer, index });
        }
    }
}
