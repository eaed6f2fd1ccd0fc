//! The origin as the swarm reads it: runs of chunks, within this node's limits.
//!
//! Knows how an artifact is cut and how much may come at a time; not who asks for it, nor why.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use coordinatorless_p2p::{SpanSource, cluster::Cluster};
use futures::{TryStreamExt, stream::BoxStream};
use tokio::sync::mpsc;

use crate::{
    engine::Engine,
    error::{Error, ErrorKind, Result},
    manifest::Blueprint,
    origin::Origin,
    snapshot::SnapshotFile,
};

/// The origin as the swarm wants to read it: spans of chunks.
pub(crate) struct OriginSpans {
    origin: Arc<dyn Origin>,
    blueprint: Arc<Blueprint>,
    cluster: Cluster,
}

#[async_trait]
impl SpanSource for OriginSpans {
    async fn fetch(&self, chunks: Range<u32>, out: mpsc::Sender<Result<(u32, Bytes)>>) {
        if let Err(e) = self.read(chunks, &out).await {
            // Nobody may be listening any more; then nobody needs the error.
            let _ = out.send(Err(e)).await;
        }
    }
}

impl OriginSpans {
    /// An artifact's origin, read within this node's limits.
    pub(crate) fn of(
        engine: &Engine,
        origin: Arc<dyn Origin>,
        blueprint: &Arc<Blueprint>,
    ) -> Arc<dyn SpanSource> {
        Arc::new(Self { origin, blueprint: blueprint.clone(), cluster: engine.cluster.clone() })
    }

    async fn read(&self, chunks: Range<u32>, out: &mpsc::Sender<Result<(u32, Bytes)>>) -> Result<()> {
        let place = |index| {
            self.blueprint
                .place(index)
                .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("chunk {index} is past the end")))
        };
        let (first, last) = (place(chunks.start)?, place(chunks.end.saturating_sub(1))?);
        let file = &self.blueprint.files[first.file];
        let wanted = SnapshotFile {
            path: file.path.clone(),
            size: file.size,
            version: file.version.clone(),
            digest: file.digest,
        };
        let range = first.offset..last.offset + u64::from(last.bytes);
        let mut bites = Bites { of: self, file: wanted, left: range, body: None, paid: false };
        let mut piece = Bytes::new();
        for index in chunks {
            let len = place(index)?.bytes as usize;
            let mut chunk = BytesMut::with_capacity(len);
            while chunk.len() < len {
                if piece.is_empty() {
                    piece = bites.next().await?;
                }
                let take = piece.split_to(piece.len().min(len - chunk.len()));
                chunk.extend_from_slice(&take);
            }
            if out.send(Ok((index, chunk.freeze()))).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// A range of a file at its origin: in one request, or under a limit in as many as keep to it.
///
/// What is asked for comes as fast as the link carries it, whatever the reader does: a receive buffer is filled at
/// once. So no more is asked for than may come.
struct Bites<'a> {
    of: &'a OriginSpans,
    file: SnapshotFile,
    /// Not asked for yet.
    left: Range<u64>,
    body: Option<BoxStream<'static, Result<Bytes>>>,
    /// Whether the limit has been asked for what comes.
    paid: bool,
}

impl Bites<'_> {
    async fn next(&mut self) -> Result<Bytes> {
        loop {
            if let Some(body) = &mut self.body {
                match body.try_next().await? {
                    Some(piece) if piece.is_empty() => continue,
                    Some(piece) => {
                        if !self.paid {
                            self.of.cluster.take_in(piece.len()).await;
                        }
                        return Ok(piece);
                    }
                    None => self.body = None,
                }
            }
            if self.left.is_empty() {
                let text = format!("{} ended before its range", self.file.path);
                return Err(Error::new(ErrorKind::UNAVAILABLE, text));
            }
            let most = self.of.cluster.bite_bytes();
            let end = most.map_or(self.left.end, |most| self.left.end.min(self.left.start + most));
            let bite = std::mem::replace(&mut self.left.start, end)..end;
            self.paid = most.is_some();
            if self.paid {
                self.of.cluster.take_in((bite.end - bite.start) as usize).await;
            }
            self.body = Some(self.of.origin.read(&self.file, bite).await?);
        }
    }
}
