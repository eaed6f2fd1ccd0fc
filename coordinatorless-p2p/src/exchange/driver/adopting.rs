//! Chunks that this disk has under another artifact: taken from there as soon as their hash is announced.
//!
//! Without a manifest hashes are learned on the way, so what a new version shares with an old one shows
//! only now. A few at a time: each is a read, a hash and a write on the blocking pool.

use super::Driver;
use crate::{
    chunk::ChunkHash,
    exchange::inbox::{Event, Source},
    swarm::Input,
};

/// Chunks being copied at a time; beside them bytes of peers and origin are to be stored.
const COPIES_MAX: usize = 4;

impl Driver {
    /// Notes those of the announced chunks that are on this disk. To be called before the swarm hears of
    /// the announcement, so that it asks nobody for them.
    pub(super) fn adopt_of(&mut self, announced: &[(u32, ChunkHash)]) {
        for &(index, hash) in announced {
            // Two hashes for one chunk are a dispute, and settled as one.
            let is_agreed = self.swarm.hash(index).is_none_or(|known| known == hash);
            let is_wanted = is_agreed && self.swarm.lacks(index);
            if is_wanted && self.shared.store.knows(&hash) && self.adopting.insert(index) {
                self.swarm.handle(self.now(), Input::Adopting { index });
                self.adoptable.push_back((index, hash));
            }
        }
        self.start_adopting();
    }

    /// The same for everything that was announced before it was wanted.
    pub(super) fn adopt_announced(&mut self) {
        let known: Vec<(u32, ChunkHash)> = self
            .swarm
            .wanted()
            .iter()
            .filter(|&index| self.swarm.lacks(index))
            .filter_map(|index| Some((index, self.swarm.hash(index)?)))
            .collect();
        self.adopt_of(&known);
    }

    fn start_adopting(&mut self) {
        while self.copies < COPIES_MAX {
            let Some((index, hash)) = self.adoptable.pop_front() else { return };
            self.copies += 1;
            let (shared, swarm, events) = (self.shared.clone(), self.spec.id, self.events.clone());
            self.tasks.spawn(async move {
                let is_here = shared.store.adopt(swarm, index, hash).await.unwrap_or_else(|e| {
                    tracing::warn!(index, error = %e, "a chunk on this disk could not be taken over");
                    false
                });
                let _ = events.send(Event::Adopted { index, hash, is_here }).await;
            });
        }
    }

    pub(super) fn adopted(&mut self, index: u32, hash: ChunkHash, is_here: bool) {
        self.copies -= 1;
        self.adopting.remove(&index);
        match (self.swarm.held().contains(index), is_here) {
            // Somebody else brought it meanwhile.
            (true, _) => {}
            (false, true) => self.stored(index, hash, Source::Disk),
            // Rotten or gone: to be had from others after all.
            (false, false) => self.swarm.handle(self.now(), Input::Lost { index }),
        }
        self.start_adopting();
    }
}
