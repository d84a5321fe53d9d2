//! What can be typed. Flags become a [`Layer`] of the configuration; nothing is checked here that could as well come
//! from the environment or the file.

mod common;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};

pub use common::{LogArgs, SidesArgs, TargetArgs, VerbArgs};

use super::check::CheckArgs;
use super::cutover::CutoverArgs;
use super::manual::{CompletionsArgs, ManArgs};
use super::plan::PlanArgs;
use super::reverse::ReverseArgs;
use super::setup::SetupArgs;
use super::status::StatusArgs;
use super::sync::SyncArgs;
use super::teardown::TeardownArgs;
use super::verify::VerifyArgs;
use crate::config::{ConfigError, Environment, Layer, Loaded, load};
use crate::exit::ExitCode;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold());

const AFTER_HELP: &str = "\
Every option of run can also be given as SEQSHADOW_<OPTION> (SEQSHADOW_POLL_INTERVAL=5s; commas between several \
values) or in the file (poll_interval = \"5s\"). Flags beat the environment, the environment beats the file.

Passwords belong into a passfile (~/.pgpass) or the environment, not on the command line.

Exit status: 0 yes or done, 1 no or not ready, 2 usage or configuration, 3 a server could not be reached, 4 refused \
for safety.";

const DEMO_AFTER_HELP: &str = "\
Both servers listen on 127.0.0.1 only, and are removed in the end, however the demonstration ends.

Exit status: 0 everything happened as promised, 1 it did not, 2 usage (--pg-bindir without a server), 3 there is no \
PostgreSQL here and none could be fetched, 128 + n ended by signal n (Ctrl-C: 130).";

const CHECK_AFTER_HELP: &str = "\
Examples:
  seqshadow check --slot orders --publisher 'host=old dbname=app'
  seqshadow check --slot orders --ack large-objects      # known, and taken care of
  seqshadow check --list

Exit status: 0 nothing stands against going on, 1 something does (named, with what mends it), 2 usage or \
configuration, 3 a server could not be reached.";

const CUTOVER_AFTER_HELP: &str = "\
Without --stop-writes you have stopped the application yourself; then that is proven, not believed.

Examples:
  seqshadow cutover --dry-run --slot orders --publisher 'host=old dbname=app'
  seqshadow cutover --stop-writes --slot orders --publisher 'host=old dbname=app user=postgres'
  seqshadow cutover --abort --publisher 'host=old dbname=app user=postgres'   # writes go on again
  seqshadow cutover --config shop.toml --also billing.toml --stop-writes      # both or none
  grep -v '\"sha256\"' CERTIFICATE | sha256sum                                # as its first line says

Exit status: 0 yes, with a certificate; 1 no, with what stands against it; 2 usage or configuration; 3 a server could \
not be reached; 4 refused for safety.";

const COMPLETIONS_AFTER_HELP: &str = "\
Examples:
  seqshadow completions bash > /etc/bash_completion.d/seqshadow
  seqshadow completions zsh > \"${fpath[1]}/_seqshadow\"
  seqshadow completions fish > ~/.config/fish/completions/seqshadow.fish";

const SETUP_AFTER_HELP: &str = "\
The publication shows the id columns only (whole rows before PostgreSQL 15), and inserts and truncates only: it never \
concerns the application's UPDATE and DELETE. Its name is seqshadow_<slot>, or that of --publication. Run setup as a \
superuser, or as the tables' owner; the rights are for the role named by --role.

Examples:
  seqshadow setup --slot orders --publisher 'host=old dbname=app' --dry-run
  seqshadow setup --slot orders --publisher 'host=old dbname=app' --role seqshadow --grant
  seqshadow setup --slot orders --publisher 'host=old dbname=app' --role seqshadow --print-grants
  seqshadow setup --slot orders --publisher 'host=old dbname=app' --refresh    # after new tables

Exit status: 0 everything is as it should be, 1 something is left to be done (named), 2 usage or configuration, \
missing rights among them, 3 a server could not be reached, 4 refused for safety.";

const TEARDOWN_AFTER_HELP: &str = "\
Removes what setup made for the slot, on both sides, and nothing else; also after a crash in the middle of either.

Examples:
  seqshadow teardown --slot orders --publisher 'host=old dbname=app' --dry-run
  seqshadow teardown --slot orders --publisher 'host=old dbname=app' --drop-role

Exit status: 0 nothing of it is left, 1 something is (named), 2 usage or configuration, 3 a server could not be \
reached (the other side is done), 4 refused for safety: a sidecar is running, or it is not what setup made.";

const PLAN_AFTER_HELP: &str = "\
Examples:
  seqshadow plan --publisher 'host=old dbname=app' > plan.sql
  psql -X -v ON_ERROR_STOP=1 -d app -f plan.sql      # on the subscriber

Exit status: 0 done, 1 a sequence cannot be brought up (named in the script), 2 usage or configuration, 3 a server \
could not be reached.";

const SYNC_AFTER_HELP: &str = "\
What ALTER SUBSCRIPTION … REFRESH SEQUENCES does in PostgreSQL 19, from any publisher, and never backwards.

