//! From reference to blueprint: once for the whole cluster, alone when nobody answers.
//!
//! Owns whom to ask and how long an answer holds. The homes of a reference list its origin, one
//! flight at a time, so a herd of N nodes costs the origin one listing. Does not fetch chunks.

mod flights;
mod listing;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use coordinatorless_p2p::{
    NodeId, SwarmId,
    cluster::{Cluster, HOMES},
};
use flights::{Flights, LISTINGS_MAX};
use futures::{StreamExt, TryStreamExt, stream::FuturesUnordered};
use listing::{FRESH, Listed, Wish};

use crate::{
    error::{Error, ErrorKind, Result},
    manifest::{Blueprint, Cutting, MAX_ENCODED_BYTES, Manifest},
    origin::{Origin, Origins},
    reference::Reference,
    services::{self, Service},
    snapshot::{Snapshot, SnapshotFile},
    store::Store,
};

/// How long a listing answers for whoever asks what there is now: a herd that asks at once costs its origin one listing. A node that
/// asked before is told of nothing older than the answer that it had.
const JUST_NOW: Duration = Duration::from_secs(5);
/// How long a home has to answer: it may have to list a large bucket first.
const HOME_DEADLINE: Duration = Duration::from_secs(20);
/// A node that does not even answer this is passed over.
const ASK_DEADLINE: Duration = Duration::from_secs(3);
/// How long a better home is waited for when another has answered.
const BETTER_HOME: Duration = Duration::from_millis(300);
/// Of the patience with a silent origin, in quarters, what a home that is asked in a hurry spends; the rest is for who
/// asked, whom the origin may answer.
const HOME_QUARTERS: u32 = 3;
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
    /// Why, and when that was, in words.
    pub why_stale: Option<String>,
}

/// What somebody who resolves a reference knows and wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Looking {
    /// What the origin turned out to have left behind.
    pub outdated: Option<SwarmId>,
    /// What it has now is wanted, not what it had lately.
    pub now: bool,
}

/// Resolves references.
pub struct Resolver {
    origins: Origins,
    store: Store,
    cluster: Cluster,
    flights: Flights,
    /// When who asked here for what there is now was answered last.
    answered: Mutex<HashMap<String, Instant>>,
}

impl Resolver {
    /// A resolver that knows nothing yet.
    pub fn new(origins: Origins, store: Store, cluster: Cluster) -> Self {
        Self { origins, store, cluster, flights: Flights::default(), answered: Mutex::default() }
    }

