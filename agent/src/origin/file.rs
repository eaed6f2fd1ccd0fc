//! Directories and single files on this machine, network file systems included.
//!
//! Owns the walk, which symlinks may be followed, and reads that notice when a file changes under them.
//! A file's version is its modification time and size, never its inode, so that two NFS clients agree.

use std::{
    collections::HashSet,
    fs::{self, File, Metadata},
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::{Origin, changed, guard::AllowList, listing};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    snapshot::{FileVersion, RelativePath, Snapshot, SnapshotFile},
};

/// One read from disk: large enough that the hand-over to the blocking pool costs nothing beside it.
const READ_BYTES: u64 = 1 << 20;
/// Reads under way ahead of the consumer.
const READ_AHEAD: usize = 2;
/// How deep directories may nest.
const MAX_DEPTH: usize = 64;

/// A directory, or one file.
#[derive(Debug, Clone)]
pub(super) struct FileOrigin {
    reference: String,
    root: PathBuf,
    allow: AllowList,
}

impl FileOrigin {
    pub(super) fn new(reference: String, root: PathBuf, allow: AllowList) -> Self {
        Self { reference, root, allow }
    }

    fn list(&self) -> Result<Snapshot> {
        let real = self.real(&self.root)?;
        let metadata = fs::metadata(&real).at(|| self.root.display().to_string())?;
        let mut files = Vec::new();
        if metadata.is_dir() {
            let mut walk = Walk { origin: self, open: HashSet::from([real]), files: &mut files };
            walk.directory(&self.root, "", 0)?;
        } else {
            let name = self.root.file_name().and_then(|n| n.to_str()).ok_or_else(|| not_text(&self.root))?;
            files.push(described(name.parse()?, &metadata, &self.root)?);
        }
        listing::snapshot(&self.reference, None, files)
    }

    /// Where the root really is, if that may be read.
    pub(super) fn real_root(&self) -> Result<PathBuf> {
        self.real(&self.root)
    }

    /// Where `path` really is, if that may be read.
    pub(super) fn real(&self, path: &Path) -> Result<PathBuf> {
        let real = path.canonicalize().at(|| format!("{}: check that it exists", path.display()))?;
        if self.allow.permits_path(&real) || is_blob_of(&self.root, &real) {
            return Ok(real);
        }
        Err(Error::new(
            ErrorKind::Denied,
            format!("{} leads to {}, which origins.allow does not name", path.display(), real.display()),
        ))
    }

    fn open(&self, file: &SnapshotFile) -> Result<File> {
        let path = if self.root.is_dir() { self.root.join(file.path.as_str()) } else { self.root.clone() };
        let opened = File::open(self.real(&path)?).at(|| path.display().to_string())?;
        self.check(&opened, file)?;
        Ok(opened)
    }

    fn check(&self, opened: &File, file: &SnapshotFile) -> Result<()> {
        let metadata = opened.metadata().at(|| format!("{}/{}", self.root.display(), file.path))?;
        if metadata.len() != file.size || version_of(&metadata) != file.version {
            return Err(changed(&self.reference, file, "its modification time or size is another"));
        }
        Ok(())
    }
}

#[async_trait]
impl Origin for FileOrigin {
    async fn snapshot(&self) -> Result<Snapshot> {
        let origin = self.clone();
        blocking(move || origin.list()).await
    }

    async fn read(
        &self,
        file: &SnapshotFile,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let (origin, wanted) = (self.clone(), file.clone());
        let opened = Arc::new(blocking(move || origin.open(&wanted)).await?);
        let (origin, file) = (self.clone(), Arc::new(file.clone()));
        let starts = (range.start..range.end).step_by(READ_BYTES as usize);
        let pieces = stream::iter(starts).map(move |start| {
            let (origin, file, opened) = (origin.clone(), file.clone(), opened.clone());
            let end = range.end.min(start + READ_BYTES);
            blocking(move || {
                let piece = read_exactly(&opened, start..end, &origin.root)?;
                // After the read: a writer that came between shows in the modification time.
                origin.check(&opened, &file)?;
                Ok(piece)
            })
        });
        Ok(pieces.buffered(READ_AHEAD).boxed())
    }
}

/// Reads `range`, short only at the end of the file, into memory that is not zeroed first.
fn read_exactly(file: &File, range: Range<u64>, root: &Path) -> Result<Bytes> {
    let wanted = (range.end - range.start) as usize;
    let mut piece = Vec::with_capacity(wanted);
    while piece.len() < wanted {
        let at = range.start + piece.len() as u64;
        let read = rustix::io::pread(file, rustix::buffer::spare_capacity(&mut piece), at);
        match read {
            Ok(0) => break,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                return Err(std::io::Error::from(e)).at(|| format!("reading below {}", root.display()));
            }
        }
    }
    // The allocator may have given more than was asked for.
    piece.truncate(wanted);
    Ok(Bytes::from(piece))
}

/// Runs file work off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(Error::with_source(ErrorKind::Cancelled, "file work was abandoned", e)),
    }
}