Examples:
  seqshadow sync --dry-run --publisher 'host=old dbname=app'
  seqshadow sync --publisher 'host=old dbname=app' --lead 1000

Exit status: 0 every sequence is where it should be, 1 some are not (named), 2 usage or configuration, 3 a server could \
not be reached.";

const VERIFY_AFTER_HELP: &str = "\
Compares with the publisher's sequences, and with what lies in the columns on both sides, through indexes.

Examples:
  seqshadow verify --publisher 'host=old dbname=app' && echo ready
  seqshadow verify --all --json | jq '.sequences[] | select(.margin < 100)'
  seqshadow verify --data --jobs 4 --state orders.json   # the rows of the published tables

Exit status: 0 proven for every sequence (with --data: every table is equal), 1 not (named), 2 usage or configuration, 3 a server could not be reached.";

const REVERSE_AFTER_HELP: &str = "\
For the time after the switch: the new server's writes go back to the old one, and its sequences are kept ahead, so \
that going back is as safe as going forward was. --publisher is still the old server and --subscriber the new one, as \
before the switch; --slot is the slot of the sidecar that ran forwards, which must be stopped.

Run it after the cutover said yes and before the application writes on the new server. Without --apply it prints the \
SQL for psql. It refuses where a row of the old server could be lost.

Examples:
  seqshadow reverse --slot orders --publisher 'host=old dbname=app' > reverse.sql
  seqshadow reverse --slot orders --publisher 'host=old dbname=app' --apply \\
    --connection 'host=new dbname=app user=replicator'
  seqshadow reverse --slot orders --publisher 'host=old dbname=app' --status
  seqshadow reverse --slot orders --publisher 'host=old dbname=app' --undo

Exit status: 0 yes or done, 1 something is missing (named), 2 usage or configuration, 3 a server could not be reached, \
4 refused, or both servers issue ids.";

const STATUS_AFTER_HELP: &str = "\
Asks the running sidecar of the slot over its console, and both servers where none runs.

Examples:
  seqshadow status --slot orders
  seqshadow status --slot orders --watch --sort lead
  seqshadow status --slot orders --only held --json | jq '.sequences[].reason'

Exit status: 0 all is well, 1 a sequence is behind, held or not protected yet, or the slot is lost, 2 usage or \
configuration, 3 a server could not be reached.";

/// Keeps a PostgreSQL logical subscriber's sequences ahead of the replicated rows, all the time.
#[derive(Parser, Debug)]
#[command(name = "seqshadow", version, styles = STYLES, after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true, max_term_width = 100)]
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
    /// The gate: prove that the subscriber's sequences are past everything, or say what stands against it
    #[command(after_help = CUTOVER_AFTER_HELP)]
    Cutover(Box<CutoverArgs>),
    /// Make the narrow publication, the slot, and the rights of seqshadow's role
    #[command(after_help = SETUP_AFTER_HELP)]
    Setup(SetupArgs),
    /// Remove what setup made, on both sides
    #[command(after_help = TEARDOWN_AFTER_HELP)]
    Teardown(TeardownArgs),
    /// Print the SQL script that would bring the subscriber's sequences up now
    #[command(after_help = PLAN_AFTER_HELP)]
    Plan(PlanArgs),
    /// Bring every sequence of the subscriber up once, and never back
    #[command(after_help = SYNC_AFTER_HELP)]
    Sync(SyncArgs),
    /// Prove that each sequence's next value is past every id, without using one up
    #[command(after_help = VERIFY_AFTER_HELP)]
    Verify(VerifyArgs),
    /// Print the completions of a shell
    #[command(after_help = COMPLETIONS_AFTER_HELP)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them into a directory
    Man(ManArgs),
    /// Make the way back after a switch: the new server's rows to the old one
    #[command(after_help = REVERSE_AFTER_HELP)]
    Reverse(ReverseArgs),
    /// Say how each sequence, the stream and the slot are
    #[command(after_help = STATUS_AFTER_HELP)]
    Status(StatusArgs),
    /// Show it at work on two throw-away servers on this machine
    #[command(after_help = DEMO_AFTER_HELP)]
    Demo(DemoArgs),
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
    /// Use a slot that ends with the connection, and never holds back WAL
    #[arg(long, help_heading = "Slot and stream")]
    temporary_slot: bool,
    /// Make the slot a failover slot (publisher 17 or newer)
    #[arg(long, help_heading = "Slot and stream")]
    failover: bool,
    /// See large transactions before they commit: on, off or parallel [default: on]
    #[arg(long, value_name = "MODE", help_heading = "Slot and stream")]
    streaming: Option<String>,
    /// How much WAL the slot may hold back on the publisher [default: 1GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Slot and stream")]
    max_retained_wal: Option<String>,

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
        match Cli::try_parse_from(args) {
            Ok(cli) => Ok(cli.into_verb()),
            Err(error) if error.use_stderr() => {
                eprint!("{}", explain(&error));
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
        self.targets.add_to(&mut layer);
        let one = [
            ("streaming", &self.streaming),
            ("max_retained_wal", &self.max_retained_wal),
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
            ("temporary_slot", self.temporary_slot, "on"),
            ("failover", self.failover, "on"),
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
