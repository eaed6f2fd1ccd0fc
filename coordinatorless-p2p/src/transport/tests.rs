//! One suite of claims, run on every network.

use std::sync::{Arc, atomic::AtomicU64};

use super::{memory::MemoryNetwork, *};
use crate::error::ErrorKind;

const STALL: Duration = Duration::from_secs(10);

/// Two nodes that can reach each other.
struct Two {
    here: Arc<dyn Transport>,
    there: Arc<dyn Transport>,
}

impl Two {
    fn there(&self) -> Peer {
        Peer { addr: self.there.local_addr(), id: Some(self.there.id()) }
    }

    async fn streams(&self) -> ((Box<dyn SendStream>, Box<dyn RecvStream>), Incoming) {
        let (mut send, recv) = self.here.open(self.there()).await.unwrap();
        // A stream is there for the other end once something was sent on it.
        send.send(Bytes::from_static(b"!"), STALL).await.unwrap();
        let mut incoming = self.there.accept().await.unwrap();
        receive(&mut *incoming.recv, 1).await.unwrap();
        ((send, recv), incoming)
    }
}

fn memory() -> Two {
    let network = MemoryNetwork::new();
    let node = |n: u8| network.node(NodeId([n; 16]), ([127, 0, 0, 1], n.into()).into());
    Two { here: node(1), there: node(2) }
}

fn quic() -> Two {
    let secret = crate::identity::ClusterSecret::generate().unwrap();
    let node = || quic::tests::node(&secret, "127.0.0.1:0") as Arc<dyn Transport>;
    Two { here: node(), there: node() }
}

async fn receive(recv: &mut dyn RecvStream, len: usize) -> Result<Bytes> {
    recv.recv(len, STALL, &AtomicU64::new(0)).await
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i * 31 / 7) as u8).collect::<Vec<_>>().into()
}

async fn bytes_arrive_as_they_were_sent(two: Two) {
    // Nothing, the least, one piece, the largest chunk, and one byte to either side.
    for len in [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, (4 << 20) - 1, 4 << 20] {
        let (mut send, mut recv) = two.here.open(two.there()).await.unwrap();
        let there = Arc::clone(&two.there);
        let echo = tokio::spawn(async move {
            let mut incoming = there.accept().await.unwrap();
            let progress = AtomicU64::new(0);
            let got = incoming.recv.recv(len, STALL, &progress).await.unwrap();
            assert_eq!(progress.into_inner(), len as u64);
            assert_eq!(
                receive(&mut *incoming.recv, 1).await.unwrap_err().kind(),
                match len {
                    0 => ErrorKind::NotFound,
                    _ => ErrorKind::Invalid,
                }
            );
            incoming.send.send(got, STALL).await.unwrap();
            incoming.send.finish().unwrap();
            incoming.from
        });
        send.send(pattern(len), STALL).await.unwrap();
        send.finish().unwrap();
        assert_eq!(receive(&mut *recv, len).await.unwrap(), pattern(len));
        assert_eq!(echo.await.unwrap(), two.here.id());
    }
}

async fn a_stream_that_ends_early_is_told_from_one_that_never_began(two: Two) {
    let (_ours, mut incoming) = two.streams().await;
    incoming.send.send(Bytes::from_static(b"abc"), STALL).await.unwrap();
    incoming.send.finish().unwrap();
    let (_, mut recv) = _ours;
    assert_eq!(receive(&mut *recv, 4).await.unwrap_err().kind(), ErrorKind::Invalid);
    let ((_, mut recv), mut incoming) = two.streams().await;
    incoming.send.finish().unwrap();
    assert_eq!(receive(&mut *recv, 4).await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn a_sender_that_gives_up_is_not_taken_for_one_that_is_done(two: Two) {
    let ((_send, mut recv), mut incoming) = two.streams().await;
    incoming.send.send(Bytes::from_static(b"a part"), STALL).await.unwrap();
    drop(incoming.send);
    let err = receive(&mut *recv, 100).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::UNAVAILABLE, "{err}");
}

async fn a_receiver_that_wants_no_more_stops_the_sender(two: Two) {
    let ((_send, recv), mut incoming) = two.streams().await;
    drop(recv);
    let err = loop {
        if let Err(err) = incoming.send.send(pattern(1 << 20), STALL).await {
            break err;
        }
    };
    assert_eq!(err.kind(), ErrorKind::Cancelled, "{err}");
}

async fn a_sender_with_nothing_to_say_hears_that_nobody_listens(two: Two) {
    let ((mut send, _recv), incoming) = two.streams().await;
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, send.stopped()).await.is_err(), "somebody listens");
    drop(incoming.recv);
    tokio::time::timeout(STALL, send.stopped()).await.expect("nobody listens any more");
    let ((mut send, _recv), _incoming) = two.streams().await;
    two.there.shun(two.here.id(), STALL);
    tokio::time::timeout(STALL, send.stopped()).await.expect("the connection is gone");
}

async fn silence_is_a_time_out_at_both_ends(two: Two) {
    let ((mut send, mut recv), _incoming) = two.streams().await;
    let stall = Duration::from_millis(50);
    let err = recv.recv(1, stall, &AtomicU64::new(0)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Timeout, "{err}");
    // Nobody reads at the other end, so the window fills.
    let err = loop {
        if let Err(err) = send.send(pattern(4 << 20), stall).await {
            break err;
        }
    };
    assert_eq!(err.kind(), ErrorKind::Timeout, "{err}");
}

