//! The S3 door's settings.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{invalid, is_loopback, read_private};
use crate::{
    error::{Error, ErrorKind, Result},
    namespace::MountTable,
};

/// The S3 door; closed unless `listen` is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3DoorConfig {
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// The access key that callers sign with; required off loopback, and for writing.
    pub access_key_id: Option<String>,
    /// A file with its secret, readable by its owner alone.
    pub secret_key_file: Option<PathBuf>,
    /// Buckets may be addressed as `bucket.domain`, besides `bucket.localhost`.
    pub domain: Option<String>,
    /// Mounts of buckets that callers may write; they must sign for it.
    pub writable_mounts: Vec<String>,
    /// Connections served at a time; more are told to come back later. 1 to 100,000. Of HTTP/2 each answer under
    /// way beyond the first of its connection counts, too.
    pub max_connections: usize,
}

impl Default for S3DoorConfig {
    fn default() -> Self {
        Self {
            listen: None,
            access_key_id: None,
            secret_key_file: None,
            domain: None,
            writable_mounts: Vec::new(),
            max_connections: 1024,
        }
    }
}

impl S3DoorConfig {
    /// The key and its secret, if callers need them.
    ///
    /// # Errors
    /// `Invalid` for one without the other, or for what no request can carry; `Denied` for a file that others
    /// can read; `NotFound`.
    pub fn credentials(&self) -> Result<Option<(String, String)>> {
        match (&self.access_key_id, &self.secret_key_file) {
            (None, None) => Ok(None),
            (Some(key), Some(file)) => {
                let is_key = |text: &str| {
                    (3..=128).contains(&text.len())
                        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b',')
                };
                if !is_key(key) {
                    return invalid(
                        "s3.access_key_id must be 3 to 128 letters, digits and signs, without / and ,",
                    );
                }
                let secret = read_private(file, "S3 secret key")?;
                let secret = secret.trim();
                if secret.len() < 8 || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return invalid(format!(
                        "the S3 secret key in {} must be one line of at least 8 printable characters",
                        file.display()
                    ));
                }
                Ok(Some((key.clone(), secret.to_owned())))
            }
            (Some(_), None) | (None, Some(_)) => {
                invalid("s3.access_key_id and s3.secret_key_file belong together: give both")
            }
        }
    }

    pub(super) fn validate(&self, mounts: &MountTable) -> Result<()> {
        if !(1..=100_000).contains(&self.max_connections) {
            return invalid("s3.max_connections must be between 1 and 100000");
        }
        if let Some(domain) = &self.domain {
            let is_name = !domain.is_empty()
                && domain.len() <= 253
                && domain.split('.').all(|label| {
                    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                });
            if !is_name || domain.parse::<std::net::IpAddr>().is_ok() {
                return invalid(format!(
                    "s3.domain {domain:?} is no host name; it is written without a port"
                ));
            }
        }
        let credentials = self.credentials()?;
        for mount in &self.writable_mounts {
            let Some(origin) = mounts.get(mount) else {
                return invalid(format!("s3.writable_mounts has {mount:?}, which is not in mounts"));
            };
            if !origin.starts_with("s3://") {
                return invalid(format!(
                    "s3.writable_mounts has {mount:?}, which is {origin}: only buckets, s3://, can be written"
                ));
            }
            if credentials.is_none() {
                return invalid(format!(
                    "s3.writable_mounts has {mount:?}, but callers cannot sign: set s3.access_key_id and s3.secret_key_file"
                ));
            }
        }
        match self.listen {
            Some(listen) if credentials.is_none() && !is_loopback(listen) => {
                Err(credentials_are_missing(listen))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The sentence for an S3 door that everybody could use.
pub(crate) fn credentials_are_missing(listen: SocketAddr) -> Error {
    let text = format!(
        "s3.listen {listen} is not loopback and there are no credentials: set s3.access_key_id, write its secret to a \
         file only its owner can read and name it in s3.secret_key_file, or listen on 127.0.0.1"
    );
    Error::new(ErrorKind::Invalid, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_written_is_a_mounted_bucket_for_callers_that_sign() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "a-secret-of-some-length").unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mounts = [("shelf", "s3://bucket/shelf"), ("disk", "file:///models")];
        let mounts: MountTable = mounts.map(|(name, origin)| (name.to_owned(), origin.to_owned())).into();
        let signed = |mount: &str| S3DoorConfig {
            access_key_id: Some("key".to_owned()),
            secret_key_file: Some(secret.clone()),
            writable_mounts: vec![mount.to_owned()],
            ..S3DoorConfig::default()
        };
        signed("shelf").validate(&mounts).unwrap();
        let unsigned = S3DoorConfig { access_key_id: None, secret_key_file: None, ..signed("shelf") };
        for (config, told) in [
            (signed("attic"), "\"attic\", which is not in mounts"),
            (signed("disk"), "\"disk\", which is file:///models: only buckets"),
            (unsigned, "set s3.access_key_id and s3.secret_key_file"),
        ] {
            let refused = config.validate(&mounts).unwrap_err();
            assert!(refused.kind() == ErrorKind::Invalid && refused.to_string().contains(told), "{refused}");
        }
    }
}
