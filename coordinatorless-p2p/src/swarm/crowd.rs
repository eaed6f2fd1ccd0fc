//! Whom to know of a swarm, and who reads the origin and crosses zone borders for the rest.
//!
//! Up to [`DIRECT`] participants know each other and all of them read. Beyond that each keeps a few
//! neighbours of its own zone, successors on the ring of ids and others drawn at random, and a few
//! participants of each zone, the readers, know each other as well: only they read the origin, and only
//! they ask other zones. Who is a reader is a pure function of the participants, which the meeting place
//! computes by the same rule, so that nodes who know but a part of the swarm agree on it.
//!
//! Knows nothing of chunks.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Now, Output, Swarm};
use crate::{
    chunk::SwarmId,
    node::NodeId,
    ring::{RendezvousKey, rendezvous_score},
};

/// Participants that know each other directly.
pub const DIRECT: usize = 32;
/// Neighbours that a member of a crowd seeks and that follow on the ring of ids. As many again seek it.
pub const SUCCESSORS: usize = 6;
/// Neighbours that it seeks and that are drawn at random.
pub const DRAWN: usize = 6;
/// Readers of a crowd, all zones together.
const READERS: usize = 32;
/// Readers of each zone at least.
const READERS_OF_ZONE_MIN: usize = 4;
/// Neighbours of a member of a crowd, beside readers of each other; whoever else wants to be one is to look
/// further.
const ADMITTED_MAX: usize = 40;
/// So many are kept when there turn out to be more.
const KEPT: usize = 2 * (SUCCESSORS + DRAWN);
/// A participant that no home named for this long does not count: several rounds of asking.
const NAMED_FOR: Duration = Duration::from_secs(16);
/// So long a new reader of a crowd waits for the others to say what they hold and read; they read meanwhile.
/// Some may not know yet that it is one of them, and hear of it at their next round of asking.
const READERS_SPEAK: Duration = Duration::from_secs(10);

/// A live node, as far as swarms care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Who.
    pub id: NodeId,
    /// Where: equal for nodes of one zone.
    pub zone: u64,
}

/// How many readers each of so many zones has.
pub fn readers_of_zone(zones: usize) -> usize {
    (READERS / zones.max(1)).max(READERS_OF_ZONE_MIN)
}

/// How well a participant ranks as a reader of a swarm; the highest are readers.
pub fn reader_score(swarm: SwarmId, id: NodeId) -> u64 {
    rendezvous_score(id, RendezvousKey::part(&swarm.0, u32::MAX))
}

/// The readers among all `participants`.
fn readers(swarm: SwarmId, participants: &[Member]) -> BTreeSet<NodeId> {
    let mut zones: BTreeMap<u64, Vec<(Reverse<u64>, NodeId)>> = BTreeMap::new();
    for member in participants {
        let ranked = (Reverse(reader_score(swarm, member.id)), member.id);
        zones.entry(member.zone).or_default().push(ranked);
    }
    let each = readers_of_zone(zones.len());
    let mut readers = BTreeSet::new();
    for mut zone in zones.into_values() {
        zone.sort_unstable();
        readers.extend(zone.into_iter().take(each).map(|(_, id)| id));
    }
    readers
}

/// What is known of the participants.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// Whom homes named, and when last.
    named: BTreeMap<NodeId, Now>,
    /// Those who read; `None` while all know each other.
    readers: Option<BTreeSet<NodeId>>,
    /// When this node became one of them, until it has begun to read.
    reads_since: Option<Now>,
}

impl Crowd {
    /// Whether `id` reads the origin for the others; all do where all know each other.
    pub(super) fn is_reader(&self, id: NodeId) -> bool {
        self.readers.as_ref().is_none_or(|readers| readers.contains(&id))
    }

    /// Whether there are too many to know all.
    pub(super) fn is_large(&self) -> bool {
        self.readers.is_some()
    }

    /// Whether this node may not have heard yet, for want of time, from those it reads with.
    pub(super) fn has_just_begun(&self, now: Now) -> bool {
        self.is_large() && self.reads_since.is_some_and(|since| now < since + READERS_SPEAK)
    }

    /// This node reads.
    pub(super) fn has_read(&mut self) {
        self.reads_since = None;
    }

    /// The readers of a crowd.
    pub(super) fn readers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.readers.iter().flatten().copied()
    }
}

impl Swarm {
    /// A home named participants; whoever should be a neighbour and is not is to be greeted.
    pub(super) fn met(&mut self, now: Now, ids: Vec<NodeId>) {
        let me = self.me;
        let named = &mut self.crowd.named;
        named.extend(ids.into_iter().filter(|id| *id != me).map(|id| (id, now)));
        named.retain(|_, at| now < *at + NAMED_FOR);
        self.look_around(now);
        let chosen = self.neighbours_to_be();
        self.thin_out(&chosen);
        for &peer in chosen.iter().filter(|id| !self.neighbours.contains_key(id)) {
            self.out.push_back(Output::Greet { peer });
        }
        let met = self.met.get_or_insert_default();
        met.extend(chosen.into_iter().filter(|id| !met.contains(id)).collect::<Vec<_>>());
    }

    /// Who lives changed. A node that reads now because another one died knows few of those it reads with:
    /// it greets them.
    pub(super) fn members_changed(&mut self, now: Now, members: Arc<[Member]>) {
        self.members = members;
        if self.look_around(now) {
            let unmet = |id: &NodeId| *id != self.me && !self.neighbours.contains_key(id);
            let unmet: Vec<NodeId> = self.crowd.readers().filter(unmet).collect();
            self.out.extend(unmet.into_iter().map(|peer| Output::Greet { peer }));
        }
    }

