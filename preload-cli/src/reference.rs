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

/// A label for each: the last part, and for those that share it as many parts before it as tell them apart.
pub(crate) fn labels(references: &[&str]) -> Vec<String> {
    let tail = |reference: &str, parts: usize| {
        let trimmed = reference.trim_end_matches('/');
        let start = trimmed.rmatch_indices('/').nth(parts - 1).map_or(0, |(at, _)| at + 1);
        trimmed[start..].to_owned()
    };
    let told_apart = |reference: &&str| {
        let others = || references.iter().filter(|other| *other != reference);
        let most = reference.matches('/').count() + 1;
        let parts = (1..=most).find(|n| others().all(|other| tail(other, *n) != tail(reference, *n)));
        tail(reference, parts.unwrap_or(most))
    };
    references.iter().map(told_apart).collect()
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
        assert_eq!(labels(&["s3://bucket/llama/"]), ["llama"]);
        assert_eq!(labels(&["hf://org/name@main", "llama"]), ["name@main", "llama"]);
        assert_eq!(labels(&["llama", "llama"]), ["llama", "llama"]);
    }

    #[test]
    fn labels_that_would_be_the_same_get_more_parts() {
        let references = ["s3://a/x/llama", "s3://b/x/llama/", "gs://a/x/llama", "hf://org/qwen"];
        assert_eq!(labels(&references), ["s3://a/x/llama", "b/x/llama", "gs://a/x/llama", "qwen"]);
    }
}
