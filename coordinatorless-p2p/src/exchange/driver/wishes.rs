//! What the embedder's pulls want of one swarm: each wish with its own source, followers and end.
//!
//! A wish fails alone: by the origin it brought itself, by a chunk it wants, or by its own patience.
//! The others go on, and one that joins later starts afresh.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    chunk::{ChunkSet, SwarmId},
    error::Error,
    exchange::{
        inbox::Ticket,
        progress::{Progress, SwarmState},
    },
    precedence::Precedence,
    seam::SpanSource,
};

/// One pull's part in the swarm.
pub(super) struct Wish {
    pub(super) wanted: ChunkSet,
    pub(super) source: Option<Arc<dyn SpanSource>>,
    precedence: Precedence,
    stored: mpsc::UnboundedSender<u32>,
    progress: watch::Sender<Progress>,
    pub(super) joined: Instant,
    /// The last that its source failed with, and when.
    pub(super) origin_error: Option<(Instant, Arc<Error>)>,
    /// Chunks wanted and not stored.
    pub(super) missing: u32,
}

impl Wish {
    pub(super) fn new(
        wanted: ChunkSet,
        source: Option<Arc<dyn SpanSource>>,
        stored: mpsc::UnboundedSender<u32>,
    ) -> Self {
        let progress = watch::Sender::default();
        Self {
            wanted,
            source,
            precedence: Precedence::default(),
            stored,
            progress,
            joined: Instant::now(),
            origin_error: None,
            missing: 0,
        }
    }
}

/// The wishes of one swarm.
#[derive(Default)]
pub(super) struct Wishes {
    all: BTreeMap<Ticket, Wish>,
    /// The swarm's counters; every wish is told the same, its own state aside.
    tally: Progress,
}

impl Wishes {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Ticket, &Wish)> {
        self.all.iter().map(|(ticket, wish)| (*ticket, wish))
    }

    /// Everything that anybody wants, of `count` chunks.
    pub(super) fn wanted(&self, count: u32) -> ChunkSet {
        let mut wanted = ChunkSet::new(count);
        for index in self.all.values().flat_map(|wish| wish.wanted.iter()) {
            wanted.insert(index);
        }
        wanted
    }

    pub(super) fn add(&mut self, ticket: Ticket, wish: Wish, held: &ChunkSet) -> watch::Receiver<Progress> {
        let follow = wish.progress.subscribe();
        wish.progress.send_replace(self.tally.clone());
        self.all.insert(ticket, wish);
        self.recount(held);
        follow
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        self.all.remove(&ticket);
    }

    /// Changes how much a wish matters.
    pub(super) fn matters(&mut self, ticket: Ticket, precedence: Precedence) {
        if let Some(wish) = self.all.get_mut(&ticket) {
            wish.precedence = precedence;
        }
    }

    /// How much the wishes matter that lack something: as much as the one that matters most.
    pub(super) fn precedence(&self) -> Option<Precedence> {
        self.all.values().filter(|wish| wish.missing > 0).map(|wish| wish.precedence).max()
    }

    /// The source to read with next: one that has not failed, the newest first, else the one whose
    /// failure is longest ago.
    pub(super) fn source(&self) -> Option<(Ticket, Arc<dyn SpanSource>)> {
        let failed = |wish: &Wish| wish.origin_error.as_ref().map(|(at, _)| *at);
        let with_source =
            self.all.iter().filter_map(|(ticket, wish)| Some((*ticket, wish, wish.source.clone()?)));
        let best = with_source.min_by_key(|(ticket, wish, _)| (failed(wish), Reverse(*ticket)));
        best.map(|(ticket, _, source)| (ticket, source))
    }

    /// Has a wish want these, too; false when it is gone. Neighbours are not told: they rank by what is wanted
    /// for good.
    pub(super) fn widen(&mut self, ticket: Ticket, chunks: &[u32], held: &ChunkSet) -> bool {
        let Some(wish) = self.all.get_mut(&ticket) else { return false };
        for &index in chunks.iter().filter(|&&index| index < held.universe()) {
            if wish.wanted.insert(index) && !held.contains(index) {
                wish.missing += 1;
            }
        }
        true
    }

    /// Notes what a wish's source failed with.
    pub(super) fn origin_failed(&mut self, ticket: Ticket, error: Arc<Error>) {
        if let Some(wish) = self.all.get_mut(&ticket) {
            wish.origin_error = Some((Instant::now(), error));
        }
    }

    /// A chunk is here that was not; who no longer listens is let go.
    pub(super) fn stored(&mut self, index: u32) {
        self.all.retain(|_, wish| {
            if !wish.wanted.contains(index) {
                return true;
            }
            wish.missing = wish.missing.saturating_sub(1);
            wish.stored.send(index).is_ok()
        });
    }

    /// Chunks were lost, or a wish is new: counts anew what each lacks.
    pub(super) fn recount(&mut self, held: &ChunkSet) {
        for wish in self.all.values_mut() {
            wish.missing = wish.wanted.iter().filter(|&index| !held.contains(index)).count() as u32;
        }
    }

    /// Ends one wish with an error. What is stored stays.
    pub(super) fn fail(&mut self, swarm: SwarmId, ticket: Ticket, error: Error) {
        let Entry::Occupied(entry) = self.all.entry(ticket) else { return };
        tracing::warn!(swarm = %swarm.short(), ticket, error = %error, "a pull cannot go on in this swarm");
        let error = Arc::new(error);
        entry.remove().progress.send_modify(|p| p.state = SwarmState::Failed(error));
    }

    /// Changes the counters; told at the next [`tell`](Self::tell).
    pub(super) fn count(&mut self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.tally);
    }

    /// Tells every follower what is new to it.
    pub(super) fn tell(&mut self, neighbours: usize) {
        let tally = &mut self.tally;
        tally.neighbours = neighbours;
        tally.held_bytes = tally.origin_bytes + tally.peer_bytes + tally.reused_bytes;
        for wish in self.all.values() {
            wish.progress.send_if_modified(|p| {
                let completes = wish.missing == 0 && matches!(p.state, SwarmState::Running);
                let state = if completes { SwarmState::Complete } else { p.state.clone() };
                let changed = completes || !p.counts_as(tally);
                *p = Progress { state, ..tally.clone() };
                changed
            });
        }
    }
}
