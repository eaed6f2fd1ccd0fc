//! The reader: every door reads through it, whether a file is here already or still on its way.
//!
//! Owns what opening a file means: which artifact it is part of, that its pull starts in the background, that a
//! read waits for its own chunks only and these go first. Keeps a lease on the artifact for as long as a file
//! of it is open. Knows no door, and how chunks travel is the swarm's.
//!
//! What a reader is promised: every byte was verified as a chunk before it is given out, against the manifest
//! where there is one, else against the hash that its fetcher computed and announced. The origin's digest of a
//! file (the Hub's SHA-256) can be checked only when the file is whole: a file that turns out not to have it is
//! never published, and who has it open gets `Corrupt` at the next read instead of another byte.
//!
//! ```text
//! open → namespace: size, version, artifact → session of the artifact (lease, wish) → LazyFile
//! read → chunks here? → bytes    else urgent in the swarm → verified, stored → bytes
//! ```

mod ahead;
mod file;
mod session;
mod touches;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use coordinatorless_p2p::SwarmId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

pub use self::file::{LazyFile, READ_MAX_BYTES, State};
use self::{
    session::{Of, Session},
    touches::Touches,
};
use crate::{
    api::PullRequest,
    error::{Error, ErrorKind, Result},
    manifest::{Blueprint, BlueprintFile},
    metrics,
    namespace::{Entry, FileEntry, Namespace, NamespacePath, Whole, etag_of},
    pulls::Pulls,
    reference::Reference,
    resolve::Looking,
    snapshot::{FileVersion, RelativePath},
    store::OpenedFile,
};

/// How files are read that are not here yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReaderConfig {
    /// An object that is no part of a model is fetched whole in the background when it is opened, up to this
    /// size; a larger one only where it is read.
    pub fill_max_bytes: u64,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self { fill_max_bytes: 1 << 30 }
    }
}

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Through which door.
    pub door: metrics::Door,
}

/// How much of a file is on this node.
#[derive(Clone)]
pub enum Whereabouts {
    /// Nothing, as far as is known here.
    Origin,
    /// What it is part of is on its way, or some of it is here.
    Coming,
    /// It is whole and published.
    Sealed(OpenedFile),
}

/// Opens files. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    inner: Arc<Inner>,
}

struct Inner {
    pulls: Arc<Pulls>,
    namespace: Namespace,
    config: ReaderConfig,
    ttl: Duration,
    sessions: Mutex<HashMap<SwarmId, Weak<Session>>>,
    resolved: Mutex<HashMap<Reference, Resolved>>,
    left_behind: LeftBehind,
    touches: Arc<Touches>,
    tasks: TaskTracker,
}

/// Versions that their origins turned out not to have any more. Whoever opens one anew looks again first.
type LeftBehind = Arc<Mutex<HashSet<SwarmId>>>;

/// What a reference was last time somebody looked.
#[derive(Clone)]
struct Resolved {
    at: Instant,
    /// What a pull of it names: for a commit the branch that stands for it, where one is known.
    reference: Reference,
    blueprint: Arc<Blueprint>,
    stale: bool,
}

/// The files of an artifact.
pub(crate) struct Contents {
    pub(crate) blueprint: Arc<Blueprint>,
    /// The origin could not be asked: this is what it said before.
    pub(crate) stale: bool,
}

/// References remembered.
const RESOLVED_MAX: usize = 4096;

impl Reader {
    pub(crate) fn new(pulls: Arc<Pulls>, namespace: Namespace, config: ReaderConfig, ttl: Duration) -> Self {
        let touches = Arc::new(Touches::new(pulls.engine.clone()));
        let inner = Inner {
            touches: touches.clone(),
            pulls,
            namespace,
            config,
            ttl,
            sessions: Mutex::default(),
            resolved: Mutex::default(),
            left_behind: LeftBehind::default(),
            tasks: TaskTracker::new(),
        };
        inner.tasks.spawn(async move { touches.run().await });
        Self { inner: Arc::new(inner) }
    }

    /// Opens the file at `path`. Nothing of it need be here; what it is part of starts to come. Cancel-safe.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a directory; `Denied`; `Full` when the file itself has no room here;
    /// `Unavailable` and `Timeout` when the origin cannot be asked and nothing is remembered.
    pub async fn open(&self, path: &NamespacePath, caller: Caller) -> Result<LazyFile> {
        let inner = &self.inner;
        let spot = inner.namespace.spot(path)?;
        let entry = inner.namespace.file(&spot).await?;
        let whole = inner.namespace.artifact(&spot).await?;
        match self.open_whole(&whole, Some(&entry), None, caller).await {
            Err(e) if is_of_yesterday(&e) => {
                // The listing and the artifact are of two versions: both are looked at anew, once.
                inner.namespace.forget(&spot);
                let known = inner.resolved.lock().remove(&whole.reference);
                let outdated = known.map(|known| known.blueprint.swarm_id());
                let entry = inner.namespace.file(&spot).await?;
                let whole = inner.namespace.artifact(&spot).await?;
                self.open_whole(&whole, Some(&entry), outdated, caller).await
            }
            opened => opened,
        }
    }

