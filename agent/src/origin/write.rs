//! Writing one object of a bucket, for the door that takes writes: whole, in parts, and away with it.
//!
//! Passes through: nothing is kept here, and an upload in parts is known to the store alone, by its id. Who may
//! write what is the door's to say.
//!
//! Invariant: a write that must find nothing there is not tried again when it may have been done: it would find
//! itself. Whoever asked is told that it is not known.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use object_store::{
    Attributes, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutResult, TagSet,
    multipart::{MultipartStore, PartId},
    path::Path as Key,
};

use super::{
    Origins,
    client::{NotSent, find},
    connector::{StoreAnswer, only_if_new},
    retry,
    stores::Store,
};
use crate::{
    error::{Error, ErrorKind, Result},
    reference::Reference,
};

/// How long one attempt may take: a part has some MiB.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);

/// One object that is written.
pub(crate) struct Writer {
    store: Arc<Store>,
    key: Key,
    name: String,
    policy: retry::RetryPolicy,
}

/// What the store is told of an object besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) attributes: Attributes,
    pub(crate) tags: TagSet,
}

/// How a write of an object ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is there, with this tag, where the store tells one.
    Done(Option<String>),
    /// There was one, and there must not be.
    Exists,
}

impl Origins {
    /// What writes the object that `reference` names.
    ///
    /// # Errors
    /// `Invalid` where nothing can be written, or for a key that the store would change; `Denied` when it may
    /// not be used here.
    pub(crate) fn writer(&self, reference: &Reference) -> Result<Writer> {
        let config = &self.inner.config;
        let (_, store, bucket) = self.inner.bucket(reference)?;
        let refuse =
            || Error::new(ErrorKind::Invalid, format!("{reference} names no object that can be written"));
        let key = Key::parse(&bucket.prefix).map_err(|_| refuse())?;
        if bucket.prefix.is_empty() || key.as_ref() != bucket.prefix || super::is_control_file(&bucket.prefix)
        {
            return Err(refuse());
        }
        let policy = retry::RetryPolicy { retries: config.retries, max_wait: config.max_retry_wait };
        Ok(Writer { store, key, name: reference.to_string(), policy })
    }
}

impl Writer {
    /// Writes the object whole; with `is_new` only if there is none. Not cancel-safe.
    ///
    /// # Errors
    /// As the store says; with `is_new` `Cancelled` when it is not known whether the object was written.
    pub(crate) async fn put(&self, bytes: Bytes, is_new: bool, described: &Described) -> Result<Written> {
        let mode = if is_new { PutMode::Create } else { PutMode::Overwrite };
        let write = || {
            let Described { attributes, tags } = described.clone();
            let options = PutOptions { mode: mode.clone(), attributes, tags, ..PutOptions::default() };
            self.store.objects.put_opts(&self.key, bytes.clone().into(), options)
        };
        if is_new {
            return self.create(write).await;
        }
        Ok(Written::Done(self.persist("writing", write).await?.e_tag))
    }

    /// Tries until the object is there by one attempt of ours, by somebody else, or nobody knows.
    async fn create<F>(&self, mut attempt: impl FnMut() -> F) -> Result<Written>
    where
        F: Future<Output = object_store::Result<PutResult>>,
    {
        retry::persist(self.policy, || {
            let write = attempt();
            async move {
                let what = format!("{}: creating", self.name);
                let Ok(written) = tokio::time::timeout(WRITE_TIMEOUT, write).await else {
                    return Err(not_known(&what, &format!("no answer within {WRITE_TIMEOUT:?}")));
                };
                let error = match written {
                    Ok(put) => return Ok(Written::Done(put.e_tag)),
                    Err(e) => e,
                };
                match find::<StoreAnswer>(&error).map(|answer| answer.status) {
                    Some(StatusCode::PRECONDITION_FAILED) => Ok(Written::Exists),
                    // Somebody else is writing there, or just was.
                    Some(StatusCode::CONFLICT) => match self.store.objects.head(&self.key).await {
                        Ok(_) => Ok(Written::Exists),
                        Err(_) => Err(Error::new(ErrorKind::UNAVAILABLE, format!("{what}: {error}"))),
                    },
                    _ if may_have_been_done(&error) => Err(not_known(&what, &error.to_string())),
                    _ => Err(self.store.explain(error, &what)),
                }
            }
        })
        .await
    }

