//! Secrets that come from files and the environment, and where a Hub is.
//!
//! Owns how they are found and what may be said of them: where they are from, never what they are.

use std::path::{Path, PathBuf};

use http::HeaderValue;
use url::Url;

use super::{config::HubConfig, guard::parse_endpoint};
use crate::error::{Error, ErrorKind, IoContext, Result};

/// Where models are if nobody says otherwise.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// The longest secret, in bytes.
const MAX_TOKEN_BYTES: u64 = 8 << 10;

/// What a Hub is asked with: where it is, and who asks.
#[derive(Clone)]
pub(super) struct HubAccess {
    pub(super) endpoint: Url,
    pub(super) authorization: Option<HeaderValue>,
    /// Where the token is from, for messages.
    pub(super) token_source: &'static str,
}

impl HubAccess {
    /// From settings, else from the environment, as the Hub's own client reads it.
    ///
    /// # Errors
    /// `Invalid` for an endpoint that is no URL; reading a token file that was named.
    pub(super) fn new(config: &HubConfig) -> Result<Self> {
        let endpoint = hub_endpoint(config)?;
        let (token, token_source) = if config.anonymous { (None, "no token") } else { find_token(config)? };
        let authorization = token.map(|token| bearer(&token, token_source)).transpose()?;
        Ok(Self { endpoint, authorization, token_source })
    }
}

/// Where the Hub is.
///
/// # Errors
/// `Invalid` for what is no URL.
pub(super) fn hub_endpoint(config: &HubConfig) -> Result<Url> {
    match &config.endpoint {
        Some(text) => parse_endpoint("origins.hf.endpoint", text),
        None => match non_empty_var("HF_ENDPOINT") {
            Some(text) => parse_endpoint("HF_ENDPOINT", &text),
            None => parse_endpoint("the default Hub", DEFAULT_ENDPOINT),
        },
    }
}

/// An `Authorization` header that debug output never shows.
///
/// # Errors
/// `Invalid` when the token has what no header can carry; it is not repeated.
pub(super) fn bearer(token: &str, source: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        Error::new(ErrorKind::Invalid, format!("the token from {source} has characters that no token has"))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads a small secret and trims it.
///
/// # Errors
/// As reading the file; `Invalid` when it is empty or too long to be one.
pub(super) fn read(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path).at(|| format!("secret file {}", path.display()))?.len();
    if size > MAX_TOKEN_BYTES {
        return Err(Error::new(ErrorKind::Invalid, format!("{} is too long to be a secret", path.display())));
    }
    let text = std::fs::read_to_string(path).at(|| format!("secret file {}", path.display()))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, format!("secret file {} is empty", path.display())));
    }
    Ok(text.to_owned())
}

pub(super) fn non_empty_var(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
}

fn find_token(config: &HubConfig) -> Result<(Option<String>, &'static str)> {
    if let Some(path) = &config.token_file {
        return Ok((Some(read(path)?), "origins.hf.token_file"));
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = non_empty_var(name) {
            return Ok((Some(token), name));
        }
    }
    let home = || non_empty_var("HOME").map(|home| Path::new(&home).join(".cache/huggingface"));
    let file = non_empty_var("HF_TOKEN_PATH")
        .map(PathBuf::from)
        .or_else(|| non_empty_var("HF_HOME").map(PathBuf::from).or_else(home).map(|d| d.join("token")));
    match file.filter(|path| path.is_file()) {
        Some(path) => Ok((Some(read(&path)?), "the Hub's token file")),
        None => Ok((None, "no token")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let value = bearer("hf_canary", "HF_TOKEN").unwrap();
        assert!(!format!("{value:?}").contains("canary"));
        let error = bearer("hf_\ncanary", "HF_TOKEN").unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("canary"));
    }
}
