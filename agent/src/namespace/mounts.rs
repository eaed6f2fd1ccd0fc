//! Mounts: which names stand for which origins.
//!
//! Names of the configuration come first; beside them every scheme is a name: `/s3/bucket/key`,
//! `/hf/org/name/revision/file`. Pure: says where a path leads, not whether anything is there.

use std::collections::BTreeMap;

use url::Url;

use super::NamespacePath;
use crate::{
    error::{Error, ErrorKind, Result},
    reference::{Bucket, HubKind, HubRepo, Reference},
};

/// Origins by name, as the configuration has them.
pub type MountTable = BTreeMap<String, String>;

/// The names that every agent has, each for the references of one kind.
const SCHEMES: [&str; 7] = ["az", "gs", "hdfs", "hf", "http", "https", "s3"];

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A directory that consists of names alone: the root, `/s3`, `/hf/org`. What is known to be in it.
    Names(Vec<String>),
    /// A place in an origin.
    Spot(Spot),
}

/// A key in the tree of names of an origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Spot {
    /// What is listed: a whole bucket, a repository at a revision, a directory, a host.
    pub(crate) root: Reference,
    /// Below it, without slashes at either end; empty for the root itself.
    pub(crate) key: String,
}

/// The mounts of an agent.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounts {
    named: BTreeMap<String, Reference>,
}

impl Mounts {
    /// # Errors
    /// `Invalid` for a name that is no single part or that a scheme has, and for a reference that cannot be
    /// mounted.
    pub(super) fn new(table: &MountTable) -> Result<Self> {
        let mut named = BTreeMap::new();
        for (name, reference) in table {
            let refuse = |why: String| Err(Error::new(ErrorKind::Invalid, format!("mounts.{name}: {why}")));
            let is_part = format!("/{name}").parse::<NamespacePath>().is_ok_and(|p| p.name() == name);
            if !is_part || !(1..=63).contains(&name.len()) {
                return refuse("a mount is called by one part of a path, of at most 63 bytes".to_owned());
            }
            if SCHEMES.contains(&name.as_str()) {
                return refuse(format!("/{name} stands for every {name}:// reference already"));
            }
            let reference: Reference =
                reference.parse().map_err(|e: Error| e.context(format!("mounts.{name}")))?;
            if let Reference::Ember(_) = reference {
                return refuse("ember:// names content, not a place".to_owned());
            }
            named.insert(name.clone(), reference);
        }
        Ok(Self { named })
    }

    /// Names and what they stand for.
    pub(super) fn named(&self) -> impl Iterator<Item = (&str, &Reference)> {
        self.named.iter().map(|(name, reference)| (name.as_str(), reference))
    }

    /// Where `path` leads.
    ///
    /// # Errors
    /// `NotFound` for a name that nothing is mounted under; `Invalid` for parts that cannot name a bucket,
    /// repository or host.
    pub(super) fn place(&self, path: &NamespacePath) -> Result<Place> {
        let parts: Vec<&str> = path.parts().collect();
        let Some((&first, rest)) = parts.split_first() else {
            let names = self.named.keys().map(String::as_str).chain(SCHEMES);
            return Ok(Place::Names(names.map(str::to_owned).collect()));
        };
        if let Some(reference) = self.named.get(first) {
            return Ok(Place::Spot(below(reference, rest)));
        }
        if !SCHEMES.contains(&first) {
            let text = format!("nothing is mounted at /{first}: name it in [mounts]");
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        by_scheme(first, rest).map_err(|e| e.context(format!("path {path}")))
    }
}

/// The key that `rest` names below a mounted reference. Buckets are listed from their root, so that a mount
/// of a bucket and one of a prefix in it share what is known.
fn below(reference: &Reference, rest: &[&str]) -> Spot {
    let rest = rest.join("/");
    let within = |prefix: &str| match (prefix, rest.as_str()) {
        ("", rest) => rest.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, rest) => format!("{prefix}/{rest}"),
    };
    let bare = |bucket: &Bucket| Bucket { name: bucket.name.clone(), prefix: String::new() };
    let (root, key) = match reference {
        Reference::S3(bucket) => (Reference::S3(bare(bucket)), within(&bucket.prefix)),
        Reference::Gs(bucket) => (Reference::Gs(bare(bucket)), within(&bucket.prefix)),
        Reference::Az { account, bucket } => {
            (Reference::Az { account: account.clone(), bucket: bare(bucket) }, within(&bucket.prefix))
        }
        other => (other.clone(), rest),
    };
    Spot { root, key }
}

