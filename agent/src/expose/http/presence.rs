//! How much of a file is here, as JSON: its ranges, and its place on this disk once it is whole.
//!
//! For clients that read what came first, or that open a whole file by its path instead of asking for its bytes.
//! Tells a path only of what is sealed, and with it what proves that the path leads to the same file: who asks
//! may be on another machine, or see other mounts.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::{
    api::{FilePresence, LocalFile},
    error::{ErrorKind, Result},
    namespace::NamespacePath,
    reader::LazyFile,
};

/// An answer waits so long for what it is to wait for; less than an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Chunks come without a word to who does not read them: so often they are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What an answer waits for, a while.
pub(super) struct Awaited {
    /// More bytes than so many.
    pub(super) more_than: Option<u64>,
    /// That the file is sealed.
    pub(super) sealed: bool,
}

/// How much of `file` is here, as soon as what is awaited is true or has taken too long. Cancel-safe.
///
/// # Errors
/// As [`LazyFile::wait_sealed`], but that it is late is no error.
pub(super) async fn of(path: &NamespacePath, file: LazyFile, awaited: Awaited) -> Result<FilePresence> {
    let deadline = Instant::now() + PATIENCE;
    if awaited.sealed {
        match file.wait_sealed(deadline).await {
            Err(e) if e.kind() != ErrorKind::Timeout => return Err(e),
            Ok(_) | Err(_) => {}
        }
    }
    loop {
        file.look().await?;
        let told = told(path, &file).await;
        let waits = awaited.more_than.is_some_and(|bytes| told.here_bytes <= bytes && told.state == COMING);
        if !waits || Instant::now() >= deadline {
            return Ok(told);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

const SEALED: &str = "sealed";
const COMING: &str = "coming";

async fn told(path: &NamespacePath, file: &LazyFile) -> FilePresence {
    let sealed = file.sealed();
    let here = match &sealed {
        Some(_) if file.bytes() == 0 => Vec::new(),
        Some(_) => vec![[0, file.bytes()]],
        None => file.here().into_iter().map(|range| [range.start, range.end]).collect(),
    };
    let state = if sealed.is_some() { SEALED } else { COMING };
    let local = match sealed {
        // Without a place it is read through the door.
        Some(sealed) => tokio::task::spawn_blocking(move || place_of(&sealed.file)).await.unwrap_or(None),
        None => None,
    };
    FilePresence {
        path: path.to_string(),
        state: state.to_owned(),
        bytes: file.bytes(),
        etag: file.etag().to_owned(),
        modified: file.modified().and_then(seconds),
        here_bytes: here.iter().map(|[start, end]| end - start).sum(),
        here,
        local,
    }
}

/// Since the epoch.
pub(super) fn seconds(at: SystemTime) -> Option<f64> {
    Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

/// Where an open file is; `None` where it lost its name meanwhile.
fn place_of(file: &File) -> Option<LocalFile> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let (open, named) = (file.metadata().ok()?, fs::metadata(&path).ok()?);
    let is_same = (open.dev(), open.ino()) == (named.dev(), named.ino());
    path.to_str()?;
    let boot_id = fs::read_to_string(BOOT_ID).ok()?.trim().to_owned();
    is_same.then_some(LocalFile { path, boot_id, device: open.dev(), inode: open.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_has_a_place_until_its_name_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("m");
        fs::write(&path, b"weights").unwrap();
        let open = File::open(&path).unwrap();
        let place = place_of(&open).unwrap();
        assert_eq!((place.path, place.inode), (path.clone(), fs::metadata(&path).unwrap().ino()));
        fs::remove_file(&path).unwrap();
        assert_eq!(place_of(&open), None);
        // Another file by the same name is not it.
        fs::write(&path, b"other").unwrap();
        assert_eq!(place_of(&open), None);
    }
}
