//! What was run against the doors, by which client: recorded as checks pass, printed as one table.
//!
//! Owns the records below `target/conformance/` and the table made of them. One file a check, so that test
//! binaries that run at once do not meet and a check that is run again replaces its own record. Knows no door:
//! a test says what it did, after it has seen that it worked. A check that is no more leaves its record until
//! the folder is removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use serde::{Deserialize, Serialize};

use crate::binaries::{profile_dir, workspace_root};

/// Stands in README before the table.
pub const BEGIN: &str = "<!-- conformance: begin -->";
/// Stands in README behind the table.
pub const END: &str = "<!-- conformance: end -->";

/// One check that passed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Passed {
    /// The door, as people call it: `Hugging Face`, `S3`, `FUSE`, `HTTP`, `fsspec`.
    pub door: String,
    /// The client's name, as its package has it.
    pub client: String,
    /// Its exact version; empty for one that has none.
    pub version: String,
    /// What was run, in a few words.
    pub what: String,
}

/// Records that `client` in `version` did `what` through `door`, and that the test saw it work. To be called
/// last in a check. Blocks.
///
/// # Panics
/// When the record cannot be written, or a field would break the table.
pub fn record(door: &str, client: &str, version: &str, what: &str) {
    let [door, client, version, what] = [door, client, version, what].map(str::to_owned);
    let passed = Passed { door, client, version, what };
    if let Err(e) = keep(&records_dir(), &passed) {
        panic!("{passed:?} cannot be recorded: {e}");
    }
}

/// Every record there is, in the table's order. Blocks.
///
/// # Errors
/// `Invalid` for a record that is none; as reading the folder.
pub fn records() -> Result<Vec<Passed>> {
    read(&records_dir())
}

/// The table, without the markers.
pub fn table(records: &[Passed]) -> String {
    let mut rows: BTreeMap<(&str, &str, &str), BTreeSet<&str>> = BTreeMap::new();
    for Passed { door, client, version, what } in records {
        rows.entry((door, client, version)).or_default().insert(what);
    }
    let mut table = "| door | client | version | what was run |\n| --- | --- | --- | --- |\n".to_owned();
    for ((door, client, version), whats) in rows {
        let whats: Vec<&str> = whats.into_iter().collect();
        table.push_str(&format!("| {door} | {client} | {version} | {} |\n", whats.join("; ")));
    }
    table
}

/// `readme` with `table` between its markers.
///
/// # Errors
/// `Invalid` when it does not have each marker once, in order.
pub fn inserted(readme: &str, table: &str) -> Result<String> {
    let wrong =
        || Error::new(ErrorKind::Invalid, format!("README.md needs {BEGIN} and then {END}, once each"));
    let (before, rest) = readme.split_once(BEGIN).ok_or_else(wrong)?;
    let (_, after) = rest.split_once(END).ok_or_else(wrong)?;
    if [BEGIN, END].iter().any(|marker| before.contains(marker) || after.contains(marker)) {
        return Err(wrong());
    }
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

/// Clients that come with the operating system: their version is the machine's, not one that the tests pin.
const OF_THE_SYSTEM: [&str; 12] = [
    "aria2c",
    "chromium",
    "curl",
    "find",
    "fusermount3",
    "h2load",
    "ls",
    "rclone",
    "read and mmap (Linux)",
    "sha256sum",
    "torch",
    "wget",
];

/// Rows in which the table of `readme` differs from `table`, one a line: `-` before those that are only in README,
/// `+` before those that were run. The versions of what the operating system brings may differ.
///
/// # Errors
/// As [`inserted`].
pub fn differences(readme: &str, table: &str) -> Result<Vec<String>> {
    inserted(readme, table)?;
    let written = readme.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let (written, run) = (rows(written.map_or("", |(table, _)| table)), rows(table));
    let only = |sign, these: &BTreeSet<String>, those: &BTreeSet<String>| -> Vec<String> {
        these.difference(those).map(|row| format!("{sign} {row}")).collect()
    };
    Ok([only('-', &written, &run), only('+', &run, &written)].concat())
}

/// The rows of a table, without what may differ from machine to machine.
fn rows(table: &str) -> BTreeSet<String> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        match cells.as_slice() {
            [door, client, _, what] if OF_THE_SYSTEM.contains(client) => {
                format!("| {door} | {client} | (the system's) | {what} |")
            }
            cells => format!("| {} |", cells.join(" | ")),
        }
    };
    table.lines().filter(|line| line.trim_start().starts_with('|')).map(row).collect()
}

