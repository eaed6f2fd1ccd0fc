//! The journal of one artifact: which files are wanted, and which chunks were written since when the index
//! may not know.
//!
//! Append-only records of fixed length, each with its own checksum, keyed by the swarm so that a
//! stale block of another file never passes for one. Not synced per record: after a loss of power
//! the tail may be gone or torn, which costs a fetch, never a wrong byte, because whatever the index
//! did not commit is re-hashed. Knows nothing of the index or of files.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use coordinatorless_p2p::{ChunkHash, SwarmId};

use crate::error::{IoContext, Result};

/// Bytes of a record: index or file number, kind, hash, checksum.
pub(super) const RECORD_BYTES: usize = 4 + 4 + 32 + 8;

const WRITTEN: u32 = 1;
const DROPPED: u32 = 2;
const WANTED: u32 = 3;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// The chunk's bytes, with this hash, are in its file.
    Written(u32, ChunkHash),
    /// The chunk is no longer to be trusted.
    Dropped(u32),
    /// Somebody asked for the file with this number.
    Wanted(u32),
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    key: [u8; 32],
    bytes: u64,
}

impl Journal {
    /// Opens or creates the journal of `swarm` and tells all sound records, oldest first, each with
    /// the position behind it. A torn tail is cut off; a broken record in the middle is skipped.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn open(path: PathBuf, swarm: SwarmId) -> Result<(Self, Vec<(u64, Record)>)> {
        let at = || format!("journal {}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).at(at)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).at(at)?;
        let records = text
            .chunks_exact(RECORD_BYTES)
            .enumerate()
            .filter_map(|(n, raw)| Some((((n + 1) * RECORD_BYTES) as u64, decode(raw, &swarm.0)?)))
            .collect();
        let bytes = (text.len() - text.len() % RECORD_BYTES) as u64;
        if bytes != text.len() as u64 {
            file.set_len(bytes).at(at)?;
        }
        Ok((Self { path, file, key: swarm.0, bytes }, records))
    }

    /// Appends one record. Durable only after [`sync`](Self::sync).
    ///
    /// # Errors
    /// `Full` when the disk is.
    pub(super) fn append(&mut self, record: Record) -> Result<()> {
        let raw = encode(record, &self.key);
        let written = self.file.write_all(&raw);
        if written.is_err() {
            // Half a record would shift all that follow.
            let _ = self.file.set_len(self.bytes);
        } else {
            self.bytes += RECORD_BYTES as u64;
        }
        written.at(|| format!("journal {}", self.path.display()))
    }

    /// Bytes appended so far: the position the next record will start at.
    pub(super) fn position(&self) -> u64 {
        self.bytes
    }

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().at(|| format!("journal {}", self.path.display()))
    }

    /// Replaces all records by these, atomically.
    ///
    /// # Errors
    /// Those of the file system; the old journal stays.
    pub(super) fn rewrite(&mut self, records: impl Iterator<Item = Record>) -> Result<()> {
        let fresh = self.path.with_extension("new");
        let at = || format!("journal {}", fresh.display());
        let raw: Vec<u8> = records.flat_map(|r| encode(r, &self.key)).collect();
        replace_file(&fresh, &self.path, &raw)?;
        self.file = OpenOptions::new().append(true).open(&self.path).at(at)?;
        self.bytes = raw.len() as u64;
        Ok(())
    }
}

