//! From reference to blueprint: once for the whole cluster, alone when nobody answers.
//!
//! Owns whom to ask and how long an answer holds. The homes of a reference list its origin, one
//! flight at a time, so a herd of N nodes costs the origin one listing. Does not fetch chunks.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{
    NodeId, SwarmId,
    cluster::{Cluster, HOMES},
};
use futures::{StreamExt, TryStreamExt, stream::FuturesUnordered};
use tokio::sync::OnceCell;

use crate::{
    error::{Error, ErrorKind, Result},
    manifest::{Blueprint, Cutting, MAX_ENCODED_BYTES, Manifest},
    origin::{MANIFEST_FILE, Origin, Origins},
    reference::Reference,
    services::{self, Service},
    snapshot::{Snapshot, SnapshotFile},
    store::Store,
};

/// How long a listing answers for a reference that can move.
const FRESH: Duration = Duration::from_secs(30);
/// How long a home has to answer: it may have to list a large bucket first.
const HOME_DEADLINE: Duration = Duration::from_secs(20);
/// A node that does not even answer this is passed over.
const ASK_DEADLINE: Duration = Duration::from_secs(3);
/// How long a better home is waited for when another has answered.
const BETTER_HOME: Duration = Duration::from_millis(300);
/// Listings remembered.
const LISTINGS_MAX: usize = 4096;
/// Header reads of one snapshot at a time.
const HEADERS_AT_ONCE: usize = 8;

/// What a reference means now.
#[derive(Clone)]
pub struct Resolved {
    /// What the artifact consists of.
    pub blueprint: Arc<Blueprint>,
    /// Every hash, when the artifact was sealed somewhere.
    pub manifest: Option<Arc<Manifest>>,
    /// The origin could not be asked; this is what it said before.
    pub stale: bool,
}

/// What listing an origin led to.
#[derive(Clone)]
pub(crate) struct Listed {
    pub(crate) blueprint: Arc<Blueprint>,
    /// The manifest that stands at the origin, not read yet.
    published: Option<SnapshotFile>,
}

impl Listed {
    /// As one node tells another: the length of the published file's description, that, the blueprint.
    fn encode(&self) -> Result<Vec<u8>> {
        let published = services::to_json(&self.published)?;
        let length = (published.len() as u32).to_le_bytes();
        Ok([&length[..], &published, &self.blueprint.encode()].concat())
    }

    fn decode(answer: &[u8]) -> Result<Self> {
        let short = || Error::new(ErrorKind::Invalid, "a listing was cut short");
        let (length, rest) = answer.split_first_chunk::<4>().ok_or_else(short)?;
        let (published, blueprint) =
            rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
        let published: Option<SnapshotFile> = services::from_json(published)?;
        let is_manifest = |file: &SnapshotFile| file.path.as_str() == MANIFEST_FILE;
        if !published.as_ref().is_none_or(is_manifest) {
            return Err(Error::new(ErrorKind::Invalid, "a listing names another file as manifest"));
        }
        Ok(Self { blueprint: Arc::new(Blueprint::decode(blueprint)?), published })
    }
}

struct Listing {
    began: Instant,
    cell: Arc<OnceCell<Listed>>,
}

/// Resolves references.
pub struct Resolver {
    origins: Origins,
    store: Store,
    cluster: Cluster,
    listings: Mutex<HashMap<String, Listing>>,
}

impl Resolver {
    /// A resolver that knows nothing yet.
    pub fn new(origins: Origins, store: Store, cluster: Cluster) -> Self {
        Self { origins, store, cluster, listings: Mutex::default() }
    }

