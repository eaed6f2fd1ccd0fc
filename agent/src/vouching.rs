//! Manifests at the homes of a swarm: offered by whoever completed it, asked for by whoever begins.
//!
//! A home believes nothing of it and neither does who asks: a manifest from a home is a hint of hashes, one
//! member's word, dropped at the first chunk that contradicts it. Homes that disagree are none.
//! When the ring changes, who has a manifest offers it to the new homes, so that it outlives both its data
//! and its keepers. Offers are hashes first: the manifest follows only where it is lacking.

use std::{collections::HashMap, sync::Arc, time::Duration};

use coordinatorless_p2p::{ChunkHash, NodeId, SwarmId};
use futures::{StreamExt, stream::FuturesUnordered};

use crate::{
    engine::Engine,
    error::{Error, ErrorKind, Result},
    manifest::Manifest,
    services::Service,
    store::{Keeping, Store},
};

/// How long a home has to say which manifest it keeps: a pull waits for it.
const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// How long the others are waited for once one has answered.
const SECOND_WORD: Duration = Duration::from_millis(300);
/// How long a manifest may take from node to node.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// A ring that changed is looked at when it has been still for this long.
const RING_QUIET: Duration = Duration::from_secs(1);
/// Offers under way at a time.
const OFFERS_AT_ONCE: usize = 8;

/// An offer before the manifest itself: swarm and manifest hash.
const OFFER_BYTES: usize = 64;
const SEND_IT: &[u8] = &[1];
const NOT_NEEDED: &[u8] = &[0];

/// What the homes of a swarm keep for it: a hint, see above. `None` when none does, they disagree, or the
/// manifest is not one of that swarm. Cancel-safe.
pub(crate) async fn hint(engine: &Engine, swarm: SwarmId) -> Option<Arc<Manifest>> {
    let me = engine.cluster.id();
    let mut named: HashMap<ChunkHash, Vec<NodeId>> = HashMap::new();
    if let Some(id) = engine.store.kept_id(swarm) {
        named.entry(id).or_default().push(me);
    }
    let mut asked: FuturesUnordered<_> = engine
        .cluster
        .homes(&swarm.0)
        .into_iter()
        .filter(|home| *home != me)
        .map(|home| async move {
            let answer = engine.cluster.call(home, Service::KeptManifest.number(), &swarm.0, ASK_DEADLINE);
            (home, answer.await.ok().and_then(|id| <[u8; 32]>::try_from(&id[..]).ok()))
        })
        .collect();
    let mut patience = Box::pin(tokio::time::sleep(ASK_DEADLINE));
    loop {
        tokio::select! {
            answer = asked.next() => match answer {
                Some((home, id)) => {
                    if let Some(id) = id {
                        named.entry(ChunkHash(id)).or_default().push(home);
                    }
                    patience = Box::pin(tokio::time::sleep(SECOND_WORD));
                }
                None => break,
            },
            () = &mut patience => break,
        }
    }
    if named.len() > 1 {
        tracing::warn!(swarm = %swarm.short(), "homes keep different manifests: none is used");
        return None;
    }
    let (id, homes) = named.into_iter().next()?;
    for home in homes {
        let got = if home == me {
            engine.store.kept_manifest(id).await
        } else {
            fetch(engine, home, id).await.map(Arc::new)
        };
        match got {
            Ok(manifest) if manifest.blueprint.swarm_id() == swarm => return Some(manifest),
            Ok(_) => tracing::warn!(home = %home.short(), "a home keeps a manifest under the wrong swarm"),
            Err(e) => tracing::debug!(home = %home.short(), error = %e, "a home's manifest did not come"),
        }
    }
    None
}

async fn fetch(engine: &Engine, home: NodeId, id: ChunkHash) -> Result<Manifest> {
    let encoded = engine.cluster.call(home, Service::Manifest.number(), &id.0, SEND_DEADLINE).await?;
    if ChunkHash::of(&encoded) != id {
        return Err(Error::new(ErrorKind::Corrupt, format!("node {} sent another manifest", home.short())));
    }
    Manifest::decode(&encoded)
}

/// Offers the manifest of a swarm to the homes of the swarm. What does not arrive is offered again when the
/// ring changes or the artifact is pulled again.
pub(crate) async fn offer(engine: &Engine, swarm: SwarmId, id: ChunkHash) {
    offer_to(engine, swarm, id, engine.cluster.homes(&swarm.0)).await;
}

