//! Which of several transfers goes first.
//!
//! Plain order, no queues: readers that wait before everything, then the higher priority, then the earlier
//! deadline. Equal ones are equal: what shares them out is whoever queues them.

use std::{cmp::Ordering, time::SystemTime};

/// How much a pull matters beside the others of its node. The greater goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Precedence {
    /// The higher goes first; ordinary ones have 0.
    pub priority: i16,
    /// When it is needed; the earlier goes first, and none is later than any.
    pub deadline: Option<SystemTime>,
}

impl Ord for Precedence {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_deadline = || match (self.deadline, other.deadline) {
            (Some(mine), Some(theirs)) => theirs.cmp(&mine),
            (mine, theirs) => mine.is_some().cmp(&theirs.is_some()),
        };
        self.priority.cmp(&other.priority).then_with(by_deadline)
    }
}

impl PartialOrd for Precedence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A single transfer's place in a queue. The greater goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// A reader waits for it.
    pub(crate) urgent: bool,
    /// Its pull's.
    pub(crate) precedence: Precedence,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn readers_go_before_priorities_and_priorities_before_deadlines() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let rank =
            |urgent, priority, deadline| Rank { urgent, precedence: Precedence { priority, deadline } };
        let in_order = [
            rank(true, -10, None),
            rank(false, 10, None),
            rank(false, 0, at(5)),
            rank(false, 0, at(6)),
            rank(false, 0, None),
            rank(false, -10, at(1)),
        ];
        assert!(in_order.is_sorted_by(|first, second| first > second), "{in_order:?}");
        assert_eq!(rank(false, 0, None), Rank::default());
    }
}
