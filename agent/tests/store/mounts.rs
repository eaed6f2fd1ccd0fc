//! File systems made for a test, and taken down with it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A mounted file system; unmounted when dropped.
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
    _dir: TempDir,
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Says on stderr, past the capture of test output, that something was not tested.
fn shout(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: the store was NOT tested on {what}: {why}\n");
}

impl Mount {
    /// A tmpfs, `None` (said loudly) where it cannot be mounted.
    pub(crate) fn tmpfs(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_owned();
        match run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &at.to_string_lossy()]) {
            Ok(()) => Some(Self { at, _dir: dir }),
            Err(why) => {
                shout("tmpfs", &why);
                None
            }
        }
    }

    /// A file system of `kind` in an image of `size` bytes that lies in `images`.
    pub(crate) fn image(kind: &str, images: &Path, size: u64) -> Option<Self> {
        match Self::try_image(kind, images, size) {
            Ok(mount) => Some(mount),
            Err(why) => {
                shout(kind, &why);
                None
            }
        }
    }

    fn try_image(kind: &str, images: &Path, size: u64) -> Result<Self, String> {
        let program = format!("mkfs.{kind}");
        if Command::new(&program).arg("-V").output().is_err() {
            // A development machine; where this is not allowed, the message below says so.
            let package = match kind {
                "xfs" => "xfsprogs",
                "btrfs" => "btrfs-progs",
                _ => "e2fsprogs",
            };
            run("apt-get", &["install", "-y", "--no-install-recommends", package])?;
        }
        let image = images.join(format!("{kind}.img"));
        let made = std::fs::File::create(&image).and_then(|f| f.set_len(size));
        made.map_err(|e| e.to_string())?;
        run(&program, &[if kind == "ext4" { "-F" } else { "-f" }, &image.to_string_lossy()])?;
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_owned();
        run("mount", &["-o", "loop", &image.to_string_lossy(), &at.to_string_lossy()])?;
        Ok(Self { at, _dir: dir })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let at = self.at.to_string_lossy().into_owned();
        if run("umount", &[&at]).is_err() {
            let _ = run("umount", &["-l", &at]);
        }
    }
}
