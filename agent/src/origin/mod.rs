//! Origins: the places references name. Each lists itself and reads byte ranges of itself.
//!
//! Retry, limits, stall time-outs and counting are decorators of the one trait. An origin never
//! mixes two versions: every read is pinned to what the snapshot saw.
//!
//! ```text
//! retry → limit → count → stall → exact → file | http | object (S3, GCS, Azure) | hub | hdfs
//! ```
//!
//! Everything that speaks HTTP goes out through one client, which refuses metadata addresses, checks
//! every hop of a redirect, and leaves a host alone for as long as it asked to be.

mod aws_profile;
pub mod catalogue;
mod client;
mod config;
mod connector;
mod count;
mod exact;
mod file;
mod guard;
mod hdfs;
mod hosts;
mod http;
mod hub;
mod lent;
mod limit;
mod listing;
mod object;
mod patience;
mod patterns;
mod publish;
mod retry;
mod secrets;
mod stall;
mod stores;
mod write;

use std::{
    collections::HashMap,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{
    error::{Error, ErrorKind, Result},
    reference::{Bucket, HubKind, HubRepo, Reference},
    snapshot::{Snapshot, SnapshotFile},
};

pub use config::{
    AzConfig, GsConfig, HdfsConfig, HttpOriginConfig, HubConfig, OriginsConfig, S3BucketConfig, S3Config,
};
pub use count::OriginCounters;
pub(crate) use http::DIRECTORY_AT_SERVER;
pub(crate) use hub::{Admission, Refusal};
pub use listing::{LISTING_FILE, MANIFEST_FILE, MAX_FILES, is_control_file};
pub use patterns::Patterns;
pub(crate) use write::{Described, Writer, Written};

use client::Client;
use connector::Ways;
use stores::Store;

/// Stores kept open; beyond it all are opened anew.
const MAX_STORES: usize = 256;

/// Where the Hub of these settings is.
///
/// # Errors
/// `Invalid` where they, or the environment, name what is no URL.
pub(crate) fn hub_endpoint(config: &HubConfig) -> Result<url::Url> {
    secrets::hub_endpoint(config)
}

/// A place that holds one model.
#[async_trait]
pub trait Origin: Send + Sync + 'static {
    /// Lists every file, and pins what the reference stands for now (branch to commit, ETags).
    /// Cancel-safe.
    ///
    /// # Errors
    /// `NotFound` when there is nothing there; `Denied`; `Unavailable { retry_after }` for 429 and
    /// 503; `Timeout` after a stall; `Invalid` for names that cannot be files.
    async fn snapshot(&self) -> Result<Snapshot>;

    /// Streams `range` of `file` in order, in pieces of any size. Cancel-safe: dropping the stream
    /// ends the request.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot), and `Corrupt` with `origin changed` in the message when the
    /// object is not the version that the snapshot saw, or its length differs.
    async fn read(&self, file: &SnapshotFile, range: Range<u64>)
    -> Result<BoxStream<'static, Result<Bytes>>>;
}

/// Makes origins of references, from one configuration; counts what they cost. Cheap to clone; clones
/// share connections, limits and counters.
#[derive(Clone)]
pub struct Origins {
    inner: Arc<Inner>,
}

struct Inner {
    config: OriginsConfig,
    allow: guard::AllowList,
    hosts: Arc<hosts::Hosts>,
    ledger: count::Ledger,
    /// Pools by the authorities that they trust besides the system's.
    ways: Mutex<HashMap<Option<PathBuf>, Ways>>,
    stores: Mutex<HashMap<StoreKey, Arc<Store>>>,
    name_nodes: Mutex<HashMap<String, hdfs::NameNode>>,
    lent: lent::Lent,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum StoreKey {
    S3(String),
    Gs(String),
    Az(Option<String>, String),
}

impl Origins {
    /// Prepares clients; nothing is contacted yet.
    ///
    /// # Errors
    /// `Invalid` for settings that contradict each other.
    pub fn new(config: OriginsConfig) -> Result<Self> {
        config.validate()?;
        coordinatorless_p2p::identity::install_crypto_provider();
        Ok(Self {
            inner: Arc::new(Inner {
                allow: guard::AllowList::new(&config.allow),
                hosts: Arc::new(hosts::Hosts::new(config.max_concurrent_requests)),
                ledger: count::Ledger::default(),
                ways: Mutex::default(),
                stores: Mutex::default(),
                name_nodes: Mutex::default(),
                lent: lent::Lent::default(),
                config,
            }),
        })
    }

