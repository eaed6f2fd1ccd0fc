//! What one measurement found, as data and as a table.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::Plan;

/// How long answers took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Half of them took no longer, in milliseconds.
    pub p50_ms: f64,
    /// All but one in a hundred.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Answers.
    pub answers: usize,
}

impl Latency {
    /// `None` without a time.
    pub(super) fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |share: f64| {
            let index = (share * (times.len().checked_sub(1)?) as f64).round() as usize;
            Some(times.get(index)?.as_secs_f64() * 1e3)
        };
        Some(Self { p50_ms: at(0.5)?, p99_ms: at(0.99)?, max_ms: at(1.0)?, answers: times.len() })
    }
}

/// One swarm, and what the probe suffered from it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Swarm {
    /// Until the last node had its copy.
    pub seconds: f64,
    /// Meanwhile.
    pub latency: Latency,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Nodes that pulled.
    pub nodes: usize,
    /// Size of each model.
    pub model_bytes: u64,
    /// Every link, up and down.
    pub rate_mbit: f64,
    /// What each agent might send and take in, as a share of its link.
    pub limit: f64,
    /// The probe with nothing else on the links.
    pub alone: Latency,
    /// With a swarm that knows no limit.
    pub unlimited: Swarm,
    /// With a swarm under the limit.
    pub limited: Swarm,
    /// `unlimited` ÷ `alone`, medians.
    pub unlimited_p50_ratio: f64,
    /// `unlimited` ÷ `alone`, 99th percentiles.
    pub unlimited_p99_ratio: f64,
    /// `limited` ÷ `alone`, medians.
    pub limited_p50_ratio: f64,
    /// `limited` ÷ `alone`, 99th percentiles.
    pub limited_p99_ratio: f64,
    /// Every copy had the right SHA-256: always true, for a measurement without it fails.
    pub verified: bool,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        model_bytes: u64,
        alone: Latency,
        unlimited: Swarm,
        limited: Swarm,
    ) -> Self {
        Self {
            nodes: plan.nodes,
            model_bytes,
            rate_mbit: plan.rate as f64 / 1e6,
            limit: plan.limit,
            alone,
            unlimited,
            limited,
            unlimited_p50_ratio: unlimited.latency.p50_ms / alone.p50_ms,
            unlimited_p99_ratio: unlimited.latency.p99_ms / alone.p99_ms,
            limited_p50_ratio: limited.latency.p50_ms / alone.p50_ms,
            limited_p99_ratio: limited.latency.p99_ms / alone.p99_ms,
            verified: true,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.1} MiB to {} nodes of {} Mbit/s; the limit is {:.0} % of a link, up and down",
            self.model_bytes as f64 / f64::from(1 << 20),
            self.nodes,
            self.rate_mbit,
            self.limit * 100.0
        )?;
        writeln!(f, "  {:<16} {:>8} {:>8} {:>8}   {:>8}", "probe", "p50", "p99", "most", "swarm")?;
        let mut row = |what: &str, latency: &Latency, seconds: Option<f64>| {
            let swarm = seconds.map(|s| format!("{s:.1} s")).unwrap_or_default();
            let Latency { p50_ms, p99_ms, max_ms, .. } = latency;
            writeln!(f, "  {what:<16} {p50_ms:>5.2} ms {p99_ms:>5.2} ms {max_ms:>5.1} ms   {swarm:>8}")
        };
        row("no swarm", &self.alone, None)?;
        row("swarm, no limit", &self.unlimited.latency, Some(self.unlimited.seconds))?;
        row("swarm, limited", &self.limited.latency, Some(self.limited.seconds))?;
        writeln!(
            f,
            "  no limit ÷ no swarm: {:.2} (p50), {:.2} (p99)",
            self.unlimited_p50_ratio, self.unlimited_p99_ratio
        )?;
        writeln!(
            f,
            "  limited ÷ no swarm:  {:.2} (p50), {:.2} (p99)",
            self.limited_p50_ratio, self.limited_p99_ratio
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let latency = Latency::of((1..=101).rev().map(Duration::from_millis).collect()).unwrap();
        assert_eq!((latency.p50_ms, latency.p99_ms, latency.max_ms), (51.0, 100.0, 101.0));
        assert_eq!(Latency::of(Vec::new()), None);
    }
}
