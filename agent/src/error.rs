//! The agent's errors are the workspace's; here are the tables that turn them into what others read.
//!
//! Owns the mapping of kinds to names, HTTP status codes and exit codes, each one exhaustive table
//! without a wildcard arm, and the advice that goes with an error. Knows nothing of HTTP beyond a number.

use std::time::Duration;

use crate::api::Problem;
pub use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result};

/// The name of a kind in JSON and in metric labels.
pub fn kind_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::Denied => "denied",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Unavailable { .. } => "unavailable",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Full => "full",
        ErrorKind::Cancelled => "cancelled",
    }
}

/// The HTTP status a kind is answered with.
pub fn http_status(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::NotFound => 404,
        ErrorKind::Denied => 403,
        ErrorKind::Invalid => 400,
        ErrorKind::Unavailable { .. } => 503,
        ErrorKind::Timeout => 504,
        // The origin or a peer gave bytes that are not what they should be: a bad gateway.
        ErrorKind::Corrupt => 502,
        ErrorKind::Full => 507,
        ErrorKind::Cancelled => 409,
    }
}

/// The code that an S3 client is told; it comes with [`http_status`].
pub fn s3_code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "NoSuchKey",
        ErrorKind::Denied => "AccessDenied",
        ErrorKind::Invalid => "InvalidArgument",
        ErrorKind::Unavailable { .. } => "SlowDown",
        // S3's RequestTimeout blames the client for what it did not send.
        ErrorKind::Timeout => "ServiceUnavailable",
        ErrorKind::Corrupt => "InternalError",
        ErrorKind::Full => "InsufficientCapacity",
        ErrorKind::Cancelled => "OperationAborted",
    }
}

/// The process exit code of a kind. 0 is success, 1 a defect of ours (a panic), 2 wrong usage or
/// configuration; the rest says what the caller can do.
pub fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Denied => 4,
        ErrorKind::Unavailable { .. } => 5,
        ErrorKind::Timeout => 6,
        ErrorKind::Corrupt => 7,
        ErrorKind::Full => 8,
        ErrorKind::Cancelled => 9,
    }
}

impl Problem {
    /// The kind this problem was made of; `Unavailable` for a name we do not know, which only a
    /// newer agent can have sent.
    pub fn error_kind(&self) -> ErrorKind {
        let retry_after = self.retry_after_seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
        match self.kind.as_str() {
            "not_found" => ErrorKind::NotFound,
            "denied" => ErrorKind::Denied,
            "invalid" => ErrorKind::Invalid,
            "timeout" => ErrorKind::Timeout,
            "corrupt" => ErrorKind::Corrupt,
            "full" => ErrorKind::Full,
            "cancelled" => ErrorKind::Cancelled,
            _ => ErrorKind::Unavailable { retry_after },
        }
    }
}

impl From<&Error> for Problem {
    fn from(e: &Error) -> Self {
        let message = e.to_string();
        let retry_after = match e.kind() {
            ErrorKind::Unavailable { retry_after } => retry_after,
            ErrorKind::NotFound
            | ErrorKind::Denied
            | ErrorKind::Invalid
            | ErrorKind::Timeout
            | ErrorKind::Corrupt
            | ErrorKind::Full
            | ErrorKind::Cancelled => None,
        };
        Self {
            kind: kind_name(e.kind()).to_owned(),
            advice: advice(e.kind(), &message).map(str::to_owned),
            message,
            retry_after_seconds: retry_after.map(|d| d.as_secs_f64()),
        }
    }
}

/// How messages about files begin that this node was told to read for itself, which no pull can bring.
const OWN_FILES: [&str; 6] = [
    "configuration ",
    "HTTP token ",
    "token file ",
    "cluster secret ",
    "secret file ",
    "certificate authorities ",
];

/// What messages say of trouble that does not pass by itself.
const NOBODY_BRINGS: &str = "no pull of it is under way";
const DRAINED: &str = "was drained";

/// Whether nothing comes of trying the same again, although what is missing may be here some day.
pub fn waits_in_vain(message: &str) -> bool {
    [NOBODY_BRINGS, DRAINED].iter().any(|words| message.contains(words))
}

