//! `preload` as a user runs it: arguments and environment in, exit code and words out.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::{
    binaries::{Binaries, without_our_settings},
    client::AgentClient,
};

/// A `preload` that only waits to be started, with no agent named by the test's own environment.
///
/// # Panics
/// When the programs do not build.
pub fn command(args: &[&str]) -> Command {
    let mut command = without_our_settings(Binaries::locate().expect("the programs").preload);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `preload` to its end. Blocks.
///
/// # Panics
/// When it cannot be started.
pub fn preload(env: &[(&str, &str)], args: &[&str]) -> Output {
    command(args).envs(env.iter().copied()).output().expect("preload starts")
}

/// Runs `preload` against an agent; it must succeed. What it printed on stdout. Blocks.
///
/// # Panics
/// When it fails.
pub fn succeeds(agent: &AgentClient, args: &[&str]) -> String {
    let output = preload(&[("EMBERLINE_AGENT", agent.base())], args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?} ended with {}: {said}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// As [`succeeds`] with `--json`: the one value it printed. Blocks.
///
/// # Panics
/// When it fails, or stdout is anything but one JSON value.
pub fn answers(agent: &AgentClient, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let text = succeeds(agent, &args);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?} printed no JSON value ({e}): {text}"))
}

/// Runs `preload` against an agent; it must fail with this exit code and name the thing. Blocks.
///
/// # Panics
/// When it does anything else.
pub fn fails(agent: &AgentClient, args: &[&str], code: i32, named: &str) {
    ends_with(&preload(&[("EMBERLINE_AGENT", agent.base())], args), code, named);
}

/// Bad input ends with the exit code of its kind and a sentence that names the thing.
///
/// # Panics
/// When it did not.
pub fn ends_with(output: &Output, code: i32, named: &str) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(named), "{named} is not named in: {said}");
    assert!(!said.contains("panicked"), "{said}");
}
