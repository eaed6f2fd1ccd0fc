//! What can be put to a swarm's task: orders from the embedder, events from its own tasks.
//!
//! Plain values; who sends them and what they lead to is not known here.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::progress::Progress;
use crate::{
    chunk::{ChunkHash, ChunkSet},
    error::{Error, Result},
    node::NodeId,
    precedence::Precedence,
    seam::SpanSource,
    swarm::Member,
    wire::Word,
};

/// Events waiting for the task; whoever has more to say waits.
pub(crate) const EVENTS_MAX: usize = 1024;

/// Names a wish for the life of the node.
pub(crate) type Ticket = u64;

/// Orders from the cluster and from handles. Few: one for each pull, meeting and end.
pub(crate) enum Control {
    Join(Box<Join>),
    Dropped(Ticket),
    Urgent {
        ticket: Ticket,
        chunks: Vec<u32>,
    },
    Ahead {
        ticket: Ticket,
        chunks: Vec<u32>,
    },
    Order(Vec<u32>),
    Matters(Ticket, Precedence),
    Participants(Vec<NodeId>),
    Members(Arc<[Member]>),
    /// This node is about to leave; told, again and again, the bytes that would go with it.
    Leave(watch::Sender<u64>),
    /// What it still reads would not be taken in time.
    LeaveNow,
    End,
}

/// One embedder's wish.
pub(crate) struct Join {
    pub(crate) ticket: Ticket,
    pub(crate) wanted: ChunkSet,
    pub(crate) source: Option<Arc<dyn SpanSource>>,
    pub(crate) manifest: Option<Vec<ChunkHash>>,
    pub(crate) stored: mpsc::UnboundedSender<u32>,
    pub(crate) handle: oneshot::Sender<watch::Receiver<Progress>>,
}

/// One neighbour's stream of words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Talker {
    pub(crate) id: NodeId,
    /// Which of its streams.
    pub(crate) talk: u64,
    /// Of the words it knows.
    pub(crate) version: u16,
}

/// What tasks report.
pub(crate) enum Event {
    Heard { from: Talker, word: Word },
    Silent { from: NodeId, talk: u64 },
    SpeakerEnded { to: NodeId, speaker: u64 },
    SpeakAgain { to: NodeId },
    Received { peer: NodeId, index: u32, hash: ChunkHash, bytes: Bytes, place: OwnedSemaphorePermit },
    Refused { peer: NodeId, index: u32, error: Error },
    Origin { span: u32, ticket: Ticket, index: u32, bytes: Bytes, place: OwnedSemaphorePermit },
    OriginDone { span: u32, reading: u64, error: Option<Error> },
    Rushed { index: u32, reading: u64, result: Result<(Bytes, OwnedSemaphorePermit)> },
    Stored { index: u32, hash: ChunkHash, source: Source },
    Adopted { index: u32, hash: ChunkHash, is_here: bool },
    NotStored { index: u32, source: Source, error: Error },
    Settled { index: u32, result: Result<ChunkHash> },
}

/// Where a chunk came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// By the source of this wish.
    Origin(Ticket),
    Peer(NodeId),
    Disk,
}
