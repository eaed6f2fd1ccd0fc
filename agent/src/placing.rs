//! Files as local paths: placing an artifact in a directory.
//!
//! Owns how a file comes into a directory of the user's: by hard link, reflink or copy, under a
//! temporary name and then a rename, so that no reader ever sees half of it. Knows nothing of where
//! artifacts are kept: it gets open files.
//!
//! Invariants: below the directory no symbolic link is followed; nothing but a regular file of the
//! very name is replaced; nothing is removed but our own temporary files.

mod hub_cache;

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags},
    io::Errno,
};

use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    snapshot::RelativePath,
    store::OpenedFile,
};

pub use hub_cache::{HubCacheFile, hub_snapshot_dir, place_in_hub_cache};

/// Compared at a time, of each of two files.
const COMPARE_BYTES: usize = 1 << 20;
/// Asked of one `copy_file_range`, which may copy less.
const COPY_BYTES: usize = 1 << 30;

/// How a file came into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It was there already: the same file, or another with the same bytes.
    Kept,
    /// A second name of the same file; read-only like the first.
    HardLink,
    /// A file of its own that shares its blocks until one is written.
    Reflink,
    /// A file of its own.
    Copy,
    /// A link to the store's file, which holds as long as that is there.
    Symlink,
}

/// Files by the way they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// Files that were there already.
    pub kept: u64,
    /// Hard links.
    pub hard_links: u64,
    /// Reflinks.
    pub reflinks: u64,
    /// Copies.
    pub copies: u64,
    /// Symbolic links to the store.
    pub symlinks: u64,
    /// Bytes of the copies: the disk space this took.
    pub copied_bytes: u64,
}

impl Placed {
    fn count(&mut self, way: Way, bytes: u64) {
        match way {
            Way::Kept => self.kept += 1,
            Way::HardLink => self.hard_links += 1,
            Way::Reflink => self.reflinks += 1,
            Way::Symlink => self.symlinks += 1,
            Way::Copy => {
                self.copies += 1;
                self.copied_bytes += bytes;
            }
        }
    }
}

/// Places `files` below `to`, which is made if it is not there. Blocks; durable when it returns.
/// Files that were placed before an error stay.
///
/// # Errors
/// `Invalid` when something other than a regular file stands where a file should go, or other than
/// a directory on the way; `Denied`; `Full`.
pub fn place(files: &[(RelativePath, OpenedFile)], to: &Path) -> Result<Placed> {
    make_directory(to).at(|| format!("directory {}", to.display()))?;
    let root = rustix::fs::open(to, DIRECTORY, Mode::empty())
        .map_err(io::Error::from)
        .at(|| format!("directory {}", to.display()))?;
    let mut placed = Placed::default();
    for (path, file) in files {
        let way = place_one(&root, path, file)
            .map_err(|e| e.context(format!("place {path} in {}", to.display())))?;
        placed.count(way, file.bytes);
    }
    Ok(placed)
}

/// Makes `to` if it is not there; that something else is in its place is the caller's mistake.
fn make_directory(to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
        _ => e,
    })
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

fn place_one(root: &OwnedFd, path: &RelativePath, file: &OpenedFile) -> Result<Way> {
    let (parents, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
    let directory = descend(root, parents)?;
    match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => {
            if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "something that is no regular file is in its place",
                ));
            }
            if is_same(&directory, name, &there, file).at(|| "compare with what is there".to_owned())? {
                return Ok(Way::Kept);
            }
        }
        Err(Errno::NOENT) => {}
        Err(e) => return Err(io::Error::from(e)).at(|| "look at its place".to_owned()),
    }
    let temporary = Temporary::in_directory(&directory);
    let way = fill(&temporary, file).at(|| "write".to_owned())?;
    rustix::fs::renameat(&directory, &temporary.name, &directory, name)
        .and_then(|()| rustix::fs::fsync(&directory))
        .map_err(io::Error::from)
        .at(|| "rename".to_owned())?;
    Ok(way)
}

/// Opens the directory `parents` below `root`, making what is missing and following no link.
fn descend(root: &OwnedFd, parents: &str) -> Result<OwnedFd> {
    let mut directory = root.try_clone().at(|| "directory handle".to_owned())?;
    for part in parents.split('/').filter(|part| !part.is_empty()) {
        let made = match rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o755)) {
            Ok(()) => rustix::fs::fsync(&directory),
            Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e),
        };
        let opened = made
            .and_then(|()| rustix::fs::openat(&directory, part, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()));
        directory = match opened {
            Ok(opened) => opened,
            // Linux answers ENOTDIR for a link that may not be followed, others ELOOP.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let message = format!("{part:?} on the way is no directory, or a symbolic link");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            Err(e) => return Err(io::Error::from(e)).at(|| format!("directory {part:?}")),
        };
    }
    Ok(directory)
}

