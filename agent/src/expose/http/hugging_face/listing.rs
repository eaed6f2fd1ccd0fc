//! What a repository holds, as the Hub's JSON tells it.
//!
//! Pure: files of a commit in, JSON out. What a large file's entry says of its pointer is computed, since a
//! pointer's text follows from digest and size. A directory's `oid` is its own here, not git's: that one cannot
//! be had without the modes of its files.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha1::{Digest as _, Sha1};

use crate::{
    manifest::{Blueprint, BlueprintFile},
    namespace::etag_of,
    reference::HubRepo,
    snapshot::Digest,
};

/// The most entries of one page, as the Hub has it.
pub(super) const PAGE_MAX: usize = 1000;

/// What a repository is, with its files at this commit.
pub(super) fn about(repo: &HubRepo, files: &Blueprint, said: &Map<String, Value>, with_sizes: bool) -> Value {
    let sibling = |file: &BlueprintFile| {
        let mut sibling = Map::from_iter([("rfilename".to_owned(), json!(file.path.as_str()))]);
        if with_sizes {
            let entry = entry_of(file);
            sibling.insert("size".to_owned(), json!(file.size));
            sibling.insert("blobId".to_owned(), entry["oid"].clone());
            if let Some(Digest::Sha256(digest)) = &file.digest {
                let pointer_bytes = entry["lfs"]["pointerSize"].clone();
                let lfs = json!({"sha256": hex(digest), "size": file.size, "pointerSize": pointer_bytes});
                sibling.insert("lfs".to_owned(), lfs);
            }
        }
        Value::Object(sibling)
    };
    let mut about = said.clone();
    for (name, value) in [("private", json!(false)), ("gated", json!(false)), ("disabled", json!(false))] {
        about.entry(name.to_owned()).or_insert(value);
    }
    for name in ["tags", "spaces"] {
        about.entry(name.to_owned()).or_insert_with(|| json!([]));
    }
    about.insert("id".to_owned(), json!(repo.name));
    about.insert("modelId".to_owned(), json!(repo.name));
    about.insert("sha".to_owned(), json!(files.revision));
    about.insert("siblings".to_owned(), files.files.iter().map(sibling).collect());
    Value::Object(about)
}

/// A page of a directory.
pub(super) struct TreePage {
    pub(super) entries: Vec<Value>,
    /// The last path, where there are more.
    pub(super) next: Option<String>,
}

/// What is in `directory`, or below it with `recursive`, behind the path `after`; `None` where there is no such
/// directory.
pub(super) fn tree(
    files: &Blueprint,
    directory: &str,
    recursive: bool,
    after: Option<&str>,
    limit: usize,
) -> Option<TreePage> {
    let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
    let mut names: BTreeMap<&str, Option<&BlueprintFile>> = BTreeMap::new();
    for file in &files.files {
        let path = file.path.as_str();
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        let directories = rest.match_indices('/').map(|(at, _)| &path[..prefix.len() + at]);
        if recursive {
            for directory in directories {
                names.entry(directory).or_insert(None);
            }
            names.insert(path, Some(file));
        } else {
            match directories.into_iter().next() {
                Some(directory) => names.entry(directory).or_insert(None),
                None => names.entry(path).or_insert(Some(file)),
            };
        }
    }
    if names.is_empty() && !directory.is_empty() {
        return None;
    }
    let mut behind = names.into_iter().filter(|(path, _)| after.is_none_or(|after| *path > after));
    let page: Vec<(&str, Option<&BlueprintFile>)> = behind.by_ref().take(limit.clamp(1, PAGE_MAX)).collect();
    let next = behind.next().and_then(|_| page.last()).map(|(path, _)| (*path).to_owned());
    let entries =
        page.into_iter().map(|(path, file)| file.map_or_else(|| directory_entry(files, path), entry_of));
    Some(TreePage { entries: entries.collect(), next })
}

/// The entries of those of `paths` that are there.
pub(super) fn paths_info(files: &Blueprint, paths: &[String]) -> Vec<Value> {
    let entry = |path: &str| {
        let at = files.files.binary_search_by(|file| file.path.as_str().cmp(path));
        let below = format!("{path}/");
        match at {
            Ok(at) => Some(entry_of(&files.files[at])),
            Err(_) if files.files.iter().any(|file| file.path.as_str().starts_with(&below)) => {
                Some(directory_entry(files, path))
            }
            Err(_) => None,
        }
    };
    let paths: BTreeSet<&str> = paths.iter().map(|path| path.trim_end_matches('/')).collect();
    paths.into_iter().filter_map(entry).collect()
}

fn entry_of(file: &BlueprintFile) -> Value {
    let tag = etag_of(file.path.as_str(), file.size, &file.version, file.digest.as_ref());
    let entry =
        |oid: String| json!({"type": "file", "oid": oid, "size": file.size, "path": file.path.as_str()});
    match &file.digest {
        Some(Digest::Sha256(digest)) => {
            let digest = hex(digest);
            let pointer = format!(
                "version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {}\n",
                file.size
            );
            let mut entry = entry(blob_oid(pointer.as_bytes()));
            entry["lfs"] = json!({"oid": digest, "size": file.size, "pointerSize": pointer.len()});
            entry
        }
        Some(Digest::GitSha1(_) | Digest::Md5(_)) | None => entry(tag),
    }
}

fn directory_entry(files: &Blueprint, path: &str) -> Value {
    let below = format!("{path}/");
    let mut hash = Sha1::new();
    for file in files.files.iter().filter(|file| file.path.as_str().starts_with(&below)) {
        hash.update(file.path.as_str());
        hash.update([0]);
        hash.update(etag_of(file.path.as_str(), file.size, &file.version, file.digest.as_ref()));
    }
    json!({"type": "directory", "oid": hex(&hash.finalize()), "size": 0, "path": path})
}

/// What git calls these bytes.
fn blob_oid(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
