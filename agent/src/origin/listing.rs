//! From what an origin lists to a sound snapshot.
//!
//! Owns the checks that hold for every origin: names that are safe, that no file system can confuse,
//! in one order everywhere. Does no I/O.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

use crate::{
    error::{Error, ErrorKind, Result},
    snapshot::{Snapshot, SnapshotFile},
};

/// The listing file that stands beside files served over HTTP.
pub const LISTING_FILE: &str = "emberline-files.json";

/// The most files one snapshot may have: bounds memory before anything is allocated for them.
pub const MAX_FILES: usize = 1 << 18;

/// The manifest that stands beside a model, written by `preload publish`.
pub const MANIFEST_FILE: &str = ".emberline-manifest";

/// What files of ours start with that stand beside a model without being part of it.
const CONTROL_PREFIX: &str = ".emberline";

/// Whether `path` is a file of ours that stands beside a model without being part of it.
pub fn is_control_file(path: &str) -> bool {
    let name = path.rsplit('/').next();
    name == Some(LISTING_FILE) || path.split('/').any(|part| part.starts_with(CONTROL_PREFIX))
}

/// # Errors
/// `Invalid` once `count` files are more than a snapshot may have.
pub(super) fn check_count(reference: &str, count: usize) -> Result<()> {
    if count <= MAX_FILES {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("{reference} has more than {MAX_FILES} files: name a part of it"),
    ))
}

/// Sorts and checks what was listed; of control files only the manifest is remembered.
///
/// # Errors
/// `NotFound` when nothing is left; `Invalid` naming two paths that are equal but for case or Unicode
/// form, or of which one is a file and the other lies below it.
pub(super) fn snapshot(
    reference: &str,
    revision: Option<String>,
    mut files: Vec<SnapshotFile>,
) -> Result<Snapshot> {
    let manifest = files.iter().find(|file| file.path.as_str() == MANIFEST_FILE).cloned();
    files.retain(|file| !is_control_file(file.path.as_str()));
    check_count(reference, files.len())?;
    if files.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("{reference} has no files: check its name, and that it is not empty"),
        ));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));

    let clash = |what: &str, a: &str, b: &str| {
        Err(Error::new(ErrorKind::Invalid, format!("{reference}: {a:?} and {b:?} {what}")))
    };
    let mut folded: HashMap<String, &str> = HashMap::with_capacity(files.len());
    for file in &files {
        if let Some(other) = folded.insert(fold(file.path.as_str()), file.path.as_str()) {
            return clash(
                "are one name where case or Unicode form does not count",
                other,
                file.path.as_str(),
            );
        }
    }
    for (path, original) in &folded {
        for (at, _) in path.match_indices('/') {
            if let Some(file) = folded.get(&path[..at]) {
                return clash("cannot both be: the first is a file and not a directory", file, original);
            }
        }
    }
    Ok(Snapshot { reference: reference.to_owned(), revision, files, manifest })
}

/// What a path is where neither case nor Unicode form counts.
fn fold(path: &str) -> String {
    if path.is_ascii() {
        return path.to_ascii_lowercase();
    }
    // Upper first: `ß`, `ſ` and final sigma meet their like only there.
    path.nfkc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfkc().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::FileVersion;

    fn files(paths: &[&str]) -> Vec<SnapshotFile> {
        let file = |path: &&str| SnapshotFile {
            path: path.parse().unwrap(),
            size: 1,
            version: FileVersion::default(),
            digest: None,
        };
        paths.iter().map(file).collect()
    }

    #[test]
    fn names_that_a_file_system_may_confuse_are_refused_by_name() {
        for (a, b) in [
            ("Model.bin", "model.bin"),
            ("caf\u{e9}/x", "cafe\u{301}/x"),
            ("stra\u{df}e", "STRASSE"),
            ("a", "a/b"),
            ("A", "a/b"),
            ("a/b/c", "a/B"),
        ] {
            for order in [[a, b], [b, a]] {
                let error = snapshot("ref", None, files(&order)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid);
                let text = error.to_string();
                assert!(text.contains(&format!("{a:?}")) && text.contains(&format!("{b:?}")), "{text}");
            }
        }
    }

    #[test]
    fn control_files_are_not_part_of_a_model() {
        // Where the model begins depends on who asks: the listing of a folder is nobody's file.
        let listed =
            files(&["b", ".emberline-manifest", "a/.emberline/x", LISTING_FILE, "a/emberline-files.json"]);
        let found = snapshot("ref", None, listed).unwrap();
        let paths: Vec<_> = found.files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["b"]);
        assert_eq!(found.manifest.unwrap().path.as_str(), MANIFEST_FILE);
    }

    #[test]
    fn nothing_is_not_a_model() {
        let error = snapshot("s3://b/p", None, files(&[LISTING_FILE])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("s3://b/p"));
    }

    proptest! {
        #[test]
        fn a_snapshot_does_not_depend_on_the_order_of_the_listing(
            paths in proptest::collection::btree_set("[a-c]{1,2}(/[d-f]{1,2}){0,2}", 1..12),
            seed in any::<u64>(),
        ) {
            use rand::{SeedableRng, seq::SliceRandom};
            let sorted: Vec<&str> = paths.iter().map(String::as_str).collect();
            let mut shuffled = sorted.clone();
            shuffled.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
            let of = |p: &[&str]| snapshot("r", None, files(p)).map_err(|e| e.kind());
            prop_assert_eq!(of(&sorted), of(&shuffled));
        }
    }
}
