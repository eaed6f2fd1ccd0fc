//! PyTorch, without the gigabytes of CUDA that its wheels from PyPI need to be imported: Debian's, for the CPU.
//!
//! Debian's packages are unpacked into the cache, not installed. Beside them an environment of Debian's own Python
//! with what reads through the package `emberline`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::{
    Result,
    cache::{part, run},
};

const PINS: &[&str] =
    &["fsspec==2026.9.0", "aiohttp==3.14.5", "pytest==9.2.0", "pytest-timeout==2.4.0", "safetensors==0.4.5"];
/// What reads tensors from S3. They ask for a PyTorch of version 2, and work with Debian's.
const S3_PINS: &[&str] = &[
    "runai-model-streamer==0.17.0",
    "runai-model-streamer-s3==0.17.0",
    "s3torchconnector==1.5.0",
    "s3torchconnectorclient==1.5.0",
    "tensorizer==2.12.1",
];
/// What those need besides PyTorch.
const S3_NEEDS: &[&str] = &[
    "boto3==1.44.8",
    "hiredis==3.5.0",
    "humanize==4.17.0",
    "libnacl==2.1.0",
    "protobuf==7.36.2",
    "psutil==7.2.2",
    "redis==8.1.0",
];
/// The last of `transformers` that works with PyTorch 1.
const TRANSFORMERS_PINS: &[&str] = &[
    "transformers==4.44.2",
    "huggingface_hub==0.36.2",
    "numpy==1.26.4",
    "safetensors==0.4.5",
    "tokenizers==0.19.1",
];
/// What is unpacked: Debian 12 has 1.13.1.
const PACKAGE: &str = "python3-torch";
const PYTHON: &str = "/usr/bin/python3";

/// A program that starts a Python with PyTorch.
///
/// # Errors
/// What is missing: it is to be had as root on Debian and Ubuntu.
pub fn debian_torch() -> Result<PathBuf> {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!("missing: Debian's {PACKAGE}, which root can have from apt-get"));
    }
    let dir = part("torch", &[PINS, &[PACKAGE]].concat(), |dir| {
        let missing = format!("Debian's {PACKAGE}");
        let make = |at: &Path| std::fs::create_dir_all(at).map_err(|e| format!("{}: {e}", at.display()));
        let (archives, root) = (dir.join("archives"), dir.join("root"));
        make(&archives.join("partial"))?;
        make(&root)?;
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive");
            command.args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o"]);
            command.arg(format!("Dir::Cache::archives={}", archives.display())).args(arguments);
            run(&mut command, dir, &missing)
        };
        apt(&["update"])?;
        apt(&["install", "--download-only", "--no-install-recommends", PACKAGE])?;
        let unpack = "for archive in archives/*.deb; do dpkg -x \"$archive\" root; done; rm -r archives";
        run(Command::new("sh").args(["-ec", unpack]), dir, &missing)?;
        environment(dir, &root, &[], PINS)?;
        run(Command::new("./python").args(["-c", "import torch"]), dir, &missing)
    })?;
    Ok(dir.join("python"))
}

/// As [`debian_torch`], with the clients of S3 that are for PyTorch.
///
/// # Errors
/// As there.
pub fn s3_torch() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf>> = OnceLock::new();
    MADE.get_or_init(|| {
        let torch = debian_torch()?;
        let root = torch.with_file_name("root");
        let pins = [S3_PINS, S3_NEEDS, &[PACKAGE]].concat();
        let dir = part("s3-torch", &pins, |dir| environment(dir, &root, S3_PINS, S3_NEEDS))?;
        Ok(dir.join("python"))
    })
    .clone()
}

/// As [`debian_torch`], with `transformers`.
///
/// # Errors
/// As there.
pub(super) fn transformers_torch() -> Result<PathBuf> {
    let root = debian_torch()?.with_file_name("root");
    let pins = [TRANSFORMERS_PINS, &[PACKAGE]].concat();
    let dir = part("transformers-torch", &pins, |dir| environment(dir, &root, &[], TRANSFORMERS_PINS))?;
    Ok(dir.join("python"))
}

/// An environment of Debian's own Python that sees what is unpacked in `root`, and `python` that starts it; with
/// `files` without what they depend on.
fn environment(dir: &Path, root: &Path, files: &[&str], packages: &[&str]) -> Result<()> {
    run(Command::new(PYTHON).args(["-m", "venv", "environment"]), dir, "python3-venv")?;
    for (options, pins) in [(&["--no-deps"][..], files), (&[][..], packages)] {
        if pins.is_empty() {
            continue;
        }
        let mut pip = Command::new(dir.join("environment/bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(options).args(pins);
        run(&mut pip, dir, &format!("the Python packages {pins:?} of tests/src/environment/torch.rs"))?;
    }
    // Behind the environment's own, and the system's last: what was installed was not unpacked.
    let paths = format!("{}/usr/lib/python3/dist-packages\n/usr/lib/python3/dist-packages\n", root.display());
    let link = "printf %s \"$1\" >\"$(echo environment/lib/python3*/site-packages)/debian.pth\"";
    run(Command::new("sh").args(["-ec", link, "sh", &paths]), dir, "a shell")?;
    let program = format!(
        "#!/bin/sh\n\
         root='{}'\n\
         for lib in \"$root\"/usr/lib \"$root\"/usr/lib/*-linux-gnu \"$root\"/lib/*-linux-gnu \\\n\
           \"$root\"/usr/lib/*-linux-gnu/blas \"$root\"/usr/lib/*-linux-gnu/lapack; do\n\
           LD_LIBRARY_PATH=$lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n\
         done\n\
         export LD_LIBRARY_PATH\n\
         exec \"$(dirname \"$0\")/environment/bin/python\" \"$@\"\n",
        root.display()
    );
    let place = dir.join("python");
    std::fs::write(&place, program).map_err(|e| format!("{}: {e}", place.display()))?;
    run(Command::new("chmod").args(["755", "python"]), dir, "chmod")
}
