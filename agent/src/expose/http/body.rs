//! File bodies: bytes of a sealed file from the page cache to the socket.
//!
//! What is in the page cache is copied, a piece at a time: `copies` says why. From the first piece
//! on that is not, or when too many copies are out, a body walks its segment in windows. Each window is mapped and
//! its pages brought in on the blocking pool, one window ahead of the sender, so that neither a cold page nor a
//! slow disk ever holds a runtime thread.
//!
//! Invariants: of a body at most one piece is copied, or two windows are mapped, at a time, whatever the file's
//! size; the lease lives as long as the body and any byte that is mapped; the bytes of a mapping are never touched by
//! this process, only by the kernel's copy to the socket, so a disk error ends as `EFAULT` from the
//! write, not as a signal. What goes by HTTP/2 is therefore read and not mapped. Knows nothing else of HTTP.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::FutureExt;
use hyper::body::{Body, Frame, SizeHint};
use memmap2::Mmap;
use tokio::task::JoinHandle;

use super::copies::{COPIES, COPY_BYTES, Copies};
use crate::{expose::http2, metrics, page_cache, store::OpenedFile};

/// Mapped at once. 4 MiB is two huge pages: setting up and tearing down is lost in the copying.
const WINDOW_BYTES: u64 = 4 << 20;
/// The first window is small, so that the first byte leaves early.
const FIRST_WINDOW_BYTES: u64 = 512 << 10;
/// Handed to the connection at a time, which is one `writev`: the client is woken so often.
const PIECE_BYTES: usize = 1 << 20;
/// Up to here bytes are copied however many copies are out, and never mapped.
const SMALL_BYTES: u64 = 64 << 10;

/// One stretch of a body.
#[derive(Debug)]
pub enum Segment {
    /// These bytes as they are: the headers between parts.
    Literal(Bytes),
    /// These bytes of the file.
    File(Range<u64>),
}

/// The length of a body of these segments.
pub(super) fn bytes_of<'a>(segments: impl IntoIterator<Item = &'a Segment>) -> u64 {
    let bytes = |segment: &Segment| match segment {
        Segment::Literal(bytes) => bytes.len() as u64,
        Segment::File(range) => range.end - range.start,
    };
    segments.into_iter().map(bytes).sum()
}

/// A response body made of pieces of one file.
pub struct FileBody {
    file: OpenedFile,
    segments: VecDeque<Segment>,
    unsent_bytes: u64,
    ready: Bytes,
    coming: Option<JoinHandle<io::Result<Bytes>>>,
    window_bytes: u64,
    copies: &'static Copies,
    door: metrics::Door,
}

impl FileBody {
    /// The `segments` in order, counted as leaving by the HTTP door. File ranges must lie within the file.
    pub fn new(file: OpenedFile, segments: impl IntoIterator<Item = Segment>) -> Self {
        let segments: VecDeque<_> = segments.into_iter().collect();
        let unsent_bytes = bytes_of(&segments);
        Self {
            file,
            segments,
            unsent_bytes,
            ready: Bytes::new(),
            coming: None,
            window_bytes: FIRST_WINDOW_BYTES,
            copies: &COPIES,
            door: metrics::Door::Http,
        }
    }

    /// The same, counted as leaving by `door`.
    pub fn through(self, door: metrics::Door) -> Self {
        Self { door, ..self }
    }

    /// Bytes still to be sent; the length of the body before it was polled.
    pub fn unsent_bytes(&self) -> u64 {
        self.unsent_bytes
    }