    /// The origin that `reference` names, with retry, limits and counting around it.
    ///
    /// # Errors
    /// `Invalid` when the scheme has no origin (`ember://`) or its settings cannot work; `Denied` when it
    /// may not be used here.
    pub fn open(&self, reference: &Reference) -> Result<Arc<dyn Origin>> {
        self.inner.open(reference)
    }

    /// What each origin has cost since this node started.
    pub fn counters(&self) -> Vec<OriginCounters> {
        self.inner.ledger.read()
    }

    /// The hosts, `name:port`, that asked this node to be left alone, and for how long still: what other
    /// nodes should know before they ask.
    pub fn holds(&self) -> Vec<(String, Duration)> {
        self.inner.hosts.held()
    }

    /// Sends nothing to `host`, `name:port`, for `duration`, as another node was asked to. Never shortens a hold.
    pub fn hold(&self, host: &str, duration: Duration) {
        self.inner.hosts.host(host).hold(duration);
    }
}

impl Inner {
    fn open(&self, reference: &Reference) -> Result<Arc<dyn Origin>> {
        let name = reference.to_string();
        match reference {
            Reference::File(path) => {
                let origin = file::FileOrigin::new(name, path.clone(), self.allow.clone());
                Ok(self.dressed(origin, "file", "local", "local"))
            }
            Reference::Http(url) => self.http(name, url),
            Reference::S3(_) | Reference::Gs(_) | Reference::Az { .. } => {
                let (scheme, store, bucket) = self.bucket(reference)?;
                self.object(scheme, name, store, bucket)
            }
            Reference::Hub(repo) => self.hub(name, repo),
            Reference::Hdfs(url) => {
                let (node, host) = self.name_node(url)?;
                Ok(self.dressed(hdfs::HdfsOrigin::new(node, name, url)?, "hdfs", &host, &host))
            }
            Reference::Ember(_) => Err(Error::new(
                ErrorKind::Invalid,
                format!("{name} names content, not a place: it comes from peers only"),
            )),
        }
    }

