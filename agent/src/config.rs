//! Configuration: one file, environment and flags, in rising order of precedence.
//!
//! Owns the settings, their defaults, and the rules that span several of them. Where a value came
//! from and how it is spelt there is `sources`; the commented example is `example`. The
//! store and the origins own their sections. Nothing here opens a socket or the store.
//!
//! Keys that end in `_bytes` take an integer or a size such as `"200GiB"`; durations are
//! written `"30s"`, `"2h 5min"`.

mod example;
mod fuse;
mod s3;
mod size;
mod sources;

use std::{
    fs::File,
    io::Read,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use coordinatorless_p2p::ClusterSecret;
use serde::{Deserialize, Serialize};

pub(crate) use self::s3::credentials_are_missing;
pub use self::{
    fuse::FuseConfig,
    s3::S3DoorConfig,
    size::parse_size,
    sources::{ConfigSources, Flag},
};
pub use crate::{admission::HuggingFaceConfig, prices::Prices};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    namespace::{self, MountTable, NamespaceConfig},
    origin::{self, OriginsConfig},
    reader::ReaderConfig,
    store::StoreConfig,
};

/// Where the agent looks for its configuration when no file is named.
pub const DEFAULT_FILE: &str = "/etc/emberline/agent.toml";
/// A secret or token is at most this long; a file that is longer is something else.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Everything an agent can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where artifacts live.
    pub data_dir: PathBuf,
    /// How long a stop may take: answers under way, goodbyes, the last sync.
    #[serde(with = "humantime_serde")]
    pub shutdown_deadline: Duration,
    /// The HTTP door; loopback unless a token is set.
    pub http: HttpConfig,
    /// The S3 door.
    pub s3: S3DoorConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// The cluster.
    pub cluster: ClusterSettings,
    /// The store.
    pub store: StoreConfig,
    /// The origins.
    pub origins: OriginsConfig,
    /// Origins by name, as every door shows them.
    pub mounts: MountTable,
    /// How listings are remembered.
    pub namespace: NamespaceConfig,
    /// How files are read that are not here yet.
    pub reader: ReaderConfig,
    /// The Hugging Face door.
    pub hugging_face: HuggingFaceConfig,
    /// What bytes cost.
    pub prices: Prices,
    /// The namespace as a file system.
    pub fuse: FuseConfig,
}

/// The HTTP door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// A file with the token that callers must bring; required off loopback.
    pub token_file: Option<PathBuf>,
    /// Names, besides `localhost` and addresses, that callers without a token may use for this machine.
    pub allowed_hosts: Vec<String>,
    /// Connections served at a time; more are told to come back later. 1 to 100,000. Of HTTP/2 each answer under
    /// way beyond the first of its connection counts, too.
    pub max_connections: usize,
    /// A connection that sends no whole request for this long is closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long answers under way may go on at a stop; less than `shutdown_deadline`.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Lines for people or for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,emberline_agent=debug`.
    pub level: String,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
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
    /// Payload bytes a second served to other nodes, all together; 0: no limit.
    pub max_upload_bytes: u64,
    /// Payload bytes a second asked of other nodes and read from origins, all together; 0: no limit.
    pub max_download_bytes: u64,
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
            shutdown_deadline: Duration::from_secs(20),
            http: HttpConfig::default(),
            s3: S3DoorConfig::default(),
            log: LogConfig::default(),
            cluster: ClusterSettings::default(),
            store: StoreConfig::default(),
            origins: OriginsConfig::default(),
            mounts: MountTable::new(),
            namespace: NamespaceConfig::default(),
            reader: ReaderConfig::default(),
            hugging_face: HuggingFaceConfig::default(),
            prices: Prices::default(),
            fuse: FuseConfig::default(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7580)),
            token_file: None,
            allowed_hosts: Vec::new(),
            max_connections: 1024,
            idle_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
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
            max_upload_bytes: 0,
            max_download_bytes: 0,
            secret_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
        }
    }
}

impl Config {
    /// Reads and merges the sources, and checks the result as [`validate`](Self::validate) does.
    ///
    /// # Errors
    /// `Invalid` for an unknown key (with the nearest one), a value of a wrong type, or settings
    /// that cannot work together, each with the key and where it was written; `NotFound` and
    /// `Denied` from the files named.
    pub fn load(sources: &ConfigSources) -> Result<Self> {
        let config = sources::merge(sources)?;
        config.validate()?;
        Ok(config)
    }

    /// A complete, commented file; every key with its default.
    pub fn example() -> String {
        example::TEXT.to_owned()
    }

    /// Checks the rules that span several settings, and that secrets are readable by their owner alone.
    ///
    /// # Errors
    /// `Invalid` with what to do; `NotFound` and `Denied` from the files named.
    pub fn validate(&self) -> Result<()> {
        if self.data_dir.as_os_str().is_empty() {
            return invalid("data_dir is empty: name the directory that artifacts live in");
        }
        self.http.validate(self.shutdown_deadline)?;
        self.s3.validate(&self.mounts)?;
        self.cluster.validate()?;
        self.origins.validate()?;
        self.refuse_ourselves()?;
        namespace::check_mounts(&self.mounts)?;
        self.prices.validate()?;
        self.fuse.validate(&self.data_dir)?;
        self.log.directives().map(drop)
    }
}

