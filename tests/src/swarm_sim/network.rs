//! Links shared max-min fairly by flows of bytes, in virtual time.
//!
//! Rates of all flows are computed together once a window; within it a flow that ends leaves its share to
//! those that begin on the same links. So a window short against a chunk's time loses next to nothing, and
//! thousands of links cost one pass a window. Knows neither nodes nor chunks: a flow carries a tag.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Nanoseconds since the world began.
pub(super) type Nanos = u64;

/// Names a flow until it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlowId {
    slot: u32,
    number: u32,
}

/// At most this many links lie on the way of a flow: up, out of a zone, into a zone, down.
pub(super) const HOPS: usize = 4;
/// Bytes a nanosecond that are none: a byte a second.
const LEAST: f64 = 1e-9;
/// Where a way is shorter.
pub(super) const NO_LINK: u32 = u32::MAX;

#[derive(Debug, Clone)]
struct Flow<T> {
    links: [u32; HOPS],
    left: f64,
    /// Bytes a nanosecond.
    rate: f64,
    since: Nanos,
    number: u32,
    tag: Option<T>,
}

/// The links, and what flows over them.
#[derive(Debug)]
pub(super) struct Network<T> {
    /// Bytes a nanosecond.
    capacity: Vec<f64>,
    spare: Vec<f64>,
    flows: Vec<Flow<T>>,
    free: Vec<u32>,
    numbers: u32,
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct Scratch {
    open: Vec<u32>,
    starts: Vec<u32>,
    by_link: Vec<u32>,
    fixed: Vec<bool>,
}

impl<T: Copy> Network<T> {
    /// Without links.
    pub(super) fn new() -> Self {
        Self {
            capacity: Vec::new(),
            spare: Vec::new(),
            flows: Vec::new(),
            free: Vec::new(),
            numbers: 0,
            scratch: Scratch::default(),
        }
    }

    /// Adds a link that carries so many bytes a second; says its number.
    pub(super) fn add_link(&mut self, bytes_per_second: f64) -> u32 {
        self.capacity.push(bytes_per_second / 1e9);
        self.spare.push(bytes_per_second / 1e9);
        self.capacity.len() as u32 - 1
    }

    /// Begins a flow with what is spare on its links. Says when it will end, if nothing changes.
    pub(super) fn begin(
        &mut self,
        now: Nanos,
        links: [u32; HOPS],
        bytes: f64,
        tag: T,
    ) -> (FlowId, Option<Nanos>) {
        let rate = links.iter().filter(|l| **l != NO_LINK).map(|l| self.spare[*l as usize]);
        let rate = rate.fold(f64::INFINITY, f64::min);
        // What rounding left of a link is nothing; the next window gives a share.
        let rate = if rate > LEAST { rate } else { 0.0 };
        self.numbers = self.numbers.wrapping_add(1);
        let flow = Flow { links, left: bytes, rate, since: now, number: self.numbers, tag: Some(tag) };
        self.take(&flow.links, rate);
        let id = FlowId { slot: self.free.pop().unwrap_or(self.flows.len() as u32), number: flow.number };
        match self.flows.get_mut(id.slot as usize) {
            Some(slot) => *slot = flow,
            None => self.flows.push(flow),
        }
        (id, self.end_of(id.slot))
    }

    fn take(&mut self, links: &[u32; HOPS], rate: f64) {
        for link in links.iter().filter(|l| **l != NO_LINK) {
            self.spare[*link as usize] -= rate;
        }
    }

    fn end_of(&self, slot: u32) -> Option<Nanos> {
        let flow = &self.flows[slot as usize];
        (flow.rate > 0.0).then(|| flow.since.saturating_add((flow.left / flow.rate).ceil() as Nanos))
    }

    fn get(&self, id: FlowId) -> Option<&Flow<T>> {
        self.flows.get(id.slot as usize).filter(|f| f.number == id.number && f.tag.is_some())
    }

    /// What a flow carries, while it flows.
    pub(super) fn tag(&self, id: FlowId) -> Option<T> {
        self.get(id).and_then(|f| f.tag)
    }

    /// Ends a flow, whether or not all its bytes came.
    pub(super) fn end(&mut self, id: FlowId) {
        let Some(flow) = self.get(id) else { return };
        let (links, rate) = (flow.links, flow.rate);
        self.take(&links, -rate);
        self.flows[id.slot as usize].tag = None;
        self.free.push(id.slot);
    }

    /// Has a flow that came to its end carry more at the same rate. Says when that ends.
    pub(super) fn go_on(&mut self, now: Nanos, id: FlowId, bytes: f64, tag: T) -> Option<Nanos> {
        self.get(id)?;
        let flow = &mut self.flows[id.slot as usize];
        (flow.left, flow.since, flow.tag) = (bytes, now, Some(tag));
        self.end_of(id.slot)
    }

