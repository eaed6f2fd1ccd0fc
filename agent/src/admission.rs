//! Which callers a Hub lets into which repositories, as the Hub said lately.
//!
//! Owns the rule of the Hugging Face door: nobody gets an answer out of a repository into which the Hub did not
//! let him himself, whatever this node may read and whatever is here already. What strangers may read everybody
//! may. Decisions are bounded in number and time, kept under a keyed hash of the token, and never written down;
//! that a repository is public is written down, so that it can be read when the Hub is gone, after a restart too.

mod public;

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;
use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::public::PublicRepositories;
use crate::{
    error::{Error, ErrorKind, Result},
    origin::{Admission, Origins, Refusal},
    reference::{HubKind, HubRepo},
};

/// Decisions remembered.
const DECISIONS_MAX: NonZeroUsize = NonZeroUsize::new(2048).unwrap();
/// Who was refused may accept terms and come back: he is told the same for so long only.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// How long the Hub has to decide; clients give up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long where an older decision will do.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);
/// A Hub that could not be asked is left alone for so long.
const GONE_FOR: Duration = Duration::from_secs(5);

/// The Hugging Face door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HuggingFaceConfig {
    /// How long a caller whom the Hub let into a repository is let in without asking it again.
    #[serde(with = "humantime_serde")]
    pub admission_ttl: Duration,
}

impl Default for HuggingFaceConfig {
    fn default() -> Self {
        Self { admission_ttl: Duration::from_secs(300) }
    }
}

/// Whether a caller may have answers.
#[derive(Debug, Clone)]
pub(crate) enum Entered {
    /// Yes.
    LetIn {
        /// What the Hub says of the repository; empty where it said nothing since the start.
        about: Arc<Map<String, Value>>,
        /// The Hub could not be asked: it is public as far as anybody knows.
        stale: bool,
        /// Strangers are let in, too.
        is_public: bool,
    },
    /// No, in the Hub's words.
    Refused(Refusal),
}

/// Who asks about what. A stranger has no token.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    token: Option<[u8; 32]>,
    kind: HubKind,
    name: String,
}

struct Decision {
    at: Instant,
    entered: Entered,
}

type Slot = Arc<tokio::sync::Mutex<Option<Decision>>>;

/// What was decided. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Admissions {
    inner: Arc<Inner>,
}

struct Inner {
    origins: Origins,
    ttl: Duration,
    /// Of this process: hashes of tokens mean nothing outside of it.
    key: [u8; 32],
    decisions: Mutex<LruCache<Question, Slot>>,
    public: Arc<PublicRepositories>,
    /// When the Hub could not be asked last.
    gone: Mutex<Option<Instant>>,
}

