//! Waiting for an agent that may hang: one that is stopped, swaps, or sits on a disk that does not answer still
//! accepts connections, and would be waited for in silence.
//!
//! An answer may take its time while the agent lives. Whether it does is asked at its door for health, which needs
//! neither token nor disk.

use std::time::Duration;

use emberline_agent::error::ErrorKind;
use futures::future::{Either, select};
use reqwest::Method;
use tokio::time::{Instant, sleep, timeout};

use super::Client;
use crate::{
    failure::{Failure, Result},
    units,
};

/// An answer that takes longer is worth asking whether the agent lives.
const LOOK_AFTER: Duration = Duration::from_secs(3);
/// How long a living agent has to say so.
const LIFE_TIMEOUT: Duration = Duration::from_secs(2);
/// An agent that shows no life for so long is given up.
const SILENT_MAX: Duration = Duration::from_secs(20);

impl Client {
    /// Waits for what the agent is about to say. Cancel-safe as `answer` is.
    ///
    /// # Errors
    /// `Timeout` when it shows no life; what `answer` ends with.
    pub(super) async fn watch<T>(&self, answer: impl Future<Output = reqwest::Result<T>>) -> Result<T> {
        let began = Instant::now();
        let (mut answer, mut alive, mut said) = (Box::pin(answer), began, false);
        loop {
            let look = Box::pin(async {
                sleep(LOOK_AFTER).await;
                self.lives().await
            });
            match select(answer, look).await {
                Either::Left((answered, _)) => return answered.map_err(|e| self.unreachable(&e)),
                Either::Right((true, waiting)) => (answer, alive, said) = (waiting, Instant::now(), false),
                Either::Right((false, waiting)) => answer = waiting,
            }
            let silent = alive.elapsed();
            if silent >= SILENT_MAX {
                return Err(self.hangs(silent));
            }
            if !said && silent >= LOOK_AFTER {
                let (waited, most) =
                    (units::seconds(silent.as_secs_f64()), units::seconds(SILENT_MAX.as_secs_f64()));
                self.say(&format!(
                    "the agent at {} has not answered for {waited}; waiting up to {most}",
                    self.base()
                ));
                said = true;
            }
        }
    }

    /// Whether anything at all comes from its door for health.
    async fn lives(&self) -> bool {
        let mut url = self.base().clone();
        url.set_path("/healthz");
        timeout(LIFE_TIMEOUT, self.http.request(Method::GET, url).send())
            .await
            .is_ok_and(|answer| answer.is_ok())
    }

    fn hangs(&self, silent: Duration) -> Failure {
        let message = format!(
            "the agent at {} does not answer: it accepts connections and has said nothing for {}",
            self.base(),
            units::seconds(silent.as_secs_f64())
        );
        Failure::new(ErrorKind::Timeout, message).advice(
            "see whether its process is stopped (state T in `ps`) or its machine overloaded, and its log; start it \
             again if need be: pulls resume where they stopped",
        )
    }
}
