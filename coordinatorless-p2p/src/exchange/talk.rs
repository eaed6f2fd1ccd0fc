//! Announcements: one stream from each participant to each neighbour, words in order.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    inbox::{Event, Talker},
    read_frame,
};
use crate::{
    chunk::{ChunkHash, SwarmId},
    error::{Error, ErrorKind, Result},
    transport::{Peer, Priority, RecvStream, Transport},
    wire::{self, FRAME_BYTES_MAX, HAVE_ITEMS_MAX, Opening, Word},
};

/// Frames waiting for one slow neighbour; past that it is greeted anew instead.
pub(crate) const QUEUE_FRAMES_MAX: usize = 4096;

/// A neighbour that says nothing for this long is asked by other means whether it lives.
const QUIET_MAX: Duration = Duration::from_secs(24 * 3600);

/// Speaks to one neighbour until the queue closes or the stream breaks. The queue that this one replaces closes
/// once the greeting is out, so that the neighbour hears us all the while.
///
/// # Errors
/// As [`Transport::open`] and sending.
pub(crate) async fn speak(
    transport: &dyn Transport,
    peer: Peer,
    swarm: SwarmId,
    first: Vec<Bytes>,
    replaces: Option<mpsc::Sender<Bytes>>,
    mut queue: mpsc::Receiver<Bytes>,
    stall: Duration,
) -> Result<()> {
    let (mut send, _recv) = transport.open(peer).await?;
    send.set_priority(Priority::Words);
    send.send(wire::frame(&Opening::Talk { swarm, version: wire::VERSION })?, stall).await?;
    for frame in first {
        send.send(frame, stall).await?;
    }
    drop(replaces);
    loop {
        let frame = tokio::select! {
            frame = queue.recv() => frame,
            // With nothing to say one would not notice that nobody listens any more.
            () = send.stopped() => return Err(Error::new(ErrorKind::UNAVAILABLE, "it does not listen any more")),
        };
        match frame {
            Some(frame) => send.send(frame, stall).await?,
            None => return send.finish(),
        }
    }
}

/// Hears one neighbour until its stream ends, handing each word to the swarm.
pub(crate) async fn listen(from: Talker, mut recv: Box<dyn RecvStream>, events: mpsc::Sender<Event>) {
    loop {
        let word = match read_frame(&mut *recv, FRAME_BYTES_MAX, QUIET_MAX).await {
            Ok(body) => wire::parse::<Word>(&body),
            Err(e) => Err(e),
        };
        match word {
            Ok(word) => {
                if events.send(Event::Heard { from, word }).await.is_err() {
                    return;
                }
            }
            Err(e) => {
                tracing::debug!(peer = %from.id.short(), error = %e, "a neighbour's announcements ended");
                let _ = events.send(Event::Silent { from: from.id, talk: from.talk }).await;
                return;
            }
        }
    }
}

/// `Have` frames for any number of chunks.
///
/// # Errors
/// Never in practice: the frames are bounded.
pub(crate) fn have_frames(items: &[(u32, ChunkHash)]) -> Result<Vec<Bytes>> {
    items.chunks(HAVE_ITEMS_MAX).map(|part| wire::frame(&Word::Have(part.to_vec()))).collect()
}
