//! SHA-256 of published files whose origin gave none: computed once while this process lives.

use std::collections::HashMap;

use parking_lot::Mutex;

/// A file: its artifact's number and its own.
pub(super) type FileKey = (u32, usize);

/// Digests computed here.
#[derive(Debug, Default)]
pub(super) struct Digests(Mutex<HashMap<FileKey, [u8; 32]>>);

impl Digests {
    /// The digest, if it was computed.
    pub(super) fn get(&self, file: FileKey) -> Option<[u8; 32]> {
        self.0.lock().get(&file).copied()
    }

    /// Notes a digest that was just computed.
    pub(super) fn note(&self, file: FileKey, digest: [u8; 32]) {
        self.0.lock().insert(file, digest);
    }
}
