//! Which module of a crate names which, read from the sources, and the cycles among them.
//!
//! Not a Rust parser: a scan of paths that start with `crate`, `super` or `self`, in use lists and
//! elsewhere, outside comments, literals and `#[cfg(test)]` modules at the end of a file. Between two
//! modules the edge that counts is the one between the siblings that contain them; a module and its
//! own parent may name each other. What macros make up is not seen.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

use coordinatorless_p2p::{IoContext, Result};

/// A module's path below the crate root, as `store::index`; the root is empty.
type Module = Vec<String>;

/// From a module to those it names, and the first path that does.
type Edges = BTreeMap<Module, BTreeMap<Module, String>>;

/// The sources of one crate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleGraph {
    sources: BTreeMap<Module, String>,
}

impl ModuleGraph {
    /// Reads every module under `src`; programs (`main.rs`, `bin/`) are crates of their own and left
    /// out, as test modules are.
    ///
    /// # Errors
    /// As reading the directory.
    pub fn read(src: &Path) -> Result<Self> {
        let mut graph = Self::default();
        for file in rust_files(src)? {
            let relative = file.strip_prefix(src).unwrap_or(&file).with_extension("");
            let mut module: Module =
                relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let program = module.first().is_some_and(|first| first == "bin" || first == "main");
            if program || module.iter().any(|part| part == "tests") {
                continue;
            }
            if module.last().is_some_and(|last| last == "mod" || (last == "lib" && module.len() == 1)) {
                module.pop();
            }
            let text = fs::read_to_string(&file).at(|| file.display().to_string())?;
            graph.insert(module, &text);
        }
        Ok(graph)
    }

    /// Adds a module by its path and source.
    pub fn insert(&mut self, module: Vec<String>, source: &str) {
        self.sources.insert(module, production_part(source).to_owned());
    }

    /// The shortest cycle through each sibling that takes part in one, as `a → b → a`, with the path that
    /// makes each arrow.
    pub fn cycles(&self) -> Vec<String> {
        let mut edges = Edges::new();
        for (module, source) in &self.sources {
            for named in paths(source, module) {
                let target = self.longest_module(&named);
                if let Some((from, to)) = siblings(module, &target) {
                    let reason = format!("{} names {}", module.join("::"), named.join("::"));
                    edges.entry(from).or_default().entry(to).or_insert(reason);
                }
            }
        }
        let mut seen = BTreeSet::new();
        let cycles = edges.keys().filter_map(|start| shortest_cycle(&edges, start));
        cycles
            .filter(|cycle| seen.insert(cycle.iter().cloned().collect::<BTreeSet<_>>()))
            .map(|cycle| describe(&edges, &cycle))
            .collect()
    }

    /// The module that holds the item that `path` names: its longest prefix that is a module.
    fn longest_module(&self, path: &[String]) -> Module {
        (0..=path.len())
            .rev()
            .map(|len| path[..len].to_vec())
            .find(|prefix| self.sources.contains_key(prefix))
            .unwrap_or_default()
    }
}

/// Every `.rs` file under `dir`, sorted.
///
/// # Errors
/// As reading the directory.
pub fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = files(dir)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    Ok(files)
}

/// Every file under `dir`, sorted.
///
/// # Errors
/// As reading the directory.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).at(|| dir.display().to_string())? {
            let path = entry.at(|| dir.display().to_string())?.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The source without the test module at its end.
pub fn production_part(source: &str) -> &str {
    let mut offset = 0;
    for line in source.split_inclusive('\n') {
        if line.trim_end() == "#[cfg(test)]" {
            let mut after = source[offset + line.len()..].trim_start();
            while let Some(rest) = after.strip_prefix("#[") {
                after = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
            }
            if after.starts_with("mod ") && after.lines().next().is_some_and(|line| line.ends_with('{')) {
                return &source[..offset];
            }
        }
        offset += line.len();
    }
    source
}

/// The two siblings that contain `from` and `to`; none when one contains the other.
fn siblings(from: &[String], to: &[String]) -> Option<(Module, Module)> {
    let shared = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    (shared < from.len() && shared < to.len()).then(|| (from[..=shared].to_vec(), to[..=shared].to_vec()))
}

/// The shortest way from `start` back to it, without the repetition at the end.
fn shortest_cycle(edges: &Edges, start: &Module) -> Option<Vec<Module>> {
    let mut came_from: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut pending = VecDeque::from([start]);
    while let Some(module) = pending.pop_front() {
        for next in edges.get(module).into_iter().flat_map(BTreeMap::keys) {
            if next == start {
                let mut cycle = vec![module.clone()];
                while let Some(before) = cycle.last().and_then(|at| came_from.get(at)) {
                    cycle.push((*before).clone());
                }
                cycle.reverse();
                return Some(cycle);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, module);
                pending.push_back(next);
            }
        }
    }
    None
}

fn describe(edges: &Edges, cycle: &[Module]) -> String {
    let arrows = cycle.iter().zip(cycle.iter().cycle().skip(1));
    let reasons: Vec<&str> = arrows.map(|(from, to)| edges[from][to].as_str()).collect();
    let names: Vec<String> = cycle.iter().chain(cycle.first()).map(|module| module.join("::")).collect();
    format!("{} ({})", names.join(" → "), reasons.join(", "))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    PathSeparator,
    Open,
    Close,
    Comma,
    Other,
}

