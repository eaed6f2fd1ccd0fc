//! Who a node is: its id, which is its key; its addresses, zone and weight.
//!
//! Knows nothing of whether the node is alive: that is `membership`.

use std::{fmt, net::SocketAddr, str::FromStr};

use crate::error::{Error, ErrorKind, Result};

/// A node's name for the network: the first 16 bytes of the BLAKE3 hash of its public key, so it
/// cannot be claimed without the key.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
#[rkyv(derive(Clone, Copy, PartialEq, Eq, Hash))]
pub struct NodeId(pub [u8; 16]);

impl NodeId {
    /// The id that belongs to a public key (the DER-encoded SubjectPublicKeyInfo).
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(spki_der).as_bytes()[..16]);
        Self(id)
    }

    /// The first eight hex digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for NodeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::new(ErrorKind::Invalid, format!("node id {text:?} is not 32 hex digits"));
        if text.len() != 32 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(id))
    }
}

impl serde::Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A node as the others know it. Gossiped; small on purpose.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Node {
    /// The key's name.
    pub id: NodeId,
    /// What people call it (host or pod name); at most [`Node::MAX_LABEL_BYTES`] bytes.
    pub name: String,
    /// Where it listens for QUIC.
    pub addr: SocketAddr,
    /// The availability zone or rack; empty when there are none.
    pub zone: String,
    /// Its share of the ring relative to the others, 100 being one share.
    pub weight: u16,
    /// Grows with every start of the process and every change of the fields above, so that the
    /// newest description wins (milliseconds since the epoch at the time of change).
    pub generation: u64,
}

impl Node {
    /// The longest name or zone, in bytes.
    pub const MAX_LABEL_BYTES: usize = 64;
    /// The weight of an ordinary node.
    pub const WEIGHT: u16 = 100;

    /// A number for the zone: equal for nodes of one zone.
    pub fn zone_key(&self) -> u64 {
        let hash = blake3::hash(self.zone.as_bytes());
        u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
    }
}
