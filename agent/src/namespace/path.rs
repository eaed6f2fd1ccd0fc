//! Paths of the namespace: what doors hear, parsed once.
//!
//! Owns what a path may look like. Does not know mounts or origins, nor how a door encodes a path: a door
//! decodes percent signs first, once.

use std::{fmt, str::FromStr};

use crate::error::{Error, ErrorKind, Result};

/// The longest path, in bytes.
const MAX_PATH_BYTES: usize = 4096;

/// An absolute path: `/` or `/part/part`, without `.`, `..`, empty parts, control characters or backslashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacePath(String);

impl NamespacePath {
    /// The root of all mounts.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// The text, with its slash in front and none behind.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts; none for the root.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// What is called `name` (one part or several) below this.
    ///
    /// # Errors
    /// `Invalid` as parsing.
    pub fn join(&self, name: &str) -> Result<Self> {
        format!("{}/{name}", self.0.trim_end_matches('/')).parse()
    }

    /// The last part; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The directory it is in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let (parent, name) = self.0.rsplit_once('/')?;
        (!name.is_empty()).then(|| if parent.is_empty() { Self::root() } else { Self(parent.to_owned()) })
    }
}

impl FromStr for NamespacePath {
    type Err = Error;

    /// A slash at the end, and a missing one in front, are forgiven.
    ///
    /// # Errors
    /// `Invalid`, saying what is wrong.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
            Err(Error::new(ErrorKind::Invalid, format!("path \"{shown}\" {why}")))
        };
        if text.len() > MAX_PATH_BYTES {
            return refuse("is longer than 4096 bytes");
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return refuse("has a control character or backslash");
        }
        let inner = text.strip_prefix('/').unwrap_or(text);
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if inner.is_empty() {
            return Ok(Self::root());
        }
        if inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return refuse("has an empty or dotted part");
        }
        Ok(Self(format!("/{inner}")))
    }
}

impl fmt::Display for NamespacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_and_has_no_tricks_in_it() {
        for (text, path) in [("", "/"), ("/", "/"), ("a/b/", "/a/b"), ("/a b/ü", "/a b/ü")] {
            assert_eq!(text.parse::<NamespacePath>().unwrap().as_str(), path);
        }
        for bad in ["///", "/a//b", "/a/../b", "/./a", "/a\\b", "/a\nb", "/a\0", &"x".repeat(5000)] {
            assert_eq!(bad.parse::<NamespacePath>().unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn a_path_knows_its_parent_and_its_children() {
        let path: NamespacePath = "/a/b".parse().unwrap();
        assert_eq!((path.name(), path.parent().unwrap().as_str()), ("b", "/a"));
        assert_eq!(path.join("c/d").unwrap().as_str(), "/a/b/c/d");
        assert!(path.join("../c").is_err());
        let root = NamespacePath::root();
        assert_eq!((root.name(), root.parent(), root.join("a").unwrap().as_str()), ("", None, "/a"));
    }
}
