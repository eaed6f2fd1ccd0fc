//! The directory that is mounted on: whether it can be, what a dead agent left there, and how far the kernel
//! reads ahead.
//!
//! Reads the kernel's table of mounts rather than asking the mount itself, which may be dead or hang.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::mount::UnmountFlags;

use crate::error::{Error, ErrorKind, IoContext, Result};

/// How the mount is called in the table.
pub(super) const SOURCE: &str = "emberline";
/// Read ahead of a sequential reader: enough to have several chunks asked for at a time.
const READ_AHEAD_KIB: u32 = 4096;
/// Dead mounts on top of each other that are cleared.
const DEAD_MAX: usize = 16;
const DEVICE: &str = "/dev/fuse";

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    device: String,
    at: PathBuf,
    kind: String,
    source: String,
}

/// Makes sure that `mountpoint` can be mounted on, and says it as the kernel does. Clears what an agent that
/// died left there. Blocks; for as long as a mount hangs that is there already.
///
/// # Errors
/// `NotFound` and `Invalid` for a directory that is missing, not empty or in use, or a machine without FUSE.
pub(super) fn prepare(mountpoint: &Path) -> Result<PathBuf> {
    expect_device()?;
    let at = real(mountpoint)?;
    for _ in 0..DEAD_MAX {
        let Some(line) = top(&at)? else { break };
        // Opened, not looked at: the kernel remembers for a while what a mount that died last said of itself.
        match fs::read_dir(&at) {
            Err(e) if is_dead(&e) && line.source == SOURCE => {
                tracing::warn!(mountpoint = %at.display(), "clearing the mount of an agent that died");
                detach(&at)?;
            }
            _ => return Err(in_use(&at, &line)),
        }
    }
    expect_empty(&at)?;
    Ok(at)
}

/// Looks whether `mountpoint` can be mounted on, and changes nothing. What an agent has mounted there is its own
/// mount, alive or dead.
///
/// # Errors
/// As [`prepare`].
pub(super) fn check(mountpoint: &Path) -> Result<()> {
    expect_device()?;
    let at = real(mountpoint)?;
    match top(&at)? {
        Some(line) if line.source == SOURCE => Ok(()),
        Some(line) => Err(in_use(&at, &line)),
        None => expect_empty(&at),
    }
}

fn expect_device() -> Result<()> {
    if Path::new(DEVICE).exists() {
        return Ok(());
    }
    let text = "there is no /dev/fuse: load the kernel's fuse module (`modprobe fuse`), or give this container the device";
    Err(Error::new(ErrorKind::NotFound, text))
}

fn in_use(at: &Path, line: &Line) -> Error {
    let (at, Line { source, kind, .. }) = (at.display(), line);
    Error::new(ErrorKind::Invalid, format!("mountpoint {at} is in use: {source} ({kind}) is mounted there"))
}

fn expect_empty(at: &Path) -> Result<()> {
    let shown = || format!("mountpoint {}", at.display());
    match fs::read_dir(at) {
        Ok(mut names) => match names.next() {
            None => Ok(()),
            Some(_) => {
                let text = format!("{} is not empty: choose an empty directory", shown());
                Err(Error::new(ErrorKind::Invalid, text))
            }
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let text = format!("{0} does not exist: make it with `mkdir -p {1}`", shown(), at.display());
            Err(Error::new(ErrorKind::NotFound, text))
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            Err(Error::new(ErrorKind::Invalid, format!("{} is not a directory", shown())))
        }
        Err(e) => Err(e).at(shown),
    }
}

/// What mounting failed with, in words that help.
pub(super) fn explain(at: &Path, e: io::Error) -> Error {
    let is_root = rustix::process::geteuid().is_root();
    let advice = match e.kind() {
        io::ErrorKind::NotFound if !is_root => {
            "; an ordinary user mounts by fusermount3: install it (package fuse3)"
        }
        io::ErrorKind::NotFound => "; without CAP_SYS_ADMIN it takes fusermount3 (package fuse3)",
        io::ErrorKind::PermissionDenied => {
            "; it takes CAP_SYS_ADMIN, or fusermount3 and a readable /dev/fuse"
        }
        _ => "",
    };
    let kind = match e.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::UNAVAILABLE,
    };
    Error::new(kind, format!("cannot mount at {}: {e}{advice}", at.display()))
}

