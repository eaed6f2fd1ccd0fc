//! How long an origin may keep silent towards somebody who has what it said before.
//!
//! Silent is an origin that answers nothing, or only that it is asked too much; one that is slow to say all it
//! has is waited for.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{Inner, Origins, client, hosts::HostState, secrets};
use crate::reference::Reference;

/// How long that is.
const ORIGIN_PATIENCE: Duration = Duration::from_secs(2);
/// And for one of which nobody hears that it says something: a directory, HDFS.
const UNHEARD_PATIENCE: Duration = Duration::from_secs(10);

impl Origins {
    /// How long the origin of `reference` may keep silent.
    pub(crate) fn patience(&self, reference: &Reference) -> Duration {
        if self.inner.host_of(reference).is_some() { ORIGIN_PATIENCE } else { UNHEARD_PATIENCE }
    }

    /// In words, that the origin of `reference` throttles and when it is asked again; `None` where it does not.
    pub(crate) fn throttles(&self, reference: &Reference) -> Option<String> {
        self.inner.host_of(reference)?.throttles()
    }

    /// What `asked` leads to; `None` when the origin of `reference` says nothing for as long as `patience`.
    /// Cancel-safe as far as `asked` is.
    pub(crate) async fn unless_silent<T>(
        &self,
        reference: &Reference,
        patience: Duration,
        asked: impl Future<Output = T>,
    ) -> Option<T> {
        let host = self.inner.host_of(reference);
        let heard = || host.as_ref().and_then(|host| host.heard());
        let mut since = Instant::now();
        tokio::pin!(asked);
        loop {
            tokio::select! {
                biased;
                answer = &mut asked => return Some(answer),
                () = sleep_until(since + patience) => match heard().filter(|at| *at > since) {
                    Some(at) => since = at,
                    None => return None,
                },
            }
        }
    }
}

impl Inner {
    /// The host that is asked about `reference`, where its answers are noted.
    fn host_of(&self, reference: &Reference) -> Option<Arc<HostState>> {
        let name = match reference {
            Reference::Http(url) => Some(client::host_key(url)),
            Reference::Hub(_) => {
                secrets::hub_endpoint(&self.config.hf).ok().map(|endpoint| client::host_key(&endpoint))
            }
            Reference::S3(_) | Reference::Gs(_) | Reference::Az { .. } => {
                self.bucket(reference).ok().map(|(_, store, _)| store.host.clone())
            }
            Reference::File(_) | Reference::Hdfs(_) | Reference::Ember(_) => None,
        };
        Some(self.hosts.host(&name?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::OriginsConfig;

    #[tokio::test(start_paused = true)]
    async fn a_silent_origin_is_given_up_and_a_slow_one_waited_for() {
        let origins = Origins::new(OriginsConfig::default()).unwrap();
        let reference: Reference = "http://host/model/".parse().unwrap();
        let began = Instant::now();
        let patience = origins.patience(&reference);
        let silent = origins.unless_silent(&reference, patience, std::future::pending::<()>()).await;
        assert_eq!(silent, None);
        assert_eq!(began.elapsed(), ORIGIN_PATIENCE);
        // A page every second and a half, ten times.
        let slow = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                origins.inner.hosts.host("host:80").hear();
            }
            7
        };
        assert_eq!(origins.unless_silent(&reference, patience, slow).await, Some(7));
    }
}
