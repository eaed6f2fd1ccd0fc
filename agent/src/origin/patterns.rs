//! Which files are wanted, in the words of the Hugging Face client.
//!
//! Owns `allow_patterns` and `ignore_patterns` with the meaning that `filter_repo_objects` of
//! `huggingface_hub` gives them: Python's `fnmatch` on the whole path, so that `*` and `?` match `/` too,
//! and a pattern that ends in `/` means everything in that folder. Case counts. Does no I/O.

use crate::{
    error::{Error, ErrorKind, Result},
    snapshot::RelativePath,
};

/// The most patterns of one kind.
const MAX_PATTERNS: usize = 1024;
/// The longest pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1024;

/// Chooses files of a snapshot. The default chooses all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    allow: Vec<Pattern>,
    ignore: Vec<Pattern>,
}

impl Patterns {
    /// Files that match any of `allow`, or all if that is empty, and none of `ignore`.
    ///
    /// # Errors
    /// `Invalid` for a pattern that is empty or longer than 1,024 bytes, or more than 1,024 of them.
    pub fn new<S: AsRef<str>>(allow: &[S], ignore: &[S]) -> Result<Self> {
        Ok(Self { allow: parse_all("allow", allow)?, ignore: parse_all("ignore", ignore)? })
    }

    /// Whether `path` is wanted.
    pub fn matches(&self, path: &RelativePath) -> bool {
        let name: Vec<char> = path.as_str().chars().collect();
        let any = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(&name));
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.ignore)
    }

    /// Whether every path is wanted.
    pub fn is_all(&self) -> bool {
        self.allow.is_empty() && self.ignore.is_empty()
    }
}

fn parse_all<S: AsRef<str>>(kind: &str, texts: &[S]) -> Result<Vec<Pattern>> {
    let refuse = |why: String| Err(Error::new(ErrorKind::Invalid, why));
    if texts.len() > MAX_PATTERNS {
        return refuse(format!("{} {kind} patterns are more than {MAX_PATTERNS}", texts.len()));
    }
    let mut parsed = Vec::with_capacity(texts.len());
    for text in texts.iter().map(AsRef::as_ref) {
        if text.is_empty() {
            return refuse(format!("an {kind} pattern is empty; for everything write *"));
        }
        if text.len() > MAX_PATTERN_BYTES {
            return refuse(format!("an {kind} pattern is longer than {MAX_PATTERN_BYTES} bytes"));
        }
        parsed.push(Pattern::parse(text));
    }
    Ok(parsed)
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    AnyChar,
    AnyRun,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Literal(own) => *own == c,
            Self::AnyChar => true,
            Self::AnyRun => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Self {
        let mut chars: Vec<char> = text.chars().collect();
        if chars.last() == Some(&'/') {
            chars.push('*');
        }
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&c) = chars.get(at) {
            at += 1;
            let token = match c {
                '*' if tokens.last() == Some(&Token::AnyRun) => continue,
                '*' => Token::AnyRun,
                '?' => Token::AnyChar,
                '[' => match class_end(&chars, at) {
                    // Without a closing bracket it is a bracket and nothing more.
                    None => Token::Literal('['),
                    Some(end) => {
                        let token = parse_class(&chars[at..end]);
                        at = end + 1;
                        token
                    }
                },
                literal => Token::Literal(literal),
            };
            tokens.push(token);
        }
        Self(tokens)
    }

    /// Walks both once and goes back only to the last `*`: at most pattern × name steps, never more,
    /// whatever the pattern.
    fn matches(&self, name: &[char]) -> bool {
        let tokens = &self.0;
        let (mut t, mut n) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while n < name.len() {
            match tokens.get(t) {
                Some(Token::AnyRun) => {
                    retry = Some((t + 1, n));
                    t += 1;
                }
                Some(token) if token.takes(name[n]) => {
                    t += 1;
                    n += 1;
                }
                _ => match retry {
                    None => return false,
                    Some((after_star, from)) => {
                        retry = Some((after_star, from + 1));
                        (t, n) = (after_star, from + 1);
                    }
                },
            }
        }
        tokens[t..].iter().all(|token| *token == Token::AnyRun)
    }
}

/// Where the class that opened just before `start` ends: a `]` that comes first, or after `!`, is a member.
fn class_end(chars: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    if chars.get(at) == Some(&'!') {
        at += 1;
    }
    if chars.get(at) == Some(&']') {
        at += 1;
    }
    (at..chars.len()).find(|&i| chars[i] == ']')
}

/// Reads the inside of a bracket as Python 3.11 does, ranges that run backwards vanishing.
fn parse_class(inside: &[char]) -> Token {
    let negated = inside.first() == Some(&'!') && !inside.is_empty();
    let members = if negated { &inside[1..] } else { inside };
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        // A hyphen is a range between two members, a member itself at either end.
        if members.get(at + 1) == Some(&'-') && at + 2 < members.len() {
            let (from, to) = (members[at], members[at + 2]);
            if from <= to {
                ranges.push((from, to));
            }
            at += 3;
        } else {
            ranges.push((members[at], members[at]));
            at += 1;
        }
    }
    Token::Class { negated, ranges }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Patterns::new(&[pattern], &[]).unwrap().matches(&path.parse().unwrap())
    }

    #[test]
    fn a_star_matches_slashes_too() {
        assert!(matches("*.safetensors", "a/b/model.safetensors"));
        assert!(matches("a*c", "a/b/c") && !matches("a*c", "a/b/cd"));
        assert!(matches("a?b", "a/b"));
    }

    #[test]
    fn a_trailing_slash_means_the_folder() {
        assert!(matches("onnx/", "onnx/model.onnx") && matches("onnx/", "onnx/a/b"));
        assert!(!matches("onnx/", "onnx2/model.onnx") && !matches("onnx/", "onnx"));
    }

    #[test]
    fn brackets_are_classes_only_when_closed() {
        assert!(matches("model-[0-3].bin", "model-2.bin") && !matches("model-[0-3].bin", "model-4.bin"));
        assert!(matches("[!a]x", "bx") && !matches("[!a]x", "ax"));
        assert!(matches("[abc", "[abc") && matches("[]]", "]") && matches("[a-]", "-"));
        assert!(!matches("[z-a]", "m") && matches("[!z-a]", "m"));
    }

    #[test]
    fn ignore_wins_over_allow_and_no_allow_means_all() {
        let patterns = Patterns::new(&["*.json"], &["private/*"]).unwrap();
        assert!(patterns.matches(&"config.json".parse().unwrap()));
        assert!(!patterns.matches(&"private/config.json".parse().unwrap()));
        let none: &[&str] = &[];
        assert!(Patterns::new(none, none).unwrap().is_all());
        assert!(!Patterns::new(none, &["*"]).unwrap().matches(&"x".parse().unwrap()));
    }

    #[test]
    fn a_pattern_full_of_stars_is_no_work() {
        let pattern = "*a".repeat(500);
        let start = std::time::Instant::now();
        assert!(!matches(&pattern, &format!("{}b", "a/".repeat(100))));
        assert!(start.elapsed() < std::time::Duration::from_secs(1));
    }

    #[test]
    fn an_empty_or_endless_pattern_is_refused() {
        assert!(Patterns::new(&[""], &[]).is_err());
        assert!(Patterns::new(&[], &["x".repeat(2000).as_str()]).is_err());
        assert!(Patterns::new(&vec!["x"; 2000], &[]).is_err());
    }
}
