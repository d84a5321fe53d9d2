//! Flags over environment over file over defaults, checked once and then trusted: [`Settings`].
//!
//! `layer` turns each source into texts by key, `file` and `value` read them, `read` checks what they mean
//! together, and `reload` says what a SIGHUP may change. A conninfo is kept as a secret: it shows nothing of itself.

mod file;
mod layer;
mod pattern;
mod read;
mod reload;
mod value;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

pub use layer::{Environment, Layer, Origin};
pub use pattern::{NamePattern, Rename, SequencePattern, parse_table};
pub use reload::{Change, Changes, NeedsRestart};
pub use value::{
    ByteSize, LogFormat, Outliers, ShownDuration, Streaming, ValueError, parse_duration, parse_switch,
};

use crate::plan::Lead;
use crate::subscriber::function::AdvanceFunction;
use crate::types::{QualifiedName, SlotName};

/// A libpq connection string or URI as it was given. It may hold a password, so it has no `Display`, and its `Debug`
/// shows nothing.
#[derive(Clone)]
pub struct ConninfoText(SecretString);

impl ConninfoText {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        ConninfoText(SecretString::from(text.into()))
    }

    /// For the conninfo parser only.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for ConninfoText {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for ConninfoText {}

impl fmt::Debug for ConninfoText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConninfoText(not shown)")
    }
}

/// Everything `run` is told. Each field is checked by itself and with the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `None` where it was not given: only some verbs need one.
    pub slot: Option<SlotName>,
    /// `None`: the subscription's own conninfo, where the role may read it.
    pub publisher: Option<ConninfoText>,
    /// `None`: libpq's defaults (`PGHOST`… or the local socket).
    pub subscriber: Option<ConninfoText>,
    /// Empty: those of the subscription.
    pub publications: Vec<String>,
    pub subscription: Option<String>,
    /// Schemas whose sequences are managed; empty for all but the system's.
    pub schemas: Vec<NamePattern>,
    pub exclude_schemas: Vec<NamePattern>,
    pub exclude_sequences: Vec<SequencePattern>,
    pub renames: Vec<Rename>,
    /// The function that advances sequences for a role that may not do so itself.
    pub advance_function: Option<AdvanceFunction>,
    /// Make the slot where it is missing.
    pub create_slot: bool,
    pub temporary_slot: bool,
    pub failover: bool,
    pub streaming: Streaming,
    pub lead: Lead,
    pub outliers: Outliers,
    /// How often sequences that the stream does not show are read on the publisher.
    pub poll_interval: Duration,
    /// How often the subscriber's sequences are compared with what was promised.
    pub verify_interval: Duration,
    /// The longest time between two status messages to the publisher.
    pub status_interval: Duration,
    /// How often the catalog is looked through for new tables, columns and sequences.
    pub refresh_interval: Duration,
    /// How often a summary is logged; zero for never.
    pub summary_interval: Duration,
    /// For each attempt to connect, where the conninfo does not say.
    pub connect_timeout: Duration,
    /// How long a shutdown may take.
    pub grace: Duration,
    /// How much WAL our slot may hold back on the publisher.
    pub max_retained_wal: ByteSize,
    /// Whether the daemon answers on a socket, and `status` asks there.
    pub console: bool,
    /// Where that socket is; `None` for the usual place.
    pub console_dir: Option<PathBuf>,
    pub log_format: LogFormat,
    /// A level (`info`) or a list of directives as `tracing` writes them (`info,seqshadow::wire=trace`).
    pub log_level: String,
}

impl Settings {
    /// Publisher table name → subscriber table name, where they differ.
    #[must_use]
    pub fn renames_by_publisher(&self) -> HashMap<QualifiedName, QualifiedName> {
        self.renames.iter().map(|r| (r.publisher.clone(), r.subscriber.clone())).collect()
    }

    /// Whether the sequence is left alone, by what the schemas and excludes say.
    #[must_use]
    pub fn excludes(&self, name: &QualifiedName) -> bool {
        let wanted = self.schemas.is_empty() || self.schemas.iter().any(|p| p.matches(&name.schema));
        !wanted
            || self.exclude_schemas.iter().any(|pattern| pattern.matches(&name.schema))
            || self.exclude_sequences.iter().any(|pattern| pattern.matches(name))
    }

    /// The slot's name, for what cannot do without.
    ///
    /// # Errors
    /// That it was not given, and how to give it.
    pub fn required_slot(&self) -> Result<&SlotName, ConfigError> {
        self.slot.as_ref().ok_or(ConfigError::Missing {
            what: "the slot's name",
            hint: "--slot NAME, SEQSHADOW_SLOT, or slot = \"name\" in the configuration file",
        })
    }
}

/// What [`load`] found.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What does not stop us but should be logged.
    pub warnings: Vec<String>,
}

