//! Directory names made of references: safe on every file system, and never the same for two.

use std::path::PathBuf;

use super::{Bucket, HubKind, Reference};

/// Stands for "the newest, of an origin without revisions".
const CURRENT: &str = "current";

/// Longer names are cut to their end, which is where model names differ.
const SHOWN_CHARS: usize = 64;

/// Sixteen hex digits: 2^32 references before two of them are likely to be confused.
const HASH_DIGITS: usize = 16;

pub(super) fn model_dir(reference: &Reference, revision: Option<&str>) -> PathBuf {
    let (scheme, host, name) = match reference {
        Reference::File(path) => {
            let path = path.as_os_str().as_encoded_bytes().escape_ascii();
            ("file", "local".to_owned(), path.to_string())
        }
        Reference::Http(url) | Reference::Hdfs(url) => {
            let host = url.host_str().unwrap_or_default();
            let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            (url.scheme(), host, url[url::Position::BeforePath..].to_owned())
        }
        Reference::S3(bucket) => of_bucket("s3", bucket),
        Reference::Gs(bucket) => of_bucket("gs", bucket),
        Reference::Az { account: None, bucket } => of_bucket("az", bucket),
        Reference::Az { account: Some(account), bucket } => {
            // A container's name has no dot.
            ("az", format!("{account}.{}", bucket.name), bucket.prefix.clone())
        }
        Reference::Hub(repo) => {
            let scheme = match repo.kind {
                HubKind::Model => "hf",
                HubKind::Dataset => "hf-datasets",
                HubKind::Space => "hf-spaces",
            };
            let (org, name) = repo.name.split_once('/').unwrap_or(("", &repo.name));
            (scheme, org.to_owned(), name.to_owned())
        }
        Reference::Ember(hash) => ("ember", "manifest".to_owned(), hash.to_string()),
    };
    let revision = match (revision, reference) {
        (Some(revision), _) if revision != CURRENT => component(revision),
        (Some(revision), _) => changed(revision),
        (None, Reference::Hub(repo)) => component(&repo.revision),
        (None, _) => CURRENT.to_owned(),
    };
    [scheme.to_owned(), component(&host), component(&name), revision].iter().collect()
}

fn of_bucket<'a>(scheme: &'a str, bucket: &Bucket) -> (&'a str, String, String) {
    (scheme, bucket.name.clone(), bucket.prefix.clone())
}

/// `text` itself where it is a plain name, else something like it with a hash.
fn component(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let safe = (1..=SHOWN_CHARS).contains(&text.len()) && !text.starts_with('.') && text.chars().all(plain);
    if safe { text.to_owned() } else { changed(text) }
}

/// Has a `~`, as no plain name has, so that it can be mistaken for none.
fn changed(text: &str) -> String {
    let like: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let like = like[like.len().saturating_sub(SHOWN_CHARS)..].trim_matches('-');
    let like = if like.is_empty() { "all" } else { like };
    let hash = blake3::hash(text.as_bytes()).to_hex();
    format!("{like}~{}", &hash[..HASH_DIGITS])
}