/// Whether the regular file `name` is ours already, or has the same bytes.
fn is_same(directory: &OwnedFd, name: &str, there: &rustix::fs::Stat, file: &OpenedFile) -> io::Result<bool> {
    let ours = file.file.metadata()?;
    if (there.st_dev, there.st_ino) == (ours.dev(), ours.ino()) {
        return Ok(true);
    }
    if there.st_size as u64 != file.bytes {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut theirs = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        // A file that may not be read can still be replaced, if the directory can be written.
        Err(Errno::ACCESS) => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    let (mut left, mut right) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    let mut at = 0;
    while at < file.bytes {
        let want = COMPARE_BYTES.min((file.bytes - at) as usize);
        match theirs.read_exact(&mut left[..want]) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
        file.file.read_exact_at(&mut right[..want], at)?;
        if left[..want] != right[..want] {
            return Ok(false);
        }
        at += want as u64;
    }
    Ok(true)
}

/// A name that is removed again unless it was renamed away.
struct Temporary<'a> {
    directory: rustix::fd::BorrowedFd<'a>,
    name: String,
}

impl<'a> Temporary<'a> {
    fn in_directory(directory: &'a OwnedFd) -> Self {
        let name = format!(".emberline-{:016x}", rand::random::<u64>());
        Self { directory: directory.as_fd(), name }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing under this name; our random one is nobody else's.
        let _ = rustix::fs::unlinkat(self.directory, OsStr::new(&self.name), AtFlags::empty());
    }
}

/// Gives the temporary name a whole, durable file by the cheapest way the file systems allow.
fn fill(temporary: &Temporary<'_>, file: &OpenedFile) -> io::Result<Way> {
    // By its descriptor: the name it was opened under may lead elsewhere by now.
    let source = format!("/proc/self/fd/{}", file.file.as_raw_fd());
    let linked =
        rustix::fs::linkat(CWD, source, temporary.directory, &temporary.name, AtFlags::SYMLINK_FOLLOW);
    if linked.is_ok() {
        return Ok(Way::HardLink);
    }
    // Another device, a file system without links, too many of them, a file that is not the
    // user's: whatever the reason, a file of its own is right.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = File::from(rustix::fs::openat(
        temporary.directory,
        &temporary.name,
        flags,
        Mode::from_raw_mode(0o644),
    )?);
    let way = match rustix::fs::ioctl_ficlone(&target, &*file.file) {
        Ok(()) => Way::Reflink,
        Err(_) => {
            copy(file, &target)?;
            Way::Copy
        }
    };
    target.sync_all()?;
    Ok(way)
}

