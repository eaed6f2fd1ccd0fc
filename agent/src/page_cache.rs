//! The page cache as the memory tier: bringing pages of published files in, off the runtime.
//!
//! Owns mapping and populating. Relies on what the store promises of a published file: its bytes
//! never change and it is never truncated. Pieces are bounded, so the agent's own memory stays
//! small whatever the file's size: a mapping is gone as soon as its pages are in.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use futures::{StreamExt, TryStreamExt};
use memmap2::{Advice, Mmap, MmapOptions};

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::store::OpenedFile;
pub(super) use crate::store::read_if_resident;

/// Brought in by one call. Large enough for the disk's read-ahead to run free.
const PIECE_BYTES: u64 = 16 << 20;
/// Pieces under way at a time: keeps an NVMe queue busy and the blocking pool mostly free.
const PIECES_AT_ONCE: usize = 4;
/// Read at a time where mappings cannot be populated.
const COPY_BYTES: usize = 1 << 20;

/// Reads every byte of `files` into the page cache. `progress` hears the bytes done since it was
/// last called. Cancel-safe: pieces under way finish, no more are begun.
///
/// # Errors
/// `Unavailable` when the disk cannot give a byte.
pub async fn prefault(files: &[OpenedFile], progress: impl Fn(u64)) -> Result<()> {
    let mut pieces: Vec<(OpenedFile, Range<u64>)> = Vec::new();
    for file in files {
        for start in (0..file.bytes).step_by(PIECE_BYTES as usize) {
            pieces.push((file.clone(), start..file.bytes.min(start + PIECE_BYTES)));
        }
    }
    futures::stream::iter(pieces)
        .map(|(file, piece)| async move {
            let piece_bytes = piece.end - piece.start;
            tokio::task::spawn_blocking(move || touch(&file.file, piece))
                .await
                .map_err(|e| Error::with_source(ErrorKind::UNAVAILABLE, "prefault", e))?
                .at(|| "prefault".to_owned())?;
            Ok::<_, Error>(piece_bytes)
        })
        .buffer_unordered(PIECES_AT_ONCE)
        .try_for_each(|piece_bytes| {
            progress(piece_bytes);
            futures::future::ready(Ok(()))
        })
        .await
}

fn touch(file: &File, piece: Range<u64>) -> io::Result<()> {
    if map_populated(file, &piece)?.is_some() {
        return Ok(());
    }
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = piece.start;
    while at < piece.end {
        let want = buffer.len().min((piece.end - at) as usize);
        file.read_exact_at(&mut buffer[..want], at)?;
        at += want as u64;
    }
    Ok(())
}

/// Maps `range` of a published file with every page present; blocks until they are. `None` where
/// the kernel cannot (before Linux 5.14). An unreadable page is an error here, never a signal.
pub(super) fn map_populated(file: &File, range: &Range<u64>) -> io::Result<Option<Mmap>> {
    let map_bytes = (range.end - range.start) as usize;
    // SAFETY: a published file is 0444 and never written or truncated by us: eviction unlinks it.
    let map = unsafe { MmapOptions::new().offset(range.start).len(map_bytes).map(file)? };
    match map.advise(Advice::PopulateRead) {
        Ok(()) => Ok(Some(map)),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads `range` of a published file on the blocking pool.
///
/// # Errors
/// `Unavailable` when the disk cannot give a byte.
pub(super) async fn read(opened: OpenedFile, range: Range<u64>) -> Result<bytes::Bytes> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; (range.end - range.start) as usize];
        opened.file.read_exact_at(&mut buffer, range.start)?;
        Ok::<bytes::Bytes, io::Error>(buffer.into())
    });
    let cut_short = |e| Error::with_source(ErrorKind::Cancelled, "a read was cut short", e);
    reading.await.map_err(cut_short)?.at(|| "a published file cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io::Write, sync::Arc};

    use super::*;

    fn opened(bytes: u64) -> OpenedFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; bytes as usize]).unwrap();
        OpenedFile {
            file: Arc::new(file),
            bytes,
            etag: coordinatorless_p2p::ChunkHash::of(b""),
            modified: 0,
            lease: Arc::new(()),
        }
    }

    #[tokio::test]
    async fn prefault_reaches_every_byte_of_every_file_once() {
        let files = [opened(0), opened(1), opened(PIECE_BYTES), opened(PIECE_BYTES + 1)];
        let done = Cell::new(0);
        prefault(&files, |bytes| done.set(done.get() + bytes)).await.unwrap();
        assert_eq!(done.get(), files.iter().map(|file| file.bytes).sum::<u64>());
    }

    #[tokio::test]
    async fn prefault_of_a_file_that_lost_its_end_is_an_error() {
        let file = opened(1 << 20);
        file.file.set_len(10).unwrap();
        assert!(prefault(&[file], |_| {}).await.is_err());
    }

    #[test]
    fn what_was_just_written_is_resident() {
        let file = opened(100);
        assert_eq!(read_if_resident(&file.file, &(10..20)).unwrap(), [7; 10]);
        assert_eq!(read_if_resident(&file.file, &(90..101)), None);
    }
}
