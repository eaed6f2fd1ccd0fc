//! Files that only their owner may read: how they are checked, read and made.
//!
//! Knows nothing of what is in them.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::error::{Error, ErrorKind, IoContext, Result};

/// No secret, key or certificate chain is longer, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a small file.
pub(super) fn read(what: &str, path: &Path) -> Result<Vec<u8>> {
    read_open(what, path, fs::File::open(path).at(|| format!("cannot open {what} {}", path.display()))?)
}

/// Reads a small file, refused when group or others may read or change it.
pub(super) fn read_private(what: &str, path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path).at(|| format!("cannot open {what} {}", path.display()))?;
    let mode = file.metadata().at(|| format!("cannot stat {what} {}", path.display()))?.mode();
    if mode & 0o077 != 0 {
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "{what} {path} can be read by others (mode {:o}); run: chmod 600 {path}",
                mode & 0o777,
                path = path.display()
            ),
        ));
    }
    read_open(what, path, file)
}

fn read_open(what: &str, path: &Path, file: fs::File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .at(|| format!("cannot read {what} {}", path.display()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{what} {} is larger than {MAX_BYTES} bytes", path.display()),
        ));
    }
    Ok(bytes)
}

/// Makes `path` with mode 0600 and `bytes` in it, all at once; false when it was there already.
/// Two processes that do this at the same moment agree on one winner.
pub(super) fn write_new(what: &str, path: &Path, bytes: &[u8]) -> Result<bool> {
    let draft = draft_beside(path);
    let written = write_draft(&draft, bytes).at(|| format!("cannot write {what} {}", path.display()));
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e).at(|| format!("cannot create {what} {}", path.display())),
    });
    // The draft has served its purpose either way; one left behind is private and harmless.
    let _ = fs::remove_file(&draft);
    if let (Ok(true), Some(folder)) = (&linked, path.parent())
        && let Ok(folder) =
            fs::File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
    {
        folder.sync_all().at(|| format!("cannot sync the folder of {what} {}", path.display()))?;
    }
    linked
}

fn write_draft(draft: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn draft_beside(path: &Path) -> PathBuf {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{nanos}.draft", std::process::id()));
    path.with_file_name(name)
}
