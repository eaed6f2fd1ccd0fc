//! Where each chunk lies, computed once from the chunk lengths.

use std::ops::Range;

use super::{BlueprintFile, ChunkPlace};

/// Prefix sums over files and chunks; 8 bytes a chunk.
pub(super) struct Index {
    /// The first chunk of each file, and behind the last file the number of all chunks.
    first_chunks: Vec<u32>,
    /// Where each chunk begins within its file.
    offsets: Vec<u64>,
}

impl Index {
    pub(super) fn new(files: &[BlueprintFile]) -> Self {
        let chunk_count = files.iter().map(|file| file.chunk_bytes.len()).sum();
        let mut offsets = Vec::with_capacity(chunk_count);
        let mut first_chunks = Vec::with_capacity(files.len() + 1);
        for file in files {
            first_chunks.push(offsets.len() as u32);
            let mut offset = 0u64;
            for &bytes in &file.chunk_bytes {
                offsets.push(offset);
                offset += u64::from(bytes);
            }
        }
        first_chunks.push(offsets.len() as u32);
        Self { first_chunks, offsets }
    }

    pub(super) fn chunk_count(&self) -> u32 {
        self.offsets.len() as u32
    }

    pub(super) fn chunks_of(&self, file: usize) -> Range<u32> {
        match self.first_chunks.get(file..file + 2) {
            Some(&[start, end]) => start..end,
            _ => 0..0,
        }
    }

    pub(super) fn place(&self, files: &[BlueprintFile], chunk: u32) -> Option<ChunkPlace> {
        let offset = *self.offsets.get(chunk as usize)?;
        // Empty files share their first chunk with the next file: the last such file has it.
        let file = self.first_chunks.partition_point(|&first| first <= chunk).checked_sub(1)?;
        let within = (chunk - self.first_chunks[file]) as usize;
        let bytes = *files.get(file)?.chunk_bytes.get(within)?;
        Some(ChunkPlace { file, offset, bytes })
    }

    /// The chunks of `file` that have a byte of `range`.
    pub(super) fn overlapping(&self, file: usize, size: u64, range: Range<u64>) -> Range<u32> {
        let chunks = self.chunks_of(file);
        let end = range.end.min(size);
        if range.start >= end {
            return chunks.start..chunks.start;
        }
        let offsets = &self.offsets[chunks.start as usize..chunks.end as usize];
        let first = offsets.partition_point(|&offset| offset <= range.start).saturating_sub(1);
        let last = offsets.partition_point(|&offset| offset < end);
        chunks.start + first as u32..chunks.start + last as u32
    }
}
