//! Who is named for what, computed the same by every node from the list of members alone.
//!
//! Two rules, both pure and independent of the order of the members: the consistent-hash ring with
//! virtual nodes (Karger et al., 1997), which names the home of a key among thousands of members;
//! and rendezvous hashing (Thaler & Ravishankar, 1998), which ranks a few dozen candidates for each
//! of very many keys and builds nothing. Knows neither liveness nor addresses.
//!
//! Invariants: a member that joins or leaves moves about its own share and nothing else; a member
//! of weight `w` gets `w` shares; the result is the same on every machine, so no `ln` of the
//! platform's mathematics library takes part.

use crate::node::{Node, NodeId};

/// Points on the ring for a member of ordinary weight: shares differ by about a tenth.
const POINTS: u32 = 100;

/// The most points for one member, whatever its weight.
const MAX_POINTS: u32 = 10 * POINTS;

/// The consistent-hash ring over a list of members.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    members: Vec<Member>,
    /// Ascending positions, and whose they are (an index into `members`).
    points: Vec<(u64, u32)>,
    zones: u32,
}

#[derive(Debug, Clone)]
struct Member {
    id: NodeId,
    zone: u32,
}

impl Ring {
    /// The ring over `nodes`, of which every id counts once and those of weight 0 not at all.
    pub fn new(nodes: &[Node]) -> Self {
        let mut sorted: Vec<&Node> = nodes.iter().filter(|n| n.weight > 0).collect();
        // Of two descriptions of one node the newer counts.
        sorted.sort_unstable_by_key(|n| (n.id, std::cmp::Reverse((n.generation, n.weight))));
        sorted.dedup_by_key(|n| n.id);
        let mut zones: Vec<&str> = sorted.iter().map(|n| n.zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        let mut points = Vec::new();
        for (index, node) in (0..).zip(&sorted) {
            // One stream of hash output for each member: more weight appends points and moves none.
            let mut stream = blake3::Hasher::new().update(&node.id.0).finalize_xof();
            let count = (u32::from(node.weight) * POINTS / u32::from(Node::WEIGHT)).clamp(1, MAX_POINTS);
            points.extend((0..count).map(|_| {
                let mut position = [0; 8];
                stream.fill(&mut position);
                (u64::from_le_bytes(position), index)
            }));
        }
        points.sort_unstable();
        let members = sorted
            .iter()
            .map(|n| Member {
                id: n.id,
                // Every zone was taken from these very nodes.
                zone: zones.binary_search(&n.zone.as_str()).unwrap_or_default() as u32,
            })
            .collect();
        Self { members, points, zones: zones.len() as u32 }
    }

    /// How many members the ring has.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is on the ring.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The first `count` distinct members clockwise from `key`, or all when there are fewer.
    pub fn owners(&self, key: &[u8; 32], count: usize) -> Vec<NodeId> {
        self.clockwise(key).take(count).map(|m| m.id).collect()
    }

    /// As [`owners`](Self::owners), but members of zones not named yet go first, so that the first
    /// owners are spread over as many zones as there are.
    pub fn owners_across_zones(&self, key: &[u8; 32], count: usize) -> Vec<NodeId> {
        if self.zones <= 1 {
            return self.owners(key, count);
        }
        let (mut seen, mut spread, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for member in self.clockwise(key) {
            if !seen.contains(&member.zone) {
                seen.push(member.zone);
                spread.push(member.id);
            } else if rest.len() < count {
                rest.push(member.id);
            }
            let zones_done = seen.len() == self.zones as usize;
            if spread.len() >= count || (zones_done && spread.len() + rest.len() >= count) {
                break;
            }
        }
        spread.extend(rest);
        spread.truncate(count);
        spread
    }

    /// All members, each once, in the order in which their points follow `key`.
    fn clockwise(&self, key: &[u8; 32]) -> impl Iterator<Item = &Member> {
        let mut head = [0; 8];
        head.copy_from_slice(&key[..8]);
        let position = u64::from_le_bytes(head);
        let start = self.points.partition_point(|(p, _)| *p < position);
        let mut named = vec![0u64; self.members.len().div_ceil(64)];
        let mut left = self.members.len();
        let mut around = self.points[start..].iter().chain(&self.points[..start]);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let (_, index) = around.find(|(_, index)| {
                let (word, bit) = (&mut named[*index as usize / 64], 1 << (index % 64));
                let new = *word & bit == 0;
                *word |= bit;
                new
            })?;
            left -= 1;
            Some(&self.members[*index as usize])
        })
    }
}

