//! Progress of pulls and warm-ups: bars, lines, JSON, or nothing.
//!
//! What a line says is pure ([`line()`], [`sources`]), so is when a plain line is due (`Due`). Each row
//! is known by its label and the id of its job or node; rows appear in the order in which they were first heard of.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use emberline_agent::api::{Phase, PullStatus, Sources, WarmNode, WarmStatus};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::units;

/// How often an unchanged phase is worth another plain line.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Columns that a label takes before a bar.
const LABEL_COLUMNS: usize = 14;
/// Columns of a bar. Label, bar and the longest line make 80.
const BAR_COLUMNS: usize = 10;

/// Columns of the name of an origin.
const ORIGIN_COLUMNS: usize = 24;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// On a terminal.
    Bars,
    /// Off a terminal.
    Plain,
    /// For machines.
    Json,
    /// Not at all.
    Silent,
}

/// Shows how several pulls get on.
pub struct Progress {
    style: Style,
    bars: MultiProgress,
    rows: Vec<Row>,
}

struct Row {
    id: String,
    label: String,
    due: Due,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Nothing to show yet.
    pub fn new(style: Style) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { style, bars, rows: Vec::new() }
    }

    /// Shows where the pull called `label` stands.
    pub fn pull(&mut self, label: &str, status: &PullStatus) {
        if self.style == Style::Json {
            return json_line(status);
        }
        let fraction = (status.done_bytes, status.total_bytes);
        self.row((&status.id, label), status.phase, fraction, || (line(status), detail(status)));
    }

    /// Shows where every node of a warm-up stands.
    pub fn warm(&mut self, status: &WarmStatus) {
        if self.style == Style::Json {
            return json_line(status);
        }
        if status.nodes.is_empty() {
            let text = || ("asking who has how much of it".to_owned(), String::new());
            return self.row((&status.id, "warm-up"), Phase::Resolving, (0, 0), text);
        }
        if let Some(at) = self.rows.iter().position(|row| row.id == status.id)
            && let Some(bar) = self.rows.remove(at).bar
        {
            bar.finish_and_clear();
        }
        for node in &status.nodes {
            let fraction = (node.done_bytes, node.total_bytes);
            let row = (node.id.to_string(), node.name.as_str());
            self.row((&row.0, row.1), node.phase, fraction, || (node_line(node), String::new()));
        }
    }

    /// Leaves the last state on the screen and lets go of it.
    pub fn finish(&mut self) {
        for row in &mut self.rows {
            if let Some(bar) = row.bar.take() {
                bar.abandon();
            }
        }
    }

    fn row(
        &mut self,
        (id, label): (&str, &str),
        phase: Phase,
        (done, total): (u64, u64),
        text: impl FnOnce() -> (String, String),
    ) {
        if self.style == Style::Silent {
            return;
        }
        let (style, bars) = (self.style, &self.bars);
        let index =
            self.rows.iter().position(|row| row.id == id && row.label == label).unwrap_or_else(|| {
                let bar = (style == Style::Bars).then(|| bars.add(new_bar(label)));
                self.rows.push(Row { id: id.to_owned(), label: label.to_owned(), due: Due::default(), bar });
                self.rows.len() - 1
            });
        let row = &mut self.rows[index];
        if let Some(bar) = &row.bar {
            let (line, detail) = text();
            bar.set_length(total.max(1));
            bar.set_position(if phase == Phase::Complete { total.max(1) } else { done });
            bar.set_message(if detail.is_empty() { line } else { format!("{line}\n{detail}") });
            if phase.is_over() {
                bar.abandon();
            }
        } else if row.due.is_due(phase, Instant::now()) {
            let (line, detail) = text();
            let percent = match phase {
                Phase::Fetching => format!("{}, ", units::percent(done, total)),
                _ => String::new(),
            };
            let detail = if detail.is_empty() { detail } else { format!("; {}", detail.trim()) };
            let _ = writeln!(io::stderr().lock(), "{label}: {percent}{line}{detail}");
        }
    }
}

