//! How many payload bytes a second may pass in one direction.
//!
//! A token bucket, kept as the moment at which the next byte is due. Of those who wait the one that ranks
//! first passes first, and now and then the one that has waited longest. A new rate holds at once, also for
//! those who wait. Knows no chunks.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::precedence::Rank;

/// What may pass at once after a quiet time; also hides that timers are a millisecond coarse.
const BURST: Duration = Duration::from_millis(5);

/// How long a piece may take at the rate: others on the link wait for one piece, not for a chunk.
const PIECE: Duration = Duration::from_millis(2);
/// Smaller pieces would cost more than they spare the others, in bytes.
const PIECE_BYTES_MIN: u64 = 16 << 10;

/// How much to ask for at a time where it then comes at the link's own rate, as time at the limit's.
const BITE: Duration = Duration::from_millis(10);
/// Smaller ones would be more requests than bytes.
const BITE_BYTES_MIN: u64 = 128 << 10;

/// Every so many passes the one that has waited longest goes first, whatever its rank: nobody starves.
const LONGEST_EVERY: u64 = 16;

/// A limit in one direction.
#[derive(Debug)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Bytes a second; `None`: no limit.
    rate: Option<u64>,
    due: Instant,
    passes: u64,
    tickets: u64,
    waiting: Vec<Waiting>,
}

/// One who wants to pass; it is woken when it has become the first, or the rate another.
#[derive(Debug)]
struct Waiting {
    ticket: u64,
    rank: Rank,
    wake: Arc<Notify>,
}

impl State {
    fn first(&self) -> Option<&Waiting> {
        if self.passes % LONGEST_EVERY == LONGEST_EVERY - 1 {
            return self.waiting.iter().min_by_key(|w| w.ticket);
        }
        self.waiting.iter().max_by_key(|w| (w.rank, std::cmp::Reverse(w.ticket)))
    }

    fn leave(&mut self, ticket: u64) {
        self.waiting.retain(|w| w.ticket != ticket);
        if let Some(next) = self.first() {
            next.wake.notify_one();
        }
    }
}

/// Takes one who waited out of the queue, however its wait ends.
struct InQueue<'a> {
    throttle: &'a Throttle,
    ticket: u64,
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.throttle.0.lock().leave(self.ticket);
    }
}

impl Throttle {
    pub(crate) fn new(rate: Option<u64>) -> Self {
        let due = Instant::now();
        Self(Mutex::new(State { rate, due, passes: 0, tickets: 0, waiting: Vec::new() }))
    }

