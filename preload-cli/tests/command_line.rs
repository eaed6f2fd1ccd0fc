//! The binary as a script sees it: exit codes, and what is on which stream. No agent takes part.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use serde_json::Value;

fn preload(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_preload"));
    command.args(arguments).env_remove("EMBERLINE_AGENT").env_remove("EMBERLINE_TOKEN_FILE");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn wrong_usage_is_exit_code_2_and_a_problem_for_machines() {
    for arguments in
        [&["pull"][..], &["warm", "s3://b/p"], &["frobnicate"], &["pull", "a", "--timeout", "soon"]]
    {
        let output = preload(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");

        let output = preload(&[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let problem: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(problem["kind"], "invalid", "{arguments:?}");
        assert!(!problem["message"].as_str().unwrap().ends_with(':'), "{problem}");
    }
}

#[test]
fn an_agent_that_is_named_and_not_there_is_said_so_with_what_to_do() {
    let agent = nobody();
    for command in [&["pull", "s3://b/p"][..], &["ls"], &["members"], &["path", "s3://b/p"], &["verify"]] {
        let output = preload(&[command, &["--agent", &agent]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{command:?}: {said}");
        assert!(said.starts_with(&format!("error: no agent at {agent}")), "{command:?}: {said}");
        assert!(said.contains("\nhelp: start one with `preload agent`"), "{command:?}: {said}");
        assert!(output.stdout.is_empty(), "{command:?}");
    }
    let output = preload(&["--json", "status", "--agent", &agent]);
    let problem: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &problem["kind"]), (Some(5), &Value::from("unavailable")));
}

#[test]
fn an_address_that_is_none_is_wrong_usage() {
    let output = preload(&["ls", "--agent", "ftp://localhost:7580"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn one_directory_cannot_take_two_models() {
    let output = preload(&["pull", "s3://a/b", "s3://c/d", "--to", "x", "--agent", &nobody()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--to takes the files of one reference only"));
}

#[test]
fn a_secret_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cluster.secret");
    let path = file.to_str().unwrap();
    let output = preload(&["secret", "new", path]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), format!("{path}\n")));
    let again = preload(&["--json", "secret", "new", path]);
    assert_eq!(again.status.code(), Some(2));
    let problem: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(problem["message"].as_str().unwrap().contains("exists"), "{problem}");
}

#[test]
fn help_and_completions_go_to_stdout() {
    let help = preload(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = text(&help.stdout);
    assert!(help.contains("Exit codes:") && help.contains("Examples:"), "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let script = preload(&["completions", shell]);
        assert_eq!(script.status.code(), Some(0));
        assert!(text(&script.stdout).contains("preload"), "{shell}");
    }
}

#[test]
fn a_demo_that_cannot_fit_says_so_before_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    let stage = dir.path().join("stage");
    let output = preload(&["demo", "--size", "100000TiB", "--dir", stage.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(8), "{}", text(&output.stderr));
    assert!(!stage.exists(), "the demo leaves nothing behind");
}

#[test]
fn running_an_agent_takes_every_option_of_the_daemon() {
    let daemon = concat!(include_str!("../../agent/src/main.rs"), include_str!("../../agent/src/flags.rs"));
    let options: Vec<String> = daemon
        .split("#[arg(long")
        .skip(1)
        .filter_map(|rest| {
            let field = rest.split_once("]\n")?.1.trim_start().split_once(':')?.0;
            Some(field.trim_start_matches("pub ").replace('_', "-"))
        })
        .collect();
    assert!(options.contains(&"data-dir".to_owned()) && options.len() > 10, "{options:?}");
    let help = text(&preload(&["agent", "--help"]).stdout);
    for option in options {
        assert!(
            help.contains(&format!("--{option} ")) || help.contains(&format!("--{option}\n")),
            "--{option}"
        );
    }
}
