//! Answers for people: each a pure function from the data to text.
//!
//! `width` is the terminal's; without one (a pipe) nothing is wrapped, so that a row stays a line.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use emberline_agent::api::{
    ArtifactInfo, Cost, JobState, Member, Plan, Priority, PublishReport, Status, VerifyReport, WarmStatus,
};

use super::progress::{phase_word, sources};
use crate::units;

/// Files that a plan shows before it only counts them.
const SHOWN_FILES: usize = 20;
/// Corrupt chunks that a report shows before it only counts them.
const SHOWN_CHUNKS: usize = 20;

/// A table without lines; columns named in `right` hold numbers.
pub fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    if width.is_none() {
        table.force_no_tty();
    }
    table.add_rows(rows);
    let last = header.len().saturating_sub(1);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if i == last { 0 } else { 2 }));
        if right.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// What is on a disk.
pub fn artifacts(artifacts: &[ArtifactInfo], width: Option<u16>) -> String {
    if artifacts.is_empty() {
        return "nothing here yet; bring something with `preload pull REF`".to_owned();
    }
    let now = SystemTime::now();
    let resident = artifacts.iter().any(|a| a.resident_bytes.is_some());
    let mut header = vec!["REFERENCE", "REVISION", "SIZE", "HERE", "FLAGS", "USED"];
    if resident {
        header.push("IN MEMORY");
    }
    let rows = artifacts.iter().map(|a| artifact_row(a, resident, now)).collect();
    table(&header, &[2, 3, 5, 6], rows, width)
}

fn artifact_row(a: &ArtifactInfo, resident: bool, now: SystemTime) -> Vec<String> {
    let mut flags = Vec::new();
    if a.pinned {
        flags.push("pinned".to_owned());
    }
    if a.leases > 0 {
        flags.push(units::count(a.leases, "lease"));
    }
    let here = match a.complete {
        true if a.files < a.all_files => format!("{} of {}", a.files, units::count(a.all_files, "file")),
        true => "whole".to_owned(),
        false => units::percent(a.done_bytes, a.total_bytes),
    };
    let mut row = vec![
        a.reference.clone(),
        a.revision.as_deref().map(short).unwrap_or_default(),
        units::bytes(a.total_bytes),
        here,
        flags.join(", "),
        ago(a.last_used, now),
    ];
    if resident {
        row.push(a.resident_bytes.map(|r| units::percent(r, a.total_bytes)).unwrap_or_default());
    }
    row
}

/// The members that a node sees.
pub fn members(members: &[Member], width: Option<u16>) -> String {
    let rows = members
        .iter()
        .map(|m| {
            let name = if m.me { format!("{} (this one)", m.name) } else { m.name.clone() };
            vec![name, m.id.short(), m.addr.clone(), m.zone.clone(), m.weight.to_string(), m.state.clone()]
        })
        .collect();
    table(&["NAME", "ID", "ADDRESS", "ZONE", "WEIGHT", "STATE"], &[4], rows, width)
}

/// What a pull would do.
pub fn plan(plan: &Plan, width: Option<u16>) -> String {
    let revision = plan.revision.as_deref().map(|r| format!(" at {}", short(r))).unwrap_or_default();
    let (files, chunks) = (units::count(plan.files.len() as u64, "file"), units::count(plan.chunks, "chunk"));
    let mut text =
        format!("{}{revision}: {} in {files}, {chunks}\n\n", plan.reference, units::bytes(plan.total_bytes),);
    if let Some(why) = &plan.stale_reason {
        text += &format!("  not of now: {why}\n\n");
    }
    let peers = format!("from {}", units::count(plan.peers as u64, "neighbour"));
    let rows = [
        ("here already", plan.local_bytes),
        ("here under another name", plan.reusable_bytes),
        (peers.as_str(), plan.peer_bytes),
        ("from the origin", plan.origin_bytes),
    ];
    for (what, bytes) in rows {
        text += &format!("  {what:<24} {:>10}\n", units::bytes(bytes));
    }
    if plan.cost.cross_zone_bytes > 0 {
        let bytes = units::bytes(plan.cost.cross_zone_bytes);
        text += &format!("  {:<24} {bytes:>10}\n", "across a zone's border");
    }
    if let Some(money) = &plan.cost.money {
        text += &format!("  {:<24} {:>10}\n", "costs", units::money(money.total, &money.currency));
    }
    let expected = match plan.estimated_seconds {
        Some(seconds) => units::seconds(seconds),
        None => "not measured yet".to_owned(),
    };
    let hashes = if plan.manifest_known { "from the manifest" } else { "learned on the way" };
    text += &format!("  {:<24} {expected:>10}\n  {:<24} {hashes:>10}\n\n", "expected time", "chunk hashes");
    let rows = plan
        .files
        .iter()
        .take(SHOWN_FILES)
        .map(|f| vec![f.path.clone(), units::bytes(f.bytes), units::percent(f.local_bytes, f.bytes)])
        .collect();
    text += &table(&["FILE", "SIZE", "HERE"], &[1, 2], rows, width);
    if plan.files.len() > SHOWN_FILES {
        text += &format!("\n… and {} more; --json lists all", plan.files.len() - SHOWN_FILES);
    }
    text
}