/// Writes `content` to `fresh`, syncs it, and renames it over `path`; the directory is synced last.
///
/// # Errors
/// Those of the file system; `path` is then as it was.
pub(super) fn replace_file(fresh: &Path, path: &Path, content: &[u8]) -> Result<()> {
    let at = || format!("file {}", fresh.display());
    let written = File::create(fresh).and_then(|mut f| {
        f.write_all(content)?;
        f.sync_all()
    });
    if let Err(e) = written.and_then(|()| std::fs::rename(fresh, path)) {
        let _ = std::fs::remove_file(fresh);
        return Err(e).at(at);
    }
    match path.parent() {
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// Those of the file system.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).at(|| format!("directory {} cannot be synced", dir.display()))
}

fn encode(record: Record, key: &[u8; 32]) -> [u8; RECORD_BYTES] {
    let (index, kind, hash) = match record {
        Record::Written(index, hash) => (index, WRITTEN, hash.0),
        Record::Dropped(index) => (index, DROPPED, [0; 32]),
        Record::Wanted(file) => (file, WANTED, [0; 32]),
    };
    let mut raw = [0; RECORD_BYTES];
    raw[0..4].copy_from_slice(&index.to_le_bytes());
    raw[4..8].copy_from_slice(&kind.to_le_bytes());
    raw[8..40].copy_from_slice(&hash);
    let sum = checksum(&raw[..40], key);
    raw[40..].copy_from_slice(&sum);
    raw
}

fn decode(raw: &[u8], key: &[u8; 32]) -> Option<Record> {
    if raw[40..] != checksum(&raw[..40], key) {
        return None;
    }
    let index = u32::from_le_bytes(raw[0..4].try_into().ok()?);
    match u32::from_le_bytes(raw[4..8].try_into().ok()?) {
        WRITTEN => Some(Record::Written(index, ChunkHash(raw[8..40].try_into().ok()?))),
        DROPPED => Some(Record::Dropped(index)),
        WANTED => Some(Record::Wanted(index)),
        _ => None,
    }
}

fn checksum(raw: &[u8], key: &[u8; 32]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&blake3::keyed_hash(key, raw).as_bytes()[..8]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(path: &Path, swarm: SwarmId) -> Vec<Record> {
        Journal::open(path.to_owned(), swarm).unwrap().1.into_iter().map(|(_, r)| r).collect()
    }

    #[test]
    fn a_journal_tells_its_records_in_order_and_survives_any_torn_tail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let swarm = SwarmId([7; 32]);
        let said = [
            Record::Written(3, ChunkHash::of(b"a")),
            Record::Dropped(3),
            Record::Written(9, ChunkHash::of(b"b")),
            Record::Wanted(2),
        ];
        let (mut journal, old) = Journal::open(path.clone(), swarm).unwrap();
        assert!(old.is_empty());
        for r in said {
            journal.append(r).unwrap();
        }
        assert_eq!(records(&path, swarm), said);
        let whole = std::fs::read(&path).unwrap();
        // Every length: at a record's border, one byte before, one after, in the middle.
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(records(&path, swarm), said[..cut / RECORD_BYTES], "cut at {cut}");
        }
    }

    #[test]
    fn a_record_appended_behind_a_torn_one_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let swarm = SwarmId([7; 32]);
        std::fs::write(&path, [1; RECORD_BYTES / 2]).unwrap();
        let (mut journal, _) = Journal::open(path.clone(), swarm).unwrap();
        journal.append(Record::Dropped(1)).unwrap();
        assert_eq!(records(&path, swarm), [Record::Dropped(1)]);
    }

    #[test]
    fn a_flipped_bit_costs_one_record_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let swarm = SwarmId([7; 32]);
        let (mut journal, _) = Journal::open(path.clone(), swarm).unwrap();
        for n in 0..3 {
            journal.append(Record::Written(n, ChunkHash::of(&[n as u8]))).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        for byte in 0..whole.len() {
            let mut bad = whole.clone();
            bad[byte] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let left = records(&path, swarm);
            assert_eq!(left.len(), 2, "byte {byte}");
            assert!(
                left.iter()
                    .all(|r| !matches!(r, Record::Written(n, _) if *n as usize == byte / RECORD_BYTES))
            );
        }
    }

    #[test]
    fn a_record_of_another_swarm_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, _) = Journal::open(path.clone(), SwarmId([7; 32])).unwrap();
        journal.append(Record::Dropped(1)).unwrap();
        assert!(records(&path, SwarmId([8; 32])).is_empty());
    }

    #[test]
    fn a_rewritten_journal_holds_just_what_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let swarm = SwarmId([7; 32]);
        let (mut journal, _) = Journal::open(path.clone(), swarm).unwrap();
        for _ in 0..10 {
            journal.append(Record::Dropped(1)).unwrap();
        }
        let kept = Record::Written(4, ChunkHash::of(b"x"));
        journal.rewrite(std::iter::once(kept)).unwrap();
        assert_eq!(journal.position(), RECORD_BYTES as u64);
        journal.append(Record::Dropped(2)).unwrap();
        assert_eq!(records(&path, swarm), [kept, Record::Dropped(2)]);
    }
}
