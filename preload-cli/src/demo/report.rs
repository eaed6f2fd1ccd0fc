//! What the demo found, for people and for machines.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    Pulled,
    proof::{Against, Verdict},
};
use crate::{output::table::table, units};

/// Everything the demo measured. Bytes and seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) nodes: usize,
    pub(super) model_bytes: u64,
    /// Bytes that left the origin for all nodes together.
    pub(super) origin_bytes: u64,
    /// The same ÷ model; 1.0 is the least there can be.
    pub(super) origin_ratio: f64,
    pub(super) peer_bytes: u64,
    /// From the first request until the last node had published.
    pub(super) seconds: f64,
    /// Every byte on every node was hashed again, and right.
    pub(super) verified: bool,
    pub(super) late_joiner_origin_bytes: u64,
    pub(super) late_joiner_peer_bytes: u64,
    pub(super) late_joiner_seconds: f64,
    /// Absent where the origin is not ours.
    pub(super) origin_requests: Option<u64>,
    pub(super) origin_bytes_counted_by: CountedBy,
    pub(super) verified_against: Against,
    pub(super) reference: String,
    pub(super) killed: String,
    pub(super) per_node: Vec<NodeReport>,
    pub(super) late_joiner: NodeReport,
    /// Where the files stay, if they do.
    pub(super) kept: Option<PathBuf>,
}

/// Who counted the bytes that left the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CountedBy {
    /// The origin, which is ours.
    Origin,
    /// The agents that read them.
    Agents,
}

/// One node's part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct NodeReport {
    pub(super) name: String,
    pub(super) seconds: f64,
    pub(super) origin_bytes: u64,
    pub(super) peer_bytes: u64,
    pub(super) wasted_bytes: u64,
    pub(super) files: u64,
    pub(super) hashed_bytes: u64,
    pub(super) verified: bool,
    pub(super) wrong_files: Vec<String>,
    pub(super) path: PathBuf,
}

impl NodeReport {
    pub(super) fn new(name: &str, pulled: &Pulled, verdict: Verdict) -> Self {
        let sources = pulled.status.sources;
        Self {
            name: name.to_owned(),
            seconds: pulled.seconds,
            origin_bytes: sources.origin,
            peer_bytes: sources.peers,
            wasted_bytes: sources.wasted,
            files: verdict.files,
            hashed_bytes: verdict.bytes,
            verified: verdict.wrong.is_empty(),
            wrong_files: verdict.wrong,
            path: pulled.status.path.clone().unwrap_or_default(),
        }
    }

    fn row(&self) -> Vec<String> {
        let verified = if self.verified {
            units::count(self.files, "file")
        } else {
            format!("NO: {}", units::count(self.wrong_files.len() as u64, "file"))
        };
        vec![
            self.name.clone(),
            units::seconds(self.seconds),
            units::bytes(self.origin_bytes),
            units::bytes(self.peer_bytes),
            verified,
        ]
    }
}

impl Report {
    /// The nodes whose files are not right.
    pub(super) fn unverified(&self) -> Vec<&str> {
        let all = self.per_node.iter().chain([&self.late_joiner]);
        all.filter(|node| !node.verified).map(|node| node.name.as_str()).collect()
    }
}

/// The story for people.
pub(super) fn render(report: &Report, width: Option<u16>) -> String {
    let header = ["NODE", "TIME", "FROM ORIGIN", "FROM PEERS", "VERIFIED"];
    let right = [1, 2, 3];
    let mut rows: Vec<Vec<String>> = report.per_node.iter().map(NodeReport::row).collect();
    rows.push(vec![
        "together".to_owned(),
        units::seconds(report.seconds),
        units::bytes(report.origin_bytes),
        units::bytes(report.peer_bytes),
        if report.verified { "every byte".to_owned() } else { "NO".to_owned() },
    ]);
    let mut text = format!(
        "{} onto {} nodes at once\n\n{}\n\n",
        units::bytes(report.model_bytes),
        report.nodes,
        table(&header, &right, rows, width),
    );
    let counted = match report.origin_bytes_counted_by {
        CountedBy::Origin => "counted by the origin",
        CountedBy::Agents => "counted by the agents, since the origin is not ours",
    };
    text += &format!("The origin gave {:.2} × the model ({counted}).\n", report.origin_ratio);
    text += &format!(
        "Each node by itself would have read {} × {} = {}.\n",
        report.nodes,
        units::bytes(report.model_bytes),
        units::bytes(report.model_bytes.saturating_mul(report.nodes as u64)),
    );
    text += match report.verified_against {
        Against::Model => "Verified: every file hashed again and compared with the model as it was made.\n",
        Against::EachOther => "Verified: every file hashed again; all nodes hold the same bytes.\n",
    };
    let late = table(&header, &right, vec![report.late_joiner.row()], width);
    text += &format!(
        "\nThen {} was killed, and {} came late:\n\n{late}\n\n",
        report.killed, report.late_joiner.name
    );
    text += &match report.late_joiner_origin_bytes {
        0 => "It read nothing from the origin: its neighbours had everything.\n".to_owned(),
        // The origin counts its answers, the list of files and what was called off too; the table counts what of the
        // model came.
        bytes if report.late_joiner.origin_bytes == 0 => {
            let bytes = units::bytes(bytes);
            format!("The origin sent it {bytes} and no whole chunk: its neighbours had everything.\n")
        }
        bytes => format!("It read {} from the origin.\n", units::bytes(bytes)),
    };
    text += &epilogue(report);
    text
}

