//! The state machines of thousands of nodes in virtual time: mail, requests, readings, meetings, deaths.
//!
//! Does for each node what the shell of the product does, with the network of [`super::network`] for
//! sockets: greets, announces, requests, reads. Decides nothing about chunks or neighbours. Nobody opens a
//! file and nobody lies in it.
//!
//! Invariants: everything follows from the plan and its seed; nothing is iterated in an order that a hash
//! decides; a node that is dead neither hears nor says anything.

mod agenda;
mod life;
mod payload;
mod peer;
mod talk;

use std::{collections::BTreeMap, sync::Arc};

use coordinatorless_p2p::{
    ChunkHash, ChunkSet, NodeId, Ring,
    cluster::HOMES,
    meeting::MeetingPlace,
    swarm::{Input, Member, SwarmSpec},
};

use self::{
    agenda::{Agenda, Due, Event},
    payload::Carried,
    peer::{Mail, Peer},
};
use super::{
    mail::Sizes,
    network::{Nanos, Network},
    plan::{Links, Plan, spec_of},
};

/// Somebody's number: its place in the world.
pub type Index = u32;

/// What the world did.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    /// Words, arrivals, timers.
    pub events: u64,
    /// Payload that the origin sent.
    pub origin_bytes: u64,
    /// Payload that nodes sent.
    pub peer_bytes: u64,
    /// What came into each zone, from the origin and from other zones.
    pub into_zone_bytes: Vec<u64>,
    /// Asked of a second holder.
    pub hedged_bytes: u64,
    /// Neighbours greeted, and what that took: a greeting says everything held.
    pub greetings: u64,
    /// In bytes.
    pub greeting_bytes: u64,
    /// Spans claimed.
    pub claims: u64,
    /// How often somebody was shunned.
    pub shunned: u64,
}

/// What a world is made of.
pub struct Setting {
    /// What is exchanged.
    pub spec: SwarmSpec,
    /// The hash of each chunk.
    pub hashes: Arc<[ChunkHash]>,
    /// The rates.
    pub links: Links,
    /// To which the nodes are dealt in turn.
    pub zones: u32,
    /// Of every random choice.
    pub seed: u64,
}

impl Setting {
    /// That of a plan.
    pub fn of(plan: &Plan) -> Self {
        let spec = spec_of(plan.model_bytes, plan.chunk_bytes);
        let hashes = (0..spec.chunk_bytes.len() as u32).map(|c| ChunkHash::of(&c.to_le_bytes())).collect();
        Self { spec, hashes, links: plan.links.clone(), zones: plan.zones as u32, seed: plan.seed }
    }
}

/// All nodes, the origin, and what is under way.
pub struct World {
    setting: Setting,
    /// The nodes.
    pub peers: Vec<Peer>,
    by_id: BTreeMap<NodeId, Index>,
    network: Network<Carried>,
    origin_link: u32,
    /// Into and out of each zone, where its border is narrow.
    trunks: Vec<(u32, u32)>,
    agenda: Agenda,
    places: BTreeMap<Index, MeetingPlace>,
    members: Arc<[Member]>,
    ring: Ring,
    /// Since the world began.
    pub now: Nanos,
    /// How long rates stand.
    window: Nanos,
    /// How long a node works at what it woke for; what comes meanwhile is looked at together.
    nap: Nanos,
    /// Whether the origin refuses what it is asked.
    pub origin_is_dead: bool,
    /// What happened so far.
    pub ledger: Ledger,
    sizes: Sizes,
}

impl World {
    /// `count` nodes dealt to the zones, none of which has started.
    pub fn new(setting: Setting, count: usize) -> Self {
        let links = &setting.links;
        let mut network = Network::new();
        let origin_link = network.add_link(links.origin);
        let trunks = match links.trunk {
            Some(rate) => {
                (0..setting.zones).map(|_| (network.add_link(rate), network.add_link(rate))).collect()
            }
            None => Vec::new(),
        };
        let zones = setting.zones.max(1);
        let mut peer = |n: usize| {
            let rate = links.nodes[n % links.nodes.len()];
            let ways = (network.add_link(rate), network.add_link(rate));
            Peer::new(id_of(n as Index), n as u32 % zones, ways, count)
        };
        let peers: Vec<Peer> = (0..count).map(&mut peer).collect();
        let fastest = links.nodes.iter().copied().fold(0.0, f64::max);
        let chunk = setting.spec.chunk_bytes.iter().copied().max().unwrap_or(1);
        // A chunk from one of two dozen holders takes about this long.
        let chunk_time = f64::from(chunk) * 24.0 / fastest * 1e9;
        let by_id = peers.iter().enumerate().map(|(n, p)| (p.id, n as Index)).collect();
        let mut world = Self {
            peers,
            by_id,
            network,
            origin_link,
            trunks,
            agenda: Agenda::default(),
            places: BTreeMap::new(),
            members: Arc::from([]),
            ring: Ring::default(),
            now: 0,
            window: (chunk_time / 24.0).clamp(1e6, 1e9) as Nanos,
            nap: (chunk_time / 40.0).clamp(2e5, 2e7) as Nanos,
            origin_is_dead: false,
            ledger: Ledger { into_zone_bytes: vec![0; zones as usize], ..Ledger::default() },
            sizes: Sizes::measured(setting.spec.id),
            setting,
        };
        let everybody: Vec<Index> = (0..count as Index).collect();
        world.see_members(&everybody);
        world
    }

