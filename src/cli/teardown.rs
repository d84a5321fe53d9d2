//! `seqshadow teardown`. See [`crate::ops::teardown`].

use std::process::ExitCode as ProcessExit;
use std::time::Duration;

use clap::Args;

use super::args::VerbArgs;
use super::setup::listed;
use super::verb;
use crate::config::parse_duration;
use crate::demo::text::hang;
use crate::ops::setup::Outcome;
use crate::ops::teardown::{self, Options, Teardown};

/// Flags of `teardown`.
#[derive(Args, Clone, Debug)]
pub struct TeardownArgs {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Also while a seqshadow uses the slot: its connection to the publisher is ended
    #[arg(long)]
    force: bool,
    /// Also drop the login roles that setup --grant made
    #[arg(long)]
    drop_role: bool,
    /// Wait this long for locks
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    wait: Duration,
    #[command(flatten)]
    common: VerbArgs,
}

/// Exit 0 when nothing is left, 1 where something is, 3 where a side could not be reached.
#[must_use]
pub fn run(args: &TeardownArgs) -> ProcessExit {
    verb::run(&args.common, async |settings, environment| {
        let options =
            Options { force: args.force, drop_role: args.drop_role, wait: args.wait, dry_run: args.dry_run };
        let done = teardown::run(&settings, &environment, options).await?;
        if args.common.json {
            verb::print_json(&done)?;
        } else {
            verb::print(&text(&done))?;
        }
        Ok(done.exit_code())
    })
}

fn text(done: &Teardown) -> String {
    let mut out = listed(&done.objects, done.dry_run) + "\n";
    for one in &done.unreachable {
        let reason = format!(
            "The {} could not be reached, and what setup made there is left; run teardown again when it can: {}",
            one.side, one.reason
        );
        out += &hang(&reason, 2);
    }
    for note in &done.notes {
        out += &hang(&format!("note: {note}"), 2);
    }
    let any = |outcome| done.objects.iter().any(|object| object.outcome == outcome);
    out + if any(Outcome::Left) {
        "NOT everything could be removed, see above.\n"
    } else if !done.unreachable.is_empty() {
        "NOT everything could be removed: one side is left.\n"
    } else if done.dry_run && any(Outcome::ToRemove) {
        "Nothing was removed: this was a dry run.\n"
    } else if any(Outcome::Removed) {
        "Done.\n"
    } else {
        "Nothing of it was there.\n"
    }
}
