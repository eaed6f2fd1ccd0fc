//! An agent's HTTP API from the caller's side: one method a route, every answer typed.
//!
//! Owns the connection, the token and the translation of everything that can go wrong into a
//! [`Failure`]. Does not know whether the agent is a daemon or runs inside this process: there is
//! one path for both. Answers are bounded by `MAX_ANSWER_BYTES`.

mod events;
mod follow;
mod watch;

use std::{error::Error, fmt, sync::Arc, time::Duration};

use emberline_agent::{
    api::{
        ArtifactInfo, DrainHook, DrainReport, LimitChange, Limits, Member, Named, PathAnswer, Plan,
        PlanRequest, Problem, PublishReport, PullRequest, PullStatus, ReadingOrderInfo, Status, VerifyReport,
        WarmRequest, WarmStatus,
    },
    error::ErrorKind,
    expose::http::STARTING_HEADER,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};
use url::Url;

pub use self::follow::Job;
use crate::failure::{Failure, Result};

/// Where an agent listens unless told otherwise.
pub const DEFAULT_AGENT: &str = "http://127.0.0.1:7580";

/// The longest answer read; a plan of 100,000 files takes about 10 MB.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an agent that says it is starting is given to be there.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const START_POLL: Duration = Duration::from_millis(200);
/// How long an answer of a living agent may take that needs neither origin nor disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A caller of one agent. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    /// Who hears that an answer is late.
    say: Arc<dyn Fn(&str) + Send + Sync>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client of {}", self.base)
    }
}

#[derive(Serialize)]
struct Verify<'a> {
    reference: &'a str,
    repair: bool,
}

impl Client {
    /// A client for the agent at `base`, a URL or `host:port`; nothing is contacted yet.
    ///
    /// # Errors
    /// `Invalid` when `base` is no address of HTTP.
    pub fn new(base: &str, token: Option<String>) -> Result<Self> {
        let wrong = |why: &str| {
            Failure::new(ErrorKind::Invalid, format!("agent address {base:?} {why}"))
                .advice(format!("write it as {DEFAULT_AGENT}"))
        };
        let with_scheme = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
        let base = Url::parse(&with_scheme).map_err(|e| wrong(&format!("is no URL: {e}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(wrong("is no http:// or https:// URL with a host"));
        }
        // Agents are neighbours: a proxy for the outside world is not on the way to them.
        coordinatorless_p2p::identity::install_crypto_provider();
        let mut http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT);
        if base.scheme() == "http" {
            // Spares reading the system's certificates, which takes longer than most answers.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|e| Failure::internal(format!("HTTP client: {}", root_cause(&e))))?;
        Ok(Self { http, base, token, say: Arc::new(|_| {}) })
    }

    /// Has `say` told when the agent makes itself waited for.
    #[must_use]
    pub fn telling(mut self, say: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.say = Arc::new(say);
        self
    }

    fn say(&self, text: &str) {
        (self.say)(text);
    }

    /// The agent's address.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Starts a pull, or joins the one under way.
    ///
    /// # Errors
    /// What the agent answers; `Unavailable` when none does. So for every method here.
    pub async fn start_pull(&self, request: &PullRequest) -> Result<PullStatus> {
        self.call(self.request(Method::POST, &["pulls"], &[]).json(request)).await
    }

    /// Ends a pull; what is here stays for the next one.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn cancel<J: Job>(&self, id: &str) -> Result<()> {
        self.tell(self.request(Method::DELETE, &[J::ROUTE, id], &[])).await
    }

    /// What a pull would do. Waits as long as the origin needs.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn plan(&self, request: &PlanRequest) -> Result<Plan> {
        self.call_slow(self.request(Method::POST, &["plan"], &[]).json(request)).await
    }

