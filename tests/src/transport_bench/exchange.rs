//! Our exchange, from the source's files to the sink's: two members of a cluster with the agent's store,
//! the agent's runtime and every default of the product. What a pull does besides (resolving, publishing)
//! is left out.
//!
//! The model's bytes follow from their place in it, so that the sink can check them by itself.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use coordinatorless_p2p::{
    ChunkHash, ChunkSet, ChunkStore, Error, ErrorKind, Membership, MembershipConfig, Node, NodeId, Result,
    SwarmId, VerifiedChunk,
    cluster::{Cluster, ClusterConfig, Host, Parts, Unobserved, Wanted},
    exchange::SwarmState,
    swarm::SwarmSpec,
    transport::{
        Transport,
        quic::{QuicConfig, QuicTransport},
    },
};
use emberline_agent::{
    fetch::spec_of,
    manifest::{Blueprint, BlueprintFile},
    run,
    snapshot::FileVersion,
    store::{Lease, Store, StoreConfig},
};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use tokio::{runtime::Runtime, time::timeout};

use super::task::{End, Sink, identity, listening};

/// Files of real models are sharded, too.
const SHARD_BYTES: u64 = 256 << 20;

/// How long two members may take to find each other.
const MEETING: Duration = Duration::from_secs(20);

/// A node of the cluster.
struct Member {
    store: Store,
    cluster: Cluster,
    addr: SocketAddr,
}

struct Models(Store);

#[async_trait]
impl Host for Models {
    fn spec(&self, swarm: SwarmId) -> Result<SwarmSpec> {
        let missing = || Error::new(ErrorKind::NotFound, format!("swarm {} is not here", swarm.short()));
        Ok(spec_of(swarm, &*self.0.blueprint(swarm).ok_or_else(missing)?))
    }

    fn holdings(&self) -> Vec<SwarmId> {
        self.0.swarms()
    }

    async fn call(&self, _: NodeId, service: u16, _: Bytes) -> Result<Bytes> {
        Err(Error::new(ErrorKind::NotFound, format!("service {service} is not known here")))
    }
}

impl Member {
    async fn start(host: IpAddr, dir: &Path, seeds: Vec<String>) -> Result<Self> {
        let store = Store::open(dir.to_owned(), StoreConfig::default()).await?;
        let transport = QuicTransport::bind((host, 0).into(), Arc::new(identity()?), QuicConfig::default())?;
        let generation =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let me = Node {
            id: transport.id(),
            name: host.to_string(),
            addr: transport.local_addr(),
            zone: String::new(),
            weight: Node::WEIGHT,
            generation,
        };
        let addr = me.addr;
        let config = MembershipConfig { seeds, ..MembershipConfig::default() };
        let membership = Membership::start(transport.clone(), me, config)?;
        let parts = Parts {
            transport,
            membership,
            store: Arc::new(store.clone()),
            host: Arc::new(Models(store.clone())),
            observer: Arc::new(Unobserved),
        };
        Ok(Self { store, cluster: Cluster::start(parts, ClusterConfig::default()), addr })
    }

    /// Puts a model here as if it had been pulled.
    async fn fill(&self, model: &Arc<Blueprint>) -> Result<()> {
        let _lease = self.admit(model).await?;
        let held = self.store.inventory(model.swarm_id())?.held;
        for index in (0..model.chunk_count()).filter(|index| !held.contains(*index)) {
            let chunk = VerifiedChunk::hashed(content(model, index)?);
            self.store.write(model.swarm_id(), index, chunk).await?;
        }
        self.store.sync().await
    }

    async fn admit(&self, model: &Arc<Blueprint>) -> Result<Lease> {
        self.store.admit(model.clone(), &(0..model.files.len()).collect()).await
    }

    /// Has every chunk of a model come here, from peers only.
    async fn fetch(&self, model: &Arc<Blueprint>) -> Result<()> {
        let _lease = self.admit(model).await?;
        let spec = spec_of(model.swarm_id(), model);
        let chunks = ChunkSet::full(model.chunk_count());
        let handle = self.cluster.want(Wanted { spec, chunks, source: None, manifest: None }).await?;
        let mut progress = handle.progress();
        let over = |state: &SwarmState| !matches!(state, SwarmState::Running);
        let reached = progress.wait_for(|p| over(&p.state)).await.map(|p| p.state.clone());
        match reached {
            Ok(SwarmState::Complete) => Ok(()),
            Ok(SwarmState::Failed(e)) => Err(Error::new(e.kind(), e.to_string())),
            Ok(SwarmState::Running) | Err(_) => Err(Error::new(ErrorKind::Cancelled, "the swarm ended")),
        }
    }