fn epilogue(report: &Report) -> String {
    let mut text = String::new();
    if let Some(dir) = &report.kept {
        text += &format!("\nThe files stay in {}:\n", dir.display());
        for node in report.per_node.iter().chain([&report.late_joiner]) {
            text += &format!("  {}\n", node.path.display());
        }
    } else {
        text += "\nAgents are stopped and files removed; with --keep they would have stayed.\n";
    }
    let preload = own_name(std::env::current_exe().ok(), std::env::current_dir().ok());
    text += &format!(
        "
Next, the same with a model of the Hub, and that one on this machine:
  {preload} demo --ref hf://sshleifer/tiny-gpt2
  {preload} pull hf://sshleifer/tiny-gpt2
A cluster: this secret on every node, and there an agent. On the others, --seed
has the name of this node:
  {preload} secret new cluster.secret
  {preload} agent --data-dir emberline-data --secret-file cluster.secret \\
      --listen 0.0.0.0:7581 --seed $(hostname):7581
"
    );
    text
}

/// How this program can be called from where the reader is: by its path, which is short below that.
fn own_name(program: Option<PathBuf>, here: Option<PathBuf>) -> String {
    let Some(program) = program else { return "preload".to_owned() };
    let below = here.and_then(|here| Some(Path::new(".").join(program.strip_prefix(here).ok()?)));
    let path = below.unwrap_or(program).display().to_string();
    if path.contains(|c: char| c.is_whitespace() || c == '\'') { format!("{path:?}") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, origin_bytes: u64, peer_bytes: u64) -> NodeReport {
        NodeReport {
            name: name.to_owned(),
            seconds: 1.4,
            origin_bytes,
            peer_bytes,
            wasted_bytes: 0,
            files: 14,
            hashed_bytes: 512 << 20,
            verified: true,
            wrong_files: Vec::new(),
            path: "/tmp/x".into(),
        }
    }

    fn report() -> Report {
        Report {
            nodes: 2,
            model_bytes: 512 << 20,
            origin_bytes: 512 << 20,
            origin_ratio: 1.0,
            peer_bytes: 512 << 20,
            seconds: 1.5,
            verified: true,
            late_joiner_origin_bytes: 0,
            late_joiner_peer_bytes: 512 << 20,
            late_joiner_seconds: 1.4,
            origin_requests: Some(40),
            origin_bytes_counted_by: CountedBy::Origin,
            verified_against: Against::Model,
            reference: "http://127.0.0.1:1/".to_owned(),
            killed: "node-1".to_owned(),
            per_node: vec![node("node-1", 256 << 20, 256 << 20), node("node-2", 256 << 20, 256 << 20)],
            late_joiner: node("node-3", 0, 512 << 20),
            kept: None,
        }
    }

    #[test]
    fn the_story_fits_eighty_columns_and_tells_the_figures() {
        let text = render(&report(), None);
        let table = "\
NODE        TIME  FROM ORIGIN  FROM PEERS  VERIFIED
node-1    1.40 s    256.0 MiB   256.0 MiB  14 files
node-2    1.40 s    256.0 MiB   256.0 MiB  14 files
together  1.50 s    512.0 MiB   512.0 MiB  every byte
";
        assert!(text.contains(table), "\n{text}");
        assert!(text.contains("1.00 × the model (counted by the origin)"), "\n{text}");
        assert!(text.contains("2 × 512.0 MiB = 1.0 GiB"), "\n{text}");
        assert!(text.contains("nothing from the origin"), "\n{text}");
        // What comes next has this program's path in it.
        for line in text.lines().take_while(|line| !line.starts_with("Next")) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn a_wrong_file_is_not_hidden() {
        let mut report = report();
        report.per_node[1].verified = false;
        report.per_node[1].wrong_files = vec!["config.json".to_owned()];
        report.verified = false;
        report.late_joiner_origin_bytes = 2253;
        let asked = render(&report, None);
        assert!(
            asked.contains("The origin sent it 2.2 KiB and no whole chunk: its neighbours had"),
            "\n{asked}"
        );
        report.late_joiner_origin_bytes = 1 << 20;
        report.late_joiner.origin_bytes = 1 << 20;
        let text = render(&report, None);
        assert!(text.contains("NO: 1 file") && text.contains("It read 1.0 MiB from the origin"), "\n{text}");
        assert_eq!(report.unverified(), ["node-2"]);
    }

    #[test]
    fn what_comes_next_can_be_called_from_where_the_reader_is() {
        let name = |program: &str, here: &str| own_name(Some(program.into()), Some(here.into()));
        assert_eq!(
            name("/src/emberline/target/release/preload", "/src/emberline"),
            "./target/release/preload"
        );
        assert_eq!(name("/usr/bin/preload", "/src"), "/usr/bin/preload");
        assert_eq!(name("/a b/preload", "/src"), "\"/a b/preload\"");
        let said = epilogue(&report());
        assert!(!said.contains("HOST") && !said.contains("org/name"), "{said}");
    }

    #[test]
    fn machines_get_the_documented_fields() {
        let json = serde_json::to_value(report()).unwrap();
        for field in [
            "nodes",
            "model_bytes",
            "origin_bytes",
            "origin_ratio",
            "peer_bytes",
            "seconds",
            "verified",
            "late_joiner_origin_bytes",
        ] {
            assert!(!json[field].is_null(), "{field} is missing");
        }
        assert_eq!(json["origin_bytes_counted_by"], "origin");
    }
}