    /// Takes the next piece or window off the segments: at once where that cannot block, else on the pool.
    fn fetch_next(&mut self) {
        let range = match self.segments.front_mut() {
            Some(Segment::Literal(bytes)) if self.ready.is_empty() => {
                self.ready = std::mem::take(bytes);
                self.segments.pop_front();
                return;
            }
            // A literal waits until nothing is ready, so that segments keep their order.
            None | Some(Segment::Literal(_)) => return,
            Some(Segment::File(range)) => range,
        };
        // Frames are put together in this process, which must not touch a mapping.
        let is_framed = http2::is_sending();
        let ahead = |most: u64| range.start..range.end.min(range.start + most);
        let piece = ahead(if is_framed { SMALL_BYTES } else { COPY_BYTES });
        let copied = if self.ready.is_empty() { copy(&self.file.file, &piece, self.copies) } else { None };
        let taken = match copied {
            Some(bytes) => {
                self.ready = bytes;
                piece
            }
            None => {
                let window = ahead(if is_framed { SMALL_BYTES } else { self.window_bytes });
                self.window_bytes = WINDOW_BYTES;
                let (file, wanted) = (self.file.clone(), window.clone());
                self.coming = Some(tokio::task::spawn_blocking(move || bring_in(&file, wanted)));
                window
            }
        };
        range.start = taken.end;
        if range.is_empty() {
            self.segments.pop_front();
        }
    }
}

/// Bytes of `range` in memory of our own, if that cannot block.
fn copy(file: &File, range: &Range<u64>, copies: &'static Copies) -> Option<Bytes> {
    match range.end - range.start {
        0..=SMALL_BYTES => page_cache::read_if_resident(file, range).map(Bytes::from),
        _ => copies.read(file, range),
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if !self.ready.is_empty() {
                let piece_bytes = self.ready.len().min(PIECE_BYTES);
                let piece = self.ready.split_to(piece_bytes);
                self.unsent_bytes -= piece.len() as u64;
                metrics::served_bytes(self.door, piece.len() as u64);
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if let Some(coming) = &mut self.coming {
                let arrived = match coming.poll_unpin(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(arrived) => arrived,
                };
                self.coming = None;
                self.ready = arrived.map_err(io::Error::other)??;
                if matches!(self.segments.front(), Some(Segment::File(_))) {
                    self.fetch_next();
                }
                continue;
            }
            if self.segments.is_empty() {
                return Poll::Ready(None);
            }
            self.fetch_next();
        }
    }

    fn is_end_stream(&self) -> bool {
        self.unsent_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.unsent_bytes)
    }
}

/// A mapping that keeps its artifact from eviction.
struct Window {
    map: Mmap,
    _lease: Arc<dyn std::any::Any + Send + Sync>,
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// Blocks until every byte of `range` is in memory. A file shorter than it was is an error.
fn bring_in(file: &OpenedFile, range: Range<u64>) -> io::Result<Bytes> {
    let window_bytes = (range.end - range.start) as usize;
    if window_bytes as u64 > SMALL_BYTES
        && let Some(map) = page_cache::map_populated(&file.file, &range)?
    {
        return Ok(Bytes::from_owner(Window { map, _lease: Arc::clone(&file.lease) }));
    }
    let mut buffer = vec![0; window_bytes];
    file.file.read_exact_at(&mut buffer, range.start)?;
    Ok(Bytes::from(buffer))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn opened(content: &[u8]) -> OpenedFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        OpenedFile {
            file: Arc::new(file),
            bytes: content.len() as u64,
            etag: coordinatorless_p2p::ChunkHash::of(content),
            modified: 0,
            lease: Arc::new(()),
        }
    }

    /// All of it is mapped, as what is not in the page cache.
    fn mapped(body: FileBody) -> FileBody {
        static NONE: Copies = Copies::new(0);
        FileBody { copies: &NONE, ..body }
    }

