//! The listener: accepts, limits, sheds, drains.
//!
//! Two classes of connections. Up to `max_connections` are served in full. Beyond that a connection
//! is served one request, and quickly: health is answered, everything else is told 503 with
//! `Retry-After`; so overload costs a bounded number of sockets and never hides that the process
//! lives. HTTP/1.1 only: HTTP/2 in clear text has no readers of model files, and its preface is
//! awaited without a time-out by the servers that guess the version.
//!
//! Invariants: every connection task is tracked and ends within the drain time-out of a stop; a
//! peer that sends no complete request head, or takes no bytes, is dropped.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response, header},
    response::IntoResponse,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{AgentSlot, guard::OPEN_PATHS, problem::Failure, router};
use crate::{
    config::HttpConfig,
    error::{Error, ErrorKind, IoContext, Result},
    metrics,
};

/// Request line and headers together; what exceeds this is answered 431.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// More headers than any client sends; beyond is 431.
const MAX_HEADERS: usize = 128;
/// Connections told to come back later may be this many times the connections served.
const SHED_FACTOR: usize = 16;
/// How long a connection over the limit may take to say what it wants.
const SHED_HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that takes no byte for this long has gone, whatever its kernel says.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// When to come back.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// After an accept that failed, for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the door on `listener` until `shutdown`, then lets running answers end within
/// `config.drain_timeout`. Not cancel-safe: dropping it leaves connections unfinished.
///
/// # Errors
/// `Invalid` and `Denied` as the guard: no token off loopback, or one that others can read.
pub async fn serve(
    agent: impl Into<AgentSlot>,
    listener: TcpListener,
    config: HttpConfig,
    shutdown: CancellationToken,
) -> Result<()> {
    let listen = listener.local_addr().at(|| "address of the HTTP door".to_owned())?;
    let router = router(agent, &config, listen, shutdown.clone())?;
    let server = Arc::new(Server::new(router, config));
    let connections = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!(error = %e, "HTTP door cannot accept");
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
    if tokio::time::timeout(server.config.drain_timeout, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "HTTP door closes on answers under way");
        server.cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

struct Server {
    router: Router,
    config: HttpConfig,
    full: Arc<Semaphore>,
    shed: Arc<Semaphore>,
    /// Ends every connection at once.
    cut: CancellationToken,
}

/// A connection's claim on one of the two classes.
enum Place {
    Full(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
    Shed(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
}

impl Server {
    fn new(router: Router, config: HttpConfig) -> Self {
        let full = config.max_connections.clamp(1, Semaphore::MAX_PERMITS / SHED_FACTOR);
        // Half of the descriptors stay with the store and the cluster.
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let spare = descriptors.map_or(usize::MAX, |n| usize::try_from(n / 2).unwrap_or(usize::MAX));
        let shed = (full * SHED_FACTOR).min(spare.saturating_sub(full)).max(16);
        Self {
            router,
            config,
            full: Arc::new(Semaphore::new(full)),
            shed: Arc::new(Semaphore::new(shed)),
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
        let head_timeout = if shed { SHED_HEAD_TIMEOUT } else { self.config.idle_timeout };
        let router = self.router.clone();
        let service = service_fn(move |request| answer(router.clone(), request, shed));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .keep_alive(!shed)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = self.cut.cancelled() => return,
                }
            }
        };
        if let Err(e) = ended {
            tracing::debug!(%peer, error = %e, "HTTP connection ended");
        }
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let stall_ms = WRITE_STALL_TIMEOUT.as_millis() as u32;
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, stall_ms)?)
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    shed: bool,
) -> Result<Response<Body>, Infallible> {
    if !shed || OPEN_PATHS.contains(&request.uri().path()) {
        return router.oneshot(request).await;
    }
    metrics::http_shed();
    let busy = ErrorKind::Unavailable { retry_after: Some(RETRY_AFTER) };
    let error = Error::new(busy, "the agent has as many HTTP connections as it may");
    Ok(Failure::from(error)
        .header(header::CONNECTION, HeaderValue::from_static("close"))
        .advice("come back later, keep connections open between requests, or raise `http.max_connections`")
        .into_response())
}
