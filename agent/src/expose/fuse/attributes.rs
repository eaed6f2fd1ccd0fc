//! What `stat` and `statfs` say.

use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, ReplyStatfs};

use super::inodes::Kind;
use crate::store::Space;

/// Not larger: programs take it for what a read costs, and the kernel for the size of its blocks.
const BLOCK_BYTES: u32 = 4096;

/// Whose files these are, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
    since: SystemTime,
}

impl Owner {
    /// The agent itself.
    pub(super) fn of_process() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { uid: uid.as_raw(), gid: gid.as_raw(), since: SystemTime::now() }
    }

    /// The attributes of an inode; those of a version never change.
    pub(super) fn attributes(&self, ino: u64, kind: &Kind) -> FileAttr {
        let (size, at, kind, perm) = match kind {
            Kind::Directory => (0, self.since, FileType::Directory, 0o555),
            Kind::File(file) => {
                (file.bytes, file.modified.unwrap_or(UNIX_EPOCH), FileType::RegularFile, 0o444)
            }
        };
        FileAttr {
            ino: INodeNo(ino),
            size,
            // All of them, here or not: programs take a gap for zeros and skip it.
            blocks: size.div_ceil(512),
            atime: at,
            mtime: at,
            ctime: at,
            crtime: at,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }
}

/// The store's space: what the quota leaves, where the disk has it.
pub(super) fn statfs(space: &Space, reply: ReplyStatfs) {
    let block = u64::from(BLOCK_BYTES);
    let left = space.quota_bytes.saturating_sub(space.used_bytes).min(space.free_bytes);
    let total = space.used_bytes + left;
    reply.statfs(total / block, left / block, left / block, 0, 0, BLOCK_BYTES, 255, BLOCK_BYTES);
}
