//! Where settings are written: the file, the environment, the flags; and what is said when one of
//! them is wrong.
//!
//! Owns merging and blame: every error names the key, and the file, variable or flag it was written
//! in. Knows the keys only through the types of `config`: an unknown one is found by
//! deserialising, and the nearest known one by looking at the defaults.

use std::path::PathBuf;

use figment::{
    Figment, Metadata, Profile, Provider,
    error::Kind,
    value::{Dict, Map, Value},
};

use super::{Config, size::parse_size};
use crate::error::{Error, ErrorKind, IoContext, Result};

/// In front of every variable; `__` goes one level down: `EMBERLINE_CLUSTER__ZONE`.
const PREFIX: &str = "EMBERLINE_";

/// Variables with our prefix that are not settings of the agent: what the commands, the crash tests
/// and the test set-up read.
const NOT_SETTINGS: [&str; 6] = ["config", "agent", "token_file", "fault", "bin_dir", "test_cache"];

/// Below this likeness a suggestion is noise.
const LIKENESS: f64 = 0.7;

/// Where to read settings from.
#[derive(Debug, Clone, Default)]
pub struct ConfigSources {
    /// A TOML file, which must then exist.
    pub file: Option<PathBuf>,
    /// Variables; those without our prefix are passed over.
    pub environment: Vec<(String, String)>,
    /// What stood on the command line.
    pub flags: Vec<Flag>,
}

/// A setting on the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// As it was typed: `--zone`.
    pub flag: &'static str,
    /// The key it stands for: `cluster.zone`.
    pub key: &'static str,
    /// Its values; more than one only for lists.
    pub values: Vec<String>,
}

impl ConfigSources {
    /// The file, and this process's environment; variables that are not UTF-8 are passed over.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, environment, flags }
    }
}

/// Merges the sources over the defaults. Rules that span settings are not checked here.
pub(super) fn merge(sources: &ConfigSources) -> Result<Config> {
    let known = serde_json::to_value(Config::default())
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "default configuration", e))?;
    let mut figment = Figment::new();
    if let Some(file) = &sources.file {
        let text = std::fs::read_to_string(file).at(|| format!("configuration {}", file.display()))?;
        let settings: Dict = toml::from_str(&text).map_err(|e| {
            Error::with_source(ErrorKind::Invalid, format!("configuration {}", file.display()), e)
        })?;
        figment = figment.merge(Layer::new(file.display().to_string(), settings)?);
    }
    for (name, text) in &sources.environment {
        let Some(key) = name.strip_prefix(PREFIX).map(str::to_ascii_lowercase) else { continue };
        if NOT_SETTINGS.contains(&key.as_str()) || is_service_link(&key) {
            continue;
        }
        let path: Vec<&str> = key.split("__").collect();
        let default = at(&known, &path);
        if text.is_empty() && default.is_some_and(|default| !takes_nothing(default)) {
            continue;
        }
        let value = typed(text, default);
        figment = figment.merge(Layer::new(format!("variable {name}"), nested(&path, value))?);
    }
    for Flag { flag, key, values } in &sources.flags {
        let path: Vec<&str> = key.split('.').collect();
        let value = match (at(&known, &path), values.as_slice()) {
            (Some(serde_json::Value::Array(_)), values) => Value::from(values.to_vec()),
            (default, [text]) => typed(text, default),
            (_, _) => {
                return Err(Error::new(ErrorKind::Invalid, format!("flag {flag} is given more than once")));
            }
        };
        figment = figment.merge(Layer::new(format!("flag {flag}"), nested(&path, value))?);
    }
    figment.extract().map_err(|error| {
        let written = figment.find_value(&error.path.join(".")).ok();
        blame(&error, written.as_ref().and_then(Value::as_str), &known)
    })
}

/// Whether nothing is a value for a key with this default. For every other an empty variable is one that is not set.
fn takes_nothing(default: &serde_json::Value) -> bool {
    default.as_str().is_some_and(str::is_empty) || default.is_array()
}

/// One source's settings and what to call it in errors.
struct Layer {
    name: String,
    settings: Dict,
}

impl Layer {
    /// Reads sizes on the way in.
    fn new(name: String, mut settings: Dict) -> Result<Self> {
        read_sizes(&name, "", &mut settings)?;
        Ok(Self { name, settings })
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> std::result::Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.settings.clone()))
    }
}