    /// What `reference` means now, asking its homes first. Cancel-safe.
    ///
    /// Neither this node nor a home answers from memory with what is outdated. An origin that says nothing
    /// holds nobody up for whom a version of it is whole here.
    ///
    /// # Errors
    /// As [`Origin::snapshot`]; `NotFound` for an `ember://` hash that no member has.
    pub async fn resolve(&self, reference: &Reference, looking: Looking) -> Result<Resolved> {
        if let Reference::Ember(hash) = reference {
            return self.resolve_content(*hash).await;
        }
        let name = reference.to_string();
        let Looking { outdated, now } = looking;
        if let Some(outdated) = outdated {
            self.flights.forget_outdated(&name, outdated);
        }
        let whole = self.store.find(&name).filter(|swarm| self.store.is_complete(*swarm));
        let hurries = whole.is_some_and(|swarm| Some(swarm) != outdated);
        let max_age = if now { self.age_for_asker(&name) } else { FRESH };
        let wish = Wish { outdated, max_age, hurries };
        // A path of this machine means something else on another.
        let local = matches!(reference, Reference::File(_));
        let resolved = if local {
            self.list(reference, wish, self.origins.patience(reference)).await
        } else {
            self.ask_homes(reference, &name, wish).await
        };
        match resolved {
            Ok(listed) => {
                if now {
                    self.note_answer(&name);
                }
                let manifest = match self.store.manifest(listed.blueprint.swarm_id()) {
                    Some(sealed) => Some(sealed),
                    None => self.published(reference, &listed).await,
                };
                Ok(Resolved { manifest, blueprint: listed.blueprint, stale: false, why_stale: None })
            }
            Err(e) if e.kind().is_transient() => self.stale(&name, &e, outdated).ok_or(e),
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

    /// What was pulled from `name` before.
    fn stale(&self, name: &str, e: &Error, outdated: Option<SwarmId>) -> Option<Resolved> {
        let swarm = self.store.find(name).filter(|swarm| Some(*swarm) != outdated)?;
        let blueprint = self.store.blueprint(swarm)?;
        let asked = |at: &Instant| at.elapsed();
        let age = self.flights.age(name).or_else(|| self.answers().get(name).map(asked));
        let listed = match age {
            Some(age) => Some(format!(", listed {} ago", in_words(age))),
            // The disk tells when this version came, not when the origin last said that it is the one.
            None => self.store.age(swarm).map(|age| format!(", first listed {} ago", in_words(age))),
        };
        let why = format!("{e}; using what is here{}", listed.unwrap_or_default());
        tracing::warn!(reference = name, swarm = %swarm.short(), "{why}");
        Some(Resolved { manifest: self.store.manifest(swarm), blueprint, stale: true, why_stale: Some(why) })
    }

    /// How old a listing may be for who asks here what there is now.
    fn age_for_asker(&self, name: &str) -> Duration {
        self.answers().get(name).map_or(JUST_NOW, |at| at.elapsed().min(JUST_NOW))
    }

    fn note_answer(&self, name: &str) {
        let mut answered = self.answers();
        if answered.len() >= LISTINGS_MAX {
            answered.retain(|_, at| at.elapsed() < JUST_NOW);
        }
        if answered.len() < LISTINGS_MAX {
            answered.insert(name.to_owned(), Instant::now());
        }
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_homes(&self, reference: &Reference, name: &str, wish: Wish) -> Result<Listed> {
        let patience = self.origins.patience(reference);
        let mut left = patience;
        if let Some(home) = self.first_home(name).await {
            let question = wish.question(name);
            let body = question.as_bytes();
            let asked = Instant::now();
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
            // The home has waited for the same origin.
            left = patience.saturating_sub(asked.elapsed()).max(patience - at_home(patience));
        }
        self.list(reference, wish, left).await
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

    /// Lists the origin itself, one flight at a time for each reference. Who is in a hurry has `patience` with
    /// an origin that is silent.
    ///
    /// # Errors
    /// As [`Origin::snapshot`].
    async fn list(&self, reference: &Reference, wish: Wish, patience: Duration) -> Result<Listed> {
        let name = reference.to_string();
        let cell = self.flights.join(&name, wish.max_age);
        let listing = cell.get_or_try_init(|| async {
            let origin = self.origins.open(reference)?;
            tracing::info!(reference = %name, "listing the origin");
            let snapshot = origin.snapshot().await?;
            let published = snapshot.manifest.clone();
            let blueprint = match self.known(&snapshot) {
                Some(blueprint) => blueprint,
                None => Arc::new(cut(&*origin, snapshot).await?),
            };
            Ok::<_, Error>(Listed { blueprint, published })
        });
        let listed = if wish.hurries {
            let Some(listed) = self.origins.unless_silent(reference, patience, listing).await else {
                self.flights.leave(&name, &cell);
                return Err(self.silence(reference));
            };
            listed
        } else {
            listing.await
        };
        let Err(e) = listed else { return listed.cloned() };
        let before = self.flights.fall_back(&name, &cell, e.kind().is_transient());
        match before.filter(|before| Some(before.blueprint.swarm_id()) != wish.outdated) {
            // Who has it says from when that is.
            Some(before) if !wish.hurries => {
                tracing::warn!(reference = %name, error = %e, "the origin cannot be asked anew: what it said moments ago holds");
                Ok(before)
            }
            Some(_) | None => Err(e),
        }
    }

    /// What to say of an origin that was not heard for as long as is waited for one.
    fn silence(&self, reference: &Reference) -> Error {
        match self.origins.throttles(reference) {
            Some(throttles) => Error::new(ErrorKind::UNAVAILABLE, format!("{reference}: {throttles}")),
            None => {
                let seconds = self.origins.patience(reference).as_secs();
                let text = format!("the origin of {reference} did not answer in {seconds} s");
                Error::new(ErrorKind::Timeout, text)
            }
        }
    }

    /// The blueprint, on this disk or of the listing before, that was cut of the very same listing: no header
    /// is read again.
    fn known(&self, snapshot: &Snapshot) -> Option<Arc<Blueprint>> {
        let is_same = |blueprint: &Arc<Blueprint>| {
            blueprint.revision == snapshot.revision
                && blueprint.files.len() == snapshot.files.len()
                && blueprint.files.iter().zip(&snapshot.files).all(|(b, s)| {
                    b.path == s.path && b.size == s.size && b.version == s.version && b.digest == s.digest
                })
        };
        let stored = self.store.find(&snapshot.reference).and_then(|swarm| self.store.blueprint(swarm));
        stored.filter(is_same).or_else(|| {
            let before = self.flights.before(&snapshot.reference)?;
            Some(before.blueprint).filter(is_same)
        })
    }

    /// Forgets whatever was listed.
    pub fn forget(&self, reference: &Reference) {
        self.flights.forget(&reference.to_string());
    }

    /// The artifact with this manifest, from this disk or any member's.
    async fn resolve_content(&self, hash: coordinatorless_p2p::ChunkHash) -> Result<Resolved> {
        let found = |manifest: Arc<Manifest>| Resolved {
            blueprint: Arc::new(manifest.blueprint.clone()),
            manifest: Some(manifest),
            stale: false,
            why_stale: None,
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

    /// Answers [`Service::Resolve`] for another node.
    ///
    /// # Errors
    /// `Denied` for references that name a path of this machine; as listing the origin.
    pub async fn answer(&self, question: &str) -> Result<Vec<u8>> {
        let (name, wish) = Wish::parse(question)?;
        let reference: Reference = name.parse()?;
        services::refuse_local(&reference)?;
        if let Some(outdated) = wish.outdated {
            self.flights.forget_outdated(&reference.to_string(), outdated);
        }
        self.list(&reference, wish, at_home(self.origins.patience(&reference))).await?.encode()
    }
}

/// What a home spends of the patience with a silent origin.
fn at_home(patience: Duration) -> Duration {
    patience * HOME_QUARTERS / 4
}

/// A time that has passed, to one unit.
fn in_words(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
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