/// Where a reference stands in the tree of its origin.
pub(super) fn spot_of(reference: &Reference) -> Spot {
    below(reference, &[])
}

fn by_scheme(scheme: &str, rest: &[&str]) -> Result<Place> {
    // Parsed as a person would write it, so that the same names are refused.
    let spot =
        |text: String, rest: &[&str]| Ok(Place::Spot(Spot { root: text.parse()?, key: rest.join("/") }));
    match (scheme, rest) {
        (_, []) => Ok(Place::Names(Vec::new())),
        ("s3" | "gs" | "az", [bucket, rest @ ..]) => spot(format!("{scheme}://{bucket}"), rest),
        ("http" | "https", [host, rest @ ..]) => spot(format!("{scheme}://{host}/"), rest),
        ("hdfs", [host, rest @ ..]) => spot(format!("hdfs://{host}/"), rest),
        (_, ["datasets", rest @ ..]) => hub(HubKind::Dataset, rest),
        (_, ["spaces", rest @ ..]) => hub(HubKind::Space, rest),
        (_, rest) => hub(HubKind::Model, rest),
    }
}

/// `org/name/revision/file`; a slash in a revision is written `%2F`.
fn hub(kind: HubKind, rest: &[&str]) -> Result<Place> {
    match rest {
        [] | [_] => Ok(Place::Names(Vec::new())),
        [_, _] => Ok(Place::Names(vec!["main".to_owned()])),
        [org, name, revision, rest @ ..] => {
            let prefix = match kind {
                HubKind::Model => "",
                HubKind::Dataset => "datasets/",
                HubKind::Space => "spaces/",
            };
            let root: Reference = format!("hf://{prefix}{org}/{name}@{revision}").parse()?;
            Ok(Place::Spot(Spot { root, key: rest.join("/") }))
        }
    }
}

impl Spot {
    /// The reference of what is at this key: a directory or one object.
    ///
    /// # Errors
    /// `Invalid` for a key that no reference can name.
    pub(crate) fn reference(&self) -> Result<Reference> {
        let refuse = || {
            let text =
                format!("{:?} below {} has characters that no reference can have", self.key, self.root);
            Error::new(ErrorKind::Invalid, text)
        };
        let within = |bucket: &Bucket| Bucket { name: bucket.name.clone(), prefix: self.key.clone() };
        let reference = match &self.root {
            Reference::S3(bucket) => Reference::S3(within(bucket)),
            Reference::Gs(bucket) => Reference::Gs(within(bucket)),
            Reference::Az { account, bucket } => {
                Reference::Az { account: account.clone(), bucket: within(bucket) }
            }
            Reference::File(root) if self.key.is_empty() => Reference::File(root.clone()),
            Reference::File(root) => Reference::File(root.join(&self.key)),
            Reference::Http(base) => Reference::Http(extended(base, &self.key).ok_or_else(refuse)?),
            Reference::Hdfs(base) => Reference::Hdfs(extended(base, &self.key).ok_or_else(refuse)?),
            Reference::Hub(_) | Reference::Ember(_) => self.root.clone(),
        };
        // A pull is asked for in words: they must mean this very thing.
        match reference.to_string().parse::<Reference>() {
            Ok(again) if again == reference => Ok(reference),
            _ => Err(refuse()),
        }
    }

    /// The directory of this key; the root's own is empty.
    pub(crate) fn directory(&self) -> Self {
        let directory = self.key.rsplit_once('/').map_or("", |(directory, _)| directory);
        Self { root: self.root.clone(), key: directory.to_owned() }
    }

