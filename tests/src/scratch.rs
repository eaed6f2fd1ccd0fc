//! Folders that live as long as the test program: what its tests share, and nobody drops at its end.
//!
//! They lie below `target/tmp`, not in the system's temporary folder, under names of their own: the next run
//! replaces what the last one left.

use std::{fs, path::PathBuf};

use coordinatorless_p2p::{IoContext, Result};

use crate::binaries::{profile_dir, workspace_root};

/// The folder of that name, empty. To be asked for once in a program; one name belongs to one program. Blocks.
///
/// # Errors
/// As the file system.
pub fn scratch(name: &str) -> Result<PathBuf> {
    let target = profile_dir().ok().and_then(|dir| Some(dir.parent()?.to_owned()));
    let dir = target.unwrap_or_else(|| workspace_root().join("target")).join("tmp").join(name);
    let at = || dir.display().to_string();
    if dir.exists() {
        fs::remove_dir_all(&dir).at(at)?;
    }
    fs::create_dir_all(&dir).at(at)?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_last_run_left_is_gone() {
        let dir = scratch("scratch-of-a-test").expect("a folder");
        fs::write(dir.join("left"), "x").expect("written");
        assert_eq!(scratch("scratch-of-a-test").expect("a folder"), dir);
        assert_eq!(fs::read_dir(&dir).expect("there").count(), 0);
    }
}
