//! A typed client of the agent's HTTP interface, for agents here and in other network namespaces.
//!
//! Speaks only `emberline_agent::api`, so a test sees what any user sees. Does not retry: a failure
//! is the test's to judge.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use coordinatorless_p2p::{Error, ErrorKind, Result};
use emberline_agent::api::{Member, PathAnswer, Phase, Problem, PullRequest, PullStatus, Status};
use reqwest::Method;
use serde::{Serialize, de::DeserializeOwned};

use crate::namespaces::Namespace;

/// How often a condition is looked at while waiting: short against what is waited for, long against
/// what a look costs.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Talks to one agent.
#[derive(Debug, Clone)]
pub struct AgentClient {
    base: String,
    http: reqwest::Client,
    namespace: Option<Namespace>,
}

/// What came back: the status code, and the body as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as `T`, or the agent's problem as an error.
    ///
    /// # Errors
    /// The agent's own kind and sentence for a status of 400 and above; `Invalid` when the body is
    /// not a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        if self.status >= 400 {
            return Err(match serde_json::from_str::<Problem>(&self.body) {
                Ok(problem) => Error::new(kind_of(&problem), problem.message),
                Err(_) => Error::new(ErrorKind::Invalid, format!("status {}: {}", self.status, self.body)),
            });
        }
        serde_json::from_str(&self.body)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("unexpected body {}", self.body), e))
    }
}

fn kind_of(problem: &Problem) -> ErrorKind {
    match problem.kind.as_str() {
        "not_found" => ErrorKind::NotFound,
        "denied" => ErrorKind::Denied,
        "timeout" => ErrorKind::Timeout,
        "corrupt" => ErrorKind::Corrupt,
        "full" => ErrorKind::Full,
        "cancelled" => ErrorKind::Cancelled,
        "unavailable" => ErrorKind::UNAVAILABLE,
        _ => ErrorKind::Invalid,
    }
}

impl AgentClient {
    /// A client of the agent that listens at `addr`, as seen from `namespace` (or from here).
    ///
    /// # Errors
    /// `Unavailable` when the HTTP client cannot be built.
    pub fn new(addr: SocketAddr, namespace: Option<Namespace>) -> Result<Self> {
        coordinatorless_p2p::identity::install_crypto_provider();
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|e| Error::with_source(ErrorKind::UNAVAILABLE, "HTTP client", e))?;
        Ok(Self { base: format!("http://{addr}"), http, namespace })
    }

    /// The agent's base URL, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// One request with an optional JSON body.
    ///
    /// # Errors
    /// `Unavailable` when the agent does not answer. Every status is an answer.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let exchange = async move {
            let response = request.send().await?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>(Answer { status, body: response.text().await? })
        };
        let answer = match &self.namespace {
            Some(namespace) => namespace.run(exchange).await?,
            None => exchange.await,
        };
        answer.map_err(|e| Error::with_source(ErrorKind::UNAVAILABLE, format!("{}{path}", self.base), e))
    }

    /// `GET path` as `T`.
    ///
    /// # Errors
    /// As [`request`](Self::request) and [`Answer::parse`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.request(Method::GET, path, None).await?.parse()
    }

    /// `POST path` with a JSON body, answered by a `T`.
    ///
    /// # Errors
    /// As [`request`](Self::request) and [`Answer::parse`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_value(body)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("body of {path}"), e))?;
        self.request(Method::POST, path, Some(body)).await?.parse()
    }

    /// Whether the agent says it can serve pulls.
    pub async fn is_ready(&self) -> bool {
        self.request(Method::GET, "/readyz", None).await.is_ok_and(|answer| answer.status == 200)
    }

    /// The members the agent sees.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn members(&self) -> Result<Vec<Member>> {
        self.get("/v1/members").await
    }

    /// The agent in one glance.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    /// The metrics page, in Prometheus' text format.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.request(Method::GET, "/metrics", None).await?.body)
    }

    /// Starts a pull.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub async fn start_pull(&self, request: &PullRequest) -> Result<PullStatus> {
        self.post("/v1/pulls", request).await
    }

    /// Where a pull stands.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn pull_status(&self, id: &str) -> Result<PullStatus> {
        self.get(&format!("/v1/pulls/{id}")).await
    }

    /// Waits until `reached` is true of a pull, or the pull is over.
    ///
    /// # Errors
    /// `Timeout` after `deadline`, with where the pull stood; else as [`get`](Self::get).
    pub async fn watch_pull(
        &self,
        id: &str,
        deadline: Duration,
        reached: impl Fn(&PullStatus) -> bool,
    ) -> Result<PullStatus> {
        self.watch_pull_every(POLL_INTERVAL, id, deadline, reached).await
    }

    /// As [`watch_pull`](Self::watch_pull), asking as often as `interval` says.
    ///
    /// # Errors
    /// As there.
    pub async fn watch_pull_every(
        &self,
        interval: Duration,
        id: &str,
        deadline: Duration,
        reached: impl Fn(&PullStatus) -> bool,
    ) -> Result<PullStatus> {
        let start = Instant::now();
        loop {
            let status = self.pull_status(id).await?;
            if status.phase.is_over() || reached(&status) {
                return Ok(status);
            }
            if start.elapsed() > deadline {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("pull {id} after {deadline:?} still at {status:?}"),
                ));
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Pulls `reference` whole and waits for the end.
    ///
    /// # Errors
    /// `Invalid` with the agent's sentence when the pull fails; else as [`watch_pull`](Self::watch_pull).
    pub async fn pull(&self, reference: &str, deadline: Duration) -> Result<PullStatus> {
        let request = PullRequest { reference: reference.to_owned(), ..PullRequest::default() };
        let started = self.start_pull(&request).await?;
        let ended = self.watch_pull(&started.id, deadline, |_| false).await?;
        match (ended.phase, &ended.error) {
            (Phase::Complete, _) => Ok(ended),
            (_, Some(problem)) => Err(Error::new(kind_of(problem), problem.message.clone())),
            (phase, None) => {
                Err(Error::new(ErrorKind::Invalid, format!("pull of {reference} ended {phase:?}")))
            }
        }
    }

    /// Where a complete artifact is.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn path(&self, reference: &str) -> Result<PathAnswer> {
        let url = reqwest::Url::parse_with_params("http://agent/v1/path", [("reference", reference)])
            .map_err(|e| Error::with_source(ErrorKind::Invalid, reference.to_owned(), e))?;
        self.get(&format!("{}?{}", url.path(), url.query().unwrap_or_default())).await
    }
}
