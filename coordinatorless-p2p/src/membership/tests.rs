//! The shell, over the memory transport and with tokio's clock paused.

use super::*;
use crate::transport::memory::MemoryNetwork;

fn node(n: u8) -> Node {
    Node {
        id: NodeId([n; 16]),
        name: format!("n{n}"),
        addr: ([127, 0, 0, 1], 4000 + u16::from(n)).into(),
        zone: String::new(),
        weight: Node::WEIGHT,
        generation: Moment::now().epoch_ms,
    }
}

fn start(network: &MemoryNetwork, n: u8, seeds: &[u8]) -> Membership {
    let seeds = seeds.iter().map(|s| node(*s).addr.to_string()).collect();
    let config = MembershipConfig { seeds, rng_seed: Some(n.into()), ..MembershipConfig::default() };
    Membership::start(network.node(NodeId([n; 16]), node(n).addr), node(n), config).unwrap()
}

/// Waits until `membership` sees exactly these live, and says how long it took.
async fn sees(membership: &Membership, ids: &[u8], within: Duration) -> Duration {
    let start = Instant::now();
    let wanted: Vec<NodeId> = ids.iter().map(|n| NodeId([*n; 16])).collect();
    let mut live = membership.watch();
    let there = live.wait_for(|l| l.iter().map(|n| n.id).eq(wanted.iter().copied()));
    match timeout(within, there).await {
        Ok(Ok(_)) => start.elapsed(),
        _ => panic!("not within {within:?}: {ids:?} wanted, {:?}", membership.watch().borrow()),
    }
}

const SOON: Duration = Duration::from_secs(15);

