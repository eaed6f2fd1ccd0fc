//! `transport-bench`: what the exchange makes of a link and of a core, beside bare QUIC, TLS and TCP.
//!
//! Arguments and printing; the measurement is in `emberline_tests::transport_bench`. Needs root, for network
//! namespaces. What it starts and makes is gone when it ends, also by Ctrl-C.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use coordinatorless_p2p::Result;
use emberline_tests::{
    namespaces,
    program::{exit, print, print_json, until_interrupted},
    rate,
    transport_bench::{Contender, End, Plan, Report, run},
};
use serde::Serialize;

/// Measures GB/s and GB a CPU-second of the exchange beside bare quinn, TCP with TLS and TCP.
///
/// The exchange is the product's own: chunks are requested from a peer, read from its files, verified and
/// written to files here. The others move memory to memory. All take turns on one unshaped link between two
/// network namespaces.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Largest IP packet on the link.
    #[arg(long, value_enum, default_value = "both")]
    mtu: Mtu,
    /// Shape the link to this rate each way: `400mbit`. Shaped links cost several times the CPU.
    #[arg(long, value_parser = rate::parse)]
    rate: Option<u64>,
    /// Payload of one transfer.
    #[arg(long, default_value = "1GiB", value_parser = preload_cli::units::parse_bytes)]
    size: u64,
    /// Transfers of each contender; the figures are medians.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Only>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Be one end of a transfer; the program starts itself so.
    #[arg(long, hide = true)]
    end: Option<String>,
}

const EXAMPLES: &str = "Examples:
  transport-bench                                  ordinary and jumbo frames, about two minutes
  transport-bench --mtu 9000 --runs 5 --json
  transport-bench --mtu 1500 --only quinn,exchange-1m
  transport-bench --mtu 1500 --rate 400mbit --size 512MiB --only quinn,exchange-1m";

#[derive(Clone, Copy, ValueEnum)]
enum Mtu {
    #[value(name = "1500")]
    Ordinary,
    #[value(name = "9000")]
    Jumbo,
    Both,
}

#[derive(Clone, Copy, ValueEnum)]
enum Only {
    Tcp,
    TcpTls,
    Quinn,
    #[value(name = "exchange-1m")]
    Exchange1,
    #[value(name = "exchange-4m")]
    Exchange4,
}

impl Only {
    fn contender(self) -> Contender {
        match self {
            Self::Tcp => Contender::Tcp,
            Self::TcpTls => Contender::TcpTls,
            Self::Quinn => Contender::Quinn,
            Self::Exchange1 => Contender::Exchange { chunk_bytes: 1 << 20 },
            Self::Exchange4 => Contender::Exchange { chunk_bytes: 4 << 20 },
        }
    }
}

/// The printed JSON object.
#[derive(Serialize)]
struct Printed {
    links: Vec<Report>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.end {
        Some(task) => End::parse(task).and_then(|end| end.run()),
        None => until_interrupted(measure(&arguments)),
    };
    exit("transport-bench", outcome)
}

async fn measure(arguments: &Arguments) -> Result<()> {
    namespaces::available()?;
    let mtus: &[u32] = match arguments.mtu {
        Mtu::Ordinary => &[1500],
        Mtu::Jumbo => &[9000],
        Mtu::Both => &[1500, 9000],
    };
    let contenders = match arguments.only.as_slice() {
        [] => Contender::ALL.to_vec(),
        some => some.iter().map(|only| only.contender()).collect(),
    };
    let mut links = Vec::new();
    for &mtu in mtus {
        let plan = Plan {
            mtu,
            rate: arguments.rate,
            bytes: arguments.size,
            runs: arguments.runs,
            contenders: contenders.clone(),
        };
        let report = run(&plan, |contender, rate| {
            eprintln!("MTU {mtu}: {} {rate:.2} GB/s", contender.name());
        })
        .await?;
        if !arguments.json {
            print(&report)?;
        }
        links.push(report);
    }
    if arguments.json { print_json(&Printed { links }) } else { Ok(()) }
}
