//! The meeting place: who takes part in which swarm, as told to the homes of the swarm.
//!
//! Soft state without clock: entries fade unless they are renewed, and a lost home costs nothing
//! but the next announcement to its successor. Bounded in swarms and participants.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crate::{
    chunk::SwarmId,
    node::NodeId,
    ring::{RendezvousKey, rendezvous_score},
    swarm::{DIRECT, DRAWN, Member, SUCCESSORS, reader_score, readers_of_zone},
};

/// An entry that is not renewed for this long is gone.
pub const FADES_AFTER: Duration = Duration::from_secs(75);
/// How often a participant renews its entries.
pub const RENEW_EVERY: Duration = Duration::from_secs(25);
/// Participants remembered of one swarm.
const PARTICIPANTS_MAX: usize = 8192;
/// Swarms remembered.
const SWARMS_MAX: usize = 65_536;

/// How often a running swarm asks its homes who else is there.
pub const MEET_EVERY: Duration = Duration::from_secs(5);
/// When it asks after the first time, in large clusters, whose members may all start at once.
pub const MEET_AGAIN: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(750)];
/// Others drawn for an answer, beside readers and successors; enough that some want another neighbour.
const DRAWN_NAMED: u64 = 3 * DRAWN as u64;
/// How often entries that faded are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Participants by swarm.
#[derive(Debug, Default)]
pub struct MeetingPlace {
    swarms: HashMap<SwarmId, Participants>,
}

/// Those of one swarm.
#[derive(Debug, Default)]
struct Participants {
    seen: BTreeMap<NodeId, (Duration, u64)>,
    /// By zone, on the ring of ids.
    zones: BTreeMap<u64, BTreeSet<NodeId>>,
    /// By zone, those first who are best as readers.
    ranked: BTreeMap<u64, BTreeSet<(Reverse<u64>, NodeId)>>,
    swept: Duration,
}

impl Participants {
    fn insert(&mut self, now: Duration, swarm: SwarmId, who: Member) {
        if self.seen.get(&who.id).is_some_and(|(_, zone)| *zone != who.zone) {
            self.remove(swarm, who.id);
        }
        if self.seen.insert(who.id, (now, who.zone)).is_none() {
            self.zones.entry(who.zone).or_default().insert(who.id);
            let ranked = (Reverse(reader_score(swarm, who.id)), who.id);
            self.ranked.entry(who.zone).or_default().insert(ranked);
        }
    }

    fn remove(&mut self, swarm: SwarmId, who: NodeId) {
        let Some((_, zone)) = self.seen.remove(&who) else { return };
        if let Some(ids) = self.zones.get_mut(&zone) {
            ids.remove(&who);
            if ids.is_empty() {
                self.zones.remove(&zone);
            }
        }
        if let Some(ranked) = self.ranked.get_mut(&zone) {
            ranked.remove(&(Reverse(reader_score(swarm, who)), who));
            if ranked.is_empty() {
                self.ranked.remove(&zone);
            }
        }
    }

    fn sweep(&mut self, now: Duration, swarm: SwarmId) {
        if now < self.swept + SWEEP_EVERY {
            return;
        }
        self.swept = now;
        let is_faded = |at: Duration| now.saturating_sub(at) >= FADES_AFTER;
        let faded: Vec<NodeId> =
            self.seen.iter().filter(|(_, (at, _))| is_faded(*at)).map(|(id, _)| *id).collect();
        for id in faded {
            self.remove(swarm, id);
        }
    }

    /// Whom `who` should hear of: all where all know each other, else the readers of every zone, and of its
    /// own zone those that follow it and some by lot.
    fn named_to(&self, who: Member, swarm: SwarmId) -> Vec<NodeId> {
        if self.seen.len() <= DIRECT + 1 {
            return self.seen.keys().copied().filter(|id| *id != who.id).collect();
        }
        let each = readers_of_zone(self.zones.len());
        let mut named: BTreeSet<NodeId> =
            self.ranked.values().flat_map(|zone| zone.iter().take(each)).map(|(_, id)| *id).collect();
        if let Some(zone) = self.zones.get(&who.zone) {
            let after = |id: NodeId| zone.range(id..).chain(zone.range(..id)).copied();
            named.extend(after(who.id).filter(|id| *id != who.id).take(SUCCESSORS));
            for lot in 0..DRAWN_NAMED {
                // Wherever the lot falls on the ring of ids.
                let at = (0..2).map(|half| rendezvous_score(who.id, RendezvousKey::part(&swarm.0, half)));
                let at: Vec<u64> =
                    at.map(|score| rendezvous_score(who.id, RendezvousKey(score, lot))).collect();
                let mut id = [0; 16];
                id[..8].copy_from_slice(&at[0].to_be_bytes());
                id[8..].copy_from_slice(&at[1].to_be_bytes());
                named.extend(after(NodeId(id)).next());
            }
        }
        named.remove(&who.id);
        named.into_iter().collect()
    }
}

