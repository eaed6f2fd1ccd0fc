//! Open files and directories, by the number that the kernel has for each.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fuser::BackingId;
use parking_lot::Mutex;

use super::{directories::Cursor, inodes};
use crate::{reader::LazyFile, store::OpenedFile};

/// An inode of this mount.
pub(super) type Inode = inodes::Inode<Backing>;

/// A sealed file that the kernel reads by itself. Lives as long as a handle of it: the kernel answers EIO
/// without.
pub(super) struct Backing {
    pub(super) id: BackingId,
    pub(super) opened: OpenedFile,
}

/// One open file.
pub(super) struct Handle {
    pub(super) inode: Arc<Inode>,
    pub(super) source: Source,
}

/// Where its bytes are.
pub(super) enum Source {
    /// At the reader, which may have to wait for them.
    Reader(LazyFile),
    /// With the kernel.
    Kernel(Arc<Backing>),
}

impl Handle {
    /// The published file, as far as it is known to be.
    pub(super) fn sealed(&self) -> Option<OpenedFile> {
        match &self.source {
            Source::Reader(file) => file.sealed(),
            Source::Kernel(backing) => Some(backing.opened.clone()),
        }
    }
}

/// What the kernel has open. Bounded by the descriptors of those who open.
#[derive(Default)]
pub(super) struct Handles {
    next: AtomicU64,
    files: Mutex<HashMap<u64, Arc<Handle>>>,
    directories: Mutex<HashMap<u64, Arc<tokio::sync::Mutex<Cursor>>>>,
}

impl Handles {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn open_file(&self, handle: Handle) -> u64 {
        let number = self.number();
        self.files.lock().insert(number, Arc::new(handle));
        number
    }

    pub(super) fn file(&self, number: u64) -> Option<Arc<Handle>> {
        self.files.lock().get(&number).cloned()
    }

    /// Some open handle of an inode.
    pub(super) fn any_of(&self, ino: u64) -> Option<Arc<Handle>> {
        self.files.lock().values().find(|handle| handle.inode.ino == ino).cloned()
    }

    /// Ends a handle, and with the last one of an inode its way of being open.
    pub(super) fn close_file(&self, number: u64) {
        let closed = self.files.lock().remove(&number);
        if let Some(handle) = closed {
            handle.inode.opening.lock().release();
        }
    }

    pub(super) fn open_directory(&self, cursor: Cursor) -> u64 {
        let number = self.number();
        self.directories.lock().insert(number, Arc::new(tokio::sync::Mutex::new(cursor)));
        number
    }

    pub(super) fn directory(&self, number: u64) -> Option<Arc<tokio::sync::Mutex<Cursor>>> {
        self.directories.lock().get(&number).cloned()
    }

    pub(super) fn close_directory(&self, number: u64) {
        self.directories.lock().remove(&number);
    }
}
