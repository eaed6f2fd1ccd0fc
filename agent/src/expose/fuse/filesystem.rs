//! The kernel's requests, as they come in.
//!
//! What is known by heart (attributes, forgetting, bytes in the page cache) is answered on the thread that the
//! request came on; everything else is a task of the runtime's.

use std::{ffi::OsStr, io, sync::Arc};

use fuser::{
    Errno, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner,
    OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs,
    ReplyXattr, Request,
};

use super::{
    answering::{Shared, TTL, refuse},
    attributes,
    directories::{self, Cursor},
    inodes::Kind,
    xattrs,
};
use crate::{
    error::ErrorKind,
    metrics::{self, Door},
    page_cache,
    reader::READ_MAX_BYTES,
};

/// Reads of the kernel's own read-ahead that it sends at a time.
const BACKGROUND_MAX: u16 = 64;
/// Backing files may be on a stacked file system, such as a container's overlay.
const STACK_DEPTH: u32 = 2;

/// The mount as the kernel's requests see it.
pub(super) struct Filesystem {
    shared: Arc<Shared>,
}

impl Filesystem {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl fuser::Filesystem for Filesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What an older kernel lacks is done without.
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        // Reads as large as the reader gives in one piece.
        let _ = config.set_max_write(READ_MAX_BYTES as u32);
        let _ = config.set_max_background(BACKGROUND_MAX);
        let may = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
        let passes_through = may && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        if passes_through {
            let _ = config.set_max_stack_depth(STACK_DEPTH);
        }
        self.shared.pass_through(passes_through);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(directory) = self.shared.inode(parent) else { return reply.error(Errno::ESTALE) };
        if directory.kind != Kind::Directory {
            return reply.error(Errno::ENOTDIR);
        }
        let Some(path) = name.to_str().and_then(|name| directories::child(&directory.path, name)) else {
            let is_long = name.len() > directories::NAME_MAX_BYTES;
            return reply.error(if is_long { Errno::ENAMETOOLONG } else { Errno::ENOENT });
        };
        let shared = self.shared.clone();
        self.shared.spawn(async move {
            match shared.lookup(&path).await {
                Ok(inode) => {
                    let attributes = shared.owner.attributes(inode.ino, &inode.kind);
                    reply.entry(&TTL, &attributes, Generation(0));
                }
                // What no name can be is not there.
                Err(e) if e.kind() == ErrorKind::Invalid => reply.error(Errno::ENOENT),
                Err(e) => reply.error(refuse("look up", &path, &e)),
            }
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.shared.inodes.lock().forget(ino.0, lookups);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.shared.inode(ino) {
            Some(inode) => reply.attr(&TTL, &self.shared.owner.attributes(inode.ino, &inode.kind)),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let Some(inode) = self.shared.inode(ino) else { return reply.error(Errno::ESTALE) };
        let shared = self.shared.clone();
        self.shared.spawn(async move { shared.open(inode, reply).await });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(handle) = self.shared.handles.file(handle.0) else { return reply.error(Errno::EBADF) };
        if let Some(opened) = handle.sealed() {
            let range = offset.min(opened.bytes)..(offset + u64::from(size)).min(opened.bytes);
            if let Some(bytes) = page_cache::read_if_resident(&opened.file, &range) {
                metrics::read(Door::Fuse, metrics::FoundBytes::Sealed);
                metrics::served_bytes(Door::Fuse, bytes.len() as u64);
                return reply.data(&bytes);
            }
        }
        let shared = self.shared.clone();
        self.shared.spawn(async move {
            match shared.read(&handle, offset, size as usize).await {
                Ok(bytes) => {
                    metrics::served_bytes(Door::Fuse, bytes.len() as u64);
                    reply.data(&bytes);
                }
                Err(e) => reply.error(refuse("read", &handle.inode.path, &e)),
            }
        });
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.handles.close_file(handle.0);
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let Some(directory) = self.shared.inode(ino) else { return reply.error(Errno::ESTALE) };
        let handle = self.shared.handles.open_directory(Cursor::new(directory.path.clone()));
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let Some(directory) = self.shared.inode(ino) else { return reply.error(Errno::ESTALE) };
        let shared = self.shared.clone();
        self.shared.spawn(async move { shared.list(&directory, handle.0, offset, reply).await });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let Some(directory) = self.shared.inode(ino) else { return reply.error(Errno::ESTALE) };
        let shared = self.shared.clone();
        self.shared.spawn(async move { shared.list_plus(&directory, handle.0, offset, reply).await });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.shared.handles.close_directory(handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        attributes::statfs(&self.shared.agent.space(), reply);
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(inode) = self.shared.inode(ino) else { return reply.error(Errno::ESTALE) };
        let Some(name) = xattrs::known(name) else { return reply.error(Errno::NO_XATTR) };
        let shared = self.shared.clone();
        self.shared.spawn(async move {
            match shared.xattr(&inode, name).await {
                Ok(Some(value)) => xattrs::answer(reply, size, value.as_bytes()),
                Ok(None) => reply.error(Errno::NO_XATTR),
                Err(e) => reply.error(refuse("look into", &inode.path, &e)),
            }
        });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.shared.inode(ino) {
            Some(inode) => xattrs::answer(reply, size, &xattrs::names(&inode.kind)),
            None => reply.error(Errno::ESTALE),
        }
    }

    // The kernel does these by itself from then on.
    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_bytes: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
