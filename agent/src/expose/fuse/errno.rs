//! What a program that reads files hears of an error: one number.
//!
//! The sentence goes to the log; a number says what the caller can do.

use fuser::Errno;

use crate::error::ErrorKind;

/// The errno of a kind.
pub(super) fn errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::Denied => Errno::EACCES,
        ErrorKind::Invalid => Errno::EINVAL,
        // Not EAGAIN: programs take that for a file that was opened non-blocking.
        ErrorKind::Unavailable { .. } => Errno::EHOSTDOWN,
        ErrorKind::Timeout => Errno::ETIMEDOUT,
        ErrorKind::Corrupt => Errno::EIO,
        ErrorKind::Full => Errno::ENOSPC,
        ErrorKind::Cancelled => Errno::ECANCELED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_number_of_its_own() {
        let kinds = [
            ErrorKind::NotFound,
            ErrorKind::Denied,
            ErrorKind::Invalid,
            ErrorKind::UNAVAILABLE,
            ErrorKind::Timeout,
            ErrorKind::Corrupt,
            ErrorKind::Full,
            ErrorKind::Cancelled,
        ];
        let mut numbers: Vec<i32> = kinds.into_iter().map(|kind| errno(kind).code()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), kinds.len());
    }
}
