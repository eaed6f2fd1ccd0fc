//! What a file was when the store last had its hands on it. Knows nothing of artifacts.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

/// What tells a file from every other one, and from itself after somebody wrote to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds. An inode's number is used again soon after it was unlinked.
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }

    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode, self.bytes) == (other.device, other.inode, other.bytes)
    }
}