    /// Has other nodes pull.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn start_warm(&self, request: &WarmRequest) -> Result<WarmStatus> {
        self.call(self.request(Method::POST, &["warm"], &[]).json(request)).await
    }

    /// What is on that node's disk.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn artifacts(&self, resident: bool) -> Result<Vec<ArtifactInfo>> {
        self.call(self.request(Method::GET, &["artifacts"], &[("resident", flag(resident))])).await
    }

    /// Removes an artifact.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn remove(&self, reference: &str, force: bool) -> Result<()> {
        let query = [("reference", reference), ("force", flag(force))];
        self.tell(self.request(Method::DELETE, &["artifacts"], &query)).await
    }

    /// Where a complete artifact is.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn path(&self, reference: &str) -> Result<PathAnswer> {
        self.call(self.request(Method::GET, &["path"], &[("reference", reference)])).await
    }

    /// Re-hashes an artifact. Waits as long as the disk needs.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn verify(&self, reference: &str, repair: bool) -> Result<VerifyReport> {
        self.call_slow(self.request(Method::POST, &["verify"], &[]).json(&Verify { reference, repair })).await
    }

    /// Writes the manifest of a model beside it at its origin.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn publish(&self, reference: &str) -> Result<PublishReport> {
        let named = Named { reference: reference.to_owned() };
        self.call_slow(self.request(Method::POST, &["publish"], &[]).json(&named)).await
    }

    /// In which order an artifact was read.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn reading_order(&self, reference: &str) -> Result<ReadingOrderInfo> {
        self.call(self.request(Method::GET, &["orders"], &[("reference", reference)])).await
    }

    /// Records in which order an artifact has been read so far.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn record_order(&self, reference: &str) -> Result<ReadingOrderInfo> {
        let named = Named { reference: reference.to_owned() };
        self.call(self.request(Method::PUT, &["orders"], &[]).json(&named)).await
    }

    /// Forgets in which order an artifact was read.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn forget_order(&self, reference: &str) -> Result<()> {
        self.tell(self.request(Method::DELETE, &["orders"], &[("reference", reference)])).await
    }

    /// Keeps an artifact from eviction, or lets it go.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn pin(&self, reference: &str, pinned: bool) -> Result<()> {
        let request = if pinned {
            self.request(Method::PUT, &["pins"], &[]).json(&Named { reference: reference.to_owned() })
        } else {
            self.request(Method::DELETE, &["pins"], &[("reference", reference)])
        };
        self.tell(request).await
    }

    /// The members which that node sees.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn members(&self) -> Result<Vec<Member>> {
        self.call(self.request(Method::GET, &["members"], &[])).await
    }

    /// Has that node leave the cluster; the answer comes when it has, which may take as long as the hook says.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub async fn drain(&self, hook: &DrainHook) -> Result<DrainReport> {
        self.call_slow(self.request(Method::POST, &["hooks", "drain"], &[]).json(hook)).await
    }

    /// The limits on what passes between that node and the others.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn limits(&self) -> Result<Limits> {
        self.call(self.request(Method::GET, &["limits"], &[])).await
    }

    /// Changes them.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn limit(&self, change: &LimitChange) -> Result<Limits> {
        self.call(self.request(Method::PUT, &["limits"], &[]).json(change)).await
    }

    /// The agent in one glance.
    ///
    /// # Errors
    /// As [`start_pull`](Self::start_pull).
    pub async fn status(&self, resident: bool) -> Result<Status> {
        self.call(self.request(Method::GET, &["status"], &[("resident", flag(resident))])).await
    }

    fn request(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        self.call_slow(request.timeout(ANSWER_TIMEOUT)).await
    }

    async fn call_slow<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        let body = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|e| self.foreign(&format!("an answer that is not ours ({e})")))
    }

    async fn tell(&self, request: RequestBuilder) -> Result<()> {
        self.send(request.timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    /// Sends; once more and again while the agent is only starting.
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let began = Instant::now();
        let mut next = Some(request);
        loop {
            let Some(request) = next.take() else {
                return Err(Failure::internal("a request that cannot be sent twice"));
            };
            next = request.try_clone();
            let response = self.watch(request.send()).await?;
            if response.status().is_success() {
                return Ok(response);
            }
            let starting = response.headers().contains_key(STARTING_HEADER);
            if !starting || next.is_none() || began.elapsed() > START_PATIENCE {
                return Err(self.refusal(response).await);
            }
            sleep(START_POLL).await;
        }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.watch(response.chunk()).await? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(self.foreign("an answer longer than any of ours"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Translates an answer that is not a success.
    async fn refusal(&self, response: Response) -> Failure {
        let status = response.status();
        let retry_after =
            response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        let body = match self.body(response).await {
            Ok(body) => body,
            Err(failure) => return failure,
        };
        match serde_json::from_slice::<Problem>(&body) {
            Ok(mut problem) => {
                problem.retry_after_seconds = problem.retry_after_seconds.or(retry_after);
                if status == StatusCode::UNAUTHORIZED && self.token.is_none() {
                    problem.advice = Some(TOKEN_ADVICE.to_owned());
                }
                problem.into()
            }
            Err(_) if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let message = format!("the agent at {} wants a token, or another one ({status})", self.base);
                Failure::new(ErrorKind::Denied, message).advice(TOKEN_ADVICE)
            }
            // Most likely a proxy before the agent.
            Err(_) if status.is_server_error() => {
                Failure::new(ErrorKind::UNAVAILABLE, format!("{} answered {status}", self.base))
            }
            Err(_) => self.foreign(&status.to_string()),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let (base, cause) = (&self.base, root_cause(error));
        if error.is_timeout() {
            return Failure::new(ErrorKind::Timeout, format!("the agent at {base} does not answer"))
                .advice("see its log, and `preload status` for its load; then try again");
        }
        if error.is_connect() {
            let advice = if base.scheme() == "https" {
                "agents speak http: write http:// for the agent itself; https:// is for a proxy with TLS in front of it"
            } else {
                "start one with `preload agent`, or name another with --agent URL or EMBERLINE_AGENT"
            };
            return Failure::new(ErrorKind::UNAVAILABLE, format!("no agent at {base}: {cause}"))
                .advice(advice);
        }
        Failure::new(ErrorKind::UNAVAILABLE, format!("lost the agent at {base}: {cause}"))
            .advice("see whether it still runs, then try again: a pull resumes where it stopped")
    }

    fn foreign(&self, what: &str) -> Failure {
        Failure::new(ErrorKind::Invalid, format!("{} gave {what}", self.base))
            .advice("is that an Emberline agent, and of this version? name the right one with --agent URL")
    }
}

/// What to do when an agent wants to know who is asking.
const TOKEN_ADVICE: &str = "give the agent's token with --token-file FILE or EMBERLINE_TOKEN_FILE";

fn flag(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// The deepest cause, which is the one that tells: `Connection refused`, not `error sending request`.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
pub(crate) mod tests;
