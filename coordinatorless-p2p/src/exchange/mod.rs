//! Carrying out what swarms decide: chunk requests and answers, announcements, calls, storing.
//!
//! One task a swarm (`driver`) owns its state machine; everything it starts is joined by it.
//! Knows transports and stores only through their seams.

pub(crate) mod call;
pub(crate) mod chunks;
pub(crate) mod driver;
mod handle;
pub(crate) mod inbox;
mod progress;
pub(crate) mod talk;

pub use handle::{SwarmHandle, Urging};
pub use progress::{Progress, SwarmState};

use std::{sync::atomic::AtomicU64, time::Duration};

use crate::{
    error::{Error, ErrorKind, Result},
    transport::RecvStream,
};

/// Reads one frame's body.
///
/// # Errors
/// `Invalid` when it is longer than `limit`; otherwise as [`RecvStream::recv`].
pub(crate) async fn read_frame(
    recv: &mut dyn RecvStream,
    limit: usize,
    stall: Duration,
) -> Result<bytes::Bytes> {
    let quiet = AtomicU64::new(0);
    let head = recv.recv(4, stall, &quiet).await?;
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if len > limit {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("frame of {len} bytes is over the limit of {limit}"),
        ));
    }
    if len == 0 {
        return Ok(bytes::Bytes::new());
    }
    recv.recv(len, stall, &quiet).await
}
