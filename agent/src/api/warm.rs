//! Warm-ups as they are asked for and told about: one node has others pull.

use coordinatorless_p2p::NodeId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Deadline, Phase, Priority, Problem};

/// Which nodes a warm-up is for. Exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Every live member.
    #[serde(default)]
    pub all: bool,
    /// This many: those that have most of it, among equals those that the ring names for it, so that asking
    /// again means the same ones.
    #[serde(default)]
    pub nodes: Option<usize>,
    /// Every live member of this zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// Exactly these, by id (or its first digits) or name.
    #[serde(default)]
    pub ids: Vec<String>,
}

/// Asks other nodes to pull.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmRequest {
    /// As in [`PullRequest`](super::PullRequest).
    pub reference: String,
    /// Whom.
    pub selector: Selector,
    /// As in [`PullRequest`](super::PullRequest).
    #[serde(default)]
    pub allow_patterns: Vec<String>,
    /// As in [`PullRequest`](super::PullRequest).
    #[serde(default)]
    pub ignore_patterns: Vec<String>,
    /// How many must have it for the job to count as done; absent: all chosen.
    #[serde(default)]
    pub min_ready: Option<usize>,
    /// Give up after this long; absent: never.
    #[serde(default)]
    pub timeout_seconds: Option<f64>,
    /// Read the files into the page cache on each node.
    #[serde(default)]
    pub prefault: bool,
    /// As in [`PullRequest`](super::PullRequest).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub priority: Option<Priority>,
    /// As in [`PullRequest`](super::PullRequest).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub deadline: Option<Deadline>,
}

/// An autoscaler says that replicas are about to start. `POST /v1/hooks/scale`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleHook {
    /// The model they will serve.
    #[serde(alias = "ref")]
    pub reference: String,
    /// How many nodes; exclusive with `selector`.
    #[serde(default)]
    pub count: Option<usize>,
    /// Which nodes; exclusive with `count`.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// When the replicas will want it: seconds from now, `"10m"`, or a moment as in RFC 3339. The pulls of all
    /// nodes have this deadline, and are given up once it has passed.
    #[serde(default, alias = "deadline_seconds")]
    #[schema(value_type = Option<String>)]
    pub deadline: Option<Deadline>,
    /// As in [`PullRequest`](super::PullRequest).
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub priority: Option<Priority>,
}

/// How a warm-up is getting on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WarmStatus {
    /// The job's name on the agent that was asked.
    pub id: String,
    /// As it was asked.
    pub reference: String,
    /// `running`, `complete`, `failed` (fewer than `min_ready` can still get there) or `cancelled`.
    pub state: JobState,
    /// How many must have it.
    pub min_ready: usize,
    /// How many have it.
    pub ready: usize,
    /// Each chosen node.
    pub nodes: Vec<WarmNode>,
    /// Time since the job was asked for.
    pub elapsed_seconds: f64,
    /// What went wrong, in words, when failed.
    pub error: Option<Problem>,
    /// How much it matters.
    #[serde(default)]
    #[schema(value_type = String)]
    pub priority: Priority,
    /// When it is needed, if somebody said so.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub deadline: Option<Deadline>,
}

/// Where a job of several nodes stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Under way.
    Running,
    /// What was asked for is true.
    Complete,
    /// It cannot become true any more.
    Failed,
    /// Ended by request.
    Cancelled,
}

/// One node of a warm-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WarmNode {
    /// The node.
    #[schema(value_type = String)]
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Where its pull stands.
    pub phase: Phase,
    /// Bytes wanted there.
    pub total_bytes: u64,
    /// Bytes there.
    pub done_bytes: u64,
    /// Smoothed rate there of the last seconds.
    #[serde(default)]
    pub bytes_per_second: f64,
    /// Best guess of the time left there; absent while there is none.
    #[serde(default)]
    pub eta_seconds: Option<f64>,
    /// What went wrong there.
    pub error: Option<Problem>,
}