#[tokio::test(start_paused = true)]
async fn three_nodes_find_each_other_through_one_seed() {
    let network = MemoryNetwork::new();
    // The seed's own list contains itself.
    let nodes: Vec<_> = (1..=3).map(|n| start(&network, n, &[1])).collect();
    for membership in &nodes {
        sees(membership, &[1, 2, 3], SOON).await;
    }
    assert_eq!(nodes[0].lookup(NodeId([3; 16])).unwrap().name, "n3");
    assert!(nodes[0].lookup(NodeId([9; 16])).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_comes_up_later_is_found() {
    let network = MemoryNetwork::new();
    let early = start(&network, 2, &[1]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let seed = start(&network, 1, &[]);
    sees(&early, &[1, 2], SOON).await;
    sees(&seed, &[1, 2], SOON).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_without_seeds_is_alone_and_knows_itself() {
    let alone = start(&MemoryNetwork::new(), 1, &[]);
    sees(&alone, &[1], SOON).await;
    let members = alone.members();
    assert_eq!((members.len(), members[0].state), (1, MemberState::Alive));
}

#[tokio::test(start_paused = true)]
async fn a_dead_member_is_noticed() {
    let network = MemoryNetwork::new();
    let nodes: Vec<_> = (1..=3).map(|n| start(&network, n, &[1])).collect();
    for membership in &nodes {
        sees(membership, &[1, 2, 3], SOON).await;
    }
    network.kill(NodeId([3; 16]));
    for membership in &nodes[..2] {
        sees(membership, &[1, 2], SOON).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let view = nodes[0].members().iter().find(|v| v.node.id == NodeId([3; 16])).cloned().unwrap();
    assert_eq!(view.state, MemberState::Down);
}

#[tokio::test(start_paused = true)]
async fn a_leaving_member_is_missed_at_once() {
    let network = MemoryNetwork::new();
    let nodes: Vec<_> = (1..=4).map(|n| start(&network, n, &[1])).collect();
    for membership in &nodes {
        sees(membership, &[1, 2, 3, 4], SOON).await;
    }
    nodes[3].leave(Duration::from_secs(1)).await;
    for membership in &nodes[..3] {
        let took = sees(membership, &[1, 2, 3], SOON).await;
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
    assert_eq!(nodes[3].update(|_| ()).await.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_member_replaces_its_former_self() {
    let network = MemoryNetwork::new();
    let first = start(&network, 1, &[]);
    let second = start(&network, 2, &[1]);
    sees(&first, &[1, 2], SOON).await;
    drop(second);
    network.kill(NodeId([2; 16]));
    sees(&first, &[1], SOON).await;
    let again = start(&network, 2, &[1]);
    sees(&first, &[1, 2], SOON).await;
    sees(&again, &[1, 2], SOON).await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_heals_within_thirty_seconds() {
    let network = MemoryNetwork::new();
    let nodes: Vec<_> = (1..=4).map(|n| start(&network, n, &[1])).collect();
    for membership in &nodes {
        sees(membership, &[1, 2, 3, 4], SOON).await;
    }
    let pairs = [(1, 3), (1, 4), (2, 3), (2, 4)].map(|(a, b): (u8, u8)| (NodeId([a; 16]), NodeId([b; 16])));
    for (a, b) in pairs {
        network.partition(a, b);
    }
    sees(&nodes[0], &[1, 2], Duration::from_secs(30)).await;
    sees(&nodes[3], &[3, 4], Duration::from_secs(30)).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    for (a, b) in pairs {
        network.heal(a, b);
    }
    let healed = Instant::now();
    for membership in &nodes {
        sees(membership, &[1, 2, 3, 4], Duration::from_secs(30)).await;
    }
    assert!(healed.elapsed() <= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_new_description_is_seen_by_all() {
    let network = MemoryNetwork::new();
    let nodes: Vec<_> = (1..=3).map(|n| start(&network, n, &[1])).collect();
    for membership in &nodes {
        sees(membership, &[1, 2, 3], SOON).await;
    }
    let before = nodes[1].lookup(NodeId([2; 16])).unwrap().generation;
    let changed = nodes[1].update(|n| n.zone = "west".into()).await.unwrap();
    assert!(changed.zone == "west" && changed.generation > before);
    for membership in &nodes {
        let mut live = membership.watch();
        let there = live.wait_for(|l| l.iter().any(|n| n.zone == "west"));
        assert!(timeout(SOON, there).await.is_ok());
    }
    let refused = nodes[1].update(|n| n.name = "x".repeat(65)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert_eq!(nodes[1].lookup(NodeId([2; 16])).unwrap().name, "n2");
}

#[tokio::test]
async fn a_start_that_cannot_work_is_refused() {
    let network = MemoryNetwork::new();
    let transport = network.node(NodeId([1; 16]), node(1).addr);
    let try_start = |me: Node, config: MembershipConfig| {
        Membership::start(Arc::clone(&transport), me, config).map(|_| ()).unwrap_err().kind()
    };
    assert_eq!(try_start(node(2), MembershipConfig::default()), ErrorKind::Invalid);
    let unspecified = Node { addr: "0.0.0.0:1".parse().unwrap(), ..node(1) };
    assert_eq!(try_start(unspecified, MembershipConfig::default()), ErrorKind::Invalid);
    let bad_seed = MembershipConfig { seeds: vec!["nowhere".into()], ..MembershipConfig::default() };
    assert_eq!(try_start(node(1), bad_seed), ErrorKind::Invalid);
}

#[tokio::test]
async fn nodes_find_and_leave_each_other_over_quic() {
    use crate::{
        identity::{ClusterSecret, Identity, NodeKey},
        transport::quic::{QuicConfig, QuicTransport},
    };
    let secret = ClusterSecret::generate().unwrap();
    let mut seeds = Vec::new();
    let mut members = Vec::new();
    for n in 0..3 {
        let identity = Arc::new(Identity::from_secret(&secret, NodeKey::generate().unwrap()).unwrap());
        let any = "127.0.0.1:0".parse().unwrap();
        let transport = QuicTransport::bind(any, identity, QuicConfig::default()).unwrap();
        let me = Node { id: transport.id(), addr: transport.local_addr(), ..node(n) };
        seeds.push(me.addr.to_string());
        let config = MembershipConfig { seeds: seeds.clone(), ..MembershipConfig::default() };
        let membership = Membership::start(Arc::clone(&transport) as _, me, config).unwrap();
        members.push((membership, transport));
    }
    for (membership, _) in &members {
        let mut live = membership.watch();
        assert!(timeout(SOON, live.wait_for(|l| l.len() == 3)).await.is_ok());
    }
    let (leaver, transport) = members.pop().unwrap();
    leaver.leave(Duration::from_secs(1)).await;
    transport.close(Duration::from_secs(1)).await;
    for (membership, _) in &members {
        let mut live = membership.watch();
        assert!(timeout(Duration::from_secs(3), live.wait_for(|l| l.len() == 2)).await.is_ok());
    }
}
