//! The data path: one straight line from a reference to a path.
//!
//! `bring` is that line; every word of it is a module. Nothing unverified reaches the store and
//! nothing incomplete gets a path.

mod spans;

use std::{sync::Arc, time::Duration};

use coordinatorless_p2p::{
    ChunkHash, ChunkSet, ChunkStore, SwarmId,
    cluster::Wanted,
    exchange::{Progress, SwarmHandle, SwarmState},
    swarm::SwarmSpec,
};

pub(crate) use spans::OriginSpans;

use crate::{
    api::{Phase, PullRequest},
    engine::Engine,
    error::{Error, ErrorKind, Result},
    known::Known,
    manifest::Blueprint,
    origin::Patterns,
    page_cache,
    placing::{self, HubCacheFile, Placed},
    records,
    reference::Reference,
    report::Reporter,
    resolve::{Looking, Resolved},
    store::{Lease, Published, WantedFiles},
};

/// How often a pull starts over because the origin or the disk changed under it.
const RESTARTS_MAX: usize = 3;

/// How an artifact is cut, as the swarm wants to know it.
pub fn spec_of(swarm: SwarmId, blueprint: &Blueprint) -> SwarmSpec {
    SwarmSpec {
        id: swarm,
        chunk_bytes: blueprint.chunk_lens().into(),
        spans: blueprint.spans(span_bytes(blueprint.total_bytes())).into(),
    }
}

/// Bytes of one origin request: small enough that every node of a swarm has several to read, large
/// enough that the request itself does not count.
pub fn span_bytes(total: u64) -> u64 {
    (total / 128).clamp(4 << 20, 32 << 20)
}

/// Brings what `request` names onto this disk and gives it its path; `now`: what it names at this moment.
///
/// Cancel-safe: what is stored stays and the next call resumes.
///
/// # Errors
/// As each step: resolving, room, origin and peers, digests, placing.
pub(crate) async fn bring(
    engine: &Engine,
    request: &PullRequest,
    now: bool,
    report: &Reporter,
) -> Result<Published> {
    let reference: Reference = request.reference.parse()?;
    let patterns = Patterns::new(&request.allow_patterns, &request.ignore_patterns)?;
    for to in [&request.to, &request.hf_cache].into_iter().flatten() {
        // Before all of it was brought for nothing.
        if tokio::fs::metadata(to).await.is_ok_and(|there| !there.is_dir()) {
            let text = format!("{} is not a directory to place files in", to.display());
            return Err(Error::new(ErrorKind::Invalid, text));
        }
    }
    let (mut restarts, mut outdated) = (0, None);
    engine.joining.done().await;
    loop {
        report.phase(Phase::Resolving);
        let looking = Looking { outdated, now };
        let resolved = while_waiting(report, engine.resolver.resolve(&reference, looking)).await?;
        if request.require_manifest && resolved.manifest.is_none() {
            return Err(no_manifest(&reference));
        }
        let swarm = resolved.blueprint.swarm_id();
        let done = materialise(engine, request, &reference, &patterns, resolved, report).await;
        let is_missed = done.is_err() && engine.store.misses_files(swarm).await;
        match done {
            Err(e) if origin_changed(&e) && restarts < RESTARTS_MAX => {
                tracing::warn!(reference = %reference, error = %e, "origin changed: starting over on the new version");
                outdated = Some(swarm);
                restarts += 1;
            }
            Err(e) if is_missed && restarts < RESTARTS_MAX => {
                tracing::warn!(reference = %reference, error = %e, "files were removed under the pull: fetching them anew");
                restarts += 1;
            }
            done => return done,
        }
    }
}

/// Has the status say how long nothing has been heard.
async fn while_waiting<T>(report: &Reporter, waited_for: impl Future<Output = T>) -> T {
    tokio::pin!(waited_for);
    loop {
        tokio::select! {
            done = &mut waited_for => return done,
            () = tokio::time::sleep(Duration::from_millis(500)) => report.beat(),
        }
    }
}

