//! What only sockets and certificates can show.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{
    identity::{ClusterSecret, NodeKey},
    transport::Priority,
};

const STALL: Duration = Duration::from_secs(10);

fn identity(secret: &ClusterSecret) -> Arc<Identity> {
    Arc::new(Identity::from_secret(secret, NodeKey::generate().unwrap()).unwrap())
}

pub(in crate::transport) fn node(secret: &ClusterSecret, addr: &str) -> Arc<QuicTransport> {
    QuicTransport::bind(addr.parse().unwrap(), identity(secret), QuicConfig::default()).unwrap()
}

fn patient(secret: &ClusterSecret, config: QuicConfig) -> Arc<QuicTransport> {
    QuicTransport::bind("127.0.0.1:0".parse().unwrap(), identity(secret), config).unwrap()
}

fn peer(of: &QuicTransport) -> Peer {
    let mut addr = of.local_addr();
    if addr.ip().is_unspecified() {
        addr.set_ip([127, 0, 0, 1].into());
    }
    Peer { addr, id: Some(of.id()) }
}

async fn talk(here: &QuicTransport, there: &QuicTransport, to: Peer) {
    let (mut send, mut recv) = here.open(to).await.unwrap();
    send.send(Bytes::from_static(b"ping"), STALL).await.unwrap();
    let mut incoming = there.accept().await.unwrap();
    assert_eq!(incoming.from, here.id());
    assert!(incoming.addr.ip().to_canonical() == incoming.addr.ip(), "{} is not canonical", incoming.addr);
    assert_eq!(incoming.recv.recv(4, STALL, &AtomicU64::new(0)).await.unwrap(), "ping");
    incoming.send.send(Bytes::from_static(b"pong"), STALL).await.unwrap();
    assert_eq!(recv.recv(4, STALL, &AtomicU64::new(0)).await.unwrap(), "pong");
}

#[tokio::test]
async fn a_node_of_another_cluster_is_denied_in_words_at_both_ends() {
    let here = node(&ClusterSecret::generate().unwrap(), "127.0.0.1:0");
    let there = node(&ClusterSecret::generate().unwrap(), "127.0.0.1:0");
    let err = here.open(peer(&there)).await.err().unwrap();
    assert_eq!(err.kind(), ErrorKind::Denied, "{err}");
    assert!(err.to_string().contains("another cluster") && err.to_string().contains("127.0.0.1"), "{err}");
}

#[tokio::test]
async fn a_dialler_that_the_other_end_refuses_learns_it_from_open() {
    // The dialler believes the other's authority, but shows a certificate of its own one: only the
    // accepting end can refuse, and in TLS 1.3 it does so after the dialler is done.
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let authority = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().pem(), rcgen::Issuer::new(params, key))
    };
    let ((ours, our_issuer), (theirs, their_issuer)) = (authority(), authority());
    let issue = |name: &str, issuer: &rcgen::Issuer<'_, rcgen::KeyPair>| {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec![]).unwrap().signed_by(&key, issuer).unwrap();
        (write(&format!("{name}.crt"), cert.pem()), write(&format!("{name}.key"), key.serialize_pem()))
    };
    let (our_ca, their_ca) = (write("ours.pem", ours), write("theirs.pem", theirs));
    let bind = |ca, (crt, key): (std::path::PathBuf, std::path::PathBuf)| {
        let identity = Arc::new(Identity::from_files(ca, &crt, &key).unwrap());
        QuicTransport::bind("127.0.0.1:0".parse().unwrap(), identity, QuicConfig::default()).unwrap()
    };
    let here = bind(&their_ca, issue("here", &our_issuer));
    let there = bind(&their_ca, issue("there", &their_issuer));
    let _ = our_ca;
    let err = here.open(peer(&there)).await.err().unwrap();
    assert_eq!(err.kind(), ErrorKind::Denied, "{err}");
    assert!(err.to_string().contains("refused us") && err.to_string().contains("another cluster"), "{err}");
}