fn new_bar(label: &str) -> ProgressBar {
    let template = format!("{{prefix:{LABEL_COLUMNS}}} {{bar:{BAR_COLUMNS}}} {{msg}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(1).with_style(style.progress_chars("━╸─"));
    bar.set_prefix(shortened(label, LABEL_COLUMNS));
    bar
}

/// Decides when a plain line is due: when the phase changes, and from time to time.
#[derive(Debug, Default)]
struct Due {
    last: Option<(Phase, Instant)>,
}

impl Due {
    fn is_due(&mut self, phase: Phase, now: Instant) -> bool {
        let due = self.last.is_none_or(|(before, at)| before != phase || now - at >= PLAIN_EVERY);
        if due {
            self.last = Some((phase, now));
        }
        due
    }
}

fn json_line(value: &impl Serialize) {
    if let Ok(mut line) = serde_json::to_vec(value) {
        line.push(b'\n');
        let _ = io::stderr().lock().write_all(&line);
    }
}

/// Where a pull stands, in one line.
pub fn line(status: &PullStatus) -> String {
    let word = phase_word(status.phase);
    let (done, total) = (status.done_bytes, status.total_bytes);
    match status.phase {
        Phase::Resolving if status.elapsed_seconds < 1.0 => word.to_owned(),
        Phase::Resolving => {
            let origin = shortened(origin_of(&status.reference), ORIGIN_COLUMNS);
            format!("{word}: asking {origin} for {}", units::seconds(status.elapsed_seconds.floor()))
        }
        Phase::Preparing | Phase::Publishing => format!("{word} {}", units::bytes(total)),
        Phase::Fetching => {
            // What came before is no rate at which the rest comes.
            let comes = status.quiet_seconds.is_none();
            let (rate, eta) = if comes { (status.bytes_per_second, status.eta_seconds) } else { (0.0, None) };
            fetched((done, total), rate, eta)
        }
        Phase::Complete => {
            let stale = match &status.stale_reason {
                Some(why) => format!(", from before: {why}"),
                None if status.stale => ", from before: the origin is out of reach".to_owned(),
                None => String::new(),
            };
            format!("{word}: {} in {}{stale}", units::bytes(total), units::seconds(status.elapsed_seconds))
        }
        // The reason is the command's to tell, once.
        Phase::Failed => word.to_owned(),
        Phase::Cancelled => format!("{word} at {} of {}", units::bytes(done), units::bytes(total)),
    }
}

/// The second line of a pull: sources and neighbours, once there is something to tell; or for how long
/// nothing has come, and why.
fn detail(status: &PullStatus) -> String {
    let throttle = status.throttle.as_ref();
    if status.phase == Phase::Resolving {
        return throttle.map(|throttle| format!("    {throttle}")).unwrap_or_default();
    }
    let told = matches!(status.phase, Phase::Fetching | Phase::Publishing | Phase::Complete);
    if !told {
        return String::new();
    }
    if let Some(quiet) = status.quiet_seconds {
        if let Some(throttle) = throttle {
            return format!("    nothing new for {}: {throttle}", units::seconds(quiet.floor()));
        }
        let whom = if status.peers == 0 { "the origin" } else { "neighbours or the origin" };
        return format!("    nothing new from {whom} for {}", units::seconds(quiet.floor()));
    }
    let peers = match status.phase {
        Phase::Fetching => format!(", {}", units::count(status.peers as u64, "neighbour")),
        _ => String::new(),
    };
    format!("    {}{peers}", sources(&status.sources))
}

/// Bytes by where they came from.
pub fn sources(sources: &Sources) -> String {
    let Sources { origin, peers, reused, wasted, hedged: _ } = *sources;
    let mut text = format!(
        "origin {}, peers {}, disk {}",
        units::bytes(origin),
        units::bytes(peers),
        units::bytes(reused)
    );
    if wasted > 0 {
        text += &format!(", in vain {}", units::bytes(wasted));
    }
    text
}

fn node_line(node: &WarmNode) -> String {
    let word = phase_word(node.phase);
    match (&node.error, node.phase) {
        (Some(problem), _) => format!("{word}: {}", problem.message),
        (None, Phase::Fetching) => {
            fetched((node.done_bytes, node.total_bytes), node.bytes_per_second, node.eta_seconds)
        }
        (None, _) => word.to_owned(),
    }
}

/// `10.0 MiB of 20.0 MiB, 5.0 MiB/s, 2.00 s left`, as far as it is known.
fn fetched((done, total): (u64, u64), bytes_per_second: f64, eta_seconds: Option<f64>) -> String {
    let mut line = format!("{} of {}", units::bytes(done), units::bytes(total));
    let rate = units::rate(bytes_per_second);
    if !rate.is_empty() {
        line += &format!(", {rate}");
    }
    if let Some(eta) = eta_seconds {
        line += &format!(", {} left", units::seconds(eta));
    }
    line
}

/// Who is asked what a reference stands for: its bucket, repository or host.
pub(crate) fn origin_of(reference: &str) -> &str {
    let Some((scheme, rest)) = reference.split_once("://") else { return reference };
    let parts = if scheme == "hf" { 2 } else { 1 };
    match rest.match_indices('/').nth(parts - 1) {
        Some((end, _)) if end > 0 => &reference[..scheme.len() + 3 + end],
        Some(_) | None => reference,
    }
}

/// A phase as people read it.
pub fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolving => "resolving",
        Phase::Preparing => "preparing",
        Phase::Fetching => "fetching",
        Phase::Publishing => "publishing",
        Phase::Complete => "complete",
        Phase::Failed => "failed",
        Phase::Cancelled => "cancelled",
    }
}