    /// What `reference` means now, asking its homes first. Cancel-safe.
    ///
    /// `outdated` is what the origin turned out to have left behind: neither this node nor a home answers
    /// with it from memory.
    ///
    /// # Errors
    /// As [`Origin::snapshot`]; `NotFound` for an `ember://` hash that no member has.
    pub async fn resolve(&self, reference: &Reference, outdated: Option<SwarmId>) -> Result<Resolved> {
        if let Reference::Ember(hash) = reference {
            return self.resolve_content(*hash).await;
        }
        let name = reference.to_string();
        if let Some(outdated) = outdated {
            self.forget_outdated(&name, outdated);
        }
        // A path of this machine means something else on another.
        let local = matches!(reference, Reference::File(_));
        let resolved =
            if local { self.list(reference).await } else { self.ask_homes(reference, &name, outdated).await };
        match resolved {
            Ok(listed) => {
                let manifest = match self.store.manifest(listed.blueprint.swarm_id()) {
                    Some(sealed) => Some(sealed),
                    None => self.published(reference, &listed).await,
                };
                Ok(Resolved { manifest, blueprint: listed.blueprint, stale: false })
            }
            Err(e) if e.kind().is_transient() => self.stale(&name).ok_or(e),
            Err(e) => Err(e),
        }
    }

    /// The manifest at the origin, if it is one of this very version. Believed as the origin's bytes are.
    async fn published(&self, reference: &Reference, listed: &Listed) -> Option<Arc<Manifest>> {
        match self.read_published(reference, listed.published.as_ref()?).await {
            Ok(manifest) if manifest.blueprint == *listed.blueprint => Some(Arc::new(manifest)),
            Ok(_) => {
                tracing::info!(%reference, "the manifest at the origin is of another version; `preload publish` renews it");
                None
            }
            Err(e) => {
                tracing::warn!(%reference, error = %e, "the manifest at the origin cannot be used");
                None
            }
        }
    }

