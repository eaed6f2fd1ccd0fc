//! The gossip itself, driven from outside: datagrams and moments go in, datagrams and timers come
//! out. SWIM is `foca`'s; what is added here is distrust of members and of our own clock.
//!
//! Invariants: a member's word about itself is taken only over its own connection; somebody else's
//! word that a member is down is not taken while that member is heard; a moment that comes late
//! moves every pending judgement by as much, so a starved node accuses nobody; and a node that hears
//! of a newer description of itself outbids it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::{Foca, Member, Message, NoCustomBroadcast, PeriodicParams, PostcardCodec, State, Timer};
use rand_foca::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::time::Instant;

use super::{
    MemberState, MemberView, MembershipConfig, Moment,
    effects::{Due, Effects},
    wire::{self, Gossip, Name, Policy, UNKNOWN},
};
use crate::{
    error::{Error, ErrorKind, Result},
    node::{Node, NodeId},
    transport::Peer,
};

/// Members told of our leaving by ourselves; the others hear of it from them.
const MAX_FAREWELLS: usize = 512;

/// The least time between two returns from being declared down.
const REST: Duration = Duration::from_secs(1);

/// How much clocks may differ where a description has just been outbid, in milliseconds.
const MAX_SKEW_MS: u64 = 10_000;

/// Members thought to be down that are asked in one round whether they are back.
const DOWN_ASKED: usize = 3;

/// One node's part in the gossip, without clock or socket: the shell in this module and the simulator drive
/// it alike.
pub struct Core {
    foca: Foca<Name, PostcardCodec, StdRng, NoCustomBroadcast>,
    rng: StdRng,
    timers: BinaryHeap<Reverse<Due>>,
    sequence: u64,
    /// Of everybody foca remembers, whom it could only find one by one.
    known: HashSet<NodeId>,
    /// When each member was last heard over its own connection.
    heard: HashMap<NodeId, Instant>,
    /// Deaths claimed of members that were heard shortly before, and when to look again.
    contested: HashMap<NodeId, (Member<Name>, Instant)>,
    /// When we last came back from being declared down.
    came_back: Option<Instant>,
    policy: Policy,
    config: MembershipConfig,
    left: bool,
}

