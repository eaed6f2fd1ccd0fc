//! The architecture's invariants, checked on the sources themselves.
//!
//! Imports go one way, the top of the repository stays short, files say what they own, and no module
//! takes part in a cycle. There are no exceptions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use emberline_tests::{
    binaries::workspace_root,
    module_graph::{ModuleGraph, production_part, rust_files},
};
use serde_json::Value;

/// Each crate, and the crates of the workspace that it may use.
const LAYERS: [(&str, &[&str]); 4] = [
    ("coordinatorless-p2p", &[]),
    ("emberline-agent", &["coordinatorless-p2p"]),
    ("preload-cli", &["coordinatorless-p2p", "emberline-agent"]),
    ("emberline-tests", &["coordinatorless-p2p", "emberline-agent", "preload-cli"]),
];

/// The peer-to-peer library knows chunks and peers; never models, URLs, files or HTTP.
const FOREIGN_TO_PEERS: [&str; 11] = [
    "axum",
    "clap",
    "hyper",
    "memmap2",
    "object_store",
    "redb",
    "reqwest",
    "s3s",
    "safetensors",
    "url",
    "utoipa",
];

/// What may stand at the top of the repository, besides dotfiles.
const TOP: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "agent",
    "coordinatorless-p2p",
    "integrations",
    "preload-cli",
    "tests",
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 9] =
    ["util", "utils", "common", "helper", "helpers", "manager", "misc", "shared", "stuff"];

/// About 400 lines of production code is where a file asks to be two; documentation and blank lines
/// do not count, and there is some slack.
const LINES: usize = 450;

const CRATES: [&str; 3] = ["coordinatorless-p2p", "agent", "preload-cli"];

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        // What other systems need was not downloaded to build this.
        .args(["--filter-platform", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)])
        .current_dir(workspace_root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Every source but those of test modules, relative to the root, with its text.
fn sources(crates: &[&str]) -> Vec<(PathBuf, String)> {
    let root = workspace_root();
    let files = crates.iter().flat_map(|name| rust_files(&root.join(name).join("src")).expect("readable"));
    files
        .filter(|file| !is_test_module(file.strip_prefix(root).unwrap_or(file)))
        .map(|file| {
            let text = fs::read_to_string(&file).expect("readable");
            (file.strip_prefix(root).unwrap_or(&file).to_owned(), text)
        })
        .collect()
}

/// `…/tests.rs`, `…/tests/…` below a `src`; not this crate itself.
fn is_test_module(path: &Path) -> bool {
    path.iter().skip_while(|part| *part != "src").any(|part| part == "tests" || part == "tests.rs")
}

#[test]
fn crates_use_only_the_crates_below_them() {
    let metadata = metadata();
    let members: BTreeSet<&str> =
        list(&metadata, "workspace_members").iter().filter_map(Value::as_str).collect();
    let layers = BTreeMap::from(LAYERS);
    let mut seen = BTreeSet::new();
    for package in list(&metadata, "packages").iter().filter(|p| members.contains(text(p, "id"))) {
        let name = text(package, "name");
        let allowed = layers.get(name).unwrap_or_else(|| panic!("{name} has no place in the layers"));
        seen.insert(name);
        for dependency in list(package, "dependencies") {
            let used = text(dependency, "name");
            // A crate may name itself to switch features on for its own tests.
            let fine = !layers.contains_key(used) || allowed.contains(&used) || used == name;
            assert!(fine, "{name} must not use {used}");
        }
    }
    assert_eq!(seen.len(), LAYERS.len(), "a crate of the layers is not in the workspace: {seen:?}");
}

#[test]
fn the_peer_library_knows_no_models_urls_files_or_http() {
    let metadata = metadata();
    let names: BTreeMap<&str, &str> =
        list(&metadata, "packages").iter().map(|p| (text(p, "id"), text(p, "name"))).collect();
    let uses: BTreeMap<&str, Vec<&str>> = list(&metadata["resolve"], "nodes")
        .iter()
        .map(|node| {
            let normal = list(node, "deps")
                .iter()
                .filter(|dep| list(dep, "dep_kinds").iter().any(|kind| kind["kind"].is_null()))
                .map(|dep| text(dep, "pkg"))
                .collect();
            (text(node, "id"), normal)
        })
        .collect();
    let (start, _) =
        names.iter().find(|(_, name)| **name == "coordinatorless-p2p").expect("the peer library");
    let (mut reached, mut pending) = (BTreeSet::new(), vec![*start]);
    while let Some(id) = pending.pop() {
        if reached.insert(id) {
            pending.extend(&uses[id]);
        }
    }
    assert!(reached.len() > 20, "only {} packages: the walk is broken", reached.len());
    for id in reached {
        assert!(!FOREIGN_TO_PEERS.contains(&names[id]), "coordinatorless-p2p reaches {}", names[id]);
    }
}

#[test]
fn only_the_agreed_entries_stand_at_the_top() {
    let output =
        Command::new("git").args(["ls-files"]).current_dir(workspace_root()).output().expect("git runs");
    if !output.status.success() {
        eprintln!("SKIPPED only_the_agreed_entries_stand_at_the_top: not a git checkout");
        return;
    }
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let top: BTreeSet<&str> = listing.lines().filter_map(|path| path.split('/').next()).collect();
    assert!(top.contains("Cargo.toml"), "git lists {top:?}");
    for entry in top {
        assert!(TOP.contains(&entry) || entry.starts_with('.'), "{entry} must not stand at the top");
    }
}

#[test]
fn every_file_opens_by_saying_what_it_owns() {
    for (path, text) in sources(&["coordinatorless-p2p", "agent", "preload-cli", "tests"]) {
        let opening = text.lines().next().unwrap_or_default();
        let words = opening.strip_prefix("//!").map_or(0, |rest| rest.split_whitespace().count());
        assert!(words >= 3, "{} opens with {opening:?}", path.display());
    }
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    for (path, text) in sources(&["coordinatorless-p2p", "agent", "preload-cli", "tests"]) {
        for part in path.with_extension("").iter().filter_map(|part| part.to_str()) {
            assert!(!EMPTY_NAMES.contains(&part), "{}", path.display());
        }
        for line in text.lines().map(str::trim) {
            let declared = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            if let Some(name) = declared.strip_prefix("mod ").and_then(|rest| rest.split([';', ' ']).next()) {
                assert!(!EMPTY_NAMES.contains(&name), "{}: mod {name}", path.display());
            }
        }
    }
}

#[test]
fn no_module_takes_part_in_a_cycle() {
    for name in CRATES.iter().chain(&["tests"]) {
        let graph = ModuleGraph::read(&workspace_root().join(name).join("src")).expect("readable");
        assert!(graph.cycles().is_empty(), "in {name}: {:#?}", graph.cycles());
    }
}

#[test]
fn no_file_is_too_long_to_be_one_noun() {
    for (path, text) in sources(&CRATES) {
        let counts = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        let lines = production_part(&text).lines().filter(counts).count();
        assert!(lines <= LINES, "{} has {lines} lines of production code", path.display());
    }
}