/// Every path below the crate root that `source` names.
fn paths(source: &str, module: &[String]) -> Vec<Module> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts_path = tokens.get(at + 1) == Some(&Token::PathSeparator)
            && (at == 0 || tokens[at - 1] != Token::PathSeparator);
        let base = match &tokens[at] {
            Token::Word(word) if starts_path => match word.as_str() {
                "crate" => Some(Module::new()),
                "self" => Some(module.to_vec()),
                "super" => Some(module[..module.len().saturating_sub(1)].to_vec()),
                _ => None,
            },
            _ => None,
        };
        at += 1;
        if let Some(base) = base {
            at = tree(&tokens, at + 1, base, &mut found);
        }
    }
    found
}

/// Reads what follows a `::` and returns where it ends.
fn tree(tokens: &[Token], mut at: usize, mut prefix: Module, found: &mut Vec<Module>) -> usize {
    loop {
        match tokens.get(at) {
            Some(Token::Word(word)) => {
                match word.as_str() {
                    "super" => drop(prefix.pop()),
                    "self" => {}
                    name => prefix.push(name.to_owned()),
                }
                at += 1;
                if tokens.get(at) != Some(&Token::PathSeparator) {
                    found.push(prefix);
                    return at;
                }
                at += 1;
            }
            Some(Token::Open) => {
                at += 1;
                while at < tokens.len() && tokens[at] != Token::Close {
                    let before = at;
                    if matches!(tokens[at], Token::Word(_)) {
                        at = tree(tokens, at, prefix.clone(), found);
                    }
                    // `as name`, commas and globs between the entries.
                    while at < tokens.len() && !matches!(tokens[at], Token::Comma | Token::Close) {
                        at += 1;
                    }
                    if tokens.get(at) == Some(&Token::Comma) || at == before {
                        at += 1;
                    }
                }
                return at + 1;
            }
            _ => {
                found.push(prefix);
                return at;
            }
        }
    }
}

/// Words and punctuation outside comments and literals.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            string_len(rest)
        } else if let Some(len) = raw_string_len(rest) {
            len
        } else if first == '\'' {
            quote_len(rest)
        } else if first.is_alphanumeric() || first == '_' {
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..len].to_owned()));
            len
        } else if rest.starts_with("::") {
            tokens.push(Token::PathSeparator);
            2
        } else {
            match first {
                '{' => tokens.push(Token::Open),
                '}' => tokens.push(Token::Close),
                ',' => tokens.push(Token::Comma),
                c if c.is_whitespace() => {}
                _ => tokens.push(Token::Other),
            }
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    tokens
}

fn string_len(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string_len(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let text = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let len = text.find(&end).map_or(text.len(), |at| at + end.len());
    Some(rest.len() - text.len() + len)
}

/// Length of a character literal; of the quote alone where it starts a lifetime.
fn quote_len(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => rest[3..].find('\'').map_or(rest.len(), |at| at + 4),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(modules: &[(&str, &str)]) -> ModuleGraph {
        let mut graph = ModuleGraph::default();
        for (path, source) in modules {
            graph.insert(path.split("::").filter(|p| !p.is_empty()).map(str::to_owned).collect(), source);
        }
        graph
    }

    #[test]
    fn a_cycle_through_a_use_list_and_an_inline_path_is_found() {
        let cyclic = graph(&[
            ("", "pub mod a; pub mod b; pub mod c;"),
            ("a", "use crate::{c, b::{self, Thing as Other}};"),
            ("b", "fn f() { crate::c::g(); }"),
            ("c", "use super::a::X;"),
        ]);
        let cycles = cyclic.cycles();
        let shortest = "a → c → a (a names c, c names a::X)";
        assert!(cycles.iter().any(|cycle| cycle == shortest), "{cycles:?}");
        // The longer one, through b, has other members and is told too.
        assert_eq!(cycles.len(), 2, "{cycles:?}");
    }

    #[test]
    fn a_cycle_between_two_files_of_one_folder_is_found() {
        let cyclic = graph(&[
            ("store", "mod disk; mod index;"),
            ("store::disk", "use super::index::Index;"),
            ("store::index", "use crate::store::disk::Disk;"),
        ]);
        assert_eq!(cyclic.cycles().len(), 1);
    }

    #[test]
    fn parents_tests_comments_and_strings_make_no_cycle() {
        let tree = graph(&[
            ("", "pub use self::a::A; pub use crate::b::B;"),
            ("a", "use crate::b::B;\nuse crate::Thing;\n"),
            (
                "b",
                "// crate::a\n/// see [`crate::a::A`]\nconst S: &str = \"crate::a \\\" crate::a\";\n\
                 const R: &str = r#\"crate::a \" crate::a\"#;\nconst Q: char = '\"'; fn f<'a>(_: &'a str) {}\n\
                 #[cfg(test)]\nmod tests {\n use crate::a::A;\n}\n",
            ),
        ]);
        assert_eq!(tree.cycles(), Vec::<String>::new());
    }
}
