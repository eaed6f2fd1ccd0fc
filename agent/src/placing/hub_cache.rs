//! The cache layout of the Hub's own clients, made of links.
//!
//! ```text
//! DIR/models--org--name/blobs/<SHA-256 or git id>    a second name of the store's file, or its blocks, or a link to it
//!                      /snapshots/<commit>/<path>    a link to the blob
//!                      /refs/<branch or tag>         the commit that it stands for; written last
//! ```
//!
//! Never a copy: where the directory is on another file system, blobs are symbolic links to the store's files, and
//! hold as long as these do. What is there already stays if it is right.
//!
//! Source: the layout as `huggingface_hub` 0.36 and 2.4 accept it with `HF_HUB_OFFLINE=1`.

use std::{
    ffi::OsStr,
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
};

use super::{DIRECTORY, Placed, Temporary, Way, descend, is_same, make_directory};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    reference::{HubKind, HubRepo},
    snapshot::{Digest, RelativePath},
    store::OpenedFile,
};

/// A file of a commit.
pub struct HubCacheFile {
    /// Where it is in the repository.
    pub path: RelativePath,
    /// What the Hub names its content by.
    pub digest: Option<Digest>,
    /// The store's file.
    pub opened: OpenedFile,
}

/// Where a commit of a repository is in a cache.
pub fn hub_snapshot_dir(cache: &Path, repo: &HubRepo, commit: &str) -> PathBuf {
    repository_dir(cache, repo).join("snapshots").join(commit)
}

fn repository_dir(cache: &Path, repo: &HubRepo) -> PathBuf {
    let kind = match repo.kind {
        HubKind::Model => "models",
        HubKind::Dataset => "datasets",
        HubKind::Space => "spaces",
    };
    cache.join(format!("{kind}--{}", repo.name.replace('/', "--")))
}

/// Places `files` of `repo` at `commit` in the cache at `cache`, which is made if it is not there. Blocks; durable
/// when it returns.
///
/// # Errors
/// `Invalid` for a file whose content the Hub does not name, and where something stands in a file's place that is
/// none; `NotFound` when a file left the store meanwhile; `Denied`; `Full`.
pub fn place_in_hub_cache(
    files: &[HubCacheFile],
    repo: &HubRepo,
    commit: &str,
    cache: &Path,
) -> Result<Placed> {
    let root = repository_dir(cache, repo);
    let shown = || format!("directory {}", root.display());
    make_directory(&root).at(shown)?;
    let root = rustix::fs::open(&root, DIRECTORY, Mode::empty()).map_err(io::Error::from).at(shown)?;
    let mut placed = Placed::default();
    for file in files {
        let way = place_file(&root, commit, file)
            .map_err(|e| e.context(format!("place {} in the Hub cache {}", file.path, cache.display())))?;
        placed.count(way, file.opened.bytes);
    }
    if repo.revision != commit {
        write_ref(&root, &repo.revision, commit)
            .map_err(|e| e.context(format!("name {} in the Hub cache {}", repo.revision, cache.display())))?;
    }
    Ok(placed)
}

fn place_file(root: &OwnedFd, commit: &str, file: &HubCacheFile) -> Result<Way> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let blob = match &file.digest {
        Some(Digest::Sha256(digest)) => hex(digest),
        Some(Digest::GitSha1(digest)) => hex(digest),
        Some(Digest::Md5(_)) | None => {
            return Err(Error::new(ErrorKind::Invalid, "the Hub does not name its content by a digest"));
        }
    };
    let way = place_blob(&descend(root, "blobs")?, &blob, &file.opened)?;
    let path = format!("snapshots/{commit}/{}", file.path);
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let up = "../".repeat(parents.split('/').count());
    place_link(&descend(root, parents)?, name, &format!("{up}blobs/{blob}"))?;
    Ok(way)
}

