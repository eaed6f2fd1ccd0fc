//! Decorator: what every origin costs, in requests, bytes and failures.
//!
//! Counts attempts, not calls: it sits inside the retries. Tells the same to `metrics` and to
//! [`OriginCounters`].

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use metrics::Counter;

use super::Origin;
use crate::{
    error::{ErrorKind, Result},
    snapshot::{Snapshot, SnapshotFile},
};

/// Origins counted each by itself; the rest go under one name, so that labels stay bounded.
const MAX_LABELS: usize = 1024;
/// The name of the rest.
const OTHERS: &str = "others";

/// What one origin has cost since this node started.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct OriginCounters {
    /// Scheme of the references, `s3`.
    pub scheme: &'static str,
    /// Bucket, host, or `local`.
    pub origin: String,
    /// Listings begun.
    pub listings: u64,
    /// Reads begun, each one ranged request.
    pub reads: u64,
    /// Bytes of files that came.
    pub bytes: u64,
    /// Attempts that failed, by kind.
    pub errors: BTreeMap<&'static str, u64>,
}

impl OriginCounters {
    /// Whether it is outside of this machine, so that its bytes may cost something.
    pub fn is_remote(&self) -> bool {
        self.scheme != "file"
    }
}

const KINDS: [&str; 8] =
    ["not_found", "denied", "invalid", "unavailable", "timeout", "corrupt", "full", "cancelled"];

fn kind_index(kind: ErrorKind) -> usize {
    match kind {
        ErrorKind::NotFound => 0,
        ErrorKind::Denied => 1,
        ErrorKind::Invalid => 2,
        ErrorKind::Unavailable { .. } => 3,
        ErrorKind::Timeout => 4,
        ErrorKind::Corrupt => 5,
        ErrorKind::Full => 6,
        ErrorKind::Cancelled => 7,
    }
}

/// The counters of all origins.
#[derive(Default)]
pub(super) struct Ledger(Mutex<HashMap<(&'static str, String), Arc<Entry>>>);

pub(super) struct Entry {
    scheme: &'static str,
    listings: AtomicU64,
    reads: AtomicU64,
    bytes: AtomicU64,
    errors: [AtomicU64; KINDS.len()],
    bytes_metric: Counter,
    listings_metric: Counter,
    reads_metric: Counter,
}

impl Ledger {
    pub(super) fn entry(&self, scheme: &'static str, origin: &str) -> Arc<Entry> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = if entries.len() < MAX_LABELS || entries.contains_key(&(scheme, origin.to_owned())) {
            origin
        } else {
            OTHERS
        };
        entries.entry((scheme, name.to_owned())).or_insert_with(|| Arc::new(Entry::new(scheme))).clone()
    }

    pub(super) fn read(&self) -> Vec<OriginCounters> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = entries.iter().map(|((_, origin), entry)| entry.read(origin)).collect();
        all.sort_by(|a, b| (a.scheme, &a.origin).cmp(&(b.scheme, &b.origin)));
        all
    }
}

impl Entry {
    fn new(scheme: &'static str) -> Self {
        let requests =
            |kind| metrics::counter!("emberline_origin_requests_total", "scheme" => scheme, "kind" => kind);
        Self {
            scheme,
            listings: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            errors: Default::default(),
            bytes_metric: metrics::counter!("emberline_origin_read_bytes_total", "scheme" => scheme),
            listings_metric: requests("list"),
            reads_metric: requests("read"),
        }
    }

    fn read(&self, origin: &str) -> OriginCounters {
        let counted = KINDS.iter().zip(&self.errors).map(|(kind, n)| (*kind, n.load(Ordering::Relaxed)));
        OriginCounters {
            scheme: self.scheme,
            origin: origin.to_owned(),
            listings: self.listings.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            errors: counted.filter(|(_, n)| *n > 0).collect(),
        }
    }

    fn count_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes_metric.increment(bytes);
    }

    /// A listing begins.
    pub(super) fn count_listing(&self) {
        self.listings.fetch_add(1, Ordering::Relaxed);
        self.listings_metric.increment(1);
    }

    pub(super) fn count_error(&self, kind: ErrorKind) {
        let index = kind_index(kind);
        self.errors[index].fetch_add(1, Ordering::Relaxed);
        metrics::counter!("emberline_origin_errors_total", "scheme" => self.scheme, "kind" => KINDS[index])
            .increment(1);
    }
}

pub(super) struct Count<O> {
    pub(super) inner: O,
    pub(super) entry: Arc<Entry>,
}

#[async_trait]
impl<O: Origin> Origin for Count<O> {
    async fn snapshot(&self) -> Result<Snapshot> {
        self.entry.count_listing();
        self.inner.snapshot().await.inspect_err(|e| self.entry.count_error(e.kind()))
    }

    async fn read(
        &self,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.entry.reads.fetch_add(1, Ordering::Relaxed);
        self.entry.reads_metric.increment(1);
        let body = self.inner.read(file, range).await.inspect_err(|e| self.entry.count_error(e.kind()))?;
        let entry = self.entry.clone();
        let counted = body.inspect(move |piece| match piece {
            Ok(bytes) => entry.count_bytes(bytes.len() as u64),
            Err(e) => entry.count_error(e.kind()),
        });
        Ok(counted.boxed())
    }
}