    /// The repository and revision, for one of a Hub.
    pub(crate) fn repository(&self) -> Option<&HubRepo> {
        match &self.root {
            Reference::Hub(repo) => Some(repo),
            _ => None,
        }
    }
}

fn extended(base: &Url, key: &str) -> Option<Url> {
    let mut url = base.clone();
    if !key.is_empty() {
        url.path_segments_mut().ok()?.pop_if_empty().extend(key.split('/'));
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts() -> Mounts {
        let table = [("models", "s3://bucket/some/prefix"), ("whole", "gs://all"), ("disk", "file:///srv/m")];
        Mounts::new(&table.iter().map(|(n, r)| ((*n).to_owned(), (*r).to_owned())).collect()).unwrap()
    }

    fn spot(path: &str) -> (String, String) {
        match mounts().place(&path.parse().unwrap()).unwrap() {
            Place::Spot(spot) => (spot.root.to_string(), spot.key),
            Place::Names(names) => panic!("{path}: {names:?}"),
        }
    }

    #[test]
    fn a_path_leads_to_a_key_below_the_root_of_its_origin() {
        for (path, root, key) in [
            ("/models", "s3://bucket", "some/prefix"),
            ("/models/llama/a.safetensors", "s3://bucket", "some/prefix/llama/a.safetensors"),
            ("/whole/x", "gs://all", "x"),
            ("/disk/x/y", "file:///srv/m", "x/y"),
            ("/s3/bucket/a/b", "s3://bucket", "a/b"),
            ("/hf/org/name/main/a/b.json", "hf://org/name", "a/b.json"),
            ("/hf/datasets/org/name/refs%2Fpr%2F1/x", "hf://datasets/org/name@refs/pr/1", "x"),
            ("/https/host:8443/a/b", "https://host:8443/", "a/b"),
            ("/hdfs/node:8020/a/b", "hdfs://node:8020", "a/b"),
        ] {
            assert_eq!(spot(path), (root.to_owned(), key.to_owned()), "{path}");
        }
    }

    #[test]
    fn what_is_only_names_has_no_origin() {
        for path in ["/", "/s3", "/hf", "/hf/org", "/hf/org/name", "/hf/datasets/org"] {
            assert!(matches!(mounts().place(&path.parse().unwrap()).unwrap(), Place::Names(_)), "{path}");
        }
        let Place::Names(root) = mounts().place(&NamespacePath::root()).unwrap() else { panic!() };
        assert!(root.contains(&"models".to_owned()) && root.contains(&"s3".to_owned()));
        let missing = mounts().place(&"/nothing/x".parse().unwrap()).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(mounts().place(&"/s3/..evil/x".parse().unwrap()).is_err());
    }

    #[test]
    fn a_mount_is_one_part_that_no_scheme_has() {
        for (name, reference) in [
            ("a/b", "s3://b"),
            ("..", "s3://b"),
            ("s3", "s3://b"),
            ("", "s3://b"),
            ("m", "nope://b"),
            ("m", "s3://"),
        ] {
            let table = MountTable::from([(name.to_owned(), reference.to_owned())]);
            assert_eq!(Mounts::new(&table).unwrap_err().kind(), ErrorKind::Invalid, "{name} {reference}");
        }
    }

    #[test]
    fn a_key_is_named_by_the_reference_that_a_person_would_write() {
        let of = |path: &str| match mounts().place(&path.parse().unwrap()).unwrap() {
            Place::Spot(spot) => spot.reference().map(|r| r.to_string()),
            Place::Names(_) => panic!("{path}"),
        };
        assert_eq!(of("/models/llama").unwrap(), "s3://bucket/some/prefix/llama");
        assert_eq!(of("/https/host/a b/c").unwrap(), "https://host/a%20b/c");
        assert_eq!(of("/disk/x").unwrap(), "file:///srv/m/x");
        assert!(of("/models/what?").is_err());
    }
}