impl Config {
    /// A Hub that is this agent's own door would ask itself for ever: the variable that clients are given is easily
    /// given to the agent, too.
    fn refuse_ourselves(&self) -> Result<()> {
        let endpoint = origin::hub_endpoint(&self.origins.hf)?;
        let listen = self.http.listen;
        let is_us = match endpoint.host() {
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(url::Host::Ipv4(ip)) => ip.is_loopback() || listen.ip() == ip,
            Some(url::Host::Ipv6(ip)) => ip.is_loopback() || listen.ip() == ip,
            None => false,
        };
        if is_us && listen.port() != 0 && endpoint.port_or_known_default() == Some(listen.port()) {
            return invalid(format!(
                "the Hub that models come from, {endpoint}, is this agent's own door: set origins.hf.endpoint, which \
                 wins over HF_ENDPOINT, to the Hub itself"
            ));
        }
        Ok(())
    }
}

impl HttpConfig {
    fn validate(&self, shutdown_deadline: Duration) -> Result<()> {
        if !(1..=100_000).contains(&self.max_connections) {
            return invalid("http.max_connections must be between 1 and 100000");
        }
        if self.idle_timeout.is_zero() {
            return invalid("http.idle_timeout must be more than nothing");
        }
        if self.drain_timeout >= shutdown_deadline {
            return invalid("http.drain_timeout must be less than shutdown_deadline");
        }
        match &self.token_file {
            Some(file) => read_private(file, "HTTP token").map(drop),
            None if is_loopback(self.listen) => Ok(()),
            None => Err(token_is_missing(self.listen)),
        }
    }
}

impl LogConfig {
    /// The level as a filter.
    ///
    /// # Errors
    /// `Invalid` for what is neither a level nor directives.
    pub fn directives(&self) -> Result<tracing_subscriber::EnvFilter> {
        // The library of the S3 door calls every missing object an error; the door says itself what it answered.
        let directives = format!("s3s=off,{}", self.level);
        tracing_subscriber::EnvFilter::builder().parse(directives).map_err(|e| {
            Error::with_source(ErrorKind::Invalid, format!("log.level {:?} is no level", self.level), e)
        })
    }
}

impl ClusterSettings {
    fn validate(&self) -> Result<()> {
        for (key, label) in [("cluster.name", &self.name), ("cluster.zone", &self.zone)] {
            if label.len() > coordinatorless_p2p::Node::MAX_LABEL_BYTES || label.chars().any(char::is_control)
            {
                return invalid(format!("{key} must be at most 64 bytes without control characters"));
            }
        }
        if self.weight == 0 {
            return invalid("cluster.weight must be at least 1; 100 is an ordinary node");
        }
        for seed in &self.seeds {
            let port = seed.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
                return invalid(format!("cluster.seeds has {seed:?}, which is not host:port"));
            }
        }
        self.validate_identity()
    }

    fn validate_identity(&self) -> Result<()> {
        let brought = [&self.ca_file, &self.certificate_file, &self.key_file];
        let brought = brought.into_iter().filter(|file| file.is_some()).count();
        match (&self.secret_file, brought) {
            (Some(_), 1..) => invalid(
                "cluster.secret_file and cluster.ca_file, certificate_file, key_file exclude each other",
            ),
            (Some(file), _) => {
                read_private(file, "cluster secret")?;
                ClusterSecret::from_file(file).map(drop)
            }
            (None, 1 | 2) => invalid(
                "cluster.ca_file, cluster.certificate_file and cluster.key_file belong together: give all three",
            ),
            (None, 0) if !is_loopback(self.listen) => invalid(format!(
                "cluster.listen {} is not loopback and there is no identity to prove: make a secret with \
                 `preload secret new FILE`, copy it to every node and set cluster.secret_file, or bring \
                 cluster.ca_file, cluster.certificate_file and cluster.key_file",
                self.listen
            )),
            (None, 0) => Ok(()),
            (None, _) => match &self.key_file {
                Some(file) => read_private(file, "private key").map(drop),
                None => Ok(()),
            },
        }
    }
}

/// The sentence for an HTTP door that everybody could use.
pub(crate) fn token_is_missing(listen: SocketAddr) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "http.listen {listen} is not loopback and there is no http.token_file: write a long random token to a \
             file only its owner can read and name it there, or listen on 127.0.0.1"
        ),
    )
}

/// Reads a secret that only its owner may be able to read. `what` names it in errors.
///
/// # Errors
/// `Denied` when group or others can read it, with the `chmod` that helps; `Invalid` when it is no
/// short text; `NotFound`.
pub fn read_private(file: &Path, what: &str) -> Result<String> {
    let named = || format!("{what} {}", file.display());
    // Without O_NONBLOCK a FIFO of that name would be waited for.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let opened: File =
        std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(file).at(named)?;
    let metadata = opened.metadata().at(named)?;
    if !metadata.is_file() || metadata.len() > MAX_SECRET_BYTES {
        return invalid(format!("{} is not a short file", named()));
    }
    if metadata.mode() & 0o077 != 0 {
        let (shown, mode) = (file.display(), metadata.mode() & 0o777);
        let message =
            format!("{what} {shown} can be read by others (mode {mode:o}): run `chmod 600 {shown}`");
        return Err(Error::new(ErrorKind::Denied, message));
    }
    let mut text = String::new();
    opened.take(MAX_SECRET_BYTES).read_to_string(&mut text).at(named)?;
    Ok(text)
}

fn is_loopback(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::Invalid, message))
}

#[cfg(test)]
mod tests;