    /// Sees anew who reads, after participants or members changed; true if this node became a reader.
    fn look_around(&mut self, now: Now) -> bool {
        let me = self.me;
        let alive = |id: &NodeId| self.member(*id);
        let mut participants: Vec<Member> = self.crowd.named.keys().filter_map(alive).collect();
        participants.extend(self.member(me));
        self.ranking.is_stale = true;
        let readers = (participants.len() > DIRECT).then(|| readers(self.spec.id, &participants));
        let reads = |readers: &Option<BTreeSet<NodeId>>| readers.as_ref().is_some_and(|r| r.contains(&me));
        let begins = reads(&readers) && !reads(&self.crowd.readers);
        self.crowd.readers = readers;
        if begins {
            self.crowd.reads_since = Some(now);
        }
        begins
    }

    fn member(&self, id: NodeId) -> Option<Member> {
        self.members.binary_search_by_key(&id, |m| m.id).ok().map(|at| self.members[at])
    }

    /// Whether `id` lives.
    pub(super) fn is_member(&self, id: NodeId) -> bool {
        self.member(id).is_some()
    }

    /// Participants of this node's zone that homes named.
    pub(super) fn unmet_of_this_zone(&self) -> Vec<NodeId> {
        let Some(mine) = self.member(self.me) else { return Vec::new() };
        let is_near = |id: &NodeId| self.member(*id).is_some_and(|m| m.zone == mine.zone);
        self.crowd.named.keys().copied().filter(is_near).collect()
    }

    /// Whom this node should know.
    fn neighbours_to_be(&mut self) -> Vec<NodeId> {
        let me = self.me;
        let zone = self.member(me).map(|m| m.zone);
        if !self.crowd.is_large() {
            return self.crowd.named.keys().copied().collect();
        }
        let mut chosen: Vec<NodeId> =
            self.crowd.named.keys().copied().filter(|id| self.member(*id).map(|m| m.zone) == zone).collect();
        let at = chosen.partition_point(|id| *id < me);
        chosen.rotate_left(at);
        let mut rest = chosen.split_off(SUCCESSORS.min(chosen.len()));
        let near = self.neighbours.values().filter(|n| n.same_zone).count();
        // At first as many as seek this one; later as many as are missing, for who has half of the neighbours
        // gets half of the rate.
        let sought = if self.met.is_none() { SUCCESSORS + DRAWN } else { KEPT };
        let places = sought.saturating_sub(near.max(chosen.len()));
        rest.sort_by_cached_key(|id| self.lot(*id));
        rest.retain(|id| !self.neighbours.contains_key(id));
        chosen.extend(rest.into_iter().take(places));
        if self.crowd.is_reader(me) {
            let others = self.crowd.readers().filter(|id| *id != me && !chosen.contains(id));
            let others: Vec<NodeId> = others.collect();
            chosen.extend(others);
        }
        chosen
    }

    /// By lot, but the same lots each time, so that asking again does not change neighbours.
    fn lot(&self, id: NodeId) -> u64 {
        let own = rendezvous_score(self.me, RendezvousKey::part(&self.spec.id.0, 0));
        rendezvous_score(id, RendezvousKey(own, 0))
    }

    /// Parts with neighbours that a crowd has too many of: those who were first know almost everybody.
    fn thin_out(&mut self, chosen: &[NodeId]) {
        if !self.crowd.is_large() || self.neighbours.len() <= ADMITTED_MAX {
            return;
        }
        let reads = self.crowd.is_reader(self.me) || self.is_needed_by_readers();
        let spare =
            |id: &NodeId| !(chosen.contains(id) || reads && self.crowd.is_reader(*id) || self.is_needed(*id));
        let mut spare: Vec<NodeId> = self.neighbours.keys().copied().filter(spare).collect();
        let readers =
            if reads { self.neighbours.keys().filter(|id| self.crowd.is_reader(**id)).count() } else { 0 };
        let others = self.neighbours.len() - readers;
        if others <= ADMITTED_MAX {
            return;
        }
        spare.sort_by_cached_key(|id| self.lot(*id));
        for peer in spare.into_iter().take(others - KEPT) {
            self.peer_left(peer);
            self.out.push_back(Output::Part { peer });
        }
    }

    /// Whether the readers of a crowd would read again what this node, which is none any more, reads or
    /// alone holds.
    fn is_needed_by_readers(&self) -> bool {
        self.reading().next().is_some() || self.held.iter().any(|c| self.chunks[c as usize].holders == 0)
    }

    /// Whether without this neighbour something would be missing here that it reads or alone holds.
    fn is_needed(&self, peer: NodeId) -> bool {
        let alone = |c: u32| self.lacks(c) && self.chunks[c as usize].holders == 1;
        self.spans.iter().any(|span| span.claims.has(peer))
            || self.neighbours.get(&peer).is_some_and(|n| !n.doubted && n.held.iter().any(alone))
    }

    /// Whether somebody who wants to be a neighbour may be one; else it is to be told that it is none.
    pub fn admits(&self, peer: NodeId) -> bool {
        let reads = self.crowd.is_reader(self.me);
        let counts = |id: &&NodeId| !(self.crowd.is_large() && reads && self.crowd.is_reader(**id));
        // More than know each other directly make a crowd, also before a home has said so.
        self.neighbours.contains_key(&peer)
            || self.crowd.is_large() && reads && self.crowd.is_reader(peer)
            || self.neighbours.keys().filter(counts).count() < ADMITTED_MAX
    }

    /// Whether this node is to read the origin: everybody where all know each other, the readers of a
    /// crowd, and whoever has got nothing from anybody for long.
    pub(super) fn is_reading_for_others(&self, now: Now) -> bool {
        self.crowd.is_reader(self.me) || now >= self.gained_at + self.patience
    }
}
