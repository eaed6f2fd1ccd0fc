//! Who we are to the cluster and whom we believe: keys, certificates, trust.
//!
//! A cluster is an authority. It either follows from the cluster secret, and each node mints its
//! own certificate, or somebody brings authority, certificate and key as files. Knows TLS
//! configurations; never sockets.
//!
//! Invariants: TLS 1.3 both ways, nothing resumed (a resumed session would skip the check of whom
//! we dialled); a node is its key, names mean nothing; a new certificate or authority holds for the
//! next handshake and leaves live connections alone.

mod key;
mod private_file;
mod secret;
mod verify;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use rustls::{
    RootCertStore,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, ring},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

pub use key::NodeKey;
pub use secret::ClusterSecret;
pub use verify::node_id_of;
pub(crate) use verify::sentence_of;

use crate::{
    error::{Error, ErrorKind, Result},
    node::NodeId,
};
use secret::Authority;
use verify::PeerVerifier;

/// What both ends must speak; changed when the meaning of the streams changes.
pub const ALPN: &[u8] = b"emberline/1";

/// The name that clients ask for. A constant: whom they mean is decided by key.
pub const SERVER_NAME: &str = "node.emberline.internal";

/// How long a certificate minted here is valid.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How far clocks of a cluster may differ before a fresh certificate is refused.
const BACK_DATED: Duration = Duration::from_secs(15 * 60);

fn crypto_failed(
    context: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::with_source(ErrorKind::Invalid, context, source)
}

/// A node's key, its current certificate, and the authority it believes.
pub struct Identity {
    id: NodeId,
    shared: Arc<Shared>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Where certificates come from.
enum Source {
    Minted { authority: Box<Authority>, key: NodeKey },
    Files { files: Files, seen: Mutex<Vec<u8>> },
}

struct Files {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// What handshakes look at; replaced as a whole.
struct Live {
    certified: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    valid_from: SystemTime,
    renew_at: SystemTime,
}

struct Shared {
    source: Source,
    provider: Arc<CryptoProvider>,
    live: RwLock<Arc<Live>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Identity {
    /// An identity whose certificate is minted here, by the authority that follows from the secret,
    /// and minted again before half of its life is over.
    ///
    /// # Errors
    /// `Invalid` when the key is of no use.
    pub fn from_secret(secret: &ClusterSecret, key: NodeKey) -> Result<Self> {
        Self::minted(secret, key, SystemTime::now())
    }

    fn minted(secret: &ClusterSecret, key: NodeKey, now: SystemTime) -> Result<Self> {
        let provider = provider();
        let authority = Box::new(secret.authority()?);
        let live = mint(&authority, &key, &provider, now)?;
        Self::new(Source::Minted { authority, key }, live, provider)
    }

    /// An identity from PEM files: the authority's certificates, this node's chain, and its key.
    ///
    /// # Errors
    /// `NotFound`; `Denied` when others may read the key; `Invalid` when a file does not hold what
    /// it should, or key and certificate do not belong together.
    pub fn from_files(authority: &Path, certificate: &Path, key: &Path) -> Result<Self> {
        let provider = provider();
        let files = Files { authority: authority.into(), certificate: certificate.into(), key: key.into() };
        let (digest, live) = files.load(&provider)?;
        Self::new(Source::Files { files, seen: Mutex::new(digest) }, live, provider)
    }

    fn new(source: Source, live: Live, provider: Arc<CryptoProvider>) -> Result<Self> {
        let id = id_of(&live.certified)?;
        let live = RwLock::new(Arc::new(live));
        Ok(Self { id, shared: Arc::new(Shared { source, provider: Arc::clone(&provider), live }), provider })
    }

    /// The node's name: the hash of its public key.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Reads the files again; true when they had changed and hold from the next handshake on.
    /// A minted identity has nothing to reload. Reads files: not for the event loop's hot path.
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files), and `Invalid` when the new certificate has another key,
    /// which would make this another node. What was in use stays in use.
    pub fn reload(&self) -> Result<bool> {
        let Source::Files { files, seen } = &self.shared.source else { return Ok(false) };
        let (digest, live) = files.load(&self.provider)?;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == digest {
            return Ok(false);
        }
        let id = id_of(&live.certified)?;
        if id != self.id {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "certificate {} now has another key: it names node {id}, we are {}; keep the key when \
                     renewing (cert-manager: rotationPolicy: Never), or restart",
                    files.certificate.display(),
                    self.id
                ),
            ));
        }
        self.shared.replace(live);
        *seen = digest;
        Ok(true)
    }

    /// What our end shows and demands when peers connect.
    ///
    /// # Errors
    /// `Invalid` when TLS 1.3 is not to be had.
    pub fn server_config(&self) -> Result<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| crypto_failed("cannot speak TLS 1.3", e))?
            .with_client_cert_verifier(self.verifier(None))
            .with_cert_resolver(Arc::new(Presenter(Arc::clone(&self.shared))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// What our end shows and demands when we connect, `expected` being whom we mean to reach.
    ///
    /// # Errors
    /// `Invalid` when TLS 1.3 is not to be had.
    pub fn client_config(&self, expected: Option<NodeId>) -> Result<rustls::ClientConfig> {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| crypto_failed("cannot speak TLS 1.3", e))?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(expected))
            .with_client_cert_resolver(Arc::new(Presenter(Arc::clone(&self.shared))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn verifier(&self, expected: Option<NodeId>) -> Arc<PeerVerifier> {
        Arc::new(PeerVerifier {
            shared: Arc::clone(&self.shared),
            expected,
            algorithms: self.provider.signature_verification_algorithms,
        })
    }
}

impl Shared {
    /// What holds now; minted afresh when half of its life is over or the clock was set back.
    fn current(&self) -> Arc<Live> {
        self.current_at(SystemTime::now())
    }

    fn current_at(&self, now: SystemTime) -> Arc<Live> {
        let live = Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner));
        let Source::Minted { authority, key } = &self.source else { return live };
        if (live.valid_from..live.renew_at).contains(&now) {
            return live;
        }
        match mint(authority, key, &self.provider, now) {
            Ok(renewed) => self.replace(renewed),
            Err(error) => {
                tracing::warn!(%error, "cannot renew the node's certificate");
                live
            }
        }
    }

    fn replace(&self, live: Live) -> Arc<Live> {
        let live = Arc::new(live);
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&live);
        live
    }
}

