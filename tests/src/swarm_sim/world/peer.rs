//! One node of the world: its state machine, its mail, and what it has under way.

use std::{ops::Range, rc::Rc};

use coordinatorless_p2p::{
    ChunkSet, NodeId,
    swarm::{Input, Swarm},
};

use super::Index;
use crate::swarm_sim::{
    mail::Word,
    network::{FlowId, Nanos},
};

/// What a node looks at when it wakes.
pub(super) enum Mail {
    Said { from: Index, word: Rc<Word> },
    Happened(Input),
}

/// A chunk asked of a holder.
pub(super) struct Request {
    pub(super) peer: Index,
    pub(super) chunk: u32,
    pub(super) serial: u64,
    /// Once it was received there.
    pub(super) flow: Option<FlowId>,
}

/// A span asked of the origin.
pub(super) struct Reading {
    pub(super) span: u32,
    pub(super) chunks: Range<u32>,
    pub(super) serial: u64,
    /// Once it is answered.
    pub(super) flow: Option<FlowId>,
}

/// One node.
pub struct Peer {
    pub(super) id: NodeId,
    /// Its zone's number.
    pub zone: u32,
    /// Up and down.
    pub(super) links: (u32, u32),
    /// Since it started.
    pub swarm: Option<Swarm>,
    /// Whether it has started and not died.
    pub alive: bool,
    /// Whether it has died.
    pub has_died: bool,
    /// When it starts.
    pub starts_at: Nanos,
    pub(super) held_at_start: ChunkSet,
    /// When it had everything.
    pub done_at: Option<Nanos>,
    pub(super) inbox: Vec<Mail>,
    pub(super) is_waking: bool,
    pub(super) woke_at: Nanos,
    /// To whom it speaks.
    pub(super) speaks_to: Vec<Index>,
    /// Who is heard, a bit each.
    hears: Vec<u64>,
    pub(super) requests: Vec<Request>,
    pub(super) readings: Vec<Reading>,
    /// Words, requests and answers sent.
    pub messages: u64,
    /// The same in bytes.
    pub control_bytes: u64,
    /// Neighbours at a time, at most.
    pub peak_neighbours: usize,
}

impl Peer {
    /// One of `count`, who has not started.
    pub(super) fn new(id: NodeId, zone: u32, links: (u32, u32), count: usize) -> Self {
        Self {
            id,
            zone,
            links,
            swarm: None,
            alive: false,
            has_died: false,
            starts_at: 0,
            held_at_start: ChunkSet::new(0),
            done_at: None,
            inbox: Vec::new(),
            is_waking: false,
            woke_at: 0,
            speaks_to: Vec::new(),
            hears: vec![0; count.div_ceil(64)],
            requests: Vec::new(),
            readings: Vec::new(),
            messages: 0,
            control_bytes: 0,
            peak_neighbours: 0,
        }
    }

    pub(super) fn hears(&self, from: Index) -> bool {
        self.hears.get(from as usize / 64).is_some_and(|word| word & (1 << (from % 64)) != 0)
    }

    pub(super) fn set_hears(&mut self, from: Index, hears: bool) {
        if let Some(word) = self.hears.get_mut(from as usize / 64) {
            *word = if hears { *word | 1 << (from % 64) } else { *word & !(1 << (from % 64)) };
        }
    }

    /// Everything it has under way ends; says which flows that were.
    pub(super) fn stop(&mut self) -> Vec<FlowId> {
        (self.alive, self.has_died) = (false, true);
        self.inbox.clear();
        let flows = self.requests.drain(..).filter_map(|r| r.flow);
        flows.chain(self.readings.drain(..).filter_map(|r| r.flow)).collect()
    }
}
