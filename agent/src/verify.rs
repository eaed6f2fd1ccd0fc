//! Re-hashing what is here, and fetching again what is wrong. What never came is a pull's to fetch.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use coordinatorless_p2p::{ChunkSet, ChunkStore, SwarmId};

use crate::{
    api::{CorruptChunk, VerifyReport},
    engine::Engine,
    error::{Error, ErrorKind, Result},
    fetch,
    manifest::Blueprint,
    metrics,
    store::{Lease, WantedFiles},
};

/// Re-hashes an artifact and, with `repair`, fetches again what is wrong, and what was found wrong
/// earlier.
///
/// # Errors
/// `NotFound` when it is not here; with `repair` as a pull.
pub(crate) async fn verify(engine: &Engine, swarm: SwarmId, repair: bool) -> Result<VerifyReport> {
    let began = Instant::now();
    let (lease, blueprint) = taken(engine, swarm)?;
    let store = &engine.store;
    let hashed_bytes = AtomicU64::new(0);
    let found = store.verify(swarm, &|bytes| hashed_bytes.store(bytes, Ordering::Relaxed)).await?;
    let (broken, lost) = (store.broken(swarm), store.lost(swarm));
    let is_broken: HashSet<u32> = broken.iter().map(|(index, _)| *index).collect();
    // Chunks that are gone with their file were not hashed, and are told of by its name.
    let gone = chunks_of(&blueprint, &lost);
    let hashed_in_vain = tell(&blueprint, &lost, &found);
    let held = store.inventory(swarm)?.held;
    let wanted = fetch::wanted_chunks(&blueprint, &store.wanted(swarm));
    let not_here: Vec<u32> =
        wanted.iter().filter(|index| !held.contains(*index) && !is_broken.contains(index)).collect();
    let lens = blueprint.chunk_lens();
    let mut report = VerifyReport {
        reference: blueprint.reference.clone(),
        chunks: u64::from(held.len()) + hashed_in_vain,
        bytes: hashed_bytes.into_inner(),
        corrupt: wrong(broken, &gone),
        repaired: 0,
        lost: lost.iter().map(|&file| blueprint.files[file].path.to_string()).collect(),
        restored: 0,
        not_here_chunks: not_here.len() as u64,
        not_here_bytes: not_here.iter().map(|&index| u64::from(lens[index as usize])).sum(),
        seconds: 0.0,
    };
    if repair {
        mend(engine, &lease, &blueprint).await?;
        let left = wrong(store.broken(swarm), &gone).len() as u64;
        report.repaired = (report.corrupt.len() as u64).saturating_sub(left);
        report.restored = (report.lost.len() as u64).saturating_sub(store.lost(swarm).len() as u64);
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
    let found = engine.store.scrub(swarm, bytes_per_second, &|_| {}).await?;
    let corrupt = tell(&blueprint, &engine.store.lost(swarm), &found);
    mend(engine, &lease, &blueprint).await?;
    Ok(corrupt as usize)
}

/// The chunks of these files.
fn chunks_of(blueprint: &Blueprint, files: &WantedFiles) -> HashSet<u32> {
    files.iter().flat_map(|&file| blueprint.chunks_of(file)).collect()
}

/// Of chunks that are wrong or gone, those that are not gone with their file.
fn wrong(broken: Vec<(u32, CorruptChunk)>, gone: &HashSet<u32>) -> Vec<CorruptChunk> {
    broken.into_iter().filter(|(index, _)| !gone.contains(index)).map(|(_, chunk)| chunk).collect()
}

fn taken(engine: &Engine, swarm: SwarmId) -> Result<(Lease, Arc<Blueprint>)> {
    let lease = engine.store.lease(swarm)?;
    let blueprint = engine.store.blueprint(swarm).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("artifact {} is not on this node", swarm.short()))
    })?;
    Ok((lease, blueprint))
}

/// Tells of chunks that were hashed and are wrong; those of a lost file were not. How many they are.
fn tell(blueprint: &Blueprint, lost: &WantedFiles, found: &[CorruptChunk]) -> u64 {
    let is_lost =
        |chunk: &&CorruptChunk| lost.iter().any(|&file| blueprint.files[file].path.as_str() == chunk.path);
    let mut corrupt = 0;
    for chunk in found.iter().filter(|chunk| !is_lost(chunk)) {
        corrupt += 1;
        metrics::corrupt_chunk(metrics::Found::Disk);
        tracing::error!(artifact = %blueprint.reference, path = chunk.path, offset = chunk.offset, "rot on disk");
    }
    corrupt
}

/// Fetches what was here and is wrong or gone, found now or earlier, and publishes its files again.
async fn mend(engine: &Engine, lease: &Lease, blueprint: &Arc<Blueprint>) -> Result<()> {
    let (store, swarm) = (&engine.store, lease.swarm);
    let ailing = store.ailing(swarm);
    if ailing.is_empty() {
        return Ok(());
    }
    // A file that is gone needs a place again.
    let _room = store.admit(blueprint.clone(), &ailing).await?;
    let mut lacking = ChunkSet::new(blueprint.chunk_count());
    for (index, _) in store.broken(swarm) {
        lacking.insert(index);
    }
    if !lacking.is_empty() {
        fetch::refetch(engine, lease, lacking).await?;
    }
    for file in ailing {
        if store.is_whole(lease, file) {
            store.publish_file(swarm, file).await?;
        }
    }
    // A pull that has not come to its end publishes the rest.
    if store.is_complete(swarm) {
        store.publish(swarm, &store.wanted(swarm)).await?;
    }
    Ok(())
}
