//! Three ways to cut files into chunks of about 1 MiB: at tensors, in fixed steps, by content.

use std::ops::Range;

use coordinatorless_p2p::{ChunkHash, Error, ErrorKind, Result};
use emberline_agent::{
    manifest::{Blueprint, Cutting},
    snapshot::{FileVersion, Snapshot, SnapshotFile},
};
use fastcdc::v2020::FastCDC;
use serde::Serialize;

use super::pairs::Files;

/// What all three aim for.
const TARGET_BYTES: usize = 1 << 20;

/// A way to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundaries {
    /// As Emberline does: at tensor starts, in steps from there.
    Tensors,
    /// In steps of 1 MiB from each file's start.
    Fixed,
    /// Where a rolling hash says so: FastCDC of 2020, 256 KiB to 4 MiB, 1 MiB on average.
    FastCdc,
}

/// A chunk: which file, and where in it.
pub type Place = (usize, Range<usize>);

impl Boundaries {
    /// All of them, ours first.
    pub const ALL: [Self; 3] = [Self::Tensors, Self::Fixed, Self::FastCdc];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensors => "at tensors",
            Self::Fixed => "fixed",
            Self::FastCdc => "FastCDC",
        }
    }

    /// Cuts.
    ///
    /// # Errors
    /// `Invalid` for files that make no snapshot.
    pub fn cut(self, files: &Files) -> Result<Vec<Place>> {
        match self {
            Self::Tensors => {
                let blueprint = blueprint(files)?;
                let places = (0..blueprint.chunk_count()).filter_map(|chunk| blueprint.place(chunk));
                // The blueprint sorts by path; so do the callers.
                Ok(places
                    .map(|p| (p.file, p.offset as usize..p.offset as usize + p.bytes as usize))
                    .collect())
            }
            Self::Fixed => Ok(each_file(files, |bytes| {
                let starts = (0..bytes.len()).step_by(TARGET_BYTES);
                starts.map(|start| start..(start + TARGET_BYTES).min(bytes.len())).collect()
            })),
            Self::FastCdc => Ok(each_file(files, |bytes| {
                FastCDC::new(bytes, TARGET_BYTES / 4, TARGET_BYTES, 4 * TARGET_BYTES)
                    .map(|chunk| chunk.offset..chunk.offset + chunk.length)
                    .collect()
            })),
        }
    }
}

fn each_file(files: &Files, cut: impl Fn(&[u8]) -> Vec<Range<usize>>) -> Vec<Place> {
    let numbered = files.iter().enumerate();
    numbered.flat_map(|(file, (_, bytes))| cut(bytes).into_iter().map(move |range| (file, range))).collect()
}

/// The blueprint of files sorted by path, made as a resolver makes it: from what the cutting asks for.
///
/// # Errors
/// `Invalid` for files that make no snapshot, or whose headers are a large part of them.
pub fn blueprint(files: &Files) -> Result<Blueprint> {
    let listed = files
        .iter()
        .map(|(path, bytes)| {
            let (version, digest) = (FileVersion::default(), None);
            Ok(SnapshotFile { path: path.parse()?, size: bytes.len() as u64, version, digest })
        })
        .collect::<Result<Vec<_>>>()?;
    let snapshot = Snapshot::new("s3://models/minilm", None, listed)?;
    let mut cutting = Cutting::new(&snapshot)?;
    let mut read_bytes = 0;
    while let Some((file, Range { start, end })) = cutting.next_need() {
        read_bytes += end - start;
        let past_end = || Error::new(ErrorKind::Invalid, "a header past the end of its file");
        let header = files[file].1.get(start as usize..end as usize).ok_or_else(past_end)?;
        cutting.supply(file, header)?;
    }
    if read_bytes > 1 << 20 {
        return Err(Error::new(ErrorKind::Invalid, format!("headers of {read_bytes} bytes")));
    }
    cutting.finish()
}

/// The hash of every chunk.
pub fn hashed(files: &Files, places: &[Place]) -> Vec<ChunkHash> {
    places.iter().map(|(file, range)| ChunkHash::of(&files[*file].1[range.clone()])).collect()
}
