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

/// How long a listing answers for a reference that can move, for whoever reads files.
const FRESH: Duration = Duration::from_secs(30);
/// And for whoever asks what there is now: a herd that asks at once costs its origin one listing. A node that
/// asked before is told of nothing older than the answer that it had.
const JUST_NOW: Duration = Duration::from_secs(5);
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
    /// The one before, for when the origin cannot be asked anew, and when that began.
    before: Option<(Instant, Listed)>,
}

/// Resolves references.
pub struct Resolver {
    origins: Origins,
    store: Store,
    cluster: Cluster,
    listings: Mutex<HashMap<String, Listing>>,
    /// When who asked here for what there is now was answered last.
    answered: Mutex<HashMap<String, Instant>>,
}

/// How a listing is asked for.
#[derive(Debug, Clone, Copy)]
struct Wish {
    outdated: Option<SwarmId>,
    /// One that began longer ago will not do.
    max_age: Duration,
    /// Who asks has an older one, and does not wait for an origin that is silent.
    hurries: bool,
}

impl Wish {
    /// As one node asks another: the reference, what is outdated, how old it may be in milliseconds, and
    /// whether to hurry, a line each. Whoever wants nothing special asks as every version does.
    fn question(self, name: &str) -> String {
        let outdated = self.outdated.map(|swarm| swarm.to_string()).unwrap_or_default();
        match (self.max_age < FRESH || self.hurries, self.outdated) {
            (false, None) => name.to_owned(),
            (false, Some(_)) => format!("{name}\n{outdated}"),
            (true, _) => {
                format!("{name}\n{outdated}\n{}\n{}", self.max_age.as_millis(), u8::from(self.hurries))
            }
        }
    }

    fn parse(question: &str) -> Result<(&str, Self)> {
        let mut lines = question.split('\n');
        let name = lines.next().unwrap_or_default();
        let outdated = lines.next().filter(|text| !text.is_empty()).map(str::parse).transpose()?;
        let number = |text: &str| {
            text.parse::<u64>().map_err(|e| Error::with_source(ErrorKind::Invalid, "question to a home", e))
        };
        let max_age = lines.next().map(number).transpose()?;
        let hurries = lines.next().map(number).transpose()?.is_some_and(|hurries| hurries != 0);
        let max_age = max_age.map_or(FRESH, |age| Duration::from_millis(age).min(FRESH));
        Ok((name, Self { outdated, max_age, hurries }))
    }
}

impl Resolver {
    /// A resolver that knows nothing yet.
    pub fn new(origins: Origins, store: Store, cluster: Cluster) -> Self {
        Self { origins, store, cluster, listings: Mutex::default(), answered: Mutex::default() }
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
            self.forget_outdated(&name, outdated);
        }
        let whole = self.store.find(&name).filter(|swarm| self.store.is_complete(*swarm));
        let hurries = whole.is_some_and(|swarm| Some(swarm) != outdated);
        let max_age = if now { self.age_for_asker(&name) } else { FRESH };
        let wish = Wish { outdated, max_age, hurries };
        // A path of this machine means something else on another.
        let local = matches!(reference, Reference::File(_));
        let resolved = if local {
            self.list(reference, wish).await
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
        let listed = {
            let listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
            let listing = listings.get(name).filter(|listing| listing.cell.initialized());
            listing.map(|listing| listing.began.elapsed())
        };
        let listed =
            listed.or_else(|| self.store.age(swarm)).map(|age| format!(", listed {} ago", in_words(age)));
        let why = format!("{e}; using what is here{}", listed.unwrap_or_default());
        tracing::warn!(reference = name, swarm = %swarm.short(), "{why}");
        Some(Resolved { manifest: self.store.manifest(swarm), blueprint, stale: true, why_stale: Some(why) })
    }

    /// How old a listing may be for who asks here what there is now.
    fn age_for_asker(&self, name: &str) -> Duration {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.get(name).map_or(JUST_NOW, |at| at.elapsed().min(JUST_NOW))
    }

