//! `swarm-bench`: how long N nodes take to get a model, against the least that their links allow.
//!
//! Arguments and printing; the measurement is in `emberline_tests::swarm_bench`. Needs root, for
//! network namespaces. What it starts and makes is gone when it ends, also by Ctrl-C.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, ValueEnum};
use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use emberline_tests::{
    namespaces,
    program::{self, exit, print_json, until_interrupted},
    rate,
    swarm_bench::{Contender, Departure, Going, Plan, Report, Timeline, draw, over_bare_quinn, run},
    transport_bench::{End, Ring},
};
use serde::Serialize;

/// Measures how fast agents bring one model onto N nodes behind shaped links.
///
/// Each agent is a process in its own network namespace; the origin is an nginx in another. All start
/// cold and are released together; every copy is checked against SHA-256.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// How many nodes want the model.
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Size of the model.
    #[arg(long, default_value = "512MiB", value_parser = preload_cli::units::parse_bytes)]
    size: u64,
    /// Rate of each node's link, up and down: `400mbit`, `1gbit`; several are dealt to the nodes in turn.
    #[arg(long, default_value = "400mbit", value_delimiter = ',', value_parser = rate::parse)]
    rate: Vec<u64>,
    /// Shape no link: what the machine can do. There is no bound then.
    #[arg(long, conflicts_with_all = ["rate", "origin_rate", "starts", "straggler"])]
    unshaped: bool,
    /// Rate of the origin's link; as the first `--rate` if not given.
    #[arg(long, value_parser = rate::parse)]
    origin_rate: Option<u64>,
    /// Deal the nodes to this many zones; the origin is in none of them.
    #[arg(long, default_value_t = 0)]
    zones: usize,
    /// Rate of each zone's trunk, each way; as fast as the machine if not given.
    #[arg(long, value_parser = rate::parse, requires = "zones")]
    zone_rate: Option<u64>,
    /// When each node starts, in units of model ÷ fastest link; the last goes for all that follow.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    starts: Vec<f64>,
    /// Cold nodes that join and pull once all others have the model.
    #[arg(long, default_value_t = 0)]
    late: usize,
    /// One more node whose link has this share of the first `--rate`; nobody waits for it.
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    straggler: Option<f64>,
    /// `kill -9` so many nodes, or this share of them, once the nodes hold the share MOMENT of all bytes
    /// (0.5 if not given).
    #[arg(long, value_name = "WHO[@MOMENT]", group = "going", value_parser = parse_kill)]
    kill: Option<Departure>,
    /// The same with SIGTERM: they hand over what only they hold.
    #[arg(long, value_name = "WHO[@MOMENT]", group = "going", value_parser = parse_leave)]
    leave: Option<Departure>,
    /// The same with a notice, as spot instances get: `POST /v1/hooks/drain`, then `kill -9`.
    #[arg(long, value_name = "WHO[@MOMENT]", group = "going", value_parser = parse_spot)]
    spot: Option<Departure>,
    /// How long a spot notice is, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "spot",
        value_parser = clap::value_parser!(u64).range(1..=600))]
    notice: u64,
    /// Let the origin be an S3 server (SeaweedFS); always so with `--rival s5cmd`.
    #[arg(long)]
    s3: bool,
    /// Largest IP packet on every link.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// Use IPv6.
    #[arg(long)]
    ipv6: bool,
    /// Repeat, and print the median.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Measure this as well, in the same way, and print the ratio; or with `--only-rival` instead.
    #[arg(long, value_enum)]
    rival: Option<Rival>,
    /// Leave Emberline out.
    #[arg(long, requires = "rival")]
    only_rival: bool,
    /// Measure as well what the same bytes cost over bare quinn on the same links, each node from its
    /// neighbour, and print the ratio of CPU time.
    #[arg(long, conflicts_with_all = ["unshaped", "ipv6", "zones", "only_rival"])]
    bare_quinn: bool,
    /// Write here, as SVG, where the time of the last run went, and the figures beside it as JSON.
    #[arg(long, value_name = "FILE.svg")]
    timeline: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Be one end of a transfer over bare quinn; the program starts itself so.
    #[arg(long, hide = true)]
    end: Option<String>,
}

