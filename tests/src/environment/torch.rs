//! PyTorch, without the gigabytes of CUDA that its wheels from PyPI need to be imported: Debian's, for the CPU.
//!
//! Debian's packages are unpacked into the cache, not installed. Beside them an environment of Debian's own Python
//! with what reads through the package `emberline`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Result,
    cache::{part, run},
};

const PINS: &[&str] =
    &["fsspec==2026.9.0", "aiohttp==3.14.5", "pytest==9.2.0", "pytest-timeout==2.4.0", "safetensors==0.4.5"];
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
        run(Command::new(PYTHON).args(["-m", "venv", "environment"]), dir, "python3-venv")?;
        let mut pip = Command::new(dir.join("environment/bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PINS);
        run(&mut pip, dir, &format!("the Python packages {PINS:?} of tests/src/environment/torch.rs"))?;
        // Behind the environment's own, and the system's last: what was installed was not unpacked.
        let paths =
            format!("{}/usr/lib/python3/dist-packages\n/usr/lib/python3/dist-packages\n", root.display());
        let link = "printf %s \"$1\" >\"$(echo environment/lib/python3*/site-packages)/debian.pth\"";
        run(Command::new("sh").args(["-ec", link, "sh", &paths]), dir, "a shell")?;
        let program = "#!/bin/sh\n\
            here=$(dirname \"$0\")\n\
            for lib in \"$here\"/root/usr/lib \"$here\"/root/usr/lib/*-linux-gnu \"$here\"/root/lib/*-linux-gnu \\\n\
              \"$here\"/root/usr/lib/*-linux-gnu/blas \"$here\"/root/usr/lib/*-linux-gnu/lapack; do\n\
              LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\n\
            done\n\
            export LD_LIBRARY_PATH\n\
            exec \"$here/environment/bin/python\" \"$@\"\n";
        let place = dir.join("python");
        std::fs::write(&place, program).map_err(|e| format!("{}: {e}", place.display()))?;
        run(Command::new("chmod").args(["755", "python"]), dir, "chmod")?;
        run(Command::new("./python").args(["-c", "import torch"]), dir, &missing)
    })?;
    Ok(dir.join("python"))
}
