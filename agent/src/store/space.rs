//! How much room there is, what a thing is charged, and who has to go.
//!
//! Pure arithmetic: no disk, no clock. What an artifact is charged is at least what `du` will ever
//! count for it, so a quota kept here is a quota kept on disk, unfinished bytes included.

use coordinatorless_p2p::SwarmId;

use super::{StoreConfig, disk::BLOCK_BYTES};
use crate::{
    error::{Error, ErrorKind, Result},
    manifest::Blueprint,
    quantity::exactly,
};

/// The quota and where eviction starts and ends, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) quota_bytes: u64,
    pub(super) high_bytes: u64,
    pub(super) low_bytes: u64,
}

impl Limits {
    /// # Errors
    /// `Invalid` for a quota larger than the disk, or watermarks that are not 0 < low ≤ high ≤ 1.
    pub(super) fn new(config: &StoreConfig, disk_bytes: u64) -> Result<Self> {
        let StoreConfig { quota_bytes, high_watermark: high, low_watermark: low, scrub_every, .. } = *config;
        if scrub_every.is_zero() {
            let text = "store.scrub_every must be more than nothing; store.scrub_bytes_per_second = 0 ends the scrub";
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        if !(low > 0.0 && low <= high && high <= 1.0) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("store watermarks low {low} and high {high} are not 0 < low ≤ high ≤ 1"),
            ));
        }
        if quota_bytes > disk_bytes {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "store quota of {} is larger than the file system, which has {}; lower `store.quota_bytes`, or \
                     set 0 for 90 % of the file system",
                    exactly(quota_bytes),
                    exactly(disk_bytes)
                ),
            ));
        }
        let quota_bytes = if quota_bytes == 0 { disk_bytes / 10 * 9 } else { quota_bytes };
        let share = |part: f64| (quota_bytes as f64 * part) as u64;
        Ok(Self { quota_bytes, high_bytes: share(high).min(quota_bytes), low_bytes: share(low) })
    }
}

/// What a file of `size` bytes is charged: its blocks, and those of an extent tree fragmented by
/// chunks that arrive in any order (24 bytes per MiB at worst on ext4, 16 on xfs).
pub(super) fn file_charge(size: u64) -> u64 {
    let extents = if size > 1 << 20 { BLOCK_BYTES * (1 + (size >> 27)) } else { 0 };
    blocks(size).saturating_add(extents)
}

/// What an artifact is charged besides its files: blueprint, manifest, journal, directories, and its
/// part of the index.
pub(super) fn overhead_charge(blueprint: &Blueprint, encoded_bytes: u64) -> u64 {
    let chunks = u64::from(blueprint.chunk_count());
    // The journal is rewritten when it passes twice its need; the rewrite stands beside it.
    let journal =
        3 * blocks((2 * chunks + super::JOURNAL_SLACK_RECORDS) * super::journal::RECORD_BYTES as u64);
    let manifest = blocks(encoded_bytes + 64 * chunks);
    // At worst no two chunks were read in a row; it is written beside the old one.
    let order = 2 * blocks((64 + 8 * chunks).min(crate::order::MAX_ENCODED_BYTES as u64));
    // A page of the index is copied on write, and its file grows in steps.
    let index = blocks(128 * chunks);
    let mut dirs = std::collections::HashSet::new();
    let mut entries = 0;
    for file in &blueprint.files {
        let path = file.path.as_str();
        entries += 2 * (path.len() as u64 + 32);
        dirs.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }
    let directories = BLOCK_BYTES * (8 + dirs.len() as u64) + blocks(2 * entries);
    2 * blocks(encoded_bytes) + manifest + order + journal + index + directories
}

fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

/// An artifact that may be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) swarm: SwarmId,
    pub(super) charge_bytes: u64,
    pub(super) complete: bool,
    pub(super) last_used_us: u64,
}

/// How things stand when room is asked for, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) wanted: u64,
    pub(super) used: u64,
    /// What the file system has left.
    pub(super) disk_free: u64,
}

