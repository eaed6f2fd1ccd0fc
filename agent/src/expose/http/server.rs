//! The HTTP door on its socket: every route through `expose::listener`.
//!
//! Owns what a connection over the limit is told: health is answered, everything else 503.

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response, header},
    response::IntoResponse,
};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{AgentSlot, guard::OPEN_PATHS, problem::Failure, router};
use crate::{
    config::HttpConfig,
    error::{Error, ErrorKind, IoContext, Result},
    expose::listener::{self, Answers, Limits, RETRY_AFTER},
    metrics,
};

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
    listener::serve(Routes(router), listener, limits(&config), shutdown, "HTTP").await;
    Ok(())
}

fn limits(config: &HttpConfig) -> Limits {
    Limits {
        max_connections: config.max_connections,
        idle_timeout: config.idle_timeout,
        drain_timeout: config.drain_timeout,
    }
}

struct Routes(Router);

impl Answers for Routes {
    type Body = Body;

    async fn answer(&self, request: Request<Incoming>, shed: bool) -> Response<Body> {
        if !shed || OPEN_PATHS.contains(&request.uri().path()) {
            return match self.0.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
        }
        metrics::http_shed();
        let busy = ErrorKind::Unavailable { retry_after: Some(RETRY_AFTER) };
        let error = Error::new(busy, "the agent has as many HTTP connections as it may");
        Failure::from(error)
            .header(header::CONNECTION, HeaderValue::from_static("close"))
            .advice(
                "come back later, keep connections open between requests, or raise `http.max_connections`",
            )
            .into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::Arc,
        time::{Duration, Instant},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        task::JoinHandle,
    };

    use super::*;
    use crate::expose::listener::{MAX_HEAD_BYTES, MAX_HEADERS};

    struct Running {
        addr: SocketAddr,
        shutdown: CancellationToken,
        door: JoinHandle<Result<()>>,
    }