    async fn read_published(&self, reference: &Reference, file: &SnapshotFile) -> Result<Manifest> {
        if file.size > MAX_ENCODED_BYTES as u64 {
            let text = format!("{} of {reference} has {} bytes", file.path, file.size);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Manifest::decode(&read(&*self.origins.open(reference)?, file, 0..file.size).await?)
    }

    /// What was pulled from `name` before and is whole here.
    fn stale(&self, name: &str) -> Option<Resolved> {
        let swarm = self.store.find(name)?;
        let blueprint = self.store.blueprint(swarm)?;
        tracing::warn!(reference = name, swarm = %swarm.short(), "the origin cannot be reached: using what is here");
        Some(Resolved { manifest: self.store.manifest(swarm), blueprint, stale: true })
    }

    async fn ask_homes(
        &self,
        reference: &Reference,
        name: &str,
        outdated: Option<SwarmId>,
    ) -> Result<Listed> {
        if let Some(home) = self.first_home(name).await {
            let question = match outdated {
                Some(outdated) => format!("{name}\n{outdated}"),
                None => name.to_owned(),
            };
            let body = question.as_bytes();
            match self.cluster.call(home, Service::Resolve.number(), body, HOME_DEADLINE).await {
                Ok(answer) => match Listed::decode(&answer) {
                    Ok(listed) if listed.blueprint.reference == name => return Ok(listed),
                    Ok(_) => {
                        tracing::warn!(home = %home.short(), name, "a home answered with another reference")
                    }
                    // Of another version, perhaps: we try ourselves.
                    Err(e) => {
                        tracing::warn!(home = %home.short(), error = %e, "a home's answer cannot be read")
                    }
                },
                // It may lack the credentials that this node has: we try ourselves.
                Err(e) => tracing::debug!(home = %home.short(), error = %e, "a home could not resolve"),
            }
        }
        self.list(reference).await
    }

    /// The best home of `name` that answers now; `None` when this node is the best one itself.
    ///
    /// All are asked at once whether they live, since a home that just died is still on the ring and a
    /// listing may rightly take long. A better home is waited for, but not beyond [`BETTER_HOME`] once
    /// another has answered.
    async fn first_home(&self, name: &str) -> Option<NodeId> {
        let me = self.cluster.id();
        let homes = self.cluster.homes(blake3::hash(name.as_bytes()).as_bytes());
        let homes = &homes[..homes.iter().position(|h| *h == me).unwrap_or(homes.len())];
        let mut pings: FuturesUnordered<_> = homes
            .iter()
            .enumerate()
            .map(|(rank, home)| async move {
                let answer = self.cluster.call(*home, Service::Ping.number(), &[], ASK_DEADLINE).await;
                answer.is_ok().then_some(rank)
            })
            .collect();
        let mut best: Option<usize> = None;
        let patience = tokio::time::sleep(BETTER_HOME);
        tokio::pin!(patience);
        while best != Some(0) {
            tokio::select! {
                answer = pings.next() => match answer {
                    Some(answered) => best = answered.into_iter().chain(best).min(),
                    None => break,
                },
                // This node comes after its betters on the ring; it does not wait for the dead.
                () = &mut patience, if best.is_some() || homes.len() < HOMES => break,
            }
        }
        best.map(|rank| homes[rank])
    }

    /// Lists the origin itself, one flight at a time for each reference.
    ///
    /// # Errors
    /// As [`Origin::snapshot`].
    async fn list(&self, reference: &Reference) -> Result<Listed> {
        let name = reference.to_string();
        let cell = self.listing(&name);
        let listed = cell
            .get_or_try_init(|| async {
                let origin = self.origins.open(reference)?;
                tracing::info!(reference = %name, "listing the origin");
                let snapshot = origin.snapshot().await?;
                let published = snapshot.manifest.clone();
                let blueprint = match self.known(&snapshot) {
                    Some(blueprint) => blueprint,
                    None => Arc::new(cut(&*origin, snapshot).await?),
                };
                Ok::<_, Error>(Listed { blueprint, published })
            })
            .await;
        if listed.is_err() {
            self.forget(reference);
        }
        listed.cloned()
    }

    /// The blueprint on this disk that was cut of the very same listing: no header is read again.
    fn known(&self, snapshot: &Snapshot) -> Option<Arc<Blueprint>> {
        let blueprint = self.store.blueprint(self.store.find(&snapshot.reference)?)?;
        let same = blueprint.revision == snapshot.revision
            && blueprint.files.len() == snapshot.files.len()
            && blueprint.files.iter().zip(&snapshot.files).all(|(b, s)| {
                b.path == s.path && b.size == s.size && b.version == s.version && b.digest == s.digest
            });
        same.then_some(blueprint)
    }

    fn listing(&self, name: &str) -> Arc<OnceCell<Listed>> {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        join_listing(&mut listings, name, LISTINGS_MAX)
    }

    /// Forgets whatever was listed.
    pub fn forget(&self, reference: &Reference) {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner).remove(&reference.to_string());
    }

    /// Forgets a listing that the origin has left behind. One made since stays: a herd that learns of the
    /// change costs the origin one listing, too.
    fn forget_outdated(&self, name: &str, outdated: SwarmId) {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = listings.get(name).and_then(|listing| listing.cell.get());
        if listed.is_some_and(|listed| listed.blueprint.swarm_id() == outdated) {
            listings.remove(name);
        }
    }

