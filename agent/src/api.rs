//! What the agent's HTTP API says and hears, as plain data.
//!
//! Shared by the door that serves it (`expose::http`), the command line and the tests, so that the
//! three cannot drift apart. Sizes are bytes, durations seconds, times seconds since the epoch.

mod precedence;
mod warm;

use std::path::PathBuf;

use coordinatorless_p2p::NodeId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use precedence::{Deadline, Priority, precedence};
pub use warm::{JobState, ScaleHook, Selector, WarmNode, WarmRequest, WarmStatus};

/// Asks for an artifact on this node's disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// What to bring, as a person types it: `s3://bucket/prefix`, `hf://org/name@rev`, …
    pub reference: String,
    /// Only files that match one of these (shell patterns, as in `huggingface_hub`); empty: all.
    #[serde(default)]
    pub allow_patterns: Vec<String>,
    /// No file that matches one of these.
    #[serde(default)]
    pub ignore_patterns: Vec<String>,
    /// Also place the files in this directory, by hard link, reflink or copy.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub to: Option<PathBuf>,
    /// Also place the files in this directory as the Hub's own clients keep their cache, as links; for `hf://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub hf_cache: Option<PathBuf>,
    /// Read the files into the page cache once they are whole.
    #[serde(default)]
    pub prefault: bool,
    /// Give up after this long; absent: never.
    #[serde(default)]
    pub timeout_seconds: Option<f64>,
    /// Keep the artifact from eviction.
    #[serde(default)]
    pub pin: bool,
    /// Fail unless the origin publishes a manifest for this version.
    #[serde(default)]
    pub require_manifest: bool,
    /// How much it matters beside the other pulls of the node: `low`, `normal`, `high` or a number; the higher
    /// goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub priority: Option<Priority>,
    /// When it is needed: seconds from now, `"10m"`, or a moment as in RFC 3339. Among equal priorities the
    /// earlier goes first; nothing else happens when it passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub deadline: Option<Deadline>,
}

/// In which order an artifact was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadingOrderInfo {
    /// As it was asked.
    pub reference: String,
    /// The blueprint's hash.
    pub swarm: String,
    /// Chunks that were read.
    pub chunks: u32,
    /// Their bytes.
    pub bytes: u64,
    /// The first stretches, at most a thousand.
    pub stretches: Vec<ReadStretch>,
}

/// A stretch of a file that was read in one go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadStretch {
    /// The file.
    pub path: String,
    /// Its first byte, at the border of a chunk.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// A page of a directory of the namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Listing {
    /// The directory.
    pub path: String,
    /// Its names, in the order of their bytes.
    pub entries: Vec<ListingEntry>,
    /// What to give as `start_after` for the next page; absent at the end.
    pub next: Option<String>,
    /// The origin could not be asked: this is what it said before.
    pub stale: bool,
}

/// One name of a [`Listing`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListingEntry {
    /// The name in the directory; with `prefix` or `recursive` the key below it, a directory's with its slash.
    pub name: String,
    /// `file` or `directory`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Size of a file.
    pub bytes: Option<u64>,
    /// Names the version of a file, as the `ETag` of its answers, without quotes.
    pub etag: Option<String>,
    /// When a file was changed last, where its origin tells.
    pub modified: Option<f64>,
}

/// How much of a file of the namespace is here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FilePresence {
    /// The file.
    pub path: String,
    /// `sealed` once it is whole, checked and published; `coming` before.
    pub state: String,
    /// Its size.
    pub bytes: u64,
    /// Names its version, as the `ETag` of its answers, without quotes.
    pub etag: String,
    /// When it was changed last, where its origin tells.
    pub modified: Option<f64>,
    /// Bytes of it that are here.
    pub here_bytes: u64,
    /// Which: first byte, and the one behind the last; in order, none touching the next.
    pub here: Vec<[u64; 2]>,
    /// Where a sealed file is.
    pub local: Option<LocalFile>,
}

/// A whole file on the disk of the agent's machine, and how to know that it is this very file: the same path
/// may lead elsewhere on another machine or in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LocalFile {
    /// As the agent sees it.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// `/proc/sys/kernel/random/boot_id` of its machine.
    pub boot_id: String,
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// Where a pull stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Finding out what exactly the reference means now.
    Resolving,
    /// Making room, preallocating, re-hashing what a crash left behind.
    Preparing,
    /// Bytes are on their way.
    Fetching,
    /// Checking whole files against the origin's digests and giving them their paths.
    Publishing,
    /// Done; `path` is set.
    Complete,
    /// Ended without the artifact; `error` is set.
    Failed,
    /// Ended by request.
    Cancelled,
}

