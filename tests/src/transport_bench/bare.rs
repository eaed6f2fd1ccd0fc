//! Bare quinn: the exchange's own endpoint with one stream a transfer, memory to memory.
//!
//! The sink sends a length and gets so many bytes, which it drops as they come out of quinn: no copy, no
//! hash, no file.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use coordinatorless_p2p::{
    Error, ErrorKind, Result,
    transport::quic::{QuicConfig, TunedEndpoint},
};
use tokio::runtime::Runtime;

use super::task::{Sink, identity, listening, single_threaded};

/// Handed to quinn at a time, without a copy.
const PIECE: &[u8] = &[0x5a; 1 << 20];

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::UNAVAILABLE, "quinn", error)
}

/// Listens and sends until killed.
pub(super) fn serve(host: IpAddr) -> Result<()> {
    single_threaded()?.block_on(async {
        let endpoint = TunedEndpoint::bind((host, 0).into(), &identity()?, &QuicConfig::default())?;
        listening(endpoint.quinn().local_addr().map_err(failed)?)?;
        let incoming = endpoint.quinn().accept().await;
        let closed = || Error::new(ErrorKind::UNAVAILABLE, "the endpoint closed");
        let connection = incoming.ok_or_else(closed)?.await.map_err(failed)?;
        // Ends when the sink goes.
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let mut wanted = [0; 8];
            recv.read_exact(&mut wanted).await.map_err(failed)?;
            let mut left = u64::from_le_bytes(wanted);
            while left > 0 {
                let n = left.min(PIECE.len() as u64);
                send.write_chunk(Bytes::from_static(PIECE).slice(..n as usize)).await.map_err(failed)?;
                left -= n;
            }
            send.finish().map_err(failed)?;
        }
        Ok(())
    })
}

/// The sink.
pub(super) struct Fetcher {
    runtime: Runtime,
    connection: quinn::Connection,
    _endpoint: TunedEndpoint,
}

impl Fetcher {
    pub(super) fn connect(host: IpAddr, from: SocketAddr) -> Result<Self> {
        let runtime = single_threaded()?;
        let (connection, endpoint) = runtime.block_on(async {
            let identity = identity()?;
            let endpoint = TunedEndpoint::bind((host, 0).into(), &identity, &QuicConfig::default())?;
            let connection = endpoint.connect(&identity, None, from)?.await.map_err(failed)?;
            Ok::<_, Error>((connection, endpoint))
        })?;
        Ok(Self { runtime, connection, _endpoint: endpoint })
    }
}

impl Sink for Fetcher {
    fn warm_up(&mut self, bytes: u64) -> Result<()> {
        self.fetch(bytes)
    }

    fn fetch(&mut self, bytes: u64) -> Result<()> {
        self.runtime.block_on(async {
            let (mut send, mut recv) = self.connection.open_bi().await.map_err(failed)?;
            send.write_all(&bytes.to_le_bytes()).await.map_err(failed)?;
            send.finish().map_err(failed)?;
            let mut left = bytes;
            while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.map_err(failed)? {
                left = left.saturating_sub(chunk.bytes.len() as u64);
            }
            if left > 0 {
                return Err(Error::new(ErrorKind::Invalid, format!("{left} of {bytes} bytes did not come")));
            }
            Ok(())
        })
    }
}
