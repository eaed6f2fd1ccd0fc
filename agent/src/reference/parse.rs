//! From text to reference, scheme by scheme. Each parser says what is wrong in a few words that can
//! follow `reference "…"`, and never quotes what may be a secret.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Component, Path, PathBuf},
};

use percent_encoding::percent_decode_str;
use url::Url;

use super::{Bucket, DEFAULT_REVISION, HubKind, HubRepo, Reference};

/// What follows the account in an Azure host name; the first is the one that is printed.
pub(super) const AZURE_SUFFIXES: [&str; 2] = ["dfs.core.windows.net", "blob.core.windows.net"];

const SCHEMES: [&str; 11] =
    ["s3", "gs", "az", "abfs", "abfss", "hf", "https", "http", "hdfs", "file", "ember"];

const MAX_REFERENCE_BYTES: usize = 2048;

/// Why a text is no reference.
type Why = String;

pub(super) fn reference(text: &str) -> Result<Reference, Why> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    if text.len() > MAX_REFERENCE_BYTES {
        return Err(format!("is longer than {MAX_REFERENCE_BYTES} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("has a newline or another control character".into());
    }
    let Some((scheme, rest)) = split_scheme(text) else {
        return plain(text);
    };
    match scheme.to_ascii_lowercase().as_str() {
        "s3" => bucket(rest).map(Reference::S3),
        "gs" => bucket(rest).map(Reference::Gs),
        "az" | "abfs" | "abfss" => azure(rest),
        "hf" => hub(rest).map(Reference::Hub),
        scheme @ ("https" | "http") => http(scheme, rest).map(Reference::Http),
        "hdfs" => hdfs(rest).map(Reference::Hdfs),
        "file" => file(rest).map(Reference::File),
        "ember" => rest
            .parse()
            .map(Reference::Ember)
            .map_err(|_| "does not have 64 hex digits after ember://".into()),
        other => Err(unknown(other)),
    }
}

/// What stands before and after `://`, where that can be a scheme (RFC 3986, 3.1).
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let in_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    text.split_once("://").filter(|(scheme, _)| scheme.chars().all(in_scheme))
}

/// The text as it may be shown in a message: bounded, printable, without userinfo and query.
pub(super) fn without_secrets(text: &str) -> String {
    const HIDDEN: &str = "***";
    let (scheme, rest) = split_scheme(text).map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
    let query = rest.find(['?', '#']);
    let user_is_no_secret = scheme.is_none_or(|s| matches!(s, "hf" | "az" | "abfs" | "abfss"));
    let rest = match rest.rfind('@') {
        Some(at) if user_is_no_secret && !rest[..at].contains(':') => cut_query(rest, query, HIDDEN),
        // A password with a question mark, or a query with an @: nobody can tell which.
        Some(at) if query.is_some_and(|query| query < at) => HIDDEN.to_owned(),
        Some(at) => {
            let host = &rest[at + 1..];
            format!("{HIDDEN}@{}", cut_query(host, host.find(['?', '#']), HIDDEN))
        }
        None => cut_query(rest, query, HIDDEN),
    };
    let shown = scheme.map_or_else(|| rest.clone(), |scheme| format!("{scheme}://{rest}"));
    shown.chars().take(120).flat_map(char::escape_debug).collect()
}

fn cut_query(text: &str, query: Option<usize>, hidden: &str) -> String {
    query.map_or_else(|| text.to_owned(), |at| format!("{}{hidden}", &text[..=at]))
}

fn unknown(scheme: &str) -> Why {
    let nearest = SCHEMES
        .iter()
        .map(|known| (strsim::damerau_levenshtein(scheme, known), known))
        .min()
        .filter(|&(distance, known)| distance <= 2 && distance < known.len());
    match nearest {
        Some((_, known)) => format!("has an unknown scheme; did you mean {known}://?"),
        None => format!("has an unknown scheme; known are {}", SCHEMES.join(", ")),
    }
}