/// What a person can do about an error, from its kind and what its message is about. `None` where
/// the message already says all there is.
pub fn advice(kind: ErrorKind, message: &str) -> Option<&'static str> {
    let about = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let hub = about(&["hf://", "hub ", "Hub "]);
    let bucket = about(&["s3://", "gs://", "az://", "abfs://", "bucket"]);
    match kind {
        ErrorKind::NotFound if about(&["was not recorded yet", "nobody has read"]) => Some(
            "read it once from its path, as a server does, then take the order with `preload record REF --now`",
        ),
        ErrorKind::NotFound if about(&["not here", "on this node"]) => {
            Some("bring it first with `preload pull`; `preload ls` lists what is here")
        }
        ErrorKind::NotFound if OWN_FILES.iter().any(|what| message.starts_with(what)) => {
            Some("check the path that was given for it, here and for the user that runs this")
        }
        ErrorKind::NotFound if about(&["cannot be given its path"]) => {
            Some("its directory was removed under the pull: pull it again")
        }
        ErrorKind::NotFound if about(&["live member has the manifest"]) => {
            Some("a manifest goes with its data: pull the model by the reference it came from")
        }
        ErrorKind::NotFound if about(&["live member"]) => {
            Some("`preload members` lists the members that live, with their names and zones")
        }
        ErrorKind::NotFound if about(&["matches the patterns", "has no file", "is not a file of"]) => {
            Some("`preload plan` lists the files that are there")
        }
        ErrorKind::NotFound if hub => Some(
            "check organisation, name and revision; without a token the Hub also hides private and gated repositories",
        ),
        ErrorKind::NotFound if bucket => {
            Some("check bucket, prefix, region and endpoint; `preload plan` lists what is there")
        }
        ErrorKind::NotFound if about(&["pull ", "warm"]) => {
            Some("the list of pulls and warm-ups shows those that run or ended lately")
        }
        ErrorKind::NotFound if about(&["artifact"]) => {
            Some("bring it first with `preload pull`; `preload ls` lists what is here")
        }
        ErrorKind::NotFound if about(&["http://", "https://"]) => {
            Some("check the URL; a folder ends with a slash and needs an `emberline-files.json`")
        }
        ErrorKind::NotFound if about(&["/"]) => Some("check the path, as the node that pulls sees it"),
        ErrorKind::Denied
            if about(&["data directory is in use", "another process", "another agent", "locked"]) =>
        {
            Some("one agent a data directory: `preload --data-dir DIR` talks to the one that has it")
        }
        ErrorKind::Denied if about(&["pinned", "leased", "in use"]) => {
            Some("unpin it or wait for its readers, or remove it with `--force`")
        }
        ErrorKind::Denied if hub => Some(
            "give the agent a Hub token that may read it, and accept the model's terms on its page if it is gated",
        ),
        ErrorKind::Denied if bucket => {
            Some("check the agent's credentials for this bucket, and the machine's clock")
        }
        ErrorKind::Denied if about(&["Permission denied", "permission denied", "Read-only"]) => {
            Some("check the owner and mode of the path for the user the agent runs as")
        }
        ErrorKind::Corrupt if about(&["origin changed", "changed while"]) => {
            Some("it was replaced while it was read: pull again to get the new version")
        }
        ErrorKind::Corrupt => Some("`preload verify` checks what is here and fetches again what is wrong"),
        ErrorKind::Full => {
            Some("make room with `preload rm` or `preload unpin`, or raise `store.quota_bytes`")
        }
        ErrorKind::Timeout => Some("nothing came in time; try again, or allow more time"),
        ErrorKind::Unavailable { .. } if about(&[NOBODY_BRINGS]) => {
            Some("`preload pull` brings what is missing; nothing else does")
        }
        ErrorKind::Unavailable { .. } if about(&[DRAINED]) => {
            Some("ask another node (`preload members` lists them), or start this one again")
        }
        ErrorKind::Unavailable { .. } if about(&["Connection refused", "connection refused"]) => {
            Some("nothing listens there: check the address, and that the other side runs")
        }
        ErrorKind::Unavailable { .. } if about(&["dns", "lookup", "resolve host"]) => {
            Some("the name does not resolve: check its spelling and this node's DNS")
        }
        ErrorKind::NotFound
        | ErrorKind::Denied
        | ErrorKind::Invalid
        | ErrorKind::Unavailable { .. }
        | ErrorKind::Cancelled => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ErrorKind; 8] = [
        ErrorKind::NotFound,
        ErrorKind::Denied,
        ErrorKind::Invalid,
        ErrorKind::UNAVAILABLE,
        ErrorKind::Timeout,
        ErrorKind::Corrupt,
        ErrorKind::Full,
        ErrorKind::Cancelled,
    ];

    #[test]
    fn a_kind_survives_the_way_through_a_problem() {
        for kind in ALL {
            assert_eq!(Problem::from(&Error::new(kind, "x")).error_kind(), kind);
        }
        let later = ErrorKind::Unavailable { retry_after: Some(Duration::from_millis(1500)) };
        let problem = Problem::from(&Error::new(later, "slow down"));
        assert_eq!(problem.retry_after_seconds, Some(1.5));
        assert_eq!(problem.error_kind(), later);
    }

    #[test]
    fn no_two_kinds_share_an_exit_code_and_none_is_success_or_a_panic() {
        let mut codes: Vec<u8> = ALL.into_iter().map(exit_code).collect();
        assert!(codes.iter().all(|&code| code >= 2));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ALL.len());
    }

    #[test]
    fn advice_fits_what_the_message_is_about() {
        let cases = [
            (ErrorKind::Denied, "hf://org/gated@main: 403", "Hub token"),
            (ErrorKind::Denied, "s3://bucket/x: 403", "credentials"),
            (ErrorKind::Denied, "artifact 3fa9 is pinned", "--force"),
            (ErrorKind::NotFound, "artifact s3x is not here", "preload pull"),
            (ErrorKind::NotFound, "s3://bucket/x is not on this node", "preload pull"),
            (ErrorKind::NotFound, "in which order s3://b/x is read was not recorded yet", "preload record"),
            (ErrorKind::NotFound, "no live member is called \"gpu-9\"", "preload members"),
            (ErrorKind::NotFound, "no live member has the manifest ember://00", "reference"),
            (ErrorKind::NotFound, "no file of s3://b/p matches the patterns (3 files there)", "preload plan"),
            (ErrorKind::NotFound, "https://host/x/ has no file nope", "preload plan"),
            (ErrorKind::NotFound, "https://host/x: 404", "URL"),
            (ErrorKind::NotFound, "/models/x: No such file or directory", "path"),
            (ErrorKind::NotFound, "configuration /no.toml: No such file or directory", "was given for it"),
            (ErrorKind::NotFound, "cluster secret /no: No such file or directory", "was given for it"),
            (ErrorKind::NotFound, "nobody has read http://host/x/ through this agent lately", "read it once"),
            (ErrorKind::NotFound, "f of http://h/x/ cannot be given its path: No such file", "pull it again"),
            (ErrorKind::Denied, "data directory is in use by process 7 (lock file /d/lock)", "--data-dir"),
            (ErrorKind::UNAVAILABLE, "x is not whole: …, and no pull of it is under way", "preload pull"),
            (ErrorKind::UNAVAILABLE, "this agent is shutting down: it was drained, and …", "another node"),
            (ErrorKind::Full, "pull of 9 GiB", "quota_bytes"),
        ];
        for (kind, message, expected) in cases {
            let advice = advice(kind, message).unwrap_or_default();
            assert!(advice.contains(expected), "{message}: {advice}");
        }
        assert_eq!(advice(ErrorKind::Invalid, "reference \"x\""), None);
    }

    #[test]
    fn a_negative_or_endless_retry_after_from_outside_is_no_panic() {
        for seconds in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            let problem = Problem {
                kind: "unavailable".to_owned(),
                message: String::new(),
                advice: None,
                retry_after_seconds: Some(seconds),
            };
            assert_eq!(problem.error_kind(), ErrorKind::UNAVAILABLE);
        }
    }
}
