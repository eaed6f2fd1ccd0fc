//! A client that says frame by frame what it is told to, against a real listener; knows no route of a door.

use std::{net::SocketAddr, sync::atomic::AtomicUsize};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::expose::listener::{self, Answers, Limits};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Answers with the `Host` that it hears; `/wait` when `go` is cancelled, `/much` with a body of some size.
#[derive(Clone)]
struct Echo {
    begun: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    go: CancellationToken,
}

const MUCH_BYTES: usize = 1 << 20;

impl Answers for Echo {
    type Body = http_body_util::Full<Bytes>;

    async fn answer(&self, request: Request<Incoming>, shed: bool) -> Response<Self::Body> {
        struct Running<'a>(&'a AtomicUsize);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        if shed {
            return Response::builder().status(503).body(Bytes::new().into()).unwrap();
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let _running = Running(&self.running);
        let body = match request.uri().path() {
            "/wait" => {
                self.go.cancelled().await;
                Bytes::new()
            }
            "/much" => vec![7; MUCH_BYTES].into(),
            _ => Bytes::copy_from_slice(request.headers()[header::HOST].as_bytes()),
        };
        Response::new(body.into())
    }
}

struct Running {
    addr: SocketAddr,
    echo: Echo,
    shutdown: CancellationToken,
    door: JoinHandle<()>,
}

async fn running(max_connections: usize, idle_timeout: Duration) -> Running {
    let echo =
        Echo { begun: Arc::default(), running: Arc::default(), most: Arc::default(), go: Default::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let limits = Limits { max_connections, idle_timeout, drain_timeout: Duration::from_millis(200) };
    let door = tokio::spawn(listener::serve(echo.clone(), listener, limits, shutdown.clone(), "test"));
    Running { addr, echo, shutdown, door }
}

const PATIENT: Duration = Duration::from_secs(60);

/// A client that says exactly what it is told to, frame by frame.
struct Raw(TcpStream);

#[derive(Debug)]
struct Got {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of a GET: the static table, and two literals that nobody indexes.
fn get(authority: &str, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(1, authority), (4, path)] {
        block.extend([name, value.len() as u8]);
        block.extend(value.as_bytes());
    }
    block
}

impl Raw {
    async fn connect(addr: SocketAddr, settings: &[u8]) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await.unwrap();
        Self(stream)
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    async fn ask(&mut self, stream: u32, path: &str) {
        self.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("localhost", path))).await.unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Got> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Some(Got { kind: head[3], flags: head[4], stream, payload })
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("a frame or the end")
    }

    /// The next frame of one of these kinds.
    async fn next_of(&mut self, kinds: &[u8]) -> Option<Got> {
        loop {
            let got = self.next().await?;
            if kinds.contains(&got.kind) {
                return Some(got);
            }
        }
    }

    async fn until_end(&mut self) -> Vec<Got> {
        let mut all = Vec::new();
        while let Some(got) = self.next().await {
            all.push(got);
        }
        all
    }
}

/// Status codes of the static table as single bytes: 200 is its entry 8; 503 is a literal.
fn is_ok(got: &Got) -> bool {
    got.kind == HEADERS && got.payload[0] == 0x88
}

#[tokio::test]
async fn the_address_of_a_request_is_its_host() {
    let running = running(8, PATIENT).await;
    let mut raw = Raw::connect(running.addr, &[]).await;
    // With a header that says otherwise: literal, name 38 of the static table.
    let mut block = get("node-7:80", "/");
    block.extend([0x0f, 38 - 15, 4]);
    block.extend(b"evil");
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await.unwrap();
    assert!(is_ok(&raw.next_of(&[HEADERS]).await.unwrap()));
    assert_eq!(raw.next_of(&[DATA]).await.unwrap().payload, b"node-7:80");
}

