//! `preload publish`: the manifest of a model, written beside it at its origin.
//!
//! Whoever pulls that version later knows every hash from the start, and a cluster that has an older one
//! fetches only what differs. The manifest is believed as the origin is: only who may write there can
//! publish, and what is published is what this node holds, checked against the origin's digests.

use crate::{
    api::{PublishReport, PullRequest, PullStatus},
    error::{Error, ErrorKind, Result},
    pulls::Pulls,
    reference::Reference,
};

/// Pulls what `named` means, if it is not here, and publishes its manifest. Cancelling leaves the pull
/// under way.
///
/// # Errors
/// `Invalid` where nothing can be written; as pulling; `Unavailable` when the origin cannot be asked which
/// version it has.
pub(crate) async fn publish(pulls: &Pulls, named: &str) -> Result<PublishReport> {
    let engine = &pulls.engine;
    let reference: Reference = named.parse()?;
    engine.origins.check_publishable(&reference)?;
    let request = PullRequest { reference: named.to_owned(), ..PullRequest::default() };
    let mut status = pulls.start(request, true)?;
    let ended: PullStatus = match status.wait_for(|status| status.phase.is_over()).await {
        Ok(ended) => ended.clone(),
        Err(_) => return Err(Error::new(ErrorKind::Cancelled, "this node is shutting down")),
    };
    if let Some(problem) = ended.error {
        return Err(Error::new(problem.error_kind(), problem.message));
    }
    if ended.stale {
        let text = format!("{named}: the origin cannot be asked whether the copy here is of its version");
        return Err(Error::new(ErrorKind::UNAVAILABLE, text));
    }
    let missing = || Error::new(ErrorKind::UNAVAILABLE, format!("{named} has no manifest here yet"));
    let swarm = ended.swarm.ok_or_else(missing)?;
    let manifest = engine.store.manifest(swarm.parse()?).ok_or_else(missing)?;
    let encoded = manifest.encode();
    let (bytes, chunks) = (encoded.len() as u64, u64::from(manifest.blueprint.chunk_count()));
    let written_to = engine.origins.publish(&reference, encoded.into()).await?;
    // The next to ask shall see it.
    engine.resolver.forget(&reference);
    tracing::info!(%reference, written_to, bytes, "published a manifest");
    Ok(PublishReport {
        reference: named.to_owned(),
        swarm,
        manifest: manifest.id().to_string(),
        written_to,
        bytes,
        chunks,
        total_bytes: manifest.blueprint.total_bytes(),
    })
}