const EXAMPLES: &str = "Examples:
  swarm-bench --nodes 4 --size 512MiB --rate 400mbit
  swarm-bench --nodes 8 --rate 200mbit --runs 3 --json
  swarm-bench --nodes 4 --late 1                          a late joiner, served by its neighbours
  swarm-bench --nodes 8 --rate 200mbit --starts 0,0.5,0.5,0.75   a wave
  swarm-bench --nodes 8 --rate 200mbit --starts 0,1.3     one lone seed, then all the others
  swarm-bench --nodes 8 --rate 200mbit --kill 0.5         half of them die half-way
  swarm-bench --nodes 8 --rate 200mbit --leave 2@0.3      two are stopped, and hand over first
  swarm-bench --nodes 8 --rate 200mbit --spot 2 --notice 10   two get ten seconds' notice
  swarm-bench --nodes 7 --rate 200mbit --straggler 0.01   one more at a hundredth of the rate
  swarm-bench --nodes 4 --rate 200mbit --origin-rate 20mbit   an origin ten times slower
  swarm-bench --nodes 8 --rate 200mbit,50mbit --origin-rate 200mbit   half of the links at a quarter
  swarm-bench --nodes 8 --rate 200mbit --zones 2 --zone-rate 200mbit   what crosses the zones' borders
  swarm-bench --nodes 8 --rate 200mbit --timeline t.svg   a picture of the gap to the bound
  swarm-bench --nodes 8 --rate 200mbit --bare-quinn       its CPU time against that of bare quinn
  swarm-bench --nodes 4 --rival curl                      against each node by itself
  swarm-bench --nodes 1 --rate 400mbit --rival aria2      one node alone against a good downloader
  swarm-bench --nodes 1 --rate 1gbit --rival s5cmd        the same from an S3 server
  swarm-bench --nodes 1 --unshaped --rival s5cmd          the same as fast as the machine goes";

#[derive(Clone, Copy, ValueEnum)]
enum Rival {
    /// Each node by itself with curl, over one connection.
    Curl,
    /// Each node by itself with `aria2c -x16` (package aria2).
    Aria2,
    /// Each node by itself with s5cmd, from an S3 server.
    S5cmd,
}

impl From<Rival> for Contender {
    fn from(rival: Rival) -> Self {
        match rival {
            Rival::Curl => Self::Curl,
            Rival::Aria2 => Self::Aria2,
            Rival::S5cmd => Self::S5cmd,
        }
    }
}

/// The printed JSON object: the median run, and how far the runs lay apart.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    median: &'a Report,
    /// Makespan of every run, in order.
    runs_seconds: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rival: Option<&'a Report>,
    /// The rival's makespan ÷ ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    rival_ratio: Option<f64>,
    /// The same bytes over bare quinn.
    #[serde(skip_serializing_if = "Option::is_none")]
    bare_quinn: Option<Ring>,
    /// Our CPU time ÷ that of bare quinn.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ratio_to_quinn: Option<f64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.end {
        Some(task) => End::parse(task).and_then(|end| end.run()),
        None => until_interrupted(measure(&arguments)),
    };
    exit("swarm-bench", outcome)
}

async fn measure(arguments: &Arguments) -> Result<()> {
    namespaces::available()?;
    let ours = plan(arguments, Contender::Emberline);
    if let Some(warning) = ours.warning() {
        eprintln!("warning: {warning}");
    }
    if arguments.bare_quinn && arguments.nodes < 2 {
        return Err(Error::new(
            ErrorKind::Invalid,
            "--bare-quinn needs two nodes: each gets its bytes from another",
        ));
    }
    let rival = arguments.rival.map(|rival| plan(arguments, rival.into()));
    if arguments.only_rival {
        let Some(rival) = rival else { return Err(Error::new(ErrorKind::Invalid, "no rival named")) };
        let reports = measure_runs(&rival, arguments).await?;
        return print(arguments, &reports, None, None);
    }
    let reports = measure_runs(&ours, arguments).await?;
    let rival = match rival {
        Some(rival) => Some(measure_runs(&rival, arguments).await?),
        None => None,
    };
    let bare = if arguments.bare_quinn { Some(over_bare_quinn(&ours).await?) } else { None };
    print(arguments, &reports, rival.as_deref(), bare)
}

async fn measure_runs(plan: &Plan, arguments: &Arguments) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for round in 0..arguments.runs {
        let (report, timeline) = run(&Plan { seed: u64::from(round) + 1, ..plan.clone() }).await?;
        if let (Some(path), Some(timeline)) = (&arguments.timeline, &timeline) {
            write_timeline(path, plan.contender, &report, timeline)?;
        }
        if !arguments.json && arguments.runs > 1 {
            let seconds = report.makespan_seconds;
            program::print(&format!("{} run {}: {seconds:.2} s", report.contender, round + 1))?;
        }
        reports.push(report);
    }
    Ok(reports)
}

