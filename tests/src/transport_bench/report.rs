//! What one run found, as data and as a table.

use std::fmt;

use serde::Serialize;

use super::{Contender, Plan, Transfer};

/// Every contender on one link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Largest IP packet on the link.
    pub mtu: u32,
    /// What the link carries each way, where it is shaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_mbit: Option<f64>,
    /// Payload of each transfer.
    pub bytes: u64,
    /// Transfers of each contender; the figures are their medians.
    pub runs: u16,
    /// In the order in which they took turns.
    pub contenders: Vec<Figures>,
    /// The exchange against the others.
    pub summary: Vec<Summary>,
}

/// What one contender made of the link: medians.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Who.
    pub contender: String,
    /// Payload: 10⁹ bytes a second.
    pub gb_per_second: f64,
    /// 10⁹ bytes a CPU-second of both ends together, as `/proc` accounts it to the two processes.
    pub gb_per_cpu_second: f64,
    /// CPU-seconds of the source a 10⁹ bytes.
    pub source_cpu_seconds_per_gb: f64,
    /// CPU-seconds of the sink a 10⁹ bytes.
    pub sink_cpu_seconds_per_gb: f64,
    /// The larger of the two ends' peaks.
    pub peak_rss_bytes: u64,
    /// Payload of every transfer, in order: 10⁹ bytes a second.
    pub runs_gb_per_second: Vec<f64>,
    #[serde(skip)]
    kind: Contender,
}

/// The exchange with one chunk size, as ratios within this run. Above 1: the exchange is better.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Which exchange.
    pub contender: String,
    /// Its throughput ÷ that of bare quinn.
    pub throughput_to_quinn: Option<f64>,
    /// Its throughput ÷ that of TLS over TCP.
    pub throughput_to_tcp_tls: Option<f64>,
    /// Its bytes a CPU-second ÷ those of TLS over TCP, which neither hashes nor touches a file.
    pub per_cpu_to_tcp_tls: Option<f64>,
    /// Bare quinn's bytes a CPU-second ÷ those of TLS over TCP.
    pub quinn_per_cpu_to_tcp_tls: Option<f64>,
}

impl Report {
    pub(super) fn new(plan: &Plan, transfers: &[Vec<Transfer>]) -> Self {
        let contenders: Vec<Figures> = plan
            .contenders
            .iter()
            .zip(transfers)
            .map(|(kind, done)| Figures::new(*kind, plan.bytes, done))
            .collect();
        let find = |kind| contenders.iter().find(|f| f.kind == kind);
        let (quinn, tls) = (find(Contender::Quinn), find(Contender::TcpTls));
        let ratio = |a: Option<&Figures>, b: Option<&Figures>, of: fn(&Figures) -> f64| Some(of(a?) / of(b?));
        let rate = |f: &Figures| f.gb_per_second;
        let thrift = |f: &Figures| f.gb_per_cpu_second;
        let summary = contenders
            .iter()
            .filter(|f| matches!(f.kind, Contender::Exchange { .. }))
            .map(|ours| Summary {
                contender: ours.contender.clone(),
                throughput_to_quinn: ratio(Some(ours), quinn, rate),
                throughput_to_tcp_tls: ratio(Some(ours), tls, rate),
                per_cpu_to_tcp_tls: ratio(Some(ours), tls, thrift),
                quinn_per_cpu_to_tcp_tls: ratio(quinn, tls, thrift),
            })
            .collect();
        Self {
            mtu: plan.mtu,
            rate_mbit: plan.rate.map(|rate| rate as f64 / 1e6),
            bytes: plan.bytes,
            runs: plan.runs,
            contenders,
            summary,
        }
    }
}

