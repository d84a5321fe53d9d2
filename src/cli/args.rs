//! What can be typed. Flags become a [`Layer`] of the configuration; nothing is checked here that could as well come
//! from the environment or the file.

mod common;
mod help;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};

pub use common::{LogArgs, SidesArgs, SlotArgs, TargetArgs, VerbArgs};
use help::*;

use super::capture::CaptureArgs;
use super::check::CheckArgs;
use super::cutover::CutoverArgs;
use super::manual::{CompletionsArgs, ManArgs};
use super::plan::PlanArgs;
use super::replay::ReplayArgs;
use super::reverse::ReverseArgs;
use super::setup::SetupArgs;
use super::status::StatusArgs;
use super::sync::SyncArgs;
use super::teardown::TeardownArgs;
use super::verb::Failure;
use super::verify::VerifyArgs;
use crate::config::{ConfigError, Environment, Layer, Loaded, load};
use crate::exit::ExitCode;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold());

/// Keeps a PostgreSQL logical subscriber's sequences ahead of the replicated rows, all the time.
#[derive(Parser, Debug)]
#[command(name = "seqshadow", version, styles = STYLES, after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true, max_term_width = 80)]
pub struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Follow a publisher until told to stop (the default)
    #[command(after_help = AFTER_HELP)]
    Run(Box<RunArgs>),
    /// Find what could spoil the replication, the sequences or the cutover
    #[command(visible_aliases = ["preflight", "doctor"], after_help = CHECK_AFTER_HELP)]
    Check(CheckArgs),
    /// Make the narrow publication, the slot, and the rights of seqshadow's role
    #[command(after_help = SETUP_AFTER_HELP)]
    Setup(SetupArgs),
    /// Say how each sequence, the stream and the slot are
    #[command(after_help = STATUS_AFTER_HELP)]
    Status(StatusArgs),
    /// Print the SQL script that would bring the subscriber's sequences up now
    #[command(after_help = PLAN_AFTER_HELP)]
    Plan(PlanArgs),
    /// Bring every sequence of the subscriber up once, and never back
    #[command(after_help = SYNC_AFTER_HELP)]
    Sync(SyncArgs),
    /// Prove that each sequence's next value is past every id, without using one up
    #[command(after_help = VERIFY_AFTER_HELP)]
    Verify(VerifyArgs),
    /// The gate: prove that the subscriber's sequences are past everything, or say what stands against it
    #[command(after_help = CUTOVER_AFTER_HELP)]
    Cutover(Box<CutoverArgs>),
    /// Make the way back after a switch: the new server's rows to the old one
    #[command(after_help = REVERSE_AFTER_HELP)]
    Reverse(ReverseArgs),
    /// Remove what setup made, on both sides
    #[command(after_help = TEARDOWN_AFTER_HELP)]
    Teardown(TeardownArgs),
    /// Record the publisher's replication stream into a file, and confirm nothing
    #[command(after_help = CAPTURE_AFTER_HELP)]
    Capture(Box<CaptureArgs>),
    /// Decode a recorded stream as the daemon would, and say how fast
    #[command(after_help = REPLAY_AFTER_HELP)]
    Replay(ReplayArgs),
    /// Show it at work on two throw-away servers on this machine
    #[command(after_help = DEMO_AFTER_HELP)]
    Demo(DemoArgs),
    /// Print the completions of a shell
    #[command(after_help = COMPLETIONS_AFTER_HELP)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them into a directory
    Man(ManArgs),
}

/// Flags of `run`.
#[derive(Args, Clone, Default)]
pub struct RunArgs {
    #[command(flatten)]
    sides: SidesArgs,

    /// Make the slot if it is missing [default]
    #[arg(long, overrides_with = "no_create_slot", help_heading = "Slot and stream")]
    create_slot: bool,
    /// Never make the slot
    #[arg(long, help_heading = "Slot and stream")]
    no_create_slot: bool,
    #[command(flatten)]
    slot: SlotArgs,
    /// See large transactions before they commit: on, off or parallel [default: on]
    #[arg(long, value_name = "MODE", help_heading = "Slot and stream")]
    streaming: Option<String>,

    #[command(flatten)]
    targets: TargetArgs,

    /// Read sequences that the stream does not show this often [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Times")]
    poll_interval: Option<String>,
    /// Compare the subscriber's sequences with what was promised this often [default: 1s]
    #[arg(long, value_name = "TIME", help_heading = "Times")]
    verify_interval: Option<String>,
    /// Tell the publisher where we are at least this often [default: 10s]
    #[arg(short = 's', long, value_name = "TIME", help_heading = "Times")]
    status_interval: Option<String>,
    /// Look for new tables, columns and sequences this often [default: 1min]
    #[arg(long, value_name = "TIME", help_heading = "Times")]
    refresh_interval: Option<String>,
    /// Log a summary this often, 0 for never [default: 1min]
    #[arg(long, value_name = "TIME", help_heading = "Times")]
    summary_interval: Option<String>,
    /// End within this time when told to stop [default: 20s]
    #[arg(long, value_name = "TIME", help_heading = "Times")]
    grace: Option<String>,

