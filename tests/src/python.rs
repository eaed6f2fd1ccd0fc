//! Python programs with pinned versions, each set in an environment of its own under cargo's target.
//!
//! Made once and reused; the name of the directory is a hash of what is in it, so a changed pin makes
//! a new one.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};
use tempfile::TempDir;

use crate::binaries::profile_dir;

/// The `bin` directory of an environment that holds `requirements`, made when it is not there yet.
///
/// # Errors
/// `NotFound` without python3; `Unavailable` with pip's words when the packages cannot be had.
pub fn environment(requirements: &[&str]) -> Result<PathBuf> {
    let name = blake3::hash(requirements.join("\n").as_bytes()).to_hex();
    let parent = profile_dir()?.join("tools");
    std::fs::create_dir_all(&parent).at(|| parent.display().to_string())?;
    let dir = parent.join(format!("python-{}", &name[..16]));
    let done = dir.join("complete");
    if done.is_file() {
        return Ok(dir.join("bin"));
    }
    // One maker at a time: tests run at once, in one process and in several.
    let lock = std::fs::File::create(parent.join("python.lock")).at(|| "python.lock".to_owned())?;
    lock.lock().at(|| "python.lock".to_owned())?;
    if done.is_file() {
        return Ok(dir.join("bin"));
    }
    let cache = TempDir::with_prefix("emberline-pip-").at(|| "temporary directory".to_owned())?;
    run(
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir),
        "python3 -m venv (package python3-venv)",
    )?;
    run(
        Command::new(dir.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
            .args(requirements)
            .env("TMPDIR", cache.path()),
        "pip install",
    )?;
    std::fs::write(&done, requirements.join("\n")).at(|| done.display().to_string())?;
    Ok(dir.join("bin"))
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().at(|| what.to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(ErrorKind::UNAVAILABLE, format!("{what}: {}", words.trim())))
}