/// No scheme: a path, if it looks like one or exists.
fn plain(text: &str) -> Result<Reference, Why> {
    let path = Path::new(text);
    let is_path = text.starts_with(['/', '.'])
        && path.components().next().is_some_and(|first| {
            matches!(first, Component::RootDir | Component::CurDir | Component::ParentDir)
        });
    if is_path || path.exists() {
        return absolute(path).map(Reference::File);
    }
    if let Some((scheme, _)) = text.split_once(':').filter(|(scheme, _)| SCHEMES.contains(scheme)) {
        return Err(format!("lacks two slashes: write {scheme}://…"));
    }
    if let Ok(repo) = hub(text) {
        return Err(format!("is no file or directory here; for the Hugging Face Hub write hf://{repo}"));
    }
    Err("is no file or directory here and has no scheme such as hf:// or s3://".into())
}

fn absolute(path: &Path) -> Result<PathBuf, Why> {
    // What `..` means depends on symbolic links, so only the file system can tell.
    let path = if path.components().any(|part| part == Component::ParentDir) {
        path.canonicalize().map_err(|e| format!("cannot be followed: {e}"))?
    } else {
        std::path::absolute(path).map_err(|e| format!("cannot be made absolute: {e}"))?
    };
    Ok(path.components().collect())
}

fn file(rest: &str) -> Result<PathBuf, Why> {
    let path = rest.strip_prefix("localhost").filter(|rest| rest.starts_with('/')).unwrap_or(rest);
    if !path.starts_with('/') {
        return Err("names another host or a relative path: write file:///absolute/path".into());
    }
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    if bytes.utf8_chunks().any(|chunk| chunk.valid().chars().any(char::is_control)) {
        return Err("has a control character".into());
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("has `..` in it".into());
    }
    Ok(path.components().collect())
}

fn bucket(rest: &str) -> Result<Bucket, Why> {
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if name.contains('@') {
        return Err("has a user or password: credentials go into the configuration or environment".into());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    named(name, plain)?;
    Ok(Bucket { name: name.to_owned(), prefix: checked_prefix(prefix)? })
}

fn azure(rest: &str) -> Result<Reference, Why> {
    let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, account) = match authority.split_once('@') {
        None => (authority, None),
        Some((container, _)) if container.contains(':') => {
            return Err("has a password: credentials go into the configuration or environment".into());
        }
        Some((container, host)) => (container, Some(azure_account(host)?)),
    };
    named(name, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '$'))?;
    let bucket = Bucket { name: name.to_owned(), prefix: checked_prefix(prefix)? };
    Ok(Reference::Az { account, bucket })
}

