//! Whether a store could be opened at a place: looked at without opening one, and nothing is left there.

use std::{fs, io, path::Path};

use super::{StoreConfig, shelf::disk_space, space::Limits};
use crate::error::{IoContext, Result};

/// Says what opening a store in `dir` would fail for, as far as that can be seen. Who looks may be another user than
/// the one whom the directory is for: that it may not be written is not held against it.
///
/// # Errors
/// As opening: `Invalid` for a quota larger than the file system; `NotFound`, `Invalid` and others for a place where
/// no directory can be made.
pub fn inspect(dir: &Path, config: &StoreConfig) -> Result<()> {
    let at = || format!("data directory {} cannot be made", dir.display());
    let wanted = std::path::absolute(dir).at(at)?.join("artifacts");
    let there = wanted.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    if there != wanted {
        let probe = there.join(format!(".emberline-check-{}", std::process::id()));
        match fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            probed => probed.at(at)?,
        }
    }
    Limits::new(config, disk_space(there)?.total_bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_place_where_no_store_can_be_is_told_and_nothing_is_left_in_one_where_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |place: &Path, config: &StoreConfig| inspect(place, config).map_err(|e| e.kind());
        let usual = StoreConfig::default();
        assert_eq!(kind(&dir.path().join("deep/data"), &usual), Ok(()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(kind(Path::new("/proc/no-such-place"), &usual), Err(ErrorKind::NotFound));
        let file = dir.path().join("file");
        fs::write(&file, b"x").unwrap();
        assert_eq!(kind(&file, &usual), Err(ErrorKind::Invalid));
        let more_than_any_disk = StoreConfig { quota_bytes: 1 << 60, ..usual };
        assert_eq!(kind(dir.path(), &more_than_any_disk), Err(ErrorKind::Invalid));
    }
}
