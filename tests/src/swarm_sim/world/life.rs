//! Nodes that begin, ask the meeting place who else is there, die, and are missed.

use std::{rc::Rc, time::Duration};

use coordinatorless_p2p::{
    ChunkSet, Inventory, Node, Ring,
    cluster::HOMES,
    meeting::{MEET_AGAIN, MEET_EVERY},
    swarm::{DIRECT, Input, Member, Swarm, SwarmConfig},
};

use super::{Index, World, agenda::Event, peer::Mail};
use crate::swarm_sim::network::Nanos;

/// How often a node that hears nothing looks around.
const TICK: Nanos = 50_000_000;

impl World {
    pub(super) fn begin(&mut self, node: Index) {
        if self.peers[node as usize].has_died {
            return;
        }
        let spec = self.setting.spec.clone();
        let count = spec.chunk_bytes.len() as u32;
        let seed = self.setting.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(node);
        let usual = SwarmConfig::default();
        // As many chunks at a time as the product has of its own.
        let chunk = spec.chunk_bytes.iter().copied().max().unwrap_or(1);
        let inflight_bytes_max = usual.inflight_bytes_max.max(48 * u64::from(chunk));
        let config = SwarmConfig { seed, inflight_bytes_max, ..usual };
        let held = self.peers[node as usize].held_at_start.clone();
        let hash = |c: u32| held.contains(c).then(|| self.setting.hashes[c as usize]);
        let inventory = Inventory { hashes: (0..count).map(hash).collect(), held };
        let (me, now) = (self.peers[node as usize].id, Duration::from_nanos(self.now));
        let mut swarm = Swarm::new(spec, config, me, inventory, ChunkSet::full(count), false, now);
        swarm.take(now, Input::Members(self.members.clone()));
        let peer = &mut self.peers[node as usize];
        (peer.swarm, peer.alive) = (Some(swarm), true);
        self.meet(node, 0);
        self.agenda.plan(self.now + TICK, Event::Tick(node));
    }

    /// Asks the homes who else takes part, as often as the product's shell does.
    pub(super) fn meet(&mut self, node: Index, round: u32) {
        if !self.peers[node as usize].alive {
            return;
        }
        self.ask_homes(node);
        let wait = match MEET_AGAIN.get(round as usize) {
            Some(wait) if self.members.len() > DIRECT => *wait,
            _ => MEET_EVERY,
        };
        self.agenda.plan(self.now + wait.as_nanos() as Nanos, Event::Meet(node, round + 1));
    }

    fn ask_homes(&mut self, node: Index) {
        let swarm = self.setting.spec.id;
        let who =
            Member { id: self.peers[node as usize].id, zone: u64::from(self.peers[node as usize].zone) };
        for home in self.ring.owners(&swarm.0, HOMES) {
            let home = self.by_id[&home];
            let delay = if home == node { 0 } else { 2 * self.latency(node, home) };
            // A home that is dead and not known to be does not answer; one that wants nothing yet does.
            if !self.peers[home as usize].alive && !self.is_yet_to_start(home) {
                continue;
            }
            let named =
                self.places.entry(home).or_default().meet(Duration::from_nanos(self.now), who, swarm, true);
            if home != node {
                let (ask, answer) = self.sizes.meeting(named.len());
                self.count(node, ask);
                self.count(home, answer);
            }
            self.agenda.plan(self.now + delay, Event::Named(node, Rc::new(named)));
        }
    }

    pub(super) fn die(&mut self, node: Index) {
        for flow in self.peers[node as usize].stop() {
            self.network.end(flow);
        }
        // What it was sending stops; those who wait for it do not know yet.
        for to in 0..self.peers.len() {
            for at in 0..self.peers[to].requests.len() {
                let request = &mut self.peers[to].requests[at];
                if request.peer == node
                    && let Some(flow) = request.flow.take()
                {
                    self.network.end(flow);
                }
            }
        }
    }

    pub(super) fn notice(&mut self, who: Index, dead: Index) {
        let id = self.peers[dead as usize].id;
        let peer = &mut self.peers[who as usize];
        peer.speaks_to.retain(|n| *n != dead);
        if peer.alive && peer.hears(dead) {
            peer.set_hears(dead, false);
            self.post(who, Mail::Happened(Input::Left(id)));
        }
    }

    fn is_yet_to_start(&self, node: Index) -> bool {
        let peer = &self.peers[node as usize];
        peer.swarm.is_none() && !peer.has_died && peer.starts_at > self.now
    }
    /// Time passed for a node that heard nothing.
    pub(super) fn tick(&mut self, node: Index) {
        let peer = &self.peers[node as usize];
        if !peer.alive || peer.done_at.is_some() {
            return;
        }
        if !peer.is_waking && self.now >= peer.woke_at + TICK {
            self.post(node, Mail::Happened(Input::Tick));
        }
        self.agenda.plan(self.now + TICK, Event::Tick(node));
    }

    /// The last one noticed: from now on nobody counts `dead` as a member.
    pub(super) fn gone(&mut self, dead: Index) {
        let lives = |n: &Index| *n != dead && (self.peers[*n as usize].alive || self.is_yet_to_start(*n));
        let alive: Vec<Index> = (0..self.peers.len() as Index).filter(lives).collect();
        self.see_members(&alive);
        for place in self.places.values_mut() {
            place.forget(self.peers[dead as usize].id);
        }
        for node in alive {
            let members = Input::Members(self.members.clone());
            self.post(node, Mail::Happened(members));
            if self.peers[node as usize].alive {
                // The homes may have changed with the members: the new ones are to know who is here.
                self.ask_homes(node);
            }
        }
    }

    pub(super) fn see_members(&mut self, alive: &[Index]) {
        let zone = |n: Index| self.peers[n as usize].zone;
        let mut members: Vec<Member> = alive
            .iter()
            .map(|&n| Member { id: self.peers[n as usize].id, zone: u64::from(zone(n)) })
            .collect();
        members.sort_unstable();
        self.members = members.into();
        let nodes: Vec<Node> = alive
            .iter()
            .map(|&n| Node {
                id: self.peers[n as usize].id,
                name: String::new(),
                addr: ([127, 0, 0, 1], 1).into(),
                zone: zone(n).to_string(),
                weight: Node::WEIGHT,
                generation: 0,
            })
            .collect();
        self.ring = Ring::new(&nodes);
    }
}