#[tokio::test]
async fn nobody_there_is_a_time_out_that_says_whom_we_meant() {
    let secret = ClusterSecret::generate().unwrap();
    let here =
        patient(&secret, QuicConfig { connect_timeout: Duration::from_millis(200), ..QuicConfig::default() });
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = Peer { addr: silent.local_addr().unwrap(), id: Some(NodeId([7; 16])) };
    let err = here.open(to).await.err().unwrap();
    assert_eq!(err.kind(), ErrorKind::Timeout, "{err}");
    assert!(err.to_string().contains("07070707") && err.to_string().contains(&to.addr.to_string()), "{err}");
}

#[tokio::test]
async fn both_families_and_dual_stack_reach_each_other() {
    let secret = ClusterSecret::generate().unwrap();
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return; // a machine without IPv6
    }
    let (v4, v6) = (node(&secret, "127.0.0.1:0"), node(&secret, "[::1]:0"));
    let dual = node(&secret, "[::]:0");
    let port = dual.local_addr().port();
    talk(&v4, &dual, Peer { addr: ([127, 0, 0, 1], port).into(), id: Some(dual.id()) }).await;
    talk(&v6, &dual, Peer { addr: format!("[::1]:{port}").parse().unwrap(), id: Some(dual.id()) }).await;
    let other = node(&secret, "[::]:0");
    talk(&other, &v4, peer(&v4)).await;
    talk(&other, &v6, peer(&v6)).await;
    let err = v4.open(peer(&v6)).await.err().unwrap();
    assert_eq!(err.kind(), ErrorKind::Invalid, "{err}");
}

#[tokio::test]
async fn streams_share_one_connection_and_both_ends_use_it() {
    let secret = ClusterSecret::generate().unwrap();
    let (here, there) = (node(&secret, "127.0.0.1:0"), node(&secret, "127.0.0.1:0"));
    for _ in 0..5 {
        talk(&here, &there, peer(&there)).await;
        talk(&there, &here, peer(&here)).await;
    }
    assert_eq!(
        (here.inner.endpoint.quinn().open_connections(), there.inner.endpoint.quinn().open_connections()),
        (1, 1)
    );
}

#[tokio::test]
async fn many_who_want_a_connection_at_once_get_the_same_one() {
    let secret = ClusterSecret::generate().unwrap();
    let (here, there) = (node(&secret, "127.0.0.1:0"), node(&secret, "127.0.0.1:0"));
    let opened = futures::future::join_all((0..50).map(|_| here.open(peer(&there)))).await;
    assert!(opened.iter().all(Result::is_ok));
    assert_eq!(here.inner.endpoint.quinn().open_connections(), 1);
}

#[tokio::test]
async fn ends_that_dial_at_once_agree_on_one_connection() {
    let secret = ClusterSecret::generate().unwrap();
    for _ in 0..10 {
        let (here, there) = (node(&secret, "127.0.0.1:0"), node(&secret, "127.0.0.1:0"));
        let (a, b) = tokio::join!(here.inner.link(peer(&there)), there.inner.link(peer(&here)));
        // Each greeting comes after its connection was entered at the other end.
        assert!(a.is_ok() && b.is_ok());
        talk(&here, &there, peer(&there)).await;
        talk(&there, &here, peer(&here)).await;
        let kept = |t: &QuicTransport, other: NodeId| t.inner.peers().find(other).unwrap().dialled;
        assert_ne!(kept(&here, there.id()), kept(&there, here.id()), "one dialled, the other answered");
    }
}

