//! What a process has cost so far, read from `/proc`.
//!
//! Knows nothing of who the process is. Figures vanish with the process, so they are read before it
//! is stopped.

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};

/// Kernel clock ticks a second as `/proc` shows them: fixed at 100 for user space on every Linux port.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and memory of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessStats {
    /// User and system time, children that were waited for included.
    pub cpu_seconds: f64,
    /// The most memory that was ever resident.
    pub peak_rss_bytes: u64,
    /// Memory resident now.
    pub rss_bytes: u64,
}

impl ProcessStats {
    /// Reads the figures of `pid`.
    ///
    /// # Errors
    /// `NotFound` when there is no such process; `Invalid` when `/proc` reads unlike proc(5).
    pub fn read(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path).at(|| path.clone())?;
        let path = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&path).at(|| path.clone())?;
        let cpu_seconds = cpu_seconds(&stat)
            .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("/proc/{pid}/stat: {stat}")))?;
        Ok(Self {
            cpu_seconds,
            peak_rss_bytes: kibibytes(&status, "VmHWM:").unwrap_or(0),
            rss_bytes: kibibytes(&status, "VmRSS:").unwrap_or(0),
        })
    }
}

/// Sum of utime, stime, cutime and cstime: fields 14 to 17 of proc(5). The command name may itself
/// hold blanks and parentheses, so counting starts behind the last one.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: Vec<f64> = fields.split(' ').skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    (ticks.len() == 4).then(|| ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 25 75 20 0 1 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
    }

    #[test]
    fn our_own_figures_grow_with_work() {
        let before = ProcessStats::read(std::process::id()).expect("our own figures");
        let mut sum = 0_u64;
        while ProcessStats::read(std::process::id()).expect("our own figures").cpu_seconds
            - before.cpu_seconds
            < 0.03
        {
            sum = (0..100_000_u64).fold(sum, |acc, n| std::hint::black_box(acc.wrapping_add(n)));
        }
        assert!(before.peak_rss_bytes >= before.rss_bytes);
        assert!(before.rss_bytes > 100 * 1024);
    }
}