    async fn collect(mut body: FileBody) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let data = frame?.into_data().expect("only data frames");
            assert!(!data.is_empty() && data.len() <= PIECE_BYTES);
            all.extend_from_slice(&data);
        }
        assert!(body.is_end_stream());
        Ok(all)
    }

    /// Not periodic in any power of two, so that a wrong offset shows.
    fn content(bytes: u64) -> Vec<u8> {
        (0..bytes).map(|i| (i % 251) as u8 ^ (i / 251 % 241) as u8).collect()
    }

    #[tokio::test]
    async fn a_body_is_the_bytes_asked_for_at_every_boundary_size() {
        let content = content(2 * WINDOW_BYTES + FIRST_WINDOW_BYTES + 4097);
        let file = opened(&content);
        let whole = file.bytes;
        for range in [
            0..1,
            0..SMALL_BYTES,
            0..SMALL_BYTES + 1,
            1..COPY_BYTES + 1,
            1..COPY_BYTES + 2,
            1..FIRST_WINDOW_BYTES,
            1..FIRST_WINDOW_BYTES + 2,
            4095..4095 + FIRST_WINDOW_BYTES + WINDOW_BYTES,
            whole - 1..whole,
            0..whole,
        ] {
            let body = || FileBody::new(file.clone(), [Segment::File(range.clone())]);
            for body in [body(), mapped(body())] {
                assert_eq!(body.unsent_bytes(), range.end - range.start);
                let got = collect(body).await.unwrap();
                assert!(got == content[range.start as usize..range.end as usize], "{range:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_in_memory_is_copied_by_large_pieces_and_mapped_when_too_many_are_out() {
        let content = content(COPY_BYTES + SMALL_BYTES + 1);
        let file = opened(&content);
        static ONE: Copies = Copies::new(1);
        let body = || {
            let body = FileBody::new(file.clone(), [Segment::File(0..file.bytes)]);
            Box::pin(FileBody { copies: &ONE, ..body })
        };
        async fn next(body: &mut Pin<Box<FileBody>>) -> Bytes {
            let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
            frame.unwrap().unwrap().into_data().expect("only data frames")
        }
        let (mut first, mut second) = (body(), body());
        let held = next(&mut first).await;
        assert_eq!(held.len() as u64, COPY_BYTES);
        assert!(second.coming.is_none());
        let crowded = next(&mut second).await;
        assert_eq!(crowded.len(), content.len(), "a window");
        drop(held);
        assert_eq!(next(&mut first).await.len() as u64, SMALL_BYTES + 1);
    }

    #[tokio::test]
    async fn what_goes_by_http2_is_in_memory_of_our_own() {
        let content = content(3 * SMALL_BYTES + 1);
        let mut body = FileBody::new(opened(&content), [Segment::File(0..content.len() as u64)]);
        let sending = async {
            let mut all = Vec::new();
            while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                let piece = frame.unwrap().into_data().expect("only data frames");
                assert!(piece.len() as u64 <= SMALL_BYTES, "{} bytes are a mapping", piece.len());
                all.extend_from_slice(&piece);
            }
            assert!(all == content);
        };
        http2::watched(sending, std::time::Duration::from_secs(60)).await;
    }

    #[tokio::test]
    async fn literals_and_parts_keep_their_order() {
        let content = content(3 << 20);
        let literal = |text: &'static str| Segment::Literal(Bytes::from_static(text.as_bytes()));
        let body = || {
            FileBody::new(
                opened(&content),
                [
                    literal("one "),
                    Segment::File(5..10),
                    literal(" two "),
                    Segment::File(0..3 << 20),
                    literal(""),
                    literal(" end"),
                ],
            )
        };
        let expected = [b"one ", &content[5..10], b" two ", &content, b" end"].concat();
        for body in [body(), mapped(body())] {
            assert_eq!(body.unsent_bytes(), expected.len() as u64);
            assert!(collect(body).await.unwrap() == expected);
        }
    }

    #[tokio::test]
    async fn a_file_that_lost_its_end_is_an_error_and_no_signal() {
        for bytes in [SMALL_BYTES, 6 << 20] {
            let file = opened(&content(bytes));
            file.file.set_len(1000).unwrap();
            let body = || FileBody::new(file.clone(), [Segment::File(0..bytes)]);
            assert!(collect(body()).await.is_err(), "{bytes}");
            assert!(collect(mapped(body())).await.is_err(), "{bytes} mapped");
        }
    }

    #[tokio::test]
    async fn the_lease_lives_until_the_last_byte_is_dropped() {
        let lease: Arc<dyn std::any::Any + Send + Sync> = Arc::new(());
        let file = OpenedFile { lease: Arc::clone(&lease), ..opened(&content(1 << 20)) };
        let mut body = mapped(FileBody::new(file, [Segment::File(0..1 << 20)]));
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
        let piece = frame.into_data().unwrap();
        drop(body);
        assert!(Arc::strong_count(&lease) > 1);
        drop(piece);
        // The window behind may still be on its way on the blocking pool: wait for it.
        tokio::time::timeout(std::time::Duration::from_secs(10), async {
            while Arc::strong_count(&lease) > 1 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the lease is given back");
    }
}
