//! Chunks from neighbours: asking one for a chunk, and what its answer means.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::Driver;
use crate::{
    chunk::ChunkHash,
    error::{Error, ErrorKind},
    exchange::{
        chunks::{self, Answer, Question},
        inbox::{Event, Source},
    },
    node::NodeId,
    precedence::Rank,
    swarm::Input,
    wire,
};

impl Driver {
    pub(super) fn request(&mut self, peer: NodeId, index: u32) {
        let now = self.now();
        let Some(address) = self.shared.peer(peer) else {
            self.swarm.handle(now, Input::RequestFailed { peer, index, why: ErrorKind::UNAVAILABLE });
            return;
        };
        let len = self.spec.chunk_bytes[index as usize];
        let known = self.swarm.hash(index);
        let (shared, swarm, events) = (self.shared.clone(), self.spec.id, self.events.clone());
        let storing = self.storing.clone();
        let urgent = self.swarm.is_urgent(index);
        let rank = Rank { urgent, precedence: self.turn.precedence() };
        let understands = self.versions.get(&peer).is_some_and(|v| *v >= wire::VERSION_OF_URGENCY);
        let question = Question { swarm, index, len, urgent: urgent && understands };
        let task = self.tasks.spawn(async move {
            if let Some(hash) = known
                && shared.store.knows(&hash)
                && shared.store.adopt(swarm, index, hash).await.unwrap_or(false)
            {
                let _ = events.send(Event::Stored { index, hash, source: Source::Disk }).await;
                return;
            }
            shared.download.pass(len as usize, rank).await;
            let stall = shared.config.stall;
            // A holder's hashes may come behind its bitmap; what is on this disk is not fetched for that.
            let unneeded = |hash: &ChunkHash| known.is_none() && shared.store.knows(hash);
            let transport = &*shared.transport;
            let answer = chunks::request(transport, address, question, stall, unneeded).await;
            if matches!(answer, Ok(Answer::Bytes(..))) && !shared.same_zone(peer) {
                shared.cross_zone.fetch_add(len.into(), Ordering::Relaxed);
            }
            let event = match answer {
                Ok(Answer::Unneeded(hash)) => match shared.store.adopt(swarm, index, hash).await {
                    Ok(true) => Event::Stored { index, hash, source: Source::Disk },
                    // The copy here was rotten and is forgotten by now: the next request brings the bytes.
                    Ok(false) => {
                        let error = Error::new(ErrorKind::UNAVAILABLE, "the copy on this disk is no good");
                        Event::Refused { peer, index, error }
                    }
                    Err(error) => Event::Refused { peer, index, error },
                },
                Ok(Answer::Bytes(hash, bytes)) => match storing.acquire_owned().await {
                    Ok(place) => Event::Received { peer, index, hash, bytes, place },
                    Err(_) => return,
                },
                Err(error) => Event::Refused { peer, index, error },
            };
            let _ = events.send(event).await;
        });
        self.requests.insert((peer, index), task);
    }

    pub(super) fn received(
        &mut self,
        peer: NodeId,
        index: u32,
        hash: ChunkHash,
        bytes: Bytes,
        place: OwnedSemaphorePermit,
    ) {
        let now = self.now();
        let round_trip = self.shared.transport.round_trip(peer);
        if self.swarm.hash(index).is_some_and(|known| known != hash) {
            // Not the bytes' fault: two nodes say different things. The announcement is a dispute.
            self.swarm.handle(now, Input::RequestFailed { peer, index, why: ErrorKind::Invalid });
            self.swarm.handle(now, Input::Have { peer, items: vec![(index, hash)] });
            self.wishes.count(|p| p.wasted_bytes += bytes.len() as u64);
            return;
        }
        self.swarm.handle(now, Input::Received { peer, index, round_trip });
        self.store(index, Some(hash), bytes, Source::Peer(peer), place);
    }
}
