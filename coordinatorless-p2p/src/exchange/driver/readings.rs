//! Spans from the origin: reading them, settling disputes by it, and giving up when it stays away.
//!
//! An origin that fails does not end a swarm at once: neighbours may have what is missing.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Driver, Reading, wishes::Wish};
use crate::{
    chunk::ChunkHash,
    error::{Error, ErrorKind, Result},
    exchange::inbox::{Event, Source, Ticket},
    swarm::Input,
    wire::{self, Word},
};

/// How long a swarm without an origin goes on when nobody brings anything.
const NO_SOURCE_PATIENCE: Duration = Duration::from_secs(20);

impl Driver {
    pub(super) fn read(&mut self, span: u32, chunks: Range<u32>) {
        tracing::debug!(span, ?chunks, "READ");
        let now = self.now();
        let Some((ticket, source)) = self.wishes.source() else {
            self.swarm.handle(now, Input::OriginDone { span, failed: Some(ErrorKind::NotFound) });
            return;
        };
        self.counter += 1;
        let (number, events, storing) = (self.counter, self.events.clone(), self.storing.clone());
        let task = self.tasks.spawn(async move {
            let (out, mut pieces) = mpsc::channel(1);
            let mut next = chunks.start;
            let end = chunks.end;
            let fetch = source.fetch(chunks, out);
            let done = events.clone();
            let pass = async move {
                while let Some(piece) = pieces.recv().await {
                    let (index, bytes) = piece?;
                    if index != next {
                        return Err(Error::new(
                            ErrorKind::Invalid,
                            format!("chunk {index} came instead of {next}"),
                        ));
                    }
                    next += 1;
                    let Ok(place) = storing.clone().acquire_owned().await else { break };
                    if events.send(Event::Origin { span, ticket, index, bytes, place }).await.is_err() {
                        break;
                    }
                }
                if next == end {
                    Ok(())
                } else {
                    Err(Error::new(ErrorKind::UNAVAILABLE, "the origin ended early"))
                }
            };
            let ((), passed) = tokio::join!(fetch, pass);
            let _ = done.send(Event::OriginDone { span, reading: number, error: passed.err() }).await;
        });
        self.readings.insert(span, Reading { number, ticket, task });
    }

