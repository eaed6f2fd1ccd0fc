//! HDFS: a directory or one file of a name node, or of a name service that the Hadoop configuration describes.
//!
//! Owns what a path means as a model, the pinning of each read to length and modification time (HDFS has no tags;
//! its files are written once), and what its errors mean. The protocol is the library's: addresses of data nodes are
//! the name node's word, and blocks are checked against their checksums.

use std::{
    ops::Range,
    panic::AssertUnwindSafe,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
};
use hdfs_native::{
    Client, ClientBuilder, HdfsError,
    client::{FileStatus, ListStatusIterator},
    file::FileReader,
};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::{HdfsConfig, Origin, changed, guard, listing};
use crate::{
    error::{Error, ErrorKind, Result},
    snapshot::{FileVersion, Snapshot, SnapshotFile},
};

/// How much of a name node's words is shown: they may bring a stack trace.
const MAX_WORDS: usize = 300;

/// A name node or name service, and how to ask it. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(super) struct NameNode {
    client: Client,
    /// `hdfs://host:port`.
    name: String,
    /// What has to be resolved, where that is a host's name.
    host: Option<(String, u16)>,
    patience: Duration,
}

impl NameNode {
    /// Nothing is contacted yet.
    ///
    /// # Errors
    /// `Denied` for a metadata address; `Invalid` for a configuration that cannot be.
    pub(super) fn new(config: &HdfsConfig, url: &Url, patience: Duration) -> Result<Self> {
        let name = format!("hdfs://{}", url.authority());
        let host = match url.host() {
            Some(Host::Domain(host)) => host.to_owned(),
            Some(address) => address.to_string(),
            None => return Err(Error::new(ErrorKind::Invalid, format!("{url} has no name node"))),
        };
        let bare = host.trim_matches(['[', ']']);
        if let Ok(address) = bare.parse() {
            guard::check_address(bare, address)?;
        }
        let mut builder = ClientBuilder::new().with_url(name.clone());
        if let Some(dir) = &config.config_dir {
            builder = builder.with_config_dir(dir.display().to_string());
        }
        if let Some(user) = &config.user {
            builder = builder.with_user(user.clone());
        }
        // Without a port it is a name service, whose hosts are in the configuration.
        let host = url.port().map(|port| (bare.to_owned(), port));
        if host.is_some() {
            // There is no other to turn to, and trying again is a decorator's business.
            builder = builder.with_config([("dfs.client.failover.max.attempts", "0")]);
        }
        let client = builder.build().map_err(|e| explain(&e, &name))?;
        Ok(Self { client, name, host, patience })
    }

    /// # Errors
    /// `NotFound`; `Denied`; as asking.
    pub(super) async fn status(&self, path: &str) -> Result<FileStatus> {
        self.check_host().await?;
        self.ask(path, self.client.get_file_info(path)).await
    }

    /// What is in the directory at `path`, and with `recursive` below it, in no promised order.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub(super) async fn list(&self, path: &str, recursive: bool) -> Result<Names> {
        self.check_host().await?;
        let (node, path) = (self.clone(), path.to_owned());
        let names = self.client.list_status_iter(&path, recursive);
        Ok(Names { node, path, names })
    }

    async fn open(&self, path: &str) -> Result<FileReader> {
        self.ask(path, self.client.read(path)).await
    }

    /// A name that leads to a metadata address is refused, whatever it led to before.
    async fn check_host(&self) -> Result<()> {
        let Some((host, port)) = &self.host else { return Ok(()) };
        let found = tokio::net::lookup_host((host.as_str(), *port)).await;
        let found = found.map_err(|e| {
            Error::with_source(
                ErrorKind::UNAVAILABLE,
                format!("{}: dns lookup of {host} failed", self.name),
                e,
            )
        })?;
        found.into_iter().try_for_each(|address| guard::check_address(host, address.ip()))
    }

    async fn ask<T>(&self, path: &str, asked: impl Future<Output = hdfs_native::Result<T>>) -> Result<T> {
        let what = || format!("{}{path}", self.name);
        match tokio::time::timeout(self.patience, AssertUnwindSafe(asked).catch_unwind()).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(e))) => Err(explain(&e, &what())),
            Ok(Err(_)) => Err(nonsense(&what())),
            Err(_) => {
                let text = format!("{}: no answer in {:?}", what(), self.patience);
                Err(Error::new(ErrorKind::Timeout, text))
            }
        }
    }
}

