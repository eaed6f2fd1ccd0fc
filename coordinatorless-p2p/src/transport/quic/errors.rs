//! What QUIC's errors mean to a caller: one table from each of quinn's error types to a kind.
//!
//! A peer's own words are quoted, but never raw: shortened, and without control characters.

use quinn::{ConnectError, ConnectionError, ReadError, VarInt, WriteError};

use crate::{
    error::{Error, ErrorKind},
    identity::sentence_of,
};

/// We are closing down, or nobody used the connection any more.
pub(super) const CLOSED: VarInt = VarInt::from_u32(0);
/// The peer lied or corrupted, and is refused from now on.
pub(super) const SHUNNED: VarInt = VarInt::from_u32(1);
/// Another connection to the same peer is used instead.
pub(super) const DUPLICATE: VarInt = VarInt::from_u32(2);
/// A stream was given up before its end.
pub(super) const GIVEN_UP: VarInt = VarInt::from_u32(3);

/// Codes from 0x100 to 0x1ff carry a TLS alert (RFC 9001, section 4.8).
const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;

/// The refusal of RFC 9000, section 20.1, CONNECTION_REFUSED.
const REFUSED: u64 = 2;

fn quote(words: &[u8]) -> String {
    sentence_of(&String::from_utf8_lossy(words)).chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Why there is no connection, or no longer. `silence` is the kind for a peer that fell silent.
pub(super) fn connection(context: String, error: &ConnectionError, silence: ErrorKind) -> Error {
    let (kind, words) = match error {
        ConnectionError::TransportError(e) if TLS_ALERTS.contains(&u64::from(e.code)) => {
            (ErrorKind::Denied, quote(e.reason.as_bytes()))
        }
        ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
            code if TLS_ALERTS.contains(&code) => {
                (ErrorKind::Denied, format!("the peer refused us: {}", quote(&close.reason)))
            }
            REFUSED => (ErrorKind::UNAVAILABLE, "the peer takes no more connections".to_owned()),
            _ => (ErrorKind::UNAVAILABLE, quote(error.to_string().as_bytes())),
        },
        ConnectionError::ApplicationClosed(close) => match close.error_code {
            SHUNNED => (ErrorKind::Denied, "the peer shuns us".to_owned()),
            DUPLICATE => (ErrorKind::UNAVAILABLE, "another connection took over".to_owned()),
            _ => (ErrorKind::UNAVAILABLE, format!("the peer closed: {}", quote(&close.reason))),
        },
        ConnectionError::TimedOut => (silence, "the peer fell silent".to_owned()),
        ConnectionError::VersionMismatch => {
            (ErrorKind::Invalid, "the peer speaks another version of QUIC".to_owned())
        }
        ConnectionError::LocallyClosed => (ErrorKind::UNAVAILABLE, "we closed the connection".to_owned()),
        ConnectionError::TransportError(_) | ConnectionError::Reset | ConnectionError::CidsExhausted => {
            (ErrorKind::UNAVAILABLE, quote(error.to_string().as_bytes()))
        }
    };
    Error::new(kind, format!("{context}: {words}"))
}

/// Why a connection could not even be tried.
pub(super) fn connect(context: String, error: ConnectError) -> Error {
    let kind = match error {
        ConnectError::EndpointStopping => ErrorKind::Cancelled,
        ConnectError::CidsExhausted => ErrorKind::UNAVAILABLE,
        ConnectError::InvalidServerName(_)
        | ConnectError::InvalidRemoteAddress(_)
        | ConnectError::NoDefaultClientConfig
        | ConnectError::UnsupportedVersion => ErrorKind::Invalid,
    };
    Error::with_source(kind, context, error)
}

/// Why a stream takes no more.
pub(super) fn write(context: String, error: WriteError) -> Error {
    match error {
        WriteError::Stopped(_) => {
            Error::new(ErrorKind::Cancelled, format!("{context}: the peer wants no more"))
        }
        WriteError::ConnectionLost(e) => connection(context, &e, ErrorKind::UNAVAILABLE),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            Error::with_source(ErrorKind::UNAVAILABLE, context, error)
        }
    }
}

/// Why a stream gives no more.
pub(super) fn read(context: String, error: ReadError) -> Error {
    match error {
        ReadError::Reset(_) => {
            Error::new(ErrorKind::UNAVAILABLE, format!("{context}: the peer gave the stream up"))
        }
        ReadError::ConnectionLost(e) => connection(context, &e, ErrorKind::UNAVAILABLE),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            Error::with_source(ErrorKind::UNAVAILABLE, context, error)
        }
    }
}