impl Phase {
    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        match self {
            Self::Complete | Self::Failed | Self::Cancelled => true,
            Self::Resolving | Self::Preparing | Self::Fetching | Self::Publishing => false,
        }
    }
}

/// Bytes of an artifact by where they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sources {
    /// Read from the origin by this node.
    pub origin: u64,
    /// Received from other nodes.
    pub peers: u64,
    /// Already on this disk: same artifact, or equal chunks of another.
    pub reused: u64,
    /// Received in vain: lost hedges, bytes that failed their hash.
    pub wasted: u64,
    /// Asked of a second node because the first was slow; at most so much came twice.
    #[serde(default)]
    pub hedged: u64,
}

/// How a pull is getting on. One of these is sent at every change, and at most ten a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PullStatus {
    /// The pull's name on this agent.
    pub id: String,
    /// As it was asked.
    pub reference: String,
    /// The blueprint's hash, once resolved.
    pub swarm: Option<String>,
    /// The commit or version the reference stood for, where the origin has one.
    pub revision: Option<String>,
    /// Where it stands.
    pub phase: Phase,
    /// Bytes wanted; 0 until resolved.
    pub total_bytes: u64,
    /// Bytes verified and stored, whatever their source.
    pub done_bytes: u64,
    /// Files wanted, and how many have their path.
    pub total_files: u64,
    /// Files that have their path.
    pub done_files: u64,
    /// Where the bytes came from.
    pub sources: Sources,
    /// Smoothed rate of the last seconds.
    pub bytes_per_second: f64,
    /// Best guess of the time left; absent while there is none.
    pub eta_seconds: Option<f64>,
    /// Time since the last chunk came, or since the origin was asked what it has, in seconds, once that is worth a word; absent while they come.
    #[serde(default)]
    pub quiet_seconds: Option<f64>,
    /// That the origin throttles and when it is asked again, in words, while nothing comes because of it.
    #[serde(default)]
    pub throttle: Option<String>,
    /// Neighbours exchanging with us now.
    pub peers: usize,
    /// Time since the pull was asked for.
    pub elapsed_seconds: f64,
    /// Where the artifact is, once complete: a directory.
    #[schema(value_type = Option<String>)]
    pub path: Option<PathBuf>,
    /// The file in it, where the reference names a file and not a folder.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub file: Option<PathBuf>,
    /// The manifest's hash, once sealed.
    pub manifest: Option<String>,
    /// What went wrong.
    pub error: Option<Problem>,
    /// True if the origin could not be reached and a copy from before was used.
    pub stale: bool,
    /// Why, and from when that copy is.
    #[serde(default)]
    pub stale_reason: Option<String>,
    /// How many asked for it and have not cancelled: it goes on while one is left.
    #[serde(default)]
    pub askers: usize,
    /// How much it matters: the most of all who asked.
    #[serde(default)]
    #[schema(value_type = String)]
    pub priority: Priority,
    /// When it is needed, if somebody said so; the earliest.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub deadline: Option<Deadline>,
}

impl PullStatus {
    /// A pull that was just asked for.
    pub fn new(id: impl Into<String>, reference: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            reference: reference.into(),
            swarm: None,
            revision: None,
            phase: Phase::Resolving,
            total_bytes: 0,
            done_bytes: 0,
            total_files: 0,
            done_files: 0,
            sources: Sources::default(),
            bytes_per_second: 0.0,
            eta_seconds: None,
            quiet_seconds: None,
            throttle: None,
            peers: 0,
            elapsed_seconds: 0.0,
            path: None,
            file: None,
            manifest: None,
            error: None,
            stale: false,
            stale_reason: None,
            askers: 1,
            priority: Priority::default(),
            deadline: None,
        }
    }
}

/// An error as every endpoint returns it, and as a failed pull carries it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// One of `not_found, denied, invalid, unavailable, timeout, corrupt, full, cancelled`.
    pub kind: String,
    /// What happened, with the identifiers.
    pub message: String,
    /// What the reader can do about it, where we know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<f64>,
}

