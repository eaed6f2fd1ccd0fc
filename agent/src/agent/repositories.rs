//! What only the Hugging Face door asks of an agent: whom a Hub lets in, and which revisions there are.

use http::HeaderValue;
use serde_json::Value;

use super::Agent;
use crate::{
    admission::Admissions,
    error::Result,
    reference::{HubRepo, Reference},
};

impl Agent {
    /// Whom the Hub lets into which repositories.
    pub(crate) fn admissions(&self) -> &Admissions {
        &self.inner.admissions
    }

    /// The branches and tags of a repository as its Hub tells the bearer of `authorization`.
    ///
    /// # Errors
    /// As the Hub says; `Unavailable` and `Timeout` when it cannot be asked.
    pub(crate) async fn refs(&self, repo: &HubRepo, authorization: Option<&HeaderValue>) -> Result<Value> {
        self.inner.engine.origins.refs(repo, authorization).await
    }

    /// The revisions of a repository that were brought here, and the commits that they stood for.
    pub(crate) fn revisions_here(&self, repo: &HubRepo) -> Vec<(String, String)> {
        let store = &self.inner.engine.store;
        let of = |swarm| {
            let blueprint = store.blueprint(swarm)?;
            match blueprint.reference.parse() {
                Ok(Reference::Hub(known)) if (known.kind, &known.name) == (repo.kind, &repo.name) => {
                    let commit = blueprint.revision.clone()?;
                    (known.revision != commit).then_some((known.revision, commit))
                }
                _ => None,
            }
        };
        store.swarms().into_iter().filter_map(of).collect()
    }
}