#[tokio::test]
async fn a_peer_that_dies_silently_is_noticed() {
    let secret = ClusterSecret::generate().unwrap();
    let quick = QuicConfig {
        keep_alive: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(400),
        ..QuicConfig::default()
    };
    let here = patient(&secret, quick.clone());
    // Its own runtime, so that it can be stopped without a word.
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let there = {
        let _inside = doomed.enter();
        patient(&secret, quick)
    };
    let (mut send, mut recv) = here.open(peer(&there)).await.unwrap();
    send.send(Bytes::from_static(b"?"), STALL).await.unwrap();
    doomed.shutdown_background();
    let err = recv.recv(1, STALL, &AtomicU64::new(0)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::UNAVAILABLE, "{err}");
    std::mem::forget(there);
}

#[tokio::test]
async fn an_unused_connection_is_closed_and_opened_again_when_needed() {
    let secret = ClusterSecret::generate().unwrap();
    let (here, there) = (node(&secret, "127.0.0.1:0"), node(&secret, "127.0.0.1:0"));
    talk(&here, &there, peer(&there)).await;
    let link = here.inner.peers().find(there.id()).unwrap();
    // The halves of the streams are given up as the tasks that hold them end.
    while link.idle().is_none() {
        tokio::task::yield_now().await;
    }
    there.inner.peers().sweep(Duration::ZERO);
    assert!(link.is_open(), "only the end that dialled closes");
    here.inner.peers().sweep(Duration::ZERO);
    assert!(!link.is_open());
    talk(&here, &there, peer(&there)).await;
}

