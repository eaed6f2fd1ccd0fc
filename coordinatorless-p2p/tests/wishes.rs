//! Several pulls of one swarm on one node: each ends for its own reasons and for no other's.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use coordinatorless_p2p::{
    ChunkHash, ChunkSet, ChunkStore, Error, ErrorKind, Inventory, Membership, MembershipConfig, Node, NodeId,
    Result, SpanSource, SwarmId, VerifiedChunk,
    cluster::{Cluster, ClusterConfig, Host, Parts, Unobserved, Wanted},
    exchange::{SwarmHandle, SwarmState},
    swarm::SwarmSpec,
    transport::memory::MemoryNetwork,
};
use tokio::sync::{Notify, mpsc};

const SWARM: SwarmId = SwarmId([7; 32]);
const CHUNKS: u32 = 4;
const BYTES: u32 = 1000;
const SOON: Duration = Duration::from_secs(20);

fn content(index: u32) -> Bytes {
    vec![index as u8; BYTES as usize].into()
}

fn spec() -> SwarmSpec {
    // A span a chunk, so that each source is asked for each chunk by itself.
    let spans: Vec<Range<u32>> = (0..CHUNKS).map(|c| c..c + 1).collect();
    SwarmSpec { id: SWARM, chunk_bytes: vec![BYTES; CHUNKS as usize].into(), spans: spans.into() }
}

/// Chunks in memory; one index may refuse to be kept.
#[derive(Default)]
struct Shelf {
    chunks: Mutex<HashMap<u32, VerifiedChunk>>,
    full_for: Option<u32>,
}

#[async_trait]
impl ChunkStore for Shelf {
    fn inventory(&self, _: SwarmId) -> Result<Inventory> {
        let chunks = self.chunks.lock().unwrap();
        let mut held = ChunkSet::new(CHUNKS);
        chunks.keys().for_each(|index| {
            held.insert(*index);
        });
        let hashes = (0..CHUNKS).map(|index| chunks.get(&index).map(VerifiedChunk::hash)).collect();
        Ok(Inventory { held, hashes })
    }

    async fn read(&self, _: SwarmId, index: u32) -> Result<(ChunkHash, Bytes)> {
        let chunks = self.chunks.lock().unwrap();
        let chunk = chunks.get(&index).ok_or_else(|| Error::new(ErrorKind::NotFound, "not here"))?;
        Ok((chunk.hash(), chunk.bytes().clone()))
    }

    async fn write(&self, _: SwarmId, index: u32, chunk: VerifiedChunk) -> Result<()> {
        if self.full_for == Some(index) {
            return Err(Error::new(ErrorKind::Full, "no room"));
        }
        self.chunks.lock().unwrap().insert(index, chunk);
        Ok(())
    }

    fn knows(&self, _: &ChunkHash) -> bool {
        false
    }

    async fn adopt(&self, _: SwarmId, _: u32, _: ChunkHash) -> Result<bool> {
        Ok(false)
    }

    fn discard(&self, _: SwarmId, index: u32) -> Result<()> {
        self.chunks.lock().unwrap().remove(&index);
        Ok(())
    }
}

/// An origin that answers, or one that says no.
enum Origin {
    Good,
    Denies,
    /// Answers once it is let.
    Waits(Arc<Notify>),
}

#[async_trait]
impl SpanSource for Origin {
    async fn fetch(&self, chunks: Range<u32>, out: mpsc::Sender<Result<(u32, Bytes)>>) {
        match self {
            Self::Good => {}
            Self::Denies => {
                let _ = out.send(Err(Error::new(ErrorKind::Denied, "no such key"))).await;
                return;
            }
            Self::Waits(go) => go.notified().await,
        }
        for index in chunks {
            let _ = out.send(Ok((index, content(index)))).await;
        }
    }
}

struct Nobody;

#[async_trait]
impl Host for Nobody {
    fn spec(&self, _: SwarmId) -> Result<SwarmSpec> {
        Ok(spec())
    }

    fn holdings(&self) -> Vec<SwarmId> {
        vec![SWARM]
    }

    async fn call(&self, _: NodeId, _: u16, _: Bytes) -> Result<Bytes> {
        Err(Error::new(ErrorKind::NotFound, "no services"))
    }
}