/// Names of a directory, as they come.
pub(super) struct Names {
    node: NameNode,
    path: String,
    names: ListStatusIterator,
}

impl Names {
    /// The next one; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// As [`NameNode::status`].
    pub(super) async fn next(&self) -> Result<Option<FileStatus>> {
        let next = async { self.names.next().await.transpose() };
        self.node.ask(&self.path, next).await
    }
}

/// A directory, or one file.
pub(super) struct HdfsOrigin {
    node: NameNode,
    reference: String,
    root: String,
}

impl HdfsOrigin {
    /// # Errors
    /// As [`path_of`].
    pub(super) fn new(node: NameNode, reference: String, url: &Url) -> Result<Self> {
        Ok(Self { node, reference, root: path_of(url)? })
    }

    async fn below(&self) -> Result<Vec<SnapshotFile>> {
        let names = self.node.list(&self.root, true).await?;
        let prefix = format!("{}/", self.root.trim_end_matches('/'));
        let (mut files, mut seen) = (Vec::new(), 0);
        while let Some(status) = names.next().await? {
            seen += 1;
            listing::check_count(&self.reference, seen)?;
            let Some(path) = status.path.strip_prefix(&prefix).filter(|_| !status.isdir) else { continue };
            if !listing::is_control_file(path) || path == listing::MANIFEST_FILE {
                files.push(described(path, &status)?);
            }
        }
        Ok(files)
    }

    /// Where `file` is: the root may be a directory that holds a file of its own name, or that file itself, and
    /// another node's listing does not say which it was.
    async fn path_of(&self, file: &SnapshotFile) -> Result<String> {
        let is_named_alike = self.root.rsplit('/').next() == Some(file.path.as_str());
        if is_named_alike && !self.node.status(&self.root).await?.isdir {
            return Ok(self.root.clone());
        }
        Ok(format!("{}/{}", self.root.trim_end_matches('/'), file.path))
    }
}

#[async_trait]
impl Origin for HdfsOrigin {
    async fn snapshot(&self) -> Result<Snapshot> {
        let root = self.node.status(&self.root).await?;
        let files = if root.isdir {
            self.below().await?
        } else {
            vec![described(self.root.rsplit('/').next().unwrap_or_default(), &root)?]
        };
        listing::snapshot(&self.reference, None, files)
    }

    async fn read(
        &self,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let path = self.path_of(file).await?;
        let reader = self.node.open(&path).await?;
        // After the blocks were told: they are those of this version or of an earlier one, and which it is shows.
        let status = self.node.status(&path).await?;
        if reader.file_length() as u64 != file.size || version_of(&status) != file.version {
            return Err(changed(&self.reference, file, "its modification time or size is another"));
        }
        if range.start >= range.end || range.end > file.size {
            return Ok(stream::empty().boxed());
        }
        let what = format!("{}: {}", self.reference, file.path);
        let length = (range.end - range.start) as usize;
        let pieces = AssertUnwindSafe(reader.read_range_stream(range.start as usize, length)).catch_unwind();
        let pieces = pieces.map(move |piece| match piece {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(e)) => Err(explain(&e, &what)),
            Err(_) => Err(nonsense(&what)),
        });
        Ok(pieces.boxed())
    }
}

/// The path of a URL, decoded; `/` for a bare name node.
///
/// # Errors
/// `Invalid` where it is not UTF-8.
pub(super) fn path_of(url: &Url) -> Result<String> {
    let path = percent_decode_str(url.path()).decode_utf8().map_err(|e| {
        Error::with_source(ErrorKind::Invalid, format!("{url} has a path that is not UTF-8"), e)
    })?;
    Ok(if path.is_empty() { "/".to_owned() } else { path.into_owned() })
}

fn described(path: &str, status: &FileStatus) -> Result<SnapshotFile> {
    let size = status.length as u64;
    Ok(SnapshotFile { path: path.parse()?, size, version: version_of(status), digest: None })
}

pub(super) fn version_of(status: &FileStatus) -> FileVersion {
    let tag = format!("{}-{}", status.modification_time, status.length);
    FileVersion { etag: Some(tag), object_version: None }
}

/// When a file was changed last.
pub(super) fn modified(status: &FileStatus) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(status.modification_time))
}

fn nonsense(what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{what}: the name node's answer makes no sense"))
}

