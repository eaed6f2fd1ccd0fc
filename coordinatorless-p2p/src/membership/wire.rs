//! Gossip as bytes, and what is refused of it.
//!
//! Datagrams come from members whose certificates were checked, which makes them neither correct nor
//! honest. Nothing is allocated beyond the datagram's own size; what a sender says of itself must
//! agree with its certificate; what it says of others must at least be possible.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use foca::{Codec, Header, Member, Message, PostcardCodec, State};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    node::{Node, NodeId},
};

/// The first byte of every datagram: gossip in the form described here.
pub(super) const VERSION: u8 = 1;

/// How far ahead of our clock a description may be dated, in milliseconds. Whoever could date one
/// further could never be corrected by the node that it is about.
pub(super) const MAX_AHEAD_MS: u64 = 3_600_000;

/// A node as the gossip knows it: compared as a whole, addressed by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Packed", into = "Packed")]
pub(super) struct Name(pub(super) Node);

/// [`Name`] in the order and form in which it travels.
#[derive(Serialize, Deserialize)]
struct Packed {
    id: [u8; 16],
    generation: u64,
    addr: SocketAddr,
    weight: u16,
    name: String,
    zone: String,
}

impl From<Packed> for Name {
    fn from(p: Packed) -> Self {
        Self(Node {
            id: NodeId(p.id),
            name: p.name,
            addr: p.addr,
            zone: p.zone,
            weight: p.weight,
            generation: p.generation,
        })
    }
}

impl From<Name> for Packed {
    fn from(Name(n): Name) -> Self {
        Self {
            id: n.id.0,
            generation: n.generation,
            addr: n.addr,
            weight: n.weight,
            name: n.name,
            zone: n.zone,
        }
    }
}

/// The id of a node of which only the address is known: a seed.
pub(super) const UNKNOWN: NodeId = NodeId([0; 16]);

impl Name {
    /// Whoever listens at `addr`.
    pub(super) fn of_seed(addr: SocketAddr) -> Self {
        Self(Node { id: UNKNOWN, name: String::new(), addr, zone: String::new(), weight: 0, generation: 0 })
    }
}

impl foca::Identity for Name {
    type Addr = NodeId;

    /// The next generation, with which a node that was declared down comes back. The clock is not needed:
    /// whoever remembers one that is newer says so, and is outbid.
    fn renew(&self) -> Option<Self> {
        let mut node = self.0.clone();
        node.generation = node.generation.checked_add(1)?;
        Some(Self(node))
    }

    fn addr(&self) -> NodeId {
        self.0.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        // Total, so that all nodes keep the same one of two that are dated alike.
        let rank = |n: &Node| (n.generation, n.addr, n.weight, n.name.clone(), n.zone.clone());
        rank(&self.0) > rank(&adversary.0)
    }
}

/// What is believed of a description.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Whether we listen on loopback ourselves.
    pub(super) loopback: bool,
}

impl Policy {
    /// Whether `node` may be what it says, at `epoch_ms` milliseconds after the epoch.
    pub(super) fn check(&self, node: &Node, epoch_ms: u64) -> Result<()> {
        let refuse = |why: &str| {
            Err(Error::new(
                ErrorKind::Invalid,
                format!("description of node {} refused: {why}", node.id.short()),
            ))
        };
        if node.id == UNKNOWN {
            return refuse("no id");
        }
        for label in [&node.name, &node.zone] {
            if label.len() > Node::MAX_LABEL_BYTES {
                return refuse("a label is too long");
            }
            if label.chars().any(char::is_control) {
                return refuse("a label has control characters");
            }
        }
        let ip = node.addr.ip().to_canonical();
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        if node.addr.port() == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
            return refuse("its address cannot be one");
        }
        if ip.is_loopback() && !self.loopback {
            return refuse("its address is on loopback, ours is not");
        }
        if node.generation > epoch_ms.saturating_add(MAX_AHEAD_MS) {
            return refuse("it is dated more than an hour ahead of the clock here");
        }
        Ok(())
    }
}

/// A datagram taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gossip {
    pub(super) header: Header<Name>,
    pub(super) updates: Vec<Member<Name>>,
}

impl Gossip {
    /// Takes a datagram apart; every byte must have its meaning.
    ///
    /// # Errors
    /// `Invalid`.
    pub(super) fn decode(datagram: &[u8]) -> Result<Self> {
        let wrong = |why: &str| Error::new(ErrorKind::Invalid, format!("gossip refused: {why}"));
        let malformed =
            |e: postcard::Error| Error::with_source(ErrorKind::Invalid, "gossip refused: malformed", e);
        let [VERSION, rest @ ..] = datagram else { return Err(wrong("unknown version")) };
        let mut rest = rest;
        let mut codec = PostcardCodec;
        let header: Header<Name> = codec.decode_header(&mut rest).map_err(malformed)?;
        let mut updates = Vec::new();
        if let [high, low, members @ ..] = rest {
            let count = u16::from_be_bytes([*high, *low]);
            rest = members;
            // Each takes at least a byte, so a count that lies fails before it has grown anything.
            for _ in 0..count {
                updates.push(codec.decode_member(&mut rest).map_err(malformed)?);
            }
        }
        if rest.is_empty() { Ok(Self { header, updates }) } else { Err(wrong("bytes left over")) }
    }

    /// The inverse, without the version: what foca reads.
    pub(super) fn encode_body(&self) -> Result<BytesMut> {
        let failed =
            |e: postcard::Error| Error::with_source(ErrorKind::Invalid, "gossip cannot be encoded", e);
        let mut codec = PostcardCodec;
        let mut body = BytesMut::new();
        codec.encode_header(&self.header, &mut body).map_err(failed)?;
        if !self.updates.is_empty() {
            body.put_u16(u16::try_from(self.updates.len()).unwrap_or(u16::MAX));
            for update in self.updates.iter().take(u16::MAX.into()) {
                codec.encode_member(update, &mut body).map_err(failed)?;
            }
        }
        Ok(body)
    }
}

