//! Where the programs under test are; builds them when nobody has.
//!
//! The profile is the caller's own: a test finds debug binaries, a `--release` benchmark release
//! ones. `EMBERLINE_BIN_DIR` names a directory with both programs and switches building off.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};

/// The programs that users run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// `emberline-agent`.
    pub agent: PathBuf,
    /// `preload`.
    pub preload: PathBuf,
}

impl Binaries {
    /// Finds the programs, building them the first time a process asks.
    ///
    /// # Errors
    /// `NotFound` when `EMBERLINE_BIN_DIR` does not hold them; `Invalid` when they do not build.
    pub fn locate() -> Result<Self> {
        static FOUND: OnceLock<std::result::Result<Binaries, String>> = OnceLock::new();
        FOUND
            .get_or_init(|| find_or_build().map_err(|error| error.to_string()))
            .clone()
            .map_err(|sentence| Error::new(ErrorKind::Invalid, sentence))
    }

    fn in_directory(dir: &Path) -> Result<Self> {
        let found = Self { agent: dir.join("emberline-agent"), preload: dir.join("preload") };
        for program in [&found.agent, &found.preload] {
            if !program.is_file() {
                return Err(Error::new(ErrorKind::NotFound, format!("no program {}", program.display())));
            }
        }
        Ok(found)
    }
}

/// A command without the `EMBERLINE_…` variables of whoever runs the tests: those are for the harness, and
/// the programs under test would take them for settings and refuse what they do not know.
pub fn without_our_settings(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EMBERLINE_") {
            command.env_remove(name);
        }
    }
    command
}

/// The folder of the workspace's `Cargo.toml`.
pub fn workspace_root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Cargo's output directory of the running profile: `target/debug`, `target/release`, …
///
/// # Errors
/// `NotFound` when the running program was moved out of cargo's tree.
pub fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().at(|| "own path".to_owned())?;
    let mut dir = exe.parent();
    while let Some(candidate) = dir {
        if candidate.join("deps").is_dir() {
            return Ok(candidate.to_owned());
        }
        dir = candidate.parent();
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("{} is not in a cargo target directory; set EMBERLINE_BIN_DIR", exe.display()),
    ))
}

fn find_or_build() -> Result<Binaries> {
    if let Some(dir) = std::env::var_os("EMBERLINE_BIN_DIR") {
        return Binaries::in_directory(Path::new(&dir));
    }
    let dir = profile_dir()?;
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace_root()).stdin(Stdio::null());
    // What cargo tells a test about its own package would look like a change to build scripts that watch
    // those variables (ring's does), and everything above them would be compiled again.
    for (name, _) in std::env::vars_os() {
        let about_us =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];
        if name.to_str().is_some_and(|name| about_us.iter().any(|start| name.starts_with(start))) {
            command.env_remove(&name);
        }
    }
    if is_test()? {
        // The very build that made the caller, so that cargo finds all of it fresh and compiles nothing
        // twice: with other packages named, dependencies would have other features.
        command.args(["test", "--quiet", "--workspace", "--no-run"]);
        if profile != "dev" {
            command.args(["--profile", profile]);
        }
    } else {
        command
            .args(["build", "--quiet", "-p", "emberline-agent", "-p", "preload-cli", "-p", "emberline-tests"])
            .args(["--bins", "--profile", profile]);
    }
    if let Some(target) = dir.parent() {
        command.arg("--target-dir").arg(target);
    }
    let output = command.output().at(|| "start cargo to build the programs under test".to_owned())?;
    if !output.status.success() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("the programs do not build:\n{}", String::from_utf8_lossy(&output.stderr)),
        ));
    }
    Binaries::in_directory(&dir)
}

/// Tests run from `deps`, programs from beside it.
fn is_test() -> Result<bool> {
    let exe = std::env::current_exe().at(|| "own path".to_owned())?;
    Ok(exe.parent().is_some_and(|dir| dir.ends_with("deps")))
}
