//! The index on disk: what was committed about each artifact's chunks.
//!
//! A redb database that can always be rebuilt from the artifact directories, so a broken or foreign
//! one is put aside, not repaired. Hashes and presence stand in pages of [`PAGE_CHUNKS`] chunks, so
//! that a commit writes only what changed. Chunk hash → place is not stored: it is derived from the
//! pages when the store opens, so the two cannot disagree.
//! Invariant: a commit is durable when it returns, and the data it speaks of was durable before.

use std::{
    fs,
    path::{Path, PathBuf},
};

use coordinatorless_p2p::{ChunkHash, SwarmId};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::error::{Error, ErrorKind, Result};

/// Chunks that share one stored page.
pub(super) const PAGE_CHUNKS: u32 = 1024;

/// Raised when tables or values change their form; another number means: rebuild.
const FORMAT: u64 = 1;

/// redb's default cache is 1 GiB; the index is read once and then only written.
const CACHE_BYTES: usize = 8 << 20;

const FORMATS: TableDefinition<&str, u64> = TableDefinition::new("format");
/// Swarm → birth, pinned, last used, admitted, journal position covered by the pages.
const ARTIFACTS: TableDefinition<[u8; 32], (u64, bool, u64, u64, u64)> = TableDefinition::new("artifacts");
/// (Swarm, page) → bitmap of the page's chunks, then the hash of each chunk that is in it.
const PAGES: TableDefinition<([u8; 32], u32), &[u8]> = TableDefinition::new("pages");

/// What the index says about an artifact besides its chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Which incarnation of the artifact's directory this is about.
    pub(super) birth: u64,
    /// Kept from eviction by request.
    pub(super) pinned: bool,
    /// Microseconds since the epoch.
    pub(super) last_used_us: u64,
    /// Microseconds since the epoch of the last admission.
    pub(super) admitted_us: u64,
    /// Journal records in front of this position are covered by the pages.
    pub(super) journal_bytes: u64,
}

/// Changes of one artifact.
#[derive(Debug)]
pub(super) struct Change {
    /// Whose.
    pub(super) swarm: SwarmId,
    /// Its entry.
    pub(super) entry: Entry,
    /// Pages that changed: number and the chunks present, ascending within the page.
    pub(super) pages: Vec<(u32, Vec<(u32, ChunkHash)>)>,
}

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    database: Database,
    path: PathBuf,
}

impl Index {
    /// Opens the index at `path`. True if what was there could not be used and a new one was begun.
    ///
    /// # Errors
    /// Those of the file system, not those of a broken index.
    pub(super) fn open(path: &Path) -> Result<(Self, bool)> {
        let existed = path.exists();
        match Self::try_open(path) {
            Ok(index) => Ok((index, !existed)),
            Err(Trouble::Disk(e)) => Err(e),
            Err(Trouble::Broken(why)) => {
                tracing::warn!(index = %path.display(), why, "the index cannot be used; rebuilding it from the artifacts");
                let aside = path.with_extension("redb.broken");
                fs::rename(path, &aside).or_else(|_| fs::remove_file(path)).map_err(|e| {
                    Error::with_source(
                        ErrorKind::Denied,
                        format!("broken index {} cannot be put aside", path.display()),
                        e,
                    )
                })?;
                // Nobody will look at it, and it counts against the quota.
                let _ = fs::remove_file(&aside);
                match Self::try_open(path) {
                    Ok(index) => Ok((index, true)),
                    Err(Trouble::Disk(e)) => Err(e),
                    Err(Trouble::Broken(why)) => Err(Error::new(
                        ErrorKind::UNAVAILABLE,
                        format!("new index {}: {why}", path.display()),
                    )),
                }
            }
        }
    }

