//! HTTP/2 in clear text, for clients that speak it from the first byte (prior knowledge).
//!
//! Owns what many requests on one connection need beyond what one at a time does: how many there are, when a
//! peer that takes nothing loses its stream, when a connection without streams ends. An answer under way counts
//! like a connection of its own, whichever protocol it goes by. Knows no route.
//!
//! Invariants: every stream's task is tracked by the listener and ends with its connection; a stream that the
//! peer does not drain holds its place for a bounded time. The frames are put together in this process, so
//! bodies that go this way must be of its own memory: [`is_sending`] tells them.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Requests of one connection at a time. RFC 9113 advises no fewer.
const MAX_STREAMS: u32 = 100;
/// What a stream may send before somebody reads it: requests are short, uploads go by HTTP/1.1.
const STREAM_WINDOW_BYTES: u32 = 128 << 10;
/// The same of all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;
/// Bytes of one answer that wait for the peer inside the connection.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// The end of a body that may be left to the connection; what is longer keeps its place until it is taken.
const SHORT_BYTES: usize = 1 << 10;
/// Streams taken back by the peer before they were looked at, and streams that broke the protocol: beyond,
/// the connection ends.
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 128;
/// Answers that the peer may give up within [`GIVEN_UP_WINDOW`]: each has cost work for nothing.
const MAX_GIVEN_UP: u32 = 200;
const GIVEN_UP_WINDOW: Duration = Duration::from_secs(10);
/// A peer that has been quiet for this long is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);

tokio::task_local! {
    /// The stream whose task this is.
    static STREAM: Arc<Stream>;
}

/// Whether the bytes that are being produced go out by HTTP/2, which copies the beginning of each frame.
pub(super) fn is_sending() -> bool {
    STREAM.try_with(|_| ()).is_ok()
}

/// Whether the peer begins as HTTP/2 does; waits for its first bytes. No method of HTTP/1 begins so, and no
/// client sends fewer bytes of its preface at once.
pub(super) async fn is_spoken(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; 3];
    let read = stream.peek(&mut start).await?;
    Ok(start[..read] == *b"PRI")
}

/// What a connection is held to.
pub(super) struct Terms {
    /// Without a stream for this long it ends.
    pub(super) idle_timeout: Duration,
    /// A stream of which the peer takes nothing for this long is reset.
    pub(super) stall_timeout: Duration,
    /// Request line and headers of one request together.
    pub(super) max_head_bytes: usize,
    /// A connection over the limit: it gets one answer.
    pub(super) shed: bool,
    /// Answers beyond a connection's first each take one; who finds none is told to come back.
    pub(super) places: Arc<Semaphore>,
    /// Joins the streams.
    pub(super) tasks: TaskTracker,
}

