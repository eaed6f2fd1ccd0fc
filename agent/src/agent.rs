//! The agent as one object: what every door and command asks of it.
//!
//! Owns the store, the origins, the cluster and the running jobs. Doors translate to and from
//! these calls and hold no logic of their own.

mod repositories;
mod stopping;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant, SystemTime},
};

use coordinatorless_p2p::{
    ChunkSet, ChunkStore, ClusterSecret, Identity, IoContext, Membership, MembershipConfig, Node, NodeId,
    NodeKey, SwarmId,
    cluster::{self, Cluster, ClusterConfig, Observer, Parts, Work},
    transport::{
        Transport,
        quic::{QuicConfig, QuicTransport},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Admissions,
    api::{
        ArtifactInfo, HeldFile, LimitChange, Limits, Member, PathAnswer, Plan, PlanRequest, Problem,
        PublishReport, PullRequest, PullStatus, ReadingOrderInfo, ScaleHook, Status, VerifyReport,
        WarmRequest, WarmStatus,
    },
    config::{ClusterSettings, Config},
    departure::Departure,
    engine::Engine,
    error::{Error, ErrorKind, Result},
    host::AgentHost,
    joining::Joining,
    manifest::Blueprint,
    metrics,
    namespace::Namespace,
    origin::Origins,
    plan, publish,
    pulls::Pulls,
    quantity::exactly,
    reader::Reader,
    records,
    reference::Reference,
    resolve::Resolver,
    store::{self, OpenedFile, Space, Store},
    upkeep::Upkeep,
    verify,
    warm::Warms,
};

/// A running agent. Cheap to clone; all clones are the same agent.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<Engine>,
    pulls: Arc<Pulls>,
    reader: Reader,
    namespace: Namespace,
    admissions: Admissions,
    warms: Warms,
    upkeep: Upkeep,
    departure: Departure,
    config: Config,
}

impl Inner {
    fn find(&self, named: &str) -> Result<SwarmId> {
        let canonical = match named.parse::<Reference>() {
            Ok(Reference::Ember(hash)) => hash.to_string(),
            Ok(reference) => reference.to_string(),
            Err(_) => named.to_owned(),
        };
        self.engine
            .store
            .find(&canonical)
            .or_else(|| self.engine.store.find(named))
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{named} is not on this node")))
    }
}

impl Agent {
    /// Opens the store, binds the QUIC socket, joins the cluster. Doors are started by the caller.
    ///
    /// # Errors
    /// `Invalid` for a configuration that cannot work; `Denied` and `Full` from the data directory.
    pub async fn start(config: Config) -> Result<Self> {
        let store = Store::open(config.data_dir.clone(), config.store.clone()).await?;
        let origins = Origins::new(config.origins.clone())?;
        let identity = Arc::new(identity(&config)?);
        let listen = config.cluster.listen;
        let transport = QuicTransport::bind(listen, identity.clone(), QuicConfig::default())?;
        let me = describe(&config.cluster, transport.id(), transport.local_addr())?;
        tracing::info!(node = %me.id, name = %me.name, addr = %me.addr, zone = %me.zone, "this node");
        let transport: Arc<dyn Transport> = transport;
        let seeds = config.cluster.seeds.clone();
        let membership = Membership::start(
            transport.clone(),
            me,
            MembershipConfig { seeds, ..MembershipConfig::default() },
        )?;
        let pulls = Arc::new_cyclic(|pulls| {
            let parts = Parts {
                transport,
                membership,
                store: store::served(store.clone()),
                host: Arc::new(AgentHost { pulls: pulls.clone(), store: store.clone() }),
                observer: Arc::new(Trouble),
            };
            let limits = cluster::Limits {
                upload: some_limit(config.cluster.max_upload_bytes),
                download: some_limit(config.cluster.max_download_bytes),
            };
            let cluster = Cluster::start(parts, ClusterConfig { limits, ..ClusterConfig::default() });
            let joining = if config.cluster.seeds.is_empty() {
                Joining::nobody()
            } else {
                Joining::begin(cluster.membership().watch())
            };
            Pulls::new(Arc::new(Engine {
                resolver: Resolver::new(origins.clone(), store.clone(), cluster.clone()),
                store,
                origins,
                cluster,
                prices: config.prices.clone(),
                joining,
                began: Instant::now(),
                cancel: CancellationToken::new(),
                drained: AtomicBool::new(false),
            }))
        });
        let engine = pulls.engine.clone();
        pulls.follow_ring();
        let namespace =
            Namespace::new(engine.origins.clone(), engine.store.clone(), &config.namespace, &config.mounts)?;
        let ttl = config.namespace.listing_ttl;
        let reader = Reader::new(pulls.clone(), namespace.clone(), config.reader.clone(), ttl);
        let admissions =
            Admissions::open(engine.origins.clone(), config.data_dir.clone(), &config.hugging_face).await?;
        let warms = Warms::new(pulls.clone());
        let upkeep = Upkeep::start(engine.clone(), identity, &config.store);
        let departure = Departure::default();
        let inner = Inner { engine, pulls, reader, namespace, admissions, warms, upkeep, departure, config };
        let inner = Arc::new(inner);
        Ok(Self { inner })
    }

