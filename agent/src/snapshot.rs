//! The exact listing of an origin at one moment.
//!
//! Owns the types that cannot be wrong: [`RelativePath`] never leaves its directory, and a
//! [`FileVersion`] says what a later read must still match. Does no I/O.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, ErrorKind, Result};

/// A path inside an artifact: UTF-8, `/`-separated, without `..`, empty or absolute parts, control
/// characters, backslashes or percent-encoded separators; at most 1,024 bytes, each part at most 255.
#[derive(
    Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
#[serde(transparent)]
pub struct RelativePath(String);

impl RelativePath {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What two paths have in common that some file system would take for one: case and Unicode
    /// normalisation form are gone.
    fn folded(&self) -> String {
        self.0.chars().flat_map(char::to_lowercase).nfc().collect()
    }
}

impl FromStr for RelativePath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
            Err(Error::new(ErrorKind::Invalid, format!("file name \"{shown}\" {why}")))
        };
        if text.is_empty() || text.len() > 1024 {
            return refuse("is empty or longer than 1024 bytes");
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return refuse("has a control character or backslash");
        }
        let lower = text.to_ascii_lowercase();
        if lower.contains("%2e%2e") || lower.contains("%2f") || lower.contains("%5c") || lower.contains("%00")
        {
            return refuse("has an encoded separator");
        }
        for part in text.split('/') {
            if part.is_empty() || part == "." || part == ".." || part.len() > 255 {
                return refuse("has an empty, dotted or overlong part");
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> Deserialize<'de> for RelativePath {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What identifies the content of a file at its origin, as far as the origin tells.
#[derive(
    Debug,
    Clone,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct FileVersion {
    /// The ETag as sent, quotes included; the commit for a Hub file; `mtime-ns:inode`-like for a local file.
    pub etag: Option<String>,
    /// The object version, where the bucket keeps versions.
    pub object_version: Option<String>,
}

/// A digest of the whole file, promised by the origin.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Digest {
    /// SHA-256 of the content (Hub LFS, S3 full-object checksum).
    Sha256([u8; 32]),
    /// Git blob SHA-1 (small Hub files): SHA-1 over `blob <size>\0` and the content.
    GitSha1([u8; 20]),
    /// MD5 of the content.
    Md5([u8; 16]),
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// Where it goes within the artifact.
    pub path: RelativePath,
    /// Size in bytes.
    pub size: u64,
    /// What later reads must still match.
    pub version: FileVersion,
    /// The origin's own digest, where there is one.
    pub digest: Option<Digest>,
}

/// The listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The canonical reference that was listed.
    pub reference: String,
    /// The commit or version that the reference stood for, where the origin has one.
    pub revision: Option<String>,
    /// Sorted by path; no two equal, nor equal but for case or Unicode form, nor a file that is
    /// also another's directory.
    pub files: Vec<SnapshotFile>,
    /// The manifest that was published beside them.
    pub manifest: Option<SnapshotFile>,
}

impl Snapshot {
    /// A listing of `reference` (canonical), in whatever order the origin gave the files.
    ///
    /// # Errors
    /// `Invalid`, naming the files: a path twice; two that differ only in case or Unicode form; a
    /// file where another has a directory; sizes that overflow.
    pub fn new(
        reference: impl fmt::Display,
        revision: Option<String>,
        mut files: Vec<SnapshotFile>,
    ) -> Result<Self> {
        let reference = reference.to_string();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        check_paths(files.iter().map(|file| &file.path))
            .and_then(|()| sum_of_sizes(files.iter().map(|file| file.size)))
            .map_err(|e| e.context(format!("listing of {reference}")))?;
        Ok(Self { reference, revision, files, manifest: None })
    }

    /// Total size in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }
}

/// The sum, if any disk could hold it.
///
/// # Errors
/// `Invalid` when it overflows.
pub(crate) fn sum_of_sizes(mut sizes: impl Iterator<Item = u64>) -> Result<u64> {
    sizes
        .try_fold(0u64, |sum, size| sum.checked_add(size))
        .filter(|&sum| i64::try_from(sum).is_ok())
        .ok_or_else(|| Error::new(ErrorKind::Invalid, "sizes add up to more than a disk can hold"))
}

