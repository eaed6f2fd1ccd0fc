//! What requests of the kernel are answered with.
//!
//! Owns what all threads of a mount share: inodes, open files, the reads under way. Every wait ends: a program
//! that waits for us cannot be killed meanwhile. Does not know how requests come in.

use std::{
    ffi::OsStr,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, INodeNo, Notifier, ReplyDirectory, ReplyDirectoryPlus,
    ReplyOpen,
};
use parking_lot::Mutex;
use tokio::{runtime::Handle as Runtime, sync::Semaphore, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    attributes::Owner,
    directories::{self, Cursor},
    errno::errno,
    handles::{Backing, Handle, Handles, Inode, Source},
    inodes::{INODES_MAX, Inodes, Kind, ROOT},
    opening::{Mode, Verdict},
    xattrs,
};
use crate::{
    agent::Agent,
    error::{Error, ErrorKind, Result},
    metrics::{self, Door},
    namespace::{Entry, Named, NamespacePath},
    page_cache,
    reader::{Caller, READ_MAX_BYTES, Whereabouts},
};

/// This door to the reader.
const CALLER: Caller = Caller { door: Door::Fuse };
/// How long the kernel takes our word for what a name leads to. Short: the namespace remembers it already, and
/// what an inode is never changes.
pub(super) const TTL: Duration = Duration::from_secs(1);
/// The longest that a program waits for an answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Reads under way, of at most 1 MiB each; more wait for their turn.
const READS_MAX: usize = 128;

/// What is mounted, shared by the threads of the session and the tasks that answer.
pub(super) struct Shared {
    pub(super) agent: Agent,
    runtime: Runtime,
    tasks: TaskTracker,
    pub(super) owner: Owner,
    pub(super) inodes: Mutex<Inodes<Backing>>,
    pub(super) handles: Handles,
    reads: Semaphore,
    passes_through: AtomicBool,
    notifier: OnceLock<Notifier>,
    /// The kernel is being asked to forget.
    is_sweeping: AtomicBool,
}

impl Shared {
    pub(super) fn new(agent: Agent, runtime: Runtime) -> Self {
        Self {
            agent,
            runtime,
            tasks: TaskTracker::new(),
            owner: Owner::of_process(),
            inodes: Mutex::new(Inodes::new()),
            handles: Handles::default(),
            reads: Semaphore::new(READS_MAX),
            passes_through: AtomicBool::new(false),
            notifier: OnceLock::new(),
            is_sweeping: AtomicBool::new(false),
        }
    }

    /// Whether the kernel reads whole files by itself.
    pub(super) fn passes_through(&self) -> bool {
        self.passes_through.load(Ordering::Relaxed)
    }

    /// To be said before the first request.
    pub(super) fn pass_through(&self, passes_through: bool) {
        self.passes_through.store(passes_through, Ordering::Relaxed);
    }

    pub(super) fn can_notify(&self, notifier: Notifier) {
        // There is one session a mount.
        let _ = self.notifier.set(notifier);
    }

    /// Takes no more requests to wait for.
    pub(super) fn close(&self) {
        self.tasks.close();
    }

    /// Waits for the answers under way.
    pub(super) async fn drain(&self) {
        self.tasks.wait().await;
    }

    pub(super) fn spawn(&self, answer: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(answer, &self.runtime);
    }

    pub(super) fn inode(&self, ino: INodeNo) -> Option<Arc<Inode>> {
        self.inodes.lock().find(ino.0)
    }

    /// Has the kernel forget names if it remembers too many.
    fn sweep(self: &Arc<Self>) {
        if self.inodes.lock().len() <= INODES_MAX || self.is_sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.clone();
        self.tasks.spawn_blocking_on(
            move || {
                let names = shared.inodes.lock().surplus(INODES_MAX);
                for (parent, name) in names {
                    let Some(notifier) = shared.notifier.get() else { break };
                    if let Err(e) = notifier.inval_entry(INodeNo(parent), OsStr::new(&name)) {
                        tracing::debug!(name, error = %e, "the kernel does not forget a name");
                    }
                }
                shared.is_sweeping.store(false, Ordering::Release);
            },
            &self.runtime,
        );
    }

    pub(super) async fn lookup(self: &Arc<Self>, path: &NamespacePath) -> Result<Arc<Inode>> {
        let entry = within(self.agent.namespace().walk(path)).await?;
        let inode = self.inodes.lock().enter(path, Kind::from(&entry));
        self.sweep();
        Ok(inode)
    }