    /// Whether there is one.
    ///
    /// # Errors
    /// As the store says.
    pub(crate) async fn exists(&self) -> Result<bool> {
        match self.persist("looking", || self.store.objects.head(&self.key)).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Removes the object; none there is as good. Cancel-safe.
    ///
    /// # Errors
    /// As the store says.
    pub(crate) async fn delete(&self) -> Result<()> {
        match self.persist("removing", || self.store.objects.delete(&self.key)).await {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Begins an upload in parts; its id.
    ///
    /// # Errors
    /// As the store says.
    pub(crate) async fn begin(&self, described: &Described) -> Result<String> {
        let begin = || {
            let Described { attributes, tags } = described.clone();
            let options = PutMultipartOptions { attributes, tags, ..PutMultipartOptions::default() };
            self.parts().create_multipart_opts(&self.key, options)
        };
        self.persist("beginning an upload", begin).await
    }

    /// Sends a part, counted from 0; its tag.
    ///
    /// # Errors
    /// As the store says.
    pub(crate) async fn part(&self, id: &String, index: usize, bytes: Bytes) -> Result<String> {
        let put = self
            .persist("writing a part", || self.parts().put_part(&self.key, id, index, bytes.clone().into()));
        Ok(put.await?.content_id)
    }

    /// Makes the object of its parts, which are all from the first on; with `is_new` only if there is none, where
    /// the store can see to that. Not cancel-safe.
    ///
    /// # Errors
    /// As the store says; with `is_new` `Cancelled` when it is not known whether the object was made.
    pub(crate) async fn complete(&self, id: &String, tags: Vec<String>, is_new: bool) -> Result<Written> {
        let complete = || {
            let parts = tags.iter().map(|tag| PartId { content_id: tag.clone() }).collect();
            self.parts().complete_multipart(&self.key, id, parts)
        };
        if is_new {
            return self.create(|| only_if_new(complete())).await;
        }
        Ok(Written::Done(self.persist("completing an upload", complete).await?.e_tag))
    }

    /// Forgets an upload and its parts.
    ///
    /// # Errors
    /// As the store says.
    pub(crate) async fn abort(&self, id: &String) -> Result<()> {
        self.persist("forgetting an upload", || self.parts().abort_multipart(&self.key, id)).await
    }

    fn parts(&self) -> &dyn MultipartStore {
        &*self.store.parts
    }

    async fn persist<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        retry::persist(self.policy, || {
            let write = attempt();
            async move {
                match tokio::time::timeout(WRITE_TIMEOUT, write).await {
                    Ok(done) => done.map_err(|e| self.store.explain(e, &format!("{}: {what}", self.name))),
                    Err(_) => {
                        let text = format!("{}: {what} took longer than {WRITE_TIMEOUT:?}", self.name);
                        Err(Error::new(ErrorKind::Timeout, text))
                    }
                }
            }
        })
        .await
    }
}

/// Whether the store may have done what failed: its answer was lost, or does not say.
fn may_have_been_done(error: &object_store::Error) -> bool {
    if let Some(StoreAnswer { status, .. }) = find::<StoreAnswer>(error) {
        return matches!(status.as_u16(), 500 | 502 | 504);
    }
    // A host that asked to be left alone was not asked at all.
    let is_lost = |kind| matches!(kind, ErrorKind::Timeout | ErrorKind::Unavailable { retry_after: None });
    find::<NotSent>(error).is_none() && find::<Error>(error).is_some_and(|own| is_lost(own.kind()))
}

fn not_known(what: &str, why: &str) -> Error {
    let text = format!("{what}: whether it was done is not known, look before trying again: {why}");
    Error::new(ErrorKind::Cancelled, text)
}
