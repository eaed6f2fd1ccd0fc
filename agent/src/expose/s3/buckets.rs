//! Which place of the namespace a bucket is.
//!
//! A bucket called like a mount is that mount. One called like a scheme is that scheme: `hf` has the key
//! `org/name/main/config.json`. Every other one is the bucket of that name at the S3 origin.

use std::collections::BTreeSet;

use s3s::{S3ErrorCode, S3Result};

use super::errors::{said, told};
use crate::namespace::NamespacePath;

/// The namespace's own names.
const SCHEMES: [&str; 7] = ["az", "gs", "hdfs", "hf", "http", "https", "s3"];

/// The buckets that are known by name.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    mounts: BTreeSet<String>,
    /// Those of the S3 origin that the configuration names.
    configured: BTreeSet<String>,
}

/// What a listing looks at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// The mount, or the place below a scheme where an origin begins.
    pub(super) root: NamespacePath,
    /// What stands before every key of it in the bucket; ends in a slash, or is empty.
    pub(super) above: String,
    /// The prefix below the root.
    pub(super) prefix: String,
    /// There is no origin yet: what is below `root` are names of origins.
    pub(super) is_names: bool,
}

impl Buckets {
    pub(super) fn new<'a>(
        mounts: impl Iterator<Item = &'a String>,
        configured: impl Iterator<Item = &'a String>,
    ) -> Self {
        Self { mounts: mounts.cloned().collect(), configured: configured.cloned().collect() }
    }

    /// Every bucket that is known before anybody names it.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        self.mounts.union(&self.configured).map(String::as_str)
    }

    pub(super) fn is_mount(&self, bucket: &str) -> bool {
        self.mounts.contains(bucket)
    }

    /// Where a bucket is.
    ///
    /// # Errors
    /// `InvalidBucketName`.
    pub(super) fn path(&self, bucket: &str) -> S3Result<NamespacePath> {
        let is_part = !bucket.is_empty() && !bucket.contains('/') && !matches!(bucket, "." | "..");
        let path = if self.is_mount(bucket) || SCHEMES.contains(&bucket) {
            format!("/{bucket}")
        } else {
            format!("/s3/{bucket}")
        };
        let path = is_part.then(|| path.parse()).and_then(Result::ok);
        path.ok_or_else(|| {
            said(S3ErrorCode::InvalidBucketName, format!("no bucket can be called {bucket:?}"))
        })
    }

    /// Where an object is.
    ///
    /// # Errors
    /// `NoSuchKey` for a key that no file can have: one with empty or dotted parts, or a slash at its end.
    pub(super) fn object(&self, bucket: &str, key: &str) -> S3Result<NamespacePath> {
        let path = self.path(bucket)?;
        if key.ends_with('/') || key.starts_with('/') {
            return Err(said(
                S3ErrorCode::NoSuchKey,
                format!("{key:?} is a directory at most, not an object"),
            ));
        }
        path.join(key).map_err(|e| said(S3ErrorCode::NoSuchKey, e.to_string()))
    }

    /// What a listing of a bucket with this prefix looks at.
    ///
    /// # Errors
    /// As [`path`](Self::path).
    pub(super) fn scope(&self, bucket: &str, prefix: &str) -> S3Result<Scope> {
        let root = self.path(bucket)?;
        let wanted = if self.is_mount(bucket) { 0 } else { parts_above(bucket, prefix) };
        let (mut above, mut rest) = (String::new(), prefix);
        for _ in 0..wanted {
            let Some((part, below)) = rest.split_once('/') else {
                let root = if above.is_empty() { root } else { root.join(&above).map_err(|e| told(&e))? };
                return Ok(Scope { root, above, prefix: rest.to_owned(), is_names: true });
            };
            above.push_str(part);
            above.push('/');
            rest = below;
        }
        let root = if above.is_empty() { root } else { root.join(&above).map_err(|e| told(&e))? };
        Ok(Scope { root, above, prefix: rest.to_owned(), is_names: false })
    }
}

/// How many parts of a key name the origin.
fn parts_above(bucket: &str, prefix: &str) -> usize {
    match bucket {
        "hf" if prefix.starts_with("datasets/") || prefix.starts_with("spaces/") => 4,
        "hf" => 3,
        other if SCHEMES.contains(&other) => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets() -> Buckets {
        Buckets::new(["models".to_owned()].iter(), ["data".to_owned()].iter())
    }

    #[test]
    fn a_bucket_is_a_mount_a_scheme_or_a_bucket_of_the_origin() {
        let object = |bucket: &str, key: &str| buckets().object(bucket, key).map(|path| path.to_string());
        assert_eq!(object("models", "a/b").unwrap(), "/models/a/b");
        assert_eq!(object("hf", "org/name/main/x").unwrap(), "/hf/org/name/main/x");
        assert_eq!(object("other-bucket", "a b").unwrap(), "/s3/other-bucket/a b");
        for key in ["a//b", "a/", "/a", "../a", "a/./b", "a\\b", "a\nb"] {
            assert_eq!(object("models", key).unwrap_err().code(), &S3ErrorCode::NoSuchKey, "{key}");
        }
        for bucket in ["", "..", "a/b", "a\\b"] {
            assert_eq!(object(bucket, "x").unwrap_err().code(), &S3ErrorCode::InvalidBucketName, "{bucket}");
        }
        assert_eq!(buckets().known().collect::<Vec<_>>(), ["data", "models"]);
    }

    #[test]
    fn a_listing_begins_where_an_origin_does() {
        let scope = |bucket: &str, prefix: &str| {
            let scope = buckets().scope(bucket, prefix).unwrap();
            (scope.root.to_string(), scope.above, scope.prefix, scope.is_names)
        };
        let is = |root: &str, above: &str, prefix: &str, is_names| {
            (root.to_owned(), above.to_owned(), prefix.to_owned(), is_names)
        };
        assert_eq!(scope("models", "a/b"), is("/models", "", "a/b", false));
        assert_eq!(scope("other", "a//"), is("/s3/other", "", "a//", false));
        assert_eq!(scope("hf", "org/name/main/a/b"), is("/hf/org/name/main", "org/name/main/", "a/b", false));
        assert_eq!(scope("hf", "org/na"), is("/hf/org", "org/", "na", true));
        assert_eq!(scope("hf", ""), is("/hf", "", "", true));
        assert_eq!(
            scope("hf", "datasets/o/n/main/"),
            is("/hf/datasets/o/n/main", "datasets/o/n/main/", "", false)
        );
        assert_eq!(scope("s3", "bucket/x"), is("/s3/bucket", "bucket/", "x", false));
    }
}