    /// Every origin under a name.
    pub fn namespace(&self) -> &Namespace {
        &self.inner.namespace
    }

    /// What every door reads files through.
    pub fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    /// Starts a pull, or joins the one under way for the same artifact and files.
    ///
    /// # Errors
    /// `Invalid` for a reference or pattern that cannot be parsed; later failures are in the status.
    pub fn pull(&self, request: PullRequest) -> Result<watch::Receiver<PullStatus>> {
        self.inner.pulls.start(request, true)
    }

    /// Every pull that is running or ended lately, oldest first.
    pub fn pulls(&self) -> Vec<PullStatus> {
        self.inner.pulls.list()
    }

    /// Follows one pull.
    ///
    /// # Errors
    /// `NotFound` for an id that is unknown or long gone.
    pub fn watch_pull(&self, id: &str) -> Result<watch::Receiver<PullStatus>> {
        self.inner.pulls.watch(id)
    }

    /// Ends a pull unless somebody else asked for it too, or, with `all`, whoever else did; what is here
    /// stays for the next one.
    ///
    /// # Errors
    /// `NotFound` for an id that is unknown.
    pub fn cancel_pull(&self, id: &str, all: bool) -> Result<()> {
        if all { self.inner.pulls.cancel(id) } else { self.inner.pulls.withdraw(id) }
    }

    /// What a pull would do.
    ///
    /// # Errors
    /// As resolving: `NotFound`, `Denied`, `Unavailable`, `Invalid`; `Timeout` past its limit.
    pub async fn plan(&self, request: PlanRequest) -> Result<Plan> {
        plan::plan(&self.inner.engine, request, self.inner.pulls.totals().last_rate).await
    }

    /// Writes the manifest of what `named` means beside it at its origin; pulls it first, if need be.
    ///
    /// # Errors
    /// `Invalid` where nothing can be written; as pulling and writing.
    pub async fn publish(&self, named: &str) -> Result<PublishReport> {
        publish::publish(&self.inner.pulls, named).await
    }

    /// Has other nodes pull.
    ///
    /// # Errors
    /// `Invalid` for a selector that names nobody or more than one way.
    pub fn warm(&self, request: WarmRequest) -> Result<watch::Receiver<WarmStatus>> {
        self.inner.warms.start(request)
    }

    /// Warms for an autoscaler.
    ///
    /// # Errors
    /// As [`warm`](Self::warm).
    pub fn scale(&self, hook: ScaleHook) -> Result<watch::Receiver<WarmStatus>> {
        self.inner.warms.start(Warms::of_hook(hook)?)
    }

    /// Every warm-up that is running or ended lately, oldest first.
    pub fn warms(&self) -> Vec<WarmStatus> {
        self.inner.warms.list()
    }

    /// Follows one warm-up.
    ///
    /// # Errors
    /// `NotFound` for an id that is unknown or long gone.
    pub fn watch_warm(&self, id: &str) -> Result<watch::Receiver<WarmStatus>> {
        self.inner.warms.watch(id)
    }

    /// Ends a warm-up on every node it runs on.
    ///
    /// # Errors
    /// `NotFound` for an id that is unknown.
    pub fn cancel_warm(&self, id: &str) -> Result<()> {
        self.inner.warms.cancel(id)
    }

