//! Configuration: one file, environment and flags, in rising order of precedence.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{origin::OriginsConfig, store::StoreConfig};

/// Everything an agent can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where artifacts live.
    pub data_dir: PathBuf,
    /// The HTTP door; loopback unless a token is set.
    pub http: HttpConfig,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// The store.
    pub store: StoreConfig,
    /// The origins.
    pub origins: OriginsConfig,
}

/// The HTTP door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// A file with the token that callers must bring; required off loopback.
    pub token_file: Option<PathBuf>,
}

/// The cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// What people call this node; the host name if empty.
    pub name: String,
    /// Where to listen for QUIC.
    pub listen: SocketAddr,
    /// What others should dial, if it is not `listen`.
    pub advertise: Option<SocketAddr>,
    /// Members to join by: `host:port`, DNS names re-resolved.
    pub seeds: Vec<String>,
    /// Availability zone.
    pub zone: String,
    /// Share of the ring, 100 being one.
    pub weight: u16,
    /// The 32-byte cluster secret, 64 hex digits in a file only its owner can read.
    pub secret_file: Option<PathBuf>,
    /// Instead of a secret: CA, certificate and key, PEM.
    pub ca_file: Option<PathBuf>,
    /// See `ca_file`.
    pub certificate_file: Option<PathBuf>,
    /// See `ca_file`.
    pub key_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/emberline"),
            http: HttpConfig::default(),
            cluster: ClusterSettings::default(),
            store: StoreConfig::default(),
            origins: OriginsConfig::default(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 7580)), token_file: None }
    }
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7581)),
            advertise: None,
            seeds: Vec::new(),
            zone: String::new(),
            weight: coordinatorless_p2p::Node::WEIGHT,
            secret_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
        }
    }
}
