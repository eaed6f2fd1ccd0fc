//! What a path below the endpoint asks for: parsed once, percent signs decoded once.
//!
//! Pure. Takes the path as it came, for a slash in a branch's name comes encoded. What cannot name anything is
//! refused here, in the Hub's words.

use percent_encoding::percent_decode_str;

use super::refusal::Refused;
use crate::reference::{HubKind, HubRepo, Reference};

/// A question about a repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) repo: HubRepo,
    pub(super) wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What it is and which files it has.
    About,
    /// The entries of a directory; empty for the root.
    Tree(String),
    /// The entries of some paths.
    PathsInfo,
    /// Its branches and tags.
    Refs,
    /// A file's bytes.
    File(String),
}

/// Parses what stands behind the endpoint, without its leading slash; `None` for routes of the Hub that are not
/// about reading a repository.
///
/// # Errors
/// What can name nothing.
pub(super) fn parse(path: &str) -> Result<Option<Route>, Refused> {
    let parts: Vec<String> = path.split('/').map(decoded).collect::<Result<_, _>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["api", kind, rest @ ..] => match kind_of(kind) {
            Some(kind) => api(kind, rest),
            None => Ok(None),
        },
        ["datasets", rest @ ..] => file(HubKind::Dataset, rest),
        ["spaces", rest @ ..] => file(HubKind::Space, rest),
        rest => file(HubKind::Model, rest),
    }
}

fn kind_of(word: &str) -> Option<HubKind> {
    match word {
        "models" => Some(HubKind::Model),
        "datasets" => Some(HubKind::Dataset),
        "spaces" => Some(HubKind::Space),
        _ => None,
    }
}

/// Whether what may be the rest behind a repository is a route; the words may also be names and revisions.
fn is_route(parts: &[&str]) -> bool {
    matches!(parts, ["refs"] | ["revision" | "tree" | "paths-info", _, ..])
}

fn api(kind: HubKind, parts: &[&str]) -> Result<Option<Route>, Refused> {
    // The oldest repositories have no organisation.
    let (name, rest) = match parts {
        [] | [""] => return Ok(None),
        [_, _, rest @ ..] if is_route(rest) => parts.split_at(2),
        [_, rest @ ..] if is_route(rest) => parts.split_at(1),
        [_, _, ..] => parts.split_at(2),
        [_] => parts.split_at(1),
    };
    let name = name.join("/");
    let (revision, wanted) = match rest {
        [] => (None, Wanted::About),
        ["refs"] => (None, Wanted::Refs),
        ["revision", rest @ ..] => match revision(rest) {
            Some((revision, [])) => (Some(revision), Wanted::About),
            _ => return Ok(None),
        },
        ["paths-info", rest @ ..] => match revision(rest) {
            Some((revision, [])) => (Some(revision), Wanted::PathsInfo),
            _ => return Ok(None),
        },
        ["tree", rest @ ..] => match revision(rest) {
            Some((revision, directory)) => (Some(revision), Wanted::Tree(directory_of(directory)?)),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(Route { repo: repository(kind, &name, revision.as_deref())?, wanted }))
}

fn file(kind: HubKind, parts: &[&str]) -> Result<Option<Route>, Refused> {
    let (name, rest) = match parts {
        [_, _, "resolve", ..] => parts.split_at(2),
        [_, "resolve", ..] => parts.split_at(1),
        _ => return Ok(None),
    };
    match revision(&rest[1..]) {
        Some((revision, path @ [_, ..])) => {
            let repo = repository(kind, &name.join("/"), Some(&revision))?;
            Ok(Some(Route { repo, wanted: Wanted::File(path.join("/")) }))
        }
        _ => Ok(None),
    }
}

/// A revision is one part with its slashes encoded; the Hub's own kinds of ref also come as three.
fn revision<'a, 'b>(parts: &'b [&'a str]) -> Option<(String, &'b [&'a str])> {
    match parts {
        ["refs", kind @ ("pr" | "convert"), name, rest @ ..] => Some((format!("refs/{kind}/{name}"), rest)),
        [revision, rest @ ..] => Some(((*revision).to_owned(), rest)),
        [] => None,
    }
}

fn directory_of(parts: &[&str]) -> Result<String, Refused> {
    let directory = parts.join("/");
    let directory = directory.trim_end_matches('/');
    if directory.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(Refused::invalid("a directory has no dotted part"));
    }
    Ok(directory.to_owned())
}

/// Parsed as a person would write it, so that the same names are refused.
fn repository(kind: HubKind, name: &str, revision: Option<&str>) -> Result<HubRepo, Refused> {
    let prefix = match kind {
        HubKind::Model => "models/",
        HubKind::Dataset => "datasets/",
        HubKind::Space => "spaces/",
    };
    // Only names of two parts can have the word for models in front.
    let prefix = if kind == HubKind::Model && !name.contains('/') { "" } else { prefix };
    let named = |revision: &str| match format!("hf://{prefix}{name}@{revision}").parse::<Reference>() {
        Ok(Reference::Hub(repo)) if repo.kind == kind && repo.name == name => Some(repo),
        _ => None,
    };
    let repo = named("main").ok_or_else(Refused::no_repository)?;
    match revision {
        None => Ok(repo),
        Some(revision) => named(revision)
            .filter(|repo| repo.revision == revision)
            .ok_or_else(|| Refused::no_revision(revision)),
    }
}