async fn materialise(
    engine: &Engine,
    request: &PullRequest,
    reference: &Reference,
    patterns: &Patterns,
    resolved: Resolved,
    report: &Reporter,
) -> Result<Published> {
    let wanted = wanted_files(reference, &resolved.blueprint, patterns)?;
    report.resolved(&resolved, &wanted);

    report.phase(Phase::Preparing);
    let lease = engine.store.admit(resolved.blueprint.clone(), &wanted).await?;
    if let Some(manifest) = &resolved.manifest {
        engine.store.learn_manifest(lease.swarm, manifest).await?;
    }
    let (mut known, order) =
        tokio::join!(Known::find(engine, &resolved, &wanted), records::find(engine, lease.swarm));
    let order = order.map(|order| order.chunks(resolved.blueprint.chunk_count())).unwrap_or_default();
    let on_trust = reuse(engine, &lease, &resolved, &known, &wanted, report).await?;

    report.phase(Phase::Fetching);
    let trusted = Trusted { known: &known, chunks: on_trust, order: &order };
    if let Fetched::Refuted = fetch(engine, &lease, reference, &resolved, &wanted, &trusted, report).await? {
        tracing::warn!(%reference, chunks = trusted.chunks.len(), "what a home said of the hashes is not true: those chunks are fetched");
        for index in trusted.chunks.iter() {
            engine.store.discard(lease.swarm, index)?;
        }
        known.drop_hint();
        report.resolved(&resolved, &wanted);
        let nothing = reuse(engine, &lease, &resolved, &known, &wanted, report).await?;
        let trusted = Trusted { known: &known, chunks: nothing, order: &order };
        fetch(engine, &lease, reference, &resolved, &wanted, &trusted, report).await?;
    }

    report.phase(Phase::Publishing);
    let published = engine.store.publish(lease.swarm, &wanted).await?;
    if request.pin {
        engine.store.pin(lease.swarm, true).await?;
    }
    expose(engine, request, &lease, &resolved.blueprint, &wanted).await?;
    Ok(published)
}

fn wanted_files(reference: &Reference, blueprint: &Blueprint, patterns: &Patterns) -> Result<WantedFiles> {
    let wanted: WantedFiles =
        (0..blueprint.files.len()).filter(|&f| patterns.matches(&blueprint.files[f].path)).collect();
    if wanted.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("no file of {reference} matches the patterns ({} files there)", blueprint.files.len()),
        ));
    }
    Ok(wanted)
}

fn no_manifest(reference: &Reference) -> Error {
    Error::new(ErrorKind::Denied, format!("{reference} has no manifest and --require-manifest was given"))
}

fn origin_changed(e: &Error) -> bool {
    e.kind() == ErrorKind::Corrupt && e.to_string().contains("origin changed")
}

/// The chunks of the wanted files.
pub(crate) fn wanted_chunks(blueprint: &Blueprint, wanted: &WantedFiles) -> ChunkSet {
    let mut chunks = ChunkSet::new(blueprint.chunk_count());
    for &file in wanted {
        for index in blueprint.chunks_of(file) {
            chunks.insert(index);
        }
    }
    chunks
}

/// Takes chunks that are on this disk under another name; answers with those for which only a home vouches.
async fn reuse(
    engine: &Engine,
    lease: &Lease,
    resolved: &Resolved,
    known: &Known,
    wanted: &WantedFiles,
    report: &Reporter,
) -> Result<ChunkSet> {
    let inventory = engine.store.inventory(lease.swarm)?;
    let lens = resolved.blueprint.chunk_lens();
    let chunks = wanted_chunks(&resolved.blueprint, wanted);
    let mut reused: u64 =
        chunks.iter().filter(|&c| inventory.held.contains(c)).map(|c| u64::from(lens[c as usize])).sum();
    report.held(reused);
    let mut on_trust = ChunkSet::new(resolved.blueprint.chunk_count());
    for index in chunks.iter().filter(|&c| !inventory.held.contains(c)) {
        if let Some(hash) = known.hash(index)
            && engine.store.knows(&hash)
            && engine.store.adopt(lease.swarm, index, hash).await?
        {
            reused += u64::from(lens[index as usize]);
            report.reused(reused);
            if known.certain(index).is_none() {
                on_trust.insert(index);
            }
        }
    }
    Ok(on_trust)
}

/// What others said: of the hashes, and of the order in which the artifact is read.
struct Trusted<'a> {
    known: &'a Known,
    /// Chunks that were taken from this disk because a home said so.
    chunks: ChunkSet,
    order: &'a [u32],
}

impl Trusted<'_> {
    /// Whether a chunk that came from elsewhere shows that what the home said is not true.
    fn is_refuted_by(&self, engine: &Engine, swarm: SwarmId, index: u32) -> bool {
        if self.chunks.is_empty() || self.chunks.contains(index) {
            return false;
        }
        let here = engine.store.hash_of(swarm, index);
        here.is_some() && self.known.hinted(index).is_some_and(|said| here != Some(said))
    }
}

/// How fetching ended.
enum Fetched {
    /// Every wanted file is whole and published.
    All,
    /// A chunk that came is not what a home said.
    Refuted,
}

