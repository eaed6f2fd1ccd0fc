//! The bodies of uploads: read by pieces, held to what the client promised of them.
//!
//! Invariants: what all uploads together hold in memory is bounded by [`Uploads`]; who would hold more waits, and is
//! told to come again when that takes too long; who sends too slowly holds nothing for ever.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::HeaderMap;
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Result, TrailingHeaders,
    checksum::ChecksumHasher,
    crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256},
    dto::StreamingBlob,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::{attributes::CHECKSUMS, errors::said};

/// Bytes of bodies in memory, all uploads together.
const HELD_BYTES: usize = 256 << 20;
/// Memory is claimed in this unit.
const UNIT_BYTES: usize = 1 << 20;
/// A client that sends no byte for this long has gone; sooner than the door gives the connection up, so that it is told.
const STALL: Duration = Duration::from_secs(25);
/// How long an upload waits for room; real clients ask again after `SlowDown`, and wait longer each time.
const ROOM_TIMEOUT: Duration = Duration::from_secs(20);
/// No client is this slow. A piece that comes slower, a byte now and then, would keep room from others for ever.
const LEAST_BYTES_PER_SECOND: u64 = 64 << 10;

/// What uploads may hold in memory, and those that are under way.
pub(super) struct Uploads {
    room: Arc<Semaphore>,
    running: TaskTracker,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(HELD_BYTES / UNIT_BYTES)), running: TaskTracker::new() }
    }
}

impl Uploads {
    /// Waits for room for so many bytes; at most [`HELD_BYTES`].
    ///
    /// # Errors
    /// `SlowDown` when none is to be had.
    pub(super) async fn room(&self, bytes: usize) -> S3Result<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.min(HELD_BYTES).div_ceil(UNIT_BYTES).max(1)).unwrap_or(1);
        let room = Arc::clone(&self.room).acquire_many_owned(units);
        match tokio::time::timeout(ROOM_TIMEOUT, room).await {
            Ok(room) => room.map_err(|_| S3Error::new(S3ErrorCode::InternalError)),
            Err(_) => Err(said(S3ErrorCode::SlowDown, "too many uploads at once: fewer, or later")),
        }
    }

    /// Does what must come to its end even if the caller is dropped: a client that goes away ends the body, and
    /// the work sees to the rest.
    pub(super) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = S3Result<T>> + Send + 'static,
    ) -> S3Result<T> {
        let done = self.running.spawn(work).await;
        done.unwrap_or_else(|_| {
            Err(said(S3ErrorCode::InternalError, "the agent made a mistake writing this"))
        })
    }

    /// Waits until nothing is under way, at most so long.
    pub(super) async fn drain(&self, timeout: Duration) {
        self.running.close();
        if tokio::time::timeout(timeout, self.running.wait()).await.is_err() {
            tracing::warn!(uploads = self.running.len(), "uploads are left unfinished");
        }
    }
}

