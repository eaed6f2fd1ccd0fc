//! Holders that have fallen silent: what only they hold counts as held by nobody until they speak again.
//!
//! A node that died without a word is missed by membership and transport only after several seconds.

use std::time::Duration;

use super::{Now, Swarm};
use crate::node::NodeId;

impl Swarm {
    /// Doubts neighbours that were asked for something and have shown no sign of life for as long as a
    /// reader of the origin may, or several times as long as an answer takes at the usual rate.
    pub(super) fn doubt_the_silent(&mut self, now: Now) {
        let stuck = self.stuck_after();
        let usual = self.usual_rate();
        let silent: Vec<NodeId> = self
            .neighbours
            .iter()
            .filter(|(_, n)| !n.doubted)
            .filter(|(_, n)| {
                let Some(asked) = n.asked.values().map(|asked| asked.at).min() else { return false };
                let expected =
                    usual.map_or(0.0, |rate| n.asked_bytes as f64 / rate * self.config.hedge_factor);
                let patience = stuck.max(Duration::from_secs_f64(expected.min(30.0)));
                now > asked.max(n.progress) + patience
            })
            .map(|(id, _)| *id)
            .collect();
        for peer in silent {
            let Some(neighbour) = self.neighbours.get_mut(&peer) else { continue };
            neighbour.doubted = true;
            let (held, standing) = (neighbour.held.clone(), neighbour.standing());
            held.iter().for_each(|index| self.holder_lost(index, standing));
        }
    }

    /// Takes a neighbour's word again that it holds what it said.
    pub(super) fn believe_again(&mut self, now: Now, peer: NodeId) {
        let Some(neighbour) = self.neighbours.get_mut(&peer).filter(|n| n.doubted) else { return };
        neighbour.doubted = false;
        let (held, standing) = (neighbour.held.clone(), neighbour.standing());
        held.iter().for_each(|index| self.holder_gained(now, index, standing));
    }

    /// The rate in the middle of those that neighbours answer at; none before the first answer.
    pub(super) fn usual_rate(&self) -> Option<f64> {
        let mut rates: Vec<f64> =
            self.neighbours.values().map(|n| n.rate).filter(|rate| *rate > 0.0).collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    }
}