/// Asks what a pull would do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// As in [`PullRequest`].
    pub reference: String,
    /// As in [`PullRequest`].
    #[serde(default)]
    pub allow_patterns: Vec<String>,
    /// As in [`PullRequest`].
    #[serde(default)]
    pub ignore_patterns: Vec<String>,
    /// As in [`PullRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
}

/// What a pull would do, without doing it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// As it was asked.
    pub reference: String,
    /// The blueprint's hash.
    pub swarm: String,
    /// The commit or version, where the origin has one.
    pub revision: Option<String>,
    /// Bytes wanted.
    pub total_bytes: u64,
    /// Of these, here already.
    pub local_bytes: u64,
    /// Here under another name: linked in without download.
    pub reusable_bytes: u64,
    /// Held by at least one neighbour.
    pub peer_bytes: u64,
    /// Held by nobody: would be read from the origin, by this node or another.
    pub origin_bytes: u64,
    /// What that costs: bytes from an origin other than this machine's file system, bytes that only nodes of other zones
    /// have, and money where prices are configured.
    #[serde(default)]
    pub cost: Cost,
    /// Chunks the wanted files have.
    pub chunks: u64,
    /// Participants known now.
    pub peers: usize,
    /// Expected duration from rates measured before; absent when none were.
    pub estimated_seconds: Option<f64>,
    /// Whether every chunk hash is known beforehand.
    pub manifest_known: bool,
    /// Why this is not of what the origin has now, where it could not be asked.
    #[serde(default)]
    pub stale_reason: Option<String>,
    /// The wanted files.
    pub files: Vec<PlannedFile>,
}

/// What bytes cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cost {
    /// From origins other than the file system of this machine.
    pub origin_bytes: u64,
    /// From nodes of other zones.
    pub cross_zone_bytes: u64,
    /// By the configured prices; absent without any.
    pub money: Option<Money>,
}

/// Bytes in money.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Money {
    /// For bytes from origins.
    pub origin: f64,
    /// For bytes from other zones.
    pub cross_zone: f64,
    /// Both.
    pub total: f64,
    /// What it is in.
    pub currency: String,
}

/// One file of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedFile {
    /// Path within the artifact.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Of these, here already.
    pub local_bytes: u64,
}

/// A node is told that it will be gone, by a spot notice or before maintenance. `POST /v1/hooks/drain`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DrainHook {
    /// How long handing over may take, in seconds from now; `shutdown_deadline` of the configuration if
    /// absent.
    #[serde(alias = "deadline")]
    pub deadline_seconds: Option<f64>,
}

/// How a node left the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrainReport {
    /// Bytes that it alone held when it was told, as far as it knew, and others wanted.
    pub alone_bytes: u64,
    /// What of that nobody had taken at the deadline: the origin is read again for it.
    pub left_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// An artifact on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactInfo {
    /// The blueprint's hash: the artifact's name here.
    pub swarm: String,
    /// The manifest's hash, once sealed.
    pub manifest: Option<String>,
    /// Where it came from.
    pub reference: String,
    /// The commit or version.
    pub revision: Option<String>,
    /// Whether every wanted file has its path, and the manifest is written if all of it is here.
    pub complete: bool,
    /// Size of the wanted files.
    pub total_bytes: u64,
    /// Bytes here.
    pub done_bytes: u64,
    /// Bytes that take disk space of their own.
    pub disk_bytes: u64,
    /// Bytes in the page cache now; absent unless asked for.
    pub resident_bytes: Option<u64>,
    /// Files wanted.
    pub files: u64,
    /// Files that this version has: more than are wanted where patterns left some out. 0 from agents that do not say.
    #[serde(default)]
    pub all_files: u64,
    /// Kept from eviction by request.
    pub pinned: bool,
    /// Readers that keep it from eviction now.
    pub leases: u64,
    /// When it was last pulled or read.
    pub last_used: u64,
    /// Where it is, once complete.
    #[schema(value_type = Option<String>)]
    pub path: Option<PathBuf>,
}

/// What is here of one file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldFile {
    /// The file, within the artifact.
    pub path: String,
    /// Its size.
    pub size: u64,
    /// Verified bytes that are here: first, and the one after the last; ascending, apart from each other.
    pub ranges: Vec<(u64, u64)>,
}

