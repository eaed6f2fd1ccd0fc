//! The listener of a door: accepts, limits, sheds, drains.
//!
//! Two classes of connections. Up to `max_connections` are served in full. Beyond that a connection
//! is served one request, and quickly: the door says what it is told; so overload costs a bounded number
//! of sockets and never hides that the process lives. A connection that begins as HTTP/2 is [`http2`]'s; the
//! first bytes are awaited here, with a time-out, and not by a server that guesses the version.
//!
//! Invariants: every connection task is tracked and ends within the drain time-out of a stop; a
//! peer that sends no complete request head, or takes no bytes, is dropped. Knows no route.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::http2;
use crate::metrics;

/// Request line and headers together; what exceeds this by more than one read of a socket is answered 431.
pub(super) const MAX_HEAD_BYTES: usize = 64 << 10;
/// More headers than any client sends; beyond is 431.
pub(super) const MAX_HEADERS: usize = 128;
/// Connections told to come back later may be this many times the connections served.
const SHED_FACTOR: usize = 16;
/// How long a connection over the limit may take to say what it wants.
const SHED_HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that takes no byte for this long has gone, whatever its kernel says.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// When to come back.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(2);
/// After an accept that failed, for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What stands behind a listener.
pub(super) trait Answers: Send + Sync + 'static {
    /// The bodies of its answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// Answers one request. With `shed` the connection is one over the limit: it is told to come back later.
    fn answer(
        &self,
        request: Request<Incoming>,
        shed: bool,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// How much a listener takes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections served in full.
    pub(super) max_connections: usize,
    /// A connection that sends no whole request head for this long is closed.
    pub(super) idle_timeout: Duration,
    /// How long answers under way may go on at a stop.
    pub(super) drain_timeout: Duration,
}

/// Serves `door` on `listener` until `shutdown`, then lets running answers end. Not cancel-safe: dropping it
/// leaves connections unfinished.
pub(super) async fn serve<A: Answers>(
    answers: A,
    listener: TcpListener,
    limits: Limits,
    shutdown: CancellationToken,
    door: &'static str,
) {
    let server = Arc::new(Server::new(answers, limits));
    let connections = server.tasks.clone();
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!(door, error = %e, "door cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        match server.admit() {
            Some(place) => {
                connections.spawn(Arc::clone(&server).attend(stream, peer, place, shutdown.clone()));
            }
            None => metrics::http_shed(),
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain_timeout, connections.wait()).await.is_err() {
        tracing::warn!(door, connections = connections.len(), "door closes on answers under way");
        server.cut.cancel();
        connections.wait().await;
    }
}

struct Server<A> {
    answers: A,
    limits: Limits,
    full: Arc<Semaphore>,
    shed: Arc<Semaphore>,
    /// The connections, and the streams of those that have some.
    tasks: TaskTracker,
    /// Ends every connection at once.
    cut: CancellationToken,
}

/// A connection's claim on one of the two classes.
enum Place {
    Full(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
    Shed(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
}

impl<A: Answers> Server<A> {
    fn new(answers: A, limits: Limits) -> Self {
        let full = limits.max_connections.clamp(1, Semaphore::MAX_PERMITS / SHED_FACTOR);
        // Half of the descriptors stay with the store and the cluster.
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let spare = descriptors.map_or(usize::MAX, |n| usize::try_from(n / 2).unwrap_or(usize::MAX));
        let shed = (full * SHED_FACTOR).min(spare.saturating_sub(full)).max(16);
        Self {
            answers,
            limits,
            full: Arc::new(Semaphore::new(full)),
            shed: Arc::new(Semaphore::new(shed)),
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
        }
    }

    /// `None` when even those who are told to come back later are too many.
    fn admit(&self) -> Option<Place> {
        if let Ok(permit) = Arc::clone(&self.full).try_acquire_owned() {
            return Some(Place::Full(permit));
        }
        Arc::clone(&self.shed).try_acquire_owned().ok().map(Place::Shed)
    }

    async fn attend(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        place: Place,
        stopping: CancellationToken,
    ) {
        let shed = matches!(place, Place::Shed(_));
        let _open = metrics::http_connection();
        if let Err(e) = prepare(&stream) {
            tracing::debug!(%peer, error = %e, "HTTP connection was gone before it began");
            return;
        }
        let head_timeout = if shed { SHED_HEAD_TIMEOUT } else { self.limits.idle_timeout };
        let begins = tokio::select! {
            begins = tokio::time::timeout(head_timeout, http2::is_spoken(&stream)) => begins,
            () = stopping.cancelled() => return,
        };
        let ended = match begins {
            Err(_) => return,
            Ok(Ok(true)) => self.serve_many(stream, head_timeout, shed, stopping).await,
            Ok(Ok(false)) => self.serve_one_by_one(stream, head_timeout, shed, stopping).await,
            Ok(Err(e)) => {
                tracing::debug!(%peer, error = %e, "HTTP connection was gone before it began");
                return;
            }
        };
        if let Err(e) = ended {
            tracing::debug!(%peer, error = %e, "HTTP connection ended");
        }
    }

    async fn serve_one_by_one(
        self: Arc<Self>,
        stream: TcpStream,
        head_timeout: Duration,
        shed: bool,
        stopping: CancellationToken,
    ) -> hyper::Result<()> {
        let server = Arc::clone(&self);
        let service = service_fn(move |request| {
            let server = Arc::clone(&server);
            async move { Ok::<_, Infallible>(server.answers.answer(request, shed).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .keep_alive(!shed)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.cut.cancelled() => Ok(()),
        }
    }

    async fn serve_many(
        self: Arc<Self>,
        stream: TcpStream,
        head_timeout: Duration,
        shed: bool,
        stopping: CancellationToken,
    ) -> hyper::Result<()> {
        let terms = http2::Terms {
            idle_timeout: head_timeout,
            stall_timeout: WRITE_STALL_TIMEOUT,
            max_head_bytes: MAX_HEAD_BYTES,
            shed,
            places: Arc::clone(&self.full),
            tasks: self.tasks.clone(),
        };
        let server = Arc::clone(&self);
        let answer = move |request, shed| {
            let server = Arc::clone(&server);
            async move { server.answers.answer(request, shed).await }
        };
        tokio::select! {
            ended = http2::serve(stream, terms, stopping, answer) => ended,
            () = self.cut.cancelled() => Ok(()),
        }
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let stall_ms = WRITE_STALL_TIMEOUT.as_millis() as u32;
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, stall_ms)?)
}