    /// The store behind a reference to a bucket, and what it is called.
    ///
    /// # Errors
    /// `Invalid` for any other reference; `Denied` when it may not be used here.
    fn bucket<'a>(&self, reference: &'a Reference) -> Result<(&'static str, Arc<Store>, &'a Bucket)> {
        match reference {
            Reference::S3(bucket) => {
                self.allow.check(&bucket_name("s3", bucket))?;
                let config = self.config.s3.for_bucket(&bucket.name);
                let store = self.store(StoreKey::S3(bucket.name.clone()), || {
                    stores::s3(&config, &bucket.name, self.ways(stores::aws_ca_file(&config))?)
                })?;
                Ok(("s3", store, bucket))
            }
            Reference::Gs(bucket) => {
                self.allow.check(&bucket_name("gs", bucket))?;
                let config = &self.config.gs;
                let store = self.store(StoreKey::Gs(bucket.name.clone()), || {
                    stores::gs(config, &bucket.name, self.ways(config.ca_file.clone())?)
                })?;
                Ok(("gs", store, bucket))
            }
            Reference::Az { account, bucket } => {
                self.allow.check(&bucket_name("az", bucket))?;
                let config = &self.config.az;
                let store = self.store(StoreKey::Az(account.clone(), bucket.name.clone()), || {
                    let ways = self.ways(config.ca_file.clone())?;
                    stores::az(config, account.as_deref(), &bucket.name, ways)
                })?;
                Ok(("az", store, bucket))
            }
            Reference::File(_)
            | Reference::Http(_)
            | Reference::Hub(_)
            | Reference::Hdfs(_)
            | Reference::Ember(_) => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{reference} cannot be written: a model is published at file://, s3://, gs:// or az://"
                ),
            )),
        }
    }

    fn http(&self, name: String, url: &url::Url) -> Result<Arc<dyn Origin>> {
        guard::check_url(url)?;
        self.allow.check(&guard::shown(url))?;
        let config = &self.config.http;
        let host = client::host_key(url);
        let is_known = |known: &String| Some(known.as_str()) == url.host_str() || *known == host;
        let authorization = match &config.bearer_token_file {
            Some(path) if config.bearer_hosts.iter().any(is_known) => {
                Some(secrets::bearer(&secrets::read(path)?, "origins.http.bearer_token_file")?)
            }
            _ => None,
        };
        let client = self.ways(config.ca_file.clone())?.client;
        let patience = self.config.stall_timeout;
        let origin = http::HttpOrigin::new(client, name, url.clone(), authorization, patience);
        Ok(self.dressed(origin, "http", &host, &host))
    }

    fn hub(&self, name: String, repo: &HubRepo) -> Result<Arc<dyn Origin>> {
        let mut access = secrets::HubAccess::new(&self.config.hf)?;
        if let Some(lent) = self.lent.of(repo) {
            access.authorization = Some(lent);
            access.token_source = "a token that a caller of the Hugging Face door brought";
        }
        let (origin, host) = self.hub_origin(name, repo, access)?;
        Ok(self.dressed(origin, "hf", &host, &host))
    }

    /// A repository as the bearer of what is in `access` sees it, and its host.
    fn hub_origin(
        &self,
        name: String,
        repo: &HubRepo,
        access: secrets::HubAccess,
    ) -> Result<(hub::HubOrigin, String)> {
        let kind = match repo.kind {
            HubKind::Model => "",
            HubKind::Dataset => "datasets/",
            HubKind::Space => "spaces/",
        };
        self.allow.check(&format!("hf://{kind}{}@{}", repo.name, repo.revision))?;
        guard::check_url(&access.endpoint)?;
        let host = client::host_key(&access.endpoint);
        let client = self.ways(self.config.hf.ca_file.clone())?.client;
        let patience = self.config.stall_timeout;
        Ok((hub::HubOrigin::new(client, access, name, repo.clone(), patience), host))
    }

    /// The name node of a reference, and what it is called.
    ///
    /// # Errors
    /// `Denied` when it may not be used here; as [`hdfs::NameNode::new`].
    fn name_node(&self, url: &url::Url) -> Result<(hdfs::NameNode, String)> {
        self.allow.check(url.as_str())?;
        let host = url.authority().to_owned();
        let mut all = self.name_nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&host) {
            return Ok((known.clone(), host));
        }
        let node = hdfs::NameNode::new(&self.config.hdfs, url, self.config.request_timeout)?;
        if all.len() >= MAX_STORES {
            all.clear();
        }
        all.insert(host.clone(), node.clone());
        Ok((node, host))
    }

    fn object(
        &self,
        scheme: &'static str,
        name: String,
        store: Arc<Store>,
        bucket: &Bucket,
    ) -> Result<Arc<dyn Origin>> {
        let host = store.host.clone();
        let origin = object::ObjectOrigin::new(store, name, bucket)?;
        Ok(self.dressed(origin, scheme, &bucket.name, &host))
    }

    /// Puts the decorators on, innermost first.
    fn dressed(&self, origin: impl Origin, scheme: &'static str, label: &str, host: &str) -> Arc<dyn Origin> {
        let config = &self.config;
        let stall = stall::Stall { inner: exact::Exact(origin), timeout: config.stall_timeout };
        let count = count::Count { inner: stall, entry: self.ledger.entry(scheme, label) };
        let limit = limit::Limit { inner: count, permits: self.hosts.host(host).permits() };
        let policy = retry::RetryPolicy { retries: config.retries, max_wait: config.max_retry_wait };
        Arc::new(retry::Retry { inner: Arc::new(limit), policy })
    }

    fn ways(&self, ca_file: Option<PathBuf>) -> Result<Ways> {
        let mut all = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&ca_file) {
            return Ok(known.clone());
        }
        let authorities = ca_file.as_deref();
        let made = Ways {
            client: Client::new(&self.config, authorities, self.hosts.clone(), self.allow.clone())?,
            credentials: client::pool(&self.config, authorities, false)?,
            patience: self.config.stall_timeout,
        };
        all.insert(ca_file, made.clone());
        Ok(made)
    }

    fn store(&self, key: StoreKey, open: impl FnOnce() -> Result<Store>) -> Result<Arc<Store>> {
        let mut all = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&key) {
            return Ok(known.clone());
        }
        let opened = Arc::new(open()?);
        if all.len() >= MAX_STORES {
            all.clear();
        }
        all.insert(key, opened.clone());
        Ok(opened)
    }
}

/// How the allow-list names what a bucket reference names.
fn bucket_name(scheme: &str, bucket: &Bucket) -> String {
    let slash = if bucket.prefix.is_empty() { "" } else { "/" };
    format!("{scheme}://{}{slash}{}", bucket.name, bucket.prefix)
}

/// The object is not the one that was listed.
fn changed(reference: &str, file: &SnapshotFile, why: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{reference}: origin changed: {} is not what it was when it was listed: {why}", file.path),
    )
}