/// Turns `"200GiB"` into a number under every key that ends in `_bytes` or `_bytes_per_second`.
fn read_sizes(source: &str, prefix: &str, settings: &mut Dict) -> Result<()> {
    for (key, value) in settings {
        let path = format!("{prefix}{key}");
        match value {
            Value::Dict(_, inner) => read_sizes(source, &format!("{path}."), inner)?,
            Value::String(_, text) if key.trim_end_matches("_per_second").ends_with("_bytes") => {
                *value = parse_size(text).map(Value::from).ok_or_else(|| {
                    let message = format!("`{path}` in {source}: {text:?} is not a size such as \"200GiB\"");
                    Error::new(ErrorKind::Invalid, message)
                })?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The text of a variable or flag as the type that the default has.
fn typed(text: &str, default: Option<&serde_json::Value>) -> Value {
    use serde_json::Value as Json;
    let as_text = || Value::from(text);
    match default {
        Some(Json::String(_)) => as_text(),
        Some(Json::Bool(_)) => text.parse::<bool>().map_or_else(|_| as_text(), Value::from),
        Some(Json::Number(_)) => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(whole), _) => Value::from(whole),
            (Err(_), Ok(number)) => Value::from(number),
            (Err(_), Err(_)) => as_text(),
        },
        Some(Json::Array(_)) if !text.trim_start().starts_with('[') => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::from(items.map(str::to_owned).collect::<Vec<_>>())
        }
        Some(Json::Array(_) | Json::Object(_) | Json::Null) | None => {
            text.parse().unwrap_or_else(|_| as_text())
        }
    }
}

fn at<'a>(known: &'a serde_json::Value, path: &[&str]) -> Option<&'a serde_json::Value> {
    path.iter().try_fold(known, |value, key| value.get(key))
}

fn nested(path: &[&str], value: Value) -> Dict {
    match path {
        [] => Dict::new(),
        [key] => Dict::from([((*key).to_owned(), value)]),
        [key, rest @ ..] => Dict::from([((*key).to_owned(), Value::from(nested(rest, value)))]),
    }
}

/// Whether Kubernetes or Docker put this variable there because a service is called `emberline…`.
/// No setting of ours ends like that.
fn is_service_link(key: &str) -> bool {
    let key = format!("_{key}");
    if key.contains("__") && !key.starts_with("__") {
        return false;
    }
    let after_port = key.rsplit_once("_port_").is_some_and(|(_, rest)| {
        let mut words = rest.split('_');
        words.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && words.next().is_some_and(|protocol| ["tcp", "udp", "sctp"].contains(&protocol))
    });
    after_port || key.ends_with("_port") || key.ends_with("_service_host") || key.contains("_service_port")
}

/// A figment error as a sentence of ours.
fn blame(error: &figment::Error, written: Option<&str>, known: &serde_json::Value) -> Error {
    let source = error.metadata.as_ref().map_or("the defaults", |metadata| &*metadata.name);
    let key = error.path.join(".");
    let message = match &error.kind {
        Kind::UnknownField(_, siblings) => {
            let advice = match nearest(&key, siblings, known) {
                Some(nearest) if source.starts_with("variable ") => {
                    format!("; did you mean {}{}?", PREFIX, nearest.replace('.', "__").to_ascii_uppercase())
                }
                Some(nearest) => format!("; did you mean `{nearest}`?"),
                None => String::new(),
            };
            format!("unknown key `{key}` in {source}{advice}")
        }
        Kind::UnknownVariant(found, expected) => {
            format!("`{key}` in {source}: {found:?} is none of {}", expected.join(", "))
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("`{key}` in {source}: expected {expected}, found {found}")
        }
        other => {
            let why = other.to_string();
            let example = match why.contains("socket address") {
                true => ", such as 127.0.0.1:7580 or [::1]:7580",
                false => "",
            };
            match written {
                Some(written) => format!("`{key}` in {source}: {written:?}: {why}{example}"),
                None => format!("`{key}` in {source}: {why}{example}"),
            }
        }
    };
    Error::new(ErrorKind::Invalid, message)
}

/// The known key most like `key`, be it misspelt or in a wrong section. `siblings` are the keys that
/// its own section takes.
fn nearest(key: &str, siblings: &[&str], known: &serde_json::Value) -> Option<String> {
    let section = key.rsplit_once('.').map_or(String::new(), |(section, _)| format!("{section}."));
    let mut paths: Vec<String> = siblings.iter().map(|sibling| format!("{section}{sibling}")).collect();
    key_paths("", known, &mut paths);
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |candidate: &str| {
        let whole = strsim::jaro_winkler(key, candidate);
        // A key in a wrong section is a good guess only if the key itself is nearly right.
        let own = strsim::normalized_damerau_levenshtein(&last(key), &last(candidate));
        whole.max(own)
    };
    // The first of equals: siblings come before keys of other sections.
    let mut best: Option<(f64, String)> = None;
    for path in paths {
        let likeness = likeness(&path);
        if likeness >= LIKENESS && best.as_ref().is_none_or(|(most, _)| likeness > *most) {
            best = Some((likeness, path));
        }
    }
    best.map(|(_, path)| path)
}

/// Every key of the defaults, sections included, as `section.key`.
pub(super) fn key_paths(prefix: &str, value: &serde_json::Value, paths: &mut Vec<String>) {
    let serde_json::Value::Object(keys) = value else { return };
    for (key, value) in keys {
        let path = format!("{prefix}{key}");
        key_paths(&format!("{path}."), value, paths);
        paths.push(path);
    }
}
