//! What agents ask of each other beside chunks: services by number, and who may ask what.
//!
//! A peer names references, hashes and ids, never paths of this machine.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coordinatorless_p2p::{
    ChunkHash, NodeId, SwarmId,
    cluster::{FIRST_HOST_SERVICE, Host},
    seam::ChunkStore,
    swarm::SwarmSpec,
};
use serde::{Deserialize, Serialize};

use crate::{
    agent::Inner,
    api::PullRequest,
    error::{Error, ErrorKind, Result},
    fetch::spec_of,
    reference::Reference,
};

/// The services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Nothing; says that one is alive.
    Ping,
    /// Reference → blueprint.
    Resolve,
    /// Manifest hash → manifest.
    Manifest,
    /// Swarm id → presence bitmap, as bytes of one bit a chunk.
    Presence,
    /// Pull request → pull id.
    Pull,
    /// Pull id → status.
    PullStatus,
    /// Pull id → nothing.
    CancelPull,
}

impl Service {
    const ALL: [Self; 7] = [
        Self::Ping,
        Self::Resolve,
        Self::Manifest,
        Self::Presence,
        Self::Pull,
        Self::PullStatus,
        Self::CancelPull,
    ];

    /// Its number on the wire; never reused for another meaning.
    pub fn number(self) -> u16 {
        FIRST_HOST_SERVICE
            + match self {
                Self::Ping => 0,
                Self::Resolve => 1,
                Self::Manifest => 2,
                Self::Presence => 3,
                Self::Pull => 4,
                Self::PullStatus => 5,
                Self::CancelPull => 6,
            }
    }

    fn of_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.number() == number)
    }
}

/// Refuses what a peer may not name.
///
/// # Errors
/// `Denied` for `file://`.
pub fn refuse_local(reference: &Reference) -> Result<()> {
    match reference {
        Reference::File(_) => Err(Error::new(
            ErrorKind::Denied,
            format!("{reference} is a path of one machine: run `preload pull` there instead"),
        )),
        _ => Ok(()),
    }
}

/// JSON for bodies that are read once a job, not once a chunk.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::with_source(ErrorKind::Invalid, "body cannot be written", e))
}

pub(crate) fn from_json<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| Error::with_source(ErrorKind::Invalid, "body cannot be read", e))
}

fn text(body: &[u8]) -> Result<&str> {
    std::str::from_utf8(body).map_err(|e| Error::with_source(ErrorKind::Invalid, "body is not text", e))
}

fn hash(body: &[u8]) -> Result<[u8; 32]> {
    body.try_into()
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("a hash has 32 bytes, not {}", body.len())))
}

/// The agent as the cluster sees it. Holds it weakly: the agent owns the cluster.
pub(crate) struct AgentHost(pub(crate) std::sync::Weak<Inner>, pub(crate) crate::store::Store);

impl AgentHost {
    fn agent(&self) -> Result<Arc<Inner>> {
        self.0
            .upgrade()
            .ok_or_else(|| Error::new(ErrorKind::UNAVAILABLE, "this node is starting or stopping"))
    }
}

#[async_trait]
impl Host for AgentHost {
    fn spec(&self, swarm: SwarmId) -> Result<SwarmSpec> {
        let blueprint = self
            .1
            .blueprint(swarm)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("swarm {} is not here", swarm.short())))?;
        Ok(spec_of(swarm, &blueprint))
    }

    fn holdings(&self) -> Vec<SwarmId> {
        self.1.swarms()
    }

    async fn call(&self, from: NodeId, service: u16, body: Bytes) -> Result<Bytes> {
        let service = Service::of_number(service)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("service {service} is not known here")))?;
        match service {
            Service::Ping => Ok(Bytes::new()),
            Service::Resolve => Ok(self.agent()?.resolver.answer(text(&body)?).await?.into()),
            Service::Manifest => {
                let wanted = ChunkHash(hash(&body)?);
                let manifest = self.1.find(&wanted.to_string()).and_then(|s| self.1.manifest(s));
                let missing =
                    || Error::new(ErrorKind::NotFound, format!("manifest {} is not here", wanted.short()));
                Ok(manifest.ok_or_else(missing)?.encode().into())
            }
            Service::Presence => {
                let held = self.1.inventory(SwarmId(hash(&body)?))?.held;
                let mut bits = vec![0u8; (held.universe() as usize).div_ceil(8)];
                held.iter().for_each(|i| bits[i as usize / 8] |= 1 << (i % 8));
                Ok(bits.into())
            }
            Service::Pull => {
                let mut request: PullRequest = from_json(&body)?;
                refuse_local(&request.reference.parse()?)?;
                // A peer never says where on this machine something goes.
                request.to = None;
                tracing::info!(peer = %from.short(), reference = %request.reference, "a peer asks this node to pull");
                let status = self.agent()?.pull(request)?;
                let id = status.borrow().id.clone();
                Ok(id.into_bytes().into())
            }
            Service::PullStatus => {
                let status = self.agent()?.pulls.watch(text(&body)?)?;
                let status = status.borrow().clone();
                Ok(to_json(&status)?.into())
            }
            Service::CancelPull => {
                self.agent()?.pulls.cancel(text(&body)?)?;
                Ok(Bytes::new())
            }
        }
    }
}
