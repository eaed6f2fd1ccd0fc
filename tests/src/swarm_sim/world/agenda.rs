//! What is to happen when: events and letters in the order of their time, and of their making where times
//! are equal.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    rc::Rc,
};

use coordinatorless_p2p::NodeId;

use super::Index;
use crate::swarm_sim::{
    mail::Word,
    network::{FlowId, Nanos},
};

/// One way between nodes of one zone, and of two.
pub(super) const NEAR: Nanos = 250_000;
pub(super) const FAR: Nanos = 750_000;

/// Something that happens at its time.
pub(super) enum Event {
    FlowEnds(FlowId),
    /// A request reached whom it was for.
    Asked {
        node: Index,
        serial: u64,
    },
    /// The origin answers.
    Answered {
        node: Index,
        serial: u64,
    },
    Wake(Index),
    Tick(Index),
    Meet(Index, u32),
    Named(Index, Rc<Vec<NodeId>>),
    Starts(Index),
    Dies(Index),
    Notices {
        who: Index,
        dead: Index,
    },
    /// The last one noticed.
    Gone(Index),
}

/// A word on its way.
pub(super) struct Letter {
    at: Nanos,
    pub(super) from: Index,
    pub(super) to: Index,
    pub(super) word: Rc<Word>,
}

/// What comes next.
pub(super) enum Due {
    Letter(Letter),
    Event(Event),
}

struct Timed {
    at: Nanos,
    number: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Events, and letters apart from them: those of one distance arrive in the order they were sent.
#[derive(Default)]
pub(super) struct Agenda {
    events: BinaryHeap<Reverse<Timed>>,
    near: VecDeque<Letter>,
    far: VecDeque<Letter>,
    numbers: u64,
}

impl Agenda {
    /// Plans an event.
    pub(super) fn plan(&mut self, at: Nanos, event: Event) {
        let number = self.number();
        self.events.push(Reverse(Timed { at, number, event }));
    }

    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Sends a word.
    pub(super) fn post(&mut self, now: Nanos, is_near: bool, from: Index, to: Index, word: Rc<Word>) {
        let (queue, latency) = if is_near { (&mut self.near, NEAR) } else { (&mut self.far, FAR) };
        queue.push_back(Letter { at: now + latency, from, to, word });
    }

    /// What happens next before `until`, and when.
    pub(super) fn next(&mut self, until: Nanos) -> Option<(Nanos, Due)> {
        let at = |letter: Option<&Letter>| letter.map_or(Nanos::MAX, |l| l.at);
        let (near, far) = (at(self.near.front()), at(self.far.front()));
        let timed = self.events.peek().map_or(Nanos::MAX, |Reverse(t)| t.at);
        let next = near.min(far).min(timed);
        if next >= until {
            return None;
        }
        let due = if near == next {
            self.near.pop_front().map(Due::Letter)
        } else if far == next {
            self.far.pop_front().map(Due::Letter)
        } else {
            self.events.pop().map(|Reverse(t)| Due::Event(t.event))
        };
        due.map(|due| (next, due))
    }
}