fn lone_node(store: Arc<Shelf>) -> Cluster {
    let me = Node {
        id: NodeId([1; 16]),
        name: "n1".to_owned(),
        addr: ([127, 0, 0, 1], 4001).into(),
        zone: String::new(),
        weight: Node::WEIGHT,
        generation: 1,
    };
    let transport = MemoryNetwork::new().node(me.id, me.addr);
    let membership = Membership::start(transport.clone(), me, MembershipConfig::default()).unwrap();
    let parts =
        Parts { transport, membership, store, host: Arc::new(Nobody), observer: Arc::new(Unobserved) };
    Cluster::start(parts, ClusterConfig::default())
}

async fn want(cluster: &Cluster, chunks: &[u32], origin: Option<Origin>) -> SwarmHandle {
    let mut set = ChunkSet::new(CHUNKS);
    chunks.iter().for_each(|c| {
        set.insert(*c);
    });
    let source = origin.map(|o| Arc::new(o) as Arc<dyn SpanSource>);
    cluster.want(Wanted { spec: spec(), chunks: set, source, manifest: None }).await.unwrap()
}

/// How a wish ends: `None` when all is here, else what it failed with.
async fn ends(handle: &SwarmHandle) -> Option<ErrorKind> {
    let mut progress = handle.progress();
    let over = progress.wait_for(|p| !matches!(p.state, SwarmState::Running));
    let state = tokio::time::timeout(SOON, over).await.expect("the wish hangs").unwrap().state.clone();
    match state {
        SwarmState::Failed(e) => Some(e.kind()),
        SwarmState::Complete | SwarmState::Running => None,
    }
}

#[tokio::test]
async fn a_wish_after_a_failed_one_starts_afresh() {
    let cluster = lone_node(Arc::default());
    let refused = want(&cluster, &[0, 1, 2, 3], Some(Origin::Denies)).await;
    assert_eq!(ends(&refused).await, Some(ErrorKind::Denied));
    // The first is still held: its pull may be busy saying so.
    let again = want(&cluster, &[0, 1, 2, 3], Some(Origin::Good)).await;
    assert_eq!(ends(&again).await, None);
    assert_eq!(ends(&refused).await, Some(ErrorKind::Denied));
}

#[tokio::test]
async fn a_source_that_fails_ends_only_the_wish_that_brought_it() {
    let cluster = lone_node(Arc::default());
    let go = Arc::new(Notify::new());
    let good = want(&cluster, &[0, 1], Some(Origin::Waits(go.clone()))).await;
    let refused = want(&cluster, &[0, 1, 2, 3], Some(Origin::Denies)).await;
    assert_eq!(ends(&refused).await, Some(ErrorKind::Denied));
    assert!(matches!(good.progress().borrow().state, SwarmState::Running));
    let let_it_answer = async {
        loop {
            go.notify_one();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        end = ends(&good) => assert_eq!(end, None),
        () = let_it_answer => {}
    }
}

#[tokio::test]
async fn a_chunk_that_cannot_be_kept_ends_the_wishes_that_want_it_and_no_other() {
    let cluster = lone_node(Arc::new(Shelf { full_for: Some(3), ..Shelf::default() }));
    let all = want(&cluster, &[0, 1, 2, 3], Some(Origin::Good)).await;
    let some = want(&cluster, &[0, 1], Some(Origin::Good)).await;
    assert_eq!(ends(&all).await, Some(ErrorKind::Full));
    assert_eq!(ends(&some).await, None);
}

#[tokio::test]
async fn a_wish_is_complete_when_its_own_chunks_are_here_whatever_others_wait_for() {
    let store = Arc::new(Shelf::default());
    let cluster = lone_node(store.clone());
    let never = want(&cluster, &[0, 1, 2, 3], None).await;
    (0..2).for_each(|c| {
        store.chunks.lock().unwrap().insert(c, VerifiedChunk::hashed(content(c)));
    });
    let here = want(&cluster, &[0, 1], None).await;
    assert_eq!(ends(&here).await, None);
    assert!(matches!(never.progress().borrow().state, SwarmState::Running));
}

#[tokio::test]
async fn chunks_that_came_to_the_store_by_another_way_are_told_to_those_who_wait() {
    let store = Arc::new(Shelf::default());
    let cluster = lone_node(store.clone());
    let mut waits = want(&cluster, &[0], None).await;
    store.chunks.lock().unwrap().insert(0, VerifiedChunk::hashed(content(0)));
    let _other = want(&cluster, &[1], None).await;
    assert_eq!(tokio::time::timeout(SOON, waits.next_stored()).await.expect("not told"), Some(0));
    assert_eq!(ends(&waits).await, None);
}
