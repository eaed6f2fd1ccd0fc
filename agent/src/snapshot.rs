//! The exact listing of an origin at one moment.
//!
//! Owns the types that cannot be wrong: [`RelativePath`] never leaves its directory, and a
//! [`FileVersion`] says what a later read must still match. Does no I/O.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// A path inside an artifact: UTF-8, `/`-separated, without `..`, empty or absolute parts, control
/// characters, backslashes or percent-encoded separators; at most 1,024 bytes, each part at most 255.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
#[serde(transparent)]
pub struct RelativePath(String);

impl RelativePath {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RelativePath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
            Err(Error::new(ErrorKind::Invalid, format!("file name \"{shown}\" {why}")))
        };
        if text.is_empty() || text.len() > 1024 {
            return refuse("is empty or longer than 1024 bytes");
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return refuse("has a control character or backslash");
        }
        let lower = text.to_ascii_lowercase();
        if lower.contains("%2e%2e") || lower.contains("%2f") || lower.contains("%5c") || lower.contains("%00")
        {
            return refuse("has an encoded separator");
        }
        for part in text.split('/') {
            if part.is_empty() || part == "." || part == ".." || part.len() > 255 {
                return refuse("has an empty, dotted or overlong part");
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> Deserialize<'de> for RelativePath {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What identifies the content of a file at its origin, as far as the origin tells.
#[derive(
    Debug,
    Clone,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct FileVersion {
    /// The ETag as sent, quotes included; the commit for a Hub file; `mtime-ns:inode`-like for a local file.
    pub etag: Option<String>,
    /// The object version, where the bucket keeps versions.
    pub object_version: Option<String>,
}

/// A digest of the whole file, promised by the origin.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Digest {
    /// SHA-256 of the content (Hub LFS, S3 full-object checksum).
    Sha256([u8; 32]),
    /// Git blob SHA-1 (small Hub files): SHA-1 over `blob <size>\0` and the content.
    GitSha1([u8; 20]),
    /// MD5 of the content.
    Md5([u8; 16]),
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// Where it goes within the artifact.
    pub path: RelativePath,
    /// Size in bytes.
    pub size: u64,
    /// What later reads must still match.
    pub version: FileVersion,
    /// The origin's own digest, where there is one.
    pub digest: Option<Digest>,
}

/// The listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The canonical reference that was listed.
    pub reference: String,
    /// The commit or version that the reference stood for, where the origin has one.
    pub revision: Option<String>,
    /// Sorted by path; no two equal, nor equal but for case or Unicode form, nor a file that is
    /// also another's directory.
    pub files: Vec<SnapshotFile>,
}
