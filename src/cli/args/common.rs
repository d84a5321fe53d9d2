//! Flags that several verbs share: which servers, which sequences, how far ahead, the log.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::config::Layer;
use crate::subscriber::function::SCHEMA;

/// Which servers, what lies between them, and which sequences.
#[derive(Args, Clone, Default)]
pub struct SidesArgs {
    /// Replication slot of ours on the publisher
    #[arg(short = 'S', long, value_name = "NAME")]
    slot: Option<String>,
    /// Publisher [default: the subscription's own conninfo, where the role may read it]
    #[arg(long, value_name = "CONNINFO")]
    publisher: Option<String>,
    /// Subscriber [default: libpq's defaults, PGHOST… or the local socket]
    #[arg(long, value_name = "CONNINFO")]
    subscriber: Option<String>,
    /// Publication to follow, repeatable [default: those of the subscription]
    #[arg(long, value_name = "NAME")]
    publication: Vec<String>,
    /// Subscription on the subscriber [default: the only one there]
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// Have sequences advanced by the function in this schema, which setup makes [default if given: seqshadow]
    #[arg(long, value_name = "SCHEMA", num_args = 0..=1, require_equals = true, default_missing_value = SCHEMA)]
    advance_function: Option<String>,
    /// Configuration file (TOML); -FILE if it may be missing
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub(super) config: Option<PathBuf>,
    /// Give up an attempt to connect after this time [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Times")]
    connect_timeout: Option<String>,

    /// Manage the sequences of these schemas only, repeatable
    #[arg(short = 'n', long, value_name = "PATTERN", help_heading = "Which sequences")]
    schema: Vec<String>,
    /// Leave these schemas alone, repeatable
    #[arg(short = 'N', long, value_name = "PATTERN", help_heading = "Which sequences")]
    exclude_schema: Vec<String>,
    /// Leave these sequences alone, repeatable
    #[arg(long, value_name = "PATTERN", help_heading = "Which sequences")]
    exclude_sequence: Vec<String>,
    /// A table with another name on the subscriber, repeatable
    #[arg(long, value_name = "FROM=TO", help_heading = "Which sequences")]
    rename: Vec<String>,
}

impl SidesArgs {
    /// The file named on the command line.
    #[must_use]
    pub fn config(&self) -> Option<&std::path::Path> {
        self.config.as_deref()
    }

    /// The slot named on the command line.
    #[must_use]
    pub fn slot(&self) -> Option<&str> {
        self.slot.as_deref()
    }

    pub(super) fn add_to(&self, layer: &mut Layer) {
        let one = [
            ("slot", &self.slot),
            ("publisher", &self.publisher),
            ("subscriber", &self.subscriber),
            ("subscription", &self.subscription),
            ("advance_function", &self.advance_function),
            ("connect_timeout", &self.connect_timeout),
        ];
        for (key, text) in one {
            text.iter().for_each(|text| layer.flag(key, text));
        }
        let many = [
            ("publication", &self.publication),
            ("schema", &self.schema),
            ("exclude_schema", &self.exclude_schema),
            ("exclude_sequence", &self.exclude_sequence),
            ("rename", &self.rename),
        ];
        for (key, texts) in many {
            texts.iter().for_each(|text| layer.flag(key, text));
        }
    }
}

/// Shows the file only: a conninfo may hold a password.
impl std::fmt::Debug for SidesArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SidesArgs").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What the slot of the daemon is, or will be.
#[derive(Args, Clone, Debug, Default)]
pub struct SlotArgs {
    /// Use a slot that ends with the connection, and never holds back WAL
    #[arg(long, help_heading = "Slot and stream")]
    temporary_slot: bool,
    /// Make the slot a failover slot (publisher 17 or newer)
    #[arg(long, help_heading = "Slot and stream")]
    failover: bool,
    /// How much WAL the slot may hold back on the publisher [default: 1GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Slot and stream")]
    max_retained_wal: Option<String>,
}

impl SlotArgs {
    pub(super) fn add_to(&self, layer: &mut Layer) {
        for (key, given) in [("temporary_slot", self.temporary_slot), ("failover", self.failover)] {
            if given {
                layer.flag(key, "on");
            }
        }
        self.max_retained_wal.iter().for_each(|text| layer.flag("max_retained_wal", text));
    }
}

/// How far ahead, and of what.
#[derive(Args, Clone, Debug, Default)]
pub struct TargetArgs {
    /// How many ids ahead: auto or a number [default: auto]
    #[arg(long, value_name = "IDS", allow_negative_numbers = true, help_heading = "Targets")]
    lead: Option<String>,
    /// A single id far out: set it aside, or follow it [default: aside]
    #[arg(long, value_name = "aside|follow", help_heading = "Targets")]
    outliers: Option<String>,
}

impl TargetArgs {
    pub(super) fn add_to(&self, layer: &mut Layer) {
        for (key, text) in [("lead", &self.lead), ("outliers", &self.outliers)] {
            text.iter().for_each(|text| layer.flag(key, text));
        }
    }
}

/// Flags about the log, for every verb that has one.
#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// auto, human or json [default: auto]
    #[arg(long, value_name = "FORMAT", help_heading = "Log")]
    log_format: Option<String>,
    /// off, error, warn, info, debug, trace, or directives as tracing has them
    #[arg(long, value_name = "LEVEL", help_heading = "Log", conflicts_with_all = ["verbose", "quiet"])]
    log_level: Option<String>,
    /// Log more (-v debug, -vv trace)
    #[arg(short, long, action = ArgAction::Count, help_heading = "Log", conflicts_with = "quiet")]
    verbose: u8,
    /// Log less (-q warnings, -qq errors)
    #[arg(short, long, action = ArgAction::Count, help_heading = "Log")]
    quiet: u8,
}

impl LogArgs {
    pub(super) fn add_to(&self, layer: &mut Layer) {
        self.log_format.iter().for_each(|text| layer.flag("log_format", text));
        if let Some(level) = self.level() {
            layer.flag("log_level", level);
        }
    }

    /// The level typed, if any.
    #[must_use]
    pub fn level(&self) -> Option<&str> {
        match (self.quiet, self.verbose) {
            (0, 0) => self.log_level.as_deref(),
            (0, 1) => Some("debug"),
            (0, _) => Some("trace"),
            (1, _) => Some("warn"),
            _ => Some("error"),
        }
    }

    /// The format typed, if any.
    #[must_use]
    pub fn format(&self) -> Option<&str> {
        self.log_format.as_deref()
    }
}

/// What every verb has that looks at the two servers and prints a result.
#[derive(Args, Clone, Default)]
pub struct VerbArgs {
    #[command(flatten)]
    pub sides: SidesArgs,
    #[command(flatten)]
    pub targets: TargetArgs,
    /// Of a verb that has flags about the slot, which it puts here.
    #[arg(skip)]
    pub slot: SlotArgs,
    /// Print JSON, for programs
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    #[command(flatten)]
    pub log: LogArgs,
}

impl VerbArgs {
    /// What was typed, as the strongest layer of the configuration.
    #[must_use]
    pub fn layer(&self) -> Layer {
        let mut layer = Layer::default();
        self.sides.add_to(&mut layer);
        self.targets.add_to(&mut layer);
        self.slot.add_to(&mut layer);
        self.log.add_to(&mut layer);
        layer
    }
}

/// Shows which flags were given, not their values: a conninfo may hold a password.
impl std::fmt::Debug for VerbArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerbArgs").field("config", &self.sides.config).field("flags", &self.layer()).finish()
    }
}