/// Takes a mount away from its directory; who has files open keeps them. Blocks.
///
/// # Errors
/// `Unavailable` with the reason.
pub(super) fn detach(at: &Path) -> Result<()> {
    match rustix::mount::unmount(at, UnmountFlags::DETACH) {
        // Not mounted any more is as good.
        Ok(()) | Err(rustix::io::Errno::INVAL) => return Ok(()),
        Err(rustix::io::Errno::PERM) => {}
        Err(e) => return Err(io::Error::from(e)).at(|| format!("unmount {}", at.display())),
    }
    let output = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(at).stdin(Stdio::null()).output();
    let output = output.at(|| "fusermount3 (package fuse3)".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(ErrorKind::UNAVAILABLE, format!("unmount {}: {}", at.display(), words.trim())))
}

/// Has the kernel read further ahead in this mount than its usual 128 KiB. Blocks.
///
/// # Errors
/// `Denied` for who is not root.
pub(super) fn read_further_ahead(at: &Path) -> Result<()> {
    let line = top(at)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("{} is not in the table of mounts", at.display()))
    })?;
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", line.device);
    fs::write(&setting, READ_AHEAD_KIB.to_string()).at(|| setting.clone())
}

/// The path as the kernel has it. What is above a mountpoint can be looked at even if the mount is dead.
fn real(mountpoint: &Path) -> Result<PathBuf> {
    let shown = || format!("mountpoint {}", mountpoint.display());
    let absolute = std::path::absolute(mountpoint).at(shown)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            let at = parent.canonicalize().at(shown)?.join(name);
            // A link leads elsewhere; one cannot mount on it.
            match fs::symlink_metadata(&at) {
                Ok(found) if found.is_symlink() => at.canonicalize().at(shown),
                _ => Ok(at),
            }
        }
        _ => Err(Error::new(ErrorKind::Invalid, format!("{} is no directory below /", shown()))),
    }
}

fn is_dead(e: &io::Error) -> bool {
    let codes = [rustix::io::Errno::NOTCONN, rustix::io::Errno::CONNABORTED];
    codes.iter().any(|code| e.raw_os_error() == Some(code.raw_os_error()))
}

/// The uppermost mount at a directory.
fn top(at: &Path) -> Result<Option<Line>> {
    let table = fs::read_to_string("/proc/self/mountinfo").at(|| "/proc/self/mountinfo".to_owned())?;
    Ok(table.lines().filter_map(parse).rfind(|line| line.at == at))
}

/// See proc_pid_mountinfo(5): fields, any number of optional ones up to a dash, type, source, options.
fn parse(line: &str) -> Option<Line> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let (device, _root, at) = (before.next()?, before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, source) = (after.next()?, after.next()?);
    Some(Line {
        device: device.to_owned(),
        at: PathBuf::from(unescaped(at)),
        kind: kind.to_owned(),
        source: unescaped(source),
    })
}

/// Blank, tab, newline and backslash are three octal digits there.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_of_mounts_is_understood() {
        let line =
            parse("36 35 0:53 / /mnt/a\\040b rw,noatime shared:1 master:2 - fuse emberline rw,user_id=0");
        let expected = Line {
            device: "0:53".to_owned(),
            at: "/mnt/a b".into(),
            kind: "fuse".to_owned(),
            source: "emberline".to_owned(),
        };
        assert_eq!(line, Some(expected));
        assert_eq!(parse("rubbish"), None);
    }

    #[test]
    fn a_mountpoint_that_cannot_be_is_refused_with_its_name() {
        if !Path::new(DEVICE).exists() {
            eprintln!("SKIPPED a_mountpoint_that_cannot_be_is_refused_with_its_name: no {DEVICE}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (full, file, missing) = (dir.path().join("full"), dir.path().join("file"), dir.path().join("no"));
        fs::create_dir(&full).unwrap();
        fs::write(full.join("x"), "x").unwrap();
        fs::write(&file, "x").unwrap();
        for (at, why) in [(&full, "is not empty"), (&file, "is not a directory"), (&missing, "mkdir -p")] {
            for refused in [prepare(at).unwrap_err(), check(at).unwrap_err()] {
                let refused = refused.to_string();
                assert!(refused.contains(why) && refused.contains(&at.display().to_string()), "{refused}");
            }
        }
        for refused in [prepare(Path::new("/proc")).unwrap_err(), check(Path::new("/proc")).unwrap_err()] {
            assert!(refused.to_string().contains("in use"), "{refused}");
        }
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        check(&empty).unwrap();
    }
}
