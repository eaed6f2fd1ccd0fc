//! This node's answers to what other agents ask.
//!
//! Holds the jobs weakly, since they own the cluster that asks. A peer names references, hashes and
//! ids, never paths of this machine.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use coordinatorless_p2p::{
    ChunkHash, Inventory, NodeId, SwarmId, cluster::Host, seam::ChunkStore, swarm::SwarmSpec,
};

use crate::{
    api::PullRequest,
    error::{Error, ErrorKind, Result},
    fetch::spec_of,
    pulls::Pulls,
    records,
    services::{Service, from_json, refuse_local, to_json},
    store::Store,
    vouching,
};

/// Longer answers about presence go without hashes: a frame has its limit.
const PRESENCE_BYTES_MAX: usize = 16 << 20;

fn text(body: &[u8]) -> Result<&str> {
    std::str::from_utf8(body).map_err(|e| Error::with_source(ErrorKind::Invalid, "body is not text", e))
}

fn hash(body: &[u8]) -> Result<[u8; 32]> {
    body.try_into()
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("a hash has 32 bytes, not {}", body.len())))
}

/// The answer to [`Service::Presence`].
fn presence(inventory: &Inventory) -> Vec<u8> {
    let held = &inventory.held;
    let mut answer = vec![0u8; (held.universe() as usize).div_ceil(8)];
    held.iter().for_each(|i| answer[i as usize / 8] |= 1 << (i % 8));
    let hashes = held.iter().filter_map(|i| inventory.hashes[i as usize]);
    if answer.len() + 32 * held.len() as usize <= PRESENCE_BYTES_MAX {
        hashes.for_each(|hash| answer.extend_from_slice(&hash.0));
    }
    answer
}

/// The agent as the cluster sees it. Holds it weakly: the agent owns the cluster.
pub(crate) struct AgentHost {
    pub(crate) pulls: Weak<Pulls>,
    pub(crate) store: Store,
}

impl AgentHost {
    fn pulls(&self) -> Result<Arc<Pulls>> {
        self.pulls
            .upgrade()
            .ok_or_else(|| Error::new(ErrorKind::UNAVAILABLE, "this node is starting or stopping"))
    }
}

#[async_trait]
impl Host for AgentHost {
    fn spec(&self, swarm: SwarmId) -> Result<SwarmSpec> {
        let blueprint = self
            .store
            .blueprint(swarm)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("swarm {} is not here", swarm.short())))?;
        Ok(spec_of(swarm, &blueprint))
    }

    fn holdings(&self) -> Vec<SwarmId> {
        self.store.swarms()
    }

    async fn call(&self, from: NodeId, service: u16, body: Bytes) -> Result<Bytes> {
        let service = Service::of_number(service)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("service {service} is not known here")))?;
        match service {
            Service::Ping => Ok(Bytes::new()),
            Service::Resolve => Ok(self.pulls()?.engine.resolver.answer(text(&body)?).await?.into()),
            Service::Manifest => {
                Ok(vouching::find(&self.store, ChunkHash(hash(&body)?)).await?.encode().into())
            }
            Service::Presence => Ok(presence(&self.store.inventory(SwarmId(hash(&body)?))?).into()),
            Service::Pull => {
                let mut request: PullRequest = from_json(&body)?;
                refuse_local(&request.reference.parse()?)?;
                // A peer never says where on this machine something goes.
                request.to = None;
                request.hf_cache = None;
                tracing::info!(peer = %from.short(), reference = %request.reference, "a peer asks this node to pull");
                let status = self.pulls()?.start(request, false)?;
                let id = status.borrow().id.clone();
                Ok(id.into_bytes().into())
            }
            Service::PullStatus => {
                let status = self.pulls()?.watch(text(&body)?)?;
                let status = status.borrow().clone();
                Ok(to_json(&status)?.into())
            }
            Service::CancelPull => {
                self.pulls()?.withdraw(text(&body)?)?;
                Ok(Bytes::new())
            }
            Service::KeptManifest => {
                let swarm = SwarmId(hash(&body)?);
                let missing = || {
                    let text = format!("no manifest is kept here for swarm {}", swarm.short());
                    Error::new(ErrorKind::NotFound, text)
                };
                let known = self.store.kept_id(swarm).or_else(|| self.store.sealed_id(swarm));
                Ok(known.ok_or_else(missing)?.0.to_vec().into())
            }
            Service::KeepManifest => vouching::answer_offer(&self.store, body).await,
            Service::ReadingOrder => {
                let swarm = SwarmId(hash(&body)?);
                let missing = || {
                    let text = format!("no reading order is known here for swarm {}", swarm.short());
                    Error::new(ErrorKind::NotFound, text)
                };
                Ok(self.store.reading_order(swarm).await.ok_or_else(missing)?.encode().into())
            }
            Service::KeepReadingOrder => records::answer_offer(&self.store, body).await,
        }
    }
}
