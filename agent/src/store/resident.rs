//! How much of a file is in the page cache now.
//!
//! By `cachestat` (Linux 6.5), which is one call for a file of any size; by `mincore` over a mapping
//! where the kernel is older. Counts, never touches a page.

use std::{fs::File, io, os::fd::AsRawFd};

/// Linux gave this number to every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// Bytes mapped at a time when counting by `mincore`: a vector of 64 KiB with 4 KiB pages.
const WINDOW_BYTES: u64 = 256 << 20;

#[repr(C)]
struct CachestatRange {
    offset: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Bytes of `file`, which has `size`, that are in the page cache. At most `size`.
pub(super) fn resident_bytes(file: &File, size: u64) -> io::Result<u64> {
    if size == 0 {
        return Ok(0);
    }
    let pages = match by_cachestat(file) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM)) => {
            by_mincore(file, size)?
        }
        counted => counted?,
    };
    Ok(pages.saturating_mul(rustix::param::page_size() as u64).min(size))
}

fn by_cachestat(file: &File) -> io::Result<u64> {
    // A length of 0 means to the end.
    let mut range = CachestatRange { offset: 0, len: 0 };
    let mut found = Cachestat::default();
    // SAFETY: both pointers are to live values of the layout the call expects; flags must be 0.
    let status = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw mut range, &raw mut found, 0 as libc::c_uint)
    };
    if status == 0 { Ok(found.cached) } else { Err(io::Error::last_os_error()) }
}

fn by_mincore(file: &File, size: u64) -> io::Result<u64> {
    let mut pages = 0;
    for offset in (0..size).step_by(WINDOW_BYTES as usize) {
        let len = WINDOW_BYTES.min(size - offset) as usize;
        // SAFETY: nobody reads through the mapping, so a file that shrinks meanwhile does no harm.
        let map = unsafe { memmap2::MmapOptions::new().offset(offset).len(len).map(file)? };
        let mut vector = vec![0u8; len.div_ceil(rustix::param::page_size())];
        // SAFETY: the range is mapped for the whole call, and the vector has a byte for each page.
        let status = unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), len, vector.as_mut_ptr()) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        pages += vector.iter().filter(|page| **page & 1 != 0).count() as u64;
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_just_written_is_resident_whichever_way_it_is_counted() {
        let mut file = tempfile::tempfile().unwrap();
        // One page, one byte more, and one byte past many.
        for size in [4096, 1, 1 << 20] {
            file.write_all(&vec![1; size]).unwrap();
            let len = file.metadata().unwrap().len();
            assert_eq!(resident_bytes(&file, len).unwrap(), len);
            assert_eq!(by_mincore(&file, len).unwrap(), len.div_ceil(4096));
        }
        assert_eq!(resident_bytes(&file, 0).unwrap(), 0);
    }

    #[test]
    fn a_file_dropped_from_the_cache_is_not_resident() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut file =
            File::options().read(true).write(true).create_new(true).open(dir.path().join("f")).unwrap();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        super::super::disk::forget_cached(&file);
        assert_eq!(resident_bytes(&file, 1 << 20).unwrap(), 0);
    }
}