    /// Opens one file of an artifact, which starts to come. Cancel-safe.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_in(
        &self,
        reference: &Reference,
        path: &RelativePath,
        caller: Caller,
    ) -> Result<LazyFile> {
        let whole = Whole { reference: reference.clone(), path: path.clone(), is_lone: false };
        match self.open_whole(&whole, None, None, caller).await {
            Err(e) if is_of_yesterday(&e) => {
                let known = self.inner.resolved.lock().remove(&whole.reference);
                let outdated = known.map(|known| known.blueprint.swarm_id());
                self.open_whole(&whole, None, outdated, caller).await
            }
            opened => opened,
        }
    }

    /// What `reference` consists of now, as of at most a while ago. Nothing starts to come. Cancel-safe.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) async fn contents(&self, reference: &Reference) -> Result<Contents> {
        let Resolved { blueprint, stale, .. } = self.resolve(reference, None).await?;
        Ok(Contents { blueprint, stale })
    }

    /// Records the order in which what is open of an artifact has been read so far.
    pub(crate) async fn record(&self, swarm: SwarmId, named: &str) -> Result<()> {
        if self.inner.touches.record(swarm).await? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("nobody has read {named} through this agent lately")))
    }

    /// Forgets how an artifact was read: the next reading counts.
    pub(crate) fn forget_order(&self, swarm: SwarmId) {
        self.inner.touches.forget(swarm);
    }

    /// Waits until every task of a reader has ended; they end with the last file that is open.
    pub(crate) async fn drain(&self) {
        self.inner.tasks.close();
        for session in self.inner.sessions.lock().values().filter_map(Weak::upgrade) {
            session.end();
        }
        self.inner.tasks.wait().await;
    }

    async fn open_whole(
        &self,
        whole: &Whole,
        entry: Option<&FileEntry>,
        outdated: Option<SwarmId>,
        caller: Caller,
    ) -> Result<LazyFile> {
        let resolved = self.resolve(&whole.reference, outdated).await?;
        if outdated.is_none() && self.inner.left_behind.lock().contains(&resolved.blueprint.swarm_id()) {
            return Err(of_yesterday(whole));
        }
        let blueprint = &resolved.blueprint;
        let file = blueprint.find(&whole.path).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{} has no file {}", whole.reference, whole.path))
        })?;
        let listed = &blueprint.files[file];
        let entry = match entry {
            Some(entry) if !resolved.stale && !is_same_version(entry, listed) => {
                return Err(of_yesterday(whole));
            }
            Some(entry) => entry.clone(),
            None => FileEntry {
                bytes: listed.size,
                etag: etag_of(listed.path.as_str(), listed.size, &listed.version, listed.digest.as_ref()),
                modified: None::<SystemTime>,
                version: listed.version.clone(),
                digest: listed.digest,
            },
        };
        let session = self.session(whole, &resolved, file).await?;
        LazyFile::open(session, file, entry, caller).await
    }

    /// What `reference` means, as of at most a while ago.
    async fn resolve(&self, reference: &Reference, outdated: Option<SwarmId>) -> Result<Resolved> {
        let inner = &self.inner;
        let known = inner.resolved.lock().get(reference).cloned();
        if let Some(known) = &known
            && known.at.elapsed() < inner.ttl
        {
            return Ok(known.clone());
        }
        if let Some(twin) = self.same_commit(reference) {
            return Ok(self.remember(reference, twin));
        }
        let engine = &inner.pulls.engine;
        engine.joining.done().await;
        let resolved = engine.resolver.resolve(reference, Looking { outdated, now: false }).await?;
        let (blueprint, stale) = (resolved.blueprint, resolved.stale);
        let resolved = Resolved { at: Instant::now(), reference: reference.clone(), blueprint, stale };
        Ok(self.remember(reference, resolved))
    }

    /// The artifact of a branch or tag that stands for the commit which `reference` names: whoever pulled the
    /// one and reads the other has one copy, and one swarm.
    fn same_commit(&self, reference: &Reference) -> Option<Resolved> {
        let Reference::Hub(wanted) = reference else { return None };
        let is_commit = wanted.revision.len() == 40 && wanted.revision.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_commit {
            return None;
        }
        let is_same = |blueprint: &Blueprint, named: &Reference| match named {
            Reference::Hub(repo) => {
                (repo.kind, &repo.name) == (wanted.kind, &wanted.name)
                    && blueprint.revision.as_deref() == Some(wanted.revision.as_str())
            }
            _ => false,
        };
        let known = self.inner.resolved.lock();
        let known = known.values().find(|known| is_same(&known.blueprint, &known.reference)).cloned();
        known.or_else(|| {
            let store = &self.inner.pulls.engine.store;
            store.swarms().into_iter().find_map(|swarm| {
                let blueprint = store.blueprint(swarm)?;
                let named: Reference = blueprint.reference.parse().ok()?;
                let found = is_same(&blueprint, &named);
                found.then(|| Resolved { at: Instant::now(), reference: named, blueprint, stale: false })
            })
        })
    }

    fn remember(&self, reference: &Reference, resolved: Resolved) -> Resolved {
        let resolved = Resolved { at: Instant::now(), ..resolved };
        let mut all = self.inner.resolved.lock();
        if all.len() >= RESOLVED_MAX {
            all.retain(|_, known| known.at.elapsed() < self.inner.ttl);
            if all.len() >= RESOLVED_MAX {
                all.clear();
            }
        }
        all.insert(reference.clone(), resolved.clone());
        resolved
    }

    /// The session of an artifact, with `file` admitted; the rest of it starts to come.
    async fn session(&self, whole: &Whole, resolved: &Resolved, file: usize) -> Result<Arc<Session>> {
        let inner = &self.inner;
        let swarm = resolved.blueprint.swarm_id();
        let known = inner.sessions.lock().get(&swarm).and_then(Weak::upgrade).filter(|s| !s.is_over());
        let engine = &inner.pulls.engine;
        if let Some(session) = known {
            engine.store.admit(resolved.blueprint.clone(), &vec![file]).await?;
            return Ok(session);
        }
        let lease = engine.store.admit(resolved.blueprint.clone(), &vec![file]).await?;
        let of = Of {
            reference: resolved.reference.clone(),
            publishes: whole.is_lone,
            blueprint: resolved.blueprint.clone(),
            lease,
        };
        let touched = inner.touches.of(&resolved.blueprint);
        let fresh = Session::new(engine.clone(), of, inner.left_behind.clone(), touched, &inner.tasks);
        let session = {
            let mut sessions = inner.sessions.lock();
            sessions.retain(|_, session| session.strong_count() > 0);
            let known = sessions.get(&swarm).and_then(Weak::upgrade).filter(|s| !s.is_over());
            match known {
                // Somebody else was faster.
                Some(known) => return Ok(known),
                None => {
                    sessions.insert(swarm, Arc::downgrade(&fresh));
                    fresh
                }
            }
        };
        let reference = &resolved.reference;
        let fills = !whole.is_lone || resolved.blueprint.total_bytes() <= inner.config.fill_max_bytes;
        if fills && !session.is_complete() {
            let request = PullRequest { reference: reference.to_string(), ..PullRequest::default() };
            // A reader gets on without it.
            if let Err(e) = inner.pulls.start(request, false) {
                tracing::warn!(%reference, error = %e, "what is read cannot be pulled as a whole now");
            }
        }
        Ok(session)
    }

    /// Where the file at `path` is. Starts nothing to come, and asks no origin for what was pulled. Cancel-safe.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn whereabouts(&self, path: &NamespacePath) -> Result<Whereabouts> {
        let inner = &self.inner;
        let spot = inner.namespace.spot(path)?;
        let entry = inner.namespace.file(&spot).await?;
        let whole = inner.namespace.artifact(&spot).await?;
        let store = &inner.pulls.engine.store;
        let known = inner.resolved.lock().get(&whole.reference).map(|known| known.blueprint.clone());
        let here = || store.find(&whole.reference.to_string()).and_then(|swarm| store.blueprint(swarm));
        let twin = || self.same_commit(&whole.reference).map(|twin| twin.blueprint);
        let Some(blueprint) = known.or_else(here).or_else(twin) else { return Ok(Whereabouts::Origin) };
        let listed = blueprint.find(&whole.path).map(|file| &blueprint.files[file]);
        if !listed.is_some_and(|listed| is_same_version(&entry, listed)) {
            return Ok(Whereabouts::Origin);
        }
        match store.open_file(blueprint.swarm_id(), &whole.path).await {
            Ok(opened) => Ok(Whereabouts::Sealed(opened)),
            Err(e) if matches!(e.kind(), ErrorKind::Unavailable { .. }) => Ok(Whereabouts::Coming),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Whereabouts::Origin),
            Err(e) => Err(e),
        }
    }

    /// What is at `path`; see [`Namespace::stat`].
    ///
    /// # Errors
    /// As there.
    pub async fn stat(&self, path: &NamespacePath) -> Result<Entry> {
        self.inner.namespace.stat(path).await
    }
}

/// Whether a listing and an artifact mean the same version of a file. A bucket tells object versions and quotes
/// of tags in some answers and not in others.
fn is_same_version(entry: &FileEntry, listed: &BlueprintFile) -> bool {
    let (one, other) = (&entry.version, &listed.version);
    let bare = |version: &FileVersion| version.etag.as_deref().map(|etag| etag.trim_matches('"').to_owned());
    let is_same_object = match (&one.object_version, &other.object_version) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    entry.bytes == listed.size && bare(one) == bare(other) && is_same_object
}

const OF_YESTERDAY: &str = "is not what its directory lists";

fn of_yesterday(whole: &Whole) -> Error {
    let text = format!(
        "{} of {} {OF_YESTERDAY}: it was replaced just now; open it again",
        whole.path, whole.reference
    );
    Error::new(ErrorKind::UNAVAILABLE, text)
}

fn is_of_yesterday(e: &Error) -> bool {
    e.to_string().contains(OF_YESTERDAY)
}