    async fn wait_for_company(&self) -> Result<()> {
        let mut members = self.cluster.membership().watch();
        match timeout(MEETING, members.wait_for(|m| m.len() > 1)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::new(ErrorKind::Timeout, format!("no other member within {MEETING:?}"))),
        }
    }
}

/// A model of so many bytes, cut evenly. Warm-up and payload differ by name, so none has chunks of the other.
fn model(name: &str, bytes: u64, chunk_bytes: u32) -> Result<Arc<Blueprint>> {
    let pieces = |size: u64, most: u64| {
        (0..size.div_ceil(most)).map(move |n| most.min(size - n * most)).collect::<Vec<_>>()
    };
    let files = pieces(bytes, SHARD_BYTES)
        .into_iter()
        .enumerate()
        .map(|(n, size)| {
            Ok(BlueprintFile {
                path: format!("part-{n:05}.bin").parse()?,
                size,
                version: FileVersion::default(),
                digest: None,
                chunk_bytes: pieces(size, chunk_bytes.into()).into_iter().map(|b| b as u32).collect(),
            })
        })
        .collect::<Result<_>>()?;
    Ok(Arc::new(Blueprint::new(format!("file:///transport-bench/{name}"), None, files)?))
}

/// What chunk `index` consists of.
fn content(model: &Blueprint, index: u32) -> Result<Bytes> {
    let place = model
        .place(index)
        .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("no chunk {index} in {}", model.reference)))?;
    let seed = blake3::hash(format!("{} {index}", model.reference).as_bytes());
    let mut bytes = vec![0; place.bytes as usize];
    SmallRng::from_seed(*seed.as_bytes()).fill_bytes(&mut bytes);
    Ok(bytes.into())
}

fn both(end: &End, chunk_bytes: u32) -> Result<[Arc<Blueprint>; 2]> {
    Ok([model("warm-up", end.warm_up_bytes, chunk_bytes)?, model("payload", end.bytes, chunk_bytes)?])
}

/// Holds the models and answers until killed.
pub(super) fn serve(end: &End, host: IpAddr, chunk_bytes: u32) -> Result<()> {
    let models = both(end, chunk_bytes)?;
    run::runtime()?.block_on(async {
        let member = Member::start(host, &end.dir, Vec::new()).await?;
        for model in &models {
            member.fill(model).await?;
        }
        listening(member.addr)?;
        std::future::pending().await
    })
}

/// The sink.
pub(super) struct Fetcher {
    runtime: Runtime,
    member: Member,
    models: [Arc<Blueprint>; 2],
}

impl Fetcher {
    pub(super) fn connect(end: &End, host: IpAddr, from: SocketAddr, chunk_bytes: u32) -> Result<Self> {
        let models = both(end, chunk_bytes)?;
        let runtime = run::runtime()?;
        let member = runtime.block_on(async {
            let member = Member::start(host, &end.dir, vec![from.to_string()]).await?;
            member.wait_for_company().await?;
            Ok::<_, Error>(member)
        })?;
        Ok(Self { runtime, member, models })
    }
}

impl Sink for Fetcher {
    fn warm_up(&mut self, _: u64) -> Result<()> {
        self.runtime.block_on(async {
            self.member.fetch(&self.models[0]).await?;
            self.member.store.sync().await
        })
    }

    fn fetch(&mut self, _: u64) -> Result<()> {
        self.runtime.block_on(self.member.fetch(&self.models[1]))
    }

    /// Reads everything back from the files, and compares it with what the model is made of.
    fn check(&mut self) -> Result<()> {
        let (store, model) = (&self.member.store, &self.models[1]);
        let rotten = self.runtime.block_on(store.verify(model.swarm_id(), &|_| {}))?;
        let hashes = store.inventory(model.swarm_id())?.hashes;
        let differs = |index: u32| {
            let expected = ChunkHash::of(&content(model, index)?);
            Ok(hashes.get(index as usize).copied().flatten() != Some(expected))
        };
        for index in 0..model.chunk_count() {
            if !rotten.is_empty() || differs(index)? {
                return Err(Error::new(ErrorKind::Corrupt, format!("chunk {index} is not what was sent")));
            }
        }
        Ok(())
    }
}
