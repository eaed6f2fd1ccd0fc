//! The one namespace: every origin under a name, the same through every door.
//!
//! Owns what a path means and what is remembered of listings: a page or a file is asked for once in a while
//! ([`NamespaceConfig::listing_ttl`]), shared by everybody, and answered from memory when the origin is gone.
//! Lazy: nothing is listed that nobody asked for, and a directory of a million names is read page by page.
//! Reads no bytes of files: that is [`crate::reader`]'s.
//!
//! ```text
//! path → mount → origin and key → page or file, remembered for a time
//! ```

mod artifact;
mod kept;
mod memory;
mod mounts;
mod path;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    origin::{
        DIRECTORY_AT_SERVER, Origins, Writer,
        catalogue::{Listed, ListedName, ListedPage, MAX_PAGE_NAMES, PageRequest},
    },
    snapshot::{Digest, FileVersion},
    store::Store,
};

pub(crate) use artifact::Whole;
use memory::{Known, Memory};
pub(crate) use mounts::Spot;
use mounts::{Mounts, Place};
pub use {mounts::MountTable, path::NamespacePath};

/// How listings are remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceConfig {
    /// How long a listing, a file's size and version, or what a branch stands for answers before its origin
    /// is asked again.
    #[serde(with = "humantime_serde")]
    pub listing_ttl: Duration,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self { listing_ttl: Duration::from_secs(30) }
    }
}

/// Whether these can be mounted.
///
/// # Errors
/// `Invalid`, naming the mount.
pub fn check_mounts(table: &MountTable) -> Result<()> {
    Mounts::new(table).map(drop)
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file.
    File(FileEntry),
    /// A directory, or a prefix that keys go on behind.
    Directory,
}

/// A file as its origin lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Size in bytes.
    pub bytes: u64,
    /// Names this version of the content, the same on every node and whatever is here of it; without quotes.
    /// The origin's own ETag where it has one (SHA-256 or git blob id for a Hub), else made of what
    /// identifies the version.
    pub etag: String,
    /// When it was changed last, where the origin tells.
    pub modified: Option<SystemTime>,
    /// What reads of this version must match at the origin.
    pub version: FileVersion,
    /// The origin's own digest, where it tells one.
    pub digest: Option<Digest>,
}

impl FileEntry {
    fn of(listed: &Listed) -> Self {
        Self {
            bytes: listed.size,
            etag: etag_of(&listed.key, listed.size, &listed.version, listed.digest.as_ref()),
            modified: listed.modified,
            version: listed.version.clone(),
            digest: listed.digest,
        }
    }
}

/// The tag of a version: see [`FileEntry::etag`].
pub(crate) fn etag_of(key: &str, bytes: u64, version: &FileVersion, digest: Option<&Digest>) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match (digest, &version.etag) {
        (Some(Digest::Sha256(digest)), _) => hex(digest),
        (Some(Digest::GitSha1(digest)), _) => hex(digest),
        (Some(Digest::Md5(digest)), _) => hex(digest),
        (None, Some(etag)) => {
            let bare = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
            let is_plain =
                (1..=128).contains(&bare.len()) && bare.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
            if is_plain { bare.to_owned() } else { hex(&blake3::hash(etag.as_bytes()).as_bytes()[..16]) }
        }
        (None, None) => {
            let named = format!("{key}\n{bytes}\n{}", version.object_version.as_deref().unwrap_or_default());
            hex(&blake3::hash(named.as_bytes()).as_bytes()[..16])
        }
    }
}

/// One name of a [`Page`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// For a directory's page its name in the directory; for objects the key below the mount. A directory's
    /// ends in a slash among objects, and nowhere else.
    pub name: String,
    /// What it is.
    pub entry: Entry,
}

/// Names in the order of their bytes (a directory's with its slash).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The names.
    pub names: Vec<Named>,
    /// What to give as `start_after` for the next page; `None` at the end. Opaque, valid on any node.
    pub next: Option<String>,
    /// The origin could not be asked: this is what it said before.
    pub stale: bool,
}

/// Names, and what they lead to. Cheap to clone; clones share what is remembered.
#[derive(Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
}

struct Inner {
    origins: Origins,
    mounts: Mounts,
    memory: Memory,
}

impl Namespace {
    /// A namespace over these origins, and over what the store has of them when they are gone; nothing is
    /// contacted yet.
    ///
    /// # Errors
    /// `Invalid` for a mount that cannot be.
    pub fn new(
        origins: Origins,
        store: Store,
        config: &NamespaceConfig,
        mounts: &MountTable,
    ) -> Result<Self> {
        let memory = Memory::new(origins.clone(), store, config.listing_ttl);
        Ok(Self { inner: Arc::new(Inner { origins, mounts: Mounts::new(mounts)?, memory }) })
    }

