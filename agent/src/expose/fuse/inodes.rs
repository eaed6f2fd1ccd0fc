//! Inodes: numbers for names, for as long as the kernel remembers them.
//!
//! An inode is a directory or one version of one file: its size and bytes never change, so the kernel may cache
//! both for as long as it likes. A name whose file was replaced, or was sealed while it is open, leads to a
//! new inode; the old one stays for those who have it. Numbers are never used twice. Every lookup is counted and
//! the kernel gives each back; beyond [`INODES_MAX`] it is asked to. Does no I/O.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;

use super::opening::Opening;
use crate::namespace::{Entry, NamespacePath};

/// The root's number, by the protocol.
pub(super) const ROOT: u64 = 1;
/// The kernel is asked to forget names beyond so many: about 50 MB of this process.
pub(super) const INODES_MAX: usize = 1 << 17;
/// So many at a time.
const FORGET_AT_ONCE: usize = 4096;

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File(FileFacts),
}

/// A version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileFacts {
    pub(super) bytes: u64,
    pub(super) etag: Box<str>,
    pub(super) modified: Option<SystemTime>,
}

impl Kind {
    /// Whether it is the same version. Listings tell its date more or less exactly than answers for one file.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Directory, Self::Directory) => true,
            (Self::File(one), Self::File(other)) => (one.bytes, &one.etag) == (other.bytes, &other.etag),
            _ => false,
        }
    }
}

impl From<&Entry> for Kind {
    fn from(entry: &Entry) -> Self {
        match entry {
            Entry::Directory => Self::Directory,
            Entry::File(file) => Self::File(FileFacts {
                bytes: file.bytes,
                etag: file.etag.as_str().into(),
                modified: file.modified,
            }),
        }
    }
}

/// A directory, or a version of a file; `B` is what stands behind one that is passed through.
#[derive(Debug)]
pub(super) struct Inode<B> {
    pub(super) ino: u64,
    pub(super) path: NamespacePath,
    pub(super) kind: Kind,
    pub(super) opening: Mutex<Opening<B>>,
}

struct Slot<B> {
    inode: Arc<Inode<B>>,
    lookups: u64,
}

/// All inodes that the kernel knows.
pub(super) struct Inodes<B> {
    by_number: BTreeMap<u64, Slot<B>>,
    /// Where a name leads now.
    current: HashMap<NamespacePath, u64>,
    next: u64,
    /// Up to here the kernel was asked to forget.
    swept: u64,
}

