//! The mount of a real agent, used by programs that nobody here wrote. As root; elsewhere said to be skipped.

mod files;
mod lifetime;
mod names;
mod sealing;
mod user;

use std::{fs::File, os::unix::fs::FileExt, path::Path, time::Duration};

use emberline_tests::mounted::Mounted;

/// Long for a machine that also compiles, short for a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// Says that a test did not run, and why. Whether it did not.
fn is_skipped(test: &str) -> bool {
    let why = emberline_tests::mounted::why_not();
    if let Some(why) = why {
        eprintln!("SKIPPED {test}: {why}");
    }
    why.is_some()
}

/// An agent whose mount shows a directory of this machine as `models`.
async fn mounted(origin: &Path) -> Mounted {
    Mounted::start(&format!("file://{}", origin.display()), |_, _| {}).await.expect("a mount")
}

/// Bytes that look like nothing else.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// The part of a file.
fn part(file: &File, at: u64, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, at).expect("readable");
    buffer
}

/// What a program of the system printed; it must succeed. Blocks.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The version a program of the GNU system tells. Blocks.
fn version_of(program: &str) -> String {
    let said = output(program, &["--version"]);
    said.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default().to_owned()
}
