//! The one error of the workspace: what went wrong, in words, and what a caller can do about it.
//!
//! Owns the closed set of kinds. Knows nothing of HTTP, errno or exit codes: each door maps the
//! kinds by one table of its own.

use std::{error::Error as StdError, fmt, time::Duration};

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing named does not exist there.
    NotFound,
    /// Credentials are missing, wrong or not sufficient.
    Denied,
    /// The input is wrong; the same call will fail again.
    Invalid,
    /// The other side cannot answer now; try again, not before `retry_after` where it is given.
    Unavailable {
        /// How long the other side asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// Nothing came within the deadline or the stall time-out.
    Timeout,
    /// Bytes did not have the hash or form they should have.
    Corrupt,
    /// Disk, quota or another named limit is exhausted.
    Full,
    /// The caller, or a shut-down, took the work back.
    Cancelled,
}

impl ErrorKind {
    /// `Unavailable` with no advice when to try again.
    pub const UNAVAILABLE: Self = Self::Unavailable { retry_after: None };

    /// Whether the same call may succeed later without any change.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Timeout => true,
            Self::NotFound | Self::Denied | Self::Invalid | Self::Corrupt | Self::Full | Self::Cancelled => {
                false
            }
        }
    }
}

/// A kind, a sentence that names the thing, and the cause where there is one.
///
/// `Display` prints the sentence and then the causes, joined by `: `.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a deeper cause. `context` is lower case, without full stop, with the identifiers.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// An error with the cause that led to it.
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }

    /// Wraps this error in a sentence that says what was being done; the kind stays.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        Self { kind: self.kind, context: context.into(), source: Some(Box::new(self)) }
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

/// Says what a fallible file operation was about and maps `io::ErrorKind` to a kind.
pub trait IoContext<T> {
    /// Attaches `context`, computed only on failure.
    ///
    /// # Errors
    /// `Full` for ENOSPC, EDQUOT and EMFILE-like limits; `NotFound`, `Denied`, `Timeout` as named;
    /// everything else is `Unavailable`.
    fn at(self, context: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, context: impl FnOnce() -> String) -> Result<T> {
        use std::io::ErrorKind as Io;
        self.map_err(|e| {
            let kind = match e.kind() {
                Io::NotFound => ErrorKind::NotFound,
                Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
                Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::Full,
                Io::TimedOut => ErrorKind::Timeout,
                Io::InvalidInput | Io::InvalidFilename | Io::NotADirectory | Io::IsADirectory => {
                    ErrorKind::Invalid
                }
                _ => ErrorKind::UNAVAILABLE,
            };
            Error::with_source(kind, context(), e)
        })
    }
}