#[tokio::test]
async fn a_flood_of_streams_is_held_to_the_limit() {
    let running = running(1024, PATIENT).await;
    let mut raw = Raw::connect(running.addr, &[]).await;
    for n in 0..1000 {
        // The door may have had enough.
        let block = get("localhost", "/wait");
        if raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &block)).await.is_err() {
            break;
        }
    }
    let refused = raw.next_of(&[RST_STREAM, GOAWAY]).await;
    assert!(refused.is_some(), "streams beyond the limit are refused");
    assert!(running.echo.most.load(Ordering::SeqCst) <= MAX_STREAMS as usize);
    let mut other = Raw::connect(running.addr, &[]).await;
    other.ask(1, "/").await;
    assert!(is_ok(&other.next_of(&[HEADERS]).await.unwrap()), "others are served");
}

#[tokio::test]
async fn streams_beyond_a_connections_first_count_like_connections() {
    let running = running(2, PATIENT).await;
    let mut raw = Raw::connect(running.addr, &[]).await;
    for stream in [1, 3, 5] {
        raw.ask(stream, "/wait").await;
    }
    let third = raw.next_of(&[HEADERS]).await.unwrap();
    assert!(third.stream == 5 && !is_ok(&third), "{third:?}");
    assert_eq!(running.echo.most.load(Ordering::SeqCst), 2);
    running.echo.go.cancel();
    for _ in 0..2 {
        assert!(is_ok(&raw.next_of(&[HEADERS]).await.unwrap()));
    }
    raw.ask(7, "/").await;
    assert!(is_ok(&raw.next_of(&[HEADERS]).await.unwrap()), "the places are free again");
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_one_answer() {
    let running = running(1, PATIENT).await;
    let _first = Raw::connect(running.addr, &[]).await;
    // The listener admits in the order of arrival.
    let mut second = Raw::connect(running.addr, &[]).await;
    second.ask(1, "/").await;
    let got = second.until_end().await;
    let answer = got.iter().find(|got| got.kind == HEADERS).expect("an answer");
    assert!(!is_ok(answer), "{answer:?}");
}

#[tokio::test]
async fn streams_that_are_taken_back_at_once_end_the_connection() {
    let running = running(1024, PATIENT).await;
    let mut raw = Raw::connect(running.addr, &[]).await;
    let rounds = 20_000;
    let mut sent = 0;
    for n in 0..rounds {
        let (stream, block) = (2 * n + 1, get("localhost", "/wait"));
        let ask = frame(HEADERS, END_STREAM | END_HEADERS, stream, &block);
        let take_back = frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
        // Some are looked at before they are taken back, some not.
        if raw.send(&[ask, take_back].concat()).await.is_err() {
            break;
        }
        sent = n;
        if n % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    raw.until_end().await;
    let begun = running.echo.begun.load(Ordering::SeqCst);
    assert!(begun <= MAX_GIVEN_UP as usize + MAX_STREAMS as usize, "{begun} of {sent} cost work");
    assert_eq!(running.echo.running.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_peer_that_gives_answers_up_one_by_one_is_cut_off() {
    let running = running(1024, PATIENT).await;
    let mut raw = Raw::connect(running.addr, &[]).await;
    for n in 0..=MAX_GIVEN_UP {
        // No room for the answer's body: it is under way when it is given up.
        let stream = 2 * n + 1;
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("localhost", "/much")))
            .await
            .unwrap();
        while raw.next_of(&[HEADERS]).await.is_some_and(|got| got.stream != stream) {}
        raw.send(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())).await.unwrap();
    }
    raw.until_end().await;
    assert_eq!(running.echo.begun.load(Ordering::SeqCst), MAX_GIVEN_UP as usize + 1);
}

#[tokio::test]
async fn a_head_without_an_end_is_bounded() {
    let running = running(8, PATIENT).await;
    let mut raw = Raw::connect(running.addr, &[]).await;
    raw.send(&frame(HEADERS, END_STREAM, 1, &get("localhost", "/"))).await.unwrap();
    // A literal header of 16 KiB a frame: 64 MiB if nobody stops it.
    let mut block = vec![0, 1, b'x', 0x7f, 0x81, 0x7e];
    block.extend(vec![b'y'; 16_000]);
    let mut sent = 0;
    while sent < 64 << 20 && raw.send(&frame(CONTINUATION, 0, 1, &block)).await.is_ok() {
        sent += block.len();
    }
    assert!(sent < 64 << 20, "all of it was taken");
    assert_eq!(running.echo.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_connection_without_streams_ends_after_the_idle_timeout() {
    let idle_timeout = Duration::from_secs(1);
    let running = running(8, idle_timeout).await;
    // Only the beginning of a preface; all of it; one answer and then nothing.
    let mut begun = TcpStream::connect(running.addr).await.unwrap();
    begun.write_all(&PREFACE[..4]).await.unwrap();
    let mut quiet = Raw::connect(running.addr, &[]).await;
    let mut asked = Raw::connect(running.addr, &[]).await;
    let began = Instant::now();
    asked.ask(1, "/").await;
    assert!(is_ok(&asked.next_of(&[HEADERS]).await.unwrap()));
    for raw in [&mut quiet, &mut asked] {
        assert!(raw.next_of(&[GOAWAY]).await.is_some(), "it is told");
    }
    assert!(began.elapsed() >= idle_timeout, "{:?}", began.elapsed());
    drop((quiet, asked));
    running.shutdown.cancel();
    drop(begun);
    tokio::time::timeout(Duration::from_secs(10), running.door).await.expect("the door ends").unwrap();
}

#[tokio::test]
async fn an_answer_waits_for_the_peers_window_and_ends_when_it_opens() {
    let running = running(2, PATIENT).await;
    // A window of nothing for each stream.
    let mut raw = Raw::connect(running.addr, &[0, 4, 0, 0, 0, 0]).await;
    raw.ask(1, "/much").await;
    raw.ask(3, "/much").await;
    for _ in 0..2 {
        assert!(is_ok(&raw.next_of(&[HEADERS]).await.unwrap()));
    }
    // Both are under way still, so there is no place for a third.
    raw.ask(5, "/").await;
    assert!(!is_ok(&raw.next_of(&[HEADERS]).await.unwrap()));
    let room = (2 * MUCH_BYTES as u32).to_be_bytes();
    raw.send(&[frame(WINDOW_UPDATE, 0, 0, &room), frame(WINDOW_UPDATE, 0, 1, &room)].concat()).await.unwrap();
    let mut taken = 0;
    loop {
        let got = raw.next_of(&[DATA]).await.unwrap();
        assert_eq!(got.stream, 1);
        taken += got.payload.len();
        if got.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(taken, MUCH_BYTES);
}

#[tokio::test]
async fn a_stop_ends_idle_connections_at_once_and_answers_at_the_drain_timeout() {
    let running = running(8, PATIENT).await;
    let mut idle = Raw::connect(running.addr, &[]).await;
    idle.ask(1, "/").await;
    assert!(is_ok(&idle.next_of(&[HEADERS]).await.unwrap()));
    let mut waiting = Raw::connect(running.addr, &[]).await;
    waiting.ask(1, "/wait").await;
    while running.echo.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    running.shutdown.cancel();
    assert!(idle.next_of(&[GOAWAY]).await.is_some());
    waiting.until_end().await;
    tokio::time::timeout(Duration::from_secs(5), running.door).await.expect("cut").unwrap();
    assert_eq!(running.echo.running.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_drained_is_given_up_and_one_that_waits_for_us_is_not() {
    let began = Instant::now();
    let offering = async {
        STREAM.with(|stream| stream.offer());
        std::future::pending::<()>().await;
    };
    watched(offering, PATIENT).await;
    assert!((PATIENT..=2 * PATIENT).contains(&began.elapsed()), "{:?}", began.elapsed());
    let began = Instant::now();
    let long = async {
        STREAM.with(|stream| stream.taken());
        tokio::time::sleep(100 * PATIENT).await;
    };
    watched(long, PATIENT).await;
    assert!(began.elapsed() >= 100 * PATIENT);
}
