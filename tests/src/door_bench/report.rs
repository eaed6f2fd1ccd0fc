//! What one run found, as data and as a table.

use std::fmt;

use serde::Serialize;

use super::{Contender, Transfer};

const GIB: f64 = (1_u64 << 30) as f64;

/// Every way to the same file, in one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Size of the file.
    pub file_bytes: u64,
    /// Turns of each; the figures are their medians.
    pub runs: u16,
    /// What was measured, by name.
    pub versions: Vec<(String, String)>,
    /// In the order in which they took turns.
    pub doors: Vec<Figures>,
}

/// One way: medians.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Which.
    pub name: String,
    /// 10⁹ bytes a second.
    pub gb_per_second: f64,
    /// Its throughput ÷ that of the best rival on the same work in this run; absent for rivals.
    pub to_best_rival: Option<f64>,
    /// CPU-seconds of who serves, a GiB: nginx or the agent; in the kernel's own ways nobody.
    pub server_cpu_seconds_per_gib: f64,
    /// CPU-seconds of who reads, a GiB.
    pub client_cpu_seconds_per_gib: f64,
    /// Reads that the agent saw through the mount, of all turns.
    pub agent_reads: u64,
    /// Every turn, in order: 10⁹ bytes a second.
    pub runs_gb_per_second: Vec<f64>,
    #[serde(skip)]
    kind: Contender,
}

impl Report {
    pub(super) fn new(
        file_bytes: u64,
        runs: u16,
        versions: Vec<(String, String)>,
        transfers: &[(Contender, Vec<Transfer>)],
    ) -> Self {
        let mut doors: Vec<Figures> =
            transfers.iter().map(|(kind, transfers)| Figures::new(*kind, transfers)).collect();
        let best = |kind: Contender| {
            let rivals = doors.iter().filter(|f| f.kind.is_rival() && f.kind.group() == kind.group());
            rivals.map(|f| f.gb_per_second).max_by(f64::total_cmp)
        };
        let ratios: Vec<_> = doors
            .iter()
            .map(|f| best(f.kind).filter(|_| !f.kind.is_rival()).map(|best| f.gb_per_second / best))
            .collect();
        doors.iter_mut().zip(ratios).for_each(|(figures, ratio)| figures.to_best_rival = ratio);
        Self { file_bytes, runs, versions, doors }
    }
}

impl Figures {
    fn new(kind: Contender, transfers: &[Transfer]) -> Self {
        let of = |figure: fn(&Transfer) -> f64| median(transfers.iter().map(figure).collect());
        let rate = |t: &Transfer| t.bytes as f64 / 1e9 / t.seconds;
        Self {
            name: kind.name().to_owned(),
            gb_per_second: of(rate),
            to_best_rival: None,
            server_cpu_seconds_per_gib: of(|t| t.server_cpu_seconds / (t.bytes as f64 / GIB)),
            client_cpu_seconds_per_gib: of(|t| t.client_cpu_seconds / (t.bytes as f64 / GIB)),
            agent_reads: transfers.iter().map(|t| t.agent_reads).sum(),
            runs_gb_per_second: transfers.iter().map(rate).collect(),
            kind,
        }
    }
}

/// Of an even number the mean of the two in the middle.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => figures[middle],
        _ => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions: Vec<String> =
            self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        writeln!(
            f,
            "{:.0} MiB, medians of {}; {}",
            self.file_bytes as f64 / f64::from(1 << 20),
            self.runs,
            versions.join(", ")
        )?;
        writeln!(
            f,
            "  {:<24} {:>7} {:>13} {:>17} {:>13} {:>12}",
            "", "GB/s", "÷ best rival", "server CPU-s/GiB", "client", "agent reads"
        )?;
        for figures in &self.doors {
            let ratio = figures.to_best_rival.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
            writeln!(
                f,
                "  {:<24} {:>7.2} {:>13} {:>17.2} {:>13.2} {:>12}",
                figures.name,
                figures.gb_per_second,
                ratio,
                figures.server_cpu_seconds_per_gib,
                figures.client_cpu_seconds_per_gib,
                figures.agent_reads
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(seconds: f64) -> Transfer {
        Transfer {
            bytes: 1_000_000_000,
            seconds,
            server_cpu_seconds: 1.0,
            client_cpu_seconds: 1.0,
            agent_reads: 1,
        }
    }

    #[test]
    fn a_door_is_held_against_the_best_that_does_the_same_work() {
        let transfers = [
            (Contender::NginxSendfile, vec![transfer(1.0), transfer(1.0), transfer(90.0)]),
            (Contender::NginxBuffers, vec![transfer(0.5), transfer(0.5), transfer(0.5)]),
            (Contender::DirectRead, vec![transfer(0.1)]),
            (Contender::Http, vec![transfer(1.0), transfer(0.4), transfer(0.4)]),
        ];
        let report = Report::new(1, 3, Vec::new(), &transfers);
        assert_eq!(report.doors[0].gb_per_second, 1.0, "an outlier does not tip a median");
        assert_eq!(report.doors[3].to_best_rival, Some(1.25));
        assert_eq!(report.doors[1].to_best_rival, None);
        assert_eq!(report.doors[3].agent_reads, 3);
    }
}