fn azure_account(host: &str) -> Result<String, Why> {
    let host = host.to_ascii_lowercase();
    AZURE_SUFFIXES
        .iter()
        .find_map(|suffix| host.strip_suffix(suffix)?.strip_suffix('.'))
        .filter(|account| {
            !account.is_empty() && account.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
        .map(str::to_owned)
        .ok_or_else(|| format!("does not name an account as container@account.{}", AZURE_SUFFIXES[0]))
}

fn named(bucket: &str, plain: impl Fn(char) -> bool) -> Result<(), Why> {
    if bucket.is_empty() {
        return Err("names no bucket".into());
    }
    if bucket.len() > 255 || bucket.starts_with('.') || bucket.contains("..") || !bucket.chars().all(plain) {
        return Err("has a bucket name with characters that no bucket has".into());
    }
    Ok(())
}

fn checked_prefix(prefix: &str) -> Result<String, Why> {
    let prefix = prefix.trim_matches('/');
    if prefix.contains('?') {
        return Err("has a query: settings such as region and endpoint go into the configuration".into());
    }
    no_dots(prefix)?;
    if prefix.contains("//") || prefix.contains('\\') {
        return Err("has an empty part or a backslash in its prefix".into());
    }
    Ok(prefix.to_owned())
}

/// Refuses `.` and `..` as parts, also percent-encoded.
fn no_dots(path: &str) -> Result<(), Why> {
    let dots = |part: &str| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    let lower = path.to_ascii_lowercase().replace("%2f", "/").replace("%5c", "/");
    if lower.split(['/', '\\']).any(dots) { Err("has `.` or `..` in it".into()) } else { Ok(()) }
}

fn hub(rest: &str) -> Result<HubRepo, Why> {
    let (name, revision) = rest.split_once('@').unwrap_or((rest, DEFAULT_REVISION));
    let parts: Vec<&str> = name.trim_end_matches('/').split('/').collect();
    let (kind, parts) = match parts.as_slice() {
        ["models", rest @ ..] if rest.len() == 2 => (HubKind::Model, rest),
        ["datasets", rest @ ..] => (HubKind::Dataset, rest),
        ["spaces", rest @ ..] => (HubKind::Space, rest),
        rest => (HubKind::Model, rest),
    };
    if parts.len() > 2 {
        return Err(
            "names a file in a repository: name the repository, and the file by --allow-pattern".into()
        );
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_name = |part: &&str| {
        (1..=96).contains(&part.len())
            && part.chars().all(plain)
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
    };
    if parts.is_empty() || !parts.iter().all(is_name) {
        return Err("is not of the form hf://org/name[@revision]".into());
    }
    // As it stands in the Hub's own URLs.
    let revision = revision.replace("%2F", "/").replace("%2f", "/");
    let odd = |c: char| {
        c.is_whitespace() || matches!(c, '\\' | '?' | '#' | '%' | '~' | '^' | ':' | '*' | '[' | '@')
    };
    if revision.is_empty() || revision.len() > 255 || revision.contains(odd) {
        return Err("has a revision that is no branch, tag or commit".into());
    }
    if revision.split('/').any(|part| part.is_empty() || part.starts_with('.')) || revision.contains("..") {
        return Err("has `..` or an empty part in its revision".into());
    }
    Ok(HubRepo { kind, name: parts.join("/"), revision })
}

fn http(scheme: &str, rest: &str) -> Result<Url, Why> {
    if rest.starts_with('/') {
        return Err("has no host".into());
    }
    let url = checked_url(scheme, rest)?;
    if let Some((key, _)) = url.query_pairs().find(|(key, _)| is_secret(key)) {
        return Err(format!(
            "has a secret in its query ({}): references are printed and gossiped; put it into the configuration",
            key.escape_debug()
        ));
    }
    Ok(url)
}

fn hdfs(rest: &str) -> Result<Url, Why> {
    // A URL loses the blanks at its end, and then another slash may be the last.
    let rest = rest.trim_end_matches(['/', ' ']);
    if rest.is_empty() || rest.starts_with('/') {
        return Err("has no name node: write hdfs://host:port/path".into());
    }
    if rest.contains('?') {
        return Err("has a query: settings go into the configuration".into());
    }
    if rest.contains("//") {
        return Err("has an empty part".into());
    }
    checked_url("hdfs", rest)
}

/// A URL with a host and nothing that would be rewritten or kept secret.
fn checked_url(scheme: &str, rest: &str) -> Result<Url, Why> {
    let end_of_path = rest.find(['?', '#']).unwrap_or(rest.len());
    let path = rest[..end_of_path].split_once('/').map_or("", |(_, path)| path);
    no_dots(path)?;
    if rest.contains('\\') {
        return Err("has a backslash".into());
    }
    // Allowed by RFC 3986, but more often half of a `user:password@` with a slash in the password.
    if rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.ends_with(':')) {
        return Err("has a colon without a port".into());
    }
    let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|e| format!("is no URL: {e}"))?;
    if !url.username().is_empty() || url.password().is_some() || url.authority().contains('@') {
        return Err("has a user or password: credentials go into the configuration or environment".into());
    }
    if url.fragment().is_some() {
        return Err("has a fragment (#…)".into());
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("has no host".into());
    }
    Ok(url)
}

/// Parameters of presigned URLs and tokens of all kinds.
fn is_secret(key: &str) -> bool {
    const MARKS: [&str; 8] = ["token", "sig", "secret", "key", "passw", "pwd", "auth", "credential"];
    let key = key.to_ascii_lowercase();
    MARKS.iter().any(|mark| key.contains(mark))
}
