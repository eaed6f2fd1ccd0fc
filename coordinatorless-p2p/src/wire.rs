//! The words nodes say to each other, and the one way to read them: checked, behind a limit.
//!
//! A frame is a little-endian `u32` length and that many bytes of rkyv archive. Payload bytes of
//! chunks follow their header outside any frame. Knows nothing of sockets.

#![expect(missing_docs, reason = "rkyv's derive makes archived twins of every type without documentation")]

use bytes::{Bytes, BytesMut};
use rkyv::{
    Archive, Deserialize, Serialize,
    api::high::{HighDeserializer, HighSerializer, HighValidator},
    bytecheck::CheckBytes,
    rancor,
    ser::allocator::ArenaHandle,
    util::AlignedVec,
};

use crate::{
    chunk::{ChunkHash, ChunkSet, SwarmId},
    error::{Error, ErrorKind, Result},
    node::NodeId,
};

/// The version of this file's frames; neighbours of the last version interwork.
pub const VERSION: u16 = 3;
/// The first version that knows [`Opening::UrgentChunk`].
pub const VERSION_OF_URGENCY: u16 = 2;
/// The first version that knows [`Word::Leaving`].
pub const VERSION_OF_LEAVING: u16 = 3;
/// The longest [`Opening`], [`ChunkReply`] or call header, in bytes.
pub const HEAD_BYTES_MAX: usize = 4096;
/// The longest [`Word`] or call body, in bytes.
pub const FRAME_BYTES_MAX: usize = 32 << 20;
/// Announcements in one [`Word::Have`].
pub const HAVE_ITEMS_MAX: usize = 4096;

/// The first frame of every stream.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub enum Opening {
    /// "Give me this chunk." Answered by [`ChunkReply`] and the bytes.
    Chunk {
        /// Which swarm.
        swarm: SwarmId,
        /// Which chunk.
        index: u32,
    },
    /// "This is what I have and do, from now on." [`Word`]s follow, one way.
    Talk {
        /// Which swarm.
        swarm: SwarmId,
        /// Of the speaker.
        version: u16,
    },
    /// "Do this." One body frame follows, answered by [`CallReply`] and a body frame.
    Call {
        /// Which service.
        service: u16,
    },
    /// "Give me this chunk, before others: a reader waits for it." Answered as [`Chunk`](Self::Chunk); not to
    /// be said to those who speak a version before [`VERSION_OF_URGENCY`].
    UrgentChunk {
        /// Which swarm.
        swarm: SwarmId,
        /// Which chunk.
        index: u32,
    },
}

/// What answers a chunk request; `bytes` bytes follow `Found`.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub enum ChunkReply {
    /// Here it is.
    Found {
        /// Its hash as this holder knows it.
        hash: ChunkHash,
        /// Its length.
        bytes: u32,
    },
    /// It is not here (any more).
    Missing,
    /// Too much to do; try another.
    Busy,
}

/// What participants tell their neighbours.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub enum Word {
    /// First of all.
    Hello {
        /// What the speaker holds.
        held: ChunkSet,
        /// What it wants; `None`: everything.
        wanted: Option<ChunkSet>,
        /// Whether it reads from the origin at all.
        reads_origin: bool,
    },
    /// Chunks the speaker stored.
    Have(Vec<(u32, ChunkHash)>),
    /// The speaker reads this span from the origin.
    Claim(u32),
    /// It does not any more.
    Unclaim(u32),
    /// The origin wants to be left alone for so many milliseconds.
    OriginHold(u32),
    /// The speaker leaves the swarm.
    Bye,
    /// It is about to: it begins no more spans, and what only it holds should be asked of it now. Must not
    /// be said to those who speak a version before [`VERSION_OF_LEAVING`].
    Leaving,
}

/// How a call went; the body frame follows `Done`.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub enum CallReply {
    /// It went well.
    Done,
    /// It did not.
    Failed {
        /// The error's kind, by [`kind_code`].
        kind: u8,
        /// How long to wait, for `Unavailable`.
        retry_after_ms: u32,
        /// The sentence.
        message: String,
    },
}

/// A participant says where it is to the homes of swarms, and asks who else is there.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct Meet {
    /// Which swarms; at most [`MEET_SWARMS_MAX`].
    pub swarms: Vec<SwarmId>,
    /// Whether the speaker takes part from now on, or leaves.
    pub joins: bool,
}

/// Swarms in one [`Meet`].
pub const MEET_SWARMS_MAX: usize = 1024;

/// The others.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub struct Met {
    /// Participants of each swarm asked for, without the one who asked.
    pub participants: Vec<Vec<NodeId>>,
}

/// A value as one frame, length included.
///
/// # Errors
/// `Invalid` when it does not fit a frame: a bug or an absurd input of our own.
pub fn frame<T>(value: &T) -> Result<Bytes>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let body = rkyv::to_bytes::<rancor::Error>(value)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "frame cannot be encoded", e))?;
    frame_of_bytes(&body)
}