/// Why there are no settings. Nothing in it holds a value that may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{what} is missing: give {hint}")]
    Missing { what: &'static str, hint: &'static str },
    #[error("{origin}: {error}")]
    Value { origin: Box<Origin>, error: ValueError },
    #[error("{first} and {second} cannot be used together: {why}")]
    Conflict { first: Box<Origin>, second: Box<Origin>, why: &'static str },
    #[error("{}:{line}: unknown key {key:?}; the nearest valid key is {nearest:?}", file.display())]
    UnknownKey { key: String, file: PathBuf, line: usize, nearest: &'static str },
    #[error("{}:{line}: {message}", file.display())]
    Syntax { file: PathBuf, line: usize, message: String },
    #[error("configuration file {}: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("the environment variable {variable} is not UTF-8")]
    NotUtf8 { variable: String },
}

/// Reads the file (`config`, else `SEQSHADOW_CONFIG`; none is read by default) and puts `flags` over `environment`
/// over it. A path after a `-` may be missing, as in a systemd unit's `EnvironmentFile`.
///
/// For a reload call it again with the same flags and environment.
pub fn load(flags: &Layer, config: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
    let path = config.map(Path::as_os_str).or(environment.config().map(std::ffi::OsString::as_os_str));
    let (from_file, file) = match path {
        Some(path) => read_file(path)?,
        None => (Layer::default(), None),
    };
    let from_environment = Layer::from_environment(environment)?;
    let settings = read::settings(&[flags, &from_environment, &from_file])?;
    let warnings = environment
        .misspelt()
        .map(|(name, meant)| format!("the environment variable {name} is not read; is {meant} meant?"))
        .collect();
    Ok(Loaded { settings, file, warnings })
}

fn read_file(path: &OsStr) -> Result<(Layer, Option<PathBuf>), ConfigError> {
    let (file, may_be_missing) = match path.to_str().and_then(|path| path.strip_prefix('-')) {
        Some(path) => (PathBuf::from(path), true),
        None => (PathBuf::from(path), false),
    };
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok((file::parse(&file, &text)?, Some(file))),
        Err(error) if may_be_missing && error.kind() == std::io::ErrorKind::NotFound => {
            Ok((Layer::default(), None))
        }
        Err(source) => Err(ConfigError::Read { file, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn flags(given: &[(&str, &str)]) -> Layer {
        let mut layer = Layer::default();
        given.iter().for_each(|(key, text)| layer.flag(key, *text));
        layer
    }

    fn environment(given: &[(&str, &str)]) -> Environment {
        given.iter().copied().collect()
    }

    /// For every key: a value for flag, environment and file, all different.
    const VALUES: &[(&str, [&str; 3])] = &[
        ("slot", ["a", "b", "c"]),
        ("publisher", ["host=a", "host=b", "host=c"]),
        ("subscriber", ["host=a", "host=b", "host=c"]),
        ("publication", ["a", "b", "c"]),
        ("subscription", ["a", "b", "c"]),
        ("schema", ["a", "b", "c"]),
        ("exclude_schema", ["a", "b", "c"]),
        ("exclude_sequence", ["a.x", "b.x", "c.x"]),
        ("rename", ["a.a=a.b", "b.a=b.b", "c.a=c.b"]),
        ("advance_function", ["a", "b", "c"]),
        ("streaming", ["parallel", "on", "off"]),
        ("lead", ["1", "2", "3"]),
        ("poll_interval", ["1s", "2s", "3s"]),
        ("verify_interval", ["1s", "2s", "3s"]),
        ("status_interval", ["1s", "2s", "3s"]),
        ("refresh_interval", ["1s", "2s", "3s"]),
        ("summary_interval", ["1s", "2s", "3s"]),
        ("connect_timeout", ["1s", "2s", "3s"]),
        ("grace", ["1s", "2s", "3s"]),
        ("max_retained_wal", ["100MiB", "200MiB", "300MiB"]),
        ("console_dir", ["/a", "/b", "/c"]),
        ("log_level", ["error", "warn", "debug"]),
    ];

    #[test]
    fn flags_beat_environment_beats_file_beats_default() {
        for (key, [flag, variable, in_file]) in VALUES {
            let slot = if *key == "slot" { "" } else { "slot = 's'\n" };
            let file = file(&format!("{slot}{key} = '{in_file}'\n"));
            let variable_name = format!("SEQSHADOW_{}", key.to_ascii_uppercase());
            let with = |flag: &[(&str, &str)], variable: &[(&str, &str)]| {
                load(&flags(flag), Some(file.path()), &environment(variable)).unwrap().settings
            };
            let alone = |text: &str| {
                let mut layer = flags(&[("slot", "s")]);
                layer.flag(key, text);
                load(&layer, None, &Environment::default()).unwrap().settings
            };
            let given_variable = [(variable_name.as_str(), *variable)];
            assert_eq!(with(&[(key, flag)], &given_variable), alone(flag), "{key}: the flag wins");
            assert_eq!(with(&[], &given_variable), alone(variable), "{key}: then the environment");
            assert_eq!(with(&[], &[]), alone(in_file), "{key}: then the file");
            assert_ne!(alone(flag), alone(in_file), "{key}: it is read at all");
            if *key != "slot" {
                let default = load(&flags(&[("slot", "s")]), None, &Environment::default()).unwrap().settings;
                assert!([flag, variable, in_file].iter().any(|text| alone(text) != default), "{key}");
            }
        }
        let untested: Vec<_> = layer::KEYS
            .iter()
            .map(|(key, _)| *key)
            .filter(|key| !VALUES.iter().any(|(tested, _)| tested == key))
            .collect();
        assert_eq!(
            untested,
            ["create_slot", "temporary_slot", "failover", "outliers", "console", "log_format"]
        );
    }

    #[test]
    fn settings_of_two_values_follow_the_same_order() {
        let load_with = |flag: &[(&str, &str)], variable: &[(&str, &str)], in_file: &str| {
            let file = file(&format!("slot = 's'\n{in_file}"));
            load(&flags(flag), Some(file.path()), &environment(variable)).unwrap().settings
        };
        let no_console = [("SEQSHADOW_CONSOLE", "off")];
        assert!(load_with(&[("console", "on")], &no_console, "console = false").console);
        assert!(!load_with(&[], &no_console, "console = true").console);
        assert!(!load_with(&[], &[], "console = false").console);
        let off = [("SEQSHADOW_CREATE_SLOT", "off"), ("SEQSHADOW_FAILOVER", "off")];
        assert!(load_with(&[("create_slot", "on")], &off, "create_slot = false").create_slot);
        assert!(!load_with(&[], &off, "create_slot = true").create_slot);
        assert!(!load_with(&[], &off, "failover = true").failover);
        assert!(load_with(&[], &[], "failover = true").failover);
        assert!(
            load_with(&[], &[("SEQSHADOW_TEMPORARY_SLOT", "1")], "temporary_slot = false").temporary_slot
        );
        let follow = [("SEQSHADOW_OUTLIERS", "follow"), ("SEQSHADOW_LOG_FORMAT", "json")];
        assert_eq!(load_with(&[], &follow, "outliers = 'aside'").outliers, Outliers::Follow);
        assert_eq!(load_with(&[("log_format", "human")], &follow, "").log_format, LogFormat::Human);
        assert_eq!(load_with(&[("outliers", "aside")], &follow, "").outliers, Outliers::Aside);
    }

    #[test]
    fn lists_come_from_repeated_flags_commas_and_arrays() {
        let file = file("slot = 's'\npublication = ['a', 'b']\n");
        let load = |flag: &[(&str, &str)], variable: &[(&str, &str)]| {
            load(&flags(flag), Some(file.path()), &environment(variable)).unwrap().settings.publications
        };
        assert_eq!(load(&[], &[]), ["a", "b"]);
        assert_eq!(load(&[], &[("SEQSHADOW_PUBLICATION", "c, \"d,e\",")]), ["c", "\"d,e\""]);
        assert_eq!(load(&[("publication", "f"), ("publication", "g,h")], &[]), ["f", "g,h"]);
    }

    #[test]
    fn the_file_may_be_named_by_the_environment_and_may_be_missing_after_a_dash() {
        let file = file("slot = 'from_file'\n");
        let by_name = environment(&[("SEQSHADOW_CONFIG", file.path().to_str().unwrap())]);
        let loaded = load(&Layer::default(), None, &by_name).unwrap();
        assert_eq!(loaded.settings.required_slot().unwrap().as_str(), "from_file");
        assert_eq!(loaded.file.as_deref(), Some(file.path()));

        let slot = flags(&[("slot", "s")]);
        let missing = environment(&[("SEQSHADOW_CONFIG", "-/nonexistent/seqshadow.toml")]);
        assert_eq!(load(&slot, None, &missing).unwrap().file, None);
        let error = load(&slot, Some(Path::new("/nonexistent/seqshadow.toml")), &missing).unwrap_err();
        assert!(error.to_string().starts_with("configuration file /nonexistent/seqshadow.toml: "), "{error}");
    }

    #[test]
    fn a_misspelt_variable_is_a_warning() {
        let given = [
            ("SEQSHADOW_LEED", "3"),
            ("SEQSHADOW_LEAD", "3"),
            ("SEQSHADOW_CACHE", "/x"),
            ("SEQSHADOW_CONFIG", "-/nonexistent"),
        ];
        let loaded = load(&flags(&[("slot", "s")]), None, &environment(&given)).unwrap();
        assert_eq!(
            loaded.warnings,
            ["the environment variable SEQSHADOW_LEED is not read; is SEQSHADOW_LEAD meant?"]
        );
    }

    #[test]
    fn no_error_and_no_debug_shows_a_password() {
        let secret = "host=db password=hunter2";
        let layer = flags(&[("slot", "s"), ("publisher", secret), ("subscriber", secret)]);
        let loaded = load(&layer, None, &Environment::default()).unwrap();
        assert!(!format!("{loaded:?}{layer:?}").contains("hunter2"));
        for text in [
            "publisher = ['host=a password=hunter2', 'b']",
            "publisher = 'host=a password=hunter2",
            "publisher = {password = 'hunter2'}",
            "publisher = ''",
            "publishers = 'password=hunter2'",
        ] {
            let file = file(&format!("slot = 's'\n{text}\n"));
            let error = load(&Layer::default(), Some(file.path()), &Environment::default()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
            assert!(error.to_string().contains(":2"), "{error}");
        }
    }
}