    /// Opens a file, in the way that its inode is open already, or can be.
    pub(super) async fn open(&self, inode: Arc<Inode>, reply: ReplyOpen) {
        let Kind::File(facts) = &inode.kind else { return reply.error(Errno::EISDIR) };
        let file = match within(self.agent.reader().open(&inode.path, CALLER)).await {
            Ok(file) => file,
            Err(e) => return reply.error(refuse("open", &inode.path, &e)),
        };
        if file.etag() != &*facts.etag || file.bytes() != facts.bytes {
            // Replaced since its name was looked up.
            self.inodes.lock().supersede(&inode);
            return reply.error(Errno::ESTALE);
        }
        let whole = file.sealed().filter(|_| self.passes_through());
        let is_current = self.inodes.lock().is_current(&inode);
        let verdict = inode.opening.lock().open(whole, is_current, |opened| {
            let id = reply.open_backing(&*opened.file);
            id.map(|id| Backing { id, opened }).map_err(|e| self.cannot_pass_through(&inode.path, &e)).ok()
        });
        match verdict {
            Verdict::LookAgain => {
                // The kernel looks the name up anew for who came by name, and tries once more for who did not.
                self.inodes.lock().supersede(&inode);
                reply.error(Errno::ESTALE);
            }
            Verdict::Open(Mode::Cached) => {
                metrics::fuse_open(metrics::FuseMode::Cached);
                let handle = self.handles.open_file(Handle { inode, source: Source::Reader(file) });
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            }
            Verdict::Open(Mode::Passthrough(backing)) => {
                metrics::fuse_open(metrics::FuseMode::Passthrough);
                let source = Source::Kernel(backing.clone());
                let handle = self.handles.open_file(Handle { inode, source });
                reply.opened_passthrough(FileHandle(handle), FopenFlags::FOPEN_NOFLUSH, &backing.id);
            }
        }
    }

    fn cannot_pass_through(&self, path: &NamespacePath, e: &io::Error) {
        if e.kind() != io::ErrorKind::PermissionDenied {
            tracing::warn!(%path, error = %e, "cannot hand a file to the kernel: it is read through this agent");
        } else if self.passes_through.swap(false, Ordering::Relaxed) {
            tracing::warn!(error = %e, "cannot hand files to the kernel (it takes CAP_SYS_ADMIN): they are read through this agent");
        }
    }

