//! How many payload bytes a second may pass in one direction.
//!
//! A token bucket, kept as the moment at which the next byte is due. Who comes first passes first. A new rate
//! holds at once, also for those who wait. Knows no chunks.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// What may pass at once after a quiet time; also hides that timers are a millisecond coarse.
const BURST: Duration = Duration::from_millis(20);

/// How long a piece may take at the rate: others on the link wait for one piece, not for a chunk.
const PIECE: Duration = Duration::from_millis(2);
/// Smaller pieces would cost more than they spare the others, in bytes.
const PIECE_BYTES_MIN: u64 = 16 << 10;

/// A limit in one direction.
#[derive(Debug)]
pub(crate) struct Throttle {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Bytes a second; `None`: no limit.
    rate: Option<u64>,
    due: Instant,
}

impl Throttle {
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self { state: Mutex::new(State { rate, due: Instant::now() }), changed: Notify::new() }
    }

    /// Bytes a second; `None`: no limit.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.state.lock().rate
    }

    /// Changes the rate, for those who wait as well.
    pub(crate) fn set(&self, rate: Option<u64>) {
        {
            let mut state = self.state.lock();
            (state.rate, state.due) = (rate, Instant::now());
        }
        self.changed.notify_waiters();
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

    /// Waits until `bytes` may pass. Cancel-safe; what a cancelled wait was to pass is lost to the others.
    pub(crate) async fn pass(&self, bytes: usize) {
        loop {
            let changed = self.changed.notified();
            let begin = {
                let mut state = self.state.lock();
                let Some(rate) = state.rate else { return };
                let now = Instant::now();
                let begin = state.due.max(now.checked_sub(BURST).unwrap_or(now));
                state.due = begin + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
                begin
            };
            tokio::select! {
                () = tokio::time::sleep_until(begin) => return,
                () = changed => {}
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
                throttle.pass(piece).await;
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
        throttle.pass(1_000_000).await;
        let waiting = tokio::spawn({
            let throttle = throttle.clone();
            async move { throttle.pass(1_000_000).await }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waiting.is_finished(), "a million seconds are not over");
        throttle.set(None);
        waiting.await.unwrap();
    }

    #[test]
    fn pieces_are_short_in_time_but_not_tiny() {
        let pieces = |rate| Throttle::new(rate).piece_bytes();
        assert_eq!(pieces(Some(1)), 16 << 10);
        assert_eq!(pieces(Some(100_000_000)), 200_000);
        assert_eq!(pieces(Some(u64::MAX)), u64::MAX as usize / 500);
        assert_eq!(pieces(None), usize::MAX);
    }
}
