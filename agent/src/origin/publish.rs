//! Writing to an origin: the one thing Emberline ever puts there, a manifest beside its model.
//!
//! Only where an origin is a directory that can be written: a path, S3, GCS, Azure. The file is replaced in
//! one step, so a reader sees the old one or the new one.

use std::{io::Write, time::Duration};

use bytes::Bytes;
use object_store::{ObjectStoreExt, path::Path as Key};

use super::{MANIFEST_FILE, Origins, file::FileOrigin, retry};
use crate::{
    error::{Error, ErrorKind, IoContext, Result},
    reference::{Bucket, Reference},
};

/// How long one attempt to write may take: a manifest has a few MiB.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

impl Origins {
    /// Whether a manifest may be published to what `reference` names, as far as its scheme tells.
    ///
    /// # Errors
    /// `Invalid` where nothing can be written; `Denied` when it may not be used here.
    pub fn check_publishable(&self, reference: &Reference) -> Result<()> {
        match reference {
            Reference::File(_) => Ok(()),
            _ => self.inner.bucket(reference).map(drop),
        }
    }

    /// Writes an encoded manifest beside the model that `reference` names, and says where. Not cancel-safe:
    /// the manifest may be there or not.
    ///
    /// # Errors
    /// `Invalid` where nothing can be written, or for one file instead of a directory; `Denied`; as writing.
    pub async fn publish(&self, reference: &Reference, manifest: Bytes) -> Result<String> {
        let config = &self.inner.config;
        if let Reference::File(path) = reference {
            let origin = FileOrigin::new(reference.to_string(), path.clone(), self.inner.allow.clone());
            return origin.put(manifest).await;
        }
        let (_, store, bucket) = self.inner.bucket(reference)?;
        let key = key(reference, bucket)?;
        let policy = retry::RetryPolicy { retries: config.retries, max_wait: config.max_retry_wait };
        retry::persist(policy, || async {
            let write = async {
                if let Ok(prefix) = Key::parse(&bucket.prefix)
                    && !bucket.prefix.is_empty()
                    && store.objects.head(&prefix).await.is_ok()
                {
                    return Err(one_file(reference));
                }
                let put = store.objects.put(&key, manifest.clone().into()).await;
                put.map(drop).map_err(|e| store.explain(e, &format!("{reference}: {MANIFEST_FILE}")))
            };
            tokio::time::timeout(WRITE_TIMEOUT, write).await.unwrap_or_else(|_| {
                let text = format!("{reference}: {MANIFEST_FILE} was not written within {WRITE_TIMEOUT:?}");
                Err(Error::new(ErrorKind::Timeout, text))
            })
        })
        .await?;
        Ok(format!("{reference}/{MANIFEST_FILE}"))
    }
}

impl FileOrigin {
    async fn put(self, manifest: Bytes) -> Result<String> {
        super::file::blocking(move || {
            let root = self.real_root()?;
            if !root.is_dir() {
                return Err(one_file(&root.display()));
            }
            let path = root.join(MANIFEST_FILE);
            let at = || format!("{} cannot be written", path.display());
            let fresh = root.join(format!("{MANIFEST_FILE}.new"));
            let mut file = std::fs::File::create(&fresh).at(at)?;
            let written = file.write_all(&manifest).and_then(|()| file.sync_all());
            if let Err(e) = written.and_then(|()| std::fs::rename(&fresh, &path)) {
                let _ = std::fs::remove_file(&fresh);
                return Err(e).at(at);
            }
            Ok(path.display().to_string())
        })
        .await
    }
}

fn key(reference: &Reference, bucket: &Bucket) -> Result<Key> {
    let slash = if bucket.prefix.is_empty() { "" } else { "/" };
    Key::parse(format!("{}{slash}{MANIFEST_FILE}", bucket.prefix))
        .map_err(|e| Error::with_source(ErrorKind::Invalid, format!("{reference}: no key for a manifest"), e))
}

fn one_file(named: &dyn std::fmt::Display) -> Error {
    let text =
        format!("{named} is one file: a manifest stands beside a model, so name its directory or prefix");
    Error::new(ErrorKind::Invalid, text)
}
