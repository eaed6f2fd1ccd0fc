//! Plans: what a pull would do, without doing it.

use std::{collections::HashMap, time::Duration};

use coordinatorless_p2p::{ChunkHash, ChunkSet, ChunkStore, Inventory};

use crate::{
    api::{Cost, Plan, PlanRequest, PlannedFile},
    engine::Engine,
    error::{Error, ErrorKind, Result},
    fetch::wanted_chunks,
    known::Known,
    origin::Patterns,
    pulls,
    reference::Reference,
    resolve::Looking,
    services::Service,
};

/// How long a participant has to say what it holds.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// Participants asked.
const ASKED_MAX: usize = 64;

/// Plans a pull, within the time that is given; `last_rate` is what the last one brought, in bytes a second.
///
/// # Errors
/// As resolving; `NotFound` when no file matches; `Timeout`.
pub(crate) async fn plan(engine: &Engine, request: PlanRequest, last_rate: Option<f64>) -> Result<Plan> {
    let reference: Reference = request.reference.parse()?;
    let Some(limit) = pulls::time_limit(request.timeout_seconds)? else {
        return make(engine, &reference, request, last_rate).await;
    };
    let made = tokio::time::timeout(limit, make(engine, &reference, request, last_rate)).await;
    made.unwrap_or_else(|_| {
        let why = engine.origins.throttles(&reference);
        let why = why.unwrap_or_else(|| "the origin had not answered yet".to_owned());
        let text = format!("there was no plan for {reference} after {limit:?} ({why})");
        Err(Error::new(ErrorKind::Timeout, text))
    })
}

async fn make(
    engine: &Engine,
    reference: &Reference,
    request: PlanRequest,
    last_rate: Option<f64>,
) -> Result<Plan> {
    let patterns = Patterns::new(&request.allow_patterns, &request.ignore_patterns)?;
    let resolved = engine.resolver.resolve(reference, Looking { outdated: None, now: true }).await?;
    let blueprint = &resolved.blueprint;
    let wanted: Vec<usize> =
        (0..blueprint.files.len()).filter(|&f| patterns.matches(&blueprint.files[f].path)).collect();
    if wanted.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("no file of {reference} matches the patterns")));
    }
    let (swarm, count) = (blueprint.swarm_id(), blueprint.chunk_count());
    let here = engine
        .store
        .inventory(swarm)
        .unwrap_or_else(|_| Inventory { held: ChunkSet::new(count), hashes: vec![None; count as usize] });
    let participants = engine.cluster.participants(swarm).await;
    let questions = participants
        .iter()
        .take(ASKED_MAX)
        .map(|id| engine.cluster.call(*id, Service::Presence.number(), &swarm.0, ASK_DEADLINE));
    let answers = futures::future::join_all(questions).await;
    let answers: Vec<Answer> = (participants.iter().zip(answers))
        .filter_map(|(id, answer)| Some(Answer { near: engine.cluster.is_near(*id), body: answer.ok()? }))
        .collect();
    let known = Known::find(engine, &resolved, &wanted).await;
    let at_peers = at_peers(count, &answers);

    let lens = blueprint.chunk_lens();
    let mut plan = Plan {
        reference: request.reference,
        swarm: swarm.to_string(),
        revision: blueprint.revision.clone(),
        total_bytes: 0,
        local_bytes: 0,
        reusable_bytes: 0,
        peer_bytes: 0,
        origin_bytes: 0,
        cost: Cost::default(),
        chunks: 0,
        peers: answers.len(),
        estimated_seconds: None,
        manifest_known: resolved.manifest.is_some(),
        stale_reason: resolved.why_stale.clone(),
        files: Vec::with_capacity(wanted.len()),
    };
    let mut cross_zone_bytes = 0;
    for index in wanted_chunks(blueprint, &wanted).iter() {
        let bytes = u64::from(lens[index as usize]);
        let hash = known.hash(index).or_else(|| at_peers.get(&index)?.hash);
        plan.chunks += 1;
        plan.total_bytes += bytes;
        if here.held.contains(index) {
            plan.local_bytes += bytes;
        } else if hash.is_some_and(|hash| engine.store.knows(&hash)) {
            plan.reusable_bytes += bytes;
        } else if let Some(held) = at_peers.get(&index) {
            plan.peer_bytes += bytes;
            cross_zone_bytes += if held.near { 0 } else { bytes };
        } else {
            plan.origin_bytes += bytes;
        }
    }
    for &file in &wanted {
        let local = blueprint
            .chunks_of(file)
            .filter(|&c| here.held.contains(c))
            .map(|c| u64::from(lens[c as usize]))
            .sum();
        let f = &blueprint.files[file];
        plan.files.push(PlannedFile { path: f.path.to_string(), bytes: f.size, local_bytes: local });
    }
    let is_remote = !matches!(reference, Reference::File(_));
    plan.cost = engine.prices.cost(if is_remote { plan.origin_bytes } else { 0 }, cross_zone_bytes);
    let to_fetch = (plan.peer_bytes + plan.origin_bytes) as f64;
    plan.estimated_seconds = match last_rate {
        _ if to_fetch == 0.0 => Some(0.0),
        Some(rate) => Some(to_fetch / rate),
        None => None,
    };
    Ok(plan)
}

/// What one participant says it holds.
struct Answer {
    /// Whether it is in this node's zone.
    near: bool,
    body: bytes::Bytes,
}

/// A chunk that participants hold.
#[derive(Debug, Default)]
struct AtPeers {
    /// Where one of them says it.
    hash: Option<ChunkHash>,
    /// Whether one of them is in this node's zone.
    near: bool,
}

/// The chunks that participants hold.
fn at_peers(count: u32, answers: &[Answer]) -> HashMap<u32, AtPeers> {
    let mut held: HashMap<u32, AtPeers> = HashMap::new();
    for Answer { near, body } in answers {
        let (bits, hashes) = body.split_at(body.len().min((count as usize).div_ceil(8)));
        let mut hashes = hashes.chunks_exact(32);
        let is_set = |c: &u32| bits.get(*c as usize / 8).is_some_and(|b| b & (1 << (c % 8)) != 0);
        for index in (0..count).filter(is_set) {
            let hash = hashes.next().and_then(|hash| hash.try_into().ok()).map(ChunkHash);
            let known = held.entry(index).or_default();
            known.hash = known.hash.or(hash);
            known.near |= near;
        }
    }
    held
}
