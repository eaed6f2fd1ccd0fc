//! What every part of the S3 door gets.

use std::time::Duration;

use s3s::S3Result;

use super::{buckets::Buckets, credentials::Credentials, errors::told, hosts::Domains, uploads::Uploads};
use crate::{
    agent::Agent,
    error::{Error, ErrorKind},
    expose::http::AgentSlot,
};

/// What every part of the door gets.
pub(super) struct Inner {
    pub(super) agent: AgentSlot,
    pub(super) buckets: Buckets,
    pub(super) domains: Domains,
    pub(super) credentials: Option<Credentials>,
    /// Mounts that callers may write.
    pub(super) writable: Vec<String>,
    pub(super) uploads: Uploads,
}

impl Inner {
    /// # Errors
    /// `SlowDown` while the agent starts.
    pub(super) fn agent(&self) -> S3Result<&Agent> {
        self.agent.get().ok_or_else(|| {
            let starting = ErrorKind::Unavailable { retry_after: Some(Duration::from_secs(1)) };
            told(&Error::new(starting, "the agent is still starting"))
        })
    }
}
