//! What nodes say to each other in the simulator, and how many bytes the product would take to say it.
//!
//! Sizes are those of the product's own frames, with what QUIC, UDP and IP add to a packet of one message.

use coordinatorless_p2p::{
    ChunkHash, ChunkSet, NodeId, SwarmId,
    wire::{self, ChunkReply, Meet, Met, Opening},
};

/// IPv4, UDP, QUIC's short header and tag, and a stream frame's header.
const PACKET_BYTES: u64 = 20 + 8 + 27 + 8;

/// As [`wire::Word`], with what travels behind a greeting in it, and without hashes: the world knows them.
#[derive(Debug)]
pub(super) enum Word {
    Hello { held: ChunkSet, claims: Vec<u32> },
    Have(Vec<u32>),
    Claim(u32),
    Unclaim(u32),
    Bye,
}

macro_rules! frame {
    ($value:expr) => {
        wire::frame(&$value).map_or(0, |bytes| bytes.len() as u64)
    };
}

/// Bytes on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    hello: u64,
    claim: u64,
    /// An announcement of nothing, and each chunk in it.
    have: (u64, u64),
    /// An answer that names nobody, and each participant in it.
    met: (u64, u64),
    meet: u64,
    /// For a chunk.
    pub(super) request: u64,
    /// The header in front of a chunk.
    pub(super) reply: u64,
}

impl Sizes {
    /// From frames of the product.
    pub(super) fn measured(swarm: SwarmId) -> Self {
        let have = |count: usize| frame!(wire::Word::Have(vec![(0, ChunkHash([0; 32])); count]));
        let met = |count: usize| frame!(Met { participants: vec![vec![NodeId([0; 16]); count]] });
        let held = ChunkSet::new(0);
        Self {
            hello: frame!(wire::Word::Hello { held, wanted: None, reads_origin: true })
                + frame!(Opening::Talk { swarm, version: wire::VERSION }),
            claim: PACKET_BYTES + frame!(wire::Word::Claim(0)),
            have: (PACKET_BYTES + have(0), have(1) - have(0)),
            met: (PACKET_BYTES + met(0), met(1) - met(0)),
            meet: PACKET_BYTES
                + frame!(Meet { swarms: vec![swarm], joins: true })
                + frame!(Opening::Call { service: 1 }),
            request: PACKET_BYTES + frame!(Opening::Chunk { swarm, index: 0 }),
            reply: frame!(ChunkReply::Found { hash: ChunkHash([0; 32]), bytes: 0 }),
        }
    }

    /// Of a question to a home, and of its answer.
    pub(super) fn meeting(&self, named: usize) -> (u64, u64) {
        (self.meet, self.met.0 + self.met.1 * named as u64)
    }

    /// Of a word.
    pub(super) fn word(&self, word: &Word) -> u64 {
        match word {
            Word::Hello { held, claims } => {
                let bitmap = u64::from(held.universe().div_ceil(8));
                let packets = 1 + bitmap / 1200;
                let hashes = u64::from(held.len()) * self.have.1;
                self.hello + bitmap + packets * PACKET_BYTES + claims.len() as u64 * self.claim + hashes
            }
            Word::Have(chunks) => self.have.0 + self.have.1 * chunks.len() as u64,
            Word::Claim(_) | Word::Unclaim(_) | Word::Bye => self.claim,
        }
    }
}
