//! Two pulls of one node on one link that is too slow for both: the one that matters more ends first, and a
//! chunk that a reader waits for comes before all of them. On virtual time; judged by the order of events.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use coordinatorless_p2p::{
    ChunkHash, ChunkSet, ChunkStore, Error, ErrorKind, Inventory, Membership, MembershipConfig, Node, NodeId,
    Precedence, Result, SpanSource, SwarmId, VerifiedChunk,
    cluster::{Cluster, ClusterConfig, Host, Limits, Parts, Unobserved, Wanted},
    exchange::{SwarmHandle, SwarmState},
    swarm::SwarmSpec,
    transport::memory::MemoryNetwork,
};
use tokio::sync::{Semaphore, mpsc};

const CHUNKS: u32 = 64;
const BYTES: u32 = 64 << 10;
/// Of virtual time.
const SOON: Duration = Duration::from_secs(600);
const FIRST: SwarmId = SwarmId([1; 32]);
const SECOND: SwarmId = SwarmId([2; 32]);

fn content(swarm: SwarmId, index: u32) -> Bytes {
    vec![swarm.0[0].wrapping_mul(100).wrapping_add(index as u8); BYTES as usize].into()
}

fn spec(id: SwarmId) -> SwarmSpec {
    let spans: Vec<Range<u32>> = (0..CHUNKS / 4).map(|s| s * 4..s * 4 + 4).collect();
    SwarmSpec { id, chunk_bytes: vec![BYTES; CHUNKS as usize].into(), spans: spans.into() }
}

/// Chunks of several swarms in memory.
#[derive(Default)]
struct Shelf(Mutex<HashMap<(SwarmId, u32), VerifiedChunk>>);

impl Shelf {
    fn with(swarms: &[SwarmId]) -> Arc<Self> {
        let all = swarms.iter().flat_map(|swarm| (0..CHUNKS).map(|index| (*swarm, index)));
        let chunks = all.map(|(swarm, index)| ((swarm, index), VerifiedChunk::hashed(content(swarm, index))));
        Arc::new(Self(Mutex::new(chunks.collect())))
    }
}

#[async_trait]
impl ChunkStore for Shelf {
    fn inventory(&self, swarm: SwarmId) -> Result<Inventory> {
        let chunks = self.0.lock().unwrap();
        let mut held = ChunkSet::new(CHUNKS);
        let hashes: Vec<_> =
            (0..CHUNKS).map(|index| chunks.get(&(swarm, index)).map(VerifiedChunk::hash)).collect();
        (0..CHUNKS).zip(&hashes).filter(|(_, hash)| hash.is_some()).for_each(|(index, _)| {
            held.insert(index);
        });
        Ok(Inventory { held, hashes })
    }

    async fn read(&self, swarm: SwarmId, index: u32) -> Result<(ChunkHash, Bytes)> {
        let chunks = self.0.lock().unwrap();
        let chunk = chunks.get(&(swarm, index));
        let chunk = chunk.ok_or_else(|| Error::new(ErrorKind::NotFound, "not here"))?;
        Ok((chunk.hash(), chunk.bytes().clone()))
    }

    async fn write(&self, swarm: SwarmId, index: u32, chunk: VerifiedChunk) -> Result<()> {
        self.0.lock().unwrap().insert((swarm, index), chunk);
        Ok(())
    }

    fn knows(&self, _: &ChunkHash) -> bool {
        false
    }

    async fn adopt(&self, _: SwarmId, _: u32, _: ChunkHash) -> Result<bool> {
        Ok(false)
    }

    fn discard(&self, swarm: SwarmId, index: u32) -> Result<()> {
        self.0.lock().unwrap().remove(&(swarm, index));
        Ok(())
    }
}

/// An origin whose link carries one chunk at a time, whoever asks for it.
struct Origin {
    swarm: SwarmId,
    link: Arc<Semaphore>,
}

#[async_trait]
impl SpanSource for Origin {
    async fn fetch(&self, chunks: Range<u32>, out: mpsc::Sender<Result<(u32, Bytes)>>) {
        for index in chunks {
            {
                let _carries = self.link.acquire().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if out.send(Ok((index, content(self.swarm, index)))).await.is_err() {
                return;
            }
        }
    }
}

struct Holdings;

#[async_trait]
impl Host for Holdings {
    fn spec(&self, swarm: SwarmId) -> Result<SwarmSpec> {
        Ok(spec(swarm))
    }

    fn holdings(&self) -> Vec<SwarmId> {
        vec![FIRST, SECOND]
    }

