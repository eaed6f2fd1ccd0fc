//! An open directory: a page of names at a time, however many there are.
//!
//! Positions are counted: 0 is `.`, 1 is `..`, then the names in their order. A reader that goes back is taken to
//! the page that it was on then; one that begins anew sees the directory as it is now. Names that no path can
//! have are left out: one of them would make the kernel refuse the whole page.

use std::collections::HashSet;

use crate::{
    error::Result,
    namespace::{Entry, Named, Namespace, NamespacePath},
    origin::catalogue::MAX_PAGE_NAMES,
};

/// The longest name that programs are prepared for.
pub(super) const NAME_MAX_BYTES: usize = 255;
/// Positions of `.` and `..`.
const DOTS: u64 = 2;

/// Where a page begins.
#[derive(Debug)]
struct Start {
    /// Names before it.
    first: u64,
    /// What to list behind.
    after: Option<String>,
}

/// A reader's place in a directory.
#[derive(Debug)]
pub(super) struct Cursor {
    path: NamespacePath,
    starts: Vec<Start>,
    /// The page of `starts` that `names` are.
    loaded: Option<usize>,
    names: Vec<Named>,
    next: Option<String>,
}

impl Cursor {
    pub(super) fn new(path: NamespacePath) -> Self {
        Self {
            path,
            starts: vec![Start { first: 0, after: None }],
            loaded: None,
            names: Vec::new(),
            next: None,
        }
    }

    /// The names from `position` (2 or more) to the end of their page; none at the end of the directory.
    ///
    /// # Errors
    /// As listing.
    pub(super) async fn names(&mut self, namespace: &Namespace, position: u64) -> Result<&[Named]> {
        let index = position.saturating_sub(DOTS);
        loop {
            let at = self.starts.partition_point(|start| start.first <= index).saturating_sub(1);
            if self.loaded != Some(at) {
                self.load(namespace, at).await?;
            }
            let first = self.starts[at].first;
            let end = first + self.names.len() as u64;
            if index < end {
                return Ok(&self.names[(index - first) as usize..]);
            }
            match self.next.take() {
                Some(next) => {
                    self.starts.push(Start { first: end, after: Some(next) });
                    self.loaded = None;
                }
                None => return Ok(&[]),
            }
        }
    }

    /// Lets the next reading begin anew.
    pub(super) fn rewind(&mut self) {
        self.starts.truncate(1);
        self.loaded = None;
    }

    async fn load(&mut self, namespace: &Namespace, at: usize) -> Result<()> {
        let page = namespace.list(&self.path, self.starts[at].after.as_deref(), MAX_PAGE_NAMES).await?;
        // Later pages may have moved.
        self.starts.truncate(at + 1);
        self.names = presentable(&self.path, page.names);
        self.next = page.next;
        self.loaded = Some(at);
        Ok(())
    }
}

/// Names that a path can have, each once: an object and a prefix of one name are shown as the object.
fn presentable(directory: &NamespacePath, names: Vec<Named>) -> Vec<Named> {
    let files: HashSet<String> = names
        .iter()
        .filter(|named| matches!(named.entry, Entry::File(_)))
        .map(|named| named.name.clone())
        .collect();
    names
        .into_iter()
        .filter(|named| match named.entry {
            Entry::File(_) => true,
            Entry::Directory => !files.contains(&named.name),
        })
        .filter(|named| child(directory, &named.name).is_some())
        .collect()
}

/// What is called `name` in a directory; `None` for what no name can be.
pub(super) fn child(directory: &NamespacePath, name: &str) -> Option<NamespacePath> {
    let is_name = (1..=NAME_MAX_BYTES).contains(&name.len()) && !name.contains('/');
    if is_name { directory.join(name).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, entry: Entry) -> Named {
        Named { name: name.to_owned(), entry }
    }

    fn file() -> Entry {
        Entry::File(crate::namespace::FileEntry {
            bytes: 1,
            etag: "1".to_owned(),
            modified: None,
            version: crate::snapshot::FileVersion::default(),
            digest: None,
        })
    }

    #[test]
    fn names_that_no_path_can_have_are_left_out() {
        let long = "x".repeat(256);
        let hostile = ["..", ".", "", "a/b", "a\0b", "a\nb", "a\\b", &long];
        let names = hostile.iter().map(|name| named(name, file())).chain([named("ü b", file())]).collect();
        let shown = presentable(&"/m".parse().unwrap(), names);
        assert_eq!(shown.iter().map(|named| named.name.as_str()).collect::<Vec<_>>(), ["ü b"]);
    }

    #[test]
    fn an_object_hides_the_prefix_of_its_name() {
        let names = vec![named("a", file()), named("a-b", file()), named("a", Entry::Directory)];
        let shown = presentable(&"/m".parse().unwrap(), names);
        assert_eq!(shown.len(), 2);
        assert!(shown.iter().all(|named| matches!(named.entry, Entry::File(_))));
    }
}
