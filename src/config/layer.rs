//! Texts by key, and where each came from: flags, environment and file all become a [`Layer`] before anything is
//! read, so that all three mean the same and precedence is decided in one place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::ConfigError;
use super::pattern::split_unquoted;

/// Every setting there is: its name in the file, and whether it takes more than one value. The flag has dashes for
/// underscores, the variable is in capitals after `SEQSHADOW_`.
pub(super) const KEYS: &[(&str, Takes)] = &[
    ("slot", Takes::One),
    ("publisher", Takes::One),
    ("subscriber", Takes::One),
    ("publication", Takes::Many),
    ("subscription", Takes::One),
    ("schema", Takes::Many),
    ("exclude_schema", Takes::Many),
    ("exclude_sequence", Takes::Many),
    ("rename", Takes::Many),
    ("advance_function", Takes::One),
    ("create_slot", Takes::One),
    ("temporary_slot", Takes::One),
    ("failover", Takes::One),
    ("streaming", Takes::One),
    ("lead", Takes::One),
    ("outliers", Takes::One),
    ("poll_interval", Takes::One),
    ("verify_interval", Takes::One),
    ("status_interval", Takes::One),
    ("refresh_interval", Takes::One),
    ("summary_interval", Takes::One),
    ("connect_timeout", Takes::One),
    ("grace", Takes::One),
    ("max_retained_wal", Takes::One),
    ("console", Takes::One),
    ("console_dir", Takes::One),
    ("log_format", Takes::One),
    ("log_level", Takes::One),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Takes {
    One,
    Many,
}

/// The table's own spelling of a key, and how many values it takes.
pub(super) fn known(name: &str) -> Option<(&'static str, Takes)> {
    KEYS.iter().find(|(key, _)| *key == name).copied()
}

/// The valid key that is spelt most like `name`.
pub(super) fn nearest(name: &str) -> &'static str {
    KEYS.iter().map(|(key, _)| *key).min_by_key(|key| distance(name, key)).unwrap_or_default()
}

/// Where a value was given; shown before what is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// `--poll-interval`
    Flag(String),
    /// `SEQSHADOW_POLL_INTERVAL`
    Variable(String),
    /// `poll_interval` in a line of a file
    File { file: PathBuf, line: usize, key: String },
    /// nowhere: the default, for messages about combinations
    Default(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(name) | Origin::Variable(name) => f.write_str(name),
            Origin::File { file, line, key } => write!(f, "{}:{line}: {key}", file.display()),
            Origin::Default(key) => f.write_str(key),
        }
    }
}

/// What was given for one key.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) texts: Vec<String>,
    pub(super) origin: Origin,
}

/// The settings one source gives, not read yet. Shows the keys only: a value may hold a password.
#[derive(Clone, Default)]
pub struct Layer(BTreeMap<&'static str, Given>);

impl Layer {
    /// A value from the command line; `key` as in the file. A key that takes one value keeps the last.
    pub fn flag(&mut self, key: &str, text: impl Into<String>) {
        if let Some((key, takes)) = known(key) {
            let origin = Origin::Flag(format!("--{}", key.replace('_', "-")));
            let given = self.0.entry(key).or_insert_with(|| Given { texts: Vec::new(), origin });
            if takes == Takes::One {
                given.texts.clear();
            }
            given.texts.push(text.into());
        }
    }

    pub(super) fn insert(&mut self, key: &'static str, given: Given) {
        self.0.insert(key, given);
    }

    pub(super) fn get(&self, key: &str) -> Option<&Given> {
        self.0.get(key)
    }

    /// The `SEQSHADOW_*` variables. Those that take many values have commas between them.
    pub(super) fn from_environment(environment: &Environment) -> Result<Layer, ConfigError> {
        let mut layer = Layer::default();
        for (key, takes) in KEYS {
            let variable = variable(key);
            let Some(value) = environment.0.get(&variable) else { continue };
            let Some(text) = value.to_str() else { return Err(ConfigError::NotUtf8 { variable }) };
            let texts = match takes {
                Takes::One => vec![text.to_owned()],
                Takes::Many => split_unquoted(text, ',')
                    .into_iter()
                    .filter(|item| !item.is_empty())
                    .map(str::to_owned)
                    .collect(),
            };
            layer.insert(key, Given { texts, origin: Origin::Variable(variable) });
        }
        Ok(layer)
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

const PREFIX: &str = "SEQSHADOW_";

/// A variable no further than this from a setting's is most likely a misspelt one.
const TYPO_LETTERS: usize = 2;

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

/// The part of the process's environment that is ours. An empty variable is one that is not set.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The `SEQSHADOW_*` variables of this process.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
    }

    pub(super) fn config(&self) -> Option<&OsString> {
        self.0.get(&format!("{PREFIX}CONFIG"))
    }

    /// Variables that look like a setting's, misspelt, each with the right spelling. Others with our prefix are for
    /// tests and the demonstration, and none of our business.
    pub(super) fn misspelt(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.keys().filter_map(|name| {
            let key = name.strip_prefix(PREFIX)?;
            let nearest = nearest(key);
            let close = (1..=TYPO_LETTERS).contains(&distance(key, nearest));
            close.then(|| (name.as_str(), variable(nearest)))
        })
    }
}

impl<K: Into<String>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let ours = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty());
        Environment(ours.collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How many letters have to be put in, taken out or replaced to make `b` of `a` (dashes and case do not count).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> =
        a.chars().take(80).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect();
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(b.chars()) {
            let cheapest = (diagonal + usize::from(*from != to)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, cheapest);
            left = cheapest;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found() {
        assert_eq!(nearest("poll_intervall"), "poll_interval");
        assert_eq!(nearest("max-retained-wal"), "max_retained_wal");
        assert_eq!(nearest("publications"), "publication");
        assert_eq!(nearest("leed"), "lead");
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn debug_shows_no_values() {
        let mut layer = Layer::default();
        layer.flag("publisher", "password=hunter2");
        let environment: Environment = [("SEQSHADOW_SUBSCRIBER", "password=hunter2")].into_iter().collect();
        let shown = format!("{layer:?} {environment:?}");
        assert!(shown.contains("publisher") && !shown.contains("hunter2"), "{shown}");
    }
}