/// How a warm-up got on.
pub fn warm(status: &WarmStatus, width: Option<u16>) -> String {
    let rows = status
        .nodes
        .iter()
        .map(|n| {
            let state = match &n.error {
                Some(problem) => format!("{}: {}", phase_word(n.phase), problem.message),
                None => phase_word(n.phase).to_owned(),
            };
            let here =
                if n.total_bytes == 0 { String::new() } else { units::percent(n.done_bytes, n.total_bytes) };
            vec![n.name.clone(), n.id.short(), n.zone.clone(), here, state]
        })
        .collect();
    let state = match status.state {
        JobState::Running => "under way",
        JobState::Complete => "complete",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    };
    format!(
        "{}\n\n{} {state}: {} ready, {} needed, after {}",
        table(&["NODE", "ID", "ZONE", "HERE", "STATE"], &[3], rows, width),
        status.id,
        units::count(status.ready as u64, "node"),
        status.min_ready,
        units::seconds(status.elapsed_seconds),
    )
}

/// What re-hashing found.
pub fn verify(report: &VerifyReport, width: Option<u16>) -> String {
    let mut text = format!(
        "{}\n  {} in {} re-hashed in {}: ",
        report.reference,
        units::bytes(report.bytes),
        units::count(report.chunks, "chunk"),
        units::seconds(report.seconds)
    );
    text += &match report.corrupt.len() {
        0 if report.lost.is_empty() => "all as they should be".to_owned(),
        0 => "these are as they should be".to_owned(),
        wrong => format!("{wrong} corrupt, {} repaired", report.repaired),
    };
    if let Some(first) = report.lost.first() {
        let more = report.lost.len() - 1;
        let others =
            if more > 0 { format!(" and {}", units::count(more as u64, "other")) } else { String::new() };
        let gone = report.lost.len();
        text += &format!(
            "\n  removed or replaced on the disk: {first}{others}, {} of {gone} restored",
            report.restored
        );
    }
    if report.not_here_chunks > 0 {
        let left = units::count(report.not_here_chunks, "chunk");
        let bytes = units::bytes(report.not_here_bytes);
        text += &format!("\n  {bytes} in {left} not here yet: `preload pull` brings them");
    }
    if report.corrupt.is_empty() {
        return text;
    }
    text += "\n\n";
    let rows = report
        .corrupt
        .iter()
        .take(SHOWN_CHUNKS)
        .map(|c| vec![c.path.clone(), c.offset.to_string(), units::bytes(c.bytes.into()), short(&c.hash)])
        .collect();
    text += &table(&["FILE", "OFFSET", "SIZE", "SHOULD BE"], &[1, 2], rows, width);
    if report.corrupt.len() > SHOWN_CHUNKS {
        text += &format!("\n… and {} more; --json lists all", report.corrupt.len() - SHOWN_CHUNKS);
    }
    text
}

/// Where a manifest was written.
pub fn publish(report: &PublishReport) -> String {
    format!(
        "{}\n  manifest {} of {} in {} ({})",
        report.written_to,
        short(&report.manifest),
        units::bytes(report.total_bytes),
        units::count(report.chunks, "chunk"),
        units::bytes(report.bytes)
    )
}

