//! A proxy that breaks what goes through it, in front of a real server.
//!
//! One HTTP request a connection, so that a fault hits exactly the request it was meant for. Keeps a record of
//! every request, and of which faults were used: a test that injects one must see that it fired.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The longest request head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// What to do to one answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Pass this many bytes of the body, then close.
    CutAfter(usize),
    /// Pass this many bytes of the body, then nothing more, connection open.
    StallAfter(usize),
    /// Never ask the server; send these bytes and close.
    Answer(Vec<u8>),
    /// Accept, read the request, say nothing.
    BlackHole,
    /// Have the server do what is asked, and close without its answer.
    LoseAnswer,
}

/// One request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When its head was complete.
    pub at: Instant,
    /// Method and target, `GET /x`.
    pub line: String,
    /// Its head, as it came.
    pub head: String,
    /// Whether it was broken.
    pub broken: bool,
}

/// The proxy. Stops on drop.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    faults: Mutex<VecDeque<(String, Fault)>>,
    seen: Mutex<Vec<Seen>>,
    stop: AtomicBool,
}

impl FaultProxy {
    /// Stands in front of `upstream`, `http://host:port`.
    ///
    /// # Errors
    /// When no port can be had, or `upstream` is not an address.
    pub fn start(upstream: &str) -> super::Result<Self> {
        let upstream = upstream.trim_start_matches("http://").trim_end_matches('/');
        let upstream = upstream.parse().map_err(|e| format!("{upstream}: {e}"))?;
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| format!("fault proxy: {e}"))?;
        let address = listener.local_addr().map_err(|e| format!("fault proxy: {e}"))?;
        let shared = Arc::new(Shared {
            upstream,
            faults: Mutex::default(),
            seen: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let serving = shared.clone();
        let acceptor = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if serving.stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = connection else { continue };
                let shared = serving.clone();
                std::thread::spawn(move || {
                    // A peer that goes away is what this proxy is for.
                    let _ = shared.serve(client);
                });
            }
        });
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks the next request whose line contains `needle`; those before it in the queue come first.
    pub fn inject(&self, needle: &str, fault: Fault) {
        lock(&self.shared.faults).push_back((needle.to_owned(), fault));
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// How many requests were broken.
    pub fn fired(&self) -> usize {
        lock(&self.shared.seen).iter().filter(|s| s.broken).count()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let Some(head) = read_head(&mut client)? else { return Ok(()) };
        let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
        let fault = {
            let mut faults = lock(&self.faults);
            let at = faults.iter().position(|(needle, _)| line.contains(needle));
            at.and_then(|at| faults.remove(at)).map(|(_, fault)| fault)
        };
        lock(&self.seen).push(Seen { at: Instant::now(), line, head: head.clone(), broken: fault.is_some() });
        let is_lost = matches!(fault, Some(Fault::LoseAnswer));
        let limit = match &fault {
            Some(Fault::Answer(bytes)) => {
                client.write_all(bytes)?;
                return client.shutdown(Shutdown::Write);
            }
            Some(Fault::BlackHole) => return self.hang(client),
            Some(Fault::CutAfter(bytes) | Fault::StallAfter(bytes)) => Some(*bytes),
            Some(Fault::LoseAnswer) | None => None,
        };
        let mut server = TcpStream::connect(self.upstream)?;
        // One request a connection: the answer ends where the server closes.
        let (first, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
        server.write_all(format!("{first}\r\nConnection: close\r\n{rest}").as_bytes())?;
        std::io::copy(&mut (&mut client).take(body_bytes(&head)), &mut server)?;
        if is_lost {
            std::io::copy(&mut server, &mut std::io::sink())?;
            return client.shutdown(Shutdown::Both);
        }
        pass(&mut server, &mut client, limit)?;
        if matches!(fault, Some(Fault::StallAfter(_))) {
            return self.hang(client);
        }
        client.shutdown(Shutdown::Both)
    }

    /// Keeps the connection open and silent until the client has had enough, or the test.
    fn hang(&self, mut client: TcpStream) -> std::io::Result<()> {
        client.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut byte = [0];
        while !self.stop.load(Ordering::Relaxed) {
            match client.read(&mut byte) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e)
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// The head of a request, up to and with its empty line.
fn read_head(client: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD_BYTES || client.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// How long the body of a request is, by its head.
fn body_bytes(head: &str) -> u64 {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    length.unwrap_or_default()
}

/// Passes an answer on: its head whole, then `limit` bytes of its body or all.
fn pass(server: &mut TcpStream, client: &mut TcpStream, limit: Option<usize>) -> std::io::Result<()> {
    let Some(head) = read_head(server)? else { return Ok(()) };
    client.write_all(head.as_bytes())?;
    let mut left = limit.unwrap_or(usize::MAX);
    let mut piece = vec![0; 64 << 10];
    while left > 0 {
        let read = server.read(&mut piece)?;
        if read == 0 {
            break;
        }
        client.write_all(&piece[..read.min(left)])?;
        left -= read.min(left);
    }
    client.flush()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
