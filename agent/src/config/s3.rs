//! The S3 door's settings.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{invalid, is_loopback, read_private};
use crate::error::{Error, ErrorKind, Result};

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
    /// Connections served at a time; more are told to come back later. 1 to 100,000.
    pub max_connections: usize,
}

impl Default for S3DoorConfig {
    fn default() -> Self {
        Self { listen: None, access_key_id: None, secret_key_file: None, domain: None, max_connections: 1024 }
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

    pub(super) fn validate(&self) -> Result<()> {
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