/// Raw bytes as one frame.
///
/// # Errors
/// `Invalid` above [`FRAME_BYTES_MAX`].
pub fn frame_of_bytes(body: &[u8]) -> Result<Bytes> {
    if body.len() > FRAME_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("frame of {} bytes is over the limit of {FRAME_BYTES_MAX}", body.len()),
        ));
    }
    let mut out = BytesMut::with_capacity(4 + body.len());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(body);
    Ok(out.freeze())
}

/// Reads a frame's body (without its length).
///
/// # Errors
/// `Invalid` for anything that is not exactly a `T`.
pub fn parse<T>(body: &[u8]) -> Result<T>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
        + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    let mut aligned: AlignedVec = AlignedVec::with_capacity(body.len());
    aligned.extend_from_slice(body);
    rkyv::from_bytes::<T, rancor::Error>(&aligned).map_err(|e| {
        Error::with_source(ErrorKind::Invalid, format!("frame of {} bytes is malformed", body.len()), e)
    })
}

/// An error's kind as a byte.
pub fn kind_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound => 1,
        ErrorKind::Denied => 2,
        ErrorKind::Invalid => 3,
        ErrorKind::Unavailable { .. } => 4,
        ErrorKind::Timeout => 5,
        ErrorKind::Corrupt => 6,
        ErrorKind::Full => 7,
        ErrorKind::Cancelled => 8,
    }
}

/// The kind that a byte stands for; unknown ones of later versions are `Unavailable`.
pub fn kind_of(code: u8, retry_after_ms: u32) -> ErrorKind {
    match code {
        1 => ErrorKind::NotFound,
        2 => ErrorKind::Denied,
        3 => ErrorKind::Invalid,
        5 => ErrorKind::Timeout,
        6 => ErrorKind::Corrupt,
        7 => ErrorKind::Full,
        8 => ErrorKind::Cancelled,
        _ => ErrorKind::Unavailable {
            retry_after: (retry_after_ms > 0)
                .then(|| std::time::Duration::from_millis(retry_after_ms.into())),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words() -> Vec<Word> {
        vec![
            Word::Hello { held: ChunkSet::full(130), wanted: Some(ChunkSet::new(130)), reads_origin: true },
            Word::Have(vec![(7, ChunkHash::of(b"x")), (8, ChunkHash::of(b"y"))]),
            Word::Claim(3),
            Word::Unclaim(3),
            Word::OriginHold(1500),
            Word::Bye,
            Word::Leaving,
        ]
    }

    #[test]
    fn every_word_survives_the_wire() {
        for word in words() {
            let bytes = frame(&word).unwrap();
            assert_eq!(bytes.len(), 4 + u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize);
            assert_eq!(parse::<Word>(&bytes[4..]).unwrap(), word);
        }
    }

    /// As the first version wrote them; whoever speaks it must be understood, and understand.
    #[test]
    fn openings_of_the_first_version_are_written_and_read_as_ever() {
        let swarm = "01".repeat(32);
        for (opening, golden) in [
            (
                Opening::Chunk { swarm: SwarmId([1; 32]), index: 7 },
                format!("2800000000{swarm}00000007000000"),
            ),
            (
                Opening::Talk { swarm: SwarmId([1; 32]), version: 1 },
                format!("2800000001{swarm}00010000000000"),
            ),
            (Opening::Call { service: 16 }, format!("28000000020010{}", "00".repeat(37))),
        ] {
            let bytes = frame(&opening).unwrap();
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, golden, "{opening:?}");
            assert_eq!(parse::<Opening>(&bytes[4..]).unwrap(), opening);
        }
    }

    #[test]
    fn openings_and_replies_fit_their_limit() {
        let message = "x".repeat(300);
        let failed = CallReply::Failed { kind: 1, retry_after_ms: 0, message };
        assert!(frame(&failed).unwrap().len() <= HEAD_BYTES_MAX);
        let opening = Opening::Talk { swarm: SwarmId([1; 32]), version: VERSION };
        assert!(frame(&opening).unwrap().len() <= HEAD_BYTES_MAX);
    }

    #[test]
    fn kinds_survive_the_wire() {
        for code in 1..=8 {
            assert_eq!(kind_code(kind_of(code, 0)), code);
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse::<Opening>(&bytes);
            let _ = parse::<Word>(&bytes);
            let _ = parse::<ChunkReply>(&bytes);
            let _ = parse::<CallReply>(&bytes);
            let _ = parse::<Meet>(&bytes);
            let _ = parse::<Met>(&bytes);
        }

        #[test]
        fn a_flipped_bit_never_panics(which in 0usize..7, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = frame(&words()[which]).unwrap()[4..].to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(Word::Hello { held, .. }) = parse::<Word>(&bytes) {
                let _ = held.is_sound(130);
            }
        }
    }
}
