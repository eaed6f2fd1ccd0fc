//! What is fetched together when one file is opened.
//!
//! A repository of a Hub at its revision; elsewhere the nearest directory that looks like a model; else the
//! file alone. Looks at a bounded part of one or two directories, remembered as every listing is.

use super::{Namespace, Spot};
use crate::{
    error::Result,
    origin::catalogue::{ListedName, MAX_PAGE_NAMES, PageRequest},
    reference::Reference,
    snapshot::RelativePath,
};

/// A directory with more files below it is no model.
const MODEL_FILES_MAX: usize = 4096;
/// How many directories above a file may be the model's: its own, and the one around it.
const LEVELS: usize = 2;

/// An artifact, and a file in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whole {
    /// What a pull would name.
    pub(crate) reference: Reference,
    /// The file.
    pub(crate) path: RelativePath,
    /// Whether it is one file by itself rather than part of a model.
    pub(crate) is_lone: bool,
}

impl Namespace {
    /// What the file at `spot` is part of. Cancel-safe.
    ///
    /// # Errors
    /// `Invalid` for a key that no artifact can hold; as listing.
    pub(crate) async fn artifact(&self, spot: &Spot) -> Result<Whole> {
        if spot.repository().is_some() {
            return Ok(Whole { reference: spot.root.clone(), path: spot.key.parse()?, is_lone: false });
        }
        let mut directory = spot.directory();
        for _ in 0..LEVELS {
            // A directory that cannot be listed may have readable files nevertheless.
            if self.looks_like_a_model(&directory).await.unwrap_or(false) {
                let below = spot.key.strip_prefix(&directory.key).unwrap_or(&spot.key);
                let path = below.trim_start_matches('/').parse()?;
                return Ok(Whole { reference: directory.model_reference()?, path, is_lone: false });
            }
            if directory.key.is_empty() {
                break;
            }
            directory = directory.directory();
        }
        let name = spot.key.rsplit('/').next().unwrap_or_default();
        Ok(Whole { reference: spot.reference()?, path: name.parse()?, is_lone: true })
    }

    async fn looks_like_a_model(&self, directory: &Spot) -> Result<bool> {
        let prefix = if directory.key.is_empty() { String::new() } else { format!("{}/", directory.key) };
        let (mut files, mut has_weights, mut has_description) = (0, false, false);
        let mut start_after = None;
        loop {
            let request =
                PageRequest { prefix: prefix.clone(), delimited: false, start_after, limit: MAX_PAGE_NAMES };
            let page = self.inner.memory.page(&directory.root, &request).await?.value;
            for name in page.names.iter() {
                let ListedName::File(file) = name else { continue };
                let below = file.key.strip_prefix(&prefix).unwrap_or(&file.key);
                // The model's own, not those of models below it.
                if !below.contains('/') {
                    has_weights |= is_weights(below);
                    has_description |= below == "config.json" || below.ends_with(".index.json");
                }
            }
            files += page.names.len();
            if files > MODEL_FILES_MAX {
                return Ok(false);
            }
            start_after = page.names.last().map(|name| name.key().to_owned());
            if !page.more || start_after.is_none() {
                return Ok(has_weights && has_description);
            }
        }
    }
}

fn is_weights(name: &str) -> bool {
    [".safetensors", ".gguf", ".bin"].iter().any(|end| name.ends_with(end))
}

impl Spot {
    /// The reference of the directory at this key.
    fn model_reference(&self) -> Result<Reference> {
        Ok(match self.reference()? {
            // A base ends in a slash; without it the URL is one file.
            Reference::Http(mut url) => {
                if let Ok(mut parts) = url.path_segments_mut() {
                    parts.pop_if_empty().push("");
                }
                Reference::Http(url)
            }
            other => other,
        })
    }
}
