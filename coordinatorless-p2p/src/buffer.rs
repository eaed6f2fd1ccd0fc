//! Memory for chunks, used again and again.
//!
//! A megabyte fresh from the allocator is a megabyte of page faults; a buffer that came back is mapped
//! already. Knows nothing of what is in it.
//!
//! Invariant: idle buffers together have at most `KEPT_BYTES_MAX`, whatever was in use.

use std::mem;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::chunk::MAX_CHUNK_BYTES;

/// Bytes of all idle buffers together: as much as a swarm has in memory at a time.
const KEPT_BYTES_MAX: usize = 24 << 20;
/// Smaller ones the allocator keeps by itself, in bytes.
const KEPT_BYTES_MIN: usize = 64 << 10;

static IDLE: Idle = Idle(Mutex::new(Vec::new()));

/// An empty buffer with room for at least `len` bytes.
pub fn take(len: usize) -> Vec<u8> {
    IDLE.take(len)
}

/// The filled buffer as [`Bytes`]; its memory comes back when the last of them is dropped.
pub fn share(filled: Vec<u8>) -> Bytes {
    IDLE.share(filled)
}

/// Buffers that nobody uses.
struct Idle(Mutex<Vec<Vec<u8>>>);

impl Idle {
    fn take(&self, len: usize) -> Vec<u8> {
        let found = {
            let mut idle = self.0.lock();
            // The smallest that is large enough: the chunks of a model are nearly of one size.
            let fitting = idle.iter().enumerate().filter(|(_, buffer)| buffer.capacity() >= len);
            let best = fitting.min_by_key(|(_, buffer)| buffer.capacity()).map(|(at, _)| at);
            best.map(|at| idle.swap_remove(at))
        };
        found.unwrap_or_else(|| Vec::with_capacity(len))
    }

    fn share(&'static self, filled: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer: filled, home: self })
    }

    fn take_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        if !(KEPT_BYTES_MIN..=MAX_CHUNK_BYTES as usize).contains(&buffer.capacity()) {
            return;
        }
        let mut idle = self.0.lock();
        let kept_bytes: usize = idle.iter().map(Vec::capacity).sum();
        if kept_bytes + buffer.capacity() <= KEPT_BYTES_MAX {
            idle.push(buffer);
        }
    }
}

struct Lent {
    buffer: Vec<u8>,
    home: &'static Idle,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.take_back(mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> &'static Idle {
        Box::leak(Box::new(Idle(Mutex::default())))
    }

    #[test]
    fn memory_comes_back_empty_when_the_last_reader_is_gone() {
        let idle = idle();
        let mut buffer = idle.take(1 << 20);
        buffer.extend_from_slice(&[7; 100]);
        let memory = buffer.as_ptr();
        let whole = idle.share(buffer);
        let part = whole.slice(10..20);
        drop(whole);
        assert!(idle.0.lock().is_empty(), "a part of it is still read");
        assert_eq!(part, [7; 10].as_slice());
        drop(part);
        let again = idle.take(1000);
        assert_eq!((again.as_ptr(), again.len()), (memory, 0));
        assert!(idle.take((1 << 20) + 1).capacity() > 1 << 20);
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let idle = idle();
        // One byte less than is worth keeping, one more than a chunk, and far too many of one.
        for (bytes, count) in [(KEPT_BYTES_MIN - 1, 1), (MAX_CHUNK_BYTES as usize + 1, 1), (1 << 20, 100)] {
            let lent: Vec<Bytes> = (0..count).map(|_| idle.share(Vec::with_capacity(bytes))).collect();
            drop(lent);
        }
        let kept: usize = idle.0.lock().iter().map(Vec::capacity).sum();
        assert_eq!(kept, KEPT_BYTES_MAX);
    }
}