/// A datagram as it travels.
pub(super) fn frame(body: &[u8]) -> Bytes {
    let mut datagram = BytesMut::with_capacity(body.len() + 1);
    datagram.put_u8(VERSION);
    datagram.put_slice(body);
    datagram.freeze()
}

/// One piece of news from `me` to `to`.
pub(super) fn word(me: &Name, to: &Name, news: Member<Name>) -> Result<Bytes> {
    let header = Header { src: me.clone(), src_incarnation: 0, dst: to.clone(), message: Message::Gossip };
    Ok(frame(&Gossip { header, updates: vec![news] }.encode_body()?))
}

/// The word by which a node takes leave of `to`.
pub(super) fn farewell(me: &Name, to: &Name) -> Result<Bytes> {
    word(me, to, Member::new(me.clone(), u16::MAX, State::Down))
}

/// The third node that a message is about, beside sender and receiver.
pub(super) fn third_party(message: &Message<Name>) -> Option<&Name> {
    match message {
        Message::PingReq { target, .. } | Message::IndirectAck { target, .. } => Some(target),
        Message::IndirectPing { origin, .. } | Message::ForwardedAck { origin, .. } => Some(origin),
        Message::Ping(_)
        | Message::Ack(_)
        | Message::Announce
        | Message::Feed
        | Message::Gossip
        | Message::Broadcast
        | Message::TurnUndead => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(n: u8) -> Node {
        Node {
            id: NodeId([n; 16]),
            name: format!("node-{n}"),
            addr: ([10, 0, 0, n], 4000).into(),
            zone: "a".into(),
            weight: 100,
            generation: 5,
        }
    }

    fn gossip(updates: usize) -> Gossip {
        Gossip {
            header: Header {
                src: Name(node(1)),
                src_incarnation: 3,
                dst: Name(node(2)),
                message: Message::PingReq { target: Name(node(3)), probe_number: 9 },
            },
            updates: (0..updates).map(|n| Member::new(Name(node(n as u8 + 4)), 7, State::Suspect)).collect(),
        }
    }

    #[test]
    fn gossip_survives_its_bytes() {
        for updates in [0, 1, 8] {
            let said = gossip(updates);
            assert_eq!(Gossip::decode(&frame(&said.encode_body().unwrap())).unwrap(), said);
        }
    }

    #[test]
    fn the_largest_description_leaves_room_in_a_datagram() {
        let mut largest = node(255);
        largest.addr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        largest.name = "n".repeat(Node::MAX_LABEL_BYTES);
        largest.zone = "z".repeat(Node::MAX_LABEL_BYTES);
        (largest.weight, largest.generation) = (u16::MAX, u64::MAX);
        let name = Name(largest);
        let said = Gossip {
            header: Header {
                src: name.clone(),
                src_incarnation: u16::MAX,
                dst: name.clone(),
                message: Message::PingReq { target: name.clone(), probe_number: 255 },
            },
            updates: vec![Member::new(name, u16::MAX, State::Down)],
        };
        let bytes = frame(&said.encode_body().unwrap()).len();
        assert!(bytes <= 1_150, "{bytes} bytes");
    }

    #[test]
    fn a_count_that_lies_is_refused() {
        let mut body = gossip(0).encode_body().unwrap();
        body.put_u16(u16::MAX);
        assert_eq!(Gossip::decode(&frame(&body)).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn impossible_descriptions_are_refused() {
        let policy = Policy { loopback: false };
        assert!(policy.check(&node(1), 5).is_ok());
        let spoilt: [fn(&mut Node); 11] = [
            |n| n.name = "n".repeat(65),
            |n| n.zone = "z".repeat(65),
            |n| n.name = "a\nb".into(),
            |n| n.addr = "0.0.0.0:1".parse().unwrap(),
            |n| n.addr = "[::]:1".parse().unwrap(),
            |n| n.addr = "224.0.0.1:1".parse().unwrap(),
            |n| n.addr = "[::ffff:127.0.0.1]:1".parse().unwrap(),
            |n| n.addr = "127.0.0.1:1".parse().unwrap(),
            |n| n.addr.set_port(0),
            |n| n.generation = u64::MAX,
            |n| n.id = UNKNOWN,
        ];
        for (case, spoil) in spoilt.iter().enumerate() {
            let mut bad = node(1);
            spoil(&mut bad);
            assert_eq!(policy.check(&bad, 5).unwrap_err().kind(), ErrorKind::Invalid, "case {case}");
        }
        let mut local = node(1);
        local.addr = "127.0.0.1:1".parse().unwrap();
        assert!(Policy { loopback: true }.check(&local, 5).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_harm(bytes in prop::collection::vec(any::<u8>(), 0..1300)) {
            let _ = Gossip::decode(&bytes);
            let mut versioned = vec![VERSION];
            versioned.extend(bytes);
            let _ = Gossip::decode(&versioned);
        }

        #[test]
        fn altered_gossip_is_refused_or_means_something(at: prop::sample::Index, value: u8, cut: prop::sample::Index) {
            let mut bytes = frame(&gossip(4).encode_body().unwrap()).to_vec();
            let (at, cut) = (at.index(bytes.len()), cut.index(bytes.len() + 1));
            bytes[at] = value;
            bytes.truncate(cut);
            if let Ok(understood) = Gossip::decode(&bytes) {
                let again = Gossip::decode(&frame(&understood.encode_body().unwrap())).unwrap();
                prop_assert_eq!(again, understood);
            }
        }
    }
}
