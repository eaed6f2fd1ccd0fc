//! What a new version of a model shares with the old one, by where chunks are cut, and what cutting costs.
//!
//! No network and no agent: real bytes, the layout as agents use it, and two others beside it.

pub mod boundaries;
pub mod pairs;

use std::{
    collections::HashSet,
    fmt::{self, Write},
};

use coordinatorless_p2p::{ChunkHash, Result};
use serde::Serialize;

use self::{
    boundaries::{Boundaries, hashed},
    pairs::{Files, WEIGHTS, Weights, versions},
};
use crate::process_stats::ProcessStats;

/// One pair and one way to cut.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was done to the original.
    pub version: &'static str,
    /// How both were cut.
    pub boundaries: Boundaries,
    /// Size of the version.
    pub bytes: u64,
    /// Bytes of it in chunks that the original has, ÷ `bytes`.
    pub kept: f64,
    /// Its chunks.
    pub chunks: usize,
}

/// What one way to cut costs, whatever the pair.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// How it is cut.
    pub boundaries: Boundaries,
    /// CPU seconds to find the boundaries of 1 GB.
    pub cut_cpu_seconds_per_gb: f64,
    /// CPU seconds to hash the chunks of 1 GB by BLAKE3, which every node does in any case.
    pub hash_cpu_seconds_per_gb: f64,
    /// Part of the bytes that must have been read before the boundaries are known.
    pub read_share: f64,
}

/// The whole measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Size of the original.
    pub original_bytes: u64,
    /// Every pair, cut in every way.
    pub rows: Vec<Row>,
    /// What cutting costs; empty when it was not measured.
    pub costs: Vec<Cost>,
}

/// Compares every version with the original; measures the costs for at least `cpu_seconds` each, unless 0.
///
/// # Errors
/// As making the versions.
pub fn measure(cpu_seconds: f64) -> Result<Report> {
    let (original, file) = Weights::original()?;
    let base: Files = vec![(WEIGHTS.to_owned(), file)];
    let versions = versions(&original)?;
    let mut rows = Vec::new();
    for version in &versions {
        for boundaries in Boundaries::ALL {
            rows.push(compare(&base, version.name, &version.files, boundaries)?);
        }
    }
    let mut costs = Vec::new();
    if cpu_seconds > 0.0 {
        for boundaries in Boundaries::ALL {
            costs.push(cost(&base, boundaries, cpu_seconds)?);
        }
    }
    Ok(Report { original_bytes: size(&base) as u64, rows, costs })
}

/// What `files` keep of `base` when both are cut in one way.
///
/// # Errors
/// As cutting.
pub fn compare(base: &Files, version: &'static str, files: &Files, boundaries: Boundaries) -> Result<Row> {
    let known: HashSet<ChunkHash> = hashed(base, &boundaries.cut(base)?).into_iter().collect();
    let places = boundaries.cut(files)?;
    let hashes = hashed(files, &places);
    let kept: usize =
        places.iter().zip(&hashes).filter(|(_, hash)| known.contains(hash)).map(|((_, r), _)| r.len()).sum();
    let bytes = size(files);
    Ok(Row {
        version,
        boundaries,
        bytes: bytes as u64,
        kept: kept as f64 / bytes as f64,
        chunks: places.len(),
    })
}

fn cost(files: &Files, boundaries: Boundaries, cpu_seconds: f64) -> Result<Cost> {
    let places = boundaries.cut(files)?;
    let cut = repeat(cpu_seconds, || boundaries.cut(files).map(drop))?;
    let hash = repeat(cpu_seconds, || {
        std::hint::black_box(hashed(files, &places));
        Ok(())
    })?;
    let per_gb = 1e9 / size(files) as f64;
    Ok(Cost {
        boundaries,
        cut_cpu_seconds_per_gb: cut * per_gb,
        hash_cpu_seconds_per_gb: hash * per_gb,
        read_share: match boundaries {
            Boundaries::Tensors => header_bytes(files) as f64 / size(files) as f64,
            Boundaries::Fixed => 0.0,
            Boundaries::FastCdc => 1.0,
        },
    })
}

/// CPU seconds of one round, of as many as take `cpu_seconds` together.
fn repeat(cpu_seconds: f64, mut round: impl FnMut() -> Result<()>) -> Result<f64> {
    let now = || ProcessStats::read(std::process::id()).map(|stats| stats.cpu_seconds);
    let began = now()?;
    let mut rounds = 0u32;
    loop {
        // Looking at the clock costs more than the shortest of rounds.
        for _ in 0..8 {
            round()?;
        }
        rounds += 8;
        let took = now()? - began;
        if took >= cpu_seconds {
            return Ok(took / f64::from(rounds));
        }
    }
}

fn size(files: &Files) -> usize {
    files.iter().map(|(_, bytes)| bytes.len()).sum()
}

/// What a safetensors file says of its own header's length, and the eight bytes that say it.
fn header_bytes(files: &Files) -> u64 {
    let length = |bytes: &Vec<u8>| bytes.first_chunk::<8>().map_or(0, |head| 8 + u64::from_le_bytes(*head));
    files.iter().map(|(_, bytes)| length(bytes)).sum()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        writeln!(
            text,
            "original: {:.1} MB; share of bytes kept (chunks of the version)\n",
            self.original_bytes as f64 / 1e6
        )?;
        write!(text, "{:<34} {:>8}", "version", "MB")?;
        for boundaries in Boundaries::ALL {
            write!(text, " {:>18}", boundaries.name())?;
        }
        for rows in self.rows.chunks(Boundaries::ALL.len()) {
            let Some(first) = rows.first() else { continue };
            write!(text, "\n{:<34} {:>8.1}", first.version, first.bytes as f64 / 1e6)?;
            for row in rows {
                let kept = format!("{:.2} % ({})", 100.0 * row.kept, row.chunks);
                write!(text, " {kept:>18}")?;
            }
        }
        if !self.costs.is_empty() {
            write!(text, "\n\n{:<34} {:>8}", "CPU seconds a GB", "")?;
            let mut line = |what: &str, of: &dyn Fn(&Cost) -> String| {
                write!(text, "\n{what:<34} {:>8}", "")?;
                self.costs.iter().try_for_each(|cost| write!(text, " {:>18}", of(cost)))
            };
            line("to find the boundaries", &|c| format!("{:.5}", c.cut_cpu_seconds_per_gb))?;
            line("to hash the chunks (BLAKE3)", &|c| format!("{:.3}", c.hash_cpu_seconds_per_gb))?;
            line("to be read first", &|c| format!("{:.3} %", 100.0 * c.read_share))?;
        }
        f.write_str(&text)
    }
}
