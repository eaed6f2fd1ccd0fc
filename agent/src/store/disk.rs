//! The few file operations the store is made of, each whole or an error.
//!
//! Blocking. Knows nothing of artifacts.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use bytes::Bytes;
use coordinatorless_p2p::buffer;
use rustix::{
    fs::{Advice, FallocateFlags, fadvise, fallocate, statvfs},
    io::Errno,
};

/// What file systems allocate and share in.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// Reads exactly `len` bytes at `offset` into one buffer, which is not zeroed first.
pub(super) fn read_at(file: &File, offset: u64, len: u32) -> io::Result<Bytes> {
    let mut buffer = buffer::take(len as usize);
    while buffer.len() < len as usize {
        let (done, rest) = (buffer.len(), len as usize - buffer.len());
        // The buffer may be larger than what was asked for.
        let room = &mut buffer.spare_capacity_mut()[..rest];
        match rustix::io::pread(file, room, offset + done as u64) {
            Ok(([], _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((read, _)) => {
                let filled = done + read.len();
                // SAFETY: the first `done` bytes were filled before, pread filled those that follow.
                unsafe { buffer.set_len(filled) };
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(buffer::share(buffer))
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Creates a file of `size` bytes that only the agent can open, its blocks allocated where the file
/// system can do so, sparse elsewhere. Nothing is left behind on failure.
pub(super) fn create_preallocated(path: &Path, size: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    preallocate(&file, size).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })?;
    Ok(file)
}

fn preallocate(file: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    loop {
        return match fallocate(file, FallocateFlags::empty(), 0, size) {
            Ok(()) => Ok(()),
            Err(Errno::INTR) => continue,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(size),
            Err(e) => Err(e.into()),
        };
    }
}

/// Copies a range by reference where the file system shares blocks, in the kernel elsewhere.
/// False where it can do neither.
pub(super) fn clone_range(from: &File, from_at: u64, to: &File, to_at: u64, len: u64) -> io::Result<bool> {
    let mut done = 0;
    while done < len {
        let (mut source, mut target) = (from_at + done, to_at + done);
        let rest = usize::try_from(len - done).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n as u64,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::XDEV | Errno::INVAL | Errno::PERM) => {
                return Ok(false);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}

/// Has later reads come from the disk, not from what the page cache believes is there.
pub(super) fn forget_cached(file: &File) {
    // Advice: where it is not taken, the reader sees what every other reader would see.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

/// Size of a file system and what is left of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct DiskSpace {
    pub(super) total_bytes: u64,
    pub(super) free_bytes: u64,
    /// `None` where the file system makes inodes as it needs them.
    pub(super) free_inodes: Option<u64>,
}

/// Asks the file system that `dir` is on.
pub(super) fn disk_space(dir: &Path) -> io::Result<DiskSpace> {
    let s = statvfs(dir)?;
    Ok(DiskSpace {
        total_bytes: s.f_blocks.saturating_mul(s.f_frsize),
        free_bytes: s.f_bavail.saturating_mul(s.f_frsize),
        free_inodes: (s.f_files != 0).then_some(s.f_favail),
    })
}

/// Copies `range` if every byte of it is in the page cache, so that it cannot block.
pub(crate) fn read_if_resident(file: &File, range: &std::ops::Range<u64>) -> Option<Vec<u8>> {
    let mut buffer = vec![0; (range.end - range.start) as usize];
    let mut slices = [io::IoSliceMut::new(&mut buffer)];
    let read =
        rustix::io::preadv2(file, &mut slices, range.start, rustix::io::ReadWriteFlags::NOWAIT).ok()?;
    (read == buffer.len()).then_some(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_exactly_what_was_asked_for_or_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = create_preallocated(&dir.path().join("f"), 10_000).unwrap();
        let content: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        write_at(&file, &content, 0).unwrap();
        // 0, 1, all but one, all.
        for len in [0, 1, 9_999, 10_000] {
            assert_eq!(read_at(&file, 0, len).unwrap(), content[..len as usize]);
        }
        assert_eq!(read_at(&file, 9_999, 1).unwrap(), content[9_999..]);
        assert_eq!(read_at(&file, 9_999, 2).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_preallocated_file_has_its_size_and_is_the_owners_alone() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 1, 4096, 1 << 20] {
            let meta =
                create_preallocated(&dir.path().join(size.to_string()), size).unwrap().metadata().unwrap();
            assert_eq!((meta.len(), meta.mode() & 0o777), (size, 0o600));
        }
    }
}