    fn try_open(path: &Path) -> Result<Self, Trouble> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create(path)
            .map_err(|e| Trouble::of(e.into(), path))?;
        let index = Self { database, path: path.to_owned() };
        let of = |e: redb::Error| Trouble::of(e, path);
        let write = index.database.begin_write().map_err(|e| of(e.into()))?;
        {
            let mut formats = write.open_table(FORMATS).map_err(|e| of(e.into()))?;
            let found = formats.get("index").map_err(|e| of(e.into()))?.map(|v| v.value());
            match found {
                Some(FORMAT) => {}
                Some(other) => return Err(Trouble::Broken(format!("it has format {other}, not {FORMAT}"))),
                None => {
                    formats.insert("index", FORMAT).map_err(|e| of(e.into()))?;
                }
            }
            write.open_table(ARTIFACTS).map_err(|e| of(e.into()))?;
            write.open_table(PAGES).map_err(|e| of(e.into()))?;
        }
        write.commit().map_err(|e| of(e.into()))?;
        Ok(index)
    }

    /// Every artifact the index speaks of.
    ///
    /// # Errors
    /// `Corrupt` or those of the file system.
    pub(super) fn entries(&self) -> Result<Vec<(SwarmId, Entry)>> {
        self.attempt("read", || {
            let table = self.database.begin_read()?.open_table(ARTIFACTS)?;
            let mut entries = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                let (birth, pinned, last_used_us, admitted_us, journal_bytes) = value.value();
                let entry = Entry { birth, pinned, last_used_us, admitted_us, journal_bytes };
                entries.push((SwarmId(key.value()), entry));
            }
            Ok(entries)
        })
    }

    /// The chunks committed for `swarm`, ascending. Pages that contradict themselves are left out.
    ///
    /// # Errors
    /// `Corrupt` or those of the file system.
    pub(super) fn chunks(&self, swarm: SwarmId) -> Result<Vec<(u32, ChunkHash)>> {
        self.attempt("read", || {
            let table = self.database.begin_read()?.open_table(PAGES)?;
            let mut chunks = Vec::new();
            for row in table.range((swarm.0, 0)..=(swarm.0, u32::MAX))? {
                let (key, value) = row?;
                decode_page(key.value().1, value.value(), &mut chunks);
            }
            Ok(chunks)
        })
    }

    /// Forgets artifacts, then takes changes; durable, all or none.
    ///
    /// # Errors
    /// Those of the file system; nothing changed then.
    pub(super) fn commit(&self, forgotten: &[SwarmId], changes: &[Change]) -> Result<()> {
        self.attempt("commit", || {
            let write = self.database.begin_write()?;
            {
                let mut artifacts = write.open_table(ARTIFACTS)?;
                let mut pages = write.open_table(PAGES)?;
                for swarm in forgotten {
                    artifacts.remove(swarm.0)?;
                    pages.retain_in((swarm.0, 0)..=(swarm.0, u32::MAX), |_, _| false)?;
                }
                for change in changes {
                    let e = change.entry;
                    artifacts.insert(
                        change.swarm.0,
                        (e.birth, e.pinned, e.last_used_us, e.admitted_us, e.journal_bytes),
                    )?;
                    for (page, chunks) in &change.pages {
                        if chunks.is_empty() {
                            pages.remove((change.swarm.0, *page))?;
                        } else {
                            pages.insert((change.swarm.0, *page), encode_page(*page, chunks).as_slice())?;
                        }
                    }
                }
            }
            write.commit()?;
            Ok(())
        })
    }

    /// Bytes the index takes on disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(&self.path).map_or(0, |m| m.blocks() * 512)
    }

    fn attempt<T>(&self, what: &str, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
        work().map_err(|e| match Trouble::of(e, &self.path) {
            Trouble::Disk(e) => e.context(format!("index {} cannot {what}", self.path.display())),
            Trouble::Broken(why) => {
                Error::new(ErrorKind::Corrupt, format!("index {}: {why}", self.path.display()))
            }
        })
    }
}

/// Whether the disk or the index is to blame.
enum Trouble {
    Disk(Error),
    Broken(String),
}

impl Trouble {
    fn of(e: redb::Error, path: &Path) -> Self {
        match e {
            // Not a redb file, or cut short.
            redb::Error::Io(io)
                if matches!(
                    io.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Broken(io.to_string())
            }
            redb::Error::Io(io) => {
                use crate::error::IoContext;
                match Err::<(), _>(io).at(|| format!("index {}", path.display())) {
                    Err(e) => Self::Disk(e),
                    Ok(()) => Self::Broken(String::new()),
                }
            }
            redb::Error::DatabaseAlreadyOpen => Self::Disk(Error::new(
                ErrorKind::Denied,
                format!("index {} is open in another process", path.display()),
            )),
            // redb closes itself after an I/O error; the caller may open it anew.
            redb::Error::PreviousIo => Self::Disk(Error::new(
                ErrorKind::UNAVAILABLE,
                format!("index {} had an i/o error before", path.display()),
            )),
            other => Self::Broken(other.to_string()),
        }
    }
}

fn encode_page(page: u32, chunks: &[(u32, ChunkHash)]) -> Vec<u8> {
    let mut raw = vec![0; PAGE_CHUNKS as usize / 8];
    for (index, hash) in chunks {
        let bit = (index - page * PAGE_CHUNKS) as usize;
        raw[bit / 8] |= 1 << (bit % 8);
        raw.extend_from_slice(&hash.0);
    }
    raw
}

