//! Reading orders: in which order a server really read a model, to be the order in which the next node fetches it.
//!
//! A small file beside the manifest, and with the homes of the swarm: magic (4 bytes), version (2 bytes,
//! little-endian), swarm id (32 bytes), then runs of neighbouring chunks in the order of their first reading:
//! first chunk and number of chunks (4 bytes each, little-endian). Nothing but a wish: who reads otherwise reads
//! the same bytes, and a false one costs order, never correctness.

use std::ops::Range;

use coordinatorless_p2p::{ChunkSet, SwarmId};

use crate::error::{Error, ErrorKind, Result};

/// The form that is written.
pub const FORMAT_VERSION: u16 = 1;
/// The longest that is kept or looked at: a quarter of a million runs.
pub const MAX_ENCODED_BYTES: usize = 2 << 20;

const MAGIC: [u8; 4] = *b"EMBo";
const HEAD_BYTES: usize = 4 + 2 + 32;
const RUN_BYTES: usize = 8;

/// The chunks of one version of an artifact in the order in which they were first read, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadingOrder {
    swarm: SwarmId,
    runs: Vec<Range<u32>>,
}

impl ReadingOrder {
    /// The order of these chunks; a chunk that comes again counts where it came first.
    pub fn new(swarm: SwarmId, chunks: impl IntoIterator<Item = u32>, count: u32) -> Self {
        let (mut seen, mut runs) = (ChunkSet::new(count), Vec::<Range<u32>>::new());
        for index in chunks {
            if !seen.insert(index) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == index => run.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        Self { swarm, runs }
    }

    /// Whose chunks they are.
    pub fn swarm(&self) -> SwarmId {
        self.swarm
    }

    /// How many chunks it has.
    pub fn len(&self) -> u32 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Runs of neighbouring chunks, in order.
    pub fn runs(&self) -> &[Range<u32>] {
        &self.runs
    }

    /// The chunks, in order; of an artifact with `count` of them.
    pub fn chunks(&self, count: u32) -> Vec<u32> {
        self.runs.iter().flat_map(|run| run.start..run.end.min(count)).collect()
    }

    /// As it is written.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + RUN_BYTES * self.runs.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.swarm.0);
        for run in &self.runs {
            bytes.extend_from_slice(&run.start.to_le_bytes());
            bytes.extend_from_slice(&(run.end - run.start).to_le_bytes());
        }
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote, here or on another node.
    ///
    /// # Errors
    /// `Invalid` for anything else: another version, too long, empty or overlapping runs.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::Invalid, format!("a reading order {why}")));
        if bytes.len() > MAX_ENCODED_BYTES {
            return refuse("is too long");
        }
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>().filter(|(h, _)| h[..4] == MAGIC)
        else {
            return refuse("is none");
        };
        if head[4..6] != FORMAT_VERSION.to_le_bytes() {
            return refuse("has a format that this agent does not read: update the older one");
        }
        let mut swarm = SwarmId([0; 32]);
        swarm.0.copy_from_slice(&head[6..]);
        let (runs, []) = rest.as_chunks::<RUN_BYTES>() else { return refuse("was cut short") };
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |n, byte| n << 8 | u32::from(*byte));
        let mut order = Self { swarm, runs: Vec::with_capacity(runs.len()) };
        let mut by_start: Vec<Range<u32>> = Vec::with_capacity(runs.len());
        for run in runs {
            let (start, length) = (number(&run[..4]), number(&run[4..]));
            let end = start.checked_add(length).filter(|end| *end <= crate::manifest::MAX_CHUNKS);
            let Some(end) = end.filter(|_| length > 0) else { return refuse("has an empty or endless run") };
            order.runs.push(start..end);
            by_start.push(start..end);
        }
        by_start.sort_unstable_by_key(|run| run.start);
        if by_start.windows(2).any(|pair| pair[1].start < pair[0].end) {
            return refuse("has a chunk twice");
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWARM: SwarmId = SwarmId([7; 32]);

    #[test]
    fn an_order_is_what_was_read_first_each_chunk_once() {
        let order = ReadingOrder::new(SWARM, [5, 6, 0, 6, 7, 1, 99], 10);
        assert_eq!(order.runs(), [5..7, 0..1, 7..8, 1..2]);
        assert_eq!(order.chunks(10), [5, 6, 0, 7, 1]);
        assert_eq!((order.len(), order.chunks(6)), (5, vec![5, 0, 1]));
        assert_eq!(ReadingOrder::decode(&order.encode()).unwrap(), order);
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let good = ReadingOrder::new(SWARM, [3, 4, 0], 8).encode();
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let huge = [&good[..HEAD_BYTES], &u32::MAX.to_le_bytes(), &2u32.to_le_bytes()].concat();
        let twice = [&good[..], &good[HEAD_BYTES..]].concat();
        for bad in [
            Vec::new(),
            good[..good.len() - 1].to_vec(),
            changed(0, b'x'),
            changed(4, 9),
            changed(HEAD_BYTES + 4, 0),
            huge,
            twice,
            vec![0; MAX_ENCODED_BYTES + 1],
        ] {
            assert_eq!(ReadingOrder::decode(&bad).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