    /// All of `offset..offset + size` that the file has: the kernel takes a short answer for its end.
    pub(super) async fn read(&self, handle: &Handle, offset: u64, size: usize) -> Result<Bytes> {
        let deadline = Instant::now() + PATIENCE;
        let file = match &handle.source {
            Source::Reader(file) => file,
            Source::Kernel(backing) => {
                let opened = backing.opened.clone();
                metrics::read(Door::Fuse, metrics::FoundBytes::Sealed);
                let end = (offset + size as u64).min(opened.bytes);
                return page_cache::read(opened, offset.min(end)..end).await;
            }
        };
        let turn = tokio::time::timeout_at(deadline, self.reads.acquire()).await;
        let _turn = turn.map_err(|_| Error::new(ErrorKind::Timeout, "too many reads are waiting"))?;
        let first = file.read_at(offset, size, deadline).await?;
        if first.len() >= size.min(READ_MAX_BYTES) && first.len() == size || first.is_empty() {
            return Ok(first);
        }
        let mut all = BytesMut::from(&first[..]);
        while all.len() < size {
            let piece = file.read_at(offset + all.len() as u64, size - all.len(), deadline).await?;
            if piece.is_empty() {
                break;
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Gives `add` each name from `offset` on, with the position behind it, until it says that it is full.
    async fn each_name(
        &self,
        cursor: &mut Cursor,
        offset: u64,
        mut add: impl FnMut(u64, Option<&Named>) -> bool,
    ) -> Result<()> {
        if offset == 0 {
            cursor.rewind();
        }
        let mut position = offset;
        while position < 2 {
            position += 1;
            if add(position, None) {
                return Ok(());
            }
        }
        loop {
            let names = within(cursor.names(self.agent.namespace(), position)).await?;
            if names.is_empty() {
                return Ok(());
            }
            for named in names {
                position += 1;
                if add(position, Some(named)) {
                    return Ok(());
                }
            }
        }
    }

    /// The numbers of a directory and of the one around it.
    fn dots(&self, directory: &Inode) -> [u64; 2] {
        let parent = directory.path.parent().and_then(|parent| self.inodes.lock().number(&parent));
        [directory.ino, parent.unwrap_or(ROOT)]
    }

    pub(super) async fn list(&self, directory: &Inode, handle: u64, offset: u64, mut reply: ReplyDirectory) {
        let Some(cursor) = self.handles.directory(handle) else { return reply.error(Errno::EBADF) };
        let dots = self.dots(directory);
        let mut added = 0_usize;
        let listed = self
            .each_name(&mut *cursor.lock().await, offset, |position, named| {
                let is_full = match named {
                    None => {
                        let (ino, name) = (dots[position as usize - 1], [".", ".."][position as usize - 1]);
                        reply.add(INodeNo(ino), position, fuser::FileType::Directory, name)
                    }
                    Some(named) => {
                        let known = directories::child(&directory.path, &named.name)
                            .and_then(|path| self.inodes.lock().number(&path));
                        let kind = match named.entry {
                            Entry::Directory => fuser::FileType::Directory,
                            Entry::File(_) => fuser::FileType::RegularFile,
                        };
                        reply.add(INodeNo(known.unwrap_or(UNKNOWN_INO)), position, kind, &named.name)
                    }
                };
                added += usize::from(!is_full);
                is_full
            })
            .await;
        match listed {
            Err(e) if added == 0 => reply.error(refuse("list", &directory.path, &e)),
            // What was found so far; the next reading meets the error again.
            _ => reply.ok(),
        }
    }

    pub(super) async fn list_plus(
        self: &Arc<Self>,
        directory: &Inode,
        handle: u64,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(cursor) = self.handles.directory(handle) else { return reply.error(Errno::EBADF) };
        let dots = self.dots(directory);
        let mut added = 0_usize;
        let listed = self
            .each_name(&mut *cursor.lock().await, offset, |position, named| {
                let is_full = match named {
                    // The kernel counts no lookups of these.
                    None => {
                        let (ino, name) = (dots[position as usize - 1], [".", ".."][position as usize - 1]);
                        let attributes = self.owner.attributes(ino, &Kind::Directory);
                        reply.add(INodeNo(ino), position, name, &TTL, &attributes, Generation(0))
                    }
                    Some(named) => {
                        let Some(path) = directories::child(&directory.path, &named.name) else {
                            return false;
                        };
                        let inode = self.inodes.lock().enter(&path, Kind::from(&named.entry));
                        let attributes = self.owner.attributes(inode.ino, &inode.kind);
                        let ino = INodeNo(inode.ino);
                        let is_full = reply.add(ino, position, &named.name, &TTL, &attributes, Generation(0));
                        if is_full {
                            self.inodes.lock().forget(inode.ino, 1);
                        }
                        is_full
                    }
                };
                added += usize::from(!is_full);
                is_full
            })
            .await;
        self.sweep();
        match listed {
            Err(e) if added == 0 => reply.error(refuse("list", &directory.path, &e)),
            _ => reply.ok(),
        }
    }

    pub(super) async fn xattr(&self, inode: &Inode, name: &str) -> Result<Option<String>> {
        let open = self.handles.any_of(inode.ino).and_then(|handle| handle.sealed());
        let whereabouts = match open {
            Some(opened) => Whereabouts::Sealed(opened),
            None => within(self.agent.reader().whereabouts(&inode.path)).await?,
        };
        Ok(xattrs::value(name, &inode.kind, &whereabouts))
    }
}

/// The number of a name that nobody looked up.
const UNKNOWN_INO: u64 = 0xffff_ffff;

/// No wait is longer than [`PATIENCE`].
async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::new(ErrorKind::Timeout, format!("nothing came in {} s", PATIENCE.as_secs())));
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(late)
}

/// The number for an error, whose sentence goes to the log: nobody else hears it.
pub(super) fn refuse(what: &'static str, path: &NamespacePath, e: &Error) -> Errno {
    match e.kind() {
        ErrorKind::NotFound | ErrorKind::Cancelled => {
            tracing::debug!(what, %path, error = %e, "refused in the mount");
        }
        _ => tracing::warn!(what, %path, error = %e, "refused in the mount"),
    }
    errno(e.kind())
}