    pub(super) fn settle(&mut self, index: u32) {
        let Some((_, source)) = self.wishes.source() else {
            self.swarm.handle(self.now(), Input::Unsettled { index });
            return;
        };
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let (out, mut pieces) = mpsc::channel(1);
            let ((), piece) = tokio::join!(source.fetch(index..index + 1, out), pieces.recv());
            let result = match piece {
                Some(Ok((_, bytes))) => Ok(ChunkHash::of(&bytes)),
                Some(Err(e)) => Err(e),
                None => Err(Error::new(ErrorKind::UNAVAILABLE, "the origin sent nothing")),
            };
            let _ = events.send(Event::Settled { index, result }).await;
        });
    }

    pub(super) fn origin_done(&mut self, span: u32, reading: u64, error: Option<Error>) {
        let now = self.now();
        let Some(&Reading { number, ticket, .. }) = self.readings.get(&span) else { return };
        if number != reading {
            return;
        }
        self.readings.remove(&span);
        self.swarm.handle(now, Input::OriginDone { span, failed: error.as_ref().map(Error::kind) });
        let Some(error) = error else { return };
        tracing::warn!(span, error = %error, "reading a span from the origin failed");
        self.source_failed(ticket, error);
    }

    /// Reads one chunk by itself: readers wait for it.
    pub(super) fn rush(&mut self, index: u32) {
        let Some((ticket, source)) = self.wishes.source() else {
            self.swarm.handle(self.now(), Input::Rushed { index, failed: Some(ErrorKind::NotFound) });
            return;
        };
        self.counter += 1;
        let (number, events, storing) = (self.counter, self.events.clone(), self.storing.clone());
        let task = self.tasks.spawn(async move {
            let (out, mut pieces) = mpsc::channel(1);
            let ((), piece) = tokio::join!(source.fetch(index..index + 1, out), pieces.recv());
            let nothing = || Error::new(ErrorKind::UNAVAILABLE, "the origin sent nothing");
            let result = match piece.unwrap_or_else(|| Err(nothing())) {
                Ok((_, bytes)) => match storing.acquire_owned().await {
                    Ok(place) => Ok((bytes, place)),
                    Err(_) => return,
                },
                Err(e) => Err(e),
            };
            let _ = events.send(Event::Rushed { index, reading: number, result }).await;
        });
        self.rushes.insert(index, Reading { number, ticket, task });
    }

    pub(super) fn rushed(&mut self, index: u32, reading: u64, result: Result<(Bytes, OwnedSemaphorePermit)>) {
        let now = self.now();
        let Some(&Reading { number, ticket, .. }) = self.rushes.get(&index) else { return };
        if number != reading {
            return;
        }
        self.rushes.remove(&index);
        let failed = result.as_ref().err().map(Error::kind);
        self.swarm.handle(now, Input::Rushed { index, failed });
        match result {
            Ok((bytes, place)) => self.store(index, None, bytes, Source::Origin(ticket), place),
            Err(error) => {
                tracing::warn!(index, error = %error, "reading a chunk from the origin failed");
                self.source_failed(ticket, error);
            }
        }
    }

    /// Notes that a wish's source failed, tells neighbours of the wait it asked for, and ends the wish where
    /// the origin is not what it was.
    fn source_failed(&mut self, ticket: Ticket, error: Error) {
        if let ErrorKind::Unavailable { retry_after: Some(wait) } = error.kind()
            && let Ok(hold) = wire::frame(&Word::OriginHold(wait.as_millis().min(300_000) as u32))
        {
            self.broadcast(&hold);
        }
        let error = Arc::new(error);
        self.wishes.origin_failed(ticket, error.clone());
        if error.kind() == ErrorKind::Corrupt {
            self.fail(ticket, self.origin_error(error));
        }
    }

    /// Ends the wishes whose patience is over: an origin that says no for good and neighbours that cannot
    /// help either, or no origin at all.
    pub(super) fn give_up_if_stuck(&mut self) {
        let stuck: Vec<(Ticket, Error)> =
            self.wishes.iter().filter_map(|(ticket, wish)| Some((ticket, self.why_stuck(wish)?))).collect();
        for (ticket, error) in stuck {
            self.fail(ticket, error);
        }
    }

    fn why_stuck(&self, wish: &Wish) -> Option<Error> {
        if wish.missing == 0 {
            return None;
        }
        let quiet = self.last_progress.max(wish.joined).elapsed();
        let Some((_, error)) = &wish.origin_error else {
            let text = format!("no live member has {} of the missing chunks", wish.missing);
            return (wish.source.is_none() && quiet > NO_SOURCE_PATIENCE).then(|| {
                Error::new(ErrorKind::UNAVAILABLE, format!("{text} and there is no origin to ask"))
            });
        };
        let patience = if error.kind().is_transient() {
            self.shared.config.give_up
        } else if self.listeners.is_empty() {
            Duration::ZERO
        } else {
            Duration::from_secs(5)
        };
        (quiet > patience).then(|| self.origin_error(error.clone()))
    }

    fn origin_error(&self, error: Arc<Error>) -> Error {
        Error::with_source(error.kind(), format!("swarm {}", self.spec.id.short()), error)
    }

    pub(super) fn fail(&mut self, ticket: Ticket, error: Error) {
        self.wishes.fail(self.spec.id, ticket, error);
        self.wants_changed();
    }

    /// Ends every wish that wants a chunk which this node cannot keep.
    pub(super) fn fail_wanting(&mut self, index: u32, error: Error) {
        let error = Arc::new(error);
        let wanting: Vec<Ticket> =
            self.wishes.iter().filter(|(_, w)| w.wanted.contains(index)).map(|(ticket, _)| ticket).collect();
        for ticket in wanting {
            self.fail(ticket, self.origin_error(error.clone()));
        }
    }
}