/// What an error of the library is in ours.
fn explain(error: &HdfsError, what: &str) -> Error {
    let kind = match error {
        HdfsError::FileNotFound(_) => ErrorKind::NotFound,
        HdfsError::RPCError(class, words) | HdfsError::FatalRPCError(class, words) => {
            kind_of_exception(class.rsplit('.').next().unwrap_or_default(), words)
        }
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => {
            ErrorKind::Denied
        }
        HdfsError::InvalidPath(_)
        | HdfsError::InvalidArgument(_)
        | HdfsError::UrlParseError(_)
        | HdfsError::AlreadyExists(_)
        | HdfsError::IsADirectoryError(_)
        | HdfsError::TrashNotEnabled
        | HdfsError::UnsupportedErasureCodingPolicy(_)
        | HdfsError::UnsupportedFeature(_)
        | HdfsError::XmlParseError(_) => ErrorKind::Invalid,
        HdfsError::IOError(_)
        | HdfsError::DataTransferError(_)
        | HdfsError::ChecksumError
        | HdfsError::OperationFailed(_)
        | HdfsError::BlocksNotFound(_)
        | HdfsError::ErasureCodingError(_)
        | HdfsError::InternalError(_)
        | HdfsError::InvalidRPCResponse(_) => ErrorKind::UNAVAILABLE,
    };
    let words = error.to_string();
    let first: String = words.lines().next().unwrap_or_default().chars().take(MAX_WORDS).collect();
    Error::new(kind, format!("{what}: {first}"))
}

/// By the simple name of the Java class.
fn kind_of_exception(class: &str, words: &str) -> ErrorKind {
    match class {
        // Also what is below a file.
        "FileNotFoundException" | "ParentNotDirectoryException" => ErrorKind::NotFound,
        "AccessControlException" if words.contains("is not a directory") => ErrorKind::NotFound,
        "AccessControlException" | "AuthorizationException" | "InvalidToken" | "SaslException" => {
            ErrorKind::Denied
        }
        "InvalidPathException" | "IllegalArgumentException" | "RpcNoSuchMethodException" => {
            ErrorKind::Invalid
        }
        // Standby, safe mode, busy, and what nobody has seen yet.
        _ => ErrorKind::UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_of_the_name_node_has_a_kind_and_one_line() {
        let of = |class: &str, words: &str| {
            explain(&HdfsError::RPCError(class.to_owned(), words.to_owned()), "hdfs://n:1/x")
        };
        for (class, kind) in [
            ("java.io.FileNotFoundException", ErrorKind::NotFound),
            ("org.apache.hadoop.security.AccessControlException", ErrorKind::Denied),
            ("org.apache.hadoop.fs.ParentNotDirectoryException", ErrorKind::NotFound),
            ("org.apache.hadoop.ipc.StandbyException", ErrorKind::UNAVAILABLE),
            ("org.apache.hadoop.hdfs.server.namenode.SafeModeException", ErrorKind::UNAVAILABLE),
            ("", ErrorKind::UNAVAILABLE),
        ] {
            let error = of(class, "why\n\tat java.lang.Thread.run(Thread.java:840)");
            assert_eq!(error.kind(), kind, "{class}");
            assert!(error.to_string().contains("why") && !error.to_string().contains("Thread"), "{error}");
        }
    }

    #[test]
    fn a_path_is_decoded_and_a_bare_name_node_is_its_root() {
        let of = |url: &str| path_of(&Url::parse(url).unwrap()).unwrap();
        assert_eq!(of("hdfs://node:8020"), "/");
        assert_eq!(of("hdfs://node:8020/a%20b/c"), "/a b/c");
        assert!(path_of(&Url::parse("hdfs://node/%ff").unwrap()).is_err());
    }

    #[tokio::test]
    async fn metadata_addresses_are_refused_by_number_and_by_name() {
        let node = |url: &str| {
            NameNode::new(&HdfsConfig::default(), &Url::parse(url).unwrap(), Duration::from_secs(1))
        };
        for url in ["hdfs://169.254.169.254:8020", "hdfs://[fe80::1]:8020", "hdfs://[fd00:ec2::254]:8020"] {
            assert_eq!(node(url).err().expect(url).kind(), ErrorKind::Denied, "{url}");
        }
        assert!(node("hdfs://10.0.0.1:8020").is_ok());
    }
}