impl<B> Inodes<B> {
    pub(super) fn new() -> Self {
        let root = Inode {
            ino: ROOT,
            path: NamespacePath::root(),
            kind: Kind::Directory,
            opening: Mutex::default(),
        };
        Self {
            by_number: BTreeMap::from([(ROOT, Slot { inode: Arc::new(root), lookups: 1 })]),
            current: HashMap::from([(NamespacePath::root(), ROOT)]),
            next: ROOT + 1,
            swept: ROOT,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// The inode with a number; `None` for one that the kernel gave back.
    pub(super) fn find(&self, ino: u64) -> Option<Arc<Inode<B>>> {
        self.by_number.get(&ino).map(|slot| slot.inode.clone())
    }

    /// The number that a name has now, if it has any.
    pub(super) fn number(&self, path: &NamespacePath) -> Option<u64> {
        self.current.get(path).copied()
    }

    /// The inode of what is at `path`, with one lookup more.
    pub(super) fn enter(&mut self, path: &NamespacePath, kind: Kind) -> Arc<Inode<B>> {
        if let Some(slot) = self.current.get(path).and_then(|ino| self.by_number.get_mut(ino))
            && slot.inode.kind.is_same(&kind)
        {
            slot.lookups += 1;
            return slot.inode.clone();
        }
        let ino = self.next;
        self.next += 1;
        let inode = Arc::new(Inode { ino, path: path.clone(), kind, opening: Mutex::default() });
        self.by_number.insert(ino, Slot { inode: inode.clone(), lookups: 1 });
        self.current.insert(path.clone(), ino);
        inode
    }

    /// The kernel gives lookups back.
    pub(super) fn forget(&mut self, ino: u64, lookups: u64) {
        let Some(slot) = self.by_number.get_mut(&ino).filter(|_| ino != ROOT) else { return };
        slot.lookups = slot.lookups.saturating_sub(lookups);
        if slot.lookups == 0
            && let Some(slot) = self.by_number.remove(&ino)
        {
            self.supersede(&slot.inode);
        }
    }

    /// Whether the name of an inode still leads to it.
    pub(super) fn is_current(&self, inode: &Inode<B>) -> bool {
        self.number(&inode.path) == Some(inode.ino)
    }

    /// Lets the next lookup of its name make a new inode.
    pub(super) fn supersede(&mut self, inode: &Inode<B>) {
        if self.is_current(inode) {
            self.current.remove(&inode.path);
        }
    }

    /// Names that the kernel should forget, each with the inode of its directory: those looked up longest ago
    /// that nobody has open, where there are too many at all.
    pub(super) fn surplus(&mut self, most: usize) -> Vec<(u64, String)> {
        let surplus = self.len().saturating_sub(most).min(FORGET_AT_ONCE);
        let mut names = Vec::new();
        for (ino, slot) in self.by_number.range(self.swept + 1..) {
            if names.len() == surplus {
                return names;
            }
            self.swept = *ino;
            let inode = &slot.inode;
            let is_idle = matches!(inode.kind, Kind::File(_)) && !inode.opening.lock().is_open();
            let parent = inode.path.parent().and_then(|parent| self.current.get(&parent).copied());
            if let Some(parent) = parent.filter(|_| is_idle) {
                names.push((parent, inode.path.name().to_owned()));
            }
        }
        // Round again the next time.
        self.swept = ROOT;
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(etag: &str) -> Kind {
        Kind::File(FileFacts { bytes: 1, etag: etag.into(), modified: None })
    }

    fn path(text: &str) -> NamespacePath {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_keeps_its_number_until_every_lookup_was_given_back() {
        let mut inodes = Inodes::<()>::new();
        let first = inodes.enter(&path("/m/a"), file("1")).ino;
        assert_eq!(inodes.enter(&path("/m/a"), file("1")).ino, first);
        inodes.forget(first, 1);
        assert!(inodes.find(first).is_some());
        inodes.forget(first, 1);
        assert!(inodes.find(first).is_none() && inodes.number(&path("/m/a")).is_none());
        assert_ne!(inodes.enter(&path("/m/a"), file("1")).ino, first, "a number is used once");
        inodes.forget(ROOT, 100);
        assert!(inodes.find(ROOT).is_some());
    }

    #[test]
    fn another_version_has_another_number_and_the_old_one_stays_for_those_who_have_it() {
        let mut inodes = Inodes::<()>::new();
        let old = inodes.enter(&path("/m/a"), file("1"));
        let new = inodes.enter(&path("/m/a"), file("2"));
        assert_ne!(old.ino, new.ino);
        assert!(inodes.is_current(&new) && !inodes.is_current(&old));
        assert!(inodes.find(old.ino).is_some());
        inodes.forget(old.ino, 1);
        assert!(inodes.is_current(&new), "forgetting the old one leaves the name alone");
        inodes.supersede(&new);
        assert_ne!(inodes.enter(&path("/m/a"), file("2")).ino, new.ino);
    }

    #[test]
    fn the_kernel_is_asked_to_forget_the_oldest_names_that_nobody_has_open() {
        let mut inodes = Inodes::<()>::new();
        let directory = inodes.enter(&path("/m"), Kind::Directory).ino;
        let all: Vec<_> = (0..10).map(|n| inodes.enter(&path(&format!("/m/{n}")), file("1"))).collect();
        let _ = all[0].opening.lock().open(None::<()>, true, |()| None);
        assert!(inodes.surplus(12).is_empty());
        let names = inodes.surplus(9);
        assert_eq!(names, [1, 2, 3].map(|n: u32| (directory, n.to_string())));
        // It did not: others are tried first.
        assert_eq!(inodes.surplus(10)[0].1, "4");
    }
}