/// A rival's picture gets the rival's name, so that both are kept.
fn write_timeline(path: &Path, contender: Contender, report: &Report, timeline: &Timeline) -> Result<()> {
    let path = match contender {
        Contender::Emberline => path.to_owned(),
        rival => path.with_extension(format!("{}.svg", rival.name())),
    };
    std::fs::write(&path, draw(timeline, report)).at(|| path.display().to_string())?;
    let figures = serde_json::to_vec_pretty(timeline)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "timeline", e))?;
    let beside = path.with_extension("json");
    std::fs::write(&beside, figures).at(|| beside.display().to_string())?;
    eprintln!("drawn in {}, the samples are in {}", path.display(), beside.display());
    Ok(())
}

fn plan(arguments: &Arguments, contender: Contender) -> Plan {
    Plan {
        nodes: arguments.nodes,
        model_bytes: arguments.size,
        rates: if arguments.unshaped { Vec::new() } else { arguments.rate.clone() },
        origin_rate: arguments.origin_rate.or(arguments.rate.first().copied()).unwrap_or(0),
        zones: arguments.zones,
        zone_rate: arguments.zone_rate,
        starts: arguments.starts.clone(),
        late: arguments.late,
        straggler: arguments.straggler,
        departure: departure(arguments),
        s3: arguments.s3 || matches!(arguments.rival, Some(Rival::S5cmd)),
        contender,
        mtu: arguments.mtu,
        ipv6: arguments.ipv6,
        seed: 1,
        timeline: arguments.timeline.is_some(),
    }
}

fn departure(arguments: &Arguments) -> Option<Departure> {
    let spot =
        arguments.spot.map(|spot| Departure { going: Going::Notified { seconds: arguments.notice }, ..spot });
    arguments.kill.or(arguments.leave).or(spot)
}

fn parse_kill(text: &str) -> std::result::Result<Departure, String> {
    Departure::parse(text, Going::Killed)
}

fn parse_leave(text: &str) -> std::result::Result<Departure, String> {
    Departure::parse(text, Going::Stopped)
}

/// With its notice still to be filled in.
fn parse_spot(text: &str) -> std::result::Result<Departure, String> {
    Departure::parse(text, Going::Notified { seconds: 0 })
}

fn parse_share(text: &str) -> std::result::Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| format!("{text:?} is not a share between 0 and 1; write for example 0.01"))
}

fn print(
    arguments: &Arguments,
    reports: &[Report],
    rival: Option<&[Report]>,
    bare_quinn: Option<Ring>,
) -> Result<()> {
    let median = median(reports)?;
    let rival = rival.map(|reports| self::median(reports)).transpose()?;
    let rival_ratio = rival.map(|rival| rival.makespan_seconds / median.makespan_seconds);
    let cpu_ratio_to_quinn = bare_quinn.map(|bare| median.cpu_seconds_per_gib / bare.cpu_seconds_per_gib);
    if !arguments.json {
        program::print(median)?;
        if let (Some(rival), Some(ratio)) = (rival, rival_ratio) {
            program::print(&format!("{rival}\n  {} takes {ratio:.2} × as long", rival.contender))?;
        }
        if let (Some(bare), Some(ratio)) = (bare_quinn, cpu_ratio_to_quinn) {
            program::print(&format!(
                "the same bytes over bare quinn: {:.2} s, CPU a GiB delivered {:.2} s; the swarm takes \
                 {ratio:.2} × its CPU",
                bare.seconds, bare.cpu_seconds_per_gib
            ))?;
        }
        return Ok(());
    }
    let runs_seconds = reports.iter().map(|report| report.makespan_seconds).collect();
    let summary = Summary { median, runs_seconds, rival, rival_ratio, bare_quinn, cpu_ratio_to_quinn };
    print_json(&summary)
}

/// The run with the median makespan; of an even number the slower one.
fn median(reports: &[Report]) -> Result<&Report> {
    let mut sorted: Vec<&Report> = reports.iter().collect();
    sorted.sort_by(|a, b| a.makespan_seconds.total_cmp(&b.makespan_seconds));
    sorted.get(sorted.len() / 2).copied().ok_or_else(|| Error::new(ErrorKind::Invalid, "no runs"))
}