/// Whom to evict so that `demand` fits: nobody below the high watermark, else the least recently
/// used until the low one, whole artifacts before unfinished ones.
///
/// # Errors
/// `Full`, evicting nobody, when it would not fit even then.
pub(super) fn choose_victims(
    limits: Limits,
    demand: Demand,
    mut candidates: Vec<Candidate>,
) -> Result<Vec<SwarmId>> {
    let Demand { wanted, used, disk_free } = demand;
    let evictable = candidates.iter().map(|c| c.charge_bytes).fold(0, u64::saturating_add);
    let after = used.saturating_add(wanted);
    let shortage = wanted.saturating_sub(disk_free);
    if after.saturating_sub(evictable) > limits.quota_bytes || shortage > evictable {
        let (limit, advice) = if shortage > evictable {
            ("the disk", "free space on the disk, or remove or unpin artifacts")
        } else if wanted > limits.quota_bytes {
            ("the quota", "raise `store.quota_bytes`, or pull fewer files")
        } else {
            ("the quota", "raise `store.quota_bytes`, remove or unpin artifacts, or wait for their readers")
        };
        return Err(Error::new(
            ErrorKind::Full,
            format!(
                "{} wanted do not fit {limit}: {} of the quota of {} free, {} free on disk, {} evictable; {advice}",
                exactly(wanted),
                exactly(limits.quota_bytes.saturating_sub(used)),
                exactly(limits.quota_bytes),
                exactly(disk_free),
                exactly(evictable),
            ),
        ));
    }
    if after <= limits.high_bytes && shortage == 0 {
        return Ok(Vec::new());
    }
    candidates.sort_by_key(|c| (!c.complete, c.last_used_us, c.swarm));
    let mut freed = 0;
    let mut victims = Vec::new();
    for c in candidates {
        if after.saturating_sub(freed) <= limits.low_bytes && freed >= shortage {
            break;
        }
        freed += c.charge_bytes;
        victims.push(c.swarm);
    }
    Ok(victims)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { quota_bytes: 100, high_bytes: 95, low_bytes: 85 };

    fn candidate(n: u8, charge_bytes: u64, complete: bool, last_used_us: u64) -> Candidate {
        Candidate { swarm: SwarmId([n; 32]), charge_bytes, complete, last_used_us }
    }

    fn victims(wanted: u64, used: u64, candidates: Vec<Candidate>) -> Result<Vec<u8>> {
        let demand = Demand { wanted, used, disk_free: 1000 };
        choose_victims(LIMITS, demand, candidates).map(|v| v.iter().map(|s| s.0[0]).collect())
    }

    #[test]
    fn nobody_goes_up_to_the_high_watermark_and_one_byte_more_goes_down_to_the_low_one() {
        let all = vec![candidate(1, 4, true, 1), candidate(2, 7, true, 2), candidate(3, 20, true, 3)];
        assert_eq!(victims(45, 50, all.clone()).unwrap(), [0u8; 0]);
        // 96 − 4 = 92 is still above 85; − 7 = 85 is not.
        assert_eq!(victims(46, 50, all).unwrap(), [1, 2]);
    }

    #[test]
    fn unfinished_artifacts_go_after_whole_ones_however_old() {
        let all = vec![candidate(1, 20, false, 1), candidate(2, 20, true, 9), candidate(3, 20, true, 8)];
        assert_eq!(victims(30, 100, all).unwrap(), [3, 2, 1]);
    }

    #[test]
    fn nobody_is_evicted_for_what_would_not_fit_anyway() {
        let err = victims(61, 60, vec![candidate(1, 20, true, 1)]).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Full);
        let text = err.to_string();
        for part in [
            "61 bytes wanted",
            "40 bytes of the quota of 100 bytes free",
            "1000 bytes free on disk",
            "20 bytes evictable",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        // One byte less fits exactly.
        assert_eq!(victims(60, 60, vec![candidate(1, 20, true, 1)]).unwrap(), [1]);
    }

    #[test]
    fn a_disk_that_others_filled_is_freed_by_eviction_or_named() {
        let demand = Demand { wanted: 30, used: 10, disk_free: 15 };
        let two = vec![candidate(1, 10, true, 1), candidate(2, 10, true, 2)];
        assert_eq!(choose_victims(LIMITS, demand, two).unwrap().len(), 2);
        let err = choose_victims(LIMITS, demand, vec![candidate(1, 10, true, 1)]).unwrap_err();
        assert!(err.kind() == ErrorKind::Full && err.to_string().contains("the disk"), "{err}");
    }

    #[test]
    fn a_quota_larger_than_the_disk_or_crossed_watermarks_are_refused() {
        let config = |quota_bytes, low_watermark, high_watermark| StoreConfig {
            quota_bytes,
            high_watermark,
            low_watermark,
            ..StoreConfig::default()
        };
        assert_eq!(Limits::new(&config(0, 0.85, 0.95), 1000).unwrap().quota_bytes, 900);
        assert_eq!(Limits::new(&config(1000, 0.85, 0.95), 1000).unwrap().high_bytes, 950);
        for bad in [
            config(1001, 0.85, 0.95),
            config(0, 0.95, 0.85),
            config(0, 0.0, 0.5),
            config(0, 0.5, 1.1),
            config(0, f64::NAN, 0.5),
        ] {
            assert_eq!(Limits::new(&bad, 1000).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn a_charge_is_never_less_than_the_size_nor_more_than_a_block_and_its_extents() {
        for size in [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 20 << 30] {
            let charge = file_charge(size);
            assert!(charge >= size && charge <= size + 2 * BLOCK_BYTES + size / 1000, "{size}: {charge}");
        }
    }
}
