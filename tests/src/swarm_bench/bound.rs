//! The least time in which links can carry a model to every node. Pure.

/// Rates in bits a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Links {
    /// How many nodes want the model.
    pub nodes: usize,
    /// Each node's link, up and down.
    pub node_rate: u64,
    /// The origin's link, up.
    pub origin_rate: u64,
}

/// max(F/u_origin, F/d_min, N·F/(u_origin+Σu)) in seconds: Kumar and Ross, "Peer-assisted file
/// distribution: the minimum distribution time" (HotWeb 2006). Counts payload only: packet headers
/// alone put the practical floor about 5 % higher at an MTU of 1500.
pub fn lower_bound_seconds(model_bytes: u64, links: Links) -> f64 {
    let bits = model_bytes as f64 * 8.0;
    let (nodes, node, origin) = (links.nodes as f64, links.node_rate as f64, links.origin_rate as f64);
    (bits / origin).max(bits / node).max(nodes * bits / (origin + nodes * node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_three_limits_can_be_the_one() {
        let links = |nodes, node_rate, origin_rate| Links { nodes, node_rate, origin_rate };
        // 1 MB is 8 Mbit: at 8 Mbit/s it takes a second.
        assert_eq!(lower_bound_seconds(1_000_000, links(4, 80_000_000, 8_000_000)), 1.0);
        assert_eq!(lower_bound_seconds(1_000_000, links(4, 8_000_000, 80_000_000)), 1.0);
        // One node of 8 and an origin of 8 could, but three nodes want 24 Mbit out of 8 + 24.
        assert_eq!(lower_bound_seconds(1_000_000, links(3, 8_000_000, 8_000_000)), 1.0);
        // 100 nodes behind an origin of 10 ×: the sum of the uplinks is 110 for 100 models.
        assert_eq!(lower_bound_seconds(1_000_000, links(100, 8_000_000, 80_000_000)), 1.0);
    }
}