    /// Bytes a second; `None`: no limit.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.0.lock().rate
    }

    /// Changes the rate, for those who wait as well.
    pub(crate) fn set(&self, rate: Option<u64>) {
        let mut state = self.0.lock();
        (state.rate, state.due) = (rate, Instant::now());
        state.waiting.iter().for_each(|w| w.wake.notify_one());
    }

    /// How much of a transfer to pass at a time, in bytes.
    pub(crate) fn piece_bytes(&self) -> usize {
        match self.rate() {
            None => usize::MAX,
            Some(rate) => {
                let bytes = u128::from(rate) * PIECE.as_micros() / 1_000_000;
                usize::try_from(bytes).unwrap_or(usize::MAX).max(PIECE_BYTES_MIN as usize)
            }
        }
    }

    /// How much may come at once where nothing but asking holds it back; `None`: anything.
    pub(crate) fn bite_bytes(&self) -> Option<u64> {
        let bytes = |rate| u128::from(rate) * BITE.as_millis() / 1000;
        self.rate().map(|rate| u64::try_from(bytes(rate)).unwrap_or(u64::MAX).max(BITE_BYTES_MIN))
    }

    /// Waits until `bytes` may pass. Cancel-safe.
    pub(crate) async fn pass(&self, bytes: usize, rank: Rank) {
        let wake = Arc::new(Notify::new());
        let queued = {
            let mut state = self.0.lock();
            if state.rate.is_none() {
                return;
            }
            state.tickets += 1;
            let ticket = state.tickets;
            state.waiting.push(Waiting { ticket, rank, wake: wake.clone() });
            InQueue { throttle: self, ticket }
        };
        loop {
            let begin = {
                let mut state = self.0.lock();
                let Some(rate) = state.rate else { return };
                let is_first = state.first().is_some_and(|w| w.ticket == queued.ticket);
                let now = Instant::now();
                let begin = state.due.max(now.checked_sub(BURST).unwrap_or(now));
                if is_first && begin <= now {
                    state.due = begin + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
                    state.passes += 1;
                    return;
                }
                is_first.then_some(begin)
            };
            let due = async {
                match begin {
                    Some(begin) => tokio::time::sleep_until(begin).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = wake.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_whatever_the_pieces() {
        for piece in [1_000, 16 << 10, 1 << 20] {
            let throttle = Throttle::new(Some(10_000_000));
            let began = Instant::now();
            let mut passed = 0;
            while passed < 20_000_000 {
                throttle.pass(piece, Rank::default()).await;
                passed += piece;
            }
            let seconds = began.elapsed().as_secs_f64();
            // The last piece passes at the beginning of its time, and one burst is free.
            let least = (passed - piece) as f64 / 1e7 - BURST.as_secs_f64() - 0.001;
            assert!((least..2.2).contains(&seconds), "pieces of {piece}: {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_holds_for_those_who_wait() {
        let throttle = Arc::new(Throttle::new(Some(1)));
        throttle.pass(1_000_000, Rank::default()).await;
        let waiting = tokio::spawn({
            let throttle = throttle.clone();
            async move { throttle.pass(1_000_000, Rank::default()).await }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waiting.is_finished(), "a million seconds are not over");
        throttle.set(None);
        waiting.await.unwrap();
    }

    /// Starts waits in order, each for a second's worth, and tells in which order they end.
    async fn order_of(throttle: &Arc<Throttle>, ranks: &[Rank]) -> Vec<usize> {
        let (passed, mut order) = tokio::sync::mpsc::unbounded_channel();
        for (n, rank) in ranks.iter().copied().enumerate() {
            let (throttle, passed) = (throttle.clone(), passed.clone());
            tokio::spawn(async move {
                throttle.pass(1000, rank).await;
                let _ = passed.send(n);
            });
            tokio::task::yield_now().await;
        }
        let mut ended = Vec::new();
        while ended.len() < ranks.len() {
            ended.extend(order.recv().await);
        }
        ended
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_rank_higher_pass_first() {
        let throttle = Arc::new(Throttle::new(Some(1000)));
        throttle.pass(1000, Rank::default()).await;
        let rank = |urgent, priority| Rank {
            urgent,
            precedence: crate::precedence::Precedence { priority, deadline: None },
        };
        let ranks = [rank(false, 0), rank(false, 5), rank(true, -1), rank(false, 0)];
        assert_eq!(order_of(&throttle, &ranks).await, [2, 1, 0, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_waited_longest_passes_in_the_end() {
        let throttle = Arc::new(Throttle::new(Some(1000)));
        throttle.pass(1000, Rank::default()).await;
        let mut ranks = vec![Rank { urgent: true, ..Rank::default() }; 40];
        ranks[0].urgent = false;
        let place = order_of(&throttle, &ranks).await.iter().position(|n| *n == 0).unwrap();
        assert!((1..20).contains(&place), "it passed after {place} others");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_gives_up_holds_nobody_up() {
        let throttle = Arc::new(Throttle::new(Some(1000)));
        throttle.pass(1000, Rank::default()).await;
        let began = Instant::now();
        let urgent = Rank { urgent: true, ..Rank::default() };
        let patient = tokio::spawn({
            let throttle = throttle.clone();
            async move { throttle.pass(1000, Rank::default()).await }
        });
        let given_up =
            tokio::time::timeout(Duration::from_millis(10), throttle.pass(1_000_000, urgent)).await;
        assert!(given_up.is_err(), "it passed");
        patient.await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }

    #[test]
    fn pieces_are_short_in_time_but_not_tiny() {
        let pieces = |rate| Throttle::new(rate).piece_bytes();
        assert_eq!(pieces(Some(1)), 16 << 10);
        assert_eq!(pieces(Some(100_000_000)), 200_000);
        assert_eq!(pieces(Some(u64::MAX)), u64::MAX as usize / 500);
        assert_eq!(pieces(None), usize::MAX);
        let bites = |rate| Throttle::new(rate).bite_bytes();
        assert_eq!(
            (bites(Some(1)), bites(Some(100_000_000)), bites(None)),
            (Some(128 << 10), Some(1_000_000), None)
        );
    }
}