    /// Begins a window: shares every link anew. `ends` hears of the flows that end before `until`.
    pub(super) fn share(&mut self, now: Nanos, until: Nanos, mut ends: impl FnMut(Nanos, FlowId)) {
        for flow in self.flows.iter_mut().filter(|f| f.tag.is_some()) {
            flow.left = (flow.left - flow.rate * (now - flow.since) as f64).max(0.0);
            flow.since = now;
        }
        self.fill();
        for slot in 0..self.flows.len() as u32 {
            let flow = &self.flows[slot as usize];
            if flow.tag.is_some()
                && let Some(at) = self.end_of(slot)
                && at < until
            {
                ends(at, FlowId { slot, number: flow.number });
            }
        }
    }

    /// Progressive filling: the narrowest link is shared out first.
    fn fill(&mut self) {
        let Scratch { open, starts, by_link, fixed } = &mut self.scratch;
        let links = self.capacity.len();
        self.spare.copy_from_slice(&self.capacity);
        open.clear();
        open.resize(links, 0);
        let flows = &mut self.flows;
        for flow in flows.iter().filter(|f| f.tag.is_some()) {
            flow.links.iter().filter(|l| **l != NO_LINK).for_each(|l| open[*l as usize] += 1);
        }
        starts.clear();
        let mut sum = 0;
        for count in open.iter() {
            starts.push(sum);
            sum += count;
        }
        by_link.clear();
        by_link.resize(sum as usize, 0);
        let mut at = starts.clone();
        for (slot, flow) in flows.iter().enumerate().filter(|(_, f)| f.tag.is_some()) {
            for link in flow.links.iter().filter(|l| **l != NO_LINK) {
                by_link[at[*link as usize] as usize] = slot as u32;
                at[*link as usize] += 1;
            }
        }
        fixed.clear();
        fixed.resize(flows.len(), false);
        let shares = (0..links).filter(|l| open[*l] > 0).map(|l| {
            let share = self.capacity[l] / f64::from(open[l]);
            Reverse((Ordered(share), l as u32))
        });
        let mut heap: BinaryHeap<_> = shares.collect();
        let spare = &mut self.spare;
        while let Some(Reverse((Ordered(share), link))) = heap.pop() {
            let l = link as usize;
            if open[l] == 0 {
                continue;
            }
            // Shares only grow while others are fixed at less.
            let now = (spare[l] / f64::from(open[l])).max(0.0);
            if now > share * (1.0 + 1e-12) {
                heap.push(Reverse((Ordered(now), link)));
                continue;
            }
            let end = starts[l] as usize + (at[l] - starts[l]) as usize;
            for slot in by_link[starts[l] as usize..end].iter().map(|s| *s as usize) {
                if std::mem::replace(&mut fixed[slot], true) {
                    continue;
                }
                flows[slot].rate = now;
                for link in flows[slot].links.iter().filter(|l| **l != NO_LINK) {
                    spare[*link as usize] -= now;
                    open[*link as usize] -= 1;
                }
            }
        }
    }
}

/// A share, to be ordered; never not a number.
#[derive(PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(network: &mut Network<u32>) -> Vec<f64> {
        network.share(0, 0, |_, _| {});
        network.flows.iter().map(|f| f.rate * 1e9).collect()
    }

    #[test]
    fn the_narrowest_link_is_shared_first_and_the_rest_goes_to_the_others() {
        let mut network = Network::new();
        let (wide, narrow) = (network.add_link(90.0), network.add_link(20.0));
        for links in [[wide, narrow], [wide, narrow], [wide, NO_LINK]] {
            network.begin(0, [links[0], links[1], NO_LINK, NO_LINK], 1.0, 0);
        }
        let rates = rates(&mut network);
        for (rate, expected) in rates.iter().zip([10.0, 10.0, 70.0]) {
            assert!((rate - expected).abs() < 1e-6, "{rates:?}");
        }
    }

    #[test]
    fn what_a_flow_leaves_is_taken_by_the_next_one_within_the_window() {
        let mut network = Network::new();
        let link = network.add_link(1e9);
        let way = [link, NO_LINK, NO_LINK, NO_LINK];
        let (first, _) = network.begin(0, way, 100.0, 1);
        let mut ended = Vec::new();
        network.share(0, 1000, |at, id| ended.push((at, id)));
        assert_eq!(ended, [(100, first)]);
        network.end(first);
        let (_, at) = network.begin(100, way, 50.0, 2);
        assert_eq!(at, Some(150));
    }
}
