//! Whether a node that has just started knows the others: whoever pulls before it knows the ring asks the wrong
//! homes and reads the whole origin.
//!
//! Looked at from the start on, so that who pulls later waits for nothing. Does not join: membership does.

use std::{sync::Arc, time::Duration};

use coordinatorless_p2p::Node;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How long after its start a node waits for the first seed to answer before it pulls alone.
const PATIENCE: Duration = Duration::from_secs(3);
/// After so long without a new member a fresh node takes the ring for known. A seed answers with the others it
/// knows, in a few datagrams.
const QUIET: Duration = Duration::from_millis(300);

/// Tells when the others are known.
#[derive(Debug, Clone)]
pub(crate) struct Joining {
    is_known: watch::Receiver<bool>,
    /// Looks while anybody may ask.
    _looking: Option<Arc<AbortOnDropHandle<()>>>,
}

impl Joining {
    /// Of a node that was told of nobody to join.
    pub(crate) fn nobody() -> Self {
        Self { is_known: watch::channel(true).1, _looking: None }
    }

    /// Of a node that starts now, from the `members` that live, itself included. Needs a runtime.
    pub(crate) fn begin(mut members: watch::Receiver<Arc<Vec<Node>>>) -> Self {
        let (known, is_known) = watch::channel(false);
        let looking = tokio::spawn(async move {
            let met = async {
                if members.wait_for(|nodes| nodes.len() > 1).await.is_ok() {
                    while let Ok(Ok(())) = tokio::time::timeout(QUIET, members.changed()).await {}
                }
            };
            let _ = tokio::time::timeout(PATIENCE, met).await;
            known.send_replace(true);
        });
        Self { is_known, _looking: Some(Arc::new(AbortOnDropHandle::new(looking))) }
    }

    /// Waits until the others are known, or as long as a node waits for them after its start. Cancel-safe.
    pub(crate) async fn done(&self) {
        // Nobody is left to say it only where the runtime ends.
        let _ = self.is_known.clone().wait_for(|is_known| *is_known).await;
    }
}

#[cfg(test)]
mod tests {
    use coordinatorless_p2p::NodeId;
    use tokio::time::Instant;

    use super::*;

    fn nodes(count: u8) -> Arc<Vec<Node>> {
        let node = |n: u8| Node {
            id: NodeId([n; 16]),
            name: String::new(),
            addr: ([127, 0, 0, 1], u16::from(n)).into(),
            zone: String::new(),
            weight: 100,
            generation: 0,
        };
        Arc::new((1..=count).map(node).collect())
    }

    async fn waited(joining: &Joining) -> Duration {
        let began = Instant::now();
        joining.done().await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_pulls_at_once_waits_for_quiet_and_who_pulls_later_for_nothing() {
        let (members, watched) = watch::channel(nodes(1));
        let joining = Joining::begin(watched);
        let first = tokio::spawn({
            let joining = joining.clone();
            async move { waited(&joining).await }
        });
        for count in 2..5 {
            tokio::time::sleep(QUIET / 2).await;
            members.send_replace(nodes(count));
        }
        let waited_at_once = first.await.unwrap();
        assert!(waited_at_once >= QUIET / 2 * 3 + QUIET, "{waited_at_once:?}");
        assert_eq!(waited(&joining).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn seeds_that_do_not_answer_and_a_ring_that_never_rests_hold_nobody_up_for_ever() {
        let (_members, watched) = watch::channel(nodes(1));
        assert_eq!(waited(&Joining::begin(watched)).await, PATIENCE);
        let (members, watched) = watch::channel(nodes(1));
        let joining = Joining::begin(watched);
        tokio::spawn(async move {
            loop {
                members.send_replace(nodes(3));
                tokio::time::sleep(QUIET / 3).await;
            }
        });
        assert_eq!(waited(&joining).await, PATIENCE);
        assert_eq!(waited(&Joining::nobody()).await, Duration::ZERO);
    }
}