fn decode_page(page: u32, raw: &[u8], out: &mut Vec<(u32, ChunkHash)>) {
    let Some((bitmap, hashes)) = raw.split_at_checked(PAGE_CHUNKS as usize / 8) else { return };
    let present = bitmap.iter().map(|b| b.count_ones() as usize).sum::<usize>();
    if hashes.len() != present * 32 {
        return;
    }
    let set = (0..PAGE_CHUNKS).filter(|bit| bitmap[*bit as usize / 8] & (1 << (bit % 8)) != 0);
    for (bit, hash) in set.zip(hashes.chunks_exact(32)) {
        let (Some(index), Ok(hash)) =
            (page.checked_mul(PAGE_CHUNKS).and_then(|p| p.checked_add(bit)), hash.try_into())
        else {
            return;
        };
        out.push((index, ChunkHash(hash)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(swarm: u8, pages: Vec<(u32, Vec<(u32, ChunkHash)>)>) -> Change {
        let entry = Entry { birth: 9, pinned: true, last_used_us: 5, admitted_us: 6, journal_bytes: 48 };
        Change { swarm: SwarmId([swarm; 32]), entry, pages }
    }

    #[test]
    fn what_was_committed_is_there_after_reopening_and_what_was_forgotten_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        let chunk = |n: u32| (n, ChunkHash::of(&n.to_le_bytes()));
        {
            let (index, fresh) = Index::open(&path).unwrap();
            assert!(fresh);
            // First and last of a page, first of the next.
            index
                .commit(
                    &[],
                    &[
                        change(1, vec![(0, vec![chunk(0), chunk(1023)]), (1, vec![chunk(1024)])]),
                        change(2, vec![(0, vec![chunk(7)])]),
                    ],
                )
                .unwrap();
            index.commit(&[], &[change(2, vec![(0, vec![])])]).unwrap();
        }
        let (index, fresh) = Index::open(&path).unwrap();
        assert!(!fresh);
        assert_eq!(index.chunks(SwarmId([1; 32])).unwrap(), [chunk(0), chunk(1023), chunk(1024)]);
        assert_eq!(index.chunks(SwarmId([2; 32])).unwrap(), []);
        assert_eq!(index.entries().unwrap().len(), 2);
        assert_eq!(index.entries().unwrap()[0].1, change(1, vec![]).entry);
        index.commit(&[SwarmId([1; 32])], &[]).unwrap();
        assert!(index.chunks(SwarmId([1; 32])).unwrap().is_empty());
        assert_eq!(index.entries().unwrap().len(), 1);
    }

    #[test]
    fn an_index_altered_anywhere_is_begun_anew_or_still_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        let chunk = (3, ChunkHash::of(b"x"));
        drop(Index::open(&path).unwrap().0.commit(&[], &[change(1, vec![(0, vec![chunk])])]).unwrap());
        let good = fs::read(&path).unwrap();
        let mut begun_anew = 0;
        for at in (0..good.len()).step_by(good.len() / 97) {
            let mut bad = good.clone();
            let end = (at + 512).min(bad.len());
            bad[at..end].fill(0xa5);
            fs::write(&path, &bad).unwrap();
            let (index, fresh) = Index::open(&path).unwrap();
            let chunks = index.chunks(SwarmId([1; 32])).unwrap();
            assert_eq!(chunks, if fresh { vec![] } else { vec![chunk] }, "altered at {at}");
            begun_anew += u32::from(fresh);
        }
        assert!(begun_anew > 0, "nothing that was altered mattered");
    }

    #[test]
    fn text_an_empty_file_and_half_an_index_are_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        Index::open(&path).unwrap().0.commit(&[], &[change(1, vec![])]).unwrap();
        let good = fs::read(&path).unwrap();
        for bad in [b"not an index".to_vec(), vec![], good[..good.len() / 2].to_vec(), good[..4096].to_vec()]
        {
            fs::write(&path, &bad).unwrap();
            let (index, _) = Index::open(&path).unwrap();
            assert!(index.entries().unwrap().is_empty(), "{} bytes", bad.len());
        }
    }

    #[test]
    fn an_index_of_another_format_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        {
            let (index, _) = Index::open(&path).unwrap();
            index.commit(&[], &[change(1, vec![])]).unwrap();
            let write = index.database.begin_write().unwrap();
            write.open_table(FORMATS).unwrap().insert("index", FORMAT + 1).unwrap();
            write.commit().unwrap();
        }
        let (index, fresh) = Index::open(&path).unwrap();
        assert!(fresh && index.entries().unwrap().is_empty());
    }
}
