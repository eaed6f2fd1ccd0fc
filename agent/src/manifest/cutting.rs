//! From snapshot to blueprint: says which header bytes are needed, and cuts as they come.

use std::ops::Range;

use super::{Blueprint, BlueprintFile, MAX_CHUNKS};
use crate::{
    error::{Error, ErrorKind, Result},
    layout::{self, HeaderNeed},
    snapshot::Snapshot,
};

/// A blueprint in the making. Pure: whoever drives it reads the origin, one header at a time by
/// [`next_need`](Self::next_need) or several by [`needs`](Self::needs).
///
/// Keeps the headers only of files that have been started and need more: with k reads under way at
/// most k × 100 MB, in practice a few MiB.
///
/// ```
/// use emberline_agent::{error::Result, manifest::{Blueprint, Cutting}, snapshot::Snapshot};
///
/// fn cut(snapshot: &Snapshot, read: impl Fn(usize, std::ops::Range<u64>) -> Vec<u8>) -> Result<Blueprint> {
///     let mut cutting = Cutting::new(snapshot)?;
///     while let Some((file, range)) = cutting.next_need() {
///         cutting.supply(file, &read(file, range))?;
///     }
///     cutting.finish()
/// }
///
/// let nothing = Snapshot::new("s3://bucket/empty", None, Vec::new()).unwrap();
/// assert_eq!(cut(&nothing, |_, _| Vec::new()).unwrap().chunk_count(), 0);
/// ```
pub struct Cutting {
    snapshot: Snapshot,
    target_bytes: u32,
    progress: Vec<Progress>,
    /// All files before this one are cut.
    cut_files: usize,
}

enum Progress {
    Reading { header: Vec<u8>, needed: u64 },
    Cut(Vec<u32>),
}

impl Cutting {
    /// Cuts what can be cut without headers.
    ///
    /// # Errors
    /// `Invalid` when the snapshot is larger than any blueprint could describe.
    pub fn new(snapshot: &Snapshot) -> Result<Self> {
        let total = snapshot.total_bytes();
        let target_bytes = layout::target_chunk_bytes(total);
        if total / u64::from(target_bytes) + snapshot.files.len() as u64 > u64::from(MAX_CHUNKS) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{}: {total} bytes in {} files are too much",
                    snapshot.reference,
                    snapshot.files.len()
                ),
            ));
        }
        let mut cutting =
            Self { snapshot: snapshot.clone(), target_bytes, progress: Vec::new(), cut_files: 0 };
        for file in 0..snapshot.files.len() {
            let progress = cutting.look(file, Vec::new());
            cutting.progress.push(progress);
        }
        Ok(cutting)
    }

    /// The first file that needs bytes of its header, and which; `None` when all can be cut.
    pub fn next_need(&mut self) -> Option<(usize, Range<u64>)> {
        while matches!(self.progress.get(self.cut_files), Some(Progress::Cut(_))) {
            self.cut_files += 1;
        }
        self.needs().next()
    }

    /// Every file that needs bytes of its header, and which: to read several at a time.
    pub fn needs(&self) -> impl Iterator<Item = (usize, Range<u64>)> + '_ {
        self.progress.iter().enumerate().skip(self.cut_files).filter_map(|(file, progress)| match progress {
            Progress::Reading { header, needed } => Some((file, header.len() as u64..*needed)),
            Progress::Cut(_) => None,
        })
    }

    /// The bytes of `file` from the start of the range that was asked for; fewer are a step as well,
    /// what is beyond the range is not looked at. A file that needs nothing takes nothing.
    ///
    /// # Errors
    /// `Corrupt` when there are no bytes: the file is shorter than the snapshot says.
    pub fn supply(&mut self, file: usize, bytes: &[u8]) -> Result<()> {
        let Some(Progress::Reading { header, needed }) = self.progress.get_mut(file) else {
            return Ok(());
        };
        if bytes.is_empty() {
            let path = &self.snapshot.files[file].path;
            let reference = &self.snapshot.reference;
            let at = header.len();
            return Err(Error::new(ErrorKind::Corrupt, format!("{path} of {reference} ends at byte {at}")));
        }
        let missing = usize::try_from(*needed).unwrap_or(usize::MAX).saturating_sub(header.len());
        header.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        if (header.len() as u64) < *needed {
            return Ok(());
        }
        let header = std::mem::take(header);
        self.progress[file] = self.look(file, header);
        Ok(())
    }

    /// The blueprint.
    ///
    /// # Errors
    /// `Invalid` while a file still needs its header, or for a snapshot that is no sound listing.
    pub fn finish(self) -> Result<Blueprint> {
        let mut files = Vec::with_capacity(self.snapshot.files.len());
        for (file, progress) in self.snapshot.files.into_iter().zip(self.progress) {
            let Progress::Cut(chunk_bytes) = progress else {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("the header of {} is missing", file.path),
                ));
            };
            files.push(BlueprintFile {
                path: file.path,
                size: file.size,
                version: file.version,
                digest: file.digest,
                chunk_bytes,
            });
        }
        Blueprint::new(self.snapshot.reference, self.snapshot.revision, files)
    }

    fn look(&self, file: usize, header: Vec<u8>) -> Progress {
        let file = &self.snapshot.files[file];
        let path = file.path.as_str();
        match layout::header_need(path, file.size, &header) {
            // A need that is met already would never end.
            HeaderNeed::Bytes(needed) if needed > header.len() as u64 => Progress::Reading { header, needed },
            HeaderNeed::Bytes(_) | HeaderNeed::Nothing => {
                Progress::Cut(layout::cut(path, file.size, &header, self.target_bytes))
            }
        }
    }
}