/// Asks to hash an artifact again. `POST /v1/verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// Reference, swarm id or manifest hash.
    pub reference: String,
    /// Fetch again what is wrong.
    #[serde(default)]
    pub repair: bool,
}

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VerifyReport {
    /// Where it came from.
    pub reference: String,
    /// Chunks re-hashed.
    pub chunks: u64,
    /// Bytes re-hashed.
    pub bytes: u64,
    /// Chunks that did not have their hash; those found by an earlier look and not fetched again since included.
    /// None of the files that are `lost`.
    pub corrupt: Vec<CorruptChunk>,
    /// Of these, fetched again and right now.
    pub repaired: u64,
    /// Files that somebody else removed from the disk or replaced.
    #[serde(default)]
    pub lost: Vec<String>,
    /// Of these, back where they belong.
    #[serde(default)]
    pub restored: u64,
    /// Chunks that were asked for and have not come yet: neither hashed nor fetched.
    #[serde(default)]
    pub not_here_chunks: u64,
    /// Their bytes.
    #[serde(default)]
    pub not_here_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What `publish` wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishReport {
    /// As it was asked.
    pub reference: String,
    /// The blueprint's hash.
    pub swarm: String,
    /// The manifest's hash: the artifact's name.
    pub manifest: String,
    /// Where the manifest is now.
    pub written_to: String,
    /// Size of the manifest.
    pub bytes: u64,
    /// Chunks it names.
    pub chunks: u64,
    /// Size of the model.
    pub total_bytes: u64,
}

/// One chunk that did not have its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CorruptChunk {
    /// Path within the artifact.
    pub path: String,
    /// First byte within the file.
    pub offset: u64,
    /// Length.
    pub bytes: u32,
    /// The hash it should have; empty where that is not known any more.
    pub hash: String,
}

/// A member as this node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// The node.
    #[schema(value_type = String)]
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its QUIC address.
    pub addr: String,
    /// Its zone.
    pub zone: String,
    /// Its weight on the ring, 100 being one share.
    pub weight: u16,
    /// `alive`, `suspect` or `down`.
    pub state: String,
    /// Whether it is this node.
    pub me: bool,
}

/// The agent in one glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Product version.
    pub version: String,
    /// This node.
    pub node: Member,
    /// Whether it is leaving the cluster, or has left: it pulls nothing more.
    #[serde(default)]
    pub leaving: bool,
    /// Live members, this one included.
    pub members: usize,
    /// Why seeds could not be reached when they were last tried, where they could not.
    #[serde(default)]
    pub seed_errors: Vec<Problem>,
    /// The data directory.
    #[schema(value_type = String)]
    pub data_dir: PathBuf,
    /// Bytes artifacts take on disk.
    pub used_bytes: u64,
    /// The most they may take.
    pub quota_bytes: u64,
    /// Bytes free on the file system.
    pub free_bytes: u64,
    /// Artifacts here.
    pub artifacts: Vec<ArtifactInfo>,
    /// Pulls under way.
    pub pulls: Vec<PullStatus>,
    /// Totals since start.
    pub totals: Sources,
    /// What this node's traffic has cost since start.
    #[serde(default)]
    pub cost: Cost,
    /// Bytes served to other nodes since start.
    pub served_bytes: u64,
    /// Resident memory of the agent.
    pub rss_bytes: u64,
    /// Since start.
    pub uptime_seconds: f64,
}

/// The most payload bytes a second, all transfers together; 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Served to others.
    pub max_upload_bytes: u64,
    /// Asked of others and read from origins.
    pub max_download_bytes: u64,
}

/// New limits; what is left out stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitChange {
    /// Served to others; 0: no limit.
    pub max_upload_bytes: Option<u64>,
    /// Asked of others and read from origins; 0: no limit.
    pub max_download_bytes: Option<u64>,
}

/// Names an artifact in a body or query: reference, swarm id or manifest hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Reference, swarm id or manifest hash.
    pub reference: String,
}

/// Where an artifact is of which every file that was asked for is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathAnswer {
    /// As it was asked.
    pub reference: String,
    /// The directory.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// The file in it, where the reference names a file and not a folder.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub file: Option<PathBuf>,
    /// Files that were asked for, and are here.
    #[serde(default)]
    pub files: u64,
    /// As in [`ArtifactInfo`].
    #[serde(default)]
    pub all_files: u64,
}
