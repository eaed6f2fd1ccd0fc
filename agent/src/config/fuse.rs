//! The mount: where it is, and for whom.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The namespace as a file system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FuseConfig {
    /// An empty directory; no mount without one.
    pub mountpoint: Option<PathBuf>,
    /// Whether users other than the agent's own may look in. Where an ordinary user may not allow that
    /// (`user_allow_other` in `/etc/fuse.conf`), the mount is his alone.
    pub allow_other: bool,
}

impl Default for FuseConfig {
    fn default() -> Self {
        Self { mountpoint: None, allow_other: true }
    }
}

impl FuseConfig {
    /// An agent that reads its own store through its own mount would wait for itself.
    pub(super) fn validate(&self, data_dir: &Path) -> Result<()> {
        let Some(mountpoint) = &self.mountpoint else { return Ok(()) };
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let (at, data) = (absolute(mountpoint), absolute(data_dir));
        if mountpoint.as_os_str().is_empty() || at == Path::new("/") {
            return Err(Error::new(ErrorKind::Invalid, "fuse.mountpoint must be a directory below /"));
        }
        if at.starts_with(&data) || data.starts_with(&at) {
            let text = format!(
                "fuse.mountpoint {} and data_dir {} must not be inside each other",
                at.display(),
                data.display()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_and_the_data_keep_apart() {
        let check = |at: &str| {
            let config = FuseConfig { mountpoint: Some(at.into()), ..FuseConfig::default() };
            config.validate(Path::new("/var/lib/emberline"))
        };
        check("/mnt/models").unwrap();
        check("/var/lib/emberline-mount").unwrap();
        for bad in ["/", "", "/var/lib", "/var/lib/emberline", "/var/lib/emberline/mount"] {
            assert_eq!(check(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        FuseConfig::default().validate(Path::new("/")).unwrap();
    }
}
