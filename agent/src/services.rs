//! What agents ask of each other beside chunks: services by number, and who may ask what.
//!
//! A peer names references, hashes and ids, never paths of this machine.

use coordinatorless_p2p::cluster::FIRST_HOST_SERVICE;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
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
    /// Swarm id → presence: one bit a chunk, then 32 bytes of hash for each bit that is set, in order;
    /// without the hashes where they are too many for one answer.
    Presence,
    /// Pull request → pull id.
    Pull,
    /// Pull id → status.
    PullStatus,
    /// Pull id → nothing.
    CancelPull,
    /// Swarm id → hash of the manifest that is kept for it, as a hint.
    KeptManifest,
    /// Swarm id and manifest hash → one byte: whether to send it. Manifest → nothing.
    KeepManifest,
    /// Swarm id → the order in which its artifact was read, as a wish.
    ReadingOrder,
    /// Reading order → nothing.
    KeepReadingOrder,
}

impl Service {
    const ALL: [Self; 11] = [
        Self::Ping,
        Self::Resolve,
        Self::Manifest,
        Self::Presence,
        Self::Pull,
        Self::PullStatus,
        Self::CancelPull,
        Self::KeptManifest,
        Self::KeepManifest,
        Self::ReadingOrder,
        Self::KeepReadingOrder,
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
                Self::KeptManifest => 7,
                Self::KeepManifest => 8,
                Self::ReadingOrder => 9,
                Self::KeepReadingOrder => 10,
            }
    }

    pub(crate) fn of_number(number: u16) -> Option<Self> {
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
