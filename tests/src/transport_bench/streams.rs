//! TCP, plain and under TLS: blocking sockets, one thread an end, memory to memory.
//!
//! The sink sends a length and gets so many bytes.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use coordinatorless_p2p::{Error, ErrorKind, IoContext, Result, identity::SERVER_NAME};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

use super::task::{Sink, listening};

/// Handed to the kernel or to TLS at a time.
const PIECE_BYTES: usize = 256 << 10;

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// Listens and sends until killed.
pub(super) fn serve(host: IpAddr, tls: Option<ServerConfig>) -> Result<()> {
    let at = || format!("TCP on {host}");
    let listener = TcpListener::bind((host, 0)).at(at)?;
    listening(listener.local_addr().at(at)?)?;
    let tls = tls.map(Arc::new);
    loop {
        let (stream, _) = listener.accept().at(at)?;
        stream.set_nodelay(true).at(at)?;
        let mut connection: Box<dyn Connection> = match &tls {
            None => Box::new(stream),
            Some(config) => {
                let mut server = ServerConnection::new(Arc::clone(config)).map_err(tls_failed)?;
                server.set_buffer_limit(Some(PIECE_BYTES * 2));
                Box::new(StreamOwned::new(server, stream))
            }
        };
        let piece = vec![0x5a; PIECE_BYTES];
        let mut wanted = [0; 8];
        // Ends when the sink goes.
        while connection.read_exact(&mut wanted).is_ok() {
            let mut left = u64::from_le_bytes(wanted);
            while left > 0 {
                let n = left.min(PIECE_BYTES as u64) as usize;
                connection.write_all(&piece[..n]).at(at)?;
                left -= n as u64;
            }
            connection.flush().at(at)?;
        }
    }
}

/// The sink.
pub(super) struct Fetcher {
    connection: Box<dyn Connection>,
    buffer: Vec<u8>,
}

impl Fetcher {
    pub(super) fn connect(from: SocketAddr, tls: Option<ClientConfig>) -> Result<Self> {
        let stream = TcpStream::connect(from).at(|| from.to_string())?;
        stream.set_nodelay(true).at(|| from.to_string())?;
        let connection: Box<dyn Connection> = match tls {
            None => Box::new(stream),
            Some(config) => {
                let name = SERVER_NAME
                    .try_into()
                    .map_err(|e| Error::with_source(ErrorKind::Invalid, "server name", e))?;
                let client = ClientConnection::new(Arc::new(config), name).map_err(tls_failed)?;
                Box::new(StreamOwned::new(client, stream))
            }
        };
        Ok(Self { connection, buffer: vec![0; PIECE_BYTES] })
    }
}

impl Sink for Fetcher {
    fn warm_up(&mut self, bytes: u64) -> Result<()> {
        self.fetch(bytes)
    }

    fn fetch(&mut self, bytes: u64) -> Result<()> {
        let at = || "receive over TCP".to_owned();
        self.connection.write_all(&bytes.to_le_bytes()).at(at)?;
        self.connection.flush().at(at)?;
        let mut left = bytes;
        while left > 0 {
            let n = left.min(PIECE_BYTES as u64) as usize;
            match self.connection.read(&mut self.buffer[..n]).at(at)? {
                0 => return Err(Error::new(ErrorKind::UNAVAILABLE, "the source ended the connection")),
                n => left -= n as u64,
            }
        }
        Ok(())
    }
}

fn tls_failed(error: rustls::Error) -> Error {
    Error::with_source(ErrorKind::Invalid, "TLS", error)
}