/// Joins the swarm until every wanted file is whole and published.
async fn fetch(
    engine: &Engine,
    lease: &Lease,
    reference: &Reference,
    resolved: &Resolved,
    wanted: &WantedFiles,
    trusted: &Trusted<'_>,
    report: &Reporter,
) -> Result<Fetched> {
    let blueprint = &resolved.blueprint;
    let chunks = wanted_chunks(blueprint, wanted);
    let mut files = OpenFiles::new(blueprint, wanted, &engine.store.inventory(lease.swarm)?.held);
    for file in files.whole() {
        publish_file(engine, lease, file, report).await?;
    }
    if files.is_done() {
        return Ok(Fetched::All);
    }
    let source = match reference {
        Reference::Ember(_) => None,
        _ if resolved.stale => None,
        _ => Some(OriginSpans::of(engine, engine.origins.open(reference)?, blueprint)),
    };
    let spec = spec_of(lease.swarm, blueprint);
    let manifest = resolved.manifest.as_ref().map(|m| m.hashes.clone());
    let mut swarm = engine.cluster.want(Wanted { spec, chunks, source, manifest }).await?;
    if !trusted.order.is_empty() {
        swarm.order(trusted.order.to_vec());
    }
    let mut progress = swarm.progress();
    report.joined(&progress.borrow());
    // What was stored between the first look and the join.
    let held = engine.store.inventory(lease.swarm)?.held;
    let mut queue = files.catch_up(&held);
    if held.iter().any(|index| trusted.is_refuted_by(engine, lease.swarm, index)) {
        return Ok(Fetched::Refuted);
    }
    loop {
        for file in std::mem::take(&mut queue) {
            publish_file(engine, lease, file, report).await?;
        }
        if files.is_done() {
            report.progress(&progress.borrow_and_update());
            return Ok(Fetched::All);
        }
        let refuted = |index| trusted.is_refuted_by(engine, lease.swarm, index);
        match next_whole(&mut swarm, &mut progress, &mut files, &refuted, report).await? {
            Some(file) => queue.push(file),
            None => return Ok(Fetched::Refuted),
        }
    }
}

