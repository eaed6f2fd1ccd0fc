//! A file that is open and may still be on its way.

use std::{ops::Range, sync::Arc, time::SystemTime};

use bytes::Bytes;
use coordinatorless_p2p::ChunkHash;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Caller, ahead::ReadAhead, session::Session};
use crate::{
    error::{Error, ErrorKind, Result},
    metrics,
    namespace::FileEntry,
    page_cache,
    snapshot::{Digest, FileVersion, RelativePath},
    store::OpenedFile,
};

/// The most bytes of one read: a longer one is short.
pub const READ_MAX_BYTES: usize = 1 << 20;

/// Where a file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Some of its chunks are here.
    Coming {
        /// Bytes of it that are here.
        here_bytes: u64,
    },
    /// It is whole, checked and published; its bytes never change.
    Sealed,
}

/// An open file. Cheap to clone; clones share their read-ahead. Keeps its artifact from eviction.
#[derive(Clone)]
pub struct LazyFile {
    inner: Arc<Inner>,
}

struct Inner {
    session: Arc<Session>,
    file: usize,
    entry: FileEntry,
    caller: Caller,
    ahead: Mutex<ReadAhead>,
    sealed: Mutex<Option<OpenedFile>>,
    /// How often the file had not had its digest when it was opened.
    refusals: u64,
}

impl LazyFile {
    pub(super) async fn open(
        session: Arc<Session>,
        file: usize,
        entry: FileEntry,
        caller: Caller,
    ) -> Result<Self> {
        let refusals = session.engine.store.refusals(&session.lease, file);
        let (ahead, sealed) = (Mutex::default(), Mutex::default());
        let opened =
            Self { inner: Arc::new(Inner { session, file, entry, caller, ahead, sealed, refusals }) };
        opened.look().await?;
        Ok(opened)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.inner.entry.bytes
    }

    /// See [`FileEntry::etag`]; without quotes. Does not change when the file is sealed.
    pub fn etag(&self) -> &str {
        &self.inner.entry.etag
    }

    /// When the origin says that it was changed last.
    pub fn modified(&self) -> Option<SystemTime> {
        self.inner.entry.modified
    }

    /// What identifies this version at its origin.
    pub fn version(&self) -> &FileVersion {
        &self.inner.entry.version
    }

    /// The origin's own digest, where it tells one.
    pub fn digest(&self) -> Option<Digest> {
        self.inner.entry.digest
    }

    /// The commit or version of what it is part of, where the origin has one.
    pub fn revision(&self) -> Option<&str> {
        self.inner.session.blueprint.revision.as_deref()
    }

    /// Its path in its artifact.
    pub fn path(&self) -> &RelativePath {
        &self.inner.session.blueprint.files[self.inner.file].path
    }

    /// The BLAKE3 name of its content, once every chunk of it is here.
    pub fn hash(&self) -> Option<ChunkHash> {
        self.sealed().map(|sealed| sealed.etag)
    }

    /// Who opened it.
    pub fn caller(&self) -> Caller {
        self.inner.caller
    }

    /// The published file, as soon as a read or [`wait_sealed`](Self::wait_sealed) has found it so. Doors then
    /// take their fast paths.
    pub fn sealed(&self) -> Option<OpenedFile> {
        self.inner.sealed.lock().clone()
    }

    /// Where it stands now.
    pub fn state(&self) -> State {
        let Inner { session, file, entry, .. } = &*self.inner;
        let store = &session.engine.store;
        if store.is_published(&session.lease, *file) {
            return State::Sealed;
        }
        let here = store.here_bytes(&session.lease, *file);
        State::Coming { here_bytes: here.min(entry.bytes) }
    }

    /// The ranges of it that are here, in order, none touching the next.
    pub fn here(&self) -> Vec<Range<u64>> {
        let Inner { session, file, entry, .. } = &*self.inner;
        let store = &session.engine.store;
        if store.is_published(&session.lease, *file) {
            return Vec::from_iter((entry.bytes > 0).then_some(0..entry.bytes));
        }
        let (mut ranges, mut start) = (Vec::<Range<u64>>::new(), 0);
        let chunks = session.blueprint.chunks_of(*file).zip(&session.blueprint.files[*file].chunk_bytes);
        for (index, bytes) in chunks {
            let end = start + u64::from(*bytes);
            if store.holds(&session.lease, index) {
                match ranges.last_mut().filter(|last| last.end == start) {
                    Some(last) => last.end = end,
                    None => ranges.push(start..end),
                }
            }
            start = end;
        }
        ranges
    }