    async fn call(&self, _: NodeId, _: u16, _: Bytes) -> Result<Bytes> {
        Err(Error::new(ErrorKind::NotFound, "no services"))
    }
}

fn node(network: &MemoryNetwork, n: u8, store: Arc<Shelf>, limits: Limits) -> Cluster {
    let me = Node {
        id: NodeId([n; 16]),
        name: format!("n{n}"),
        addr: ([127, 0, 0, n], 4001).into(),
        zone: String::new(),
        weight: Node::WEIGHT,
        generation: 1,
    };
    let transport = network.node(me.id, me.addr);
    let seeds = if n > 1 { vec!["127.0.0.1:4001".to_owned()] } else { Vec::new() };
    let membership =
        Membership::start(transport.clone(), me, MembershipConfig { seeds, ..MembershipConfig::default() })
            .unwrap();
    let parts =
        Parts { transport, membership, store, host: Arc::new(Holdings), observer: Arc::new(Unobserved) };
    Cluster::start(parts, ClusterConfig { limits, ..ClusterConfig::default() })
}

fn deadline(seconds: u64) -> Precedence {
    let deadline = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    Precedence { priority: 0, deadline }
}

async fn want(cluster: &Cluster, swarm: SwarmId, origin: Option<Origin>, matters: Precedence) -> SwarmHandle {
    let source = origin.map(|o| Arc::new(o) as Arc<dyn SpanSource>);
    let wanted = Wanted { spec: spec(swarm), chunks: ChunkSet::full(CHUNKS), source, manifest: None };
    let handle = cluster.want(wanted).await.unwrap();
    handle.matters(matters);
    handle
}

/// Follows a pull to its end; answers with when that was, on the virtual clock.
async fn ends(handle: &SwarmHandle) -> tokio::time::Instant {
    let mut progress = handle.progress();
    let over = progress.wait_for(|p| !matches!(p.state, SwarmState::Running));
    let state = tokio::time::timeout(SOON, over).await.expect("the pull hangs").unwrap().state.clone();
    assert!(matches!(state, SwarmState::Complete), "{state:?}");
    tokio::time::Instant::now()
}

/// Starts one pull, and a second when a quarter of the first is here; whether the second ends first.
async fn second_ends_first(
    cluster: &Cluster,
    origin: impl Fn(SwarmId) -> Option<Origin>,
    matters: [Precedence; 2],
) -> bool {
    let first = want(cluster, FIRST, origin(FIRST), matters[0]).await;
    let quarter = u64::from(CHUNKS / 4 * BYTES);
    let mut progress = first.progress();
    let under_way = progress.wait_for(|p| p.held_bytes >= quarter);
    assert!(tokio::time::timeout(SOON, under_way).await.expect("the first pull hangs").is_ok());
    let second = want(cluster, SECOND, origin(SECOND), matters[1]).await;
    let (first, second) = tokio::join!(ends(&first), ends(&second));
    second < first
}

async fn over_a_slow_downlink(matters: [Precedence; 2]) -> bool {
    let network = MemoryNetwork::new();
    let holder = node(&network, 1, Shelf::with(&[FIRST, SECOND]), Limits::default());
    let limits = Limits { upload: None, download: Some(1 << 20) };
    let puller = node(&network, 2, Arc::default(), limits);
    let mut members = puller.membership().watch();
    let met = members.wait_for(|nodes| nodes.len() == 2);
    assert!(tokio::time::timeout(SOON, met).await.expect("they do not meet").is_ok());
    let first = second_ends_first(&puller, |_| None, matters).await;
    drop(holder);
    first
}

#[tokio::test(start_paused = true)]
async fn the_later_pull_with_the_earlier_deadline_ends_first_on_a_slow_link() {
    assert!(over_a_slow_downlink([deadline(1000), deadline(500)]).await);
    // Else the first one has its head start, and this would show nothing.
    assert!(!over_a_slow_downlink([Precedence::default(); 2]).await);
    assert!(!over_a_slow_downlink([deadline(500), deadline(1000)]).await);
}

#[tokio::test(start_paused = true)]
async fn the_later_pull_with_the_higher_priority_ends_first_at_a_slow_origin() {
    async fn at_origin(matters: [Precedence; 2]) -> bool {
        let lone = node(&MemoryNetwork::new(), 1, Arc::default(), Limits::default());
        let link = Arc::new(Semaphore::new(1));
        second_ends_first(&lone, |swarm| Some(Origin { swarm, link: link.clone() }), matters).await
    }
    let high = Precedence { priority: 1, deadline: None };
    // A deadline does not outdo a priority.
    assert!(at_origin([deadline(1), high]).await);
    assert!(!at_origin([Precedence::default(); 2]).await);
    assert!(!at_origin([high, deadline(1)]).await);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_a_reader_waits_for_comes_before_a_pull_that_matters_more() {
    let network = MemoryNetwork::new();
    let holder = node(&network, 1, Shelf::with(&[FIRST, SECOND]), Limits::default());
    let limits = Limits { upload: None, download: Some(256 << 10) };
    let puller = node(&network, 2, Arc::default(), limits);
    let mut members = puller.membership().watch();
    let met = members.wait_for(|nodes| nodes.len() == 2);
    assert!(tokio::time::timeout(SOON, met).await.expect("they do not meet").is_ok());

    let bulk = want(&puller, FIRST, None, Precedence { priority: 100, deadline: None }).await;
    let mut progress = bulk.progress();
    let under_way = progress.wait_for(|p| p.held_bytes > 0);
    assert!(tokio::time::timeout(SOON, under_way).await.expect("the pull hangs").is_ok());
    let mut read = want(&puller, SECOND, None, Precedence { priority: -100, deadline: None }).await;
    let urgent = [40, 41, 42];
    read.urge(urgent.to_vec());
    let mut before = Vec::new();
    while !urgent.iter().all(|index| before.contains(index)) {
        let next = tokio::time::timeout(SOON, read.next_stored()).await.expect("the reader hangs");
        before.push(next.expect("the swarm ended"));
    }
    assert!(before.len() <= 6, "these came before the last that the reader waits for: {before:?}");
    let left = u64::from(CHUNKS * BYTES) - bulk.progress().borrow().held_bytes;
    assert!(left > u64::from(CHUNKS / 2 * BYTES), "the pull had {left} bytes to go");
    drop(holder);
}