async fn offer_to(engine: &Engine, swarm: SwarmId, id: ChunkHash, homes: Vec<NodeId>) {
    for home in homes {
        let offered = if home == engine.cluster.id() {
            keep_here(engine, swarm, id).await
        } else {
            offer_one(engine, swarm, id, home).await
        };
        if let Err(e) = offered {
            tracing::debug!(home = %home.short(), swarm = %swarm.short(), error = %e, "a manifest could not be offered");
        }
    }
}

async fn keep_here(engine: &Engine, swarm: SwarmId, id: ChunkHash) -> Result<()> {
    if engine.store.kept_id(swarm) != Some(id) {
        engine.store.keep_manifest(encoded(engine, swarm, id).await?.into()).await?;
    }
    Ok(())
}

async fn offer_one(engine: &Engine, swarm: SwarmId, id: ChunkHash, home: NodeId) -> Result<()> {
    let service = Service::KeepManifest.number();
    let offer = [swarm.0, id.0].concat();
    let answer = engine.cluster.call(home, service, &offer, ASK_DEADLINE).await?;
    if answer == SEND_IT {
        let manifest = encoded(engine, swarm, id).await?;
        engine.cluster.call(home, service, &manifest, SEND_DEADLINE).await?;
    }
    Ok(())
}

/// The manifest as it is written, sealed here or kept.
async fn encoded(engine: &Engine, swarm: SwarmId, id: ChunkHash) -> Result<Vec<u8>> {
    find(&engine.store, id)
        .await
        .map(|manifest| manifest.encode())
        .map_err(|e| e.context(format!("manifest of swarm {}", swarm.short())))
}

/// The manifest with this hash, sealed here or kept for others.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn find(store: &Store, id: ChunkHash) -> Result<Arc<Manifest>> {
    match store.find(&id.to_string()).and_then(|swarm| store.manifest(swarm)) {
        Some(manifest) => Ok(manifest),
        None => store.kept_manifest(id).await,
    }
}

/// Answers [`Service::KeepManifest`].
///
/// # Errors
/// `Invalid` for what is neither an offer nor a manifest; as keeping.
pub(crate) async fn answer_offer(store: &Store, body: bytes::Bytes) -> Result<bytes::Bytes> {
    if body.len() == OFFER_BYTES {
        let (Ok(swarm), Ok(id)) = (body[..32].try_into(), body[32..].try_into()) else {
            return Err(Error::new(ErrorKind::Invalid, "an offer is a swarm id and a manifest hash"));
        };
        let is_here = store.kept_id(SwarmId(swarm)) == Some(ChunkHash(id));
        return Ok(bytes::Bytes::from_static(if is_here { NOT_NEEDED } else { SEND_IT }));
    }
    match store.keep_manifest(body).await? {
        Keeping::Kept | Keeping::Disputed => {}
        Keeping::NoRoom => tracing::debug!("no room for a manifest that was offered"),
    }
    Ok(bytes::Bytes::new())
}

/// Follows the ring until the node stops, and offers every manifest here to homes that are new to it.
pub(crate) async fn follow_ring(engine: &Engine) {
    let mut members = engine.cluster.membership().watch();
    let mut offered: HashMap<SwarmId, Vec<NodeId>> = HashMap::new();
    loop {
        tokio::select! {
            () = engine.cancel.cancelled() => return,
            changed = members.changed() => if changed.is_err() { return },
        }
        while let Ok(Ok(())) = tokio::time::timeout(RING_QUIET, members.changed()).await {}
        let known = engine.store.known_manifests();
        offered.retain(|swarm, _| known.iter().any(|(known, _)| known == swarm));
        let mut offers = Vec::new();
        for (swarm, id) in known {
            let homes = engine.cluster.homes(&swarm.0);
            let before = offered.insert(swarm, homes.clone()).unwrap_or_default();
            let fresh: Vec<NodeId> = homes.into_iter().filter(|home| !before.contains(home)).collect();
            if !fresh.is_empty() {
                offers.push(offer_to(engine, swarm, id, fresh));
            }
        }
        let all = futures::stream::iter(offers).for_each_concurrent(OFFERS_AT_ONCE, |offer| offer);
        tokio::select! {
            () = engine.cancel.cancelled() => return,
            () = all => {}
        }
    }
}