/// Shows the current certificate, as client and as server.
#[derive(Debug)]
struct Presenter(Arc<Shared>);

impl ResolvesServerCert for Presenter {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current().certified))
    }
}

impl ResolvesClientCert for Presenter {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current().certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// ring's algorithms with AES-128-GCM first: measured 35–44 % faster than ChaCha20 in QUIC.
fn provider() -> Arc<CryptoProvider> {
    use rustls::crypto::ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    })
}

fn id_of(certified: &CertifiedKey) -> Result<NodeId> {
    let certificate =
        certified.end_entity_cert().map_err(|e| crypto_failed("an identity needs a certificate", e))?;
    node_id_of(certificate)
}

fn mint(authority: &Authority, key: &NodeKey, provider: &CryptoProvider, now: SystemTime) -> Result<Live> {
    let (from, until) = (now - BACK_DATED, now + LIFETIME);
    let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])
        .map_err(|e| crypto_failed("cannot name a certificate", e))?;
    params.not_before = from.into();
    params.not_after = until.into();
    params.distinguished_name.push(DnType::CommonName, "emberline node");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params
        .signed_by(key.pair(), &authority.issuer)
        .map_err(|e| crypto_failed("cannot mint a certificate", e))?;
    let mut live = assemble(vec![certificate.der().clone()], key, [authority.anchor.clone()], provider)?;
    (live.valid_from, live.renew_at) = (from, now + LIFETIME / 2);
    Ok(live)
}

fn assemble(
    chain: Vec<CertificateDer<'static>>,
    key: &NodeKey,
    anchors: impl IntoIterator<Item = CertificateDer<'static>>,
    provider: &CryptoProvider,
) -> Result<Live> {
    let certified = CertifiedKey::from_der(chain, key.to_der(), provider)
        .map_err(|e| crypto_failed("certificate and key do not belong together", e))?;
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(anchor).map_err(|e| crypto_failed("the authority's certificate is of no use", e))?;
    }
    let roots = Arc::new(roots);
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::new(provider.clone()))
        .build()
        .map_err(|e| crypto_failed("there is no authority to trust", e))?;
    Ok(Live { certified: Arc::new(certified), roots, clients, valid_from: UNIX_EPOCH, renew_at: UNIX_EPOCH })
}

impl Files {
    /// What the files hold, and a digest of it by which to notice a change.
    fn load(&self, provider: &CryptoProvider) -> Result<(Vec<u8>, Live)> {
        let authority = private_file::read("certificate authority", &self.authority)?;
        let certificate = private_file::read("certificate", &self.certificate)?;
        let key_pem = private_file::read_private("node key", &self.key)?;
        let mut digest = blake3::Hasher::new();
        for content in [&authority, &certificate, &key_pem] {
            digest.update(&(content.len() as u64).to_le_bytes()).update(content);
        }
        let key = NodeKey::from_pem(&self.key, &key_pem)?;
        let live = assemble(
            certificates(&self.certificate, &certificate)?,
            &key,
            certificates(&self.authority, &authority)?,
            provider,
        )
        .map_err(|e| e.context(format!("cannot use certificate {}", self.certificate.display())))?;
        Ok((digest.finalize().as_bytes().to_vec(), live))
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let bad = || format!("{} does not hold certificates in PEM", path.display());
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| crypto_failed(bad(), e))?;
    if found.is_empty() { Err(Error::new(ErrorKind::Invalid, bad())) } else { Ok(found) }
}

#[cfg(test)]
mod tests;

/// Makes `ring` the process's TLS provider, for every client that does not bring its own. Whoever came
/// first has chosen already; either serves.
pub fn install_crypto_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