#[tokio::test]
async fn a_used_connection_is_not_closed_for_being_quiet() {
    let secret = ClusterSecret::generate().unwrap();
    let (here, there) = (node(&secret, "127.0.0.1:0"), node(&secret, "127.0.0.1:0"));
    let (_send, _recv) = here.open(peer(&there)).await.unwrap();
    here.inner.peers().sweep(Duration::ZERO);
    assert!(here.inner.peers().find(there.id()).unwrap().is_open());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused() {
    let secret = ClusterSecret::generate().unwrap();
    let there = patient(&secret, QuicConfig { max_connections: 1, ..QuicConfig::default() });
    let (first, second) = (node(&secret, "127.0.0.1:0"), node(&secret, "127.0.0.1:0"));
    talk(&first, &there, peer(&there)).await;
    let err = second.open(peer(&there)).await.err().unwrap();
    assert_eq!(err.kind(), ErrorKind::UNAVAILABLE, "{err}");
    talk(&first, &there, peer(&there)).await;
}

#[tokio::test]
async fn a_flood_of_handshakes_lets_everybody_in_by_and_by() {
    let secret = ClusterSecret::generate().unwrap();
    let there = patient(
        &secret,
        QuicConfig { max_handshakes: 2, handshakes_per_second: 20, ..QuicConfig::default() },
    );
    let callers: Vec<_> = (0..12).map(|_| node(&secret, "127.0.0.1:0")).collect();
    let opened = futures::future::join_all(callers.iter().map(|c| c.open(peer(&there)))).await;
    for outcome in opened {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn datagrams_are_dropped_when_nobody_takes_them_and_the_sender_never_waits() {
    let secret = ClusterSecret::generate().unwrap();
    let here = node(&secret, "127.0.0.1:0");
    let there = patient(&secret, QuicConfig { datagram_queue: 4, ..QuicConfig::default() });
    for n in 0..10_000u32 {
        here.send_datagram(peer(&there), n.to_le_bytes().to_vec().into());
    }
    // To nobody at all as well.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    here.send_datagram(Peer { addr: silent.local_addr().unwrap(), id: None }, Bytes::from_static(b"x"));
    assert!(there.recv_datagram().await.is_some());
}

#[tokio::test]
async fn jumbo_datagrams_are_found_and_used_on_a_path_that_carries_them() {
    let secret = ClusterSecret::generate().unwrap();
    let (here, there) = (node(&secret, "127.0.0.1:0"), node(&secret, "127.0.0.1:0"));
    let there_too = Arc::clone(&there);
    const TOTAL: usize = 64 << 20;
    let reading = tokio::spawn(async move {
        let mut incoming = there_too.accept().await.unwrap();
        for _ in 0..TOTAL >> 20 {
            incoming.recv.recv(1 << 20, STALL, &AtomicU64::new(0)).await.unwrap();
        }
    });
    let (mut send, _recv) = here.open(peer(&there)).await.unwrap();
    let piece = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..TOTAL >> 20 {
        send.send(piece.clone(), STALL).await.unwrap();
    }
    reading.await.unwrap();
    let path = here.inner.peers().find(there.id()).unwrap().connection.stats().path;
    assert!(path.current_mtu > 8900, "{path:?}");
    assert_eq!(path.black_holes_detected, 0, "{path:?}");
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_is_refused() {
    let secret = ClusterSecret::generate().unwrap();
    let spoilt: [fn(&mut QuicConfig); 4] = [
        |c| c.max_payload_bytes = 1199,
        |c| c.max_payload_bytes = 65_000,
        |c| c.keep_alive = c.idle_timeout,
        |c| c.incoming_queue = 0,
    ];
    for spoil in spoilt {
        let mut config = QuicConfig::default();
        spoil(&mut config);
        let bound = QuicTransport::bind("127.0.0.1:0".parse().unwrap(), identity(&secret), config);
        assert_eq!(bound.err().unwrap().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn without_a_runtime_binding_is_an_error_and_no_panic() {
    let secret = ClusterSecret::generate().unwrap();
    let bound = QuicTransport::bind("127.0.0.1:0".parse().unwrap(), identity(&secret), QuicConfig::default());
    assert_eq!(bound.err().unwrap().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_certificate_renewed_in_the_middle_of_a_transfer_loses_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(path("ca.pem"), params.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let issue = |name: &str, key: &rcgen::KeyPair| {
        let certificate = rcgen::CertificateParams::new(vec![]).unwrap().signed_by(key, &issuer).unwrap();
        std::fs::write(path(&format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path(&format!("{name}.key")), private).unwrap();
    };
    let keys = [(); 3].map(|()| rcgen::KeyPair::generate().unwrap());
    let nodes = [0, 1, 2].map(|n| {
        issue(&n.to_string(), &keys[n]);
        let (crt, key) = (path(&format!("{n}.crt")), path(&format!("{n}.key")));
        let identity = Arc::new(Identity::from_files(&path("ca.pem"), &crt, &key).unwrap());
        QuicTransport::bind("127.0.0.1:0".parse().unwrap(), identity, QuicConfig::default()).unwrap()
    });
    let shown_by = |t: &QuicTransport, to: NodeId| {
        let seen = t.inner.peers().find(to).unwrap().connection.peer_identity().unwrap();
        seen.downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>().unwrap()[0].to_vec()
    };
    let (mut send, _recv) = nodes[0].open(peer(&nodes[1])).await.unwrap();
    send.send(Bytes::from_static(b"first "), STALL).await.unwrap();
    let mut incoming = nodes[1].accept().await.unwrap();
    issue("1", &keys[1]);
    assert!(nodes[1].identity().reload().unwrap());
    send.send(Bytes::from_static(b"second"), STALL).await.unwrap();
    let got = incoming.recv.recv(12, STALL, &AtomicU64::new(0)).await.unwrap();
    assert_eq!(got, "first second");
    talk(&nodes[2], &nodes[1], peer(&nodes[1])).await;
    let id = nodes[1].id();
    assert_ne!(shown_by(&nodes[0], id), shown_by(&nodes[2], id), "the newcomer sees the new certificate");
}

/// A narrow path to `there`, 4 MB/s wide one way: who sends has to choose what goes first.
async fn narrow_path_to(there: SocketAddr) -> SocketAddr {
    const DATAGRAMS_A_TURN: u32 = 3;
    let near = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let far = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    far.connect(there).await.unwrap();
    let addr = near.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut out, mut back, mut here) = ([0; 9000], [0; 9000], None);
        let mut turn = tokio::time::interval(Duration::from_millis(1));
        let mut left = 0;
        loop {
            tokio::select! {
                _ = turn.tick() => left = DATAGRAMS_A_TURN,
                Ok((len, from)) = near.recv_from(&mut out), if left > 0 => {
                    (left, here) = (left - 1, Some(from));
                    let _ = far.send(&out[..len]).await;
                }
                Ok(len) = far.recv(&mut back) => {
                    let Some(here) = here else { continue };
                    let _ = near.send_to(&back[..len], here).await;
                }
            }
        }
    });
    addr
}

#[tokio::test]
async fn words_go_before_bulk_that_has_begun_and_bulk_goes_in_order() {
    /// Two fit what may be queued, so that who sends them waits for nobody.
    const BULK: usize = 4 << 20;
    let secret = ClusterSecret::generate().unwrap();
    // The path counts datagrams, so they are to be of one size.
    let usual = || QuicConfig { max_payload_bytes: 1200, ..QuicConfig::default() };
    let (here, there) = (patient(&secret, usual()), patient(&secret, usual()));
    let to = Peer { addr: narrow_path_to(there.local_addr()).await, id: Some(there.id()) };
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for (priority, len) in [(Priority::Bulk, BULK), (Priority::Bulk, BULK), (Priority::Words, 1)] {
        let (mut send, recv) = here.open(to).await.unwrap();
        send.set_priority(priority);
        send.send(Bytes::from_static(b"!"), STALL).await.unwrap();
        senders.push((send, recv));
        let mut incoming = there.accept().await.unwrap();
        incoming.recv.recv(1, STALL, &AtomicU64::new(0)).await.unwrap();
        let came = Arc::new(AtomicU64::new(0));
        let progress = Arc::clone(&came);
        let whole = tokio::spawn(async move { incoming.recv.recv(len, STALL, &progress).await.map(drop) });
        receivers.push((came, whole));
    }
    let [(first, first_whole), (second, second_whole), (_, word)] = &mut receivers[..] else {
        panic!("three streams")
    };
    for (bulk, _) in &mut senders[..2] {
        bulk.send(Bytes::from(vec![1; BULK]), STALL).await.unwrap();
    }
    while first.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    senders[2].0.send(Bytes::from_static(b"!"), STALL).await.unwrap();
    word.await.unwrap().unwrap();
    let came = first.load(Ordering::Relaxed);
    println!("a word came when {came} bytes of the first stream had");
    assert!(came < BULK as u64 / 2, "a word came when {came} bytes of what had begun before had");
    first_whole.await.unwrap().unwrap();
    let came = second.load(Ordering::Relaxed);
    println!("the first came when {came} bytes of the second had");
    assert!(came < BULK as u64 / 2, "{came} bytes of the second stream came before the end of the first");
    second_whole.await.unwrap().unwrap();
}

#[tokio::test]
async fn many_packets_are_acknowledged_at_once() {
    const BULK: usize = 2 << 20;
    let secret = ClusterSecret::generate().unwrap();
    let usual = || QuicConfig { max_payload_bytes: 1200, ..QuicConfig::default() };
    let (here, there) = (patient(&secret, usual()), patient(&secret, usual()));
    let to = Peer { addr: narrow_path_to(there.local_addr()).await, id: Some(there.id()) };
    let (mut send, _recv) = here.open(to).await.unwrap();
    send.send(Bytes::from(vec![1; BULK]), STALL).await.unwrap();
    let mut incoming = there.accept().await.unwrap();
    incoming.recv.recv(BULK, STALL, &AtomicU64::new(0)).await.unwrap();
    let stats = here.inner.peers().find(there.id()).unwrap().connection.stats();
    let (sent, acknowledgements) = (stats.udp_tx.datagrams, stats.frame_rx.acks);
    println!("{acknowledgements} acknowledgements of {sent} datagrams");
    assert!(sent as usize > BULK / 1200 && acknowledgements * 4 < sent, "{acknowledgements} of {sent}");
}
