//! What the agent counts: every metric's name, meaning and unit, and a typed way to record it.
//!
//! Owns the names, all `emberline_…`. Recorders elsewhere call a function here, so no two spell a
//! name or label differently. Labels have closed sets of values, or such as the configuration
//! bounds; nothing a peer or client chooses becomes one. Process-wide: several agents in one process
//! count together.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::Method;
use coordinatorless_p2p::cluster::Work;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{
    api::{Phase, Sources, Status},
    error::{ErrorKind, kind_name},
};

const ORIGIN_BYTES: &str = "emberline_origin_bytes_total";
const PEER_BYTES: &str = "emberline_peer_bytes_total";
const REUSED_BYTES: &str = "emberline_reused_bytes_total";
const WASTED_BYTES: &str = "emberline_wasted_bytes_total";
const HEDGED_BYTES: &str = "emberline_hedged_bytes_total";
const SERVED_BYTES: &str = "emberline_served_bytes_total";
const CROSS_ZONE_BYTES: &str = "emberline_cross_zone_bytes_total";
const COST: &str = "emberline_cost";
const PHASE_SECONDS: &str = "emberline_phase_seconds";
const CHUNK_SECONDS: &str = "emberline_chunk_seconds";
const STALLS: &str = "emberline_stalls_total";
const CORRUPT: &str = "emberline_corrupt_chunks_total";
const PULLS: &str = "emberline_pulls_total";
const PULLS_RUNNING: &str = "emberline_pulls_running";
const PRESENT_BYTES: &str = "emberline_present_bytes";
const WANTED_BYTES: &str = "emberline_wanted_bytes";
const ARTIFACTS: &str = "emberline_artifacts";
const MEMBERS: &str = "emberline_members";
const STORE_USED: &str = "emberline_store_used_bytes";
const STORE_QUOTA: &str = "emberline_store_quota_bytes";
const STORE_FREE: &str = "emberline_store_free_bytes";
const RSS: &str = "emberline_resident_memory_bytes";
const START_TIME: &str = "emberline_start_time_seconds";
const BUILD_INFO: &str = "emberline_build_info";
const HTTP_REQUESTS: &str = "emberline_http_requests_total";
const HTTP_CONNECTIONS: &str = "emberline_http_connections";
const READS: &str = "emberline_reads_total";
const READ_WAIT: &str = "emberline_read_wait_seconds";
const URGENT_CHUNKS: &str = "emberline_urgent_chunks_total";
const FUSE_OPENS: &str = "emberline_fuse_opens_total";
const HTTP_SHED: &str = "emberline_http_shed_total";

/// From a cached pull to a model of terabytes over a slow link.
const PHASE_BUCKETS: [f64; 14] =
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1200.0, 3600.0];

/// A chunk is at most 4 MiB: a millisecond to hash, and as long to write unless the disk is slow.
const CHUNK_BUCKETS: [f64; 10] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0];

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts recording. Idempotent; what was counted before the first call is lost. In a process that
/// installed a recorder of its own, that one is left in place and [`render`] says nothing.
pub fn install() {
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(PHASE_SECONDS.to_owned()), &PHASE_BUCKETS)
            .ok()?
            .set_buckets_for_metric(Matcher::Full(READ_WAIT.to_owned()), &PHASE_BUCKETS)
            .ok()?
            .set_buckets_for_metric(Matcher::Full(CHUNK_SECONDS.to_owned()), &CHUNK_BUCKETS)
            .ok()?
            .build_recorder();
        let handle = recorder.handle();
        if let Err(e) = metrics::set_global_recorder(recorder) {
            tracing::warn!(error = %e, "another metrics recorder is in place");
            return None;
        }
        describe();
        start_at_zero();
        Some(handle)
    });
}

/// Everything counted so far, in Prometheus' text format.
pub fn render() -> String {
    install();
    let Some(Some(handle)) = HANDLE.get() else { return String::new() };
    if let Some(bytes) = rss_bytes() {
        gauge!(RSS).set(bytes as f64);
    }
    handle.run_upkeep();
    handle.render()
}

