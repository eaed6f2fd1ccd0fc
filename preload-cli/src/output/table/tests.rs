//! What people see, at 80 columns, as it must stay.

use coordinatorless_p2p::NodeId;
use emberline_agent::api::{CorruptChunk, Money, Phase, PlannedFile, Problem, PullStatus, Sources, WarmNode};

use super::*;
use crate::client::tests::pull;

const WIDTH: Option<u16> = Some(80);

/// Escape sequences for bold headers depend on the terminal, the text does not.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain += before;
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain + rest
}

fn assert_shows(text: &str, expected: &str) {
    let text = plain(text);
    assert_eq!(text.trim_end(), expected.trim_matches('\n'), "\n{text}\n");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line}");
    }
}

fn member(name: &str, me: bool) -> Member {
    Member {
        id: NodeId([0xab; 16]),
        name: name.to_owned(),
        addr: "10.0.0.7:7581".to_owned(),
        zone: "eu-1a".to_owned(),
        weight: 100,
        state: "alive".to_owned(),
        me,
    }
}

fn artifact(reference: &str) -> ArtifactInfo {
    ArtifactInfo {
        swarm: "5".repeat(64),
        manifest: None,
        reference: reference.to_owned(),
        revision: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        complete: true,
        total_bytes: 512 << 20,
        done_bytes: 512 << 20,
        disk_bytes: 512 << 20,
        resident_bytes: None,
        files: 9,
        all_files: 9,
        pinned: true,
        leases: 1,
        last_used: u64::MAX / 4,
        path: Some("/x".into()),
    }
}

#[test]
fn members_are_a_line_each() {
    assert_shows(
        &members(&[member("node-1", true), member("node-2", false)], WIDTH),
        "
NAME               ID        ADDRESS        ZONE   WEIGHT  STATE
node-1 (this one)  abababab  10.0.0.7:7581  eu-1a     100  alive
node-2             abababab  10.0.0.7:7581  eu-1a     100  alive",
    );
}

#[test]
fn artifacts_keep_to_the_width_even_with_long_references() {
    let mut partial = artifact("hf://an-organisation-with-a-long-name/a-model-with-an-even-longer-name@main");
    partial.complete = false;
    partial.done_bytes = 128 << 20;
    partial.pinned = false;
    partial.leases = 0;
    let text = plain(&artifacts(&[artifact("s3://models/llama"), partial.clone()], WIDTH));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "\n{text}");
    assert!(text.contains("pinned") && text.contains("25 %") && text.contains("512.0 MiB"), "\n{text}");
    let stump = ArtifactInfo { files: 3, ..artifact("s3://models/llama") };
    let here = |artifact: ArtifactInfo| artifacts(&[artifact], None).lines().nth(1).unwrap().to_owned();
    assert!(here(stump.clone()).contains("3 of 9 files"), "{}", here(stump));
    assert!(here(ArtifactInfo { all_files: 0, ..artifact("x") }).contains("whole"), "an agent of before");
    let piped = artifacts(&[partial], None);
    assert_eq!(piped.lines().count(), 2, "a row is a line for grep\n{piped}");
}

#[test]
fn a_plan_says_what_comes_from_where() {
    let planned = Plan {
        reference: "s3://models/llama".to_owned(),
        swarm: "5".repeat(64),
        revision: None,
        total_bytes: 512 << 20,
        local_bytes: 128 << 20,
        reusable_bytes: 64 << 20,
        peer_bytes: 320 << 20,
        origin_bytes: 0,
        cost: Cost { origin_bytes: 0, cross_zone_bytes: 64 << 20, money: Some(dollars(0.000625)) },
        chunks: 512,
        peers: 3,
        estimated_seconds: Some(1.5),
        manifest_known: true,
        stale_reason: None,
        files: vec![PlannedFile {
            path: "model.safetensors".to_owned(),
            bytes: 512 << 20,
            local_bytes: 128 << 20,
        }],
    };
    assert_shows(
        &plan(&planned, WIDTH),
        "
s3://models/llama: 512.0 MiB in 1 file, 512 chunks

  here already              128.0 MiB
  here under another name    64.0 MiB
  from 3 neighbours         320.0 MiB
  from the origin                 0 B
  across a zone's border     64.0 MiB
  costs                    0.00063 USD
  expected time                1.50 s
  chunk hashes             from the manifest

FILE                    SIZE  HERE
model.safetensors  512.0 MiB  25 %",
    );
}

#[test]
fn a_warm_up_tells_who_has_it_and_why_others_have_not() {
    let node = |name: &str, phase, error| WarmNode {
        id: NodeId([0xcd; 16]),
        name: name.to_owned(),
        zone: String::new(),
        phase,
        total_bytes: 100,
        done_bytes: if phase == Phase::Complete { 100 } else { 40 },
        bytes_per_second: 0.0,
        eta_seconds: None,
        error,
    };
    let full = Problem {
        kind: "full".to_owned(),
        message: "no room for 9 GiB".to_owned(),
        advice: None,
        retry_after_seconds: None,
    };
    let status = WarmStatus {
        id: "w1".to_owned(),
        reference: "s3://models/llama".to_owned(),
        state: JobState::Failed,
        min_ready: 2,
        ready: 1,
        nodes: vec![node("node-1", Phase::Complete, None), node("node-2", Phase::Failed, Some(full))],
        elapsed_seconds: 2.0,
        error: None,
        priority: Priority::default(),
        deadline: None,
    };
    assert_shows(
        &warm(&status, WIDTH),
        "
NODE    ID        ZONE   HERE  STATE
node-1  cdcdcdcd        100 %  complete
node-2  cdcdcdcd         40 %  failed: no room for 9 GiB

w1 failed: 1 node ready, 2 needed, after 2.00 s",
    );
}

