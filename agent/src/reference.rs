//! References: what a person types to name a model.
//!
//! Owns the one parser and the one canonical form: two references that name the same thing in the same
//! way print equally on every node, and what is printed parses to the same value. Knows nothing of
//! credentials, endpoints and regions (those are configuration; a reference that carries any is
//! refused, and the refusal does not repeat them), nor whether the thing exists. The only look at the
//! outside is at the file system, for a plain path.

mod directory;
mod parse;

use std::{
    fmt,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    str::FromStr,
};

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

/// What a Hub takes for granted when no revision is given.
const DEFAULT_REVISION: &str = "main";

impl Reference {
    /// Where this is kept below `<data>/models/`: `<scheme>/<host, org or bucket>/<name>/<revision>`,
    /// always four plain components. `revision` is what the reference stood for (a commit), where
    /// the origin has such a thing; else a Hub reference's own, else `current`.
    ///
    /// References that name different things never share a directory: a component that had to be
    /// changed to be safe carries a hash of what it was.
    pub fn model_dir(&self, revision: Option<&str>) -> PathBuf {
        directory::model_dir(self, revision)
    }

    /// The scheme it prints with, without `://`.
    pub fn scheme(&self) -> &str {
        match self {
            Self::File(_) => "file",
            Self::Http(url) => url.scheme(),
            Self::S3(_) => "s3",
            Self::Gs(_) => "gs",
            Self::Az { account: None, .. } => "az",
            Self::Az { account: Some(_), .. } => "abfs",
            Self::Hub(_) => "hf",
            Self::Hdfs(_) => "hdfs",
            Self::Ember(_) => "ember",
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// # Errors
    /// `Invalid`, saying what is wrong and what was probably meant. Neither passwords nor queries are
    /// repeated in the message.
    fn from_str(text: &str) -> Result<Self> {
        parse::reference(text).map_err(|why| {
            Error::new(ErrorKind::Invalid, format!("reference \"{}\" {why}", parse::without_secrets(text)))
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", Encoded(path)),
            Self::Http(url) | Self::Hdfs(url) => f.write_str(url.as_str()),
            Self::S3(bucket) | Self::Gs(bucket) | Self::Az { account: None, bucket } => {
                write!(f, "{}://{bucket}", self.scheme())
            }
            Self::Az { account: Some(account), bucket: Bucket { name, prefix } } => {
                let slash = if prefix.is_empty() { "" } else { "/" };
                write!(f, "abfs://{name}@{account}.{}{slash}{prefix}", parse::AZURE_SUFFIXES[0])
            }
            Self::Hub(repo) => write!(f, "hf://{repo}"),
            Self::Ember(hash) => write!(f, "ember://{hash}"),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "{}{slash}{}", self.name, self.prefix)
    }
}

impl fmt::Display for HubRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            HubKind::Model => "",
            HubKind::Dataset => "datasets/",
            HubKind::Space => "spaces/",
        })?;
        f.write_str(&self.name)?;
        if self.revision == DEFAULT_REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// A path as the path of a URL, readable: only what would not survive is percent-encoded.
struct Encoded<'a>(&'a Path);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || matches!(c, '%' | '?' | '#') {
                    c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