fn describe() {
    for (name, unit, help) in [
        (ORIGIN_BYTES, Unit::Bytes, "bytes read from origins by this node"),
        (PEER_BYTES, Unit::Bytes, "bytes received from other nodes"),
        (REUSED_BYTES, Unit::Bytes, "wanted bytes taken from another artifact on this disk"),
        (WASTED_BYTES, Unit::Bytes, "bytes received in vain: lost hedges, and bytes that failed their hash"),
        (HEDGED_BYTES, Unit::Bytes, "bytes asked of a second node because the first was slow"),
        (SERVED_BYTES, Unit::Bytes, "bytes handed out, by door"),
        (CROSS_ZONE_BYTES, Unit::Bytes, "bytes received from nodes of other zones"),
        (STALLS, Unit::Count, "sources given up because nothing came within the stall time-out, by reason"),
        (CORRUPT, Unit::Count, "chunks that did not have their hash, by where they were found"),
        (PULLS, Unit::Count, "pulls that ended, by result"),
        (HTTP_REQUESTS, Unit::Count, "HTTP requests answered, by method, route and status"),
        (READS, Unit::Count, "reads of files, by door and by where their bytes were found"),
        (URGENT_CHUNKS, Unit::Count, "chunks that readers waited for"),
        (FUSE_OPENS, Unit::Count, "files opened in the mount, by who reads them: passthrough is the kernel"),
        (HTTP_SHED, Unit::Count, "HTTP connections told to come back later"),
    ] {
        describe_counter!(name, unit, help);
    }
    for (name, unit, help) in [
        (PULLS_RUNNING, Unit::Count, "pulls under way"),
        (PRESENT_BYTES, Unit::Bytes, "verified bytes of artifacts on this disk"),
        (WANTED_BYTES, Unit::Bytes, "bytes the artifacts on this disk have when whole"),
        (ARTIFACTS, Unit::Count, "artifacts on this disk, by state"),
        (MEMBERS, Unit::Count, "members this node sees, by state"),
        (STORE_USED, Unit::Bytes, "disk bytes of all artifacts"),
        (STORE_QUOTA, Unit::Bytes, "the most disk bytes artifacts may take"),
        (STORE_FREE, Unit::Bytes, "bytes free on the store's file system"),
        (RSS, Unit::Bytes, "resident memory of the agent"),
        (START_TIME, Unit::Seconds, "when the agent started, since the epoch"),
        (
            COST,
            Unit::Count,
            "what bytes have cost since start by the configured prices, by what for and currency",
        ),
        (BUILD_INFO, Unit::Count, "1, with the version as a label"),
        (HTTP_CONNECTIONS, Unit::Count, "HTTP connections open"),
    ] {
        describe_gauge!(name, unit, help);
    }
    describe_histogram!(PHASE_SECONDS, Unit::Seconds, "how long pulls stayed in each phase");
    describe_histogram!(
        READ_WAIT,
        Unit::Seconds,
        "how long reads waited that found a chunk missing, by door"
    );
    describe_histogram!(
        CHUNK_SECONDS,
        Unit::Seconds,
        "how long chunks took to verify and to store once their bytes had come, by work"
    );
}

/// A series that is absent until the first event breaks rates and alerts on it.
fn start_at_zero() {
    for name in [
        ORIGIN_BYTES,
        PEER_BYTES,
        REUSED_BYTES,
        WASTED_BYTES,
        HEDGED_BYTES,
        URGENT_CHUNKS,
        CROSS_ZONE_BYTES,
        HTTP_SHED,
    ] {
        counter!(name).increment(0);
    }
    for door in Door::ALL {
        served_bytes(door, 0);
    }
    for mode in FuseMode::ALL {
        counter!(FUSE_OPENS, "mode" => mode.label()).increment(0);
    }
    for stall in Stall::ALL {
        counter!(STALLS, "reason" => stall.label()).increment(0);
    }
    for found in Found::ALL {
        counter!(CORRUPT, "found" => found.label()).increment(0);
    }
    counter!(PULLS, "result" => "complete").increment(0);
    gauge!(HTTP_CONNECTIONS).set(0.0);
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge!(START_TIME).set(now.as_secs_f64());
}

/// A way bytes leave the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Other nodes.
    Peers,
    /// `/v1` files.
    Http,
    /// The Hugging Face endpoint.
    Hub,
    /// The S3 API.
    S3,
    /// The mount.
    Fuse,
}