impl Core {
    /// A node that knows nobody yet; `seed` is that of its random choices.
    pub fn new(me: Node, config: MembershipConfig, max_datagram_bytes: usize, seed: u64) -> Self {
        let policy = Policy { loopback: me.addr.ip().to_canonical().is_loopback() };
        let rng = StdRng::seed_from_u64(seed);
        let foca_config = foca::Config {
            probe_period: config.probe_period,
            probe_rtt: config.probe_timeout,
            num_indirect_probes: NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN),
            // e⁻²⁰ of all pairs are missed by an epidemic: none of 5,000 members, where e⁻¹⁰ left some to be
            // found by chance, minutes later.
            max_transmissions: NonZeroU8::new(20).unwrap_or(NonZeroU8::MIN),
            suspect_to_down_after: config.suspicion,
            remove_down_after: Some(config.forget_after),
            max_packet_size: NonZeroUsize::new(max_datagram_bytes.saturating_sub(1))
                .unwrap_or(NonZeroUsize::MIN),
            notify_down_members: true,
            periodic_announce: Some(PeriodicParams {
                frequency: config.announce_every,
                num_members: NonZeroUsize::MIN,
            }),
            // Done by `announce`, which goes on when no member is left.
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(PeriodicParams {
                frequency: config.gossip_every,
                num_members: NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN),
            }),
        };
        Self {
            foca: Foca::new(
                Name(me),
                foca_config,
                StdRng::seed_from_u64(seed.wrapping_add(1)),
                PostcardCodec,
            ),
            rng,
            timers: BinaryHeap::new(),
            sequence: 0,
            known: HashSet::new(),
            heard: HashMap::new(),
            contested: HashMap::new(),
            came_back: None,
            policy,
            config,
            left: false,
        }
    }

    /// This node as it describes itself.
    pub fn me(&self) -> &Node {
        &self.foca.identity().0
    }

    /// Everybody who is thought to live, ourselves included unless we left; sorted by id.
    pub fn live(&self) -> Vec<Node> {
        let own = (!self.left).then(|| self.me().clone());
        let mut nodes: Vec<Node> = self.foca.iter_members().map(|m| m.id().0.clone()).chain(own).collect();
        nodes.sort_unstable_by_key(|n| n.id);
        nodes
    }

    /// Everybody we know of, ourselves included; sorted by id.
    pub fn views(&self) -> Vec<MemberView> {
        let state = |s| match s {
            State::Alive => MemberState::Alive,
            State::Suspect => MemberState::Suspect,
            State::Down => MemberState::Down,
        };
        let own = if self.left { MemberState::Down } else { MemberState::Alive };
        let mut views: Vec<MemberView> = self
            .foca
            .iter_membership_state()
            .map(|m| MemberView { node: m.id().0.clone(), state: state(m.state()) })
            .chain([MemberView { node: self.me().clone(), state: own }])
            .collect();
        views.sort_unstable_by_key(|v| v.node.id);
        views
    }

    /// When [`fire`](Self::fire) wants to be called next.
    pub fn next_due(&self) -> Option<Instant> {
        let contested = self.contested.values().map(|(_, at)| *at).min();
        self.timers.peek().map(|Reverse(due)| due.at).into_iter().chain(contested).min()
    }

    /// Takes a datagram from `from`, whose certificate was checked.
    ///
    /// # Errors
    /// `Invalid`, `Denied` when it claims to be from somebody else, `Full` when there are too many
    /// members. Nothing was changed then.
    pub fn receive(
        &mut self,
        moment: Moment,
        from: NodeId,
        datagram: &[u8],
        effects: &mut Effects,
    ) -> Result<()> {
        let Moment { at: now, epoch_ms } = moment;
        let mut gossip = Gossip::decode(datagram)?;
        self.check_header(&gossip, epoch_ms, from)?;
        if gossip.header.message == Message::Announce && gossip.header.dst.0.id == UNKNOWN {
            gossip.header.dst = self.foca.identity().clone();
        }
        self.correct(from, &gossip, effects);
        // Coming back, or being described anew, interrupts our probes: nobody may make us do it all the
        // time.
        let just_back = self.came_back.is_some_and(|at| now.saturating_duration_since(at) < REST);
        let before = self.me().generation;
        if !just_back {
            self.outbid(&gossip, moment, effects)?;
        }
        self.heard.insert(from, now);
        self.contested.remove(&from);
        if just_back && gossip.header.message == Message::TurnUndead {
            return Ok(());
        }
        self.sift(&mut gossip.updates, from, moment);
        if just_back {
            let own = self.me().id;
            gossip.updates.retain(|u| u.id().0.id != own || u.state() != State::Down);
        }
        let body = gossip.encode_body()?;
        let mut handled = self.foca.handle_data(&body, &mut *effects);
        if handled.is_ok() {
            let own = self.me().id;
            let named = gossip.updates.iter().map(|u| u.id().0.id).filter(|id| *id != own);
            self.known.extend(named.chain([from]));
        } else {
            self.know_all();
        }
        if self.me().generation != before {
            self.came_back = Some(now);
            handled = handled.and(self.resume(effects));
        }
        self.take_timers(now, effects);
        handled.map_err(|e| {
            Error::with_source(ErrorKind::Invalid, format!("gossip from node {} refused", from.short()), e)
        })
    }

    /// Keeps what may be believed of somebody's words about members.
    fn sift(&mut self, updates: &mut Vec<Member<Name>>, from: NodeId, moment: Moment) {
        let mut known: usize = self.known.len();
        updates.retain(|update| {
            let node = &update.id().0;
            if node.id == self.me().id {
                // Of other descriptions of ourselves nobody should hear again; `outbid` took note.
                return node == self.me();
            }
            if self.policy.check(node, moment.epoch_ms).is_err() {
                return false;
            }
            if !self.knows(node.id) {
                known += 1;
                return known <= self.config.max_members;
            }
            !self.contest(moment.at, from, update)
        });
    }

    /// Tells a sender what description of it beats the one it gives itself, so that it can outbid
    /// that: foca would only ignore it.
    fn correct(&self, from: NodeId, gossip: &Gossip, effects: &mut Effects) {
        use foca::Identity as _;
        let src = &gossip.header.src;
        let Some(held) = self.foca.iter_membership_state().find(|m| m.id().0.id == from) else { return };
        if held.id() == src || src.win_addr_conflict(held.id()) {
            return;
        }
        match wire::word(self.foca.identity(), src, held.clone()) {
            Ok(datagram) => effects.send.push((Peer { addr: src.0.addr, id: Some(from) }, datagram)),
            Err(error) => tracing::debug!(%error, "cannot correct a member"),
        }
    }

    fn check_header(&self, gossip: &Gossip, epoch_ms: u64, from: NodeId) -> Result<()> {
        let (src, dst) = (&gossip.header.src.0, &gossip.header.dst.0);
        if src.id != from {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("node {from} sent gossip in the name of node {}", src.id),
            ));
        }
        // Of itself a node may say a little more than others may say of it, or a clock that differs
        // from ours would keep it from outbidding them.
        self.policy.check(src, epoch_ms.saturating_add(MAX_SKEW_MS))?;
        if dst.id != self.me().id && dst.id != UNKNOWN {
            return Err(Error::new(ErrorKind::Invalid, format!("gossip for node {} came here", dst.id)));
        }
        if !self.knows(from) && self.foca.iter_membership_state().len() >= self.config.max_members {
            return Err(Error::new(ErrorKind::Full, format!("no room for another member, node {from}")));
        }
        // We would send to whatever address stands there.
        if let Some(Name(third)) = wire::third_party(&gossip.header.message)
            && !self
                .foca
                .iter_membership_state()
                .any(|m| m.id().0.id == third.id && m.id().0.addr == third.addr)
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("node {from} asked for a word to node {}, whom we do not know", third.id),
            ));
        }
        Ok(())
    }

    fn knows(&self, id: NodeId) -> bool {
        self.known.contains(&id)
    }

    fn know_all(&mut self) {
        self.known = self.foca.iter_membership_state().map(|m| m.id().0.id).collect();
    }

    /// Whether a claim that a member is down is put aside, because we heard from it just now.
    fn contest(&mut self, now: Instant, from: NodeId, update: &Member<Name>) -> bool {
        let id = update.id().0.id;
        if update.state() != State::Down || id == from || id == self.me().id {
            return false;
        }
        let heard_at = self.heard.get(&id).copied();
        let current = self.foca.iter_members().any(|m| m.id() == update.id());
        match heard_at {
            Some(at) if current && now.saturating_duration_since(at) < self.config.suspicion => {
                self.contested.entry(id).or_insert((update.clone(), now + self.config.suspicion));
                true
            }
            _ => false,
        }
    }

    /// Describes us anew when somebody has a description of us that is newer than ours: from before
    /// a restart, or forged.
    fn outbid(&mut self, gossip: &Gossip, moment: Moment, effects: &mut Effects) -> Result<()> {
        // What others would not believe need not be outbid, nor would they believe what outbids it.
        let horizon = moment.epoch_ms.saturating_add(wire::MAX_AHEAD_MS);
        let me = self.me();
        let newest = gossip
            .updates
            .iter()
            .map(|u| &u.id().0)
            .chain([&gossip.header.dst.0])
            .filter(|n| n.id == me.id && *n != me && n.generation <= horizon)
            .map(|n| n.generation)
            .max();
        match newest {
            // Of two that are dated alike the other one may have won.
            Some(generation) if generation >= me.generation => {
                self.update(moment, |node| node.generation = generation, effects)
            }
            _ => Ok(()),
        }
    }

    /// Describes us anew.
    ///
    /// # Errors
    /// `Invalid` when the description cannot be sent.
    pub fn update(
        &mut self,
        moment: Moment,
        change: impl FnOnce(&mut Node),
        effects: &mut Effects,
    ) -> Result<()> {
        let before = self.me().clone();
        let mut node = before.clone();
        change(&mut node);
        node.id = before.id;
        node.generation = before.generation.max(node.generation).saturating_add(1).max(moment.epoch_ms);
        self.policy.check(&node, u64::MAX)?;
        effects.changed = true;
        let changed = self.foca.change_identity(Name(node), &mut *effects);
        let resumed = changed.and_then(|()| self.resume(effects));
        self.take_timers(moment.at, effects);
        resumed.map_err(|e| {
            Error::with_source(ErrorKind::Invalid, "this node's new description cannot be spread", e)
        })
    }

    /// Starts probing again. A new description of ourselves, also the one with which foca answers to being
    /// declared down, stops the probes until the next datagram comes; where the others have us at a wrong
    /// address or take us for dead, none ever does.
    fn resume(&mut self, effects: &mut Effects) -> std::result::Result<(), foca::Error> {
        self.foca.apply_many(std::iter::empty(), false, &mut *effects)
    }

    /// Does what is due. To be called after the datagrams that are here have been taken.
    pub fn fire(&mut self, now: Instant, effects: &mut Effects) {
        self.forgive_lateness(now);
        while self.timers.peek().is_some_and(|Reverse(due)| due.at <= now) {
            let Some(Reverse(due)) = self.timers.pop() else { break };
            let forgets = matches!(due.timer, Timer::RemoveDown(_));
            // Errors here are about probes that were disturbed; the next one starts afresh.
            if let Err(error) = self.foca.handle_timer(due.timer, &mut *effects) {
                tracing::debug!(%error, "gossip timer");
            }
            if forgets {
                self.know_all();
            }
            self.take_timers(now, effects);
        }
        let ripe: Vec<_> =
            self.contested.iter().filter(|(_, (_, at))| *at <= now).map(|(id, _)| *id).collect();
        for id in ripe {
            // Not heard since, or the claim would be gone.
            if let Some((claim, _)) = self.contested.remove(&id) {
                let _ = self.foca.apply_many([claim].into_iter(), true, &mut *effects);
            }
        }
        self.take_timers(now, effects);
        let (window, heard) = (self.config.suspicion, &mut self.heard);
        heard.retain(|_, at| now.saturating_duration_since(*at) < window);
    }

    /// When we are late ourselves, others are not to blame for the silence: everything pending is put
    /// off by as much, and by the time that an answer takes.
    fn forgive_lateness(&mut self, now: Instant) {
        let Some(Reverse(first)) = self.timers.peek() else { return };
        let late = now.saturating_duration_since(first.at);
        if late <= self.config.probe_timeout / 2 {
            return;
        }
        if late > self.config.probe_period {
            tracing::warn!(
                late_ms = late.as_millis() as u64,
                "this node was stalled; judgements on others put off"
            );
        }
        let delay = late + self.config.probe_timeout;
        self.timers = std::mem::take(&mut self.timers)
            .into_iter()
            .map(|Reverse(due)| Reverse(Due { at: due.at + delay, ..due }))
            .collect();
        for (_, at) in self.contested.values_mut() {
            *at += delay;
        }
    }

    /// Says hello to `seeds` that are not members, and to some of those thought to be down, so that
    /// the halves of a cluster find each other again.
    pub fn announce(&mut self, now: Instant, seeds: &[std::net::SocketAddr], effects: &mut Effects) {
        if self.left {
            return;
        }
        let own = self.me().addr;
        let mut to: Vec<Name> = seeds
            .iter()
            .filter(|seed| **seed != own && !self.foca.iter_members().any(|m| m.id().0.addr == **seed))
            .map(|seed| Name::of_seed(*seed))
            .collect();
        let mut down: Vec<Name> = self
            .foca
            .iter_membership_state()
            .filter(|m| m.state() == State::Down)
            .map(|m| m.id().clone())
            .collect();
        down.shuffle(&mut self.rng);
        to.extend(down.into_iter().take(DOWN_ASKED));
        for name in to {
            if let Err(error) = self.foca.announce(name, &mut *effects) {
                tracing::debug!(%error, "cannot announce");
            }
        }
        self.take_timers(now, effects);
    }

    /// Takes leave of everybody.
    pub fn leave(&mut self, effects: &mut Effects) {
        let me = self.foca.identity().clone();
        let mut members: Vec<Name> = self.foca.iter_members().map(|m| m.id().clone()).collect();
        members.shuffle(&mut self.rng);
        for to in members.into_iter().take(MAX_FAREWELLS) {
            match wire::farewell(&me, &to) {
                Ok(datagram) => effects.send.push((Peer { addr: to.0.addr, id: Some(to.0.id) }, datagram)),
                Err(error) => tracing::debug!(%error, "cannot take leave"),
            }
        }
        if !self.left {
            self.left = true;
            effects.changed = true;
            if let Err(error) = self.foca.leave_cluster(&mut *effects) {
                tracing::debug!(%error, "cannot take leave");
            }
        }
    }

    fn take_timers(&mut self, now: Instant, effects: &mut Effects) {
        for (timer, after) in effects.timers.drain(..) {
            self.sequence += 1;
            self.timers.push(Reverse(Due { at: now + after, sequence: self.sequence, timer }));
        }
    }
}

#[cfg(test)]
mod tests;
