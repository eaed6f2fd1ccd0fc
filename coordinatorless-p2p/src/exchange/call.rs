//! Calls: one question, one answer, by service number.

use std::time::Duration;

use bytes::Bytes;

use super::read_frame;
use crate::{
    error::{Error, ErrorKind, Result},
    transport::{Peer, Priority, SendStream, Transport},
    wire::{self, CallReply, FRAME_BYTES_MAX, HEAD_BYTES_MAX, Opening},
};

/// Asks `peer` and waits at most `deadline`. Cancel-safe.
///
/// # Errors
/// What the peer answered, with its sentence; `Timeout`; as [`Transport::open`].
pub(crate) async fn call(
    transport: &dyn Transport,
    peer: Peer,
    service: u16,
    body: &[u8],
    deadline: Duration,
) -> Result<Bytes> {
    let exchange = async {
        let (mut send, mut recv) = transport.open(peer).await?;
        send.set_priority(Priority::Questions);
        send.send(wire::frame(&Opening::Call { service })?, deadline).await?;
        send.send(wire::frame_of_bytes(body)?, deadline).await?;
        send.finish()?;
        let head = read_frame(&mut *recv, HEAD_BYTES_MAX, deadline).await?;
        match wire::parse::<CallReply>(&head)? {
            CallReply::Done => read_frame(&mut *recv, FRAME_BYTES_MAX, deadline).await,
            CallReply::Failed { kind, retry_after_ms, message } => {
                Err(Error::new(wire::kind_of(kind, retry_after_ms), message))
            }
        }
    };
    tokio::time::timeout(deadline, exchange).await.map_err(|_| {
        Error::new(ErrorKind::Timeout, format!("{} did not answer within {deadline:?}", peer.addr))
    })?
}

/// Sends the answer to a call.
pub(crate) async fn answer(
    mut send: Box<dyn SendStream>,
    result: Result<Bytes>,
    stall: Duration,
) -> Result<()> {
    send.set_priority(Priority::Questions);
    match result {
        Ok(body) => {
            send.send(wire::frame(&CallReply::Done)?, stall).await?;
            send.send(wire::frame_of_bytes(&body)?, stall).await?;
        }
        Err(e) => {
            let retry_after_ms = match e.kind() {
                ErrorKind::Unavailable { retry_after: Some(wait) } => wait.as_millis() as u32,
                _ => 0,
            };
            // The head has a limit; a sentence is cut rather than refused.
            let message: String = e.to_string().chars().take(800).collect();
            let reply = CallReply::Failed { kind: wire::kind_code(e.kind()), retry_after_ms, message };
            send.send(wire::frame(&reply)?, stall).await?;
        }
    }
    send.finish()
}
