//! Decorator: what comes is what was asked for, no byte less and none more.
//!
//! Owns the sanity of ranges and the length of bodies, for every origin alike. An empty range costs no
//! request.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
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

pub(super) struct Exact<O>(pub(super) O);

#[async_trait]
impl<O: Origin> Origin for Exact<O> {
    async fn snapshot(&self) -> Result<Snapshot> {
        self.0.snapshot().await
    }

    async fn read(
        &self,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        if range.start > range.end || range.end > file.size {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("bytes {range:?} are not in {}, which has {}", file.path, file.size),
            ));
        }
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let body = self.0.read(file, range.clone()).await?;
        let (name, wanted): (Arc<str>, u64) = (file.path.as_str().into(), range.end - range.start);
        let counted = stream::try_unfold((body, 0u64), move |(mut body, mut had)| {
            let name = name.clone();
            async move {
                let next = body.try_next().await?;
                had += next.as_ref().map_or(0, |piece| piece.len() as u64);
                match next {
                    // Cut off: what is missing may come on another try.
                    None if had < wanted => Err(Error::new(
                        ErrorKind::UNAVAILABLE,
                        format!("{name}: body ended after {had} of {wanted} bytes"),
                    )),
                    Some(_) if had > wanted => Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("{name}: body goes on after the {wanted} bytes that were asked for"),
                    )),
                    next => Ok(next.map(|piece| (piece, (body, had)))),
                }
            }
        });
        Ok(counted.boxed())
    }
}