fn records_dir() -> PathBuf {
    let target = profile_dir().ok().and_then(|dir| dir.parent().map(Path::to_owned));
    target.unwrap_or_else(|| workspace_root().join("target")).join("conformance")
}

fn keep(dir: &Path, passed: &Passed) -> Result<()> {
    let Passed { door, client, version, what } = passed;
    let breaks = |text: &String| text.contains(|c: char| c == '|' || c.is_control());
    if [door, client, version, what].into_iter().any(breaks) || door.is_empty() || client.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "a field is empty or cannot stand in a table"));
    }
    let line =
        serde_json::to_string(passed).map_err(|e| Error::with_source(ErrorKind::Invalid, "a record", e))?;
    let name = blake3::hash(line.as_bytes()).to_hex();
    fs::create_dir_all(dir).at(|| dir.display().to_string())?;
    // By rename: another process may be reading.
    let temporary = dir.join(format!(".{}-{}", &name[..32], std::process::id()));
    fs::write(&temporary, line + "\n").at(|| temporary.display().to_string())?;
    let kept = dir.join(format!("{}.json", &name[..32]));
    fs::rename(&temporary, &kept).at(|| kept.display().to_string())
}

fn read(dir: &Path) -> Result<Vec<Passed>> {
    let mut records = BTreeSet::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).at(|| dir.display().to_string()),
    };
    for entry in entries {
        let path = entry.at(|| dir.display().to_string())?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = fs::read_to_string(&path).at(|| path.display().to_string())?;
        for line in text.lines() {
            records.insert(serde_json::from_str(line).map_err(|e| {
                Error::with_source(ErrorKind::Invalid, format!("record {}", path.display()), e)
            })?);
        }
    }
    Ok(records.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(client: &str, version: &str, what: &str) -> Passed {
        let [client, version, what] = [client, version, what].map(str::to_owned);
        Passed { door: "S3".to_owned(), client, version, what }
    }

    #[test]
    fn a_check_that_is_run_twice_stands_once_in_the_table() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(read(&dir.path().join("none")).expect("no records"), []);
        for one in
            [passed("b", "1", "y"), passed("a", "2", "x"), passed("b", "1", "x"), passed("b", "1", "y")]
        {
            keep(dir.path(), &one).expect("kept");
        }
        let records = read(dir.path()).expect("records");
        assert_eq!(records.len(), 3);
        let rows: Vec<String> = table(&records).lines().skip(2).map(str::to_owned).collect();
        assert_eq!(rows, ["| S3 | a | 2 | x |", "| S3 | b | 1 | x; y |"]);
    }

    #[test]
    fn what_would_break_the_table_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for bad in [passed("a|b", "1", "x"), passed("a", "1", "x\ny"), passed("", "1", "x")] {
            assert_eq!(keep(dir.path(), &bad).expect_err("refused").kind(), ErrorKind::Invalid, "{bad:?}");
        }
        assert_eq!(read(dir.path()).expect("records"), []);
    }

    #[test]
    fn a_row_more_or_less_is_a_difference_and_a_version_of_the_system_is_none() {
        let pinned = passed("boto3", "1.2", "get");
        let system = |version| passed("curl", version, "get");
        let readme =
            inserted(&format!("{BEGIN}{END}"), &table(&[pinned.clone(), system("7.88")])).expect("written");
        let against = |records: &[Passed]| differences(&readme, &table(records)).expect("compared");
        assert_eq!(against(&[pinned.clone(), system("8.1")]), Vec::<String>::new());
        assert_eq!(against(&[system("7.88")]), ["- | S3 | boto3 | 1.2 | get |"]);
        let newer = against(&[passed("boto3", "1.3", "get"), system("7.88")]);
        assert_eq!(newer, ["- | S3 | boto3 | 1.2 | get |", "+ | S3 | boto3 | 1.3 | get |"]);
        let more = against(&[pinned, system("7.88"), passed("curl", "7.88", "put")]);
        assert_eq!(more.len(), 2, "{more:?}");
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let readme = format!("# A\n\n{BEGIN}\nold\n{END}\n\nrest\n");
        let written = inserted(&readme, "new\n").expect("written");
        assert_eq!(written, format!("# A\n\n{BEGIN}\nnew\n{END}\n\nrest\n"));
        assert_eq!(inserted(&written, "new\n").expect("written"), written);
        for bad in ["no markers", BEGIN, &format!("{END}{BEGIN}"), &format!("{BEGIN}{END}{BEGIN}{END}")] {
            assert_eq!(inserted(bad, "new").expect_err("refused").kind(), ErrorKind::Invalid, "{bad}");
        }
    }
}
