//! The key of a node, which is its name: kept in a file of its own across restarts.

use std::{fmt, path::Path};

use rcgen::KeyPair;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{crypto_failed, private_file};
use crate::error::{Error, ErrorKind, Result};

/// A node's private key (Ed25519 when made here; ECDSA P-256 is read too).
pub struct NodeKey(KeyPair);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

impl NodeKey {
    /// A new key, kept nowhere.
    ///
    /// # Errors
    /// `Unavailable` when the system has no random numbers.
    pub fn generate() -> Result<Self> {
        KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .map(Self)
            .map_err(|e| Error::with_source(ErrorKind::UNAVAILABLE, "cannot generate a node key", e))
    }

    /// Reads the key at `path` (PKCS#8 in PEM), or makes one there with mode 0600. Two processes
    /// that start at the same moment end up with the same key.
    ///
    /// # Errors
    /// `Denied` when others may read the file; `Invalid` when it holds no key of a known kind.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        match private_file::read_private("node key", path) {
            Ok(pem) => return Self::from_pem(path, &pem),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let key = Self::generate()?;
        if private_file::write_new("node key", path, key.0.serialize_pem().as_bytes())? {
            return Ok(key);
        }
        Self::from_pem(path, &private_file::read_private("node key", path)?)
    }

    pub(super) fn from_pem(path: &Path, pem: &[u8]) -> Result<Self> {
        let bad = || format!("node key {} is not an Ed25519 or P-256 key in PKCS#8 PEM", path.display());
        let text = std::str::from_utf8(pem).map_err(|e| crypto_failed(bad(), e))?;
        let key = KeyPair::from_pem(text).map_err(|e| crypto_failed(bad(), e))?;
        if [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256].into_iter().any(|a| key.is_compatible(a)) {
            Ok(Self(key))
        } else {
            Err(Error::new(ErrorKind::Invalid, bad()))
        }
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.0
    }

    pub(super) fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn public(key: &NodeKey) -> Vec<u8> {
        key.0.public_key_raw().to_vec()
    }

    #[test]
    fn a_key_is_made_once_and_read_ever_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let made = NodeKey::load_or_create(&path).unwrap();
        let read = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(public(&made), public(&read));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn starts_at_the_same_moment_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let keys: Vec<_> = std::thread::scope(|s| {
            let starts: Vec<_> =
                (0..8).map(|_| s.spawn(|| public(&NodeKey::load_or_create(&path).unwrap()))).collect();
            starts.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        NodeKey::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(NodeKey::load_or_create(&path).unwrap_err().kind(), ErrorKind::Denied);
    }

    #[test]
    fn a_p256_key_is_read_and_a_p384_key_is_refused() {
        let path = Path::new("k");
        let pem = |alg| KeyPair::generate_for(alg).unwrap().serialize_pem();
        assert!(NodeKey::from_pem(path, pem(&rcgen::PKCS_ECDSA_P256_SHA256).as_bytes()).is_ok());
        let err = NodeKey::from_pem(path, pem(&rcgen::PKCS_ECDSA_P384_SHA384).as_bytes()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Invalid);
        assert_eq!(NodeKey::from_pem(path, b"junk").unwrap_err().kind(), ErrorKind::Invalid);
    }
}
