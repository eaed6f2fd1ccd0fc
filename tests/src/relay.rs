//! A TCP relay in front of an origin: counts what passes, holds it to a rate, and can go dark.
//!
//! Knows nothing of what it carries. The counter is a witness that no agent can talk round; the rate
//! makes a transfer last long enough for a fault to hit its middle on any machine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coordinatorless_p2p::{IoContext, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Small against the rate, so that the rate is even; large enough not to cost much.
const PIECE_BYTES: usize = 32 << 10;

/// A running relay; stops on drop. Needs the runtime that it was started on.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    /// Bytes sent to clients.
    delivered: AtomicU64,
    connections: AtomicU64,
    pace: Option<Pace>,
    dark: CancellationToken,
    /// Whether nothing passes although everything stays open.
    silent: watch::Sender<bool>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    /// When the next piece may pass.
    next: Mutex<Instant>,
}

impl Relay {
    /// Listens on loopback and passes everything to `upstream`; all connections together get
    /// `bytes_per_second` towards the clients.
    ///
    /// # Errors
    /// As binding a port.
    pub async fn start(upstream: SocketAddr, bytes_per_second: Option<u64>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.at(|| "relay".to_owned())?;
        let addr = listener.local_addr().at(|| "relay".to_owned())?;
        let pace = bytes_per_second
            .map(|bytes_per_second| Pace { bytes_per_second, next: Mutex::new(Instant::now()) });
        let shared = Arc::new(Shared {
            upstream,
            delivered: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            pace,
            dark: CancellationToken::new(),
            silent: watch::Sender::new(false),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(accept(listener, shared.clone()));
        Ok(Self { addr, shared })
    }

    /// Base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Bytes sent to clients so far, headers included.
    pub fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Lets nothing pass towards clients, with every connection open and new ones accepted: the fault
    /// that only a time-out can tell from a slow origin. `false` ends it.
    pub fn be_silent(&self, silent: bool) {
        self.shared.silent.send_replace(silent);
    }

    /// Closes every connection and refuses all further ones.
    pub async fn go_dark(&self) {
        self.shared.dark.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.dark.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let dark = shared.dark.clone();
    let serve = async {
        while let Ok((client, _)) = listener.accept().await {
            shared.connections.fetch_add(1, Ordering::Relaxed);
            let (serving, dark) = (shared.clone(), shared.dark.clone());
            shared.tasks.spawn(async move {
                // Either side may hang up at any time; that is the transfer's business.
                let _ = dark.run_until_cancelled(serving.carry(client)).await;
            });
        }
    };
    dark.run_until_cancelled(serve).await;
}

impl Shared {
    async fn carry(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut server = TcpStream::connect(self.upstream).await?;
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let up = async {
            tokio::io::copy(&mut from_client, &mut to_server).await?;
            to_server.shutdown().await
        };
        let down = async {
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let read = from_server.read(&mut piece).await?;
                if read == 0 {
                    return to_client.shutdown().await;
                }
                if let Some(pace) = &self.pace {
                    pace.wait(read).await;
                }
                // The sender lives as long as we do.
                drop(self.silent.subscribe().wait_for(|silent| !silent).await);
                to_client.write_all(&piece[..read]).await?;
                self.delivered.fetch_add(read as u64, Ordering::Relaxed);
            }
        };
        tokio::try_join!(up, down).map(drop)
    }
}

impl Pace {
    async fn wait(&self, bytes: usize) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let due = {
            let mut next = self.next.lock().await;
            *next = (*next).max(Instant::now()) + cost;
            *next
        };
        tokio::time::sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fetch(addr: SocketAddr) -> std::io::Result<Vec<u8>> {
        let mut all = Vec::new();
        TcpStream::connect(addr).await?.read_to_end(&mut all).await?;
        Ok(all)
    }

    #[tokio::test]
    async fn counts_paces_and_goes_dark() {
        let origin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let upstream = origin.local_addr().expect("bound");
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = origin.accept().await {
                stream.write_all(&[7; 200_000]).await.expect("sent");
            }
        });
        let relay = Relay::start(upstream, Some(1_000_000)).await.expect("a relay");
        let start = Instant::now();
        assert_eq!(fetch(relay.addr).await.expect("bytes").len(), 200_000);
        // 200 KB at 1 MB/s take 0.2 s; timers are never early.
        assert!(start.elapsed() >= Duration::from_millis(195), "{:?}", start.elapsed());
        assert_eq!((relay.delivered(), relay.connections()), (200_000, 1));
        relay.go_dark().await;
        assert!(fetch(relay.addr).await.is_err());
        assert_eq!(relay.delivered(), 200_000);
        serving.abort();
    }
}