struct Walk<'a> {
    origin: &'a FileOrigin,
    /// Directories between the root and here, by their real path: none may come twice.
    open: HashSet<PathBuf>,
    files: &'a mut Vec<SnapshotFile>,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &Path, below: &str, depth: usize) -> Result<()> {
        let reference = &self.origin.reference;
        if depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{} is nested too deep", directory.display()),
            ));
        }
        for entry in fs::read_dir(directory).at(|| directory.display().to_string())? {
            let entry = entry.at(|| directory.display().to_string())?;
            let path = entry.path();
            let name = entry.file_name().into_string().map_err(|_| not_text(&path))?;
            let relative = if below.is_empty() { name } else { format!("{below}/{name}") };
            if listing::is_control_file(&relative) && relative != listing::MANIFEST_FILE {
                continue;
            }
            let is_link = entry.file_type().at(|| path.display().to_string())?.is_symlink();
            let real = if is_link { Some(self.origin.real(&path)?) } else { None };
            let metadata = fs::metadata(&path).at(|| path.display().to_string())?;
            if metadata.is_dir() {
                let real = real.map_or_else(|| self.origin.real(&path), Ok)?;
                if !self.open.insert(real.clone()) {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!("{} leads into itself", path.display()),
                    ));
                }
                self.directory(&path, &relative, depth + 1)?;
                self.open.remove(&real);
            } else if metadata.is_file() {
                self.files.push(described(relative.parse()?, &metadata, &path)?);
                listing::check_count(reference, self.files.len())?;
            } else {
                tracing::warn!(path = %path.display(), "neither file nor directory, left out");
            }
        }
        Ok(())
    }
}

/// Whether `real` is a blob of the Hugging Face cache that `root` is a snapshot in. Such a snapshot is all
/// symlinks to `../../blobs`, so whoever may read the one may read the other.
fn is_blob_of(root: &Path, real: &Path) -> bool {
    let Ok(root) = root.canonicalize() else { return false };
    let snapshots = root.ancestors().find(|a| a.file_name().is_some_and(|n| n == "snapshots"));
    snapshots.and_then(Path::parent).is_some_and(|repository| real.starts_with(repository.join("blobs")))
}

fn described(path: RelativePath, metadata: &Metadata, at: &Path) -> Result<SnapshotFile> {
    if !metadata.is_file() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} is neither file nor directory", at.display()),
        ));
    }
    Ok(SnapshotFile { path, size: metadata.len(), version: version_of(metadata), digest: None })
}

pub(super) fn version_of(metadata: &Metadata) -> FileVersion {
    let nanoseconds = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    FileVersion { etag: Some(format!("{nanoseconds}-{}", metadata.len())), object_version: None }
}

fn not_text(path: &Path) -> Error {
    Error::new(ErrorKind::Invalid, format!("{} has a name that is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use futures::TryStreamExt;

    use super::*;

    fn origin(root: &Path) -> FileOrigin {
        FileOrigin::new(format!("file://{}", root.display()), root.to_owned(), AllowList::default())
    }

    async fn bytes(origin: &FileOrigin, file: &SnapshotFile, range: Range<u64>) -> Result<Vec<u8>> {
        let pieces: Vec<Bytes> = origin.read(file, range).await?.try_collect().await?;
        Ok(pieces.concat())
    }

    #[tokio::test]
    async fn ranges_around_the_read_size_come_back_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..2 * READ_BYTES + 1).map(|i| (i * 31 % 251) as u8).collect();
        fs::write(dir.path().join("m"), &content).unwrap();
        let origin = origin(dir.path());
        let file = origin.snapshot().await.unwrap().files.remove(0);
        let size = content.len() as u64;
        // Either side of one read, across two, the last short one, all.
        for range in
            [0..1, 0..READ_BYTES, 1..READ_BYTES + 1, READ_BYTES - 1..READ_BYTES + 1, size - 1..size, 0..size]
        {
            let got = bytes(&origin, &file, range.clone()).await.unwrap();
            assert!(got == content[range.start as usize..range.end as usize], "{range:?}");
        }
    }

    #[tokio::test]
    async fn a_snapshot_of_a_hugging_face_cache_is_read_through_its_symlinks() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("models--org--name");
        let snapshot = repository.join("snapshots/abc/onnx");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(repository.join("blobs")).unwrap();
        fs::write(repository.join("blobs/deadbeef"), b"weights").unwrap();
        symlink("../../../blobs/deadbeef", snapshot.join("model.onnx")).unwrap();
        let mut origin = origin(&repository.join("snapshots/abc"));
        origin.allow = AllowList::new(&[format!("file://{}", repository.join("snapshots").display())]);
        let listed = origin.snapshot().await.unwrap();
        assert_eq!(listed.files[0].path.as_str(), "onnx/model.onnx");
        assert_eq!(bytes(&origin, &listed.files[0], 2..7).await.unwrap(), b"ights");
    }

    #[tokio::test]
    async fn a_symlink_out_of_what_is_allowed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let models = dir.path().join("models");
        fs::create_dir(&models).unwrap();
        fs::write(dir.path().join("shadow"), b"secret").unwrap();
        symlink("../shadow", models.join("model.bin")).unwrap();
        let mut origin = origin(&models);
        origin.snapshot().await.unwrap();
        origin.allow = AllowList::new(&[format!("file://{}", models.display())]);
        assert_eq!(origin.snapshot().await.unwrap_err().kind(), ErrorKind::Denied);
    }

    #[tokio::test]
    async fn a_directory_that_leads_into_itself_ends() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        symlink("..", dir.path().join("a/up")).unwrap();
        let error = origin(dir.path()).snapshot().await.unwrap_err();
        assert!(error.to_string().contains("leads into itself"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_changed_is_not_read_as_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        fs::write(&path, b"version one").unwrap();
        let origin = origin(&path);
        let file = origin.snapshot().await.unwrap().files.remove(0);
        assert_eq!(file.path.as_str(), "m");
        // The same size: only the modification time tells.
        fs::write(&path, b"version two").unwrap();
        File::open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let error = bytes(&origin, &file, 0..11).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("origin changed"), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_there_is_named() {
        let error = origin(Path::new("/nowhere/model")).snapshot().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/nowhere/model"), "{error}");
    }
}