impl Door {
    const ALL: [Self; 5] = [Self::Peers, Self::Http, Self::Hub, Self::S3, Self::Fuse];

    fn label(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Http => "http",
            Self::Hub => "hub",
            Self::S3 => "s3",
            Self::Fuse => "fuse",
        }
    }
}

/// Where the bytes of a read were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBytes {
    /// In a file that is whole.
    Sealed,
    /// In chunks that were here for another reason.
    Here,
    /// In chunks that had been asked for ahead of the reader.
    Ahead,
    /// Not here: so many chunks were waited for, so long.
    Waited {
        /// How many.
        chunks: usize,
        /// How long.
        took: Duration,
    },
}

/// A read of a file ended with its bytes.
pub fn read(door: Door, found: FoundBytes) {
    let label = match found {
        FoundBytes::Sealed => "sealed",
        FoundBytes::Here => "here",
        FoundBytes::Ahead => "ahead",
        FoundBytes::Waited { .. } => "waited",
    };
    counter!(READS, "door" => door.label(), "found" => label).increment(1);
    if let FoundBytes::Waited { chunks, took } = found {
        counter!(URGENT_CHUNKS).increment(chunks as u64);
        histogram!(READ_WAIT, "door" => door.label()).record(took.as_secs_f64());
    }
}

/// How a file of the mount is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FuseMode {
    /// The kernel reads it; we see no read.
    Passthrough,
    /// Reads come to us, through the kernel's page cache.
    Cached,
}

impl FuseMode {
    const ALL: [Self; 2] = [Self::Passthrough, Self::Cached];

    fn label(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Cached => "cached",
        }
    }
}

/// A file was opened in the mount.
pub(crate) fn fuse_open(mode: FuseMode) {
    counter!(FUSE_OPENS, "mode" => mode.label()).increment(1);
}

/// Who kept us waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// The origin sent nothing.
    Origin,
    /// A peer sent nothing.
    Peer,
    /// A better-ranked owner of a span showed no progress.
    Owner,
    /// A home did not answer with the blueprint.
    Resolve,
}

impl Stall {
    const ALL: [Self; 4] = [Self::Origin, Self::Peer, Self::Owner, Self::Resolve];

    fn label(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Peer => "peer",
            Self::Owner => "owner",
            Self::Resolve => "resolve",
        }
    }
}

/// Where a wrong chunk was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// In what the origin sent.
    Origin,
    /// In what a peer sent.
    Peer,
    /// On this disk.
    Disk,
}

impl Found {
    const ALL: [Self; 3] = [Self::Origin, Self::Peer, Self::Disk];

    fn label(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Peer => "peer",
            Self::Disk => "disk",
        }
    }
}

/// Counts bytes by where they came from; `since_last` are those since the call before.
pub fn received(since_last: Sources) {
    let Sources { origin, peers, reused, wasted, hedged } = since_last;
    for (name, bytes) in [
        (ORIGIN_BYTES, origin),
        (PEER_BYTES, peers),
        (REUSED_BYTES, reused),
        (WASTED_BYTES, wasted),
        (HEDGED_BYTES, hedged),
    ] {
        if bytes > 0 {
            counter!(name).increment(bytes);
        }
    }
}

/// Counts bytes that left by a door.
pub fn served_bytes(door: Door, bytes: u64) {
    counter!(SERVED_BYTES, "door" => door.label()).increment(bytes);
}

/// A pull left `phase` after `spent`. Phases that are ends take no time and are not recorded.
pub fn phase(phase: Phase, spent: Duration) {
    let label = match phase {
        Phase::Resolving => "resolving",
        Phase::Preparing => "preparing",
        Phase::Fetching => "fetching",
        Phase::Publishing => "publishing",
        Phase::Complete | Phase::Failed | Phase::Cancelled => return,
    };
    histogram!(PHASE_SECONDS, "phase" => label).record(spent.as_secs_f64());
}

/// A chunk took this long to hash, or to write.
pub fn chunk_work(work: Work, took: Duration) {
    let label = match work {
        Work::Verify => "verify",
        Work::Store => "store",
    };
    histogram!(CHUNK_SECONDS, "work" => label).record(took.as_secs_f64());
}