fn copy(file: &OpenedFile, target: &File) -> io::Result<()> {
    // A disk that is too full says so before the first byte; one that cannot preallocate is asked to write.
    let preallocated = rustix::fs::fallocate(target, FallocateFlags::empty(), 0, file.bytes.max(1));
    if let Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) = preallocated {
        return Err(e.into());
    }
    target.set_len(file.bytes)?;
    let (mut from, mut at) = (0, 0);
    while at < file.bytes {
        let want = COPY_BYTES.min((file.bytes - at) as usize);
        match rustix::fs::copy_file_range(&*file.file, Some(&mut from), target, Some(&mut at), want) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return copy_through_memory(file, target, at);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn copy_through_memory(file: &OpenedFile, target: &File, mut at: u64) -> io::Result<()> {
    let mut buffer = vec![0; COMPARE_BYTES];
    while at < file.bytes {
        let want = buffer.len().min((file.bytes - at) as usize);
        file.file.read_exact_at(&mut buffer[..want], at)?;
        target.write_all_at(&buffer[..want], at)?;
        at += want as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
        sync::Arc,
    };

    use coordinatorless_p2p::ChunkHash;

    use super::*;

    /// A published file in a directory of its own.
    fn published(dir: &Path, name: &str, content: &[u8]) -> (RelativePath, OpenedFile) {
        let path = dir.join(name.replace('/', "_"));
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        let file = OpenedFile {
            file: Arc::new(File::open(&path).unwrap()),
            bytes: content.len() as u64,
            etag: ChunkHash::of(content),
            modified: 0,
            lease: Arc::new(()),
        };
        (name.parse().unwrap(), file)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    struct Dirs {
        from: tempfile::TempDir,
        to: tempfile::TempDir,
    }

    fn dirs() -> Dirs {
        Dirs { from: tempfile::tempdir().unwrap(), to: tempfile::tempdir().unwrap() }
    }

    #[test]
    fn a_model_is_hard_linked_and_a_second_time_kept() {
        let Dirs { from, to } = dirs();
        let files =
            [published(from.path(), "config.json", b"{}"), published(from.path(), "a/b/w.bin", b"weights")];
        let target = to.path().join("new/models");
        let placed = place(&files, &target).unwrap();
        assert_eq!(placed, Placed { hard_links: 2, ..Placed::default() });
        assert_eq!(fs::read(target.join("a/b/w.bin")).unwrap(), b"weights");
        assert_eq!(fs::metadata(target.join("config.json")).unwrap().nlink(), 2);
        assert_eq!(names(&target), ["a", "config.json"]);

        assert_eq!(place(&files, &target).unwrap(), Placed { kept: 2, ..Placed::default() });
        assert_eq!(names(&target), ["a", "config.json"]);
    }

    #[test]
    fn an_unlinked_file_is_copied_whole() {
        let Dirs { from, to } = dirs();
        let content: Vec<u8> = (0..3_000_001_u32).map(|i| (i % 251) as u8).collect();
        let files = [published(from.path(), "w.bin", &content), published(from.path(), "empty", b"")];
        fs::remove_file(from.path().join("w.bin")).unwrap();
        fs::remove_file(from.path().join("empty")).unwrap();
        let placed = place(&files, to.path()).unwrap();
        assert_eq!(placed.hard_links, 0);
        assert_eq!(placed.copies + placed.reflinks, 2);
        assert!(fs::read(to.path().join("w.bin")).unwrap() == content);
        assert_eq!(fs::read(to.path().join("empty")).unwrap(), b"");
        assert_eq!(names(to.path()), ["empty", "w.bin"]);
    }

    #[test]
    fn copying_through_memory_gives_the_same_bytes() {
        let Dirs { from, to } = dirs();
        let content: Vec<u8> = (0..2_500_000_u32).map(|i| (i % 241) as u8).collect();
        let (_, file) = published(from.path(), "w.bin", &content);
        let target = File::create_new(to.path().join("w.bin")).unwrap();
        copy_through_memory(&file, &target, 0).unwrap();
        assert!(fs::read(to.path().join("w.bin")).unwrap() == content);
    }

    #[test]
    fn equal_bytes_are_left_alone_and_others_replaced() {
        let Dirs { from, to } = dirs();
        let files = [published(from.path(), "same", b"0123"), published(from.path(), "other", b"0123")];
        fs::write(to.path().join("same"), "0123").unwrap();
        fs::write(to.path().join("other"), "0124").unwrap();
        fs::write(to.path().join("foreign"), "mine").unwrap();
        let inode = fs::metadata(to.path().join("same")).unwrap().ino();
        let held = File::open(to.path().join("other")).unwrap();
        assert_eq!(place(&files, to.path()).unwrap(), Placed { kept: 1, hard_links: 1, ..Placed::default() });
        assert_eq!(fs::metadata(to.path().join("same")).unwrap().ino(), inode);
        assert_eq!(fs::read(to.path().join("other")).unwrap(), b"0123");
        // Who had the old file open still has it: it was replaced, not overwritten.
        assert_eq!(io::read_to_string(held).unwrap(), "0124");
        assert_eq!(names(to.path()), ["foreign", "other", "same"]);
    }

    #[test]
    fn no_symbolic_link_leads_out_and_nothing_but_a_file_is_replaced() {
        let Dirs { from, to } = dirs();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("w.bin"), "precious").unwrap();
        symlink(outside.path(), to.path().join("dir")).unwrap();
        symlink(outside.path().join("w.bin"), to.path().join("w.bin")).unwrap();
        fs::create_dir(to.path().join("folder")).unwrap();
        fs::write(to.path().join("file"), "x").unwrap();
        for name in ["dir/w.bin", "w.bin", "folder", "file/w.bin"] {
            let error = place(&[published(from.path(), name, b"new")], to.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(fs::read(outside.path().join("w.bin")).unwrap(), b"precious");
        assert_eq!(names(outside.path()), ["w.bin"]);
        assert_eq!(names(to.path()), ["dir", "file", "folder", "w.bin"]);
    }

    #[test]
    fn the_directory_itself_may_be_reached_by_a_link() {
        let Dirs { from, to } = dirs();
        let link = from.path().join("link");
        symlink(to.path(), &link).unwrap();
        place(&[published(from.path(), "w.bin", b"new")], &link).unwrap();
        assert_eq!(names(to.path()), ["w.bin"]);
    }
}
