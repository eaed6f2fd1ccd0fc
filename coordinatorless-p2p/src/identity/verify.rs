//! How a peer's certificate is judged: signed by our cluster's authority, valid now, and of the
//! node that was expected.
//!
//! Names in certificates mean nothing here; the key does. Verdicts name the node and, for a matter
//! of time, both clocks, because the text is all that the person at the other end will see.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Shared;
use crate::{
    error::{Error, ErrorKind, Result},
    node::NodeId,
};

/// The id of the node whose certificate this is.
///
/// # Errors
/// `Invalid` when it is not a certificate.
pub fn node_id_of(certificate: &CertificateDer<'_>) -> Result<NodeId> {
    let parsed = ParsedCertificate::try_from(certificate)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "certificate cannot be parsed", e))?;
    Ok(NodeId::of_public_key(parsed.subject_public_key_info().as_ref()))
}

/// Judges servers and clients alike; always by the trust that is current at the moment.
pub(super) struct PeerVerifier {
    pub(super) shared: Arc<Shared>,
    /// Whom we dialled; `None` when anyone of the cluster will do.
    pub(super) expected: Option<NodeId>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// A verdict in words, carried through rustls.
struct Verdict(String);

/// As it reads: rustls shows causes of its own by this alone, with [`WRAPPING`] around it.
impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What rustls puts around a verdict when it is shown.
const WRAPPING: (&str, &str) = ("invalid peer certificate: Other(OtherError(", "))");

/// The sentence in what rustls shows of a refusal, here or at the other end; what is none of ours stays as it is.
pub(crate) fn sentence_of(shown: &str) -> &str {
    let inner = shown.split_once(WRAPPING.0).and_then(|(_, rest)| rest.strip_suffix(WRAPPING.1));
    inner.unwrap_or(shown)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Verdict {}

fn refuse(verdict: String) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(Verdict(verdict)))).into()
}

fn clock(time: UnixTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

fn in_words(error: rustls::Error, node: NodeId) -> rustls::Error {
    let rustls::Error::InvalidCertificate(reason) = error else { return error };
    refuse(match reason {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "certificate of node {node} expired at {}, and the clock here says {}",
            clock(not_after),
            clock(time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "certificate of node {node} is valid from {}, but the clock here says {}",
            clock(not_before),
            clock(time)
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("certificate of node {node} is of another cluster (its secret or authority differs)")
        }
        other => format!("certificate of node {node} is refused: {other}"),
    })
}

impl PeerVerifier {
    fn identify(&self, end_entity: &CertificateDer<'_>) -> Result<NodeId, rustls::Error> {
        let node = node_id_of(end_entity).map_err(|e| refuse(e.to_string()))?;
        match self.expected {
            Some(expected) if expected != node => {
                Err(refuse(format!("expected node {expected}, but node {node} answered")))
            }
            _ => Ok(node),
        }
    }
}

/// What rustls asks of either end's verifier in the same words: signatures, of TLS 1.3 alone.
macro_rules! judge_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let node = self.identify(end_entity)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let live = self.shared.current();
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &live.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
        .map_err(|e| in_words(e, node))?;
        Ok(ServerCertVerified::assertion())
    }

    judge_signatures!();
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: a node has one certificate and shows it to everybody.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let node = self.identify(end_entity)?;
        let live = self.shared.current();
        live.clients.verify_client_cert(end_entity, intermediates, now).map_err(|e| in_words(e, node))
    }

    judge_signatures!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_comes_out_of_rustls_as_the_sentence_that_went_in() {
        let verdict = "certificate of node 1 is of another cluster (its secret or authority differs)";
        let shown = refuse(verdict.to_owned()).to_string();
        assert_eq!(sentence_of(&shown), verdict);
        assert_eq!(sentence_of(&format!("closed: {shown}")), verdict);
        assert_eq!(sentence_of("peer sent no certificates"), "peer sent no certificates");
    }
}
