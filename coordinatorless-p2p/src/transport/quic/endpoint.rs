//! A quinn endpoint as this crate wants it: socket, limits, tuning and both certificates.
//!
//! What [`QuicTransport`](super::QuicTransport) is built on, and what it is measured against: the same
//! endpoint with nothing on top. Knows no peers and no streams.

use std::{net::SocketAddr, sync::Arc};

use quinn::{
    Connecting, Endpoint, EndpointConfig, Runtime, TokioRuntime,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use super::{QuicConfig, errors, socket};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    identity::{Identity, SERVER_NAME},
    node::NodeId,
};

/// Connections that wait for a handshake, and what is kept of their first words, in bytes.
const MAX_WAITING: usize = 1024;
/// See [`MAX_WAITING`].
const MAX_WAITING_BYTES: u64 = 16 << 20;

/// A bound endpoint that accepts and dials by the cluster's certificates.
pub struct TunedEndpoint {
    endpoint: Endpoint,
    transport: Arc<quinn::TransportConfig>,
}

impl TunedEndpoint {
    /// Binds `addr` (`[::]` takes IPv4 as well) in the tokio runtime of the caller.
    ///
    /// # Errors
    /// `Invalid` for a configuration that makes no sense; as the socket says when it cannot be bound.
    pub fn bind(addr: SocketAddr, identity: &Identity, config: &QuicConfig) -> Result<Self> {
        config.check()?;
        let transport = config.transport()?;
        let bound = || format!("cannot bind UDP {addr}");
        let socket = socket::bind(addr, config.socket_buffer_bytes).at(bound)?;
        let socket = TokioRuntime.wrap_udp_socket(socket).at(bound)?;
        let socket = Arc::new(socket::CappedSocket::new(socket, config.max_payload_bytes.into()));
        let mut endpoint_config = EndpointConfig::default();
        endpoint_config
            .max_udp_payload_size(config.max_payload_bytes)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, "max_payload_bytes is out of range", e))?;
        let server = server_config(identity, &transport)?;
        let endpoint =
            Endpoint::new_with_abstract_socket(endpoint_config, Some(server), socket, Arc::new(TokioRuntime))
                .at(bound)?;
        Ok(Self { endpoint, transport })
    }

    /// The endpoint itself.
    pub fn quinn(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Begins a connection with whoever listens at `addr`; `expected` is whose key it must show.
    ///
    /// # Errors
    /// `Invalid` when TLS is not to be had or the address cannot be dialled; `Cancelled` when closed.
    pub fn connect(
        &self,
        identity: &Identity,
        expected: Option<NodeId>,
        addr: SocketAddr,
    ) -> Result<Connecting> {
        let tls =
            QuicClientConfig::try_from(Arc::new(identity.client_config(expected)?)).map_err(no_cipher)?;
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::clone(&self.transport));
        self.endpoint
            .connect_with(config, addr, SERVER_NAME)
            .map_err(|e| errors::connect(format!("{addr} cannot be dialled"), e))
    }
}

fn server_config(
    identity: &Identity,
    transport: &Arc<quinn::TransportConfig>,
) -> Result<quinn::ServerConfig> {
    let tls = QuicServerConfig::try_from(Arc::new(identity.server_config()?)).map_err(no_cipher)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    server
        .transport_config(Arc::clone(transport))
        .migration(false)
        .max_incoming(MAX_WAITING)
        .incoming_buffer_size_total(MAX_WAITING_BYTES);
    Ok(server)
}

fn no_cipher(error: quinn::crypto::rustls::NoInitialCipherSuite) -> Error {
    Error::with_source(ErrorKind::Invalid, "TLS has no cipher for QUIC", error)
}