/// What is ranked for: 128 bits, which may be as regular as (something, 0), (something, 1), ….
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RendezvousKey(pub u64, pub u64);

impl RendezvousKey {
    /// The key of the `index`th part of what `hash` names.
    pub fn part(hash: &[u8; 32], index: u32) -> Self {
        let mut head = [0; 8];
        head.copy_from_slice(&hash[..8]);
        Self(u64::from_le_bytes(head), u64::from(index))
    }
}

/// A fixed list of candidates, prepared to be ranked for many keys: a few nanoseconds a candidate
/// and key, more only where weights differ.
#[derive(Debug, Clone, Default)]
pub struct Rendezvous {
    candidates: Vec<Candidate>,
    equal: bool,
}

#[derive(Debug, Clone)]
struct Candidate {
    id: NodeId,
    seed: (u64, u64),
    weight: f64,
}

impl Rendezvous {
    /// Prepares candidates given as id and weight; every id counts once and those of weight 0 not at
    /// all.
    pub fn new(candidates: impl IntoIterator<Item = (NodeId, u16)>) -> Self {
        let mut candidates: Vec<Candidate> = candidates
            .into_iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(id, weight)| {
                let bits = u128::from_le_bytes(id.0);
                Candidate { id, seed: (bits as u64, (bits >> 64) as u64), weight: f64::from(weight) }
            })
            .collect();
        candidates.sort_by_key(|c| c.id);
        candidates.dedup_by_key(|c| c.id);
        let equal = candidates.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Self { candidates, equal }
    }

    /// How many candidates there are.
    pub fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Whether there is nobody to rank.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Who ranks first for `key`. Allocates nothing.
    pub fn first(&self, key: RendezvousKey) -> Option<NodeId> {
        if self.equal {
            return self.candidates.iter().min_by_key(|c| c.draw(key)).map(|c| c.id);
        }
        self.candidates
            .iter()
            .map(|c| (c.wait(key), c))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, c)| c.id)
    }

    /// How many candidates rank before `id` for `key`; `None` when it is not a candidate.
    /// Allocates nothing.
    pub fn rank_of(&self, id: NodeId, key: RendezvousKey) -> Option<usize> {
        let own = self.candidates.binary_search_by_key(&id, |c| c.id).ok()?;
        let mine = &self.candidates[own];
        Some(if self.equal {
            let draw = mine.draw(key);
            self.candidates.iter().filter(|c| (c.draw(key), c.id) < (draw, id)).count()
        } else {
            let wait = mine.wait(key);
            self.candidates
                .iter()
                .filter(|c| c.wait(key).total_cmp(&wait).then(c.id.cmp(&id)).is_lt())
                .count()
        })
    }

    /// All candidates for `key`, the first first.
    pub fn rank(&self, key: RendezvousKey) -> Vec<NodeId> {
        let mut ranked: Vec<(f64, u64, NodeId)> = self
            .candidates
            .iter()
            .map(|c| if self.equal { (0.0, c.draw(key), c.id) } else { (c.wait(key), 0, c.id) })
            .collect();
        ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        ranked.into_iter().map(|(_, _, id)| id).collect()
    }
}

/// How well an id ranks for `key` among equals; the highest is [`Rendezvous::first`].
pub fn rendezvous_score(id: NodeId, key: RendezvousKey) -> u64 {
    let bits = u128::from_le_bytes(id.0);
    !Candidate { id, seed: (bits as u64, (bits >> 64) as u64), weight: 1.0 }.draw(key)
}

impl Candidate {
    /// A number that looks random and belongs to candidate and key.
    fn draw(&self, key: RendezvousKey) -> u64 {
        let outer = mix(key.0 ^ self.seed.0);
        mix(outer ^ mix(key.1 ^ self.seed.1))
    }

    /// The waiting time until the candidate's first event, events coming at a rate of its weight:
    /// whoever waits least wins, which it does in proportion to its weight.
    fn wait(&self, key: RendezvousKey) -> f64 {
        // The complement, so that the smallest draw waits least, as among equals.
        minus_ln(!self.draw(key)) / self.weight
    }
}

