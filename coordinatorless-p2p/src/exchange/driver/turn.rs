//! A swarm's part in what the swarms of its node share: how much it may have under way, and when its readings
//! of the origin go on.
//!
//! What is asked of holders and begun at the origin is the state machine's to hold back; a reading that is under
//! way waits here between two chunks, one after the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use super::Driver;
use crate::{
    embedding::Surroundings,
    precedence::Precedence,
    swarm::{Allowance, Input},
};

/// How readings of the origin go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Free,
    /// One after the other.
    Single,
    Paused,
}

/// One swarm's place among those of its node.
pub(super) struct Turn {
    shared: Arc<Surroundings>,
    number: u64,
    wants: Option<Precedence>,
    allowed: Allowance,
    /// What readings of the origin go by.
    readings: watch::Sender<Pace>,
    /// Held by the one reading that goes on while others go first.
    single: Arc<Mutex<()>>,
}

impl Turn {
    pub(super) fn new(shared: Arc<Surroundings>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let allowed = Allowance::whole(shared.config.swarm.inflight_bytes_max);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let readings = watch::Sender::new(Pace::Free);
        Self { shared, number, wants: None, allowed, readings, single: Arc::default() }
    }

    fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Says what the swarm's wishes amount to, and whether readers wait; answers with what it may have, if that
    /// is new.
    fn update(&mut self, wants: Option<Precedence>, has_readers: bool) -> Option<Allowance> {
        let now = self.now();
        let allowed = {
            let mut turns = self.shared.turns.lock();
            if self.wants != wants {
                turns.set(now, self.number, wants);
            }
            turns.allowance(now, self.number)
        };
        self.wants = wants;
        let pace = match allowed.streams {
            _ if has_readers => Pace::Free,
            0 => Pace::Paused,
            usize::MAX => Pace::Free,
            _ => Pace::Single,
        };
        self.readings.send_if_modified(|now| std::mem::replace(now, pace) != pace);
        (std::mem::replace(&mut self.allowed, allowed) != allowed).then_some(allowed)
    }

    /// Bytes came over the network.
    pub(super) fn received(&self, bytes: u64) {
        self.shared.turns.lock().received(self.now(), self.number, bytes);
    }

    /// How much the swarm matters.
    pub(super) fn precedence(&self) -> Precedence {
        self.wants.unwrap_or_default()
    }

    pub(super) fn gate(&self) -> Gate {
        Gate { pace: self.readings.subscribe(), single: self.single.clone(), passes: None }
    }

    /// Wants nothing any more.
    pub(super) fn leave(&mut self) {
        self.update(None, false);
    }
}

/// What a reading of the origin passes before each chunk.
pub(super) struct Gate {
    pace: watch::Receiver<Pace>,
    single: Arc<Mutex<()>>,
    passes: Option<OwnedMutexGuard<()>>,
}

impl Gate {
    /// Waits while others go first. Cancel-safe.
    pub(super) async fn pass(&mut self) {
        self.passes = None;
        if *self.pace.borrow_and_update() == Pace::Free {
            return;
        }
        // Waiting fails only when the swarm is gone, which aborts its readings.
        let single = tokio::select! {
            single = self.single.clone().lock_owned() => single,
            _ = self.pace.wait_for(|pace| *pace == Pace::Free) => return,
        };
        let _ = self.pace.wait_for(|pace| *pace != Pace::Paused).await;
        self.passes = Some(single);
    }
}

impl Driver {
    /// Takes in what the swarm may have now, beside the others of this node.
    pub(super) fn take_turn(&mut self) {
        let wants = self.wishes.precedence();
        if let Some(allowed) = self.turn.update(wants, self.swarm.has_readers()) {
            self.swarm.handle(self.now(), Input::Allowed(allowed));
        }
    }
}
