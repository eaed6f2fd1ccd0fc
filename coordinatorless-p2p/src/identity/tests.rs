//! Handshakes between identities, without sockets.

use std::{fs, os::unix::fs::PermissionsExt};

use rcgen::KeyPair;
use rustls::{ClientConnection, ServerConnection, pki_types::ServerName};

use super::*;

fn identity(secret: &ClusterSecret) -> Identity {
    Identity::from_secret(secret, NodeKey::generate().unwrap()).unwrap()
}

/// Shows a certificate that was minted at `then`, and does not renew it.
fn frozen(secret: &ClusterSecret, then: SystemTime) -> Identity {
    let identity = Identity::minted(secret, NodeKey::generate().unwrap(), then).unwrap();
    let live = identity.shared.live.read().unwrap().clone();
    identity.shared.replace(Live {
        certified: Arc::clone(&live.certified),
        roots: Arc::clone(&live.roots),
        clients: Arc::clone(&live.clients),
        valid_from: UNIX_EPOCH,
        renew_at: SystemTime::now() + 100 * LIFETIME,
    });
    identity
}

/// Both ends' verdicts on each other.
struct Outcome {
    client: Result<(), rustls::Error>,
    server: Result<(), rustls::Error>,
    cipher: Option<rustls::CipherSuite>,
}

impl Outcome {
    fn is_ok(&self) -> bool {
        self.client.is_ok() && self.server.is_ok()
    }
}

fn shake_hands(client: &Identity, server: &Identity, expected: Option<NodeId>) -> Outcome {
    let config = client.client_config(expected).unwrap();
    shake_hands_with(config, server.server_config().unwrap())
}

fn shake_hands_with(client: rustls::ClientConfig, server: rustls::ServerConfig) -> Outcome {
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut outcome = Outcome { client: Ok(()), server: Ok(()), cipher: None };
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut unread = &wire[..];
        while !unread.is_empty() && outcome.server.is_ok() {
            server.read_tls(&mut unread).unwrap();
            outcome.server = server.process_new_packets().map(|_| ());
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut unread = &wire[..];
        while !unread.is_empty() && outcome.client.is_ok() {
            client.read_tls(&mut unread).unwrap();
            outcome.client = client.process_new_packets().map(|_| ());
        }
    }
    assert!(!outcome.is_ok() || !(client.is_handshaking() || server.is_handshaking()), "unfinished");
    outcome.cipher = server.negotiated_cipher_suite().map(|c| c.suite());
    outcome
}

#[test]
fn nodes_of_one_secret_believe_each_other() {
    let secret = ClusterSecret::generate().unwrap();
    let (a, b) = (identity(&secret), identity(&secret));
    assert!(shake_hands(&a, &b, Some(b.id())).is_ok());
    assert!(shake_hands(&b, &a, None).is_ok());
}

#[test]
fn nodes_of_another_secret_are_refused_by_both_ends() {
    let here = identity(&ClusterSecret::generate().unwrap());
    let foreign = identity(&ClusterSecret::generate().unwrap());
    let dialling = shake_hands(&here, &foreign, None).client.unwrap_err().to_string();
    assert!(
        dialling.contains("another cluster") && dialling.contains(&foreign.id().to_string()),
        "{dialling}"
    );
    // A client that does not judge, so that the server gets to.
    let mut careless = foreign.client_config(None).unwrap();
    careless.dangerous().set_certificate_verifier(here.verifier(None));
    let answering = shake_hands_with(careless, here.server_config().unwrap()).server.unwrap_err().to_string();
    assert!(answering.contains("another cluster"), "{answering}");
}

#[test]
fn an_expired_certificate_is_refused_with_both_clocks() {
    let secret = ClusterSecret::generate().unwrap();
    let fresh = identity(&secret);
    let then = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let stale = frozen(&secret, then);
    let today = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let by_client = shake_hands(&fresh, &stale, None).client.unwrap_err().to_string();
    let by_server = shake_hands(&stale, &fresh, None).server.unwrap_err().to_string();
    for verdict in [by_client, by_server] {
        assert!(verdict.contains("expired at 2023-11-15T22:13:20Z"), "{verdict}");
        assert!(verdict.contains(&today[..10]), "{verdict}");
    }
}

#[test]
fn a_certificate_from_the_future_is_refused_with_both_clocks() {
    let secret = ClusterSecret::generate().unwrap();
    let early = frozen(&secret, SystemTime::now() + 3 * LIFETIME);
    let verdict = shake_hands(&identity(&secret), &early, None).client.unwrap_err().to_string();
    assert!(verdict.contains("is valid from") && verdict.contains("the clock here says"), "{verdict}");
}

#[test]
fn clocks_that_differ_by_minutes_do_not_matter() {
    let secret = ClusterSecret::generate().unwrap();
    let ahead = frozen(&secret, SystemTime::now() + Duration::from_secs(10 * 60));
    assert!(shake_hands(&identity(&secret), &ahead, None).is_ok());
}

#[test]
fn another_node_than_the_one_dialled_is_refused() {
    let secret = ClusterSecret::generate().unwrap();
    let (a, b, c) = (identity(&secret), identity(&secret), identity(&secret));
    let verdict = shake_hands(&a, &b, Some(c.id())).client.unwrap_err().to_string();
    assert!(verdict.contains(&b.id().to_string()) && verdict.contains(&c.id().to_string()), "{verdict}");
}

