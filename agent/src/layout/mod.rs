//! Chunk boundaries: a pure function of (path, size, header, target size).
//!
//! Every node that cuts the same file must get the same chunks, and a tensor that did not change
//! must get the same chunks in every fine-tune and every resharding. So boundaries stand at tensor
//! starts, and what is inside a tensor is cut from the tensor's own start, never from the file's.
//!
//! Knows two formats (safetensors, GGUF); everything else, and every header that does not
//! add up, is opaque and cut in fixed steps: such a file is still served byte for byte. Does no I/O:
//! [`header_need`] says which bytes of a file's start must be brought here first.
//!
//! Invariants of [`cut`]: the lengths add up to the size; each is at least 1 byte and at most the
//! target; there are at most about eight for each target's worth of bytes, however hostile the header.

mod fixed;
mod gguf;
mod safetensors;

use coordinatorless_p2p::MAX_CHUNK_BYTES;

/// The chunk size that the layout aims for and does not exceed, for all but enormous snapshots.
///
/// Small chunks shorten the tail of a swarm (the last chunk must still cross every link): in the
/// fluid simulation of 8 equal nodes the last one ends at 1.03 × the bound with 1 MiB and at
/// 1.11 × with 4 MiB.
pub const TARGET_CHUNK_BYTES: u32 = 1 << 20;

/// Above about this many chunks the target size grows, so that bitmaps and hash lists stay small.
const COMFORTABLE_CHUNKS: u64 = 400_000;

/// A longer header makes its file opaque. The safetensors reference reader has the same limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// More tensors than this make the file opaque; the largest published models have some 100,000.
const MAX_TENSORS: u64 = 1 << 20;

/// How much of a file's start the layout wants to see before it can cut it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderNeed {
    /// Enough is known.
    Nothing,
    /// These bytes (from 0) are needed next; more than were given, never more than the file has.
    Bytes(u64),
}

/// The chunk size to aim for in a snapshot of `total_bytes`: 1 MiB, and 2 or 4 MiB where 1 MiB
/// would make more than about 400,000 chunks.
pub fn target_chunk_bytes(total_bytes: u64) -> u32 {
    let mut target = TARGET_CHUNK_BYTES;
    while target < MAX_CHUNK_BYTES && total_bytes / u64::from(target) > COMFORTABLE_CHUNKS {
        target *= 2;
    }
    target
}

/// What `header` (the first bytes of the file, possibly none) still lacks for `path` of `size` bytes.
/// Never more than 100 MB: a larger header makes the file opaque.
pub fn header_need(path: &str, size: u64, header: &[u8]) -> HeaderNeed {
    match read(path, size, header) {
        Header::Lacks(bytes) => HeaderNeed::Bytes(bytes),
        Header::Opaque | Header::Tensors(_) => HeaderNeed::Nothing,
    }
}

/// The chunk lengths of a file, none longer than `target_bytes` (1 KiB to 4 MiB; others are
/// clamped). Hostile, unknown or incomplete headers give fixed steps.
pub fn cut(path: &str, size: u64, header: &[u8], target_bytes: u32) -> Vec<u32> {
    let target = u64::from(target_bytes.clamp(1 << 10, MAX_CHUNK_BYTES));
    let mut lengths = Vec::new();
    match read(path, size, header) {
        Header::Tensors(tensors) => cut_at_tensors(&tensors, target, &mut lengths),
        Header::Opaque | Header::Lacks(_) => fixed::cut(size, target, &mut lengths),
    }
    lengths
}

/// What a header told.
enum Header {
    /// This many bytes of the file's start are needed before more can be said.
    Lacks(u64),
    /// No format that is known here, or one that contradicts itself.
    Opaque,
    /// Where the tensors are.
    Tensors(Tensors),
}

/// The tensors of a file; header and tensors lie behind each other without a gap up to its end.
struct Tensors {
    header_bytes: u64,
    /// In the order of the file.
    tensors: Vec<Tensor>,
}

struct Tensor {
    /// Start within the data, from its first byte.
    begin: u64,
    bytes: u64,
    /// From the tensor's name alone.
    key: u64,
}

fn read(path: &str, size: u64, header: &[u8]) -> Header {
    let header = &header[..header.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    if extension.eq_ignore_ascii_case("safetensors") {
        safetensors::read(size, header)
    } else if extension.eq_ignore_ascii_case("gguf") {
        gguf::read(size, header)
    } else {
        Header::Opaque
    }
}

/// A number that depends on nothing but the tensor's name: also what two equal names have in common.
fn name_key(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
}

/// A tensor of a quarter of the target or more has chunks of its own. Smaller ones between two such
/// are gathered. Where a gathered chunk ends depends on the *names* of the tensors (as in
/// content-defined chunking), so a tensor more or less moves only the boundaries near it.
fn cut_at_tensors(file: &Tensors, target: u64, lengths: &mut Vec<u32>) {
    fixed::cut(file.header_bytes, target, lengths);
    let own = target / 4;
    let mut gathered = 0;
    for tensor in &file.tensors {
        if tensor.bytes >= own {
            fixed::cut(std::mem::take(&mut gathered), target, lengths);
            fixed::cut(tensor.bytes, target, lengths);
            continue;
        }
        let full = gathered + tensor.bytes > target;
        if full || gathered >= own && starts_gathering(tensor, target / 2) {
            fixed::cut(std::mem::take(&mut gathered), target, lengths);
        }
        gathered += tensor.bytes;
    }
    fixed::cut(gathered, target, lengths);
}

/// True for one tensor in about every `window` bytes of them.
fn starts_gathering(tensor: &Tensor, window: u64) -> bool {
    let draw = (u128::from(tensor.key) * u128::from(window)) >> 64;
    draw < u128::from(tensor.bytes)
}

#[cfg(test)]
mod tests;
