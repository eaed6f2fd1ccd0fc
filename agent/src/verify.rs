//! Re-hashing what is here, and fetching again what is wrong.

use std::time::Instant;

use coordinatorless_p2p::{ChunkSet, ChunkStore, SwarmId};

use crate::{
    api::{CorruptChunk, VerifyReport},
    engine::Engine,
    error::{Error, ErrorKind, Result},
    fetch,
    manifest::Blueprint,
    metrics,
    store::Lease,
};

/// Re-hashes an artifact and, with `repair`, fetches again what is wrong, and what was found wrong
/// earlier.
///
/// # Errors
/// `NotFound` when it is not here; with `repair` as a pull.
pub(crate) async fn verify(engine: &Engine, swarm: SwarmId, repair: bool) -> Result<VerifyReport> {
    let began = Instant::now();
    let (lease, blueprint) = taken(engine, swarm)?;
    let held = engine.store.inventory(swarm)?.held;
    let lens = blueprint.chunk_lens();
    let bytes = held.iter().map(|c| u64::from(lens[c as usize])).sum();
    let corrupt = engine.store.verify(swarm, &|_| {}).await?;
    tell(&blueprint, &corrupt);
    let mut report = VerifyReport {
        reference: blueprint.reference.clone(),
        chunks: held.len().into(),
        bytes,
        repaired: 0,
        seconds: 0.0,
        corrupt,
    };
    if repair {
        mend(engine, &lease, &blueprint).await?;
        report.repaired = report.corrupt.len() as u64;
    }
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// Re-hashes an artifact slowly and fetches again what is wrong. How many chunks were.
///
/// # Errors
/// As [`verify`].
pub(crate) async fn scrub(engine: &Engine, swarm: SwarmId, bytes_per_second: u64) -> Result<usize> {
    let (lease, blueprint) = taken(engine, swarm)?;
    let corrupt = engine.store.scrub(swarm, bytes_per_second, &|_| {}).await?;
    tell(&blueprint, &corrupt);
    if !corrupt.is_empty() {
        mend(engine, &lease, &blueprint).await?;
    }
    Ok(corrupt.len())
}

fn taken(engine: &Engine, swarm: SwarmId) -> Result<(Lease, std::sync::Arc<Blueprint>)> {
    let lease = engine.store.lease(swarm)?;
    let blueprint = engine.store.blueprint(swarm).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("artifact {} is not on this node", swarm.short()))
    })?;
    Ok((lease, blueprint))
}

fn tell(blueprint: &Blueprint, corrupt: &[CorruptChunk]) {
    for chunk in corrupt {
        metrics::corrupt_chunk(metrics::Found::Disk);
        tracing::error!(artifact = %blueprint.reference, path = chunk.path, offset = chunk.offset, "rot on disk");
    }
}

/// Fetches whatever a wanted file lacks, found rotten now or earlier, and publishes it again.
async fn mend(engine: &Engine, lease: &Lease, blueprint: &Blueprint) -> Result<()> {
    let store = &engine.store;
    let wanted = store.wanted(lease.swarm);
    let held = store.inventory(lease.swarm)?.held;
    let mut lacking = ChunkSet::new(blueprint.chunk_count());
    fetch::wanted_chunks(blueprint, &wanted).iter().filter(|c| !held.contains(*c)).for_each(|c| {
        lacking.insert(c);
    });
    if lacking.is_empty() {
        return Ok(());
    }
    fetch::refetch(engine, lease, lacking).await?;
    for &file in &wanted {
        store.publish_file(lease.swarm, file).await?;
    }
    store.publish(lease.swarm, &wanted).await?;
    Ok(())
}
