//! A body that never falls silent while it has bytes: it keeps a little back, and gives that away slowly when
//! nothing comes.
//!
//! Clients of the Hub give up after ten seconds without a byte, and a chunk of a slow origin may take longer to be
//! whole; before that it cannot be checked and is not sent. Knows nothing of files.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// Kept back: with the two below, silence is bridged for four minutes.
const RESERVE_BYTES: usize = 64 << 10;
/// Given away at a time.
const DRIP_BYTES: usize = 1 << 10;
/// After so much silence.
const DRIP_EVERY: Duration = Duration::from_secs(4);

pub(super) struct Dripping {
    inner: BodyDataStream,
    size: SizeHint,
    ready: VecDeque<Bytes>,
    reserve: Bytes,
    silence: Pin<Box<Sleep>>,
    has_ended: bool,
}

impl Dripping {
    pub(super) fn new(inner: Body) -> Self {
        Self {
            size: inner.size_hint(),
            inner: inner.into_data_stream(),
            ready: VecDeque::new(),
            reserve: Bytes::new(),
            silence: Box::pin(tokio::time::sleep(DRIP_EVERY)),
            has_ended: false,
        }
    }

    fn send(&mut self, piece: Bytes) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.silence.as_mut().reset(Instant::now() + DRIP_EVERY);
        if let Some(left) = self.size.exact() {
            self.size = SizeHint::with_exact(left.saturating_sub(piece.len() as u64));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl HttpBody for Dripping {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return self.send(piece);
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            match self.inner.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(mut piece))) => {
                    let kept = piece.split_off(piece.len() - piece.len().min(RESERVE_BYTES));
                    let before = std::mem::replace(&mut self.reserve, kept);
                    self.ready.extend([before, piece].into_iter().filter(|piece| !piece.is_empty()));
                }
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(e))),
                Poll::Ready(None) => {
                    self.has_ended = true;
                    let rest = std::mem::take(&mut self.reserve);
                    self.ready.extend(Some(rest).filter(|rest| !rest.is_empty()));
                }
                Poll::Pending => {
                    if self.reserve.is_empty() || self.silence.poll_unpin(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let drip = self.reserve.len().min(DRIP_BYTES);
                    let piece = self.reserve.split_to(drip);
                    return self.send(piece);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.size.exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    use super::*;

    fn dripping() -> (mpsc::Sender<Result<Bytes, std::io::Error>>, Dripping) {
        let (send, receive) = mpsc::channel(4);
        let pieces =
            futures::stream::unfold(receive, |mut receive| async { Some((receive.recv().await?, receive)) });
        (send, Dripping::new(Body::from_stream(pieces)))
    }

    async fn frame(body: &mut Dripping) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_never_longer_than_a_client_waits() {
        let (send, mut body) = dripping();
        let piece = Bytes::from((0..RESERVE_BYTES + 10).map(|i| i as u8).collect::<Vec<_>>());
        send.send(Ok(piece.clone())).await.unwrap();
        let mut got = frame(&mut body).await.to_vec();
        assert_eq!(got.len(), 10);
        for _ in 0..20 {
            let since = Instant::now();
            got.extend(frame(&mut body).await);
            assert!(since.elapsed() <= Duration::from_secs(5));
        }
        assert_eq!(got, piece[..got.len()]);
        // What comes is sent at once, behind what was kept back; and the end is not held up.
        send.send(Ok(Bytes::from_static(b"the end"))).await.unwrap();
        drop(send);
        let since = Instant::now();
        while let Some(frame) = body.frame().await {
            got.extend(frame.unwrap().into_data().unwrap());
        }
        assert!(since.elapsed() < Duration::from_secs(1));
        assert_eq!(got, [&piece[..], b"the end"].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_made_up_where_nothing_is_kept() {
        let (send, mut body) = dripping();
        let nothing = tokio::time::timeout(Duration::from_secs(60), body.frame()).await;
        assert!(nothing.is_err());
        send.send(Err(std::io::Error::other("gone"))).await.unwrap();
        assert!(body.frame().await.unwrap().is_err());
    }
}
