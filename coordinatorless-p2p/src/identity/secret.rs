//! The cluster secret: 32 random bytes that every node of a cluster shares, and the certificate
//! authority that follows from them.
//!
//! Invariants: the same secret yields the same authority everywhere; the secret is never printed.

use std::{fmt, path::Path};

use ed25519_dalek::pkcs8::EncodePrivateKey;
use hkdf::Hkdf;
use rand::TryRngCore;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::Sha256;

use super::{crypto_failed, private_file};
use crate::error::{Error, ErrorKind, Result};

/// What the nodes of a cluster share and others must not know.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret([u8; 32]);

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(…)")
    }
}

impl ClusterSecret {
    /// A new secret from the operating system's random numbers.
    ///
    /// # Errors
    /// `Unavailable` when the system has none to give.
    pub fn generate() -> Result<Self> {
        let mut bytes = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|e| {
            Error::with_source(ErrorKind::UNAVAILABLE, "no random numbers for a cluster secret", e)
        })?;
        Ok(Self(bytes))
    }

    /// The well-known secret of agents that listen on loopback and were given none. It protects
    /// against nothing but a mix-up; the caller makes sure that nobody else can connect.
    pub fn for_loopback() -> Self {
        Self(*blake3::hash(b"emberline: agents on loopback without a secret").as_bytes())
    }

    /// Reads 64 hex digits (white space around them is fine) or 32 raw bytes.
    ///
    /// # Errors
    /// `Denied` when group or others may read the file; `Invalid` when it holds something else;
    /// `NotFound`.
    pub fn from_file(path: &Path) -> Result<Self> {
        let content = private_file::read_private("cluster secret", path)?;
        Self::parse(&content).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("cluster secret {} is neither 64 hex digits nor 32 raw bytes", path.display()),
            )
        })
    }

    fn parse(content: &[u8]) -> Option<Self> {
        if let Ok(raw) = content.try_into() {
            return Some(Self(raw));
        }
        let text = content.trim_ascii();
        if text.len() != 64 || !text.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let digits = std::str::from_utf8(text).ok()?;
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Writes the secret as hex into a new file with mode 0600.
    ///
    /// # Errors
    /// `Invalid` when the file exists: a secret is never overwritten.
    pub fn write_new(&self, path: &Path) -> Result<()> {
        let mut text: String = self.0.iter().map(|b| format!("{b:02x}")).collect();
        text.push('\n');
        if private_file::write_new("cluster secret", path, text.as_bytes())? {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::Invalid,
                format!("cluster secret {} exists already and is not overwritten", path.display()),
            ))
        }
    }

    /// The cluster's certificate authority.
    pub(super) fn authority(&self) -> Result<Authority> {
        let mut seed = [0; 32];
        Hkdf::<Sha256>::new(Some(b"emberline"), &self.0)
            .expand(b"cluster authority, ed25519, version 1", &mut seed)
            .map_err(|e| {
                Error::new(ErrorKind::Invalid, format!("cannot derive the cluster authority: {e}"))
            })?;
        let pkcs8 = ed25519_dalek::SigningKey::from_bytes(&seed)
            .to_pkcs8_der()
            .map_err(|e| crypto_failed("cannot encode the cluster authority's key", e))?;
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_bytes());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519)
            .map_err(|e| crypto_failed("cannot load the cluster authority's key", e))?;
        let mut params = CertificateParams::default();
        // Every node mints this certificate for itself. Verification compares subject and key alone,
        // so nothing in the subject may differ between nodes of one cluster.
        params.distinguished_name.push(DnType::CommonName, "emberline cluster authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let cert = params
            .self_signed(&key)
            .map_err(|e| crypto_failed("cannot mint the cluster authority's certificate", e))?;
        Ok(Authority { anchor: cert.der().clone(), issuer: Issuer::new(params, key) })
    }
}

/// Who signs the cluster's certificates.
pub(super) struct Authority {
    /// The self-signed certificate to trust.
    pub(super) anchor: CertificateDer<'static>,
    /// What signs.
    pub(super) issuer: Issuer<'static, KeyPair>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = ClusterSecret([0xab; 32]);
        assert!(!format!("{secret:?}").to_lowercase().contains("ab"));
    }

    #[test]
    fn a_secret_survives_its_file_and_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let secret = ClusterSecret::generate().unwrap();
        secret.write_new(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ClusterSecret::from_file(&path).unwrap(), secret);
        let err = ClusterSecret::generate().unwrap().write_new(&path).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Invalid);
        assert_eq!(ClusterSecret::from_file(&path).unwrap(), secret);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a draft was left behind");
    }

    #[test]
    fn raw_bytes_and_hex_name_the_same_secret() {
        let raw: Vec<u8> = (0..32).collect();
        let hex: String = raw.iter().map(|b| format!("{b:02X}")).collect();
        assert_eq!(ClusterSecret::parse(&raw), ClusterSecret::parse(format!(" {hex}\n").as_bytes()));
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        ClusterSecret::generate().unwrap().write_new(&path).unwrap();
        for mode in [0o640, 0o604, 0o644, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let err = ClusterSecret::from_file(&path).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Denied);
            assert!(err.to_string().contains("chmod 600"), "{err}");
        }
    }

    #[test]
    fn what_is_not_a_secret_is_refused() {
        // 31 and 33 raw bytes; 63 and 65 digits; not digits; a sign that a lax parser would take.
        let long = "f".repeat(65);
        let signs = "+f".repeat(32);
        for bad in [&[7u8; 31][..], &[7; 33], &long.as_bytes()[..63], long.as_bytes(), signs.as_bytes(), b""]
        {
            assert_eq!(ClusterSecret::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn one_secret_yields_one_authority_and_two_yield_two() {
        let key = |s: &ClusterSecret| s.authority().unwrap().issuer.key().public_key_raw().to_vec();
        let secret = ClusterSecret([1; 32]);
        assert_eq!(key(&secret), key(&secret.clone()));
        assert_ne!(key(&secret), key(&ClusterSecret([2; 32])));
    }
}
