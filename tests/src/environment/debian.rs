//! Programs of the system, installed from Debian's packages where they are missing and root runs the tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use super::{Result, cache};

/// Held by whoever installs: apt-get does not wait for another one that fetches its lists.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Where the system has the program `name`, which Debian's `package` brings.
///
/// # Errors
/// What is missing.
pub fn system_program(name: &str, package: &str) -> Result<PathBuf> {
    if let Some(found) = found(name) {
        return Ok(found);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!("missing: {name} (apt-get install {package})"));
    }
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = found(name) {
        return Ok(found);
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300"]);
        cache::run(command.args(arguments), Path::new("/"), &format!("Debian's {package}"))
    };
    apt(&["update"])?;
    apt(&["install", "--no-install-recommends", package])?;
    found(name).ok_or_else(|| format!("{package} was installed, but there is no {name}"))
}

fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|p| p.is_file())
}