#[test]
fn rot_is_shown_with_its_place() {
    let mut report = VerifyReport {
        reference: "s3://models/llama".to_owned(),
        chunks: 512,
        bytes: 512 << 20,
        corrupt: Vec::new(),
        repaired: 0,
        lost: Vec::new(),
        restored: 0,
        not_here_chunks: 0,
        not_here_bytes: 0,
        seconds: 0.3,
    };
    assert_shows(
        &verify(&report, WIDTH),
        "s3://models/llama\n  512.0 MiB in 512 chunks re-hashed in 300 ms: all as they should be",
    );
    report.corrupt.push(CorruptChunk {
        path: "model.safetensors".to_owned(),
        offset: 4096,
        bytes: 1 << 20,
        hash: "e".repeat(64),
    });
    assert_shows(
        &verify(&report, WIDTH),
        "
s3://models/llama
  512.0 MiB in 512 chunks re-hashed in 300 ms: 1 corrupt, 0 repaired

FILE               OFFSET     SIZE  SHOULD BE
model.safetensors    4096  1.0 MiB  eeeeeeeeeeee",
    );
    report.corrupt.clear();
    report.not_here_chunks = 2;
    report.not_here_bytes = 3 << 20;
    assert_shows(
        &verify(&report, WIDTH),
        "
s3://models/llama
  512.0 MiB in 512 chunks re-hashed in 300 ms: all as they should be
  3.0 MiB in 2 chunks not here yet: `preload pull` brings them",
    );
    report.lost = vec!["empty".to_owned(), "model.safetensors".to_owned()];
    report.restored = 1;
    report.not_here_chunks = 0;
    assert_shows(
        &verify(&report, WIDTH),
        "
s3://models/llama
  512.0 MiB in 512 chunks re-hashed in 300 ms: these are as they should be
  removed or replaced on the disk: empty and 1 other, 1 of 2 restored",
    );
}

fn dollars(total: f64) -> Money {
    Money { total, currency: "USD".to_owned(), ..Money::default() }
}

fn glance() -> Status {
    let fetching = PullStatus {
        total_bytes: 100 << 20,
        done_bytes: 25 << 20,
        bytes_per_second: 1048576.0,
        eta_seconds: Some(75.0),
        ..pull(Phase::Fetching, 0)
    };
    Status {
        seed_errors: Vec::new(),
        version: "0.1.0".to_owned(),
        node: member("node-1", true),
        leaving: false,
        members: 4,
        data_dir: "/var/lib/emberline".into(),
        used_bytes: 1 << 30,
        quota_bytes: 4 << 30,
        free_bytes: 9 << 30,
        artifacts: Vec::new(),
        pulls: vec![fetching, pull(Phase::Complete, 100)],
        totals: Sources { origin: 1 << 30, peers: 3 << 30, reused: 0, wasted: 0, hedged: 0 },
        cost: Cost { origin_bytes: 1 << 30, cross_zone_bytes: 2 << 30, money: Some(dollars(0.11)) },
        served_bytes: 5 << 30,
        rss_bytes: 60 << 20,
        uptime_seconds: 7_500.0,
    }
}

#[test]
fn the_status_is_one_glance() {
    assert_shows(
        &status(&glance(), WIDTH),
        "
node        node-1 (abababab), zone eu-1a
agent       0.1.0, up for 2h 05m
members     4
memory      60.0 MiB
data        /var/lib/emberline
disk        1.0 GiB of 4.0 GiB used (25 %), 9.0 GiB free
brought in  origin 1.0 GiB, peers 3.0 GiB, disk 0 B
from afar   origins 1.0 GiB, other zones 2.0 GiB: 0.11 USD
served      5.0 GiB

PULL               PHASE     HERE       RATE    LEFT
s3://bucket/llama  fetching  25 %  1.0 MiB/s  1m 15s

nothing here yet; bring something with `preload pull REF`",
    );
}

#[test]
fn pulls_that_go_before_others_show_why() {
    let mut status_now = glance();
    status_now.pulls[0].priority = "high".parse().unwrap();
    // Long past, so that the text is the same whenever this runs.
    status_now.pulls[0].deadline = Some("2020-01-01T00:00:00Z".parse().unwrap());
    let shown = plain(&status(&status_now, WIDTH));
    let row = shown.lines().find(|line| line.starts_with("s3://bucket/llama")).unwrap();
    assert!(row.contains("high") && row.contains("past"), "{shown}");
    assert!(shown.contains("PRIORITY") && shown.contains("NEEDED"), "{shown}");
}

#[test]
fn a_lonely_node_says_why() {
    let refused = Problem {
        kind: "denied".to_owned(),
        message: "cannot connect to 10.0.0.1:7581: another cluster".to_owned(),
        advice: None,
        retry_after_seconds: None,
    };
    let alone = Status { members: 1, seed_errors: vec![refused], ..glance() };
    assert!(status(&alone, WIDTH).contains("alone"), "{}", status(&alone, WIDTH));
    assert!(lonely(&alone).unwrap().contains("10.0.0.1:7581: another cluster"));
    assert_eq!(lonely(&Status { members: 2, ..alone.clone() }), None);
    assert_eq!(lonely(&Status { seed_errors: Vec::new(), ..alone }), None);
}

#[test]
fn ages_never_lie_in_the_future() {
    let now = UNIX_EPOCH + Duration::from_secs(1_000);
    assert_eq!(ago(940, now), "1m 00s ago");
    assert_eq!(ago(1_000, now), "just now");
    assert_eq!(ago(u64::MAX, now), "just now");
}
