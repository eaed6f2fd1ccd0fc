//! Who is shunned, until when, and how often before.
//!
//! A disk error looks like a lie: whoever is caught is left alone for minutes, and twice as long each
//! further time. Who behaves for long enough has no past.

use std::{collections::BTreeMap, time::Duration};

use super::Now;
use crate::node::NodeId;

/// Peers remembered; a member that takes ever new names cannot fill the memory.
const REMEMBERED_MAX: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Past {
    until: Now,
    times: u32,
}

/// The peers that lied or corrupted.
#[derive(Debug, Default)]
pub(super) struct Shunned {
    peers: BTreeMap<NodeId, Past>,
}

impl Shunned {
    /// Whether `peer` is shunned now.
    pub(super) fn contains(&self, now: Now, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|past| now < past.until)
    }

    /// Shuns `peer` from now on, for `first` doubled with each time before and at most `last`; says for
    /// how long, or `None` when it is shunned already.
    pub(super) fn add(
        &mut self,
        now: Now,
        peer: NodeId,
        first: Duration,
        last: Duration,
    ) -> Option<Duration> {
        if self.contains(now, peer) {
            return None;
        }
        self.peers.retain(|_, past| now < past.until + last);
        if self.peers.len() >= REMEMBERED_MAX {
            let soonest = self.peers.iter().min_by_key(|(_, past)| past.until).map(|(id, _)| *id);
            soonest.map(|id| self.peers.remove(&id));
        }
        let past = self.peers.entry(peer).or_insert(Past { until: now, times: 0 });
        let time = first.saturating_mul(1u32.checked_shl(past.times).unwrap_or(u32::MAX)).min(last);
        *past = Past { until: now + time, times: past.times.saturating_add(1) };
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(10);
    const LAST: Duration = Duration::from_secs(60);

    fn node(n: u16) -> NodeId {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        NodeId(id)
    }

    #[test]
    fn shunning_fades_lasts_longer_each_time_and_has_an_end() {
        let mut shunned = Shunned::default();
        let mut now = Duration::from_secs(5);
        for expected in [10, 20, 40, 60, 60] {
            let time = shunned.add(now, node(1), FIRST, LAST).unwrap();
            assert_eq!(time.as_secs(), expected);
            assert_eq!(shunned.add(now, node(1), FIRST, LAST), None, "already");
            let just_before = now + time - Duration::from_millis(1);
            assert!(shunned.contains(now, node(1)) && shunned.contains(just_before, node(1)));
            now += time;
            assert!(!shunned.contains(now, node(1)));
        }
        assert!(!shunned.contains(now, node(2)));
    }

    #[test]
    fn a_past_is_forgotten_after_a_long_good_while_and_the_memory_is_bounded() {
        let mut shunned = Shunned::default();
        shunned.add(Duration::ZERO, node(1), FIRST, LAST);
        shunned.add(FIRST, node(1), FIRST, LAST);
        let later = FIRST + 2 * FIRST + LAST;
        assert_eq!(shunned.add(later, node(1), FIRST, LAST), Some(FIRST));
        for n in 0..2 * REMEMBERED_MAX as u16 {
            shunned.add(later, node(n), FIRST, LAST);
        }
        assert!(shunned.peers.len() <= REMEMBERED_MAX);
    }
}