impl Admissions {
    /// Reads which repositories were public last; a file that cannot be read is as none.
    ///
    /// # Errors
    /// `Cancelled` when the agent stops meanwhile.
    pub(crate) async fn open(
        origins: Origins,
        data_dir: PathBuf,
        config: &HuggingFaceConfig,
    ) -> Result<Self> {
        let public = tokio::task::spawn_blocking(move || PublicRepositories::open(&data_dir)).await;
        let cut_short =
            |e| Error::with_source(ErrorKind::Cancelled, "reading what was public was cut short", e);
        let inner = Inner {
            origins,
            ttl: config.admission_ttl,
            key: rand::random(),
            decisions: Mutex::new(LruCache::new(DECISIONS_MAX)),
            public: Arc::new(public.map_err(cut_short)?),
            gone: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether the bearer of `authorization`, or a stranger, may have answers out of `repo`. A token by which the
    /// Hub lets him in is lent to the reads of that repository. Cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` and `Timeout` when the Hub cannot be asked and nothing it said will do; `Denied` when the
    /// repository may not be used here.
    pub(crate) async fn enter(&self, repo: &HubRepo, authorization: Option<&HeaderValue>) -> Result<Entered> {
        let as_stranger = self.decide(repo, None).await;
        let Some(token) = authorization else { return as_stranger };
        if let Ok(entered @ Entered::LetIn { .. }) = as_stranger {
            // Nobody's is needed.
            self.inner.origins.unlend(repo, None);
            return Ok(entered);
        }
        let entered = self.decide(repo, Some(token)).await?;
        match entered {
            Entered::LetIn { .. } => self.inner.origins.lend(repo, token.clone()),
            Entered::Refused(_) => self.inner.origins.unlend(repo, Some(token)),
        }
        Ok(entered)
    }

    /// Forgets who was let into `repo`, and by what it was read: the Hub turned out to say otherwise.
    pub(crate) fn forget(&self, repo: &HubRepo) {
        self.inner.origins.unlend(repo, None);
        let mut decisions = self.inner.decisions.lock();
        let gone: Vec<_> = decisions.iter().map(|(question, _)| question.clone()).collect();
        for question in gone.into_iter().filter(|q| q.kind == repo.kind && q.name == repo.name) {
            decisions.pop(&question);
        }
    }

    async fn decide(&self, repo: &HubRepo, authorization: Option<&HeaderValue>) -> Result<Entered> {
        let inner = &self.inner;
        let token = authorization.map(|token| *blake3::keyed_hash(&inner.key, token.as_bytes()).as_bytes());
        let question = Question { token, kind: repo.kind, name: repo.name.clone() };
        let slot = inner.decisions.lock().get_or_insert(question, Slot::default).clone();
        // One question at a time for each caller and repository.
        let mut decision = slot.lock().await;
        if let Some(known) = decision.as_ref().filter(|known| known.is_fresh(inner.ttl)) {
            return Ok(known.entered.clone());
        }
        let fallback = match authorization {
            Some(_) => None,
            None => self.public_before(repo, decision.as_ref()),
        };
        match self.ask(repo, authorization, fallback.is_some()).await {
            Ok(admission) => {
                let is_let_in = matches!(admission, Admission::LetIn(_));
                let entered = match admission {
                    Admission::LetIn(about) => {
                        let is_public = authorization.is_none();
                        Entered::LetIn { about: Arc::new(about), stale: false, is_public }
                    }
                    Admission::Refused(refusal) => Entered::Refused(refusal),
                };
                *decision = Some(Decision { at: Instant::now(), entered: entered.clone() });
                if authorization.is_none() {
                    self.write_down(repo, is_let_in).await;
                }
                Ok(entered)
            }
            Err(e) if e.kind().is_transient() => fallback.ok_or(e),
            Err(e) => Err(e),
        }
    }

    async fn ask(
        &self,
        repo: &HubRepo,
        authorization: Option<&HeaderValue>,
        has_fallback: bool,
    ) -> Result<Admission> {
        let inner = &self.inner;
        if has_fallback && inner.gone.lock().is_some_and(|at| at.elapsed() < GONE_FOR) {
            return Err(Error::new(
                ErrorKind::UNAVAILABLE,
                format!("hf://{repo}: the Hub could not be asked"),
            ));
        }
        let patience = if has_fallback { SHORT_PATIENCE } else { PATIENCE };
        let asked = tokio::time::timeout(patience, inner.origins.admits(repo, authorization)).await;
        let asked = asked.unwrap_or_else(|_| {
            let text = format!("hf://{repo}: the Hub did not say in time who may read it");
            Err(Error::new(ErrorKind::Timeout, text))
        });
        let is_gone = asked.as_ref().is_err_and(|e| e.kind().is_transient());
        *inner.gone.lock() = is_gone.then(Instant::now);
        asked
    }

    /// What strangers are told when the Hub cannot be asked.
    fn public_before(&self, repo: &HubRepo, known: Option<&Decision>) -> Option<Entered> {
        match known.map(|known| &known.entered) {
            Some(Entered::LetIn { about, .. }) => {
                Some(Entered::LetIn { about: about.clone(), stale: true, is_public: true })
            }
            Some(Entered::Refused(_)) => None,
            None => {
                let name = self.public_name(repo)?;
                let entered = Entered::LetIn { about: Arc::default(), stale: true, is_public: true };
                self.inner.public.has(&name).then_some(entered)
            }
        }
    }

    async fn write_down(&self, repo: &HubRepo, is_public: bool) {
        let Some(name) = self.public_name(repo) else { return };
        let public = self.inner.public.clone();
        let written = tokio::task::spawn_blocking(move || public.set(&name, is_public)).await;
        if let Ok(Err(e)) = written {
            tracing::warn!(error = %e, "which repositories are public cannot be written down");
        }
    }

    /// Another Hub may have another repository of that name.
    fn public_name(&self, repo: &HubRepo) -> Option<String> {
        let endpoint = self.inner.origins.hub_endpoint().ok()?;
        Some(format!("{endpoint} {:?} {}", repo.kind, repo.name))
    }
}

impl Decision {
    fn is_fresh(&self, ttl: Duration) -> bool {
        let holds = match self.entered {
            Entered::LetIn { .. } => ttl,
            Entered::Refused(_) => REFUSED_FOR.min(ttl),
        };
        self.at.elapsed() < holds
    }
}
