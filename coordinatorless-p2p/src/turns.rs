//! Whose turn it is when several swarms of one node want the same link, memory and origin.
//!
//! A swarm that goes before others is not held back by them. Each of the others may have a byte for every
//! fifteen that come to those before it, and more as long as that takes nothing from them: where they wait for
//! a slow origin, the link is not left idle. One that got nothing for [`STARVED`] may have one chunk. Equal ones
//! share the memory evenly and are left alone otherwise.
//!
//! Pure: knows no clock and moves no bytes. Invariant: what all swarms may have under way together is bounded
//! by the window, but for one chunk each.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    chunk::MAX_CHUNK_BYTES,
    precedence::Precedence,
    swarm::{Allowance, Now},
};

/// What one that yields gets of what comes to those before it, at least.
const SHARE_LEAST: f64 = 1.0 / 15.0;
/// At most; from there on it is not held back in effect.
const SHARE_MOST: f64 = 64.0;
/// A share is judged over at least this long and so much.
const JUDGE_AFTER: Duration = Duration::from_secs(2);
const JUDGE_BYTES: u64 = 16 << 20;
/// Those before it may lose so much by a larger share: what chunks that arrive in lumps make of a steady rate.
const LOSS: f64 = 0.08;
/// After a share that took from them, how long until a larger one is tried; doubled each time, up to the second.
const REST: Duration = Duration::from_secs(10);
const REST_MAX: Duration = Duration::from_secs(160);
/// What may be saved up of a share: a chunk under way and the next.
const CREDIT_MAX: f64 = 2.0 * MAX_CHUNK_BYTES as f64;
/// A swarm that received nothing for so many of its usual intervals is not receiving.
const INTERVALS: u32 = 3;
/// How long at least, and at most, one that received nothing counts as receiving.
const FLOWS_MIN: Duration = Duration::from_secs(1);
const FLOWS_MAX: Duration = Duration::from_secs(30);
/// The interval that one is believed to have before it is known.
const FIRST_INTERVAL: Duration = Duration::from_millis(600);
/// After so long without a byte even the last one may have a chunk.
const STARVED: Duration = Duration::from_secs(10);

/// The swarms of a node that want something.
#[derive(Debug)]
pub(crate) struct Turns {
    window_bytes: u64,
    runners: BTreeMap<u64, Runner>,
}

#[derive(Debug)]
struct Runner {
    precedence: Precedence,
    /// When it last received something, or began to want it.
    heard: Now,
    /// Smoothed time between arrivals.
    interval: Duration,
    /// Bytes it may have while it yields; below zero when more came than it might.
    credit: f64,
    share: Share,
}

/// How much of what comes to those before it a swarm may have, found by trying.
#[derive(Debug)]
struct Share {
    ratio: f64,
    /// Bytes a second of those before it, the best since the share was last the least.
    best: f64,
    since: Now,
    bytes: u64,
    try_after: Now,
    rest: Duration,
}

impl Share {
    fn new(now: Now) -> Self {
        Self { ratio: SHARE_LEAST, best: 0.0, since: now, bytes: 0, try_after: now, rest: REST }
    }

    fn others_received(&mut self, now: Now, bytes: u64) {
        self.bytes += bytes;
        let took = now.saturating_sub(self.since);
        if took < JUDGE_AFTER || self.bytes < JUDGE_BYTES {
            return;
        }
        let rate = self.bytes as f64 / took.as_secs_f64();
        (self.since, self.bytes) = (now, 0);
        if now < self.try_after {
            return;
        }
        if rate >= self.best * (1.0 - LOSS) {
            self.best = self.best.max(rate);
            self.ratio = (self.ratio * 2.0).min(SHARE_MOST);
        } else {
            (self.ratio, self.best) = (SHARE_LEAST, 0.0);
            self.try_after = now + self.rest;
            self.rest = (self.rest * 2).min(REST_MAX);
        }
    }
}

impl Turns {
    /// Swarms that share `window_bytes` of memory for what is under way.
    pub(crate) fn new(window_bytes: u64) -> Self {
        Self { window_bytes, runners: BTreeMap::new() }
    }

    /// What a swarm's wishes amount to now; `None`: it wants nothing.
    pub(crate) fn set(&mut self, now: Now, id: u64, precedence: Option<Precedence>) {
        match (precedence, self.runners.get_mut(&id)) {
            (Some(precedence), Some(runner)) => runner.precedence = precedence,
            (Some(precedence), None) => {
                let share = Share::new(now);
                let runner = Runner { precedence, heard: now, interval: FIRST_INTERVAL, credit: 0.0, share };
                self.runners.insert(id, runner);
            }
            (None, _) => drop(self.runners.remove(&id)),
        }
    }

    /// Bytes came to a swarm over the network, whatever their source.
    pub(crate) fn received(&mut self, now: Now, id: u64, bytes: u64) {
        let yields = self.yields(now, id);
        let Some(runner) = self.runners.get_mut(&id) else { return };
        runner.interval = (runner.interval * 7 + now.saturating_sub(runner.heard)) / 8;
        runner.heard = now;
        if yields {
            runner.credit -= bytes as f64;
        }
        let precedence = runner.precedence;
        for other in self.runners.values_mut().filter(|other| other.precedence < precedence) {
            other.share.others_received(now, bytes);
            other.credit = (other.credit + bytes as f64 * other.share.ratio).min(CREDIT_MAX);
        }
    }