    /// A door on a free port whose agent is still starting.
    async fn running(config: HttpConfig) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let door = tokio::spawn(serve(AgentSlot::default(), listener, config, shutdown.clone()));
        Running { addr, shutdown, door }
    }

    impl Running {
        /// Sends `head` on a connection of its own and reads until the door closes it.
        async fn exchange(&self, head: &str) -> String {
            let mut stream = TcpStream::connect(self.addr).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            read_all(&mut stream).await
        }
    }

    async fn read_all(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
        // A reset behind the answer is as good as an end.
        let _ = read.expect("the door closes the connection");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn at_ten_times_the_limit_health_answers_and_the_rest_is_told_to_come_back() {
        let limit = 4;
        let running = running(HttpConfig { max_connections: limit, ..HttpConfig::default() }).await;
        let mut idle = Vec::new();
        for _ in 0..10 * limit {
            idle.push(TcpStream::connect(running.addr).await.unwrap());
        }
        let status = running.exchange(&get("/v1/status")).await;
        assert!(status.starts_with("HTTP/1.1 503"), "{status}");
        assert!(
            status.contains("retry-after: 2\r\n") && status.contains("as many HTTP connections"),
            "{status}"
        );
        // The best of a few: the machine is busy with other tests, the door is not.
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let asked = Instant::now();
            let health = running.exchange(&get("/healthz")).await;
            assert!(health.starts_with("HTTP/1.1 200"), "{health}");
            best = best.min(asked.elapsed());
        }
        assert!(best < Duration::from_millis(100), "{best:?}");
        drop(idle);
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_connection_is_gone() {
        let running = running(HttpConfig { max_connections: 1, ..HttpConfig::default() }).await;
        for _ in 0..3 {
            // The agent is starting, so a served connection is told so; one that is shed, otherwise.
            let mut answer = running.exchange(&get("/v1/status")).await;
            while answer.contains("as many HTTP connections") {
                answer = running.exchange(&get("/v1/status")).await;
            }
            assert!(answer.contains("still starting"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_head_that_drips_or_never_comes_is_cut_off() {
        let idle_timeout = Duration::from_millis(200);
        let running = running(HttpConfig { idle_timeout, ..HttpConfig::default() }).await;
        for head in ["", "GET / HTT", "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
            let asked = Instant::now();
            running.exchange(head).await;
            assert!(asked.elapsed() >= idle_timeout, "{head:?}");
        }
    }

    #[tokio::test]
    async fn huge_heads_are_refused() {
        let running = running(HttpConfig::default()).await;
        let long =
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD_BYTES));
        let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(MAX_HEADERS + 1));
        for head in [long, many] {
            let answer = running.exchange(&head).await;
            // A reset may overtake the answer when the door closes on bytes it did not read.
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        }
        assert!(running.exchange(&get("/healthz")).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_and_the_door() {
        let running = running(HttpConfig::default()).await;
        let mut idle = TcpStream::connect(running.addr).await.unwrap();
        idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 15];
        idle.read_exact(&mut first).await.unwrap();
        running.shutdown.cancel();
        read_all(&mut idle).await;
        tokio::time::timeout(Duration::from_secs(5), running.door)
            .await
            .expect("well before the drain time-out")
            .unwrap()
            .unwrap();
        assert!(TcpStream::connect(running.addr).await.is_err());
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_ever_for_a_request_that_drips() {
        let drain_timeout = Duration::from_millis(100);
        let running = running(HttpConfig { drain_timeout, ..HttpConfig::default() }).await;
        let mut slow = TcpStream::connect(running.addr).await.unwrap();
        slow.write_all(b"POST /v1/pulls HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
            .await
            .unwrap();
        // An answer on a second connection shows that the door is at work.
        running.exchange(&get("/healthz")).await;
        running.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(5), running.door)
            .await
            .expect("cut at the drain time-out")
            .unwrap()
            .unwrap();
    }

    /// 20 MiB cross several windows of a body; the reader stops for a while in the middle of it.
    #[tokio::test]
    async fn a_file_crosses_the_socket_whole_and_a_second_request_follows_on_the_connection() {
        let content: Vec<u8> = (0..20 << 20).map(|i: u32| (i % 251) as u8 ^ (i / 251 % 241) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &content).unwrap();
        let file = crate::store::OpenedFile {
            file: Arc::new(file),
            bytes: content.len() as u64,
            etag: coordinatorless_p2p::ChunkHash::of(b"model"),
            modified: 0,
            lease: Arc::new(()),
        };
        let answer = move |request: axum::extract::Request| async move {
            super::super::files::answer(request.method(), request.headers(), file)
        };
        let routes = Routes(Router::new().route("/model", axum::routing::any(answer)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let shutdown = CancellationToken::new();
        let limits = limits(&HttpConfig::default());
        let door = tokio::spawn(listener::serve(routes, listener, limits, shutdown.clone(), "HTTP"));

        stream.write_all(b"GET /model HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut got = Vec::new();
        while got.len() < content.len() / 2 {
            assert!(stream.read_buf(&mut got).await.unwrap() > 0);
        }
        let last = "GET /model HTTP/1.1\r\nHost: localhost\r\nRange: bytes=-3\r\nConnection: close\r\n\r\n";
        stream.write_all(last.as_bytes()).await.unwrap();
        stream.read_to_end(&mut got).await.unwrap();

        let head_bytes = got.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&got[..head_bytes]).into_owned();
        assert!(head.contains(&format!("content-length: {}\r\n", content.len())), "{head}");
        let (first, second) = got[head_bytes..].split_at(content.len());
        assert!(first == content);
        assert!(second.starts_with(b"HTTP/1.1 206") && second.ends_with(&content[content.len() - 3..]));
        shutdown.cancel();
        door.await.unwrap();
    }

    #[tokio::test]
    async fn a_door_for_everybody_without_a_token_does_not_open() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let error = serve(AgentSlot::default(), listener, HttpConfig::default(), CancellationToken::new())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