/// A body that is coming.
pub(super) struct Upload {
    body: Option<StreamingBlob>,
    /// What came and was not taken yet.
    left: Bytes,
    hasher: ChecksumHasher,
    md5: Option<(Md5, String)>,
    promised: Vec<(&'static str, String)>,
    /// Promised to come behind the body.
    announced: Vec<&'static str>,
    trailers: Option<TrailingHeaders>,
    length: u64,
    came: u64,
}

impl Upload {
    /// # Errors
    /// `MissingContentLength`.
    pub(super) fn new<T>(
        request: &S3Request<T>,
        body: Option<StreamingBlob>,
        length: Option<i64>,
    ) -> S3Result<Self> {
        let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
        // A body in signed pieces that comes in HTTP's own pieces has its length in a header of S3's.
        let length = match length {
            Some(length) => u64::try_from(length).ok(),
            None => header("x-amz-decoded-content-length").and_then(|length| length.parse().ok()),
        };
        let length =
            length.ok_or_else(|| said(S3ErrorCode::MissingContentLength, "how long is the body?"))?;
        let (mut promised, mut announced) = (Vec::new(), Vec::new());
        let mut hasher = ChecksumHasher::default();
        let trailing = header("x-amz-trailer").unwrap_or_default().to_ascii_lowercase();
        for name in CHECKSUMS {
            let is_announced = trailing.split(',').any(|trailer| trailer.trim() == name);
            if is_announced {
                announced.push(name);
            }
            match header(name) {
                Some(value) => promised.push((name, value.to_owned())),
                None if is_announced => {}
                None => continue,
            }
            match name {
                "x-amz-checksum-crc32" => hasher.crc32 = Some(Crc32::new()),
                "x-amz-checksum-crc32c" => hasher.crc32c = Some(Crc32c::new()),
                "x-amz-checksum-crc64nvme" => hasher.crc64nvme = Some(Crc64Nvme::new()),
                "x-amz-checksum-sha1" => hasher.sha1 = Some(Sha1::new()),
                _ => hasher.sha256 = Some(Sha256::new()),
            }
        }
        let md5 = header("content-md5").map(|value| (Md5::new(), value.to_owned()));
        let trailers = request.trailing_headers.clone();
        let left = Bytes::new();
        Ok(Self { body, left, hasher, md5, promised, announced, trailers, length, came: 0 })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The next `limit` bytes; fewer only at the end, and none behind it.
    ///
    /// # Errors
    /// `IncompleteBody`, `RequestTimeout`; what s3s found wrong with the body's own signature.
    pub(super) async fn next(&mut self, limit: usize) -> S3Result<Bytes> {
        let to_come = self.length.saturating_sub(self.came).min(limit as u64);
        let within = STALL + Duration::from_secs(to_come / LEAST_BYTES_PER_SECOND);
        let next = tokio::time::timeout(within, self.gather(limit)).await;
        next.map_err(|_| {
            let text = format!("the body comes too slowly: {to_come} bytes took more than {within:?}");
            said(S3ErrorCode::RequestTimeout, text)
        })?
    }

    async fn gather(&mut self, limit: usize) -> S3Result<Bytes> {
        let to_come = self.length.saturating_sub(self.came).saturating_add(self.left.len() as u64);
        let mut piece = BytesMut::with_capacity(usize::try_from(to_come).unwrap_or(limit).min(limit));
        while piece.len() < limit {
            if self.left.is_empty() {
                match self.receive().await? {
                    Some(bytes) => self.left = bytes,
                    None => break,
                }
            }
            let taken = self.left.split_to(self.left.len().min(limit - piece.len()));
            piece.extend_from_slice(&taken);
        }
        Ok(piece.freeze())
    }

    async fn receive(&mut self) -> S3Result<Option<Bytes>> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let next = tokio::time::timeout(STALL, body.next()).await;
        let next = next.map_err(|_| said(S3ErrorCode::RequestTimeout, "the body stopped coming"))?;
        match next {
            None => {
                self.body = None;
                if self.came == self.length {
                    return Ok(None);
                }
                let message = format!("{} bytes were promised and {} came", self.length, self.came);
                Err(said(S3ErrorCode::IncompleteBody, message))
            }
            Some(Err(e)) => Err(said(
                S3ErrorCode::InvalidRequest,
                format!("the body is not what was signed, or broke off: {e}"),
            )),
            Some(Ok(bytes)) => {
                self.came += bytes.len() as u64;
                if self.came > self.length {
                    return Err(said(S3ErrorCode::InvalidRequest, "more bytes came than were promised"));
                }
                self.hasher.update(&bytes);
                if let Some((md5, _)) = &mut self.md5 {
                    md5.update(&bytes);
                }
                Ok(Some(bytes))
            }
        }
    }