    /// What is on this disk. `resident` also counts pages in the page cache, which costs a walk.
    pub async fn artifacts(&self, resident: bool) -> Vec<ArtifactInfo> {
        self.inner.engine.store.artifacts(resident).await
    }

    /// One artifact by reference, swarm id or manifest hash.
    ///
    /// # Errors
    /// `NotFound` when it is not here.
    pub async fn artifact(&self, named: &str) -> Result<ArtifactInfo> {
        let swarm = self.inner.find(named)?.to_string();
        let found = self.artifacts(false).await.into_iter().find(|a| a.swarm == swarm);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{named} is not on this node")))
    }

    /// What is here of each file of an artifact, whole or not.
    ///
    /// # Errors
    /// `NotFound` when it is not here.
    pub fn held(&self, named: &str) -> Result<Vec<HeldFile>> {
        let swarm = self.inner.find(named)?;
        let gone = || Error::new(ErrorKind::NotFound, format!("{named} is not on this node"));
        let blueprint = self.inner.engine.store.blueprint(swarm).ok_or_else(gone)?;
        let held = self.inner.engine.store.inventory(swarm)?.held;
        Ok(held_files(&blueprint, &held))
    }

    /// Where a complete artifact is.
    ///
    /// # Errors
    /// `NotFound` when it is not here; `Unavailable` while it is not whole.
    pub async fn path(&self, named: &str) -> Result<PathAnswer> {
        let info = self.artifact(named).await?;
        match info.path {
            Some(path) if info.complete => {
                let blueprint = self.inner.engine.store.blueprint(self.inner.find(named)?);
                let file = blueprint.and_then(|blueprint| Some(path.join(blueprint.sole_file()?)));
                let ArtifactInfo { files, all_files, .. } = info;
                Ok(PathAnswer { reference: named.to_owned(), path, file, files, all_files })
            }
            _ => Err(self.not_whole(named, &info)),
        }
    }

    /// Says what is missing, and whether somebody brings it.
    fn not_whole(&self, named: &str, info: &ArtifactInfo) -> Error {
        let brings = |pull: &PullStatus| {
            let is_of_it = match &pull.swarm {
                Some(swarm) => *swarm == info.swarm,
                None => pull.reference == info.reference,
            };
            is_of_it && !pull.phase.is_over()
        };
        let comes = self.inner.pulls.list().iter().any(brings);
        let missing = match info.total_bytes.saturating_sub(info.done_bytes) {
            0 => "all of its bytes are here, but not every file has its path".to_owned(),
            bytes => format!("{} of {} are missing", exactly(bytes), exactly(info.total_bytes)),
        };
        let (retry_after, and) = match comes {
            true => (Some(Duration::from_secs(5)), ""),
            false => (None, ", and no pull of it is under way"),
        };
        Error::new(ErrorKind::Unavailable { retry_after }, format!("{named} is not whole: {missing}{and}"))
    }

    /// Opens one whole file of an artifact for serving. Takes a lease for as long as it lives.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` while it is not whole.
    pub async fn open_file(&self, named: &str, path: &str) -> Result<OpenedFile> {
        let swarm = self.inner.find(named)?;
        self.inner.engine.store.open_file(swarm, &path.parse()?).await
    }

    /// Re-hashes an artifact and, with `repair`, fetches again what is wrong.
    ///
    /// # Errors
    /// `NotFound` when it is not here.
    pub async fn verify(&self, named: &str, repair: bool) -> Result<VerifyReport> {
        verify::verify(&self.inner.engine, self.inner.find(named)?, repair).await
    }

    /// In which order an artifact was read: the order in which the next node fetches it.
    ///
    /// # Errors
    /// `NotFound` when it is not here, or nothing was recorded.
    pub async fn reading_order(&self, named: &str) -> Result<ReadingOrderInfo> {
        records::show(&self.inner.engine, self.inner.find(named)?, named).await
    }

    /// Records the order in which an artifact has been read through this agent, instead of the one there is.
    ///
    /// # Errors
    /// `NotFound` when it is not here, or nobody has read it.
    pub async fn record_reading_order(&self, named: &str) -> Result<ReadingOrderInfo> {
        let swarm = self.inner.find(named)?;
        self.inner.reader.record(swarm, named).await?;
        records::show(&self.inner.engine, swarm, named).await
    }

