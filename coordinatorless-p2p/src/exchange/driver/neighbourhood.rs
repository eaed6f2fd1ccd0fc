//! The neighbours of one swarm: who is spoken to, who is heard, who is let go.
//!
//! Announcements go out in order on one bounded queue a neighbour; one that cannot keep up is greeted
//! anew, which says everything again in less.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Driver, Speaker};
use crate::{
    chunk::{ChunkHash, ChunkSet},
    error::Result,
    exchange::{inbox::Event, talk},
    node::NodeId,
    swarm::Input,
    wire::{self, Word},
};

/// Participants known directly; above that, successors and random ones.
const NEIGHBOURS_DIRECT: usize = 32;
const NEIGHBOURS_SUCCESSORS: usize = 12;
const NEIGHBOURS_RANDOM: usize = 12;

impl Driver {
    /// Speaks to participants it does not speak to yet, within the limits of a neighbourhood.
    pub(super) fn meet(&mut self, ids: &[NodeId]) {
        let me = self.shared.transport.id();
        let mut chosen: Vec<NodeId> = ids.iter().copied().filter(|id| *id != me).collect();
        if chosen.len() > NEIGHBOURS_DIRECT {
            chosen.sort_unstable();
            let at = chosen.partition_point(|id| *id < me);
            chosen.rotate_left(at);
            let mut rest = chosen.split_off(NEIGHBOURS_SUCCESSORS);
            let places = (NEIGHBOURS_SUCCESSORS + NEIGHBOURS_RANDOM)
                .saturating_sub(self.speakers.len().max(chosen.len()));
            use rand::seq::SliceRandom;
            rest.shuffle(&mut rand::rng());
            chosen.extend(rest.into_iter().take(places));
        }
        for id in chosen {
            if !self.speakers.contains_key(&id) {
                self.speak_to(id);
            }
        }
    }

    pub(super) fn speak_to(&mut self, id: NodeId) {
        let Some(peer) = self.shared.peer(id) else { return };
        let Ok(first) = self.greeting() else { return };
        let (queue, frames) = mpsc::channel(talk::QUEUE_FRAMES_MAX);
        self.counter += 1;
        let number = self.counter;
        self.speakers.insert(id, Speaker { number, queue });
        let (shared, swarm, events) = (self.shared.clone(), self.spec.id, self.events.clone());
        self.tasks.spawn(async move {
            let stall = shared.config.stall;
            if let Err(e) = talk::speak(&*shared.transport, peer, swarm, first, frames, stall).await {
                tracing::debug!(peer = %id.short(), error = %e, "announcing to a neighbour ended");
            }
            let _ = events.send(Event::SpeakerEnded { to: id, speaker: number }).await;
        });
    }

    fn greeting(&self) -> Result<Vec<Bytes>> {
        let held = self.swarm.held().clone();
        let items: Vec<(u32, ChunkHash)> =
            held.iter().filter_map(|i| self.swarm.hash(i).map(|h| (i, h))).collect();
        let wanted = match self.leaving {
            Some(_) => Some(ChunkSet::new(held.universe())),
            None => Some(self.swarm.wanted().clone()).filter(|w| !w.is_full()),
        };
        let reads_origin = self.wishes.source().is_some() && self.leaving.is_none();
        let mut frames = vec![wire::frame(&Word::Hello { held, wanted, reads_origin })?];
        if self.leaving.is_some() {
            frames.push(wire::frame(&Word::Leaving)?);
        }
        for span in self.swarm.reading() {
            frames.push(wire::frame(&Word::Claim(span))?);
        }
        frames.extend(talk::have_frames(&items)?);
        Ok(frames)
    }

    pub(super) fn heard(&mut self, from: NodeId, talk: u64, word: Word) {
        let now = self.now();
        match word {
            Word::Hello { held, wanted, reads_origin } => {
                self.listeners.insert(from, talk);
                let same_zone = self.shared.same_zone(from);
                self.swarm.handle(now, Input::Joined { peer: from, same_zone, held, wanted, reads_origin });
                if !self.speakers.contains_key(&from) {
                    self.speak_to(from);
                }
            }
            _ if self.listeners.get(&from) != Some(&talk) => {}
            Word::Have(items) => {
                self.adopt_of(&items);
                self.swarm.handle(now, Input::Have { peer: from, items });
            }
            Word::Claim(span) => { tracing::debug!(span, from = %from.short(), "CLAIM"); self.swarm.handle(now, Input::Claimed { peer: from, span }) }
            Word::Unclaim(span) => self.swarm.handle(now, Input::Unclaimed { peer: from, span }),
            Word::OriginHold(ms) => {
                let until = now + Duration::from_millis(ms.min(300_000).into());
                self.swarm.handle(now, Input::OriginHold { until });
            }
            Word::Bye => self.forget(from),
            Word::Leaving => self.swarm.handle(now, Input::Leaving(from)),
        }
    }

    pub(super) fn forget(&mut self, peer: NodeId) {
        self.listeners.remove(&peer);
        self.speakers.remove(&peer);
        self.swarm.handle(self.now(), Input::Left(peer));
    }

    pub(super) fn broadcast(&mut self, frame: &Bytes) {
        let full: Vec<NodeId> = self
            .speakers
            .iter()
            .filter(|(_, s)| s.queue.try_send(frame.clone()).is_err())
            .map(|(id, _)| *id)
            .collect();
        for id in full {
            self.speakers.remove(&id);
            self.speak_to(id);
        }
    }

    pub(super) fn say(&mut self, word: &Word) {
        if let Ok(frame) = wire::frame(word) {
            self.broadcast(&frame);
        }
    }

    pub(super) fn shun(&mut self, peer: NodeId, time: Duration, why: &'static str) {
        let seconds = time.as_secs();
        tracing::error!(peer = %peer, swarm = %self.spec.id.short(), seconds, why, "a peer is shunned");
        self.shared.observer.shunned(peer, why);
        self.listeners.remove(&peer);
        self.speakers.remove(&peer);
        self.shared.transport.shun(peer, time);
    }
}