#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn a_client_without_certificate_is_refused() {
    let secret = ClusterSecret::generate().unwrap();
    let (a, b) = (identity(&secret), identity(&secret));
    let mut anonymous = a.client_config(None).unwrap();
    anonymous.client_auth_cert_resolver = Arc::new(Nobody);
    assert!(shake_hands_with(anonymous, b.server_config().unwrap()).server.is_err());
}

#[test]
fn only_tls_1_3_with_our_protocol_is_spoken_and_aes_128_comes_first() {
    let secret = ClusterSecret::generate().unwrap();
    let (a, b) = (identity(&secret), identity(&secret));
    let mut reversed = a.client_config(None).unwrap();
    assert!(b.server_config().unwrap().ignore_client_order);
    reversed.alpn_protocols = vec![b"other/1".to_vec()];
    assert!(shake_hands_with(reversed, b.server_config().unwrap()).server.is_err());
    let outcome = shake_hands(&a, &b, None);
    assert_eq!(outcome.cipher, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256));
}

#[test]
fn a_minted_certificate_is_renewed_at_half_of_its_life() {
    let identity = identity(&ClusterSecret::generate().unwrap());
    let now = SystemTime::now();
    let first = identity.shared.current();
    assert!(Arc::ptr_eq(&first, &identity.shared.current_at(now + LIFETIME / 2 - Duration::from_secs(60))));
    let renewed = identity.shared.current_at(now + LIFETIME / 2 + Duration::from_secs(60));
    assert!(!Arc::ptr_eq(&first, &renewed));
    assert_eq!(id_of(&renewed.certified).unwrap(), identity.id());
    // The clock set back a year: what was minted is not valid yet.
    let back = identity.shared.current_at(now - 365 * LIFETIME);
    assert!(back.valid_from < now - 364 * LIFETIME);
}

/// An authority and certificates as an operator would bring them.
struct Office {
    dir: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Office {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: rcgen::Issuer::new(params, key), dir }
    }

    fn issue(&self, name: &str, key: &KeyPair) {
        let params = CertificateParams::new(vec![format!("{name}.example")]).unwrap();
        fs::write(self.path(name, "crt"), params.signed_by(key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(self.path(name, "key"), key.serialize_pem()).unwrap();
        fs::set_permissions(self.path(name, "key"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str, kind: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.{kind}"))
    }

    fn load(&self, name: &str) -> Result<Identity> {
        Identity::from_files(
            &self.dir.path().join("ca.pem"),
            &self.path(name, "crt"),
            &self.path(name, "key"),
        )
    }
}

#[test]
fn certificates_from_files_work_whatever_name_they_carry() {
    let office = Office::new();
    office.issue("a", &KeyPair::generate().unwrap());
    office.issue("b", &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let (a, b) = (office.load("a").unwrap(), office.load("b").unwrap());
    assert!(shake_hands(&a, &b, Some(b.id())).is_ok());
    let elsewhere = Office::new();
    elsewhere.issue("c", &KeyPair::generate().unwrap());
    assert!(!shake_hands(&a, &elsewhere.load("c").unwrap(), None).is_ok());
}

#[test]
fn new_files_hold_from_the_next_handshake_on() {
    let office = Office::new();
    let key = KeyPair::generate().unwrap();
    office.issue("a", &key);
    office.issue("b", &KeyPair::generate().unwrap());
    let (a, b) = (office.load("a").unwrap(), office.load("b").unwrap());
    assert!(!a.reload().unwrap(), "nothing has changed yet");
    let before = a.shared.current().certified.cert[0].clone();
    office.issue("a", &key);
    assert!(a.reload().unwrap());
    assert!(!a.reload().unwrap());
    assert_ne!(a.shared.current().certified.cert[0], before);
    assert!(shake_hands(&a, &b, Some(b.id())).is_ok());
    assert!(shake_hands(&b, &a, Some(a.id())).is_ok());
}

#[test]
fn files_that_would_make_another_node_or_none_are_refused_and_the_old_ones_stay() {
    let office = Office::new();
    office.issue("a", &KeyPair::generate().unwrap());
    office.issue("b", &KeyPair::generate().unwrap());
    let (a, b) = (office.load("a").unwrap(), office.load("b").unwrap());
    office.issue("a", &KeyPair::generate().unwrap());
    let err = a.reload().unwrap_err();
    assert!(err.kind() == ErrorKind::Invalid && err.to_string().contains("another key"), "{err}");
    fs::write(office.path("a", "crt"), "junk").unwrap();
    assert_eq!(a.reload().unwrap_err().kind(), ErrorKind::Invalid);
    fs::copy(office.path("b", "crt"), office.path("a", "crt")).unwrap();
    assert_eq!(a.reload().unwrap_err().kind(), ErrorKind::Invalid, "key and certificate do not match");
    assert!(shake_hands(&a, &b, Some(b.id())).is_ok());
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let office = Office::new();
    office.issue("a", &KeyPair::generate().unwrap());
    fs::set_permissions(office.path("a", "key"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(office.load("a").unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(office.load("nobody").unwrap_err().kind(), ErrorKind::NotFound);
}