    /// Forgets in which order an artifact was read; the next reading is recorded.
    ///
    /// # Errors
    /// `NotFound` when it is not here, or nothing was recorded.
    pub async fn forget_reading_order(&self, named: &str) -> Result<()> {
        let swarm = self.inner.find(named)?;
        self.inner.reader.forget_order(swarm);
        records::forget(&self.inner.engine, swarm, named).await
    }

    /// Keeps an artifact from eviction, or lets it go.
    ///
    /// # Errors
    /// `NotFound` when it is not here.
    pub async fn pin(&self, named: &str, pinned: bool) -> Result<()> {
        self.inner.engine.store.pin(self.inner.find(named)?, pinned).await
    }

    /// Removes an artifact from this disk. Readers keep what they have mapped.
    ///
    /// # Errors
    /// `NotFound`; `Denied` while it is pinned or leased, unless `force`.
    pub async fn remove(&self, named: &str, force: bool) -> Result<()> {
        let swarm = self.inner.find(named)?;
        self.inner.engine.store.remove(swarm, force).await?;
        self.inner.engine.cluster.forget(swarm);
        Ok(())
    }

    /// The members this node sees, itself first.
    pub fn members(&self) -> Vec<Member> {
        let me = self.inner.engine.cluster.id();
        let views = self.inner.engine.cluster.membership().members();
        let mut members: Vec<Member> =
            views.iter().map(|v| member(&v.node, &v.state.to_string(), v.node.id == me)).collect();
        members.sort_by(|a, b| b.me.cmp(&a.me).then_with(|| a.name.cmp(&b.name)));
        members
    }

    /// The limits on what passes between this node and the others.
    pub fn limits(&self) -> Limits {
        let limits = self.inner.engine.cluster.limits();
        Limits {
            max_upload_bytes: limits.upload.unwrap_or(0),
            max_download_bytes: limits.download.unwrap_or(0),
        }
    }

    /// Changes the limits, for transfers under way as well. Forgotten at the next start.
    pub fn limit(&self, change: LimitChange) -> Limits {
        let now = self.limits();
        self.inner.engine.cluster.set_limits(cluster::Limits {
            upload: some_limit(change.max_upload_bytes.unwrap_or(now.max_upload_bytes)),
            download: some_limit(change.max_download_bytes.unwrap_or(now.max_download_bytes)),
        });
        tracing::info!(limits = ?self.limits(), "limits changed");
        self.limits()
    }

    /// The agent in one glance.
    pub async fn status(&self, resident: bool) -> Status {
        let inner = &self.inner;
        let space = inner.engine.store.space();
        let members = self.members();
        let me = inner.engine.cluster.id();
        let node = members.iter().find(|m| m.id == me).cloned();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leaving: inner.engine.cancel.is_cancelled(),
            members: members.iter().filter(|m| m.state == "alive").count(),
            seed_errors: inner.engine.cluster.membership().seed_errors().iter().map(Problem::from).collect(),
            node: node.unwrap_or_else(|| Member {
                id: me,
                name: inner.config.cluster.name.clone(),
                addr: inner.config.cluster.listen.to_string(),
                zone: inner.config.cluster.zone.clone(),
                weight: inner.config.cluster.weight,
                state: "alive".to_owned(),
                me: true,
            }),
            data_dir: inner.config.data_dir.clone(),
            used_bytes: space.used_bytes,
            quota_bytes: space.quota_bytes,
            free_bytes: space.free_bytes,
            artifacts: self.artifacts(resident).await,
            pulls: inner.pulls.list().into_iter().filter(|p| !p.phase.is_over()).collect(),
            totals: inner.pulls.totals().sources,
            cost: inner.engine.cost(),
            served_bytes: inner.engine.cluster.served_bytes(),
            rss_bytes: metrics::rss_bytes().unwrap_or(0),
            uptime_seconds: inner.engine.began.elapsed().as_secs_f64(),
        }
    }

    /// Room in the store.
    pub(crate) fn space(&self) -> Space {
        self.inner.engine.store.space()
    }
}

