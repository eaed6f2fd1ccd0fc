//! Read-ahead of one open file: how much of what follows should come before it is asked for.
//!
//! Pure. A read that begins where the last one ended doubles the window, any other one takes it away.

use std::ops::Range;

/// The first window.
const FIRST_BYTES: u64 = 4 << 20;
/// The largest.
const MOST_BYTES: u64 = 64 << 20;
/// A gap that still counts as reading on: headers are skipped, and kernels read pages out of order.
const GAP_BYTES: u64 = 1 << 20;

/// What a reader did so far.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    /// Where the last read ended.
    end: u64,
    window: u64,
    /// Up to here was asked for ahead.
    asked: u64,
}

impl ReadAhead {
    /// Whether all of a range was asked for before it was read.
    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        range.end <= self.asked
    }

    /// Takes in a read and says what should be on its way behind it, if that is more than before.
    pub(super) fn read(&mut self, range: &Range<u64>, file_bytes: u64) -> Option<Range<u64>> {
        let reads_on = range.start <= self.end + GAP_BYTES && range.end + GAP_BYTES >= self.end;
        if !reads_on {
            *self = Self { end: range.end, window: 0, asked: range.end };
            return None;
        }
        self.end = self.end.max(range.end);
        let until = (self.end + self.window).min(file_bytes);
        if self.window > 0 && until < self.asked + self.window / 2 && until < file_bytes {
            return None;
        }
        self.window = (self.window * 2).clamp(FIRST_BYTES, MOST_BYTES);
        let from = self.asked.max(self.end);
        let until = (self.end + self.window).min(file_bytes);
        self.asked = self.asked.max(until);
        (from < until).then_some(from..until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn reading_on_asks_for_more_and_more_and_never_twice() {
        let (mut ahead, mut asked, mut windows) = (ReadAhead::default(), MIB, Vec::new());
        for at in 0..1000 {
            if let Some(more) = ahead.read(&(at * MIB..(at + 1) * MIB), 1000 * MIB) {
                assert!(more.start >= asked.min((at + 1) * MIB), "{more:?}");
                asked = more.end;
                windows.push(asked - (at + 1) * MIB);
            }
        }
        assert_eq!(asked, 1000 * MIB);
        assert_eq!(windows.first(), Some(&FIRST_BYTES));
        assert!(windows.contains(&MOST_BYTES) && windows.iter().all(|w| *w <= MOST_BYTES));
    }

    #[test]
    fn a_jump_asks_for_nothing_until_reading_goes_on_from_there() {
        let mut ahead = ReadAhead::default();
        ahead.read(&(0..MIB), 1000 * MIB);
        assert_eq!(ahead.read(&(500 * MIB..501 * MIB), 1000 * MIB), None);
        assert_eq!(ahead.read(&(501 * MIB..502 * MIB), 1000 * MIB), Some(502 * MIB..506 * MIB));
        for jump in [900, 100, 700, 300] {
            assert_eq!(ahead.read(&(jump * MIB..jump * MIB + 4096), 1000 * MIB), None, "{jump}");
        }
    }

    #[test]
    fn nothing_is_asked_for_past_the_end() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.read(&(0..MIB), MIB), None);
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.read(&(0..MIB), 2 * MIB), Some(MIB..2 * MIB));
        assert_eq!(ahead.read(&(MIB..2 * MIB), 2 * MIB), None);
    }
}
