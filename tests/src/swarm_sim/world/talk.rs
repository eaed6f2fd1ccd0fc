//! What nodes say to each other and do because their state machines say so, as the product's shell does it.

use std::{rc::Rc, time::Duration};

use coordinatorless_p2p::swarm::{Input, Output, Swarm};

use super::{
    Index, World,
    agenda::Event,
    peer::{Mail, Reading, Request},
};
use crate::swarm_sim::{mail::Word, network::Nanos};

/// From a request to the first byte of the origin's answer.
const ORIGIN_FIRST_BYTE: Nanos = 10_000_000;

impl World {
    pub(super) fn wake(&mut self, node: Index) {
        let now = Duration::from_nanos(self.now);
        let peer = &mut self.peers[node as usize];
        (peer.is_waking, peer.woke_at) = (false, self.now);
        if !peer.alive {
            return;
        }
        let mut inbox = std::mem::take(&mut peer.inbox);
        let Some(mut swarm) = peer.swarm.take() else { return };
        for mail in inbox.drain(..) {
            match mail {
                Mail::Happened(input) => swarm.take(now, input),
                Mail::Said { from, word } => self.hear(&mut swarm, node, from, &word),
            }
        }
        swarm.handle(now, Input::Tick);
        self.act(&mut swarm, node);
        let peer = &mut self.peers[node as usize];
        peer.peak_neighbours = peer.peak_neighbours.max(swarm.neighbours().count());
        peer.swarm = Some(swarm);
        if peer.inbox.is_empty() {
            // Its room is kept.
            peer.inbox = inbox;
        }
    }

    fn hear(&mut self, swarm: &mut Swarm, node: Index, from: Index, word: &Word) {
        let now = Duration::from_nanos(self.now);
        let peer = self.peers[from as usize].id;
        match word {
            Word::Hello { held, claims } => {
                if !swarm.admits(peer) {
                    return self.part(node, from);
                }
                self.peers[node as usize].set_hears(from, true);
                let same_zone = self.peers[from as usize].zone == self.peers[node as usize].zone;
                let joined =
                    Input::Joined { peer, same_zone, held: held.clone(), wanted: None, reads_origin: true };
                swarm.take(now, joined);
                for span in claims {
                    swarm.take(now, Input::Claimed { peer, span: *span });
                }
                let items: Vec<_> = held.iter().map(|c| (c, self.setting.hashes[c as usize])).collect();
                if !items.is_empty() {
                    swarm.take(now, Input::Have { peer, items });
                }
                if !self.peers[node as usize].speaks_to.contains(&from) {
                    self.speak(swarm, node, from);
                }
            }
            Word::Bye => {
                self.peers[node as usize].speaks_to.retain(|n| *n != from);
                if self.peers[node as usize].hears(from) {
                    self.peers[node as usize].set_hears(from, false);
                    swarm.take(now, Input::Left(peer));
                }
            }
            _ if !self.peers[node as usize].hears(from) => {}
            Word::Have(chunks) => {
                let items = chunks.iter().map(|c| (*c, self.setting.hashes[*c as usize])).collect();
                swarm.take(now, Input::Have { peer, items });
            }
            Word::Claim(span) => swarm.take(now, Input::Claimed { peer, span: *span }),
            Word::Unclaim(span) => swarm.take(now, Input::Unclaimed { peer, span: *span }),
        }
    }

    fn part(&mut self, node: Index, from: Index) {
        self.peers[node as usize].set_hears(from, false);
        self.peers[node as usize].speaks_to.retain(|n| *n != from);
        self.send(node, from, Rc::new(Word::Bye));
    }

    fn speak(&mut self, swarm: &Swarm, node: Index, to: Index) {
        self.peers[node as usize].speaks_to.push(to);
        let hello = Word::Hello { held: swarm.held().clone(), claims: swarm.reading().collect() };
        self.send(node, to, Rc::new(hello));
    }

    fn send(&mut self, from: Index, to: Index, word: Rc<Word>) {
        let bytes = self.sizes.word(&word);
        if matches!(*word, Word::Hello { .. }) {
            self.ledger.greetings += 1;
            self.ledger.greeting_bytes += bytes;
        }
        self.count(from, bytes);
        self.agenda.post(self.now, self.is_near(from, to), from, to, word);
    }

    fn say(&mut self, from: Index, word: Word) {
        let word = Rc::new(word);
        for at in 0..self.peers[from as usize].speaks_to.len() {
            let to = self.peers[from as usize].speaks_to[at];
            self.send(from, to, word.clone());
        }
    }

    fn act(&mut self, swarm: &mut Swarm, node: Index) {
        while let Some(output) = swarm.poll() {
            match output {
                Output::Greet { peer } => {
                    let to = self.by_id[&peer];
                    if !self.peers[node as usize].speaks_to.contains(&to) {
                        self.speak(swarm, node, to);
                    }
                }
                Output::Part { peer } => self.part(node, self.by_id[&peer]),
                Output::Request { peer, index } => {
                    let peer = self.by_id[&peer];
                    let serial = self.agenda.number();
                    let requests = &mut self.peers[node as usize].requests;
                    if requests.iter().any(|r| r.chunk == index) {
                        self.ledger.hedged_bytes += u64::from(self.setting.spec.chunk_bytes[index as usize]);
                    }
                    requests.push(Request { peer, chunk: index, serial, flow: None });
                    self.count(node, self.sizes.request);
                    self.count(peer, self.sizes.reply);
                    let at = self.now + 2 * self.latency(node, peer);
                    self.agenda.plan(at, Event::Asked { node, serial });
                }
                Output::Cancel { peer, index } => {
                    let peer = self.by_id[&peer];
                    let requests = &mut self.peers[node as usize].requests;
                    if let Some(at) = requests.iter().position(|r| r.peer == peer && r.chunk == index) {
                        let flow = requests.swap_remove(at).flow;
                        flow.into_iter().for_each(|id| self.network.end(id));
                    }
                }
                Output::FetchSpan { span, chunks } => {
                    let serial = self.agenda.number();
                    self.peers[node as usize].readings.push(Reading { span, chunks, serial, flow: None });
                    self.agenda.plan(self.now + ORIGIN_FIRST_BYTE, Event::Answered { node, serial });
                }
                Output::CancelSpan { span } => {
                    let readings = &mut self.peers[node as usize].readings;
                    if let Some(at) = readings.iter().position(|r| r.span == span) {
                        let flow = readings.swap_remove(at).flow;
                        flow.into_iter().for_each(|id| self.network.end(id));
                    }
                }
                Output::Announce { items } => {
                    self.say(node, Word::Have(items.into_iter().map(|(c, _)| c).collect()));
                }
                Output::Claim { span } => {
                    self.ledger.claims += 1;
                    self.say(node, Word::Claim(span));
                }
                Output::Unclaim { span } => self.say(node, Word::Unclaim(span)),
                Output::Shun { .. } => self.ledger.shunned += 1,
                Output::Complete => self.peers[node as usize].done_at = Some(self.now),
                // Nobody reads here and nobody lies.
                Output::Settle { .. }
                | Output::Discard { .. }
                | Output::Rush { .. }
                | Output::CancelRush { .. } => {}
            }
        }
    }
}
