//! From received bytes to a stored chunk: hashed on the blocking pool, then written.
//!
//! Every chunk in memory holds a place, given back when its bytes are on disk or dropped.

use bytes::Bytes;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::Driver;
use crate::{
    chunk::{ChunkHash, VerifiedChunk},
    embedding::Work,
    error::{Error, ErrorKind},
    exchange::inbox::{Event, Source},
    swarm::Input,
};

impl Driver {
    pub(super) fn store(
        &mut self,
        index: u32,
        announced: Option<ChunkHash>,
        bytes: Bytes,
        source: Source,
        place: OwnedSemaphorePermit,
    ) {
        // What came from the origin is judged by a manifest or not at all: an announcement may be the lie.
        let expected = announced.or(self.swarm.own_hash(index));
        let (shared, swarm, events) = (self.shared.clone(), self.spec.id, self.events.clone());
        self.tasks.spawn(async move {
            let observer = shared.observer.clone();
            let verified = tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                let verified = match expected {
                    Some(hash) => VerifiedChunk::checked(bytes, hash),
                    None => Ok(VerifiedChunk::hashed(bytes)),
                };
                observer.worked(Work::Verify, began.elapsed());
                verified
            })
            .await
            .unwrap_or_else(|e| Err(Error::with_source(ErrorKind::Cancelled, "hashing was cut short", e)));
            let done = match verified {
                Ok(chunk) => {
                    let hash = chunk.hash();
                    let began = Instant::now();
                    let written = shared.store.write(swarm, index, chunk).await;
                    shared.observer.worked(Work::Store, began.elapsed());
                    written.map(|()| hash)
                }
                Err(e) => Err(e),
            };
            drop(place);
            let event = match done {
                Ok(hash) => Event::Stored { index, hash, source },
                Err(error) => Event::NotStored { index, source, error },
            };
            let _ = events.send(event).await;
        });
    }

    pub(super) fn stored(&mut self, index: u32, hash: ChunkHash, source: Source) {
        let bytes = u64::from(self.spec.chunk_bytes[index as usize]);
        let had = self.swarm.held().contains(index);
        tracing::debug!(index, ?source, had, "STORED");
        self.swarm.handle(self.now(), Input::Stored { index, hash });
        self.last_progress = Instant::now();
        self.wishes.count(|p| match (had, source) {
            (true, _) => p.wasted_bytes += bytes,
            (false, Source::Origin(_)) => p.origin_bytes += bytes,
            (false, Source::Peer(_)) => p.peer_bytes += bytes,
            (false, Source::Disk) => p.reused_bytes += bytes,
        });
        if !had {
            self.wishes.stored(index);
        }
    }

    pub(super) fn not_stored(&mut self, index: u32, source: Source, error: Error) {
        let now = self.now();
        let bytes = u64::from(self.spec.chunk_bytes[index as usize]);
        self.wishes.count(|p| p.wasted_bytes += bytes);
        let had = self.swarm.held().contains(index);
        self.swarm.handle(now, Input::Lost { index });
        if had {
            self.wishes.recount(self.swarm.held());
        }
        match (error.kind(), source) {
            (ErrorKind::Corrupt, Source::Peer(peer)) => {
                self.shared.observer.corrupt(peer, index);
                self.swarm.handle(now, Input::RequestFailed { peer, index, why: ErrorKind::Corrupt });
            }
            (ErrorKind::Corrupt, Source::Origin(ticket)) => {
                let why = format!("origin changed: chunk {index} of swarm {}", self.spec.id.short());
                self.fail(ticket, error.context(why));
            }
            _ => self.fail_wanting(index, error.context(format!("chunk {index} could not be stored"))),
        }
    }
}
