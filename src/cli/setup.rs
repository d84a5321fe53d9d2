//! `seqshadow setup`. See [`crate::ops::setup`].

use std::process::ExitCode as ProcessExit;
use std::time::Duration;

use clap::Args;

use super::args::VerbArgs;
use super::show::{Align, Listing, count};
use super::verb;
use crate::config::parse_duration;
use crate::demo::text::hang;
use crate::exit::ExitCode;
use crate::ops::setup::{self, Object, Options, Outcome, Setup};
use crate::sides::{Needs, Sides};

/// How many sequences that are polled, and tables that are left out, are named.
const NAMED: usize = 10;

/// Flags of `setup`.
#[derive(Args, Clone, Debug)]
pub struct SetupArgs {
    /// Only print the SQL of each step
    #[arg(long)]
    dry_run: bool,
    /// Bring the publication to the present set of tables and columns
    #[arg(long)]
    refresh: bool,
    /// Leave the slot to the daemon, which makes it when it is missing
    #[arg(long)]
    no_slot: bool,
    /// Wait this long for the slot (the publisher's writing transactions), and for locks
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    wait: Duration,
    /// Role that seqshadow runs as, on both sides [default: the one setup connects as]
    #[arg(long, value_name = "NAME", help_heading = "Rights")]
    role: Option<String>,
    /// Give the role what it lacks on both sides; make it where it is missing, without a password
    #[arg(long, help_heading = "Rights")]
    grant: bool,
    /// Only print the SQL that --grant would run
    #[arg(long, help_heading = "Rights", conflicts_with = "grant")]
    print_grants: bool,
    /// Of tables too: SELECT of the id columns, which finds ids that no sequence and no stream shows
    #[arg(long, help_heading = "Rights")]
    read_tables: bool,
    #[command(flatten)]
    common: VerbArgs,
}

/// Exit 0 when everything is as it should be, 1 where something is left to be done.
#[must_use]
pub fn run(args: &SetupArgs) -> ProcessExit {
    verb::run(&args.common, async |settings, environment| {
        let sides = Sides::find(&settings, &environment, Needs::ADDRESSES).await?;
        let options = Options {
            role: args.role.clone(),
            wait: args.wait,
            no_slot: args.no_slot,
            refresh: args.refresh,
            grant: args.grant,
            read_tables: args.read_tables,
            advance_function: settings.advance_function.clone(),
            dry_run: args.dry_run,
        };
        if args.print_grants {
            let script = setup::print_grants(&sides, &settings, &options).await?;
            verb::print(&script.0)?;
            return Ok(ExitCode::Success);
        }
        let done = setup::run(&sides, &settings, &options).await?;
        if args.common.json {
            verb::print_json(&done)?;
        } else {
            verb::print(&text(&done))?;
        }
        Ok(if done.complete { ExitCode::Success } else { ExitCode::NotReady })
    })
}

/// The objects as a table, and what there is to say of each below it.
pub(super) fn listed(objects: &[Object], with_sql: bool) -> String {
    let mut listing = Listing::new(&[("side", Align::Left), ("what", Align::Left), ("outcome", Align::Left)]);
    let what = |object: &Object| match object.kind {
        "grants" => format!("rights of {}", object.name),
        kind => format!("{kind} {}", object.name),
    };
    for object in objects {
        listing.row([object.side.to_owned(), what(object), object.outcome.as_str().to_owned()]);
    }
    let mut out = listing.render();
    if objects.iter().any(|object| object.note.is_some()) {
        out.push('\n');
    }
    for object in objects {
        if let Some(note) = &object.note {
            out += &hang(&format!("{}, {}: {note}", what(object), object.side), 2);
        }
    }
    if with_sql {
        for object in objects.iter().filter(|object| !object.sql.is_empty()) {
            out += &format!("\n-- on the {}: {}\n", object.side, what(object));
            // One transaction, except where functions that are none are called.
            let is_transaction = object.sql.len() > 1 && object.kind != "slot";
            let sql = format!("{};\n", object.sql.join(";\n"));
            out += &if is_transaction { format!("BEGIN;\n{sql}COMMIT;\n") } else { sql };
        }
    }
    out
}

fn text(done: &Setup) -> String {
    let mut out = listed(&done.objects, done.dry_run);
    out.push('\n');
    let tables = &done.tables;
    for (what, names) in [
        ("added", &tables.added),
        ("no longer published", &tables.removed),
        ("other columns", &tables.changed),
    ] {
        if !names.is_empty() {
            out += &named(&format!("{what}: "), names);
        }
    }
    for skipped in tables.skipped.iter().take(NAMED) {
        out += &hang(&format!("not published: {skipped}"), 2);
    }
    let columns = if tables.whole_rows {
        "whole rows, as there are no column lists before PostgreSQL 15: every row that is inserted is sent a second \
         time, though no update and no delete is"
            .to_owned()
    } else {
        format!("{} of ids, inserts and truncates only", count(tables.columns, "column"))
    };
    out += &hang(&format!("{}: {columns}", count(tables.tables, "table")), 2);
    if !done.polled.is_empty() {
        let polled = count(done.polled.len(), "sequence");
        out += &hang(&format!("{polled} not shown by the stream; the daemon polls:"), 2);
        for one in done.polled.iter().take(NAMED) {
            out += &hang(&format!("  {}: {}", one.sequence, one.reason), 4);
        }
        if done.polled.len() > NAMED {
            out += &format!("  and {} more (--json lists them)\n", done.polled.len() - NAMED);
        }
    }
    let changes = [Outcome::Made, Outcome::Changed, Outcome::ToMake, Outcome::ToChange];
    let changed = done.objects.iter().any(|object| changes.contains(&object.outcome));
    out += "\n";
    out += match (done.complete, changed, done.dry_run) {
        (true, false, _) => "Everything was there: nothing was changed.\n",
        (_, _, true) => "Nothing was changed: this was a dry run.\n",
        (true, true, false) => "Done.\n",
        (false, true, false) => "NOT complete, see above; what was made stays.\n",
        (false, false, false) => "NOT complete, see above; nothing was changed.\n",
    };
    let mut command = done.command.clone();
    for flag in [" --publication ", " --publisher ", " --subscriber ", " --advance-function"] {
        command = command.replacen(flag, &format!(" \\\n       {flag}"), 1);
    }
    if done.role_is_a_guess {
        let guess = format!(
            "Nothing says which role seqshadow is to run as, so that the one setup ran as, a superuser, is in what \
             follows: --role names another, with few rights ({}).",
            done.role
        );
        out += &hang(&guess, 2);
    }
    out += "The daemon is started with:\n\n    ";
    out += &command;
    out += &format!(
        "\n\nor as the service seqshadow@{0}, with these lines in\n/etc/seqshadow/{0}.toml:\n\n",
        done.slot
    );
    for line in done.config.lines() {
        out += &format!("    {line}\n");
    }
    out
}

fn named(what: &str, names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    hang(&format!("{what}{}{rest}", shown.join(", ")), 2)
}