/// The agent in one glance.
pub fn status(status: &Status, width: Option<u16>) -> String {
    let node = &status.node;
    let zone = if node.zone.is_empty() { String::new() } else { format!(", zone {}", node.zone) };
    let used = units::percent(status.used_bytes, status.quota_bytes);
    let disk = format!(
        "{} of {} used ({used}), {} free",
        units::bytes(status.used_bytes),
        units::bytes(status.quota_bytes),
        units::bytes(status.free_bytes)
    );
    let rows = [
        ("node", format!("{} ({}){zone}", node.name, node.id.short())),
        ("agent", format!("{}, up for {}", status.version, units::seconds(status.uptime_seconds))),
        ("members", members_of(status)),
        ("memory", units::bytes(status.rss_bytes)),
        ("data", status.data_dir.display().to_string()),
        ("disk", disk),
        ("brought in", sources(&status.totals)),
        ("from afar", cost(&status.cost)),
        ("served", units::bytes(status.served_bytes)),
    ];
    let mut text: String = rows.iter().map(|(what, value)| format!("{what:<11} {value}\n")).collect();
    if let Some(lonely) = lonely(status) {
        text += &format!("\n{lonely}\n");
    }
    let running: Vec<_> = status.pulls.iter().filter(|p| !p.phase.is_over()).collect();
    if !running.is_empty() {
        let ranked = running.iter().any(|p| p.priority != Priority::default() || p.deadline.is_some());
        let rows = running
            .iter()
            .map(|p| {
                let here = units::percent(p.done_bytes, p.total_bytes.max(1));
                let left = p.eta_seconds.map(units::seconds).unwrap_or_default();
                let rate = units::rate(p.bytes_per_second);
                let mut row = vec![p.reference.clone(), phase_word(p.phase).to_owned(), here, rate, left];
                if ranked {
                    let needed = p.deadline.map(|at| units::until(at.left())).unwrap_or_default();
                    row.extend([p.priority.to_string(), needed]);
                }
                row
            })
            .collect();
        let mut header = vec!["PULL", "PHASE", "HERE", "RATE", "LEFT"];
        if ranked {
            header.extend(["PRIORITY", "NEEDED"]);
        }
        text += &format!("\n{}\n", table(&header, &[2, 3, 4], rows, width));
    }
    format!("{text}\n{}", artifacts(&status.artifacts, width))
}

/// What came from outside of this machine and its zone, and what that cost.
fn cost(cost: &Cost) -> String {
    let money = cost.money.as_ref().map(|m| format!(": {}", units::money(m.total, &m.currency)));
    format!(
        "origins {}, other zones {}{}",
        units::bytes(cost.origin_bytes),
        units::bytes(cost.cross_zone_bytes),
        money.unwrap_or_default()
    )
}

fn members_of(status: &Status) -> String {
    format!("{}{}", status.members, if status.leaving { ", and this one leaves" } else { "" })
}

/// Why a node has no company, where it was told of others and the reason is known.
pub fn lonely(status: &Status) -> Option<String> {
    if status.members > 1 || status.seed_errors.is_empty() {
        return None;
    }
    let reasons: Vec<String> = status.seed_errors.iter().map(|p| format!("\n  {}", p.message)).collect();
    Some(format!("this node is alone; its seeds could not be joined when last tried:{}", reasons.concat()))
}

/// The first digits of a hash or commit; a name that is none stays whole.
fn short(hash: &str) -> String {
    let is_hash = hash.len() >= 32 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hash { hash[..12].to_owned() } else { hash.to_owned() }
}

fn ago(epoch_seconds: u64, now: SystemTime) -> String {
    let then = UNIX_EPOCH.checked_add(Duration::from_secs(epoch_seconds));
    match then.and_then(|then| now.duration_since(then).ok()) {
        Some(age) if age.as_secs() == 0 => "just now".to_owned(),
        Some(age) => format!("{} ago", units::seconds(age.as_secs() as f64)),
        None => "just now".to_owned(),
    }
}

#[cfg(test)]
mod tests;
