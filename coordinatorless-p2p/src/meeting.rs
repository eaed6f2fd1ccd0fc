//! The meeting place: who takes part in which swarm, as told to the homes of the swarm.
//!
//! Soft state without clock: entries fade unless they are renewed, and a lost home costs nothing
//! but the next announcement to its successor. Bounded in swarms and participants.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{chunk::SwarmId, node::NodeId};

/// An entry that is not renewed for this long is gone.
pub const FADES_AFTER: Duration = Duration::from_secs(75);
/// How often a participant renews its entries.
pub const RENEW_EVERY: Duration = Duration::from_secs(25);
/// Participants remembered of one swarm.
const PARTICIPANTS_MAX: usize = 8192;
/// Swarms remembered.
const SWARMS_MAX: usize = 65_536;

/// Participants by swarm.
#[derive(Debug, Default)]
pub struct MeetingPlace {
    swarms: HashMap<SwarmId, BTreeMap<NodeId, Duration>>,
}

impl MeetingPlace {
    /// `who` takes part in `swarm` (or leaves); answers with the others at most `limit` of them,
    /// those after `who` on the ring of ids first, so that answers differ between askers.
    pub fn meet(
        &mut self,
        now: Duration,
        who: NodeId,
        swarm: SwarmId,
        joins: bool,
        limit: usize,
    ) -> Vec<NodeId> {
        let fresh = |at: &Duration| now.saturating_sub(*at) < FADES_AFTER;
        if !self.swarms.contains_key(&swarm) {
            if !joins {
                return Vec::new();
            }
            if self.swarms.len() >= SWARMS_MAX {
                self.swarms.retain(|_, p| p.values().any(fresh));
            }
            if self.swarms.len() >= SWARMS_MAX {
                return Vec::new();
            }
        }
        let participants = self.swarms.entry(swarm).or_default();
        participants.retain(|_, at| fresh(at));
        let others = participants
            .range(who..)
            .chain(participants.range(..who))
            .map(|(id, _)| *id)
            .filter(|id| *id != who);
        let others = others.take(limit).collect();
        if !joins {
            participants.remove(&who);
        } else if participants.len() < PARTICIPANTS_MAX {
            participants.insert(who, now);
        }
        if participants.is_empty() {
            self.swarms.remove(&swarm);
        }
        others
    }

    /// A node that died takes part in nothing.
    pub fn forget(&mut self, who: NodeId) {
        self.swarms.retain(|_, participants| {
            participants.remove(&who);
            !participants.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    const SWARM: SwarmId = SwarmId([7; 32]);

    #[test]
    fn whoever_comes_later_learns_of_those_before() {
        let mut place = MeetingPlace::default();
        let now = Duration::ZERO;
        assert!(place.meet(now, node(1), SWARM, true, 10).is_empty());
        assert_eq!(place.meet(now, node(2), SWARM, true, 10), vec![node(1)]);
        assert_eq!(place.meet(now, node(1), SWARM, true, 10), vec![node(2)]);
    }

    #[test]
    fn those_who_do_not_renew_fade_and_leave_nothing_behind() {
        let mut place = MeetingPlace::default();
        place.meet(Duration::ZERO, node(1), SWARM, true, 10);
        assert!(place.meet(FADES_AFTER, node(2), SWARM, true, 10).is_empty());
        place.meet(FADES_AFTER, node(2), SWARM, false, 10);
        assert!(place.swarms.is_empty());
    }

    #[test]
    fn asking_does_not_join_and_a_dead_node_is_forgotten() {
        let mut place = MeetingPlace::default();
        place.meet(Duration::ZERO, node(1), SWARM, true, 10);
        place.meet(Duration::ZERO, node(2), SWARM, false, 10);
        assert_eq!(place.meet(Duration::ZERO, node(3), SWARM, true, 10), vec![node(1)]);
        place.forget(node(1));
        assert_eq!(place.meet(Duration::ZERO, node(2), SWARM, true, 10), vec![node(3)]);
    }

    #[test]
    fn a_crowd_answers_with_a_bounded_part_that_differs_by_asker() {
        let mut place = MeetingPlace::default();
        for n in 0..100 {
            place.meet(Duration::ZERO, node(n), SWARM, true, 10);
        }
        let (a, b) = (
            place.meet(Duration::ZERO, node(10), SWARM, true, 10),
            place.meet(Duration::ZERO, node(60), SWARM, true, 10),
        );
        assert_eq!((a.len(), b.len()), (10, 10));
        assert_ne!(a, b);
    }
}