impl Figures {
    fn new(kind: Contender, bytes: u64, transfers: &[Transfer]) -> Self {
        let gb = bytes as f64 / 1e9;
        let of = |figure: fn(&Transfer) -> f64| median(transfers.iter().map(figure).collect());
        Self {
            contender: kind.name(),
            gb_per_second: gb / of(|t| t.seconds),
            gb_per_cpu_second: gb / of(|t| t.source.cpu_seconds + t.sink.cpu_seconds),
            source_cpu_seconds_per_gb: of(|t| t.source.cpu_seconds) / gb,
            sink_cpu_seconds_per_gb: of(|t| t.sink.cpu_seconds) / gb,
            peak_rss_bytes: transfers
                .iter()
                .map(|t| t.source.peak_rss_bytes.max(t.sink.peak_rss_bytes))
                .max()
                .unwrap_or(0),
            runs_gb_per_second: transfers.iter().map(|t| gb / t.seconds).collect(),
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
        writeln!(
            f,
            "MTU {}{}, {:.2} GB a transfer, medians of {}",
            self.mtu,
            self.rate_mbit.map_or(String::new(), |rate| format!(", {rate} Mbit/s")),
            self.bytes as f64 / 1e9,
            self.runs
        )?;
        writeln!(
            f,
            "  {:<16} {:>8} {:>12} {:>14} {:>12} {:>10}",
            "", "GB/s", "GB/CPU-s", "source CPU-s/GB", "sink", "peak MiB"
        )?;
        for figures in &self.contenders {
            writeln!(
                f,
                "  {:<16} {:>8.2} {:>12.2} {:>15.2} {:>12.2} {:>10.0}",
                figures.contender,
                figures.gb_per_second,
                figures.gb_per_cpu_second,
                figures.source_cpu_seconds_per_gb,
                figures.sink_cpu_seconds_per_gb,
                figures.peak_rss_bytes as f64 / f64::from(1 << 20)
            )?;
        }
        let shown = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |r| format!("{r:.2}"));
        for s in &self.summary {
            writeln!(
                f,
                "  {}: {} × quinn's throughput, {} × TLS over TCP's; {} × its bytes a CPU-second (bare quinn {})",
                s.contender,
                shown(s.throughput_to_quinn),
                shown(s.throughput_to_tcp_tls),
                shown(s.per_cpu_to_tcp_tls),
                shown(s.quinn_per_cpu_to_tcp_tls)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_stats::ProcessStats;

    fn transfer(seconds: f64, cpu_seconds: f64) -> Transfer {
        let half = ProcessStats { cpu_seconds: cpu_seconds / 2.0, ..ProcessStats::default() };
        Transfer { seconds, source: half, sink: half }
    }

    #[test]
    fn ratios_are_of_medians_and_an_outlier_does_not_tip_them() {
        let exchange = Contender::Exchange { chunk_bytes: 1 << 20 };
        let plan = Plan {
            mtu: 1500,
            rate: None,
            bytes: 1_000_000_000,
            runs: 3,
            contenders: vec![Contender::TcpTls, Contender::Quinn, exchange],
        };
        let report = Report::new(
            &plan,
            &[
                vec![transfer(1.0, 2.0), transfer(1.0, 2.0), transfer(9.0, 9.0)],
                vec![transfer(2.0, 4.0), transfer(2.0, 4.0), transfer(0.1, 0.1)],
                vec![transfer(2.5, 5.0), transfer(2.5, 5.0), transfer(2.5, 5.0)],
            ],
        );
        let summary = &report.summary[0];
        assert_eq!(summary.throughput_to_quinn, Some(0.8));
        assert_eq!(summary.throughput_to_tcp_tls, Some(0.4));
        assert_eq!(summary.per_cpu_to_tcp_tls, Some(0.4));
        assert_eq!(summary.quinn_per_cpu_to_tcp_tls, Some(0.5));
    }

    #[test]
    fn without_a_rival_there_is_no_ratio_to_it() {
        let exchange = Contender::Exchange { chunk_bytes: 1 << 20 };
        let plan = Plan { mtu: 1500, rate: None, bytes: 1, runs: 1, contenders: vec![exchange] };
        let report = Report::new(&plan, &[vec![transfer(1.0, 1.0)]]);
        assert_eq!(report.summary[0].throughput_to_quinn, None);
    }
}