    /// The mounts of the configuration: name and reference.
    pub fn mounts(&self) -> Vec<(String, String)> {
        self.inner.mounts.named().map(|(name, reference)| (name.to_owned(), reference.to_string())).collect()
    }

    /// What is at `path`. Cancel-safe.
    ///
    /// # Errors
    /// `NotFound`; `Denied`; `Invalid` for a path that cannot be; `Unavailable` and `Timeout` when the origin
    /// cannot be asked and nothing is remembered.
    pub async fn stat(&self, path: &NamespacePath) -> Result<Entry> {
        match self.inner.mounts.place(path)? {
            Place::Names(_) => Ok(Entry::Directory),
            Place::Spot(spot) => self.stat_spot(&spot).await,
        }
    }

    /// As [`stat`](Self::stat), for who comes to a file name by name: at a plain web server that cannot be
    /// listed, a name that is no file may be a directory on the way to one. Cancel-safe.
    ///
    /// # Errors
    /// As there.
    pub async fn walk(&self, path: &NamespacePath) -> Result<Entry> {
        let spot = match self.inner.mounts.place(path)? {
            Place::Names(_) => return Ok(Entry::Directory),
            Place::Spot(spot) => spot,
        };
        match self.stat_spot(&spot).await {
            Err(e) if self.may_lead_on(&spot, &e).await => Ok(Entry::Directory),
            found => found,
        }
    }

    /// Whether what is no file at `spot` may have some below it all the same.
    async fn may_lead_on(&self, spot: &Spot, e: &Error) -> bool {
        let is_refused = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Invalid);
        if !is_refused || !matches!(spot.root, crate::reference::Reference::Http(_)) {
            return false;
        }
        if e.to_string().contains(DIRECTORY_AT_SERVER) {
            return true;
        }
        let (prefix, limit) = (spot.key.clone(), MAX_PAGE_NAMES);
        let around = PageRequest { prefix, delimited: true, start_after: None, limit };
        match self.inner.memory.page(&spot.root, &around).await {
            // The directory around it is listed: it says what there is.
            Ok(known) => {
                let below = format!("{}/", spot.key);
                known.value.names.iter().any(|name| name.key() == below)
            }
            Err(_) => !is_named_as_a_file(&spot.key),
        }
    }

    /// The names in the directory at `path`, at most `limit` of them (1 to 1,000), behind `start_after`.
    /// Cancel-safe.
    ///
    /// # Errors
    /// As [`stat`](Self::stat); `Invalid` where it is a file, or an origin that cannot be listed.
    pub async fn list(&self, path: &NamespacePath, start_after: Option<&str>, limit: usize) -> Result<Page> {
        let spot = match self.inner.mounts.place(path)? {
            Place::Names(names) => return Ok(page_of_names(names, start_after, limit)),
            Place::Spot(spot) => spot,
        };
        let below = if spot.key.is_empty() { String::new() } else { format!("{}/", spot.key) };
        let request = PageRequest {
            prefix: below.clone(),
            delimited: true,
            start_after: start_after.map(|name| format!("{below}{name}")),
            limit: limit.clamp(1, MAX_PAGE_NAMES),
        };
        let known = self.inner.memory.page(&spot.root, &request).await?;
        if known.value.names.is_empty() && start_after.is_none() && !spot.key.is_empty() {
            // Nothing below it: a file, or nothing at all.
            return Err(match self.stat_spot(&spot).await {
                Ok(_) => Error::new(ErrorKind::Invalid, format!("{path} is a file, not a directory")),
                Err(e) => e,
            });
        }
        Ok(page_of(&known, &below, |name| name.trim_end_matches('/')))
    }

    /// The keys below `mount` that begin with `prefix`, which may end inside a name; with `delimited`, those
    /// with a further slash behind it as one name each. At most `limit` (1 to 1,000), behind `start_after`, a
    /// key or prefix. Cancel-safe.
    ///
    /// # Errors
    /// As [`list`](Self::list); nothing that begins so is an empty page.
    pub async fn list_objects(
        &self,
        mount: &NamespacePath,
        prefix: &str,
        delimited: bool,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Page> {
        let spot = match self.inner.mounts.place(mount)? {
            Place::Names(_) => {
                let text = format!("{mount} has only names of origins in it: name one of them");
                return Err(Error::new(ErrorKind::Invalid, text));
            }
            Place::Spot(spot) => spot,
        };
        let below = if spot.key.is_empty() { String::new() } else { format!("{}/", spot.key) };
        let request = PageRequest {
            prefix: format!("{below}{prefix}"),
            delimited,
            start_after: start_after.map(|key| format!("{below}{key}")),
            limit: limit.clamp(1, MAX_PAGE_NAMES),
        };
        let known = self.inner.memory.page(&spot.root, &request).await?;
        Ok(page_of(&known, &below, |key| key))
    }

    /// The place in an origin that `path` leads to.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` where it is only names.
    pub(crate) fn spot(&self, path: &NamespacePath) -> Result<Spot> {
        match self.inner.mounts.place(path)? {
            Place::Spot(spot) => Ok(spot),
            Place::Names(_) => {
                Err(Error::new(ErrorKind::Invalid, format!("{path} is a directory, not a file")))
            }
        }
    }

    /// The file at a spot.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub(crate) async fn file(&self, spot: &Spot) -> Result<FileEntry> {
        match self.stat_spot(spot).await? {
            Entry::File(file) => Ok(file),
            Entry::Directory => {
                let text = format!("{:?} of {} is a directory, not a file", spot.key, spot.root);
                Err(Error::new(ErrorKind::Invalid, text))
            }
        }
    }

    async fn stat_spot(&self, spot: &Spot) -> Result<Entry> {
        if spot.key.is_empty() {
            let request = PageRequest { prefix: String::new(), delimited: true, start_after: None, limit: 1 };
            // A host without a listing is a directory all the same: its files have names.
            return match self.inner.memory.page(&spot.root, &request).await {
                Err(e) if !matches!(spot.root, crate::reference::Reference::Http(_)) => Err(e),
                _ => Ok(Entry::Directory),
            };
        }
        let missing = match self.inner.memory.file(&spot.root, &spot.key).await {
            Ok(known) => return Ok(Entry::File(FileEntry::of(&known.value))),
            Err(e) if e.kind() == ErrorKind::NotFound => e,
            Err(e) => return Err(e),
        };
        let prefix = format!("{}/", spot.key);
        let request = PageRequest { prefix, delimited: true, start_after: None, limit: 1 };
        match self.inner.memory.page(&spot.root, &request).await {
            Ok(known) if known.value.names.is_empty() => Err(missing),
            Ok(_) => Ok(Entry::Directory),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(missing),
            Err(e) => Err(e),
        }
    }

    /// What writes the object at `path`.
    ///
    /// # Errors
    /// As [`Origins::writer`].
    pub(crate) fn writer(&self, path: &NamespacePath) -> Result<Writer> {
        self.inner.origins.writer(&self.spot(path)?.reference()?)
    }

    /// Forgets what is remembered around `path`: something was written there.
    ///
    /// # Errors
    /// As [`spot`](Self::spot).
    pub(crate) fn forget_path(&self, path: &NamespacePath) -> Result<()> {
        self.spot(path).map(|spot| self.forget(&spot))
    }

    /// Forgets what is remembered of a spot: it turned out to be of yesterday.
    pub(crate) fn forget(&self, spot: &Spot) {
        self.inner.memory.forget(&spot.root);
    }
}