/// Gives the store's file the name `blob` without copying it.
fn place_blob(blobs: &OwnedFd, blob: &str, file: &OpenedFile) -> Result<Way> {
    let in_store = format!("/proc/self/fd/{}", file.file.as_raw_fd());
    match rustix::fs::statat(blobs, blob, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => match FileType::from_raw_mode(there.st_mode) {
            FileType::RegularFile => {
                if is_same(blobs, blob, &there, file).at(|| "compare with what is there".to_owned())? {
                    return Ok(Way::Kept);
                }
            }
            // One of ours, of before: it is made anew, since where it leads may be gone.
            FileType::Symlink => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "something that is no file is in the blob's place",
                ));
            }
        },
        Err(Errno::NOENT) => {}
        Err(e) => return Err(io::Error::from(e)).at(|| "look at the blob's place".to_owned()),
    }
    let temporary = Temporary::in_directory(blobs);
    let linked = rustix::fs::linkat(CWD, &in_store, blobs, &temporary.name, AtFlags::SYMLINK_FOLLOW);
    let way = match linked {
        Ok(()) => Way::HardLink,
        Err(_) if reflink(&temporary, blobs, file).at(|| "write".to_owned())? => Way::Reflink,
        Err(_) => {
            let target = std::fs::read_link(&in_store).at(|| "find the store's file".to_owned())?;
            let ours = file.file.metadata().at(|| "look at the store's file".to_owned())?;
            // Its name may be another file's by now, or nobody's.
            let is_there = std::fs::symlink_metadata(&target)
                .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
            if !is_there {
                let text = format!("{} is gone from the store: pull it again", target.display());
                return Err(Error::new(ErrorKind::NotFound, text));
            }
            rustix::fs::symlinkat(&target, blobs, &temporary.name)
                .map_err(io::Error::from)
                .at(|| "link to the store".to_owned())?;
            Way::Symlink
        }
    };
    settle(&temporary, blobs, blob)?;
    Ok(way)
}

/// Whether the file system could share the blocks.
fn reflink(temporary: &Temporary<'_>, directory: &OwnedFd, file: &OpenedFile) -> io::Result<bool> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(directory, &temporary.name, flags, Mode::from_raw_mode(0o644))?;
    if rustix::fs::ioctl_ficlone(&target, &*file.file).is_ok() {
        rustix::fs::fsync(&target)?;
        return Ok(true);
    }
    rustix::fs::unlinkat(directory, &temporary.name, AtFlags::empty())?;
    Ok(false)
}

/// A symbolic link `name` to `target`, instead of whatever file or link has that name.
fn place_link(directory: &OwnedFd, name: &str, target: &str) -> Result<()> {
    match rustix::fs::readlinkat(directory, name, Vec::new()) {
        Ok(there) if there.as_bytes() == target.as_bytes() => return Ok(()),
        // Something else, or no link, or nothing.
        Ok(_) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(e) => return Err(io::Error::from(e)).at(|| format!("look at the place of {name}")),
    }
    let temporary = Temporary::in_directory(directory);
    rustix::fs::symlinkat(target, directory, &temporary.name)
        .map_err(io::Error::from)
        .at(|| format!("link {name}"))?;
    settle(&temporary, directory, name)
}

fn write_ref(root: &OwnedFd, revision: &str, commit: &str) -> Result<()> {
    let path = format!("refs/{revision}");
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let directory = descend(root, parents)?;
    let temporary = Temporary::in_directory(&directory);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(&directory, &temporary.name, flags, Mode::from_raw_mode(0o644));
    let mut file = std::fs::File::from(opened.map_err(io::Error::from).at(|| path.clone())?);
    file.write_all(commit.as_bytes()).and_then(|()| file.sync_all()).at(|| path.clone())?;
    settle(&temporary, &directory, name)
}

