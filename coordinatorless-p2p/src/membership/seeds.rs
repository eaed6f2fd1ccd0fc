//! Where to look for members: names that are resolved again and again, and when to try.
//!
//! Knows nothing of members. A name that does not resolve is tried for ever, at a low rate.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::error::{Error, ErrorKind, Result};

/// Addresses taken of all names together; a name may stand for a thousand pods, a few of which
/// know the rest.
const MAX_ADDRESSES: usize = 64;

/// How long a name may take to resolve.
const PATIENCE: Duration = Duration::from_secs(5);

/// The first wait after a failure; doubled up to the ordinary period.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Where the seeds are, and which names lead nowhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) unresolved: Vec<(String, String)>,
}

/// Whether `seed` has the form `host:port`.
///
/// # Errors
/// `Invalid`, with the form that is wanted.
pub(super) fn check(seed: &str) -> Result<()> {
    let sound = seed.parse::<SocketAddr>().is_ok_and(|a| a.port() != 0)
        || seed.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains([':', '/', '@', ' '])
                && port.parse::<u16>().is_ok_and(|p| p != 0)
        });
    if sound {
        Ok(())
    } else {
        Err(Error::new(
            ErrorKind::Invalid,
            format!("seed {seed:?} is not host:port, address:port or [address]:port"),
        ))
    }
}

/// Resolves `seeds` again and again and tells `found`.
pub(super) async fn resolve(seeds: Vec<String>, period: Duration, found: watch::Sender<Found>) -> Infallible {
    let mut wait = FIRST_WAIT.min(period);
    loop {
        let mut addresses = Vec::new();
        let mut unresolved = Vec::new();
        for seed in &seeds {
            match timeout(PATIENCE, tokio::net::lookup_host(seed.as_str())).await {
                Ok(Ok(resolved)) => addresses.extend(resolved),
                Ok(Err(error)) => {
                    tracing::debug!(seed, %error, "seed does not resolve");
                    unresolved.push((seed.clone(), error.to_string()));
                }
                Err(_) => {
                    tracing::debug!(seed, "seed does not resolve in time");
                    unresolved.push((seed.clone(), format!("no answer within {PATIENCE:?}")));
                }
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.len() > MAX_ADDRESSES {
            // Different ones each time and on each node.
            for i in 0..MAX_ADDRESSES {
                let other = rand::random_range(i..addresses.len());
                addresses.swap(i, other);
            }
            addresses.truncate(MAX_ADDRESSES);
        }
        let failed = !unresolved.is_empty();
        found.send_modify(|found| {
            // What resolved before is better than nothing while the name server is away.
            if !addresses.is_empty() || !failed {
                found.addresses = addresses;
            }
            found.unresolved = unresolved;
        });
        wait = if failed { (wait * 2).min(period) } else { period };
        sleep(wait).await;
    }
}

/// When to try: often while alone, then at the ordinary period.
pub(super) struct Rounds {
    pub(super) next: Instant,
    wait: Duration,
    period: Duration,
}

impl Rounds {
    pub(super) fn new(now: Instant, period: Duration) -> Self {
        let wait = FIRST_WAIT.min(period);
        // Literal addresses are resolved by then.
        Self { next: now + Duration::from_millis(10).min(wait), wait, period }
    }

    /// Plans the round after the one at `now`.
    pub(super) fn step(&mut self, now: Instant, alone: bool) {
        self.next = now + if alone { self.wait } else { self.period };
        self.wait = (self.wait * 2).min(self.period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_must_have_host_and_port() {
        for good in ["a.example:4000", "10.0.0.1:1", "[::1]:4000", "emberline-headless.ns.svc:7000"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a", ":1", "a:", "a:0", "10.0.0.1:0", "::1:4000", "a:99999", "http://a:1", "a b:1"] {
            assert_eq!(check(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_alone_tries_often_at_first_and_never_stops() {
        let start = Instant::now();
        let period = Duration::from_secs(5);
        let mut rounds = Rounds::new(start, period);
        let mut times = Vec::new();
        for _ in 0..20 {
            times.push(rounds.next - start);
            rounds.step(rounds.next, true);
        }
        assert!(times[4] < period, "{times:?}");
        assert_eq!(times[19] - times[18], period);
    }

    #[tokio::test]
    async fn a_name_that_stops_resolving_keeps_its_last_addresses() {
        let before = Found { addresses: vec!["10.0.0.1:1".parse().unwrap()], unresolved: Vec::new() };
        let (found, mut seen) = watch::channel(before);
        let bad = resolve(vec!["no-such-host.invalid:1".into()], Duration::from_secs(1), found);
        tokio::select! {
            never = bad => match never {},
            there = seen.wait_for(|found| !found.unresolved.is_empty()) => assert!(there.is_ok()),
            () = sleep(2 * PATIENCE) => panic!("nobody says that the name leads nowhere"),
        }
        assert_eq!(seen.borrow().addresses.len(), 1);
        assert_eq!(seen.borrow().unresolved[0].0, "no-such-host.invalid:1");
    }
}
