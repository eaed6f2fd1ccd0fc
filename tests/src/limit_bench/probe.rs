//! A client and a server that exchange small messages over two shaped links.
//!
//! What requests for inference look like on the wire: a short question, an answer of a few packets, many a second.
//! Both ends run before everything else on this machine: on two cores it is the links that are to be measured,
//! and not who gets a core.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::Latency;
use crate::namespaces::Namespace;

const QUESTION_BYTES: usize = 512;
const ANSWER_BYTES: usize = 4096;
/// From one question to the next.
const EVERY: Duration = Duration::from_millis(5);
/// The highest priority that nice(2) has.
const FIRST: i32 = -20;

/// Both ends, connected.
pub(super) struct Probe {
    client: Namespace,
    stream: Arc<tokio::sync::Mutex<TcpStream>>,
}

impl Probe {
    pub(super) async fn start(client: &Namespace, server: &Namespace) -> Result<Self> {
        let host = server.ipv4();
        let listener = server.run(async move { TcpListener::bind((host, 0)).await }).await?;
        let listener = listener.at(|| "the probe's server".to_owned())?;
        let addr = listener.local_addr().at(|| "the probe's server".to_owned())?;
        let inside = server.clone();
        tokio::spawn(async move { inside.run(serve(listener)).await });
        let stream = client.run(async move {
            go_first();
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        });
        let stream = stream.await?.at(|| format!("the probe's server at {addr}"))?;
        Ok(Self { client: client.clone(), stream: Arc::new(tokio::sync::Mutex::new(stream)) })
    }

    /// Asks again and again while `work` goes on; answers with how long the answers took.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> Result<(Latency, T)> {
        let over = Arc::new(AtomicBool::new(false));
        let asking = {
            let (over, stream) = (over.clone(), self.stream.clone());
            self.client.run(async move { ask(&over, &mut *stream.lock().await).await })
        };
        let work = async {
            let done = work.await;
            over.store(true, Ordering::Relaxed);
            done
        };
        let (times, done) = tokio::join!(asking, work);
        let times = times?.at(|| "the probe".to_owned())?;
        let latency = Latency::of(times);
        let latency = latency.ok_or_else(|| Error::new(ErrorKind::UNAVAILABLE, "the probe got no answer"))?;
        Ok((latency, done))
    }
}

async fn ask(over: &AtomicBool, stream: &mut TcpStream) -> std::io::Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut answer = vec![0; ANSWER_BYTES];
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let asked = Instant::now();
        stream.write_all(&[1; QUESTION_BYTES]).await?;
        stream.read_exact(&mut answer).await?;
        times.push(asked.elapsed());
    }
    Ok(times)
}

/// Answers one client until it goes.
async fn serve(listener: TcpListener) -> std::io::Result<()> {
    go_first();
    let (mut stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let mut question = vec![0; QUESTION_BYTES];
    while stream.read_exact(&mut question).await.is_ok() {
        stream.write_all(&[2; ANSWER_BYTES]).await?;
    }
    Ok(())
}

/// Of the thread that it is called on, which is its namespace's. Without it the figures are noisier, not wrong.
fn go_first() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), FIRST);
}
