//! Turns: one thread at a time at a chunk or a file, others at the others.
//!
//! Held across work on the disk, so not the lock of any state. Knows nothing of artifacts.

use std::{collections::HashSet, hash::Hash};

use parking_lot::{Condvar, Mutex};

/// Who works on what.
#[derive(Debug)]
pub(super) struct Turns<K> {
    busy: Mutex<HashSet<K>>,
    ended: Condvar,
}

impl<K: Eq + Hash + Copy> Turns<K> {
    /// Nobody works on anything.
    pub(super) fn new() -> Self {
        Self { busy: Mutex::default(), ended: Condvar::new() }
    }

    /// Waits until no other thread works on `key`.
    pub(super) fn wait(&self, key: K) -> Turn<'_, K> {
        let mut busy = self.busy.lock();
        while !busy.insert(key) {
            self.ended.wait(&mut busy);
        }
        Turn { turns: self, key }
    }

    /// The turn, if nobody has it.
    pub(super) fn attempt(&self, key: K) -> Option<Turn<'_, K>> {
        let is_free = self.busy.lock().insert(key);
        // Not `then_some`: a turn that is made and dropped would end that of whoever has it.
        is_free.then(|| Turn { turns: self, key })
    }
}

/// One thread's exclusive turn; ends when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a, K: Eq + Hash + Copy> {
    turns: &'a Turns<K>,
    key: K,
}

impl<K: Eq + Hash + Copy> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.turns.busy.lock().remove(&self.key);
        self.turns.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tries_for_a_turn_that_is_taken_does_not_end_it() {
        let turns = Turns::new();
        let turn = turns.wait(0);
        assert!(turns.attempt(0).is_none());
        assert!(turns.attempt(0).is_none(), "the first try ended the turn of whoever has it");
        assert!(turns.attempt(1).is_some(), "another one is free");
        drop(turn);
        assert!(turns.attempt(0).is_some());
        assert!(turns.attempt(0).is_some(), "the turn before has ended");
    }

    #[test]
    fn one_thread_at_a_time_works_on_one_thing_whoever_else_tries() {
        let (turns, inside) = (Turns::new(), Mutex::new(()));
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..500 {
                        let _turn = turns.wait(0);
                        let alone = inside.try_lock().expect("nobody else has the turn");
                        std::thread::yield_now();
                        drop(alone);
                    }
                });
            }
            threads.spawn(|| (0..2_000).for_each(|_| drop(turns.attempt(0))));
        });
    }
}