/// Gives what was made its name, for good.
fn settle(temporary: &Temporary<'_>, directory: &OwnedFd, name: &str) -> Result<()> {
    rustix::fs::renameat(directory, &temporary.name, directory, OsStr::new(name))
        .and_then(|()| rustix::fs::fsync(directory))
        .map_err(io::Error::from)
        .at(|| format!("rename to {name}"))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        sync::Arc,
    };

    use coordinatorless_p2p::ChunkHash;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn repo(revision: &str) -> HubRepo {
        HubRepo { kind: HubKind::Model, name: "org/name".to_owned(), revision: revision.to_owned() }
    }

    fn file(dir: &Path, path: &str, content: &[u8]) -> HubCacheFile {
        let at = dir.join(path.replace('/', "_"));
        fs::write(&at, content).unwrap();
        let opened = OpenedFile {
            file: Arc::new(File::open(&at).unwrap()),
            bytes: content.len() as u64,
            etag: ChunkHash::of(content),
            modified: 0,
            lease: Arc::new(()),
        };
        let digest = Some(Digest::GitSha1([content.len() as u8; 20]));
        HubCacheFile { path: path.parse().unwrap(), digest, opened }
    }

    #[test]
    fn a_commit_is_links_to_blobs_that_are_the_stores_own_files() {
        let (store, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = [file(store.path(), "config.json", b"{}"), file(store.path(), "a/b/w.bin", b"weights")];
        let placed = place_in_hub_cache(&files, &repo("refs/pr/1"), COMMIT, cache.path()).unwrap();
        assert_eq!(placed, Placed { hard_links: 2, ..Placed::default() });
        let root = cache.path().join("models--org--name");
        let snapshot = hub_snapshot_dir(cache.path(), &repo("main"), COMMIT);
        assert_eq!(snapshot, root.join("snapshots").join(COMMIT));
        assert_eq!(fs::read(snapshot.join("a/b/w.bin")).unwrap(), b"weights");
        assert_eq!(
            fs::read_link(snapshot.join("a/b/w.bin")).unwrap(),
            Path::new("../../../../blobs").join("07".repeat(20))
        );
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&snapshot.join("config.json")), inode(&store.path().join("config.json")));
        assert_eq!(fs::read_to_string(root.join("refs/refs/pr/1")).unwrap(), COMMIT);

        let again = place_in_hub_cache(&files, &repo(COMMIT), COMMIT, cache.path()).unwrap();
        assert_eq!(again, Placed { kept: 2, ..Placed::default() });
        assert_eq!(fs::read_dir(root.join("refs")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(root.join("blobs")).unwrap().count(), 2);
    }

    #[test]
    fn what_is_wrong_in_the_cache_is_replaced_and_a_directory_never_is() {
        let (store, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = [file(store.path(), "config.json", b"{}")];
        let root = cache.path().join("models--org--name");
        let snapshot = root.join("snapshots").join(COMMIT);
        fs::create_dir_all(root.join("blobs")).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(root.join("blobs").join("02".repeat(20)), "!!").unwrap();
        fs::write(snapshot.join("config.json"), "old").unwrap();
        place_in_hub_cache(&files, &repo("main"), COMMIT, cache.path()).unwrap();
        assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), b"{}");

        fs::remove_file(snapshot.join("config.json")).unwrap();
        fs::create_dir(snapshot.join("config.json")).unwrap();
        assert!(place_in_hub_cache(&files, &repo("main"), COMMIT, cache.path()).is_err());
        let nameless = HubCacheFile { digest: None, ..file(store.path(), "x", b"x") };
        let refused = place_in_hub_cache(&[nameless], &repo("main"), COMMIT, cache.path()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn on_another_file_system_a_blob_is_a_link_and_no_copy() {
        let store = tempfile::tempdir().unwrap();
        let Ok(cache) = tempfile::tempdir_in("/dev/shm") else {
            eprintln!("SKIPPED on_another_file_system_a_blob_is_a_link_and_no_copy: no /dev/shm");
            return;
        };
        if fs::metadata(cache.path()).unwrap().dev() == fs::metadata(store.path()).unwrap().dev() {
            eprintln!("SKIPPED on_another_file_system_a_blob_is_a_link_and_no_copy: one file system");
            return;
        }
        let files = [file(store.path(), "w.bin", b"weights")];
        for _ in 0..2 {
            let placed = place_in_hub_cache(&files, &repo("main"), COMMIT, cache.path()).unwrap();
            assert_eq!(placed, Placed { symlinks: 1, ..Placed::default() });
        }
        let blob = cache.path().join("models--org--name/blobs").join("07".repeat(20));
        assert_eq!(fs::read_link(blob).unwrap(), store.path().join("w.bin"));
        fs::remove_file(store.path().join("w.bin")).unwrap();
        let gone = place_in_hub_cache(&files, &repo("main"), COMMIT, cache.path()).unwrap_err();
        assert!(gone.to_string().contains("gone from the store"), "{gone}");
    }
}