/// `text` in at most `columns` characters: the end of a name, which is where models differ; both ends of a path,
/// which is only shown where the names alone are the same.
fn shortened(text: &str, columns: usize) -> String {
    let count = text.chars().count();
    if count <= columns {
        return text.to_owned();
    }
    let kept = columns.saturating_sub(1);
    let head = if text.contains('/') { kept / 2 } else { 0 };
    let start: String = text.chars().take(head).collect();
    let tail: String = text.chars().skip(count - (kept - head)).collect();
    format!("{start}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::pull;

    fn fetching() -> PullStatus {
        PullStatus {
            total_bytes: 512 << 20,
            done_bytes: 123 << 20,
            bytes_per_second: 98.2 * 1048576.0,
            eta_seconds: Some(3.96),
            peers: 3,
            sources: Sources { origin: 60 << 20, peers: 63 << 20, reused: 0, wasted: 0, hedged: 0 },
            ..pull(Phase::Fetching, 0)
        }
    }

    fn node(phase: Phase) -> WarmNode {
        WarmNode {
            id: coordinatorless_p2p::NodeId([1; 16]),
            name: "gpu-7".to_owned(),
            zone: String::new(),
            phase,
            total_bytes: 512 << 20,
            done_bytes: 128 << 20,
            bytes_per_second: 96.0 * 1048576.0,
            eta_seconds: Some(4.0),
            error: None,
        }
    }

    #[test]
    fn a_pull_under_way_tells_bytes_rate_time_left_and_sources() {
        let status = fetching();
        assert_eq!(line(&status), "123.0 MiB of 512.0 MiB, 98.2 MiB/s, 3.96 s left");
        assert_eq!(detail(&status).trim(), "origin 60.0 MiB, peers 63.0 MiB, disk 0 B, 3 neighbours");
    }

    #[test]
    fn a_bar_and_its_lines_fit_eighty_columns() {
        let most = 1023 << 20;
        let widest = PullStatus {
            total_bytes: most,
            done_bytes: most,
            bytes_per_second: most as f64,
            eta_seconds: Some(3599.0),
            sources: Sources { origin: most, peers: most, reused: most, wasted: 0, hedged: 0 },
            ..fetching()
        };
        assert!(LABEL_COLUMNS + 1 + BAR_COLUMNS + 1 + line(&widest).chars().count() <= 80);
        assert!(detail(&widest).chars().count() <= 80);
    }

    #[test]
    fn silence_is_told_with_its_length_and_whom_it_is_of() {
        let silent = PullStatus { quiet_seconds: Some(12.7), peers: 0, ..fetching() };
        assert_eq!(detail(&silent).trim(), "nothing new from the origin for 12 s");
        assert!(!line(&silent).contains("left"));
        assert_eq!(line(&silent), "123.0 MiB of 512.0 MiB", "there is no rate while nothing comes");
        let why = "the origin throttles (429), asked again in 300 s";
        let throttled = PullStatus { throttle: Some(why.to_owned()), ..silent.clone() };
        assert_eq!(detail(&throttled).trim(), format!("nothing new for 12 s: {why}"));
        let asked = PullStatus { phase: Phase::Resolving, ..throttled.clone() };
        assert_eq!(detail(&asked).trim(), why);
        let longest = PullStatus { quiet_seconds: Some(3599.0), ..throttled };
        assert!(detail(&longest).chars().count() <= 80, "{}", detail(&longest));
        let among_others = PullStatus { peers: 2, ..silent };
        assert!(detail(&among_others).contains("neighbours or the origin"));
    }

    #[test]
    fn resolving_says_who_is_asked_and_for_how_long() {
        let at = |reference: &str, elapsed_seconds| {
            let status = PullStatus { elapsed_seconds, ..pull(Phase::Resolving, 0) };
            line(&PullStatus { reference: reference.to_owned(), ..status })
        };
        assert_eq!(at("s3://models/a/b", 0.3), "resolving");
        assert_eq!(at("s3://models/a/b", 12.4), "resolving: asking s3://models for 12 s");
        assert_eq!(at("hf://org/name@main", 5.0), "resolving: asking hf://org/name@main for 5.00 s");
        assert_eq!(at("http://host:1/a/b/", 5.0), "resolving: asking http://host:1 for 5.00 s");
        let longest = at(&format!("s3://{}/x", "b".repeat(63)), 3599.0);
        assert!(LABEL_COLUMNS + 1 + BAR_COLUMNS + 1 + longest.chars().count() <= 80, "{longest}");
    }

    #[test]
    fn a_node_of_a_warm_up_tells_its_rate_and_time_left_and_no_share_beside_the_bar() {
        assert_eq!(node_line(&node(Phase::Fetching)), "128.0 MiB of 512.0 MiB, 96.0 MiB/s, 4.00 s left");
    }

    #[test]
    fn two_pulls_of_one_name_are_two_rows() {
        let mut progress = Progress::new(Style::Plain);
        let status = |id: &str| PullStatus { id: id.to_owned(), ..pull(Phase::Resolving, 0) };
        for id in ["p1", "p2", "p1"] {
            progress.pull("llama", &status(id));
        }
        assert_eq!(progress.rows.len(), 2);
    }

    #[test]
    fn a_warm_up_that_still_chooses_its_nodes_has_a_row_until_it_has_chosen() {
        let mut progress = Progress::new(Style::Plain);
        let mut status = WarmStatus {
            id: "w1".to_owned(),
            reference: "s3://b/p".to_owned(),
            state: emberline_agent::api::JobState::Running,
            min_ready: 1,
            ready: 0,
            nodes: Vec::new(),
            elapsed_seconds: 0.0,
            error: None,
            priority: Default::default(),
            deadline: None,
        };
        progress.warm(&status);
        assert_eq!(progress.rows.len(), 1, "8 s of silence otherwise");
        status.nodes.push(node(Phase::Resolving));
        progress.warm(&status);
        let labels: Vec<&str> = progress.rows.iter().map(|row| row.label.as_str()).collect();
        assert_eq!(labels, ["gpu-7"]);
    }

    #[test]
    fn a_failed_pull_leaves_its_reason_to_the_command() {
        let error = emberline_agent::api::Problem {
            kind: "denied".to_owned(),
            message: "the reason".to_owned(),
            advice: None,
            retry_after_seconds: None,
        };
        let failed = PullStatus { error: Some(error), ..pull(Phase::Failed, 0) };
        assert_eq!(line(&failed), "failed");
    }

    #[test]
    fn the_end_of_a_pull_says_how_it_ended() {
        let complete = PullStatus { total_bytes: 1 << 20, elapsed_seconds: 1.42, ..pull(Phase::Complete, 0) };
        assert_eq!(line(&complete), "complete: 1.0 MiB in 1.42 s");
        let stale = PullStatus { stale: true, ..complete.clone() };
        assert!(line(&stale).contains("origin is out of reach"));
        let why = Some("the origin of http://host/ did not answer in 2 s".to_owned());
        let stale = PullStatus { stale_reason: why, ..stale };
        assert!(line(&stale).ends_with("from before: the origin of http://host/ did not answer in 2 s"));
        assert_eq!(line(&pull(Phase::Cancelled, 40)), "cancelled at 40 B of 100 B");
    }

    #[test]
    fn plain_lines_come_with_a_new_phase_or_after_a_while() {
        let (mut due, start) = (Due::default(), Instant::now());
        assert!(due.is_due(Phase::Resolving, start));
        assert!(!due.is_due(Phase::Resolving, start));
        assert!(due.is_due(Phase::Fetching, start));
        assert!(!due.is_due(Phase::Fetching, start + PLAIN_EVERY / 2));
        assert!(due.is_due(Phase::Fetching, start + PLAIN_EVERY));
    }

    #[test]
    fn a_long_label_keeps_its_end() {
        assert_eq!(shortened("llama-3-8b", 8), "…ma-3-8b");
        assert_eq!(shortened("s3://bucket/llama", 8), "s3:…lama");
        assert_eq!(shortened("llama", 8), "llama");
    }
}