/// Whether a name ends as names of files do. Programs look whether `config.json` is there and believe what
/// they hear; `v1.0` and `llama-3.1-8b` are directories as well as not.
fn is_named_as_a_file(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    let Some((stem, end)) = name.rsplit_once('.') else { return false };
    let is_plain = end.len() <= 12 && end.bytes().all(|b| b.is_ascii_alphanumeric());
    !stem.is_empty() && is_plain && end.bytes().any(|b| b.is_ascii_alphabetic())
}

fn page_of(known: &Known<ListedPage>, below: &str, shown: impl Fn(&str) -> &str) -> Page {
    let cut = |key: &str| key.strip_prefix(below).unwrap_or(key).to_owned();
    let named = |name: &ListedName| {
        let entry = match name {
            ListedName::File(file) => Entry::File(FileEntry::of(file)),
            ListedName::Prefix(_) => Entry::Directory,
        };
        Named { name: shown(&cut(name.key())).to_owned(), entry }
    };
    let last = known.value.names.last().filter(|_| known.value.more);
    Page {
        names: known.value.names.iter().map(named).collect(),
        next: last.map(|name| cut(name.key())),
        stale: known.stale,
    }
}

fn page_of_names(mut names: Vec<String>, start_after: Option<&str>, limit: usize) -> Page {
    names.sort();
    names.retain(|name| start_after.is_none_or(|at| name.as_str() > at));
    let more = names.len() > limit;
    names.truncate(limit);
    Page {
        next: names.last().filter(|_| more).cloned(),
        names: names.into_iter().map(|name| Named { name, entry: Entry::Directory }).collect(),
        stale: false,
    }
}

#[cfg(test)]
mod tests;
