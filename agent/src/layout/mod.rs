//! Chunk boundaries: a pure function of (path, size, header).

/// How much of a file's start the layout wants to see before it can cut it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderNeed {
    /// Enough is known.
    Nothing,
    /// These bytes (from 0) are needed next.
    Bytes(u64),
}

/// What `header` (the first bytes of the file, possibly none) still lacks for `path` of `size` bytes.
/// Never more than 100 MB: a larger header makes the file opaque.
pub fn header_need(path: &str, size: u64, header: &[u8]) -> HeaderNeed {
    let _ = (path, size, header);
    HeaderNeed::Nothing
}

/// The chunk lengths of a file. Hostile or unknown headers give fixed steps.
pub fn cut(path: &str, size: u64, header: &[u8]) -> Vec<u32> {
    let _ = (path, header);
    Vec::new()
}