    /// Answer on a socket that speaks the PostgreSQL protocol [default]
    #[arg(long, overrides_with = "no_console", help_heading = "Console")]
    console: bool,
    /// Open no console
    #[arg(long, help_heading = "Console")]
    no_console: bool,
    /// Directory of the console's socket [default: a private one below $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR or /tmp]
    #[arg(long, value_name = "DIR", help_heading = "Console")]
    console_dir: Option<String>,

    #[command(flatten)]
    log: LogArgs,
}

/// Flags of `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// How long the load runs, in seconds
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Rows inserted each second, over all tables
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// Leave the servers running afterwards, and say how to reach and how to end them
    #[arg(long)]
    pub keep: bool,
    /// Directory of server programs (postgres, initdb), repeatable [default: those found]
    #[arg(long, value_name = "DIR")]
    pub pg_bindir: Vec<PathBuf>,
    #[command(flatten)]
    pub log: LogArgs,
}

impl Cli {
    /// Parses arguments (the first is the program). On failure, and for `--help` and `--version`, the text is printed
    /// already and the exit status says which it was.
    pub fn parse_from_args<I, T>(args: I) -> Result<Verb, ExitCode>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let json = args.iter().any(|arg| arg == "--json");
        match Cli::try_parse_from(args) {
            Ok(cli) => Ok(cli.into_verb()),
            Err(error) if error.use_stderr() => {
                let text = explain(&error);
                eprint!("{text}");
                if json {
                    let what = text.split("\n\n").next().unwrap_or_default();
                    Failure::new(what.trim_start_matches("error: "), ExitCode::Usage).print();
                }
                Err(ExitCode::Usage)
            }
            Err(help) => {
                // A closed pipe after `--help` is no failure.
                let _ = help.print();
                Err(ExitCode::Success)
            }
        }
    }

    fn into_verb(self) -> Verb {
        self.verb.unwrap_or_else(|| Verb::Run(Box::new(self.run)))
    }
}

/// The error without what was typed, where that looks like part of a conninfo: an unquoted one falls apart into
/// arguments, and the password's would be repeated.
fn explain(error: &clap::Error) -> String {
    let text = error.to_string();
    let secret = text.to_ascii_lowercase().contains("password") || text.contains("://");
    if secret {
        return "error: the arguments cannot be understood; one looks like part of a connection string and is not \
                shown. Quote it as one argument: --publisher 'host=db dbname=app'\n\nFor more information, try \
                '--help'.\n"
            .to_owned();
    }
    text
}

impl RunArgs {
    /// The file named on the command line.
    #[must_use]
    pub fn config(&self) -> Option<&std::path::Path> {
        self.sides.config.as_deref()
    }

    /// What was typed, as the strongest layer of the configuration.
    #[must_use]
    pub fn layer(&self) -> Layer {
        let mut layer = Layer::default();
        self.sides.add_to(&mut layer);
        self.slot.add_to(&mut layer);
        self.targets.add_to(&mut layer);
        let one = [
            ("streaming", &self.streaming),
            ("poll_interval", &self.poll_interval),
            ("verify_interval", &self.verify_interval),
            ("status_interval", &self.status_interval),
            ("refresh_interval", &self.refresh_interval),
            ("summary_interval", &self.summary_interval),
            ("grace", &self.grace),
            ("console_dir", &self.console_dir),
        ];
        for (key, text) in one {
            text.iter().for_each(|text| layer.flag(key, text));
        }
        let switches = [
            ("create_slot", self.create_slot, "on"),
            ("create_slot", self.no_create_slot, "off"),
            ("console", self.console, "on"),
            ("console", self.no_console, "off"),
        ];
        for (key, _, text) in switches.iter().filter(|(_, given, _)| *given) {
            layer.flag(key, *text);
        }
        self.log.add_to(&mut layer);
        layer
    }

    /// The settings: what was typed, over `environment`, over the file. Call it again to reload.
    pub fn load(&self, environment: &Environment) -> Result<Loaded, ConfigError> {
        let loaded = load(&self.layer(), self.config(), environment)?;
        loaded.settings.required_slot()?;
        Ok(loaded)
    }
}

/// Shows which flags were given, not their values: a conninfo may hold a password.
impl std::fmt::Debug for RunArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunArgs").field("config", &self.sides.config).field("flags", &self.layer()).finish()
    }
}

#[cfg(test)]
mod tests;
