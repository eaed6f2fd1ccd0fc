//! The package `emberline` for Python: built, typed, and read through on every Python of this machine.
//!
//! The checks themselves are pytest's, in `integrations/python/tests`, with fsspec's own abstract suite among
//! them; they start real agents and origins. Here is what they need, and that they were run.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use emberline_tests::{
    binaries::{Binaries, workspace_root},
    conformance,
    environment::{self, Nginx, PYTHON_VERSIONS},
    scratch::scratch,
};

fn package() -> PathBuf {
    workspace_root().join("integrations/python")
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(program: &Path, args: &[&OsStr]) -> Output {
    Command::new(program)
        .args(args)
        .current_dir(package())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// The wheel, built by the backend that `pyproject.toml` names.
fn wheel() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let python = environment::package_builder().expect("pinned tools from PyPI");
        let dir = scratch("wheel").expect("a folder");
        let args = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"];
        let mut args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        args.extend([dir.as_os_str(), ".".as_ref()]);
        let output = run(&python, &args);
        assert!(output.status.success(), "{}", words(&output));
        let mut found = fs::read_dir(dir).expect("a directory").filter_map(|entry| Some(entry.ok()?.path()));
        found.find(|path| path.extension().is_some_and(|e| e == "whl")).expect("a wheel")
    })
}

/// Puts the wheel, and nothing else, into a folder for `PYTHONPATH`.
fn installed(python: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    let args = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target"];
    let mut args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    args.extend([dir.path().as_os_str(), wheel().as_os_str()]);
    let output = run(python, &args);
    assert!(output.status.success(), "{}", words(&output));
    dir
}

#[test]
fn the_wheel_says_that_it_is_typed_and_the_types_hold() {
    let python = environment::package_builder().expect("pinned tools from PyPI");
    let listed = run(&python, &["-m".as_ref(), "zipfile".as_ref(), "-l".as_ref(), wheel().as_os_str()]);
    for name in ["emberline/py.typed", "emberline/filesystem.py", "entry_points.txt"] {
        assert!(words(&listed).contains(name), "{name} is not in\n{}", words(&listed));
    }
    let cache = tempfile::tempdir().expect("temporary directory");
    let check = |files: &[&OsStr]| {
        let args: [&OsStr; 4] =
            ["-m".as_ref(), "mypy".as_ref(), "--cache-dir".as_ref(), cache.path().as_os_str()];
        run(&python, &[&args[..], files].concat())
    };
    let checked = check(&[]);
    assert!(checked.status.success(), "{}", words(&checked));
    // A checker that accepts anything checks nothing.
    let wrong = cache.path().join("wrong.py");
    fs::write(&wrong, "from emberline.reference import namespace_path\nx: int = namespace_path('a')\n")
        .expect("writable");
    let checked = Command::new(&python)
        .args(["-m", "mypy", "--config-file", "pyproject.toml"])
        .arg(&wrong)
        .env("MYPYPATH", package().join("src"))
        .current_dir(package())
        .output()
        .expect("mypy starts");
    assert!(words(&checked).contains("Incompatible types"), "{}", words(&checked));
}

/// Runs pytest with what the tests need, and records what it saw each client do. Its last words.
fn pytest(python: &Path, python_version: &str, args: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("temporary directory");
    let records = dir.path().join("records");
    let output = run_pytest(python, &records, args);
    assert!(output.status.success(), "Python {python_version}:\n{}", words(&output));
    let lines = fs::read_to_string(&records).expect("records");
    let seen: BTreeSet<Client> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert!(!seen.is_empty(), "no client was seen to do anything");
    for Client { client, version, what } in seen {
        conformance::record("fsspec", &client, &version, &what);
    }
    words(&output).lines().last().unwrap_or_default().to_owned()
}

/// One line of what pytest writes.
#[derive(PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
struct Client {
    client: String,
    version: String,
    what: String,
}

fn run_pytest(python: &Path, records: &Path, args: &[&str]) -> Output {
    let package_dir = installed(python);
    let agent = Binaries::locate().expect("the programs").agent;
    Command::new(python)
        .args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--color=no"])
        .args(args)
        .current_dir(package())
        .env("PYTHONPATH", package_dir.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("EMBERLINE_TEST_AGENT", agent)
        .env("EMBERLINE_TEST_RECORDS", records)
        .stdin(Stdio::null())
        .output()
        .expect("pytest starts")
}

#[test]
fn pytorch_reads_through_it_and_a_data_loader_reads_a_slow_origin_once() {
    drop(Nginx::start(Path::new("/nonexistent"), "").expect("nginx"));
    let python = match environment::debian_torch() {
        Ok(python) => python,
        Err(missing) => {
            eprintln!(
                "SKIPPED pytorch_reads_through_it_and_a_data_loader_reads_a_slow_origin_once: {missing}"
            );
            return;
        }
    };
    let told = pytest(&python, "3 of Debian", &["tests/test_torch.py"]);
    assert!(!told.contains("skipped"), "{told}");
}

#[test]
fn fsspec_and_what_reads_through_it_work_on_every_python_here() {
    // The tests start more of these; the first sees that there is one.
    drop(Nginx::start(Path::new("/nonexistent"), "").expect("nginx"));
    Binaries::locate().expect("the programs");
    let mut found = 0;
    std::thread::scope(|scope| {
        for version in PYTHON_VERSIONS {
            let Some(program) = environment::python_program(version) else {
                eprintln!("SKIPPED Python {version}: neither python{version} on PATH nor pyenv has it");
                continue;
            };
            found += 1;
            scope.spawn(move || {
                let python =
                    environment::package_reader(version, &program).expect("pinned packages from PyPI");
                let told = pytest(&python, version, &["--ignore", "tests/test_torch.py"]);
                eprintln!("Python {version}: {told}");
                conformance::record("fsspec", "Python", version, "the tests of the package `emberline`");
            });
        }
    });
    assert!(found > 0, "no Python of {PYTHON_VERSIONS:?} with venv is here");
}
