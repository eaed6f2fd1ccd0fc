//! References: what a person types to name a model.

use std::{fmt, path::PathBuf, str::FromStr};

use url::Url;

use crate::error::{Error, ErrorKind, Result};

/// A parsed reference. `Display` is canonical: equal references print equally on every node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// `file:///dir`, or a plain path; absolute.
    File(PathBuf),
    /// `https://host/path`: one file, or with a trailing slash a base with a listing file.
    Http(Url),
    /// `s3://bucket/prefix`
    S3(Bucket),
    /// `gs://bucket/prefix`
    Gs(Bucket),
    /// `az://container/prefix`, `abfs://container@account.dfs.core.windows.net/prefix`
    Az {
        /// The storage account, where the reference names it; else from configuration.
        account: Option<String>,
        /// Container and prefix.
        bucket: Bucket,
    },
    /// `hf://org/name[@rev]`, `hf://datasets/org/name[@rev]`, `hf://spaces/…`
    Hub(HubRepo),
    /// `hdfs://host:port/path`
    Hdfs(Url),
    /// `ember://<manifest hash>`: whatever has this content, from peers only.
    Ember(coordinatorless_p2p::ChunkHash),
}

/// A bucket and what is in front of the wanted keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Bucket or container.
    pub name: String,
    /// Key prefix without leading or trailing slash; empty for the whole bucket. Names one object,
    /// or everything below it as if it were a directory.
    pub prefix: String,
}

/// A repository of a Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubRepo {
    /// `models`, `datasets` or `spaces`.
    pub kind: HubKind,
    /// `org/name`, or a bare `name` for the oldest repositories.
    pub name: String,
    /// Branch, tag or commit; `main` if not given.
    pub revision: String,
}

/// What a Hub repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HubKind {
    /// A model.
    Model,
    /// A dataset.
    Dataset,
    /// A space.
    Space,
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Err(Error::new(ErrorKind::Invalid, format!("reference {text:?} cannot be parsed")))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            _ => f.write_str("…"),
        }
    }
}
