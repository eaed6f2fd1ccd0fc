//! References as they are typed here: a path means the same to the agent, wherever it runs.
//!
//! Knows only what a path looks like; what else a reference may be, the agent says.

use std::{
    env,
    path::{Component, Path, PathBuf},
};

use emberline_agent::error::IoContext;

use crate::failure::Result;

/// `typed` as the agent can understand it: a path made absolute, all else unchanged.
///
/// # Errors
/// `NotFound` when the working directory is gone.
pub(crate) fn from_here(typed: &str) -> Result<String> {
    if !is_path(typed) {
        return Ok(typed.to_owned());
    }
    Ok(absolute(Path::new(typed))?.to_string_lossy().into_owned())
}

/// `path` without reference to the working directory; links are not followed.
///
/// # Errors
/// `NotFound` when the working directory is gone.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let here = env::current_dir().at(|| "working directory".to_owned())?;
    let mut absolute = PathBuf::new();
    for part in here.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                absolute.pop();
            }
            part => absolute.push(part),
        }
    }
    Ok(absolute)
}

/// What is worth calling it in a narrow column: its last part.
pub(crate) fn label(reference: &str) -> String {
    let trimmed = reference.trim_end_matches('/');
    trimmed.rsplit('/').next().unwrap_or(trimmed).to_owned()
}

fn is_path(typed: &str) -> bool {
    if typed.contains("://") {
        return false;
    }
    typed == "."
        || typed == ".."
        || ["/", "./", "../"].iter().any(|start| typed.starts_with(start))
        || Path::new(typed).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_nothing_else_changes() {
        let here = env::current_dir().unwrap();
        assert_eq!(from_here("./model").unwrap(), here.join("model").to_string_lossy());
        assert_eq!(from_here("src/../src").unwrap(), here.join("src").to_string_lossy());
        assert_eq!(from_here("/a/./b").unwrap(), "/a/b");
        for same in ["s3://bucket/./x", "hf://org/name@rev", "org/name", &"5".repeat(64)] {
            assert_eq!(from_here(same).unwrap(), *same);
        }
    }

    #[test]
    fn a_label_is_the_last_part() {
        assert_eq!(label("s3://bucket/llama/"), "llama");
        assert_eq!(label("hf://org/name@main"), "name@main");
        assert_eq!(label("llama"), "llama");
    }
}
