//! The daemon's command line as a shell sees it: what it prints, and the code it exits with.

use std::{
    path::Path,
    process::{Command, Output},
};

/// Runs the daemon with nothing of our own environment that could be a setting.
fn agent(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberline-agent"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command.output().expect("the daemon was built")
}

fn check(config: &Path) -> Output {
    agent(&["--check-config", "--config", config.to_str().unwrap()], &[])
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_printed_example_is_a_configuration_that_works() {
    let dir = tempfile::tempdir().unwrap();
    let printed = agent(&["--print-config-example"], &[]);
    assert!(printed.status.success());
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, printed.stdout).unwrap();
    let checked = check(&file);
    assert!(checked.status.success(), "{}", complaint(&checked));
}

#[test]
fn a_wrong_configuration_is_a_sentence_and_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, "[cluster]\nzoen = 'a'").unwrap();
    let checked = check(&file);
    assert_eq!(checked.status.code(), Some(2));
    assert!(complaint(&checked).contains("did you mean `cluster.zone`?"), "{}", complaint(&checked));

    let open = agent(&["--check-config", "--listen", "0.0.0.0:7581"], &[]);
    assert_eq!(open.status.code(), Some(2));
    assert!(complaint(&open).contains("preload secret new"), "{}", complaint(&open));

    let unknown_flag = agent(&["--zoen", "a"], &[]);
    assert_eq!(unknown_flag.status.code(), Some(2));
    assert!(complaint(&unknown_flag).contains("--zone"), "{}", complaint(&unknown_flag));
}

#[test]
fn what_could_not_start_is_not_called_fine() {
    let dir = tempfile::tempdir().unwrap();
    let checked = |settings: &str| {
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, settings).unwrap();
        let checked = check(&file);
        (checked.status.code(), complaint(&checked))
    };
    let data_dir = format!("data_dir = {:?}", dir.path().join("data"));
    let (code, said) = checked(&format!("{data_dir}\n[store]\nquota_bytes = '900TiB'"));
    assert!(code == Some(2) && said.contains("store.quota_bytes"), "{code:?}: {said}");
    let (code, said) = checked("data_dir = '/proc/x'");
    assert!(code == Some(3) && said.contains("/proc/x"), "{code:?}: {said}");
    let (code, said) = checked(&format!("{data_dir}\n[origins]\nallow = ['s3:/']"));
    assert!(code == Some(2) && said.contains("origins.allow"), "{code:?}: {said}");
    assert_eq!(checked(&data_dir).0, Some(0));
    assert!(!dir.path().join("data").exists(), "a check leaves nothing behind");
}

#[test]
fn a_configuration_that_is_not_there_is_exit_code_3() {
    let missing = check(Path::new("/nonexistent/agent.toml"));
    assert_eq!(missing.status.code(), Some(3));
    assert!(complaint(&missing).contains("/nonexistent/agent.toml"), "{}", complaint(&missing));
}

#[test]
fn flags_and_variables_are_blamed_by_their_own_names() {
    let flag = agent(&["--check-config", "--http", "here"], &[]);
    assert!(complaint(&flag).contains("`http.listen` in flag --http"), "{}", complaint(&flag));
    let variable = agent(&["--check-config"], &[("EMBERLINE_HTTP__LISTEN", "here")]);
    assert!(complaint(&variable).contains("variable EMBERLINE_HTTP__LISTEN"), "{}", complaint(&variable));
    assert_eq!((flag.status.code(), variable.status.code()), (Some(2), Some(2)));
}
