//! `seqshadow status`, once or again and again. See [`crate::ops::status`].

mod screen;
mod text;
mod watch;

use std::process::ExitCode as ProcessExit;
use std::time::Duration;

use clap::Args;

use super::args::VerbArgs;
use super::{show, verb};
use crate::config::{SequencePattern, parse_duration};
use crate::exit::ExitCode;
use crate::ops::status::{Choice, Only, Sort, Status, look};

/// Flags of `status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Look again and again, this often; on a terminal in place, until q or Ctrl-C [default: 2s]
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", value_parser = interval)]
    watch: Option<Duration>,
    /// Order of the sequences
    #[arg(long, value_enum, ignore_case = true, default_value_t, value_name = "BY")]
    sort: Sort,
    /// Ask about the sequences that match only, repeatable; also for the exit status
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    filter: Vec<SequencePattern>,
    /// Show only sequences in this state, repeatable
    #[arg(long, value_enum, ignore_case = true, value_name = "STATE")]
    only: Vec<Only>,
    /// Directory of the sidecar's console [default: the usual places for the slot]
    #[arg(long, value_name = "DIR", help_heading = "Console")]
    console_dir: Option<std::path::PathBuf>,
    /// Look at both servers even if a sidecar runs
    #[arg(long, help_heading = "Console")]
    no_console: bool,
    #[command(flatten)]
    common: VerbArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_millis(100)..=Duration::from_secs(86_400);
    if range.contains(&duration) { Ok(duration) } else { Err("it must be from 100ms to 1d".to_owned()) }
}

fn pattern(text: &str) -> Result<SequencePattern, String> {
    text.parse().map_err(|error: crate::config::ValueError| error.to_string())
}

/// Exit 0 when all is well, 1 otherwise.
#[must_use]
pub fn run(args: &StatusArgs) -> ProcessExit {
    verb::run(&args.common, async |mut settings, environment| {
        settings.console &= !args.no_console;
        settings.console_dir = args.console_dir.clone().or(settings.console_dir);
        let choice = Choice { filters: args.filter.clone(), only: args.only.clone(), sort: args.sort };
        if let Some(interval) = args.watch {
            return watch::run(&settings, &environment, &choice, interval, args.common.json).await;
        }
        let status = look(&settings, &environment, &choice).await?;
        if args.common.json {
            verb::print_json(&status)?;
        } else {
            verb::print(&text::of(&status, usize::from(show::width())))?;
        }
        Ok(code(&status))
    })
}

fn code(status: &Status) -> ExitCode {
    if status.well { ExitCode::Success } else { ExitCode::NotReady }
}