async fn many_streams_at_once_do_not_mix(two: Two) {
    const STREAMS: u32 = 200;
    let there = Arc::clone(&two.there);
    let answering = tokio::spawn(async move {
        for _ in 0..STREAMS {
            let mut incoming = there.accept().await.unwrap();
            tokio::spawn(async move {
                let question = receive(&mut *incoming.recv, 4).await.unwrap();
                incoming.send.send(question.repeat(5_000).into(), STALL).await.unwrap();
                incoming.send.finish().unwrap();
            });
        }
    });
    let asking = (0..STREAMS).map(|n| {
        let (here, peer) = (Arc::clone(&two.here), two.there());
        async move {
            let (mut send, mut recv) = here.open(peer).await.unwrap();
            send.send(n.to_le_bytes().to_vec().into(), STALL).await.unwrap();
            send.finish().unwrap();
            let answer = receive(&mut *recv, 20_000).await.unwrap();
            assert!(answer.chunks(4).all(|piece| piece == n.to_le_bytes()));
        }
    });
    futures::future::join_all(asking).await;
    answering.await.unwrap();
}

async fn another_node_than_expected_is_denied(two: Two) {
    let wrong = Peer { id: Some(NodeId([9; 16])), ..two.there() };
    let err = two.here.open(wrong).await.err().unwrap();
    assert_eq!(err.kind(), ErrorKind::Denied, "{err}");
    assert!(err.to_string().contains(&two.there.id().to_string()), "{err}");
}

async fn a_seed_is_reached_without_knowing_who_it_is(two: Two) {
    let seed = Peer { id: None, ..two.there() };
    let (mut send, _recv) = two.here.open(seed).await.unwrap();
    send.send(Bytes::from_static(b"hello"), STALL).await.unwrap();
    assert_eq!(two.there.accept().await.unwrap().from, two.here.id());
}

async fn ourselves_are_not_a_peer(two: Two) {
    for id in [None, Some(two.here.id())] {
        let err = two.here.open(Peer { addr: two.here.local_addr(), id }).await.err().unwrap();
        assert_eq!(err.kind(), ErrorKind::Invalid, "{err}");
    }
}

async fn datagrams_arrive_with_their_senders_name(two: Two) {
    let largest = pattern(two.here.max_datagram_bytes());
    two.here.send_datagram(two.there(), largest.clone());
    assert_eq!(two.there.recv_datagram().await.unwrap(), (two.here.id(), largest));
    two.here.send_datagram(Peer { id: None, ..two.there() }, Bytes::from_static(b"x"));
    assert_eq!(two.there.recv_datagram().await.unwrap().1, "x");
    assert!(two.here.max_datagram_bytes() >= 1_000);
}

async fn a_shunned_peer_is_cut_off_both_ways(two: Two) {
    let ((_send, mut recv), _incoming) = two.streams().await;
    assert!(two.here.round_trip(two.there.id()).is_some());
    two.there.shun(two.here.id(), STALL);
    let err = receive(&mut *recv, 1).await.unwrap_err();
    assert!(matches!(err.kind(), ErrorKind::Unavailable { .. } | ErrorKind::Denied), "{err}");
    let err = two.here.open(two.there()).await.err().unwrap();
    assert_eq!(err.kind(), ErrorKind::Denied, "{err}");
    let back = Peer { addr: two.here.local_addr(), id: Some(two.here.id()) };
    assert_eq!(two.there.open(back).await.err().unwrap().kind(), ErrorKind::Denied);
}

async fn shunning_fades(two: Two) {
    let ((_send, mut recv), _incoming) = two.streams().await;
    two.there.shun(two.here.id(), Duration::from_millis(500));
    receive(&mut *recv, 1).await.unwrap_err();
    assert_eq!(two.here.open(two.there()).await.err().unwrap().kind(), ErrorKind::Denied);
    let again = async {
        while two.here.open(two.there()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(STALL, again).await.expect("it is shunned for ever");
}

async fn closing_lets_out_what_was_sent(two: Two) {
    let (_ours, mut incoming) = two.streams().await;
    let (_send, mut recv) = _ours;
    let whole = pattern(256 << 10);
    incoming.send.send(whole.clone(), STALL).await.unwrap();
    incoming.send.finish().unwrap();
    drop(incoming);
    let there = Arc::clone(&two.there);
    let closing = tokio::spawn(async move { there.close(STALL).await });
    assert_eq!(receive(&mut *recv, whole.len()).await.unwrap(), whole);
    drop((recv, _send));
    closing.await.unwrap();
    assert!(two.there.accept().await.is_none());
    assert!(two.there.recv_datagram().await.is_none());
}

macro_rules! on_every_network {
    ($($claim:ident)*) => {
        mod over_memory {
            $(#[tokio::test] async fn $claim() { super::$claim(super::memory()).await })*
        }
        mod over_quic {
            $(#[tokio::test] async fn $claim() { super::$claim(super::quic()).await })*
        }
    };
}

on_every_network! {
    bytes_arrive_as_they_were_sent
    a_stream_that_ends_early_is_told_from_one_that_never_began
    a_sender_that_gives_up_is_not_taken_for_one_that_is_done
    a_receiver_that_wants_no_more_stops_the_sender
    a_sender_with_nothing_to_say_hears_that_nobody_listens
    silence_is_a_time_out_at_both_ends
    many_streams_at_once_do_not_mix
    another_node_than_expected_is_denied
    a_seed_is_reached_without_knowing_who_it_is
    ourselves_are_not_a_peer
    datagrams_arrive_with_their_senders_name
    a_shunned_peer_is_cut_off_both_ways
    shunning_fades
    closing_lets_out_what_was_sent
}