/// Whether paths, sorted, can stand beside each other on any file system.
///
/// # Errors
/// `Invalid`, naming the two that cannot.
pub(crate) fn check_paths<'a>(paths: impl Iterator<Item = &'a RelativePath> + Clone) -> Result<()> {
    let invalid = |why: String| Err(Error::new(ErrorKind::Invalid, why));
    let mut files: HashMap<String, &RelativePath> = HashMap::new();
    let mut last: Option<&RelativePath> = None;
    for path in paths.clone() {
        if last.is_some_and(|last| last > path) {
            return invalid(format!("file \"{path}\" is out of order"));
        }
        last = Some(path);
        match files.insert(path.folded(), path) {
            Some(twin) if twin == path => return invalid(format!("file \"{path}\" is listed twice")),
            Some(twin) => {
                return invalid(format!(
                    "files \"{twin}\" and \"{path}\" differ only in case or Unicode form"
                ));
            }
            None => {}
        }
    }
    // Many files share a directory: each is looked up once.
    let mut seen: HashSet<&str> = HashSet::new();
    for path in paths {
        for (end, _) in path.0.match_indices('/').rev() {
            let directory = &path.0[..end];
            if !seen.insert(directory) {
                break;
            }
            if let Some(file) = files.get(&RelativePath(directory.to_owned()).folded()) {
                return invalid(format!("\"{file}\" is a file and also the directory of \"{path}\""));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> RelativePath {
        text.parse().unwrap()
    }

    fn listing(paths: &[&str]) -> Result<Snapshot> {
        let files = paths
            .iter()
            .map(|p| SnapshotFile { path: path(p), size: 1, version: FileVersion::default(), digest: None })
            .collect();
        Snapshot::new("s3://models/llama", None, files)
    }

    #[test]
    fn names_that_could_leave_the_directory_or_hide_are_refused() {
        let long_part = "a".repeat(256);
        let long = "a/".repeat(2500);
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/../b",
            "a/..",
            "/etc/passwd",
            "a//b",
            "a/",
            "..\\x",
            "a\\b",
            "%2e%2e%2fx",
            "a%2Fb",
            "a%5cb",
            "a%00",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            "a\u{85}b",
            "./a",
            "a/./b",
            &long_part,
            &long,
        ] {
            let err = name.parse::<RelativePath>().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Invalid, "{name:?}");
            assert!(err.to_string().len() < 1000, "the message is bounded");
            assert!(!err.to_string().contains(['\n', '\0']), "the message is printable");
        }
    }

    #[test]
    fn ordinary_names_are_kept_as_they_are() {
        let part = "a".repeat(255);
        for name in ["config.json", "1/model.onnx", "a b/ü..json", ".gitattributes", "..a/b..", "100%", &part]
        {
            assert_eq!(path(name).as_str(), name);
        }
    }

    #[test]
    fn a_listing_is_sorted_whatever_its_order_was() {
        let snapshot = listing(&["b", "a/z", "a.txt"]).unwrap();
        let paths: Vec<_> = snapshot.files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["a.txt", "a/z", "b"]);
        assert_eq!(snapshot.total_bytes(), 3);
    }

    #[test]
    fn names_that_a_file_system_could_confuse_are_refused() {
        for (paths, why) in [
            (&["a", "b", "a"][..], "listed twice"),
            (&["Model.bin", "model.bin"], "only in case"),
            (&["x/\u{e9}", "x/e\u{301}"], "only in case or Unicode form"),
            (&["\u{c9}", "e\u{301}"], "only in case or Unicode form"),
            (&["a", "a/b"], "also the directory"),
            (&["a/b/c/d", "a/b"], "also the directory"),
            (&["A", "a/b"], "also the directory"),
            (&["a!", "a", "a/b/c"], "also the directory"),
        ] {
            let err = listing(paths).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Invalid);
            assert!(err.to_string().contains(why) && err.to_string().contains("s3://models/llama"), "{err}");
        }
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let file = |p: &str, size| SnapshotFile {
            path: path(p),
            size,
            version: FileVersion::default(),
            digest: None,
        };
        for sizes in [[u64::MAX, 1], [i64::MAX as u64, 1]] {
            let files = vec![file("a", sizes[0]), file("b", sizes[1])];
            assert_eq!(Snapshot::new("x", None, files).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    proptest! {
        #[test]
        fn a_path_that_parses_stays_below_its_directory(text in "[a-zA-Z0-9./\\\\%\u{0}-\u{20}é]{0,40}") {
            if let Ok(path) = text.parse::<RelativePath>() {
                prop_assert_eq!(path.as_str(), &text);
                let joined = std::path::Path::new("/base").join(path.as_str());
                prop_assert!(joined.starts_with("/base") && joined != std::path::Path::new("/base"));
                prop_assert!(joined.components().all(|c| c != std::path::Component::ParentDir));
                prop_assert_eq!(joined.components().count() - 2, text.split('/').count());
            }
        }

        #[test]
        fn any_text_is_refused_or_kept_whole(text in any::<String>()) {
            if let Ok(path) = text.parse::<RelativePath>() {
                prop_assert_eq!(path.to_string(), text);
            }
        }
    }
}