    /// Reads up to `len` bytes at `offset`, waiting for chunks that are not here yet; these go first.
    ///
    /// Bytes were verified before this returns. Short only at the end of the file and past
    /// [`READ_MAX_BYTES`]; empty at its end. Cancel-safe: what is on its way arrives for the next reader.
    ///
    /// # Errors
    /// `Timeout` past `deadline`; `Corrupt` when the file turned out not to have the origin's digest, or the
    /// origin has another version by now; `Unavailable` when no holder and no origin answered; `Denied`.
    pub async fn read_at(&self, offset: u64, len: usize, deadline: Instant) -> Result<Bytes> {
        let Inner { session, file, entry, caller, .. } = &*self.inner;
        let end = offset.saturating_add(len.min(READ_MAX_BYTES) as u64).min(entry.bytes);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let range = offset..end;
        session.touch(*file, range.clone());
        if let Some(sealed) = self.sealed() {
            metrics::read(caller.door, metrics::FoundBytes::Sealed);
            return read_sealed(sealed, range).await;
        }
        let (was_ahead, ahead) = {
            let mut ahead = self.inner.ahead.lock();
            (ahead.covers(&range), ahead.read(&range, entry.bytes))
        };
        let began = Instant::now();
        let store = &session.engine.store;
        let mut waited = 0;
        loop {
            self.check()?;
            waited += session.bring(*file, range.clone(), ahead.clone(), deadline).await?;
            // A chunk that is dropped meanwhile is waited for again.
            if let Some(bytes) = store.read_range(&session.lease, *file, range.clone()).await? {
                self.check()?;
                self.look().await?;
                let found = match (waited, was_ahead) {
                    (0, true) => metrics::FoundBytes::Ahead,
                    (0, false) => metrics::FoundBytes::Here,
                    (chunks, _) => metrics::FoundBytes::Waited { chunks, took: began.elapsed() },
                };
                metrics::read(caller.door, found);
                return Ok(bytes);
            }
            if Instant::now() >= deadline {
                let text = format!("{} lost chunks while it was read", self.path());
                return Err(Error::new(ErrorKind::Timeout, text));
            }
        }
    }

    /// Waits until the file is whole and published. Cancel-safe.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub async fn wait_sealed(&self, deadline: Instant) -> Result<OpenedFile> {
        let Inner { session, file, entry, .. } = &*self.inner;
        loop {
            self.check()?;
            self.look().await?;
            if let Some(sealed) = self.sealed() {
                return Ok(sealed);
            }
            session.bring(*file, 0..entry.bytes, None, deadline).await?;
            self.look().await?;
            if self.sealed().is_none() {
                if Instant::now() >= deadline {
                    return Err(Error::new(ErrorKind::Timeout, format!("{} is not sealed yet", self.path())));
                }
                session.publish(*file).await?;
            }
        }
    }

    /// Takes hold of the published file if there is one.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn look(&self) -> Result<()> {
        let Inner { session, file, .. } = &*self.inner;
        let store = &session.engine.store;
        if self.inner.sealed.lock().is_some() || !store.is_published(&session.lease, *file) {
            return Ok(());
        }
        match store.open_file(session.lease.swarm, self.path()).await {
            Ok(opened) => *self.inner.sealed.lock() = Some(opened),
            // It lost a chunk just now: read on as before.
            Err(e) if matches!(e.kind(), ErrorKind::Unavailable { .. }) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Whether what was read so far is what the origin vouches for, as far as anybody knows.
    fn check(&self) -> Result<()> {
        let Inner { session, file, refusals, .. } = &*self.inner;
        if session.engine.store.refusals(&session.lease, *file) == *refusals {
            return Ok(());
        }
        let text = format!("{} does not have the digest that its origin promises", self.path());
        Err(Error::new(ErrorKind::Corrupt, text))
    }
}

async fn read_sealed(sealed: OpenedFile, range: Range<u64>) -> Result<Bytes> {
    if let Some(bytes) = page_cache::read_if_resident(&sealed.file, &range) {
        return Ok(bytes.into());
    }
    page_cache::read(sealed, range).await
}