    /// Whether what came is what was promised. To be called at the end of the body.
    ///
    /// # Errors
    /// `BadDigest`, naming the checksum; `InvalidRequest` when one that was announced did not come.
    pub(super) fn check(self) -> S3Result<()> {
        let Self { hasher, md5, mut promised, announced, trailers, .. } = self;
        if let Some((md5, wanted)) = md5
            && base64(&md5.finalize()) != wanted.trim()
        {
            return Err(bad("content-md5"));
        }
        let trailers = trailers.and_then(|trailers| trailers.take()).unwrap_or_default();
        promised.extend(in_trailers(&trailers));
        if let Some(missing) = announced.into_iter().find(|name| !trailers.contains_key(*name)) {
            let text = format!("{missing} was announced and did not come: nothing was written");
            return Err(said(S3ErrorCode::InvalidRequest, text));
        }
        let found = hasher.finalize();
        for (name, wanted) in promised {
            let found = match name {
                "x-amz-checksum-crc32" => &found.checksum_crc32,
                "x-amz-checksum-crc32c" => &found.checksum_crc32c,
                "x-amz-checksum-crc64nvme" => &found.checksum_crc64nvme,
                "x-amz-checksum-sha1" => &found.checksum_sha1,
                _ => &found.checksum_sha256,
            };
            if found.as_deref() != Some(wanted.trim()) {
                return Err(bad(name));
            }
        }
        Ok(())
    }
}

fn in_trailers(trailers: &HeaderMap) -> Vec<(&'static str, String)> {
    let value = |name| Some((name, trailers.get(name)?.to_str().ok()?.to_owned()));
    CHECKSUMS.into_iter().filter_map(value).collect()
}

fn bad(name: &str) -> S3Error {
    said(S3ErrorCode::BadDigest, format!("the body does not have its {name}: nothing was written"))
}

/// RFC 4648's, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let is_padding = digit > chunk.len();
            let index = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if is_padding { '=' } else { char::from(DIGITS[index]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    fn put(headers: &[(&'static str, &'static str)]) -> S3Request<()> {
        let pairs = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        });
        S3Request {
            input: (),
            method: http::Method::PUT,
            uri: http::Uri::from_static("/b/k"),
            headers: pairs.collect(),
            extensions: http::Extensions::new(),
            credentials: None,
            region: None,
            service: None,
            trailing_headers: None,
        }
    }

    fn body(
        pieces: impl futures::Stream<Item = &'static [u8]> + Send + Sync + 'static,
    ) -> Option<StreamingBlob> {
        Some(StreamingBlob::wrap(pieces.map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece)))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up() {
        // A byte whenever it would be taken for gone.
        let drips = futures::stream::unfold((), async |()| {
            tokio::time::sleep(STALL - Duration::from_secs(1)).await;
            Some((&b"x"[..], ()))
        });
        let length: i64 = 1 << 30;
        let mut upload = Upload::new(&put(&[]), body(drips), Some(length)).unwrap();
        let began = tokio::time::Instant::now();
        let limit = 16 << 20;
        assert_eq!(upload.next(limit).await.unwrap_err().code(), &S3ErrorCode::RequestTimeout);
        let most = 2 * STALL + Duration::from_secs(limit as u64 / LEAST_BYTES_PER_SECOND);
        assert!(began.elapsed() < most, "{:?}", began.elapsed());
        // Slow is not too slow.
        let slowly = futures::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Some((&[7; 2 << 20][..], ()))
        });
        let mut upload = Upload::new(&put(&[]), body(slowly), Some(length)).unwrap();
        assert_eq!(upload.next(limit).await.unwrap().len(), limit);
    }

    #[tokio::test]
    async fn a_checksum_that_was_announced_must_come() {
        let announces = [("x-amz-trailer", "X-Amz-Checksum-CRC32")];
        for (headers, is_refused) in [(&announces[..], true), (&[], false)] {
            let whole = body(futures::stream::iter([&b"hello"[..]]));
            let mut upload = Upload::new(&put(headers), whole, Some(5)).unwrap();
            assert_eq!(upload.next(10).await.unwrap(), "hello");
            match upload.check() {
                Err(e) if is_refused => {
                    assert_eq!(e.code(), &S3ErrorCode::InvalidRequest);
                    assert!(e.message().unwrap().contains("x-amz-checksum-crc32"), "{e:?}");
                }
                checked => assert!(!is_refused && checked.is_ok(), "{checked:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_and_is_told_to_come_again() {
        let uploads = Uploads::default();
        let held: Vec<_> = futures::future::join_all((0..4).map(|_| uploads.room(HELD_BYTES / 4))).await;
        let refused = uploads.room(1).await.unwrap_err();
        assert_eq!((refused.code(), refused.status_code().unwrap().as_u16()), (&S3ErrorCode::SlowDown, 503));
        drop(held);
        // More than there is would be waited for in vain.
        assert!(uploads.room(10 * HELD_BYTES).await.is_ok());
    }

    #[tokio::test]
    async fn what_began_comes_to_its_end_without_its_caller() {
        let uploads = Uploads::default();
        let (tell, told) = tokio::sync::oneshot::channel();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let work = async move {
            gone.await.unwrap();
            tell.send(()).unwrap();
            Ok(())
        };
        {
            let mut caller = std::pin::pin!(uploads.finish(work));
            assert!(futures::poll!(&mut caller).is_pending());
        }
        go.send(()).unwrap();
        uploads.drain(Duration::from_secs(10)).await;
        assert!(told.await.is_ok() && uploads.running.is_empty());
    }
}
