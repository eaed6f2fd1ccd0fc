//! Copies of bytes that are in the page cache, and how many may be out.
//!
//! Copying a piece costs less than mapping it and taking the mapping away again. But it is memory of this process: a peer that takes nothing keeps one, and there may be
//! many such peers. Knows nothing of bodies.

use std::{
    fs::File,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

use crate::page_cache;

/// Copied at a time. Less wakes the client more often; more does not stay in a core's own cache until it is sent.
pub(super) const COPY_BYTES: u64 = 256 << 10;
/// Out at a time: 32 MiB.
const OUT_MAX: usize = 128;

/// The copies of this process.
pub(super) static COPIES: Copies = Copies::new(OUT_MAX);

/// How many are out.
#[derive(Debug)]
pub(super) struct Copies {
    out: AtomicUsize,
    out_max: usize,
}

impl Copies {
    pub(super) const fn new(out_max: usize) -> Self {
        Self { out: AtomicUsize::new(0), out_max }
    }

    /// At most [`COPY_BYTES`] of a file. `None` where a byte of them is not in the page cache, so that this never
    /// blocks, or when too many copies are out.
    pub(super) fn read(&'static self, file: &File, range: &Range<u64>) -> Option<Bytes> {
        if range.end - range.start > COPY_BYTES {
            return None;
        }
        let place = self.place()?;
        let bytes = page_cache::read_if_resident(file, range)?;
        Some(Bytes::from_owner(Copy { bytes, _place: place }))
    }

    fn place(&'static self) -> Option<Place> {
        let more = |out| (out < self.out_max).then_some(out + 1);
        self.out.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Place(self))
    }
}

/// Given back when it is dropped.
struct Place(&'static Copies);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Copy {
    bytes: Vec<u8>,
    _place: Place,
}

impl AsRef<[u8]> for Copy {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn no_more_are_out_than_may_be_and_each_place_comes_back() {
        static FEW: Copies = Copies::new(2);
        let file = file(b"abcdef");
        let (first, second) = (FEW.read(&file, &(0..3)).unwrap(), FEW.read(&file, &(3..6)).unwrap());
        assert_eq!((&first[..], &second[..]), (&b"abc"[..], &b"def"[..]));
        assert_eq!(FEW.read(&file, &(0..1)), None);
        let part = second.slice(1..);
        drop(second);
        assert_eq!(FEW.read(&file, &(0..1)), None, "a part of it is still out");
        drop(part);
        assert_eq!(FEW.read(&file, &(5..6)).unwrap(), &b"f"[..]);
    }

    #[test]
    fn what_cannot_be_copied_takes_no_place() {
        static ONE: Copies = Copies::new(1);
        let file = file(b"abc");
        assert_eq!(ONE.read(&file, &(0..4)), None, "past the end");
        assert_eq!(ONE.read(&file, &(0..COPY_BYTES + 1)), None);
        assert_eq!(ONE.read(&file, &(0..3)).unwrap(), &b"abc"[..]);
    }
}