/// SplitMix64's finaliser (Steele, Lea & Flood, 2014).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// −ln((x + 1) / 2⁶⁴) to about 1e-9, from additions, multiplications and one division only: those
/// give the same bits on every machine.
fn minus_ln(x: u64) -> f64 {
    let x = x.saturating_add(1);
    let shift = x.leading_zeros();
    // 53 bits from the top, as a number in [1, 2).
    let mantissa = ((x << shift) >> 11) as f64 / (1u64 << 52) as f64;
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    // 2 artanh(s) by its series; s ≤ 1/3, so what is left out is under 2 s¹⁹ / 19.
    let mut series = 0.0;
    for odd in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * square + 1.0 / odd;
    }
    (f64::from(shift) + 1.0) * std::f64::consts::LN_2 - 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> NodeId {
        NodeId::of_public_key(&n.to_le_bytes())
    }

    fn node(n: u64, zone: &str, weight: u16) -> Node {
        Node {
            id: id(n),
            name: String::new(),
            addr: ([127, 0, 0, 1], 1).into(),
            zone: zone.to_owned(),
            weight,
            generation: 0,
        }
    }

    fn nodes(count: u64) -> Vec<Node> {
        (0..count).map(|n| node(n, "", Node::WEIGHT)).collect()
    }

    fn key(n: u64) -> [u8; 32] {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    #[test]
    fn an_empty_ring_names_nobody() {
        assert!(Ring::new(&[]).owners(&key(1), 3).is_empty());
        assert!(Ring::new(&[]).owners_across_zones(&key(1), 3).is_empty());
        assert!(Ring::new(&[node(1, "", 0)]).is_empty());
        assert_eq!(Rendezvous::new([]).first(RendezvousKey(1, 1)), None);
    }

    #[test]
    fn one_node_owns_everything_once() {
        let ring = Ring::new(&nodes(1));
        assert_eq!(ring.owners(&key(7), 3), [id(0)]);
        assert_eq!(ring.owners_across_zones(&key(7), 3), [id(0)]);
        assert!(ring.owners(&key(7), 0).is_empty());
    }

    #[test]
    fn owners_are_distinct_and_all_when_there_are_few() {
        let ring = Ring::new(&nodes(5));
        for k in 0..200 {
            let mut owners = ring.owners(&key(k), 9);
            owners.sort();
            owners.dedup();
            assert_eq!(owners.len(), 5);
        }
    }

    #[test]
    fn shares_of_equal_members_differ_little() {
        let (members, keys) = (16u64, 20_000u64);
        let ring = Ring::new(&nodes(members));
        let mut counts = std::collections::HashMap::new();
        for k in 0..keys {
            *counts.entry(ring.owners(&key(k), 1)[0]).or_insert(0u64) += 1;
        }
        let mean = keys / members;
        // 100 points: the standard deviation of a share is a tenth of it; five of those.
        assert!(
            counts.len() == 16 && counts.values().all(|c| (mean / 2..mean * 3 / 2).contains(c)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_member_of_double_weight_owns_twice_as_much() {
        let keys = 30_000u64;
        let mut members = nodes(10);
        members[3].weight = 2 * Node::WEIGHT;
        let ring = Ring::new(&members);
        let heavy = (0..keys).filter(|k| ring.owners(&key(*k), 1)[0] == id(3)).count() as f64;
        let share = heavy / keys as f64 * 11.0;
        assert!((1.4..2.6).contains(&share), "{share} shares instead of two");
    }

    #[test]
    fn the_first_owners_are_in_distinct_zones_while_there_are_some() {
        let zoned: Vec<Node> = (0..30)
            .map(|n| {
                node(
                    n,
                    if n < 28 {
                        "a"
                    } else if n == 28 {
                        "b"
                    } else {
                        "c"
                    },
                    100,
                )
            })
            .collect();
        let ring = Ring::new(&zoned);
        let zone = |id: &NodeId| zoned.iter().find(|n| n.id == *id).unwrap().zone.clone();
        for k in 0..200 {
            let owners = ring.owners_across_zones(&key(k), 5);
            let mut first: Vec<_> = owners[..3].iter().map(zone).collect();
            first.sort();
            assert_eq!(first, ["a", "b", "c"]);
            let mut all = owners.clone();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), 5);
            assert_eq!(owners[0], ring.owners(&key(k), 1)[0], "the first owner does not depend on zones");
        }
    }

    proptest! {
        #[test]
        fn the_order_of_the_list_does_not_matter(count in 1u64..40, seed: u64, k: u64) {
            let listed = nodes(count);
            let mut shuffled = listed.clone();
            shuffled.sort_by_key(|n| blake3::hash(&[&n.id.0[..], &seed.to_le_bytes()].concat()).as_bytes().to_owned());
            shuffled.extend(listed.iter().take(3).cloned());
            let (a, b) = (Ring::new(&listed), Ring::new(&shuffled));
            prop_assert_eq!(a.owners(&key(k), 5), b.owners(&key(k), 5));
            prop_assert_eq!(a.owners_across_zones(&key(k), 5), b.owners_across_zones(&key(k), 5));
            let rank = |nodes: &[Node]| Rendezvous::new(nodes.iter().map(|n| (n.id, n.weight))).rank(RendezvousKey(seed, k));
            prop_assert_eq!(rank(&listed), rank(&shuffled));
        }

        #[test]
        fn a_member_that_leaves_moves_only_what_it_owned(count in 2u64..40, gone in 0u64..40) {
            let gone = gone % count;
            let before = Ring::new(&nodes(count));
            let mut rest = nodes(count);
            rest.retain(|n| n.id != id(gone));
            let after = Ring::new(&rest);
            let mut moved = 0;
            for k in 0..500 {
                let (was, is) = (before.owners(&key(k), 2), after.owners(&key(k), 2));
                if was[0] == id(gone) {
                    moved += 1;
                    prop_assert_eq!(was[1], is[0], "the successor inherits");
                } else {
                    prop_assert_eq!(was[0], is[0], "a key moved between two that stayed");
                }
            }
            // Half as much again as its share would be 1.5; two and a half leaves room for chance.
            prop_assert!(moved as f64 <= 2.5 * 500.0 / count as f64 + 15.0, "{} of 500 moved", moved);
        }

        #[test]
        fn a_candidate_that_leaves_changes_no_order_among_the_rest(
            weights in prop::collection::vec(1u16..400, 2..33), gone: usize, k: u64,
        ) {
            let all: Vec<_> = (0..).map(id).zip(weights).collect();
            let gone = all[gone % all.len()].0;
            let key = RendezvousKey(k, 3);
            let mut expected = Rendezvous::new(all.iter().copied()).rank(key);
            expected.retain(|n| *n != gone);
            // Leaving may make the weights equal, which takes the short path: same order still.
            let rest = Rendezvous::new(all.iter().copied().filter(|(n, _)| *n != gone));
            prop_assert_eq!(rest.rank(key), expected.clone());
            prop_assert_eq!(rest.first(key), expected.first().copied());
            for (place, n) in expected.iter().enumerate() {
                prop_assert_eq!(rest.rank_of(*n, key), Some(place));
            }
            prop_assert_eq!(rest.rank_of(gone, key), None);
        }

        #[test]
        fn the_logarithm_is_the_logarithm(x: u64) {
            let exact = -((x as f64 + 1.0) / 2f64.powi(64)).ln();
            prop_assert!((minus_ln(x) - exact).abs() < 1e-8, "{} is not {}", minus_ln(x), exact);
        }
    }

    #[test]
    fn rendezvous_wins_follow_the_weights() {
        for weights in [vec![100; 8], vec![100, 200, 300, 50]] {
            let total: u32 = weights.iter().map(|w| u32::from(*w)).sum();
            let ranking = Rendezvous::new((0..).map(id).zip(weights.iter().copied()));
            let spans = 40_000u32;
            for (n, weight) in (0..).zip(&weights) {
                // Regular keys, as the spans of one model are.
                let wins = (0..spans)
                    .filter(|i| ranking.first(RendezvousKey::part(&key(9), *i)) == Some(id(n)))
                    .count() as f64;
                let share = wins / f64::from(spans) * f64::from(total) / f64::from(*weight);
                assert!((0.93..1.07).contains(&share), "node {n} got {share} of its share");
            }
        }
    }

    #[test]
    fn the_ring_is_the_same_on_every_machine_and_in_every_version() {
        // A golden value: whoever changes the function splits clusters during an upgrade.
        let ring = Ring::new(&nodes(8));
        let owners: Vec<String> = ring.owners(&key(0), 3).iter().map(NodeId::short).collect();
        let weighted = Rendezvous::new((0..8).map(|n| (id(n), 50 + n as u16)));
        let ranked: Vec<String> =
            weighted.rank(RendezvousKey(1, 2)).iter().take(3).map(NodeId::short).collect();
        assert_eq!(
            (owners.join(" "), ranked.join(" ")),
            ("7670a5a6 b7890e70 ea21c7b3".into(), "b7890e70 6f3287cd e3d5003e".into())
        );
    }
}
