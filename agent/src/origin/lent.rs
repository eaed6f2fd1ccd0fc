//! Tokens that callers lent: what a repository of a Hub is read with after the Hub let a caller into it.
//!
//! Kept in memory alone, for a bounded number of repositories and a bounded time, and sent to the Hub's own host
//! alone, as every token is. Does not decide who is let in.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use http::HeaderValue;
use lru::LruCache;
use parking_lot::Mutex;

use crate::reference::{HubKind, HubRepo};

/// Repositories that may be read with a lent token at a time.
const REPOSITORIES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// A token is forgotten so long after the last caller who lent one; a read that has begun goes on.
const LIFETIME: Duration = Duration::from_secs(3600);

/// What was lent.
pub(super) struct Lent {
    tokens: Mutex<LruCache<(HubKind, String), (HeaderValue, Instant)>>,
}

impl Default for Lent {
    fn default() -> Self {
        Self { tokens: Mutex::new(LruCache::new(REPOSITORIES_MAX)) }
    }
}

impl Lent {
    /// Takes the token of a caller whom the Hub let in; the last one is used.
    pub(super) fn lend(&self, repo: &HubRepo, mut authorization: HeaderValue) {
        authorization.set_sensitive(true);
        self.tokens.lock().put((repo.kind, repo.name.clone()), (authorization, Instant::now()));
    }

    /// Takes it back: of the caller with this token, or whoever lent it.
    pub(super) fn unlend(&self, repo: &HubRepo, authorization: Option<&HeaderValue>) {
        let key = (repo.kind, repo.name.clone());
        let mut tokens = self.tokens.lock();
        if tokens.peek(&key).is_some_and(|(token, _)| authorization.is_none_or(|taken| taken == token)) {
            tokens.pop(&key);
        }
    }

    /// What the repository may be read with.
    pub(super) fn of(&self, repo: &HubRepo) -> Option<HeaderValue> {
        let key = (repo.kind, repo.name.clone());
        let mut tokens = self.tokens.lock();
        let (token, since) = tokens.get(&key)?;
        if since.elapsed() < LIFETIME {
            return Some(token.clone());
        }
        tokens.pop(&key);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_lent_for_its_repository_alone_and_never_shown() {
        let repo = |kind, name: &str| HubRepo { kind, name: name.to_owned(), revision: "main".to_owned() };
        let lent = Lent::default();
        lent.lend(&repo(HubKind::Model, "org/a"), HeaderValue::from_static("Bearer hf_canary"));
        let token = lent.of(&HubRepo { revision: "other".into(), ..repo(HubKind::Model, "org/a") }).unwrap();
        assert_eq!(token, "Bearer hf_canary");
        assert!(!format!("{token:?}").contains("canary"));
        assert_eq!(lent.of(&repo(HubKind::Dataset, "org/a")), None);
        // What somebody else may no longer is none of this one's.
        lent.unlend(&repo(HubKind::Model, "org/a"), Some(&HeaderValue::from_static("Bearer hf_other")));
        lent.unlend(&repo(HubKind::Dataset, "org/a"), None);
        assert!(lent.of(&repo(HubKind::Model, "org/a")).is_some());
        for taken in [Some(&HeaderValue::from_static("Bearer hf_canary")), None] {
            lent.lend(&repo(HubKind::Model, "org/a"), HeaderValue::from_static("Bearer hf_canary"));
            lent.unlend(&repo(HubKind::Model, "org/a"), taken);
            assert_eq!(lent.of(&repo(HubKind::Model, "org/a")), None);
        }
        assert_eq!(lent.of(&repo(HubKind::Model, "org/b")), None);
    }
}