/// Serves one connection until it ends, is idle, or is `stopping`; then the answers under way go on. `answer`
/// hears with each request whether it is one too many. Cancel-safe: dropping it ends the streams.
///
/// # Errors
/// What hyper says of a connection that broke.
pub(super) async fn serve<B, F>(
    stream: TcpStream,
    terms: Terms,
    stopping: CancellationToken,
    answer: impl Fn(Request<Incoming>, bool) -> F + Clone + Send + 'static,
) -> hyper::Result<()>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
{
    let Terms { idle_timeout, stall_timeout, max_head_bytes, shed, places, tasks } = terms;
    let streams = Arc::new(Streams::new(places));
    let service = service_fn({
        let streams = streams.clone();
        move |mut request: Request<Incoming>| {
            let underway = streams.clone().begin();
            name_host(&mut request);
            let answer = answer(request, shed || underway.is_one_too_many);
            async move { Ok::<_, Infallible>(answer.await.map(|body| Sent::new(body, underway))) }
        }
    });
    let connection = http2::Builder::new(Tasks { tasks, stall_timeout })
        .timer(TokioTimer::new())
        .max_concurrent_streams(if shed { 1 } else { MAX_STREAMS })
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(max_head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(stall_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut over = pin!(streams.over(idle_timeout, shed));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopping.cancelled() => {}
        why = over.as_mut() => match why {
            Over::Flood => return Ok(()),
            Over::Idle => {
                connection.as_mut().graceful_shutdown();
                // The peer may still be taking what the last answer left behind.
                let grace = if shed { idle_timeout } else { stall_timeout };
                return tokio::time::timeout(grace, connection).await.unwrap_or(Ok(()));
            }
        },
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// Tells the request's `Host`, which in HTTP/2 stands in its address and overrules the header.
fn name_host(request: &mut Request<Incoming>) {
    let host = request.uri().authority().and_then(|named| HeaderValue::from_str(named.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// The streams of one connection.
struct Streams {
    tally: Mutex<Tally>,
    places: Arc<Semaphore>,
    /// A stream has ended.
    ended: Notify,
}

struct Tally {
    open: usize,
    begun: u64,
    /// When the last one ended.
    idle_since: Instant,
    given_up: u32,
    given_up_since: Instant,
}

/// Why a connection ends.
enum Over {
    Idle,
    /// Its peer asks for answers to give them up.
    Flood,
}

impl Streams {
    fn new(places: Arc<Semaphore>) -> Self {
        let now = Instant::now();
        let tally = Tally { open: 0, begun: 0, idle_since: now, given_up: 0, given_up_since: now };
        Self { tally: Mutex::new(tally), places, ended: Notify::new() }
    }

    /// Takes a stream on. The first has the connection's own place.
    fn begin(self: Arc<Self>) -> Underway {
        let is_first = {
            let mut tally = self.tally.lock();
            tally.open += 1;
            tally.begun += 1;
            tally.open == 1
        };
        let place = if is_first { None } else { self.places.clone().try_acquire_owned().ok() };
        let is_one_too_many = !is_first && place.is_none();
        Underway { streams: self, is_one_too_many, is_settled: false, _place: place }
    }

    /// Waits until the connection is to end.
    async fn over(&self, idle_timeout: Duration, shed: bool) -> Over {
        loop {
            let idle_at = {
                let tally = self.tally.lock();
                if tally.given_up > MAX_GIVEN_UP {
                    return Over::Flood;
                }
                match tally.open {
                    0 if shed && tally.begun > 0 => return Over::Idle,
                    0 => Some(tally.idle_since + idle_timeout),
                    _ => None,
                }
            };
            match idle_at {
                Some(idle_at) if idle_at <= Instant::now() => return Over::Idle,
                Some(idle_at) => tokio::select! {
                    () = tokio::time::sleep_until(idle_at) => {}
                    () = self.ended.notified() => {}
                },
                None => self.ended.notified().await,
            }
        }
    }
}

/// One request from its arrival until the peer has its answer, or has given it up.
struct Underway {
    streams: Arc<Streams>,
    is_one_too_many: bool,
    /// The answer came to its end.
    is_settled: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut tally = self.streams.tally.lock();
        let now = Instant::now();
        tally.open -= 1;
        tally.idle_since = now;
        if !self.is_settled {
            if now - tally.given_up_since > GIVEN_UP_WINDOW {
                (tally.given_up, tally.given_up_since) = (0, now);
            }
            tally.given_up += 1;
        }
        drop(tally);
        self.streams.ended.notify_one();
    }
}

/// When the peer was last given something that it has not taken yet.
#[derive(Debug)]
struct Stream {
    began: Instant,
    /// Since [`Stream::began`], plus one; 0 while the peer waits for us.
    offered_ms: AtomicU64,
}

impl Stream {
    fn new() -> Self {
        Self { began: Instant::now(), offered_ms: AtomicU64::new(0) }
    }

    fn offer(&self) {
        let offered_ms = self.began.elapsed().as_millis() as u64 + 1;
        self.offered_ms.store(offered_ms, Ordering::Relaxed);
    }

    fn taken(&self) {
        self.offered_ms.store(0, Ordering::Relaxed);
    }

    /// Waits until the peer has left lying what it was given for `timeout`, found up to once more that late.
    async fn stalled(&self, timeout: Duration) {
        loop {
            let give_up_at = match self.offered_ms.load(Ordering::Relaxed) {
                0 => Instant::now() + timeout,
                offered_ms => self.began + Duration::from_millis(offered_ms) + timeout,
            };
            if give_up_at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(give_up_at).await;
        }
    }
}

/// Runs the task of each stream under the listener's eyes.
#[derive(Clone)]
struct Tasks {
    tasks: TaskTracker,
    stall_timeout: Duration,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.tasks.spawn(watched(future, self.stall_timeout));
    }
}

/// Runs `future` as the task of a stream; gives it up, which resets the stream, when the peer takes nothing of
/// it for `stall_timeout`.
pub(super) async fn watched<F: Future>(future: F, stall_timeout: Duration) {
    let stream = Arc::new(Stream::new());
    let sending = STREAM.scope(stream.clone(), future);
    tokio::select! {
        _ = sending => {}
        () = stream.stalled(stall_timeout) => tracing::debug!("a stream of HTTP/2 is not drained"),
    }
}

/// A body that knows when the peer takes it, and keeps its place until then.
///
/// hyper asks for the next frame as soon as the connection has the last one, and hands that on when the peer has
/// room for a byte of it. So the last byte of a long body goes by itself: it is handed on when the peer has room
/// for all of it. What is left before that would lie in the connection without a place and without a time-out.
struct Sent<B> {
    body: Pin<Box<B>>,
    last: Bytes,
    underway: Underway,
}

impl<B: Body> Sent<B> {
    fn new(body: B, mut underway: Underway) -> Self {
        underway.is_settled = body.is_end_stream();
        Self { body: Box::pin(body), last: Bytes::new(), underway }
    }
}

impl<B: Body<Data = Bytes>> Body for Sent<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let _ = STREAM.try_with(|stream| stream.taken());
        let mut polled = match std::mem::take(&mut self.last) {
            last if last.is_empty() => ready!(self.body.as_mut().poll_frame(cx)),
            last => Some(Ok(Frame::data(last))),
        };
        match &mut polled {
            Some(Ok(frame)) => {
                let _ = STREAM.try_with(|stream| stream.offer());
                if let Some(piece) = frame.data_mut()
                    && self.body.is_end_stream()
                {
                    match piece.len() {
                        2..=SHORT_BYTES => self.underway.is_settled = true,
                        0 | 1 => {}
                        long => self.last = piece.split_off(long - 1),
                    }
                }
            }
            Some(Err(_)) | None => self.underway.is_settled = true,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.underway.is_settled
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
