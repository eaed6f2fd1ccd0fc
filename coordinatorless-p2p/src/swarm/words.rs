//! What a swarm's state machine is told, and what it says: plain values, without behaviour.

use std::{ops::Range, sync::Arc, time::Duration};

use super::{Member, Now};
use crate::{
    chunk::{ChunkHash, ChunkSet},
    error::ErrorKind,
    node::NodeId,
};

/// What a swarm may have under way, beside what readers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes asked of holders at a time; one chunk may go beyond it. 0: none is asked.
    pub bytes: u64,
    /// Spans read from the origin at a time.
    pub streams: usize,
}

impl Allowance {
    /// As much as the swarm finds good, with `bytes` asked of holders.
    pub fn whole(bytes: u64) -> Self {
        Self { bytes, streams: usize::MAX }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The live members, this node included, sorted by id.
    Members(Arc<[Member]>),
    /// The meeting place answered: these take part, most of whom have not said what they hold yet.
    /// [`Output::Greet`] says to whom to speak.
    Met(Vec<NodeId>),
    /// Another node takes part and said what it holds and wants (`None`: everything).
    Joined {
        /// Who.
        peer: NodeId,
        /// Whether it is in this node's zone.
        same_zone: bool,
        /// What it holds.
        held: ChunkSet,
        /// What it wants.
        wanted: Option<ChunkSet>,
        /// Whether it reads from the origin at all.
        reads_origin: bool,
    },
    /// A participant left, died or became unreachable.
    Left(NodeId),
    /// A participant is about to leave: it begins to read nothing more, and serves for a while yet.
    Leaving(NodeId),
    /// This node is: nothing more is asked for, and no reading begun.
    Leave,
    /// What this node still reads would not be here in time.
    LeaveNow,
    /// A neighbour stored chunks.
    Have {
        /// Who.
        peer: NodeId,
        /// Index and hash.
        items: Vec<(u32, ChunkHash)>,
    },
    /// A neighbour starts to read a span from the origin.
    Claimed {
        /// Who.
        peer: NodeId,
        /// Index of the span.
        span: u32,
    },
    /// A neighbour gives a span up.
    Unclaimed {
        /// Who.
        peer: NodeId,
        /// Index of the span.
        span: u32,
    },
    /// The origin asked a neighbour, and so everybody, to stay away for a while.
    OriginHold {
        /// Until when.
        until: Now,
    },
    /// All bytes of a request are here; they are not verified or stored yet.
    Received {
        /// From whom.
        peer: NodeId,
        /// Index of the chunk.
        index: u32,
        /// The round trip to the holder, where it is known.
        round_trip: Option<Duration>,
    },
    /// A request came to nothing.
    RequestFailed {
        /// From whom.
        peer: NodeId,
        /// Index of the chunk.
        index: u32,
        /// Why: `NotFound` (not there), `Corrupt` (lied), `Timeout` (stalled), …
        why: ErrorKind,
    },
    /// A chunk is verified and stored, whatever its source.
    Stored {
        /// Index of the chunk.
        index: u32,
        /// Its hash.
        hash: ChunkHash,
    },
    /// A chunk could not be stored, or turned out rotten on disk; it is missing again.
    Lost {
        /// Index of the chunk.
        index: u32,
    },
    /// A chunk is being taken from another artifact on this disk: nobody is asked for it meanwhile.
    /// `Stored` or `Lost` says how that ended.
    Adopting {
        /// Index of the chunk.
        index: u32,
    },
    /// All bytes of a chunk came from the origin; they are not stored yet.
    OriginChunk {
        /// Index of the span.
        span: u32,
        /// Index of the chunk.
        index: u32,
    },
    /// A read of a span ended.
    OriginDone {
        /// Index of the span.
        span: u32,
        /// Why it ended early, and how long the origin wants to be left alone.
        failed: Option<ErrorKind>,
    },
    /// The origin was read again to settle a dispute.
    Settled {
        /// Index of the chunk.
        index: u32,
        /// The hash it really has.
        hash: ChunkHash,
    },
    /// The origin could not be read to settle a dispute; the next announcement opens it again.
    Unsettled {
        /// Index of the chunk.
        index: u32,
    },
    /// Readers wait for these chunks now; wants them, if they were not wanted.
    Urgent(Vec<u32>),
    /// Readers are about to come to these chunks; wants them, if they were not wanted.
    Ahead(Vec<u32>),
    /// The order in which the artifact was read before: the one to fetch it in, where nothing else counts.
    Order(Vec<u32>),
    /// A chunk that was to be rushed came, and is not stored yet, or did not.
    Rushed {
        /// Index of the chunk.
        index: u32,
        /// Why it did not come.
        failed: Option<ErrorKind>,
    },
    /// What this swarm may have under way from now on, beside what readers wait for.
    Allowed(Allowance),
    /// What is wanted from now on, instead of what was.
    Want(ChunkSet),
    /// Whether this node can read from the origin from now on.
    ReadsOrigin(bool),
    /// The hashes of a manifest, one for every chunk.
    Manifest(Vec<ChunkHash>),
    /// Time passed.
    Tick,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Speak to this participant, if this node does not yet: it is to be a neighbour.
    Greet {
        /// Who.
        peer: NodeId,
    },
    /// Say farewell to this neighbour: it is none any more.
    Part {
        /// Who.
        peer: NodeId,
    },
    /// Ask a holder for a chunk.
    Request {
        /// Whom.
        peer: NodeId,
        /// Index of the chunk.
        index: u32,
    },
    /// Take a request back.
    Cancel {
        /// Whom.
        peer: NodeId,
        /// Index of the chunk.
        index: u32,
    },
    /// Read chunks from the origin in one request.
    FetchSpan {
        /// Index of the span.
        span: u32,
        /// The chunks: a run within the span.
        chunks: Range<u32>,
    },
    /// Stop reading a span.
    CancelSpan {
        /// Index of the span.
        span: u32,
    },
    /// Read one chunk from the origin now: readers wait for it.
    Rush {
        /// Index of the chunk.
        index: u32,
    },
    /// Stop reading it: it came from elsewhere.
    CancelRush {
        /// Index of the chunk.
        index: u32,
    },
    /// Tell every neighbour what was stored.
    Announce {
        /// Index and hash.
        items: Vec<(u32, ChunkHash)>,
    },
    /// Tell every neighbour that this node reads a span.
    Claim {
        /// Index of the span.
        span: u32,
    },
    /// Tell every neighbour that it does not any more.
    Unclaim {
        /// Index of the span.
        span: u32,
    },
    /// Read one chunk from the origin to see which announced hash is right.
    Settle {
        /// Index of the chunk.
        index: u32,
    },
    /// Forget a stored chunk: its hash was wrong.
    Discard {
        /// Index of the chunk.
        index: u32,
    },
    /// Have nothing to do with this peer for a time, and say so in the log.
    Shun {
        /// Who.
        peer: NodeId,
        /// How long.
        time: Duration,
        /// What it did.
        why: &'static str,
    },
    /// Everything wanted is stored.
    Complete,
}
