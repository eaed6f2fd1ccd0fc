//! Following a job to its end: by server-sent events, and by asking again when those are cut.
//!
//! A cut stream is no failure, nor is an agent that restarts within [`GRACE`].

use std::time::Duration;

use emberline_agent::{
    api::{JobState, PullStatus, WarmStatus},
    error::ErrorKind,
};
use reqwest::{Method, header};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::{Client, events::EventParser};
use crate::{
    failure::{Failure, Result},
    units,
};

/// A stream without a byte for so long is cut; agents send a comment at least every 15 s.
const STREAM_IDLE: Duration = Duration::from_secs(40);
/// How often the agent is asked when there is no stream.
const POLL_EVERY: Duration = Duration::from_millis(400);
/// For how long an agent that does not answer is asked again.
const GRACE: Duration = Duration::from_secs(15);

/// Work that an agent does for a caller, and tells about.
pub trait Job: DeserializeOwned + Send {
    /// Its collection below `/v1`.
    const ROUTE: &'static str;
    /// Its name on the agent.
    fn id(&self) -> &str;
    /// Whether nothing more will happen.
    fn is_over(&self) -> bool;
}

impl Job for PullStatus {
    const ROUTE: &'static str = "pulls";

    fn id(&self) -> &str {
        &self.id
    }

    fn is_over(&self) -> bool {
        self.phase.is_over()
    }
}

impl Job for WarmStatus {
    const ROUTE: &'static str = "warm";

    fn id(&self) -> &str {
        &self.id
    }

    fn is_over(&self) -> bool {
        match self.state {
            JobState::Complete | JobState::Failed | JobState::Cancelled => true,
            JobState::Running => false,
        }
    }
}

impl Client {
    /// Follows a job to its end and returns how it ended; `heard` gets every status on the way,
    /// `first` and the last included.
    ///
    /// Cancel-safe: the job goes on without us.
    ///
    /// # Errors
    /// `Unavailable` when the agent is gone for longer than it takes to restart, or has forgotten the job;
    /// `Timeout` when it hangs.
    pub async fn follow<J: Job>(&self, first: J, mut heard: impl FnMut(&J)) -> Result<J> {
        heard(&first);
        if first.is_over() {
            return Ok(first);
        }
        let id = first.id().to_owned();
        if let Some(last) = self.stream(&id, &mut heard).await? {
            return Ok(last);
        }
        self.poll(&id, &mut heard).await
    }

    /// The last status, if the stream lasted so long.
    ///
    /// # Errors
    /// `Timeout` when the agent hangs: asking it again would only wait again.
    async fn stream<J: Job>(&self, id: &str, heard: &mut impl FnMut(&J)) -> Result<Option<J>> {
        let request = self
            .request(Method::GET, &[J::ROUTE, id, "events"], &[])
            .header(header::ACCEPT, "text/event-stream");
        let hangs = |failure: &Failure| failure.problem.error_kind() == ErrorKind::Timeout;
        let mut response = match self.send(request).await {
            Ok(response) => response,
            Err(failure) if hangs(&failure) => return Err(failure),
            Err(_) => return Ok(None),
        };
        let mut parser = EventParser::default();
        loop {
            let bytes = match timeout(STREAM_IDLE, self.watch(response.chunk())).await {
                Ok(Ok(Some(bytes))) => bytes,
                Ok(Err(failure)) if hangs(&failure) => return Err(failure),
                Ok(_) | Err(_) => return Ok(None),
            };
            let Ok(events) = parser.push(&bytes) else { return Ok(None) };
            for event in events {
                // The last event may carry the status too; what carries none is left to the poll.
                let Ok(status) = serde_json::from_str::<J>(&event.data) else { continue };
                heard(&status);
                if status.is_over() {
                    return Ok(Some(status));
                }
            }
        }
    }

    async fn poll<J: Job>(&self, id: &str, heard: &mut impl FnMut(&J)) -> Result<J> {
        let mut lost_since: Option<Instant> = None;
        loop {
            match self.call::<J>(self.request(Method::GET, &[J::ROUTE, id], &[])).await {
                Ok(status) => {
                    lost_since = None;
                    heard(&status);
                    if status.is_over() {
                        return Ok(status);
                    }
                }
                Err(failure) => match failure.problem.error_kind() {
                    ErrorKind::Unavailable { .. } => match lost_since {
                        Some(since) if since.elapsed() > GRACE => return Err(failure),
                        Some(_) => {}
                        None => {
                            lost_since = Some(Instant::now());
                            let (why, most) = (&failure.problem.message, units::seconds(GRACE.as_secs_f64()));
                            self.say(&format!("{why}; waiting up to {most} for it to come back"));
                        }
                    },
                    ErrorKind::NotFound => return Err(self.forgotten(id)),
                    // One that hangs was waited for already.
                    ErrorKind::Timeout
                    | ErrorKind::Denied
                    | ErrorKind::Invalid
                    | ErrorKind::Corrupt
                    | ErrorKind::Full
                    | ErrorKind::Cancelled => return Err(failure),
                },
            }
            sleep(POLL_EVERY).await;
        }
    }

    fn forgotten(&self, id: &str) -> Failure {
        let message =
            format!("the agent at {} knows nothing of {id} any more; it was restarted", self.base());
        Failure::new(ErrorKind::UNAVAILABLE, message).advice("run the same command again: it resumes")
    }
}