/// Neighbouring chunks become one range.
fn held_files(blueprint: &Blueprint, held: &ChunkSet) -> Vec<HeldFile> {
    let mut files: Vec<HeldFile> = blueprint
        .files
        .iter()
        .map(|file| HeldFile { path: file.path.to_string(), size: file.size, ranges: Vec::new() })
        .collect();
    for place in held.iter().filter_map(|index| blueprint.place(index)) {
        let ranges = &mut files[place.file].ranges;
        let end = place.offset + u64::from(place.bytes);
        match ranges.last_mut() {
            Some(last) if last.1 == place.offset => last.1 = end,
            _ => ranges.push((place.offset, end)),
        }
    }
    files
}

/// In settings and on the wire 0 stands for no limit.
fn some_limit(bytes: u64) -> Option<u64> {
    (bytes > 0).then_some(bytes)
}

fn member(node: &Node, state: &str, me: bool) -> Member {
    Member {
        id: node.id,
        name: node.name.clone(),
        addr: node.addr.to_string(),
        zone: node.zone.clone(),
        weight: node.weight,
        state: state.to_owned(),
        me,
    }
}

/// Who this node is: files, else the cluster's secret, else a secret that everybody on this machine
/// knows and that is therefore good on loopback only.
fn identity(config: &Config) -> Result<Identity> {
    let cluster = &config.cluster;
    if let (Some(ca), Some(certificate), Some(key)) =
        (&cluster.ca_file, &cluster.certificate_file, &cluster.key_file)
    {
        return Identity::from_files(ca, certificate, key);
    }
    let key = NodeKey::load_or_create(&config.data_dir.join("node.key"))?;
    if let Some(file) = &cluster.secret_file {
        return Identity::from_secret(&ClusterSecret::from_file(file)?, key);
    }
    if !cluster.listen.ip().is_loopback() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("cluster.listen is {}: off loopback a secret or certificates are needed", cluster.listen),
        ));
    }
    tracing::warn!("no cluster secret: this agent talks to agents on this machine only");
    Identity::from_secret(&ClusterSecret::for_loopback(), key)
}

fn describe(settings: &ClusterSettings, id: NodeId, bound: SocketAddr) -> Result<Node> {
    let name = if settings.name.is_empty() {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        settings.name.clone()
    };
    for (what, label) in [("cluster.name", &name), ("cluster.zone", &settings.zone)] {
        if label.len() > Node::MAX_LABEL_BYTES {
            let text = format!("{what} {label:?} is longer than {} bytes", Node::MAX_LABEL_BYTES);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
    }
    let addr = match settings.advertise {
        Some(addr) if addr.port() == 0 => SocketAddr::new(addr.ip(), bound.port()),
        Some(addr) => addr,
        None if bound.ip().is_unspecified() => {
            SocketAddr::new(outward_ip(bound, &settings.seeds)?, bound.port())
        }
        None => bound,
    };
    let generation =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    Ok(Node { id, name, addr, zone: settings.zone.clone(), weight: settings.weight, generation })
}

/// The address this machine is reached by: the one it would use towards a seed, else towards the
/// network at large. Connecting a UDP socket sends nothing.
fn outward_ip(bound: SocketAddr, seeds: &[String]) -> Result<IpAddr> {
    let towards = |target: &str| -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind(SocketAddr::new(bound.ip(), 0))?;
        socket.connect(target)?;
        Ok(socket.local_addr()?.ip().to_canonical())
    };
    let beyond = ["192.0.2.1:9", "[2001:db8::1]:9"];
    seeds
        .iter()
        .map(String::as_str)
        .chain(beyond)
        .filter_map(|target| towards(target).ok())
        .find(|ip| !ip.is_unspecified())
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::AddrNotAvailable))
        .at(|| format!("listening on {bound}: say by cluster.advertise how others reach this node"))
}

/// Tells the log and the metrics of trouble with peers.
struct Trouble;

impl Observer for Trouble {
    fn stalled(&self, _source: &'static str) {
        metrics::stalled(metrics::Stall::Peer);
    }

    fn corrupt(&self, peer: NodeId, index: u32) {
        metrics::corrupt_chunk(metrics::Found::Peer);
        tracing::error!(peer = %peer, chunk = index, "a peer sent bytes that do not have their hash");
    }

    fn worked(&self, work: Work, took: Duration) {
        metrics::chunk_work(work, took);
    }

    fn shunned(&self, peer: NodeId, why: &'static str) {
        tracing::error!(peer = %peer, why, "shunning a peer");
    }
}