    /// The artifact with this manifest, from this disk or any member's.
    async fn resolve_content(&self, hash: coordinatorless_p2p::ChunkHash) -> Result<Resolved> {
        let found = |manifest: Arc<Manifest>| Resolved {
            blueprint: Arc::new(manifest.blueprint.clone()),
            manifest: Some(manifest),
            stale: false,
        };
        if let Some(manifest) = self.store.find(&hash.to_string()).and_then(|s| self.store.manifest(s)) {
            return Ok(found(manifest));
        }
        let me = self.cluster.id();
        let members: Vec<_> = self.cluster.membership().watch().borrow().iter().map(|n| n.id).collect();
        let asked = futures::stream::iter(members.into_iter().filter(|id| *id != me)).map(|id| async move {
            let answer = self.cluster.call(id, Service::Manifest.number(), &hash.0, ASK_DEADLINE).await?;
            let manifest = Manifest::decode(&answer)?;
            if manifest.id() == hash {
                Ok(manifest)
            } else {
                Err(Error::new(ErrorKind::Corrupt, format!("node {} sent another manifest", id.short())))
            }
        });
        let mut answers = asked.buffer_unordered(16);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(manifest) => return Ok(found(Arc::new(manifest))),
                Err(e) => tracing::debug!(%hash, error = %e, "a member does not have the manifest"),
            }
        }
        Err(Error::new(ErrorKind::NotFound, format!("no live member has the manifest ember://{hash}")))
    }

    /// Answers [`Service::Resolve`] for another node: a reference and, after a line feed, the swarm id of
    /// a listing that will not do.
    ///
    /// # Errors
    /// `Denied` for references that name a path of this machine; as listing the origin.
    pub async fn answer(&self, question: &str) -> Result<Vec<u8>> {
        let (name, outdated) = match question.split_once('\n') {
            Some((name, outdated)) => (name, Some(outdated.parse::<SwarmId>()?)),
            None => (question, None),
        };
        let reference: Reference = name.parse()?;
        services::refuse_local(&reference)?;
        if let Some(outdated) = outdated {
            self.forget_outdated(&reference.to_string(), outdated);
        }
        self.list(&reference).await?.encode()
    }
}

/// The flight for `name` that is under way or has landed lately, else a new one. At most `max` are
/// remembered: the oldest goes, which at worst costs its origin a listing more.
fn join_listing(listings: &mut HashMap<String, Listing>, name: &str, max: usize) -> Arc<OnceCell<Listed>> {
    // A flight still under way is joined however old it is.
    let usable = |l: &Listing| !l.cell.initialized() || l.began.elapsed() < FRESH;
    if let Some(listing) = listings.get(name).filter(|l| usable(l)) {
        return listing.cell.clone();
    }
    if listings.len() >= max {
        listings.retain(|_, l| usable(l));
    }
    while listings.len() >= max.max(1) {
        let oldest = listings.iter().min_by_key(|(_, l)| l.began).map(|(name, _)| name.clone());
        oldest.map(|name| listings.remove(&name));
    }
    let cell = Arc::new(OnceCell::new());
    listings.insert(name.to_owned(), Listing { began: Instant::now(), cell: cell.clone() });
    cell
}

/// Reads the headers that the layout needs, and cuts.
async fn cut(origin: &dyn Origin, snapshot: Snapshot) -> Result<Blueprint> {
    if snapshot.files.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("{} has no files", snapshot.reference)));
    }
    let mut cutting = Cutting::new(&snapshot)?;
    loop {
        let needs: Vec<_> = cutting.needs().collect();
        if needs.is_empty() {
            return cutting.finish();
        }
        let files = &snapshot.files;
        let reads = futures::stream::iter(needs).map(|(file, range)| async move {
            Ok::<_, Error>((file, read(origin, &files[file], range).await?))
        });
        let mut reads = reads.buffer_unordered(HEADERS_AT_ONCE);
        while let Some((file, header)) = reads.try_next().await? {
            cutting.supply(file, &header)?;
        }
    }
}

/// A range of a file in one piece. Never more than was asked for: origins are held to that.
async fn read(origin: &dyn Origin, file: &SnapshotFile, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    let mut body = origin.read(file, range).await?;
    while let Some(piece) = body.try_next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_references_is_remembered_within_bounds_and_the_newest_is_joined() {
        let mut listings = HashMap::new();
        for n in 0..100 {
            join_listing(&mut listings, &format!("https://host/{n}"), 8);
            assert!(listings.len() <= 8, "{} after {n}", listings.len());
        }
        let newest = join_listing(&mut listings, "https://host/99", 8);
        assert!(Arc::ptr_eq(&newest, &join_listing(&mut listings, "https://host/99", 8)));
    }
}
