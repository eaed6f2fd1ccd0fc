//! The header of a GGUF file, versions 2 and 3, little-endian: magic, counts, metadata, tensor table.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Only the alignment is taken from
//! the metadata and only name and offset from the table: a tensor reaches to the next one's start, so
//! that types unknown here (new quantisations appear all the time) do no harm. Its length is not known
//! in advance: [`read`] asks for more until the table ends, and gives up as soon as a count or length
//! cannot be right.

use super::{Header, MAX_HEADER_BYTES, MAX_TENSORS, Tensor, Tensors, name_key};

/// A tokeniser's vocabulary stands in the header and makes it megabytes long.
const FIRST_READ_BYTES: u64 = 1 << 20;

/// Arrays of arrays are allowed by the format and written by nobody.
const MAX_ARRAY_DEPTH: u32 = 4;

const MAX_DIMENSIONS: u32 = 8;
const MAX_ALIGNMENT: u64 = 1 << 20;
const DEFAULT_ALIGNMENT: u64 = 32;

/// The shortest metadata entry: empty key, type, one byte.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;
/// The shortest tensor: empty name, no dimensions, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

pub(super) fn read(size: u64, header: &[u8]) -> Header {
    if header.is_empty() && size > 0 {
        return Header::Lacks(FIRST_READ_BYTES.min(size));
    }
    let limit = size.min(MAX_HEADER_BYTES);
    match (Reader { header, at: 0, limit }).tensors(size) {
        Ok(tensors) => Header::Tensors(tensors),
        Err(Stop::Wrong) => Header::Opaque,
        Err(Stop::Truncated { needed }) => {
            let doubled = (header.len() as u64).saturating_mul(2).max(FIRST_READ_BYTES);
            Header::Lacks(doubled.max(needed).min(limit))
        }
    }
}

/// Why reading ended early.
enum Stop {
    /// It cannot be a header, whatever follows.
    Wrong,
    /// At least this many bytes of the file are needed; not more than the limit.
    Truncated { needed: u64 },
}

struct Reader<'a> {
    header: &'a [u8],
    at: u64,
    /// The header must end here at the latest.
    limit: u64,
}

impl<'a> Reader<'a> {
    fn tensors(mut self, size: u64) -> Result<Tensors, Stop> {
        if self.take(4)? != b"GGUF" {
            return Err(Stop::Wrong);
        }
        // Version 1 had 32-bit counts, and a big-endian file shows its version byte-swapped.
        if !matches!(self.u32()?, 2 | 3) {
            return Err(Stop::Wrong);
        }
        let tensor_count = self.u64()?;
        let entry_count = self.u64()?;
        if tensor_count > MAX_TENSORS {
            return Err(Stop::Wrong);
        }
        self.expect_room(tensor_count, MIN_TENSOR_BYTES)?;
        self.expect_room(entry_count, MIN_ENTRY_BYTES)?;

        let mut alignment = DEFAULT_ALIGNMENT;
        for _ in 0..entry_count {
            let key = self.string()?;
            let kind = self.u32()?;
            if key == b"general.alignment" && kind == 4 {
                alignment = u64::from(self.u32()?);
            } else {
                self.skip_value(kind, 0)?;
            }
        }
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return Err(Stop::Wrong);
        }
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(self.tensor()?);
        }
        let data_begin = self.at.next_multiple_of(alignment).min(size);
        place(tensors, data_begin, size).ok_or(Stop::Wrong)
    }

    /// One row of the table; the length is filled in later.
    fn tensor(&mut self) -> Result<Tensor, Stop> {
        let key = name_key(self.string()?);
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(Stop::Wrong);
        }
        self.take(u64::from(dimensions) * 8 + 4)?;
        Ok(Tensor { begin: self.u64()?, bytes: 0, key })
    }

    fn skip_value(&mut self, kind: u32, depth: u32) -> Result<(), Stop> {
        const STRING: u32 = 8;
        const ARRAY: u32 = 9;
        match kind {
            STRING => self.string().map(|_| ()),
            ARRAY if depth < MAX_ARRAY_DEPTH => {
                let element = self.u32()?;
                let count = self.u64()?;
                if let Some(bytes) = width_of(element) {
                    return self.take(count.checked_mul(bytes).ok_or(Stop::Wrong)?).map(|_| ());
                }
                self.expect_room(count, 8)?;
                for _ in 0..count {
                    self.skip_value(element, depth + 1)?;
                }
                Ok(())
            }
            _ => self.take(width_of(kind).ok_or(Stop::Wrong)?).map(|_| ()),
        }
    }

    fn string(&mut self) -> Result<&'a [u8], Stop> {
        let bytes = self.u64()?;
        self.take(bytes)
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        Ok(self.take(4)?.iter().rev().fold(0, |n, &byte| n << 8 | u32::from(byte)))
    }

    fn u64(&mut self) -> Result<u64, Stop> {
        Ok(self.take(8)?.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    fn take(&mut self, bytes: u64) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(bytes).filter(|&end| end <= self.limit).ok_or(Stop::Wrong)?;
        let taken = self.header.get(self.at as usize..end as usize).ok_or(Stop::Truncated { needed: end })?;
        self.at = end;
        Ok(taken)
    }

    /// Refuses counts that the rest of the header could not hold.
    fn expect_room(&self, count: u64, min_bytes: u64) -> Result<(), Stop> {
        let room = self.limit - self.at;
        if count.checked_mul(min_bytes).is_some_and(|bytes| bytes <= room) {
            Ok(())
        } else {
            Err(Stop::Wrong)
        }
    }
}

/// Bytes of a value of fixed width.
fn width_of(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Lets each tensor reach to the next one, and the last to the end of the file.
fn place(mut tensors: Vec<Tensor>, data_begin: u64, size: u64) -> Option<Tensors> {
    tensors.sort_unstable_by_key(|tensor| tensor.key);
    if tensors.windows(2).any(|pair| pair[0].key == pair[1].key) {
        return None;
    }
    tensors.sort_unstable_by_key(|tensor| (tensor.begin, tensor.key));
    let data_bytes = size - data_begin;
    let mut end = data_bytes;
    for tensor in tensors.iter_mut().rev() {
        tensor.bytes = end.checked_sub(tensor.begin)?;
        end = tensor.begin;
    }
    // Without tensors (a vocabulary alone) whatever follows the header goes with it.
    let header_bytes = if tensors.is_empty() { size } else { data_begin + end };
    Some(Tensors { header_bytes, tensors })
}
