//! The least time in which links can carry a model to every node. Pure.

/// Rates in bits a second.
#[derive(Debug, Clone, PartialEq)]
pub struct Links {
    /// Each node's link, up and down; every node wants the model.
    pub node_rates: Vec<u64>,
    /// The origin's link, up.
    pub origin_rate: u64,
    /// What comes into a zone at most, where there are zones that the origin is outside of.
    pub zone_rate: Option<u64>,
}

/// max(F/u_origin, F/d_min, N·F/(u_origin+Σu)) in seconds: Kumar and Ross, "Peer-assisted file
/// distribution: the minimum distribution time" (HotWeb 2006); and F/zone, for each zone needs the model
/// once. Counts payload only: packet headers alone put the practical floor about 5 % higher at an MTU of
/// 1500.
pub fn lower_bound_seconds(model_bytes: u64, links: &Links) -> f64 {
    let bits = model_bytes as f64 * 8.0;
    let nodes = links.node_rates.len() as f64;
    let sum: f64 = links.node_rates.iter().map(|rate| *rate as f64).sum();
    let slowest = links.node_rates.iter().map(|rate| *rate as f64).fold(f64::INFINITY, f64::min);
    let zone = links.zone_rate.map_or(f64::INFINITY, |rate| rate as f64);
    let origin = links.origin_rate as f64;
    (bits / origin).max(bits / slowest).max(nodes * bits / (origin + sum)).max(bits / zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_limits_can_be_the_one() {
        let lower_bound = |nodes: usize, node_rate: u64, origin_rate: u64| {
            let links = Links { node_rates: vec![node_rate; nodes], origin_rate, zone_rate: None };
            lower_bound_seconds(1_000_000, &links)
        };
        // 1 MB is 8 Mbit: at 8 Mbit/s it takes a second.
        assert_eq!(lower_bound(4, 80_000_000, 8_000_000), 1.0);
        assert_eq!(lower_bound(4, 8_000_000, 80_000_000), 1.0);
        // One node of 8 and an origin of 8 could, but three nodes want 24 Mbit out of 8 + 24.
        assert_eq!(lower_bound(3, 8_000_000, 8_000_000), 1.0);
        // 100 nodes behind an origin of 10 ×: the sum of the uplinks is 110 for 100 models.
        assert_eq!(lower_bound(100, 8_000_000, 80_000_000), 1.0);
        // The slowest of several nodes, and the way into a zone.
        let mut links =
            Links { node_rates: vec![80_000_000, 8_000_000], origin_rate: 80_000_000, zone_rate: None };
        assert_eq!(lower_bound_seconds(1_000_000, &links), 1.0);
        links.zone_rate = Some(4_000_000);
        assert_eq!(lower_bound_seconds(1_000_000, &links), 2.0);
    }
}
