//! Decorator: tries again what may succeed later, and goes on where a body broke.
//!
//! Owns the waiting: exponential with jitter, never less than the server's `Retry-After`, never longer
//! than the limit. Only transient kinds are tried again. The number of attempts is bounded; one that
//! brought a fair piece of the body starts the count anew.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::Origin;
use crate::{
    error::{Error, ErrorKind, Result},
    snapshot::{Snapshot, SnapshotFile},
};

/// The wait before the first further attempt, before jitter.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait that is not asked for by the server, before jitter.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// An attempt that brought this much was worth its while. Without the bound, a server that cuts after
/// every byte would be asked once a byte.
const PROGRESS_BYTES: u64 = 1 << 20;

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetryPolicy {
    pub(super) retries: u32,
    pub(super) max_wait: Duration,
}

impl RetryPolicy {
    fn waits(self) -> Waits {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(FIRST_WAIT)
            .with_max_delay(LONGEST_WAIT)
            .with_factor(2.0)
            .with_max_times(self.retries as usize)
            .with_jitter()
            .build();
        Waits { backoff, max_wait: self.max_wait }
    }
}

/// The waits of one call that are left.
struct Waits {
    backoff: ExponentialBackoff,
    max_wait: Duration,
}

impl Waits {
    /// Waits for the next attempt, or hands the error back when there is to be none.
    async fn after(&mut self, error: Error) -> Result<()> {
        let asked = match error.kind() {
            ErrorKind::Unavailable { retry_after } => retry_after.unwrap_or_default(),
            kind if kind.is_transient() => Duration::ZERO,
            _ => return Err(error),
        };
        if asked > self.max_wait {
            return Err(error);
        }
        let Some(wait) = self.backoff.next() else { return Err(error) };
        let wait = wait.max(asked);
        tracing::debug!(%error, wait_seconds = wait.as_secs_f64(), "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Of the attempts to list, so many may end without a word: who asked sits and waits.
const SILENT_MAX: u32 = 2;

/// Attempts until one succeeds, fails for good, or the policy gives up; two that time out are enough.
///
/// # Errors
/// That of the last attempt.
pub(super) async fn persist<T, F>(policy: RetryPolicy, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let (mut waits, mut silent) = (policy.waits(), 0);
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(e) => {
                silent += u32::from(e.kind() == ErrorKind::Timeout);
                if silent >= SILENT_MAX {
                    return Err(e);
                }
                waits.after(e).await?;
            }
        }
    }
}

pub(super) struct Retry<O> {
    pub(super) inner: Arc<O>,
    pub(super) policy: RetryPolicy,
}

#[async_trait]
impl<O: Origin> Origin for Retry<O> {
    async fn snapshot(&self) -> Result<Snapshot> {
        persist(self.policy, || self.inner.snapshot()).await
    }

    async fn read(
        &self,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let mut reading = Reading {
            origin: self.inner.clone(),
            file: file.clone(),
            left: range,
            body: None,
            policy: self.policy,
            waits: self.policy.waits(),
            progress: 0,
        };
        reading.open().await?;
        Ok(stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|piece| (piece, reading)))
        })
        .boxed())
    }
}

/// One read across all its attempts.
struct Reading<O> {
    origin: Arc<O>,
    file: SnapshotFile,
    /// What has not come yet.
    left: Range<u64>,
    body: Option<BoxStream<'static, Result<Bytes>>>,
    policy: RetryPolicy,
    waits: Waits,
    /// Bytes since the count of attempts began.
    progress: u64,
}

impl<O: Origin> Reading<O> {
    async fn open(&mut self) -> Result<()> {
        loop {
            match self.origin.read(&self.file, self.left.clone()).await {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                Err(e) => self.waits.after(e).await?,
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(body) = &mut self.body else {
                self.open().await?;
                continue;
            };
            match body.try_next().await {
                Ok(None) => return Ok(None),
                Ok(Some(piece)) => {
                    let length = piece.len() as u64;
                    self.left.start += length;
                    self.progress += length;
                    if self.progress >= PROGRESS_BYTES {
                        self.progress = 0;
                        self.waits = self.policy.waits();
                    }
                    return Ok(Some(piece));
                }
                Err(e) => {
                    // Gives its place up before it waits.
                    self.body = None;
                    if self.left.is_empty() {
                        // All had come; what broke was the end of the body.
                        return Ok(None);
                    }
                    self.waits.after(e).await?;
                }
            }
        }
    }
}