    /// What a swarm may have under way now.
    pub(crate) fn allowance(&mut self, now: Now, id: u64) -> Allowance {
        let yields = self.yields(now, id);
        let window = self.window_bytes;
        let Some(runner) = self.runners.get_mut(&id) else { return Allowance::whole(window) };
        if yields {
            let starved = now >= runner.heard + STARVED;
            let bytes = if starved { runner.credit.max(1.0) } else { runner.credit.max(0.0) };
            return Allowance { bytes: (bytes.ceil() as u64).min(window), streams: usize::from(bytes > 0.0) };
        }
        // What was owed while others went first is forgotten when they are done.
        runner.credit = 0.0;
        let precedence = runner.precedence;
        let equal = self.runners.values().filter(|other| other.precedence == precedence).count();
        Allowance { bytes: window / equal.max(1) as u64, ..Allowance::whole(window) }
    }

    /// Whether somebody goes before this one and makes use of it.
    fn yields(&self, now: Now, id: u64) -> bool {
        let Some(me) = self.runners.get(&id) else { return false };
        self.runners.values().any(|other| other.precedence > me.precedence && other.flows(now))
    }
}

impl Runner {
    fn flows(&self, now: Now) -> bool {
        now < self.heard + (self.interval * INTERVALS).clamp(FLOWS_MIN, FLOWS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 48 << 20;
    const STEP: Duration = Duration::from_millis(10);

    fn priority(priority: i16) -> Option<Precedence> {
        Some(Precedence { priority, deadline: None })
    }

    /// Moves bytes for `seconds` over a link of `link` bytes a second that is shared evenly while both have
    /// something under way; the first gets at most `most` a second. Answers with what each got.
    fn share_link(turns: &mut Turns, from: Now, seconds: u64, link: f64, most: f64) -> [f64; 2] {
        const CHUNK: f64 = (1 << 20) as f64;
        let (mut got, mut left) = ([0.0; 2], [0.0; 2]);
        for step in 0..seconds * 100 {
            let now = from + STEP * step as u32;
            for (id, left) in (0..).zip(&mut left) {
                if *left <= 0.0 && turns.allowance(now, id).bytes > 0 {
                    *left = CHUNK;
                }
            }
            let (both, passes) = (left[0] > 0.0 && left[1] > 0.0, link * STEP.as_secs_f64());
            let first = if both { passes / 2.0 } else { passes }.min(most * STEP.as_secs_f64());
            let first = if left[0] > 0.0 { first } else { 0.0 };
            for (id, bytes) in [first, passes - first].into_iter().enumerate() {
                if left[id] > 0.0 {
                    (left[id], got[id]) = (left[id] - bytes, got[id] + bytes);
                    if left[id] <= 0.0 {
                        turns.received(now, id as u64, CHUNK as u64);
                    }
                }
            }
        }
        got
    }

    fn two(first: Option<Precedence>, second: Option<Precedence>) -> Turns {
        let mut turns = Turns::new(WINDOW);
        turns.set(Duration::ZERO, 0, first);
        turns.set(Duration::ZERO, 1, second);
        turns
    }

    #[test]
    fn the_one_that_goes_first_has_the_link_and_the_other_does_not_stand_still() {
        let mut turns = two(priority(1), priority(0));
        let [first, second] = share_link(&mut turns, Duration::ZERO, 120, 100e6, f64::MAX);
        assert!(first > 4.0 * second, "{first} against {second}");
        assert!(second > first / 40.0, "{second} beside {first}");
    }

    #[test]
    fn what_the_first_cannot_use_the_other_has() {
        // An origin gives the first a tenth of the link.
        let mut turns = two(priority(1), priority(0));
        let settling = 60;
        share_link(&mut turns, Duration::ZERO, settling, 100e6, 10e6);
        let from = Duration::from_secs(settling);
        let [first, second] = share_link(&mut turns, from, 60, 100e6, 10e6);
        assert!(first > 0.9 * 60.0 * 10e6, "the first was slowed to {first}");
        assert!(second > 0.6 * 60.0 * 90e6, "the link was left idle: {second}");
    }

    #[test]
    fn equal_ones_share_the_memory_and_nothing_holds_them_back() {
        let mut turns = two(priority(3), priority(3));
        for id in 0..2 {
            assert_eq!(turns.allowance(STEP, id), Allowance { bytes: WINDOW / 2, streams: usize::MAX });
        }
        turns.set(STEP, 0, None);
        assert_eq!(turns.allowance(STEP, 1), Allowance::whole(WINDOW));
    }

    #[test]
    fn one_that_receives_nothing_holds_nobody_back() {
        let mut turns = two(priority(1), priority(0));
        assert_eq!(turns.allowance(STEP, 1).bytes, 0, "it has just begun");
        assert_eq!(turns.allowance(Duration::from_secs(5), 1), Allowance::whole(WINDOW));
        turns.received(Duration::from_secs(5), 0, 1);
        assert!(turns.allowance(Duration::from_secs(5), 1).bytes < 10);
    }

    #[test]
    fn nobody_starves_however_little_comes_to_those_before_it() {
        let mut turns = two(priority(1), priority(0));
        let mut chunks = 0;
        for second in 0..100 {
            let now = Duration::from_secs(second);
            turns.received(now, 0, 1);
            if turns.allowance(now, 1).bytes > 0 {
                turns.received(now, 1, 4 << 20);
                chunks += 1;
            }
        }
        assert!((8..=12).contains(&chunks), "{chunks} chunks in 100 s");
    }
}