impl MeetingPlace {
    /// `who` takes part in `swarm` (or leaves, or only asks); answers with others: all of a few, and of a
    /// crowd those that [`Swarm`](crate::swarm::Swarm) needs to know.
    pub fn meet(&mut self, now: Duration, who: Member, swarm: SwarmId, joins: bool) -> Vec<NodeId> {
        if !self.swarms.contains_key(&swarm) {
            if !joins {
                return Vec::new();
            }
            if self.swarms.len() >= SWARMS_MAX {
                let fresh = |(at, _): &(Duration, u64)| now.saturating_sub(*at) < FADES_AFTER;
                self.swarms.retain(|_, p| p.seen.values().any(fresh));
            }
            if self.swarms.len() >= SWARMS_MAX {
                return Vec::new();
            }
        }
        let participants = self.swarms.entry(swarm).or_default();
        participants.sweep(now, swarm);
        if !joins {
            participants.remove(swarm, who.id);
        } else if participants.seen.len() < PARTICIPANTS_MAX || participants.seen.contains_key(&who.id) {
            participants.insert(now, swarm, who);
        }
        let others = participants.named_to(who, swarm);
        if participants.seen.is_empty() {
            self.swarms.remove(&swarm);
        }
        others
    }

    /// A node that died takes part in nothing.
    pub fn forget(&mut self, who: NodeId) {
        self.swarms.retain(|swarm, participants| {
            participants.remove(*swarm, who);
            !participants.seen.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    fn meet(place: &mut MeetingPlace, now: Duration, n: u8, joins: bool) -> Vec<NodeId> {
        place.meet(now, Member { id: node(n), zone: u64::from(n % 2) }, SWARM, joins)
    }

    const SWARM: SwarmId = SwarmId([7; 32]);

    #[test]
    fn whoever_comes_later_learns_of_those_before() {
        let mut place = MeetingPlace::default();
        let now = Duration::ZERO;
        assert!(meet(&mut place, now, 1, true).is_empty());
        assert_eq!(meet(&mut place, now, 2, true), vec![node(1)]);
        assert_eq!(meet(&mut place, now, 1, true), vec![node(2)]);
    }

    #[test]
    fn those_who_do_not_renew_fade_and_leave_nothing_behind() {
        let mut place = MeetingPlace::default();
        meet(&mut place, Duration::ZERO, 1, true);
        assert!(meet(&mut place, FADES_AFTER, 2, true).is_empty());
        meet(&mut place, FADES_AFTER, 2, false);
        assert!(place.swarms.is_empty());
    }

    #[test]
    fn asking_does_not_join_and_a_dead_node_is_forgotten() {
        let mut place = MeetingPlace::default();
        meet(&mut place, Duration::ZERO, 1, true);
        meet(&mut place, Duration::ZERO, 2, false);
        assert_eq!(meet(&mut place, Duration::ZERO, 3, true), vec![node(1)]);
        place.forget(node(1));
        assert_eq!(meet(&mut place, Duration::ZERO, 2, true), vec![node(3)]);
    }

    #[test]
    fn a_crowd_answers_with_a_bounded_part_that_differs_by_asker() {
        let mut place = MeetingPlace::default();
        for n in 0..200 {
            meet(&mut place, Duration::ZERO, n, true);
        }
        let (a, b) = (meet(&mut place, Duration::ZERO, 10, true), meet(&mut place, Duration::ZERO, 60, true));
        assert!(a.len() <= 96 && b.len() <= 96, "{} and {}", a.len(), b.len());
        assert_ne!(a, b);
        // Both know the same readers, half of them in each zone.
        let readers = |named: &[NodeId], asker| {
            let mut ranked: Vec<NodeId> = named.iter().copied().chain([node(asker)]).collect();
            ranked.sort_by_key(|id| Reverse(reader_score(SWARM, *id)));
            let of_zone = |zone| ranked.iter().copied().filter(move |id| id.0[0] % 2 == zone).take(16);
            of_zone(0).chain(of_zone(1)).collect::<BTreeSet<_>>()
        };
        assert_eq!(readers(&a, 10), readers(&b, 60));
    }
}
