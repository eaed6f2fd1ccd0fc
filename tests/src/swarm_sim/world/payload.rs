//! Chunks on their way: from holders and from the origin, over the links between.

use std::time::Duration;

use coordinatorless_p2p::{error::ErrorKind, swarm::Input};

use super::{Index, World, agenda::Event, peer::Mail};
use crate::swarm_sim::network::{FlowId, HOPS, NO_LINK, Nanos};

/// What a flow carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Carried {
    Peer { from: Index, to: Index, chunk: u32 },
    Origin { to: Index, span: u32, chunk: u32 },
}

impl World {
    pub(super) fn asked(&mut self, node: Index, serial: u64) {
        let requests = &self.peers[node as usize].requests;
        let Some(at) = requests.iter().position(|r| r.serial == serial) else { return };
        let (from, chunk) = (requests[at].peer, requests[at].chunk);
        if !self.peers[from as usize].alive {
            return;
        }
        let bytes = f64::from(self.setting.spec.chunk_bytes[chunk as usize]);
        let way = self.way(from, node);
        let carried = Carried::Peer { from, to: node, chunk };
        let (id, ends) = self.network.begin(self.now, way, bytes, carried);
        self.peers[node as usize].requests[at].flow = Some(id);
        self.expect(id, ends);
    }

    fn expect(&mut self, id: FlowId, ends: Option<Nanos>) {
        // Past the window rates are other ones.
        let until = self.now - self.now % self.window + self.window;
        if let Some(at) = ends.filter(|at| *at < until) {
            self.agenda.plan(at, Event::FlowEnds(id));
        }
    }

    fn way(&self, from: Index, to: Index) -> [u32; HOPS] {
        let (a, b) = (&self.peers[from as usize], &self.peers[to as usize]);
        let mut way = [a.links.0, b.links.1, NO_LINK, NO_LINK];
        if a.zone != b.zone && !self.trunks.is_empty() {
            (way[2], way[3]) = (self.trunks[a.zone as usize].1, self.trunks[b.zone as usize].0);
        }
        way
    }

    pub(super) fn answered(&mut self, node: Index, serial: u64) {
        let peer = &self.peers[node as usize];
        let Some(at) = peer.readings.iter().position(|r| r.serial == serial) else { return };
        let (span, chunk) = (peer.readings[at].span, peer.readings[at].chunks.start);
        if self.origin_is_dead {
            self.peers[node as usize].readings.swap_remove(at);
            let failed = Input::OriginDone { span, failed: Some(ErrorKind::UNAVAILABLE) };
            return self.post(node, Mail::Happened(failed));
        }
        let mut way = [self.origin_link, peer.links.1, NO_LINK, NO_LINK];
        if let Some((into, _)) = self.trunks.get(peer.zone as usize) {
            way[2] = *into;
        }
        let bytes = f64::from(self.setting.spec.chunk_bytes[chunk as usize]);
        let (id, ends) = self.network.begin(self.now, way, bytes, Carried::Origin { to: node, span, chunk });
        self.peers[node as usize].readings[at].flow = Some(id);
        self.expect(id, ends);
    }

    pub(super) fn arrived(&mut self, id: FlowId) {
        let Some(carried) = self.network.tag(id) else { return };
        match carried {
            Carried::Peer { from, to, chunk } => {
                self.network.end(id);
                let bytes = u64::from(self.setting.spec.chunk_bytes[chunk as usize]);
                self.ledger.peer_bytes += bytes;
                let (a, b) = (self.peers[from as usize].zone, self.peers[to as usize].zone);
                if a != b {
                    self.ledger.into_zone_bytes[b as usize] += bytes;
                }
                self.peers[to as usize].requests.retain(|r| r.flow != Some(id));
                let round_trip = Some(Duration::from_nanos(2 * self.latency(from, to)));
                let peer = self.peers[from as usize].id;
                self.post(to, Mail::Happened(Input::Received { peer, index: chunk, round_trip }));
                self.stored(to, chunk);
            }
            Carried::Origin { to, span, chunk } => {
                let bytes = u64::from(self.setting.spec.chunk_bytes[chunk as usize]);
                self.ledger.origin_bytes += bytes;
                let zone = self.peers[to as usize].zone;
                self.ledger.into_zone_bytes[zone as usize] += bytes;
                self.post(to, Mail::Happened(Input::OriginChunk { span, index: chunk }));
                self.stored(to, chunk);
                self.read_on(to, span, chunk + 1, id);
            }
        }
    }

    fn stored(&mut self, node: Index, index: u32) {
        let hash = self.setting.hashes[index as usize];
        self.post(node, Mail::Happened(Input::Stored { index, hash }));
    }

    fn read_on(&mut self, to: Index, span: u32, chunk: u32, id: FlowId) {
        let readings = &mut self.peers[to as usize].readings;
        let Some(at) = readings.iter().position(|r| r.flow == Some(id)) else { return self.network.end(id) };
        if chunk >= readings[at].chunks.end {
            readings.swap_remove(at);
            self.network.end(id);
            return self.post(to, Mail::Happened(Input::OriginDone { span, failed: None }));
        }
        let bytes = f64::from(self.setting.spec.chunk_bytes[chunk as usize]);
        let ends = self.network.go_on(self.now, id, bytes, Carried::Origin { to, span, chunk });
        self.expect(id, ends);
    }
}
