//! The credentials and configuration files that AWS's own tools write.
//!
//! Owns as much of their format as holds keys and a region. Profiles that assume roles or sign in through
//! a browser are not resolved here.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use object_store::aws::AmazonS3Builder;

use super::{config::S3Config, hub::non_empty_var};
use crate::error::{Error, ErrorKind, IoContext, Result};

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What one profile says.
#[derive(Debug, Default)]
pub(super) struct Profile {
    pub(super) keys: Option<Keys>,
    pub(super) region: Option<String>,
}

/// A key pair. `Debug` shows where it is from and nothing else.
pub(super) struct Keys {
    id: String,
    secret: String,
    session_token: Option<String>,
    /// Where they are from, for messages.
    pub(super) source: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Keys {
    pub(super) fn apply(self, builder: AmazonS3Builder) -> AmazonS3Builder {
        let builder = builder.with_access_key_id(self.id).with_secret_access_key(self.secret);
        match self.session_token {
            Some(token) => builder.with_token(token),
            None => builder,
        }
    }
}

/// The profile that settings and environment name.
///
/// # Errors
/// `Invalid` when a profile or file was named and is not there, or is not of this format.
pub(super) fn load(config: &S3Config) -> Result<Profile> {
    let named = config.profile.clone().or_else(|| non_empty_var("AWS_PROFILE"));
    let name = named.clone().unwrap_or_else(|| "default".to_owned());
    let home = |file: &str| non_empty_var("HOME").map(|home| Path::new(&home).join(".aws").join(file));
    let in_variable = |name: &str| non_empty_var(name).map(PathBuf::from);

    let credentials_path = (config.credentials_file.clone())
        .or_else(|| in_variable("AWS_SHARED_CREDENTIALS_FILE"))
        .or_else(|| home("credentials"));
    let mut keys = None;
    if let Some(path) = &credentials_path {
        let text = read(path, config.credentials_file.is_some())?;
        keys = keys_of(&section(&text, &name), &name, path)?;
    }
    let mut region = None;
    if let Some(path) = in_variable("AWS_CONFIG_FILE").or_else(|| home("config")) {
        let text = read(&path, false)?;
        let heading = if name == "default" { name.clone() } else { format!("profile {name}") };
        region = value(&section(&text, &heading), "region");
    }
    if let (None, Some(path), true) = (&keys, &credentials_path, config.profile.is_some()) {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("origins.s3.profile {name:?} has no keys in {}", path.display()),
        ));
    }
    Ok(Profile { keys, region })
}

fn read(path: &Path, required: bool) -> Result<String> {
    let what = || format!("credentials file {}", path.display());
    match fs::metadata(path) {
        Err(e)
            if !required && matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
        {
            return Ok(String::new());
        }
        found if found.as_ref().is_ok_and(|m| m.len() > MAX_FILE_BYTES) => {
            return Err(Error::new(ErrorKind::Invalid, format!("{} is too long to be one", what())));
        }
        _ => {}
    }
    fs::read_to_string(path).at(what)
}

fn keys_of(section: &[(String, String)], name: &str, path: &Path) -> Result<Option<Keys>> {
    let (id, secret) = (value(section, "aws_access_key_id"), value(section, "aws_secret_access_key"));
    let source = format!("profile {name:?} of {}", path.display());
    match (id, secret) {
        (Some(id), Some(secret)) => {
            Ok(Some(Keys { id, secret, session_token: value(section, "aws_session_token"), source }))
        }
        (None, None) => Ok(None),
        _ => Err(Error::new(ErrorKind::Invalid, format!("{source} has one half of a key pair only"))),
    }
}

fn value(section: &[(String, String)], key: &str) -> Option<String> {
    section.iter().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.clone())
}

/// The settings below `[heading]`.
fn section(text: &str, heading: &str) -> Vec<(String, String)> {
    let mut inside = false;
    let mut settings = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            inside = name.0.split_whitespace().eq(heading.split_whitespace());
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            settings.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# keys\n[default]\naws_access_key_id = AKIA\naws_secret_access_key=canary+/=\n\n\
        [profile dev ]\nregion = eu-west-1\n[half]\naws_access_key_id=x\n";

    #[test]
    fn a_profile_is_found_and_its_secret_never_shown() {
        let keys = keys_of(&section(FILE, "default"), "default", Path::new("/c")).unwrap().unwrap();
        assert_eq!((keys.id.as_str(), keys.secret.as_str()), ("AKIA", "canary+/="));
        assert!(!format!("{keys:?}").contains("canary"));
        assert_eq!(value(&section(FILE, "profile dev"), "region").as_deref(), Some("eu-west-1"));
        assert!(section(FILE, "nobody").is_empty());
    }

    #[test]
    fn half_a_key_pair_is_refused() {
        assert!(keys_of(&section(FILE, "half"), "half", Path::new("/c")).is_err());
    }

    #[test]
    fn a_profile_that_was_named_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        fs::write(&path, FILE).unwrap();
        let config = |profile: &str| S3Config {
            credentials_file: Some(path.clone()),
            profile: Some(profile.into()),
            ..S3Config::default()
        };
        assert!(load(&config("default")).unwrap().keys.is_some());
        assert!(load(&config("nobody")).unwrap_err().to_string().contains("nobody"));
    }
}