/// Waits until a file is whole, reporting meanwhile; `None` at a chunk that is `refuted`.
async fn next_whole(
    swarm: &mut SwarmHandle,
    progress: &mut tokio::sync::watch::Receiver<Progress>,
    files: &mut OpenFiles,
    refuted: &(dyn Fn(u32) -> bool + Send + Sync),
    report: &Reporter,
) -> Result<Option<usize>> {
    let mut matters = report.precedence();
    swarm.matters(matters);
    loop {
        tokio::select! {
            stored = swarm.next_stored() => match stored {
                Some(index) if refuted(index) => return Ok(None),
                Some(index) => {
                    if let Some(file) = files.stored(index) {
                        return Ok(Some(file));
                    }
                }
                None => {
                    if let SwarmState::Failed(e) = &progress.borrow().state {
                        return Err(Error::with_source(e.kind(), "fetching failed", e.clone()));
                    }
                    return Err(Error::new(ErrorKind::Cancelled, "the swarm ended"));
                }
            },
            changed = progress.changed() => {
                let now = progress.borrow_and_update().clone();
                report.progress(&now);
                if let SwarmState::Failed(e) = &now.state {
                    return Err(Error::with_source(e.kind(), "fetching failed", e.clone()));
                }
                if changed.is_err() {
                    return Err(Error::new(ErrorKind::Cancelled, "this node is shutting down"));
                }
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => report.beat(),
        }
        // Another who asked for the same may need it more.
        if report.precedence() != matters {
            matters = report.precedence();
            swarm.matters(matters);
        }
    }
}

async fn publish_file(engine: &Engine, lease: &Lease, file: usize, report: &Reporter) -> Result<()> {
    engine.store.publish_file(lease.swarm, file).await?;
    report.file_done();
    Ok(())
}

/// Places and prefaults as the request asks.
async fn expose(
    engine: &Engine,
    request: &PullRequest,
    lease: &Lease,
    blueprint: &Blueprint,
    wanted: &WantedFiles,
) -> Result<()> {
    if request.to.is_none() && request.hf_cache.is_none() && !request.prefault {
        return Ok(());
    }
    let mut opened = Vec::with_capacity(wanted.len());
    for &file in wanted {
        let path = &blueprint.files[file].path;
        opened.push((path.clone(), engine.store.open_file(lease.swarm, path).await?));
    }
    if let Some(to) = request.to.clone() {
        let files = opened.clone();
        placed(move || placing::place(&files, &to)).await?;
    }
    if let Some(cache) = request.hf_cache.clone()
        && let Reference::Hub(repo) = request.reference.parse()?
    {
        let files: Vec<_> = opened
            .iter()
            .zip(wanted)
            .map(|((path, opened), &file)| HubCacheFile {
                path: path.clone(),
                digest: blueprint.files[file].digest,
                opened: opened.clone(),
            })
            .collect();
        let commit = blueprint.revision.clone().unwrap_or_else(|| repo.revision.clone());
        placed(move || placing::place_in_hub_cache(&files, &repo, &commit, &cache)).await?;
    }
    if request.prefault {
        let files: Vec<_> = opened.into_iter().map(|(_, file)| file).collect();
        page_cache::prefault(&files, |_| {}).await?;
    }
    Ok(())
}

async fn placed(place: impl FnOnce() -> Result<Placed> + Send + 'static) -> Result<()> {
    let placed = tokio::task::spawn_blocking(place).await;
    let cut_short = |e| Err(Error::with_source(ErrorKind::Cancelled, "placing files was cut short", e));
    placed.unwrap_or_else(cut_short).map(drop)
}

/// Which files still lack how many chunks.
struct OpenFiles {
    blueprint: Arc<Blueprint>,
    lacking: std::collections::BTreeMap<usize, ChunkSet>,
}

impl OpenFiles {
    fn new(blueprint: &Arc<Blueprint>, wanted: &WantedFiles, held: &ChunkSet) -> Self {
        let lacking = wanted
            .iter()
            .map(|&file| {
                let chunks = blueprint.chunks_of(file);
                let mut set = ChunkSet::new(chunks.len() as u32);
                chunks.clone().filter(|c| !held.contains(*c)).for_each(|c| {
                    set.insert(c - chunks.start);
                });
                (file, set)
            })
            .collect();
        Self { blueprint: blueprint.clone(), lacking }
    }

    /// Takes out and names the files that lack nothing.
    fn whole(&mut self) -> Vec<usize> {
        let whole: Vec<usize> = self.lacking.iter().filter(|(_, l)| l.is_empty()).map(|(f, _)| *f).collect();
        whole.iter().for_each(|f| {
            self.lacking.remove(f);
        });
        whole
    }

    /// A chunk was stored; names its file if that made it whole.
    fn stored(&mut self, index: u32) -> Option<usize> {
        let file = self.blueprint.place(index)?.file;
        let lacking = self.lacking.get_mut(&file)?;
        lacking.remove(index - self.blueprint.chunks_of(file).start);
        if lacking.is_empty() {
            self.lacking.remove(&file);
            Some(file)
        } else {
            None
        }
    }

    fn catch_up(&mut self, held: &ChunkSet) -> Vec<usize> {
        for (file, lacking) in &mut self.lacking {
            let start = self.blueprint.chunks_of(*file).start;
            let here: Vec<u32> = lacking.iter().filter(|c| held.contains(start + c)).collect();
            here.into_iter().for_each(|c| {
                lacking.remove(c);
            });
        }
        self.whole()
    }

    fn is_done(&self) -> bool {
        self.lacking.is_empty()
    }
}

/// Fetches again exactly these chunks of an artifact that is here.
///
/// # Errors
/// As [`bring`].
pub(crate) async fn refetch(engine: &Engine, lease: &Lease, chunks: ChunkSet) -> Result<()> {
    let blueprint = engine.store.blueprint(lease.swarm).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("artifact {} is gone", lease.swarm.short()))
    })?;
    let hashes: Option<Vec<ChunkHash>> = engine.store.inventory(lease.swarm)?.hashes.into_iter().collect();
    let source = match blueprint.reference.parse::<Reference>() {
        Ok(reference @ Reference::Ember(_)) => {
            tracing::debug!(%reference, "chunks come from peers only");
            None
        }
        Ok(reference) => engine.origins.open(&reference).ok(),
        Err(_) => None,
    };
    let source = source.map(|origin| OriginSpans::of(engine, origin, &blueprint));
    let spec = spec_of(lease.swarm, &blueprint);
    let swarm = engine.cluster.want(Wanted { spec, chunks, source, manifest: hashes }).await?;
    let mut progress = swarm.progress();
    loop {
        match &progress.borrow_and_update().state {
            SwarmState::Complete => return Ok(()),
            SwarmState::Failed(e) => return Err(Error::with_source(e.kind(), "repair failed", e.clone())),
            SwarmState::Running => {}
        }
        if progress.changed().await.is_err() {
            return Err(Error::new(ErrorKind::Cancelled, "this node is shutting down"));
        }
    }
}