    fn note_answer(&self, name: &str) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.len() >= LISTINGS_MAX {
            answered.retain(|_, at| at.elapsed() < JUST_NOW);
        }
        if answered.len() < LISTINGS_MAX {
            answered.insert(name.to_owned(), Instant::now());
        }
    }

    async fn ask_homes(&self, reference: &Reference, name: &str, wish: Wish) -> Result<Listed> {
        if let Some(home) = self.first_home(name).await {
            let question = wish.question(name);
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
        self.list(reference, wish).await
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
    async fn list(&self, reference: &Reference, wish: Wish) -> Result<Listed> {
        let name = reference.to_string();
        let cell = self.listing(&name, wish.max_age);
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
            self.origins.unless_silent(reference, listing).await.unwrap_or_else(|patience| {
                let text = format!("the origin of {name} did not answer in {} s", patience.as_secs());
                Err(Error::new(ErrorKind::Timeout, text))
            })
        } else {
            listing.await
        };
        let Err(e) = listed else { return listed.cloned() };
        let before = self.fall_back(&name, &cell, e.kind().is_transient());
        match before.filter(|before| Some(before.blueprint.swarm_id()) != wish.outdated) {
            // Who has it says from when that is.
            Some(before) if !wish.hurries => {
                tracing::warn!(reference = %name, error = %e, "the origin cannot be asked anew: what it said moments ago holds");
                Ok(before)
            }
            Some(_) | None => Err(e),
        }
    }

    /// Forgets a listing that failed; what was listed before holds on for its time, if that `may` be.
    fn fall_back(&self, name: &str, failed: &Arc<OnceCell<Listed>>, may: bool) -> Option<Listed> {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = listings.get(name)?;
        let before = if Arc::ptr_eq(&listing.cell, failed) {
            let before = listings.remove(name)?.before;
            before.filter(|(began, _)| may && began.elapsed() < FRESH)
        } else {
            // Somebody else who waited for it was here first.
            let listed = listing.cell.get().cloned()?;
            return Some(listed).filter(|_| may);
        };
        let (began, listed) = before?;
        let cell = Arc::new(OnceCell::new_with(Some(listed.clone())));
        listings.insert(name.to_owned(), Listing { began, cell, before: None });
        Some(listed)
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
            let listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
            let (_, listed) = listings.get(&snapshot.reference)?.before.as_ref()?;
            Some(listed.blueprint.clone()).filter(is_same)
        })
    }

    fn listing(&self, name: &str, max_age: Duration) -> Arc<OnceCell<Listed>> {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        join_listing(&mut listings, name, max_age, LISTINGS_MAX)
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
            self.forget_outdated(&reference.to_string(), outdated);
        }
        self.list(&reference, wish).await?.encode()
    }
}

/// The flight for `name` that is under way or has landed lately, else a new one. At most `max` are
/// remembered: the oldest goes, which at worst costs its origin a listing more.
fn join_listing(
    listings: &mut HashMap<String, Listing>,
    name: &str,
    max_age: Duration,
    max: usize,
) -> Arc<OnceCell<Listed>> {
    // A flight still under way is joined however old it is.
    let younger = |l: &Listing, age: Duration| !l.cell.initialized() || l.began.elapsed() < age;
    let usable = |l: &Listing| younger(l, FRESH);
    if let Some(listing) = listings.get(name).filter(|l| younger(l, max_age)) {
        return listing.cell.clone();
    }
    if listings.len() >= max {
        listings.retain(|_, l| usable(l));
    }
    let before = listings.remove(name).and_then(|listing| match listing.cell.get() {
        Some(listed) => Some((listing.began, listed.clone())),
        None => listing.before,
    });
    while listings.len() >= max.max(1) {
        let oldest = listings.iter().min_by_key(|(_, l)| l.began).map(|(name, _)| name.clone());
        oldest.map(|name| listings.remove(&name));
    }
    let cell = Arc::new(OnceCell::new());
    listings.insert(name.to_owned(), Listing { began: Instant::now(), cell: cell.clone(), before });
    cell
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_asked_as_of_old_where_nothing_special_is_wanted_and_understands_what_is() {
        let swarm = SwarmId([7; 32]);
        let plain = Wish { outdated: None, max_age: FRESH, hurries: false };
        assert_eq!(plain.question("s3://b/p"), "s3://b/p");
        let outdated = Wish { outdated: Some(swarm), ..plain };
        assert_eq!(outdated.question("s3://b/p"), format!("s3://b/p\n{swarm}"));
        let aged = Wish { max_age: Duration::from_millis(1234), ..plain };
        for wish in [plain, outdated, aged, Wish { hurries: true, ..outdated }] {
            let question = wish.question("s3://b/p");
            let (name, heard) = Wish::parse(&question).unwrap();
            assert_eq!((name, format!("{heard:?}")), ("s3://b/p", format!("{wish:?}")));
        }
        assert!(Wish::parse("s3://b/p\n\nsoon").is_err());
        assert_eq!(Wish::parse("s3://b/p\n\n99999999").unwrap().1.max_age, FRESH, "no longer than it holds");
    }

    #[test]
    fn a_listing_older_than_what_is_wanted_is_made_anew_and_one_under_way_is_joined() {
        let mut listings = HashMap::new();
        let flying = join_listing(&mut listings, "a", Duration::ZERO, 8);
        assert!(Arc::ptr_eq(&flying, &join_listing(&mut listings, "a", Duration::ZERO, 8)));
        let file = crate::manifest::BlueprintFile {
            path: "f".parse().unwrap(),
            size: 1,
            version: crate::snapshot::FileVersion::default(),
            digest: None,
            chunk_bytes: vec![1],
        };
        let blueprint = Arc::new(Blueprint::new("a".to_owned(), None, vec![file]).unwrap());
        flying.set(Listed { blueprint, published: None }).ok().unwrap();
        assert!(Arc::ptr_eq(&flying, &join_listing(&mut listings, "a", FRESH, 8)));
        assert!(!Arc::ptr_eq(&flying, &join_listing(&mut listings, "a", Duration::ZERO, 8)));
    }

    #[test]
    fn a_flood_of_references_is_remembered_within_bounds_and_the_newest_is_joined() {
        let mut listings = HashMap::new();
        for n in 0..100 {
            join_listing(&mut listings, &format!("https://host/{n}"), FRESH, 8);
            assert!(listings.len() <= 8, "{} after {n}", listings.len());
        }
        let newest = join_listing(&mut listings, "https://host/99", FRESH, 8);
        assert!(Arc::ptr_eq(&newest, &join_listing(&mut listings, "https://host/99", FRESH, 8)));
    }
}