fn decoded(part: &str) -> Result<String, Refused> {
    let text = percent_decode_str(part).decode_utf8().map_err(|_| Refused::invalid("a path is UTF-8"))?;
    if text.chars().any(|c| c.is_control() || c == '\\') {
        return Err(Refused::invalid("a path has no control characters and no backslashes"));
    }
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> (String, Wanted) {
        let route =
            parse(path).unwrap_or_else(|e| panic!("{path}: {e:?}")).unwrap_or_else(|| panic!("{path}"));
        (Reference::Hub(route.repo).to_string(), route.wanted)
    }

    #[test]
    fn the_routes_of_real_clients_are_known() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let file = |path: &str| Wanted::File(path.to_owned());
        let tree = |path: &str| Wanted::Tree(path.to_owned());
        for (path, reference, wanted) in [
            ("api/models/org/name", "hf://org/name", Wanted::About),
            ("api/models/gpt2", "hf://gpt2", Wanted::About),
            ("api/models/gpt2/revision/main", "hf://gpt2", Wanted::About),
            ("api/models/org/name/revision/refs%2Fpr%2F1", "hf://org/name@refs/pr/1", Wanted::About),
            (
                "api/datasets/org/name/revision/refs/convert/parquet",
                "hf://datasets/org/name@refs/convert/parquet",
                Wanted::About,
            ),
            ("api/models/org/name/tree/main", "hf://org/name", tree("")),
            ("api/models/org/name/tree/v1/a/b%20c", "hf://org/name@v1", tree("a/b c")),
            ("api/spaces/org/name/paths-info/main", "hf://spaces/org/name", Wanted::PathsInfo),
            ("api/models/org/name/refs", "hf://org/name", Wanted::Refs),
            // Without an organisation, with words that could be routes, and both.
            ("api/models/gpt2/tree/refs%2Fpr%2F1", "hf://gpt2@refs/pr/1", tree("")),
            ("api/models/gpt2/tree/refs/pr/1", "hf://gpt2@refs/pr/1", tree("")),
            ("api/models/gpt2/tree/refs/pr/1/tree", "hf://gpt2@refs/pr/1", tree("tree")),
            ("api/models/gpt2/tree/main/refs", "hf://gpt2", tree("refs")),
            ("api/models/gpt2/revision/refs/pr/1", "hf://gpt2@refs/pr/1", Wanted::About),
            ("api/models/gpt2/paths-info/refs/pr/1", "hf://gpt2@refs/pr/1", Wanted::PathsInfo),
            ("api/models/gpt2/tree/tree", "hf://gpt2@tree", tree("")),
            ("api/models/gpt2/refs", "hf://gpt2", Wanted::Refs),
            ("api/models/org/tree/tree/refs/pr/1", "hf://org/tree@refs/pr/1", tree("")),
            ("api/models/org/tree/refs", "hf://org/tree", Wanted::Refs),
            ("api/models/org/refs/revision/main", "hf://org/refs", Wanted::About),
            ("gpt2/resolve/refs/pr/1/x", "hf://gpt2@refs/pr/1", file("x")),
            ("org/name/resolve/main/a/b.json", "hf://org/name", file("a/b.json")),
            ("org/name/resolve/a%2Fb/c", "hf://org/name@a/b", file("c")),
            ("gpt2/resolve/main/config.json", "hf://gpt2", file("config.json")),
            ("datasets/org/name/resolve/main/x%2Fy", "hf://datasets/org/name", file("x/y")),
            ("spaces/org/name/resolve/main/app.py", "hf://spaces/org/name", file("app.py")),
        ] {
            assert_eq!(parsed(path), (reference.to_owned(), wanted), "{path}");
        }
        assert_eq!(parsed(&format!("org/name/resolve/{sha}/x")).0, format!("hf://org/name@{sha}"));
    }

    #[test]
    fn what_is_not_about_reading_a_repository_is_no_route() {
        for path in [
            "",
            "api",
            "api/whoami-v2",
            "api/models",
            "api/models/",
            "api/agent-harnesses",
            "org/name",
            "org/name/resolve/main",
            "api/models/org/name/commit/main",
            "api/models/org/name/revision/main/x",
        ] {
            assert_eq!(parse(path).unwrap(), None, "{path}");
        }
    }

    #[test]
    fn what_can_name_nothing_is_refused_in_the_hubs_words() {
        let refused = |path: &str| {
            let refused = parse(path).expect_err(path);
            (refused.status(), refused.code().to_owned())
        };
        for (path, status, code) in [
            ("api/models/../etc", 404, "RepoNotFound"),
            ("api/models/org/na%20me", 404, "RepoNotFound"),
            ("api/models/org/name@v1/revision/main", 404, "RepoNotFound"),
            ("..%2F..%2Fetc/passwd/resolve/main/x", 404, "RepoNotFound"),
            ("api/models/org/name/revision/..", 404, "RevisionNotFound"),
            ("org/name/resolve/a%3Fb/x", 404, "RevisionNotFound"),
            ("org/name/resolve/main%00/x", 400, ""),
            ("org/name/resolve/main/a%00b", 400, ""),
            ("org/name/resolve/main/a%0d%0ab", 400, ""),
            ("org/name/resolve/main/a%5Cb", 400, ""),
            ("org/name/resolve/main/%ff", 400, ""),
            ("api/models/org/name/tree/main/..%2f..", 400, ""),
        ] {
            assert_eq!(refused(path), (status, code.to_owned()), "{path}");
        }
    }
}
