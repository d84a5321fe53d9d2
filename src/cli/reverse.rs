//! `seqshadow reverse`. See [`crate::ops::reverse`].

use std::process::ExitCode as ProcessExit;
use std::time::Duration;

use clap::Args;

use super::args::VerbArgs;
use super::show::count;
use super::verb;
use crate::config::{ValueError, parse_duration};
use crate::demo::text::{bytes, hang};
use crate::exit::ExitCode;
use crate::ops::reverse::{self, Action, Request, Reversed, Status, exit_code};

/// Longer than so our writers are not kept waiting.
const OBSERVE_MAX: Duration = Duration::from_secs(60);

/// Flags of `reverse`.
#[derive(Args, Clone)]
pub struct ReverseArgs {
    /// Make it, instead of printing how
    #[arg(long, conflicts_with_all = ["undo", "status"])]
    apply: bool,
    /// Remove what --apply or the printed SQL has made, also half of it
    #[arg(long, conflicts_with = "status")]
    undo: bool,
    /// Say whether it works, and whether both servers issue ids
    #[arg(long)]
    status: bool,
    /// With --apply or --undo: check and rehearse, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// How the OLD server reaches the NEW one [default: as --subscriber]
    #[arg(long, value_name = "CONNINFO")]
    connection: Option<String>,
    /// How long the forward subscription may take to apply the rest, and older sessions to end
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    wait: Duration,
    /// With --status: how long to look for ids that are drawn, at most 60s
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    observe: Duration,
    /// Nobody writes on the old server, though its default lets them
    #[arg(long)]
    writes_stopped: bool,
    #[command(flatten)]
    common: VerbArgs,
}

/// Shows which flags were given, not the connection string: it may hold a password.
impl std::fmt::Debug for ReverseArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReverseArgs").field("common", &self.common).finish_non_exhaustive()
    }
}

fn duration(text: &str) -> Result<Duration, ValueError> {
    parse_duration(text)
}

/// Exit 0 when it is as asked, 1 when something is missing, 4 when going on could lose rows or both sides issue ids.
#[must_use]
pub fn run(args: &ReverseArgs) -> ProcessExit {
    verb::run(&args.common, async |settings, environment| {
        if args.status {
            let observe = args.observe.min(OBSERVE_MAX);
            let status = reverse::status(&settings, &environment, observe).await?;
            if args.common.json {
                verb::print_json(&status)?;
            } else {
                verb::print(&status_text(&status))?;
            }
            return Ok(status.exit_code());
        }
        let request = Request {
            action: match (args.apply, args.undo) {
                (true, _) => Action::Apply,
                (_, true) => Action::Undo,
                _ => Action::Print,
            },
            dry_run: args.dry_run,
            connection: args.connection.clone(),
            wait: args.wait,
            writes_stopped: args.writes_stopped,
        };
        let done = reverse::reverse(&settings, &environment, &request).await?;
        if args.common.json {
            verb::print_json(&done)?;
        } else if let Some(script) = &done.script {
            verb::print(script)?;
            // What a person should know must not get lost in the file that it is piped into.
            for note in &done.notes {
                eprint!("{}", hang(&format!("note: {note}"), 2));
            }
        } else {
            verb::print(&text(&done))?;
        }
        Ok(exit(&done))
    })
}

fn exit(done: &Reversed) -> ExitCode {
    exit_code(&done.obstacles)
}

fn text(done: &Reversed) -> String {
    let mut out = String::new();
    for step in &done.steps {
        out += &hang(&format!("{}: {}", step.server, step.what), 2);
    }
    for one in &done.obstacles {
        out += &hang(&format!("{}: {}; {}", one.kind, one.what, one.action), 2);
    }
    for note in &done.notes {
        out += &hang(&format!("note: {note}"), 2);
    }
    let outcome = match (done.obstacles.is_empty(), done.dry_run, done.action) {
        (false, _, "undo") => "It is not all removed; run it again.",
        (false, ..) if done.steps.is_empty() => "Nothing was changed.",
        (false, ..)
            if done.steps.last().is_some_and(|step| step.what.starts_with("created subscription")) =>
        {
            "It is made, but does not work yet."
        }
        (false, ..) => "It is not made.",
        (true, true, _) => "Nothing stands against it; nothing was changed.",
        (true, false, "undo") if done.steps.is_empty() => "There is nothing to remove.",
        (true, false, "undo") => "What reverse had made is removed.",
        (true, false, _) if done.steps.is_empty() => "The way back was in place already.",
        (true, false, _) => "The way back is in place.",
    };
    out += outcome;
    out.push('\n');
    if let Some(sidecar) = done.sidecar.as_ref().filter(|_| done.done) {
        out += &format!(
            "\nNow start the sidecar that runs the other way, with the file that setup printed\n\
             when it was run with the servers swapped; or else, with your rights:\n\n{sidecar}\n"
        );
    }
    out
}

fn status_text(status: &Status) -> String {
    let is_there = |there: bool| if there { "there" } else { "MISSING" };
    let observed = &status.observed;
    let mut out = format!(
        "new server: {}, publication {}, slot {}{}\n",
        status.new.address,
        is_there(status.publication),
        is_there(status.slot),
        status.lag_bytes.map_or_else(String::new, |lag| {
            format!(", {} to go", bytes(u64::try_from(lag).unwrap_or(0)))
        })
    );
    out += &format!(
        "old server: {}, subscription {}{}\n",
        status.old.address,
        is_there(status.subscription),
        if status.works { ", receiving" } else { "" }
    );
    let blocked = if status.writes_blocked { "begin read-only" } else { "may write" };
    let except = if status.writes_blocked && !status.writing_roles.is_empty() {
        format!(", but not those of {}", status.writing_roles.join(", "))
    } else {
        String::new()
    };
    out += &hang(&format!("            new sessions there {blocked}{except}"), 12).replacen(
        "new",
        "            new",
        1,
    );
    let sidecar = if status.sidecar { "streams" } else { "does not run" };
    out += &format!("the sidecar that runs the other way {sidecar}\n");
    let moved = |on_old: bool| {
        observed.moved.iter().filter(|m| if on_old { m.on_old.is_some() } else { m.on_new.is_some() }).count()
    };
    out += &hang(
        &format!(
            "in {:.0} s {} compared: {} moved on the old server, {} on the new one, our own moves left out",
            observed.seconds,
            count(observed.compared, "sequence"),
            moved(true),
            moved(false)
        ),
        2,
    );
    for (rows, when) in [(observed.rows, "meanwhile"), (observed.rows_since_switch, "since the switch")] {
        if let Some(rows) = rows {
            out += &format!(
                "{} written on the old server {when}, not by replication\n",
                count(rows.changes, "change")
            );
        }
    }
    for what in &observed.cannot_see {
        out += &hang(&format!("not seen: {what}"), 2);
    }
    for problem in &status.problems {
        out += &hang(&format!("PROBLEM: {problem}"), 2);
    }
    for alarm in &status.alarms {
        out += &hang(&format!("ALARM: {alarm}"), 2);
    }
    if status.alarms.is_empty() && status.problems.is_empty() {
        out += "Going back is safe as far as can be seen.\n";
    }
    out
}
