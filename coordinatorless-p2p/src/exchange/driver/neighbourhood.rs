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
    exchange::{
        inbox::{Event, Talker},
        talk,
    },
    node::NodeId,
    swarm::Input,
    transport::Peer,
    wire::{self, Word},
};

/// Before a neighbour is spoken to again that has just stopped listening: a greeting says all that is here, and
/// whoever does not want to hear it would have it again and again.
const PAUSE: Duration = Duration::from_secs(2);

impl Driver {
    /// Speaks to a participant, instead of what was said to it so far.
    pub(super) fn speak_to(&mut self, id: NodeId) {
        if let Ok(first) = self.greeting(id) {
            self.speak(id, first);
        }
    }

    fn speak(&mut self, id: NodeId, first: Vec<Bytes>) {
        let Some(node) = self.shared.membership.lookup(id) else { return };
        let (peer, generation) = (Peer { addr: node.addr, id: Some(id) }, node.generation);
        let (queue, frames) = mpsc::channel(talk::QUEUE_FRAMES_MAX);
        self.counter += 1;
        let number = self.counter;
        let replaced = self.speakers.insert(id, Speaker { number, generation, queue }).map(|old| old.queue);
        let (shared, swarm, events) = (self.shared.clone(), self.spec.id, self.events.clone());
        self.tasks.spawn(async move {
            let stall = shared.config.stall;
            if let Err(e) = talk::speak(&*shared.transport, peer, swarm, first, replaced, frames, stall).await
            {
                tracing::debug!(peer = %id.short(), error = %e, "announcing to a neighbour ended");
            }
            let _ = events.send(Event::SpeakerEnded { to: id, speaker: number }).await;
        });
    }

    /// Whether a neighbour hears this node, as the process that it is now.
    fn is_spoken_to(&self, id: NodeId) -> bool {
        let generation = self.shared.membership.lookup(id).map(|node| node.generation);
        self.speakers.get(&id).is_some_and(|s| generation.is_none_or(|now| now == s.generation))
    }

    /// A neighbour that is heard is spoken to again when that has ended by itself: it may have been started anew
    /// and have greeted before this node noticed, and does not know what is here.
    pub(super) fn speak_again_soon(&mut self, to: NodeId) {
        if self.listeners.contains_key(&to) {
            let events = self.events.clone();
            self.tasks.spawn(async move {
                tokio::time::sleep(PAUSE).await;
                let _ = events.send(Event::SpeakAgain { to }).await;
            });
        }
    }

    fn greeting(&self, to: NodeId) -> Result<Vec<Bytes>> {
        let held = self.swarm.held().clone();
        let items: Vec<(u32, ChunkHash)> =
            held.iter().filter_map(|i| self.swarm.hash(i).map(|h| (i, h))).collect();
        let wanted = match self.leaving {
            Some(_) => Some(ChunkSet::new(held.universe())),
            None => Some(self.swarm.wanted().clone()).filter(|w| !w.is_full()),
        };
        let reads_origin = self.wishes.source().is_some() && self.leaving.is_none();
        let mut frames = vec![wire::frame(&Word::Hello { held, wanted, reads_origin })?];
        if self.leaving.is_some() && self.knows_of_leaving(to) {
            frames.push(wire::frame(&Word::Leaving)?);
        }
        for span in self.swarm.reading() {
            frames.push(wire::frame(&Word::Claim(span))?);
        }
        frames.extend(talk::have_frames(&items)?);
        Ok(frames)
    }

    pub(super) fn heard(&mut self, from: Talker, word: Word) {
        let Talker { id: from, talk, version } = from;
        let now = self.now();
        match word {
            Word::Hello { .. } if !self.swarm.admits(from) => self.part(from),
            Word::Hello { held, wanted, reads_origin } => {
                self.listeners.insert(from, talk);
                self.versions.insert(from, version);
                let same_zone = self.shared.same_zone(from);
                self.swarm.handle(now, Input::Joined { peer: from, same_zone, held, wanted, reads_origin });
                if !self.is_spoken_to(from) {
                    self.speak_to(from);
                }
            }
            // Also from whom nothing was heard yet: it does not want to be a neighbour. Not from an earlier
            // talk than the one that is heard.
            Word::Bye => {
                if self.listeners.get(&from).is_none_or(|heard| *heard <= talk) {
                    self.forget(from);
                }
            }
            _ if self.listeners.get(&from) != Some(&talk) => {}
            Word::Have(items) => {
                self.adopt_of(&items);
                self.swarm.handle(now, Input::Have { peer: from, items });
            }
            Word::Claim(span) => self.swarm.handle(now, Input::Claimed { peer: from, span }),
            Word::Unclaim(span) => self.swarm.handle(now, Input::Unclaimed { peer: from, span }),
            Word::OriginHold(ms) => {
                let until = now + Duration::from_millis(ms.min(300_000).into());
                self.swarm.handle(now, Input::OriginHold { until });
            }
            Word::Leaving => self.swarm.handle(now, Input::Leaving(from)),
        }
    }

    pub(super) fn forget(&mut self, peer: NodeId) {
        self.speakers.remove(&peer);
        self.unheard(peer);
    }

    /// A neighbour says nothing any more. It may have begun to speak anew, so it is spoken to as before: whoever
    /// fell silent in answer would have it fall silent, and so on.
    pub(super) fn unheard(&mut self, peer: NodeId) {
        self.listeners.remove(&peer);
        self.versions.remove(&peer);
        self.swarm.handle(self.now(), Input::Left(peer));
    }

    /// Tells somebody that it is no neighbour, or none any more.
    pub(super) fn part(&mut self, peer: NodeId) {
        self.listeners.remove(&peer);
        self.versions.remove(&peer);
        let Ok(bye) = wire::frame(&Word::Bye) else { return };
        if let Some(speaker) = self.speakers.remove(&peer) {
            // With a full queue it hears that the stream ends.
            let _ = speaker.queue.try_send(bye);
        } else {
            self.speak(peer, vec![bye]);
            self.speakers.remove(&peer);
        }
    }

    /// Whether a neighbour understands that this node is about to leave.
    fn knows_of_leaving(&self, id: NodeId) -> bool {
        self.versions.get(&id).is_some_and(|version| *version >= wire::VERSION_OF_LEAVING)
    }

    /// Says that this node is about to leave. Who does not understand it hears the farewell only.
    pub(super) fn say_leaving(&mut self) {
        let Ok(frame) = wire::frame(&Word::Leaving) else { return };
        self.tell(&frame, |driver, id| driver.knows_of_leaving(id));
    }

    pub(super) fn broadcast(&mut self, frame: &Bytes) {
        self.tell(frame, |_, _| true);
    }

    fn tell(&mut self, frame: &Bytes, whom: impl Fn(&Self, NodeId) -> bool) {
        let full: Vec<NodeId> = self
            .speakers
            .iter()
            .filter(|(id, s)| whom(self, **id) && s.queue.try_send(frame.clone()).is_err())
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
        self.versions.remove(&peer);
        self.speakers.remove(&peer);
        self.shared.transport.shun(peer, time);
    }
}