/// A source was given up after the stall time-out.
pub fn stalled(on: Stall) {
    counter!(STALLS, "reason" => on.label()).increment(1);
}

/// A chunk did not have its hash.
pub fn corrupt_chunk(found: Found) {
    counter!(CORRUPT, "found" => found.label()).increment(1);
}

/// A pull ended.
pub fn pull_ended(result: Result<(), ErrorKind>) {
    let label = match result {
        Ok(()) => "complete",
        Err(kind) => kind_name(kind),
    };
    counter!(PULLS, "result" => label).increment(1);
}

/// Takes the gauges from the agent's status: members, store, presence.
pub fn observe(status: &Status) {
    let complete = status.artifacts.iter().filter(|artifact| artifact.complete).count();
    gauge!(ARTIFACTS, "state" => "complete").set(complete as f64);
    gauge!(ARTIFACTS, "state" => "partial").set((status.artifacts.len() - complete) as f64);
    let sum = |of: fn(&crate::api::ArtifactInfo) -> u64| status.artifacts.iter().map(of).sum::<u64>() as f64;
    gauge!(PRESENT_BYTES).set(sum(|artifact| artifact.done_bytes));
    gauge!(WANTED_BYTES).set(sum(|artifact| artifact.total_bytes));
    gauge!(PULLS_RUNNING).set(status.pulls.iter().filter(|pull| !pull.phase.is_over()).count() as f64);
    gauge!(STORE_USED).set(status.used_bytes as f64);
    gauge!(STORE_QUOTA).set(status.quota_bytes as f64);
    gauge!(STORE_FREE).set(status.free_bytes as f64);
    gauge!(MEMBERS, "state" => "alive").set(status.members as f64);
    counter!(CROSS_ZONE_BYTES).absolute(status.cost.cross_zone_bytes);
    if let Some(money) = &status.cost.money {
        for (what, amount) in [("origin", money.origin), ("cross_zone", money.cross_zone)] {
            // Counters hold whole numbers.
            gauge!(COST, "for" => what, "currency" => money.currency.clone()).set(amount);
        }
    }
}

/// An HTTP request was answered. `route` is a pattern, not a path.
pub(crate) fn http_request(method: &Method, route: &str, status: u16) {
    // Methods are the client's to invent; the label is not.
    let method = match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    let labels = [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.to_string())];
    counter!(HTTP_REQUESTS, &labels).increment(1);
}

/// An HTTP connection was told to come back later.
pub(crate) fn http_shed() {
    counter!(HTTP_SHED).increment(1);
}

/// Counts an HTTP connection as open while it lives.
pub(crate) fn http_connection() -> impl Drop {
    struct Open;
    impl Drop for Open {
        fn drop(&mut self) {
            gauge!(HTTP_CONNECTIONS).decrement(1.0);
        }
    }
    gauge!(HTTP_CONNECTIONS).increment(1.0);
    Open
}

/// Resident memory of this process in bytes, mapped files included; `None` without `/proc`.
pub fn rss_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, series: &str) -> f64 {
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("{series} in\n{text}"))
    }

    #[test]
    fn every_metric_has_help_and_our_prefix() {
        install();
        phase(Phase::Fetching, Duration::from_secs(1));
        stalled(Stall::Peer);
        let text = render();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let name = line.split(['{', ' ']).next().unwrap();
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(name.starts_with("emberline_"), "{line}");
            assert!(text.contains(&format!("# HELP {family} ")), "{line}\n{text}");
        }
    }

    #[test]
    fn counts_show_up_under_their_labels() {
        install();
        let before = render();
        received(Sources { origin: 7, peers: 5, reused: 3, wasted: 1, hedged: 2 });
        pull_ended(Err(ErrorKind::Full));
        phase(Phase::Publishing, Duration::from_millis(30));
        let after = render();
        let grown = |series: &str| value(&after, series) - value(&before, series);
        assert!(grown(ORIGIN_BYTES) >= 7.0 && grown(WASTED_BYTES) >= 1.0);
        assert!(value(&after, "emberline_pulls_total{result=\"full\"}") >= 1.0);
        assert!(value(&after, "emberline_phase_seconds_bucket{phase=\"publishing\",le=\"0.05\"}") >= 1.0);
        assert!(value(&after, RSS) > 1e6);
    }
}
