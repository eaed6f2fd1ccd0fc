//! What artifacts on this disk know of their origins: names and sizes for when the origin is gone.
//!
//! Used only where nothing is remembered from before, after a restart without the origin above all. Says what
//! was there when the artifacts were listed, nothing about what was never pulled.

use std::collections::BTreeMap;

use super::{Spot, mounts::spot_of};
use crate::{
    origin::catalogue::{Listed, ListedName, ListedPage, PageRequest},
    reference::Reference,
    store::Store,
};

/// The file with this key, as an artifact here has it.
pub(super) fn file(store: &Store, root: &Reference, key: &str) -> Option<Listed> {
    let mut found = None;
    each_file(store, root, |listed| {
        if listed.key == key {
            found = Some(listed);
        }
    });
    found
}

/// A page of the files of artifacts here; `None` where there is none of that root at all.
pub(super) fn page(store: &Store, root: &Reference, request: &PageRequest) -> Option<ListedPage> {
    let mut names: BTreeMap<String, ListedName> = BTreeMap::new();
    let (mut any, mut more) = (false, false);
    each_file(store, root, |listed| {
        any = true;
        let Some(rest) = listed.key.strip_prefix(&request.prefix) else { return };
        let name = match rest.split_once('/') {
            Some((directory, _)) if request.delimited => {
                ListedName::Prefix(format!("{}{directory}/", request.prefix))
            }
            _ => ListedName::File(listed),
        };
        if request.start_after.as_deref().is_some_and(|at| name.key() <= at) {
            return;
        }
        names.insert(name.key().to_owned(), name);
        if names.len() > request.limit {
            names.pop_last();
            more = true;
        }
    });
    any.then(|| ListedPage { names: names.into_values().collect(), more })
}

fn each_file(store: &Store, root: &Reference, mut see: impl FnMut(Listed)) {
    for swarm in store.swarms() {
        let Some(blueprint) = store.blueprint(swarm) else { continue };
        let Ok(reference) = blueprint.reference.parse::<Reference>() else { continue };
        let Spot { root: of, key: prefix } = spot_of(&reference);
        let Some(prefix) = below(&of, root, &prefix, blueprint.revision.as_deref()) else { continue };
        for file in &blueprint.files {
            let key = match prefix.as_str() {
                "" => file.path.to_string(),
                // One object by itself has its own name for a path.
                prefix if is_lone(prefix, blueprint.files.len(), file.path.as_str()) => prefix.to_owned(),
                prefix => format!("{prefix}/{}", file.path),
            };
            let (size, version, digest) = (file.size, file.version.clone(), file.digest);
            see(Listed { key, size, version, digest, modified: None });
        }
    }
}

fn is_lone(prefix: &str, files: usize, path: &str) -> bool {
    files == 1 && prefix.rsplit('/').next() == Some(path)
}

/// The key below `root` at which an artifact with the root `of` stands, if it does.
fn below(of: &Reference, root: &Reference, prefix: &str, revision: Option<&str>) -> Option<String> {
    if of == root {
        return Some(prefix.to_owned());
    }
    match (of, root) {
        (Reference::Hub(of), Reference::Hub(root)) => {
            let is_same = (of.kind, &of.name) == (root.kind, &root.name);
            (is_same && revision == Some(root.revision.as_str())).then(String::new)
        }
        (Reference::File(of), Reference::File(root)) => {
            Some(of.strip_prefix(root).ok()?.to_str()?.to_owned())
        }
        (Reference::Http(of), Reference::Http(root)) => {
            let below = of.as_str().strip_prefix(root.as_str())?;
            let below =
                percent_encoding::percent_decode_str(below.trim_end_matches('/')).decode_utf8().ok()?;
            Some(below.into_owned())
        }
        (Reference::Hdfs(of), Reference::Hdfs(root)) => {
            let below = of.as_str().strip_prefix(root.as_str().trim_end_matches('/'))?;
            let is_border = below.is_empty() || below.starts_with('/');
            let below = percent_encoding::percent_decode_str(below.trim_matches('/')).decode_utf8().ok()?;
            is_border.then(|| below.into_owned())
        }
        _ => None,
    }
}