    /// Has a node begin to want the model.
    pub fn start(&mut self, node: Index, at: Nanos) {
        self.start_with(node, at, ChunkSet::new(self.setting.spec.chunk_bytes.len() as u32));
    }

    /// Has a node begin that holds chunks already and wants the rest.
    pub fn start_with(&mut self, node: Index, at: Nanos, held: ChunkSet) {
        let peer = &mut self.peers[node as usize];
        (peer.starts_at, peer.held_at_start) = (at, held);
        self.agenda.plan(at, Event::Starts(node));
    }

    /// Has a node die without a word; each of the others notices after as long as `notices` says.
    pub fn kill(&mut self, node: Index, at: Nanos, notices: impl Fn(Index) -> Nanos) {
        self.agenda.plan(at, Event::Dies(node));
        let mut last = 0;
        for who in (0..self.peers.len() as Index).filter(|who| *who != node) {
            let after = notices(who);
            last = last.max(after);
            self.agenda.plan(at + after, Event::Notices { who, dead: node });
        }
        self.agenda.plan(at + last, Event::Gone(node));
    }

    /// The homes of the swarm: its meeting place.
    pub fn homes(&self) -> Vec<Index> {
        let homes = self.ring.owners(&self.setting.spec.id.0, HOMES);
        homes.into_iter().map(|id| self.by_id[&id]).collect()
    }

    /// Lets time pass until everybody has the model, or until `limit`. True if everybody has it.
    pub fn run(&mut self, limit: Nanos) -> bool {
        self.run_watched(limit, |_| {})
    }

    /// As [`run`](Self::run), and shows the world to `watch` now and then.
    pub fn run_watched(&mut self, limit: Nanos, mut watch: impl FnMut(&Self)) -> bool {
        while self.now < limit {
            if self.is_over() {
                return true;
            }
            watch(self);
            let until = self.now + self.window;
            let (network, agenda) = (&mut self.network, &mut self.agenda);
            network.share(self.now, until, |at, id| agenda.plan(at, Event::FlowEnds(id)));
            self.pass(until);
            self.now = until;
        }
        self.is_over()
    }

    /// What those who live and have started hold ÷ what they want.
    pub fn share(&self) -> f64 {
        let missing = |p: &Peer| p.swarm.as_ref().filter(|_| p.alive).map(|s| f64::from(s.missing()));
        let (sum, count) =
            self.peers.iter().filter_map(missing).fold((0.0, 0.0), |a, m| (a.0 + m, a.1 + 1.0));
        let chunks = self.setting.spec.chunk_bytes.len() as f64;
        if count == 0.0 { 0.0 } else { 1.0 - sum / (count * chunks) }
    }

    /// Some of those who lack something.
    pub fn laggards(&self) -> String {
        let lacks = |p: &Peer| p.swarm.as_ref().map_or(0, |s| s.missing());
        let late = self.peers.iter().enumerate().filter(|(_, p)| p.alive && p.done_at.is_none());
        let some: Vec<String> =
            late.take(5).map(|(n, p)| format!("node {n} lacks {} chunks", lacks(p))).collect();
        some.join(", ")
    }

    fn is_over(&self) -> bool {
        self.peers.iter().all(|p| p.done_at.is_some() || p.has_died)
    }

    /// Everything that happens before `until`.
    fn pass(&mut self, until: Nanos) {
        while let Some((at, due)) = self.agenda.next(until) {
            self.now = at;
            self.ledger.events += 1;
            match due {
                Due::Letter(letter) => {
                    self.post(letter.to, Mail::Said { from: letter.from, word: letter.word });
                }
                Due::Event(event) => self.happen(event),
            }
        }
    }

    /// Puts something before a node, which looks at it when it wakes: a busy one takes several at a time.
    fn post(&mut self, to: Index, mail: Mail) {
        let peer = &mut self.peers[to as usize];
        if !peer.alive {
            return;
        }
        peer.inbox.push(mail);
        if !peer.is_waking {
            peer.is_waking = true;
            let at = self.now.max(peer.woke_at + self.nap);
            self.agenda.plan(at, Event::Wake(to));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::FlowEnds(id) => self.arrived(id),
            Event::Asked { node, serial } => self.asked(node, serial),
            Event::Answered { node, serial } => self.answered(node, serial),
            Event::Wake(node) => self.wake(node),
            Event::Tick(node) => self.tick(node),
            Event::Meet(node, round) => self.meet(node, round),
            Event::Named(node, ids) => self.post(node, Mail::Happened(Input::Met(ids.to_vec()))),
            Event::Starts(node) => self.begin(node),
            Event::Dies(node) => self.die(node),
            Event::Notices { who, dead } => self.notice(who, dead),
            Event::Gone(dead) => self.gone(dead),
        }
    }

    fn count(&mut self, node: Index, bytes: u64) {
        let peer = &mut self.peers[node as usize];
        peer.messages += 1;
        peer.control_bytes += bytes;
    }

    fn is_near(&self, a: Index, b: Index) -> bool {
        self.peers[a as usize].zone == self.peers[b as usize].zone
    }

    fn latency(&self, a: Index, b: Index) -> Nanos {
        if self.is_near(a, b) { agenda::NEAR } else { agenda::FAR }
    }

    /// What each node said beside payload: messages and bytes.
    pub fn control(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.peers.iter().map(|p| (p.messages, p.control_bytes))
    }
}

/// An id that looks like real ones: ranks are taken from it.
pub(super) fn id_of(node: Index) -> NodeId {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(&node.to_le_bytes()).as_bytes()[..16]);
    NodeId(bytes)
}
