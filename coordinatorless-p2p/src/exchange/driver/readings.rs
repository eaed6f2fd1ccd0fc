//! Spans from the origin: reading them, settling disputes by it, and giving up when it stays away.
//!
//! An origin that fails does not end a swarm at once: neighbours may have what is missing.

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::Driver;
use crate::{
    chunk::ChunkHash,
    error::{Error, ErrorKind},
    exchange::inbox::Event,
    swarm::Input,
    wire::{self, Word},
};

/// How long a swarm without an origin goes on when nobody brings anything.
const NO_SOURCE_PATIENCE: Duration = Duration::from_secs(20);

impl Driver {
    pub(super) fn read(&mut self, span: u32, chunks: Range<u32>) {
        let now = self.now();
        let Some(source) = self.source.clone() else {
            self.swarm.handle(now, Input::OriginDone { span, failed: Some(ErrorKind::NotFound) });
            return;
        };
        self.counter += 1;
        let (reading, events, storing) = (self.counter, self.events.clone(), self.storing.clone());
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
                    if events.send(Event::Origin { span, index, bytes, place }).await.is_err() {
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
            let _ = done.send(Event::OriginDone { span, reading, error: passed.err() }).await;
        });
        self.readings.insert(span, (reading, task));
    }

    pub(super) fn settle(&mut self, index: u32) {
        let Some(source) = self.source.clone() else {
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
        if self.readings.get(&span).is_none_or(|(n, _)| *n != reading) {
            return;
        }
        self.readings.remove(&span);
        self.swarm.handle(now, Input::OriginDone { span, failed: error.as_ref().map(Error::kind) });
        let Some(error) = error else { return };
        if let ErrorKind::Unavailable { retry_after: Some(wait) } = error.kind()
            && let Ok(hold) = wire::frame(&Word::OriginHold(wait.as_millis().min(300_000) as u32))
        {
            self.broadcast(&hold);
        }
        tracing::warn!(span, error = %error, "reading a span from the origin failed");
        let fatal = error.kind() == ErrorKind::Corrupt;
        self.origin_error = Some(Arc::new(error));
        if fatal {
            self.fail_with_origin_error();
        }
    }

    /// An origin that says no for good and neighbours that cannot help either: say so.
    pub(super) fn give_up_if_stuck(&mut self) {
        if self.swarm.missing() == 0 || self.wishes.is_empty() {
            return;
        }
        let Some(error) = &self.origin_error else {
            if self.source.is_none() && self.last_progress.elapsed() > NO_SOURCE_PATIENCE {
                let text = format!("no live member has {} of the missing chunks", self.swarm.missing());
                self.fail(Error::new(
                    ErrorKind::UNAVAILABLE,
                    format!("{text} and there is no origin to ask"),
                ));
            }
            return;
        };
        let patience = if error.kind().is_transient() {
            self.shared.config.give_up
        } else if self.listeners.is_empty() {
            Duration::ZERO
        } else {
            Duration::from_secs(5)
        };
        if self.last_progress.elapsed() > patience {
            self.fail_with_origin_error();
        }
    }

    pub(super) fn fail_with_origin_error(&mut self) {
        if let Some(error) = self.origin_error.take() {
            let kind = error.kind();
            self.fail(Error::with_source(kind, format!("swarm {}", self.spec.id.short()), error));
        }
    }
}
