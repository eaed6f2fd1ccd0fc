//! The Pythons of this machine, and what the package `emberline` is built with and read by on each.
//!
//! Owns which versions are looked for and where, and the pins; the set-up is the cache's. The newest of each
//! library that a version of Python has: the oldest Python has the oldest libraries.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    Result,
    cache::{part, run},
};

/// The versions that the package is for.
pub const PYTHON_VERSIONS: [&str; 5] = ["3.9", "3.10", "3.11", "3.12", "3.13"];

const BUILDER_PINS: &[&str] = &["hatchling==1.33.0", "mypy==2.4.1", "fsspec==2026.9.0", "aiohttp==3.14.5"];

/// What reads on each version. pandas and pyarrow weigh hundreds of megabytes: on the oldest, the newest and
/// one between.
fn reader_pins(version: &str) -> &'static [&'static str] {
    match version {
        "3.9" => &[
            "fsspec==2025.10.0",
            "aiohttp==3.13.5",
            "pytest==8.4.2",
            "pytest-timeout==2.4.0",
            "numpy==2.0.2",
            "safetensors==0.7.0",
            "pandas==2.3.3",
            "pyarrow==21.0.0",
        ],
        "3.10" => &[
            // Also an fsspec of before.
            "fsspec==2024.6.1",
            "aiohttp==3.9.5",
            "pytest==9.2.0",
            "pytest-timeout==2.4.0",
            "numpy==1.26.4",
            "safetensors==0.4.5",
        ],
        "3.11" | "3.13" => &[
            "fsspec==2026.9.0",
            "aiohttp==3.14.5",
            "pytest==9.2.0",
            "pytest-timeout==2.4.0",
            "numpy==2.4.6",
            "safetensors==0.8.0",
            "pandas==3.1.1",
            "pyarrow==26.0.1",
        ],
        _ => &[
            "fsspec==2026.9.0",
            "aiohttp==3.14.5",
            "pytest==9.2.0",
            "pytest-timeout==2.4.0",
            "numpy==2.4.6",
            "safetensors==0.8.0",
        ],
    }
}

/// The program of this version of Python, `3.11`, if it is on the `PATH` or pyenv has it.
pub fn python_program(version: &str) -> Option<PathBuf> {
    let name = format!("python{version}");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")));
    let installed = pyenv.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    let installed = installed.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    std::env::split_paths(&path)
        .filter(|dir| !dir.ends_with("shims"))
        .chain(installed)
        .map(|dir| dir.join(&name))
        .find(|program| makes_environments(program))
}

/// Debian has Pythons without `venv`.
fn makes_environments(program: &Path) -> bool {
    let check = Command::new(program)
        .args(["-c", "import venv, ensurepip"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    program.is_file() && check.is_ok_and(|status| status.success())
}

/// The Python of an environment that has what builds the package and checks its types.
///
/// # Errors
/// What is missing.
pub fn package_builder() -> Result<PathBuf> {
    environment("package-builder", Path::new("python3"), BUILDER_PINS)
}

/// The Python, of this version, of an environment with the libraries that read through the package.
///
/// # Errors
/// What is missing.
pub fn package_reader(version: &str, program: &Path) -> Result<PathBuf> {
    environment(&format!("package-reader-{}", version.replace('.', "-")), program, reader_pins(version))
}

fn environment(name: &str, program: &Path, pins: &[&str]) -> Result<PathBuf> {
    let dir = part(name, pins, |dir| {
        run(Command::new(program).args(["-m", "venv"]).arg(dir), dir, "python3 with its venv module")?;
        let mut pip = Command::new(dir.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(pins);
        run(&mut pip, dir, &format!("the Python packages {pins:?} of tests/src/environment/pythons.rs"))
    })?;
    Ok(dir.join("bin/python"))
}
