//! Complaints that a person must see, but not a thousand times.
//!
//! A certificate that is refused is a mistake in somebody's configuration and goes to the log as a
//! warning; whoever causes it is trying again and again.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::error::{Error, ErrorKind};

/// The time between two complaints about one host.
const PAUSE: Duration = Duration::from_secs(60);

/// Hosts remembered; beyond that the complaints stop until some are forgotten.
const MAX_HOSTS: usize = 64;

#[derive(Default)]
pub(super) struct Seldom(HashMap<IpAddr, Instant>);

impl Seldom {
    /// Logs why a connection with `host` failed: loudly, but seldom, when somebody has to act.
    pub(super) fn tell(&mut self, host: IpAddr, error: &Error) {
        if error.kind() == ErrorKind::Denied && self.is_due(host, Instant::now()) {
            tracing::warn!(%host, %error, "connection denied");
        } else {
            tracing::debug!(%host, %error, "no connection");
        }
    }

    fn is_due(&mut self, host: IpAddr, now: Instant) -> bool {
        self.0.retain(|_, at| now.saturating_duration_since(*at) < PAUSE);
        let due = !self.0.contains_key(&host) && self.0.len() < MAX_HOSTS;
        if due {
            self.0.insert(host, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_is_complained_of_once_a_minute_and_a_flood_of_hosts_is_not() {
        let (mut seldom, now) = (Seldom::default(), Instant::now());
        let host = |n: u16| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        assert!(seldom.is_due(host(0), now));
        assert!(!seldom.is_due(host(0), now + PAUSE / 2));
        assert!(seldom.is_due(host(0), now + PAUSE));
        let told = (1..1000).filter(|n| seldom.is_due(host(*n), now + PAUSE)).count();
        assert_eq!(told, MAX_HOSTS - 1);
    }
}
