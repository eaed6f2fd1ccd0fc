//! Writing one object of a bucket, for the door that takes writes: whole, in parts, and away with it.
//!
//! Passes through: nothing is kept here, and an upload in parts is known to the store alone, by its id. Who may
//! write what is the door's to say.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::{
    ObjectStoreExt, PutMode, PutOptions,
    multipart::{MultipartStore, PartId},
    path::Path as Key,
};

use super::{Origins, retry, stores::Store};
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

/// How a write of a whole object ended.
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
    /// As the store says.
    pub(crate) async fn put(&self, bytes: Bytes, is_new: bool) -> Result<Written> {
        let mode = if is_new { PutMode::Create } else { PutMode::Overwrite };
        let put = self.persist("writing", || {
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            self.store.objects.put_opts(&self.key, bytes.clone().into(), options)
        });
        match put.await {
            Ok(put) => Ok(Written::Done(put.e_tag)),
            Err(e) => {
                match is_new && !e.kind().is_transient() && self.store.objects.head(&self.key).await.is_ok() {
                    true => Ok(Written::Exists),
                    false => Err(e),
                }
            }
        }
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
    pub(crate) async fn begin(&self) -> Result<String> {
        self.persist("beginning an upload", || self.parts().create_multipart(&self.key)).await
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

    /// Makes the object of its parts, which are all from the first on; its tag, where the store tells one.
    /// Not cancel-safe.
    ///
    /// # Errors
    /// As the store says.
    pub(crate) async fn complete(&self, id: &String, tags: Vec<String>) -> Result<Option<String>> {
        let put = self.persist("completing an upload", || {
            let parts = tags.iter().map(|tag| PartId { content_id: tag.clone() }).collect();
            self.parts().complete_multipart(&self.key, id, parts)
        });
        Ok(put.await?.e_tag)
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
