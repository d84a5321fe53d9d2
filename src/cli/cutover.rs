//! `seqshadow cutover`. See [`crate::ops::cutover`].

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode as ProcessExit;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::args::VerbArgs;
use super::complaint::complain;
use super::show::count;
use super::verb::{self, Failure};
use crate::config::{self, Layer, Settings, parse_duration, parse_table};
use crate::conninfo::Environment;
use crate::demo::text::hang;
use crate::exit::ExitCode;
use crate::ops::OpsError;
use crate::ops::cutover::certificate::{Certificate, CertifiedSequence, Timing};
use crate::ops::cutover::lost::{MARGIN, Statement, without_publisher};
use crate::ops::cutover::stop::{Shut, Stop};
use crate::ops::cutover::{Answer, AppliedBy, Request, Watch, WritesStopped, cutover, writes};
use crate::ops::survey::Depth;
use crate::sides::{Needs, Sides, SidesError, conninfo};
use crate::sql;

/// Flags of `cutover`.
#[derive(Args, Clone, Debug)]
pub struct CutoverArgs {
    /// Stop the application's writes: the publisher's database becomes read-only by default, its sessions end
    #[arg(long)]
    stop_writes: bool,
    /// The writes are stopped in a way that cannot be seen on the publisher: the certificate says it is your word
    #[arg(long, conflicts_with_all = ["stop_writes", "abort", "publisher_lost"])]
    writes_stopped: bool,
    /// Let the writes go on again that a cutover has stopped, and end
    #[arg(long, conflicts_with_all = ["stop_writes", "publisher_lost", "dry_run"])]
    abort: bool,
    /// Only say whether anything stands against it now
    #[arg(long)]
    dry_run: bool,
    /// Wait for anything no longer than this, all in all
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    wait: Duration,
    /// No lead: each sequence gets the publisher's own state, unless it is past that already
    #[arg(long)]
    exact: bool,
    /// Set a CYCLE sequence that is further than the publisher's back to its state, too
    #[arg(long, conflicts_with_all = ["abort", "publisher_lost"])]
    cycle_back: bool,
    /// Scan the columns that have no index, and ids inside text, however long it takes
    #[arg(long)]
    full: bool,
    /// Who applies is no subscription, and confirms on this slot what is durable on the subscriber
    #[arg(long, value_name = "NAME", conflicts_with_all = ["heartbeat", "also"])]
    applier_slot: Option<String>,
    /// Who applies is no subscription: a row of this published table (with a column token text) is waited for
    #[arg(long, value_name = "TABLE", conflicts_with = "also")]
    heartbeat: Option<String>,
    /// Cut the databases of this configuration over as well, all or none; repeatable
    #[arg(long, value_name = "FILE")]
    also: Vec<PathBuf>,
    /// Where the certificate goes, - for standard output [default: seqshadow-certificate-TIME.json]
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The publisher is gone for good: from what is on the subscriber, without a certificate
    #[arg(long, conflicts_with_all = ["stop_writes", "exact", "also", "dry_run"])]
    publisher_lost: bool,
    /// With --publisher-lost: how many ids are left free, by each run anew
    #[arg(long, value_name = "IDS", default_value_t = MARGIN, requires = "publisher_lost")]
    margin: u64,
    #[command(flatten)]
    common: VerbArgs,
}

/// Exit 0 with a certificate, 1 with what stands against it.
#[must_use]
pub fn run(args: &CutoverArgs) -> ProcessExit {
    verb::run(&args.common, async |settings, environment| {
        if args.abort {
            return abort(args, &settings, &environment).await;
        }
        if args.publisher_lost {
            return lost(args, &settings, &environment).await;
        }
        gate(args, settings, &environment).await
    })
}

async fn abort(
    args: &CutoverArgs,
    settings: &Settings,
    environment: &Environment,
) -> Result<ExitCode, OpsError> {
    // Where it is named, the subscriber has no say in it.
    let (publisher, database) = if settings.publisher.is_some() {
        let conninfo = conninfo(settings.publisher.as_ref(), "publisher", settings, environment)?;
        let publisher = sql::connect(&conninfo, "publisher").await.map_err(SidesError::on_publisher)?;
        (publisher, conninfo.dbname().to_owned())
    } else {
        let sides = Sides::find(settings, environment, Needs::ADDRESSES).await?;
        (sides.publisher().await?, sides.publisher_conninfo.dbname().to_owned())
    };
    let done = writes::abort(&publisher.client).await?;
    if args.common.json {
        verb::print_json(&serde_json::json!({
            "schema": "seqshadow.abort/1",
            "at": crate::ops::now(),
            "database": database,
            "changed": done,
        }))?;
        return Ok(ExitCode::Success);
    }
    let said = if done {
        format!("the writes to database {database} of the publisher go on again: new sessions may write")
    } else {
        format!("the writes to database {database} of the publisher are not stopped; nothing was changed")
    };
    verb::print(&hang(&said, 2))?;
    Ok(ExitCode::Success)
}

async fn lost(
    args: &CutoverArgs,
    settings: &Settings,
    environment: &Environment,
) -> Result<ExitCode, OpsError> {
    let depth = if args.full { Depth::Scan } else { Depth::Indexes };
    let statement = without_publisher(settings, environment, args.margin, depth).await?;
    if args.common.json {
        verb::print_json(&statement)?;
    } else {
        verb::print(&lost_text(&statement))?;
    }
    Ok(if statement.failed.is_empty() { ExitCode::Success } else { ExitCode::NotReady })
}

fn lost_text(statement: &Statement) -> String {
    let head = format!(
        "WITHOUT THE PUBLISHER, and so without a certificate: {} moved, {} in place, by what is on {}",
        count(statement.moved.len(), "sequence"),
        statement.in_place,
        statement.subscriber
    );
    let mut out = hang(&head, 2);
    for failed in &statement.failed {
        out += &hang(&format!("NOT moved: {}: {}", failed.sequence, failed.reason), 2);
    }
    for gap in &statement.gaps {
        out += &hang(gap, 2);
    }
    out += "Not known to anybody:\n";
    for unknown in &statement.not_known {
        out += &hang(&format!("- {unknown}"), 2);
    }
    out
}

async fn gate(
    args: &CutoverArgs,
    settings: Settings,
    environment: &Environment,
) -> Result<ExitCode, OpsError> {
    let mut databases = vec![settings];
    for file in &args.also {
        // Neither flags nor the environment: they name the first one.
        let loaded = config::load(&Layer::default(), Some(file), &config::Environment::default());
        databases.push(loaded.map_err(SidesError::from)?.settings);
    }
    let applier = match (&args.applier_slot, &args.heartbeat) {
        (Some(slot), _) => Some(AppliedBy::Slot(slot.clone())),
        (None, Some(table)) => {
            Some(AppliedBy::Heartbeat(parse_table(table).map_err(|error| SidesError::Setting {
                what: format!("--heartbeat: {error}"),
                action: "give a table as schema.name".to_owned(),
            })?))
        }
        (None, None) => None,
    };
    let request = Request {
        writes: match (args.stop_writes, args.writes_stopped) {
            (true, _) => WritesStopped::ByUs,
            (false, true) => WritesStopped::AsTheOperatorSays,
            (false, false) => WritesStopped::BySetting,
        },
        wait: args.wait,
        exact: args.exact,
        cycle_back: args.cycle_back,
        depth: if args.full { Depth::Scan } else { Depth::Indexes },
        applier,
        dry_run: args.dry_run,
    };
    // Before anybody is kept from writing it must be certain that there is a place for the certificate.
    let place = Place::open(args)?;
    let mut screen = Screen { json: args.common.json, place, written: None };
    let outcome = cutover(&databases, environment, &request, &mut screen, signalled()).await;
    if let Some(place) = screen.place.take() {
        place.give_up();
    }
    match outcome {
        Ok(Answer::NothingAgainstIt(databases)) => {
            if args.common.json {
                verb::print_json(&serde_json::json!({
                    "schema": "seqshadow.cutover/1",
                    "at": crate::ops::now(),
                    "dry_run": true,
                    "databases": databases,
                }))?;
                return Ok(ExitCode::Success);
            }
            verb::print("nothing stands against the cutover now; nothing was changed\n")?;
            Ok(ExitCode::Success)
        }
        Ok(Answer::Yes(certificate)) => {
            if !args.common.json {
                let written = screen.written.as_deref().unwrap_or("above");
                // The writes stay stopped and the certificate is kept: that nobody reads of it makes it no refusal.
                if let Err(error) = verb::print(&yes(&certificate, written)) {
                    complain(&error);
                    complain(&format!("it is a YES all the same; certificate: {written}"));
                }
            }
            Ok(ExitCode::Success)
        }
        Err(shut) => no(args, shut),
    }
}

/// The first signal that asks us to end.
async fn signalled() -> &'static str {
    let (Ok(mut term), Ok(mut interrupt), Ok(mut hup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = hup.recv() => "SIGHUP",
    }
}

/// Where the certificate goes: written beside its place first, so that there is never half of one.
struct Place {
    file: File,
    beside: PathBuf,
    path: PathBuf,
}

impl Place {
    fn open(args: &CutoverArgs) -> Result<Option<Self>, OpsError> {
        let path = match &args.certificate {
            Some(path) if path == Path::new("-") => return Ok(None),
            Some(path) => path.clone(),
            None if args.common.json => return Ok(None),
            None => {
                let at: String = crate::ops::now().chars().filter(|c| !matches!(c, '-' | ':')).collect();
                PathBuf::from(format!("seqshadow-certificate-{at}.json"))
            }
        };
        if path.is_dir() {
            return Err(SidesError::Setting {
                what: format!("there is no place for the certificate: {} is a directory", path.display()),
                action: "name a file with --certificate FILE".to_owned(),
            }
            .into());
        }
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let file = File::create(&beside).map_err(|error| SidesError::Setting {
            what: format!("there is no place for the certificate: {}: {error}", path.display()),
            action: "name another with --certificate FILE".to_owned(),
        })?;
        Ok(Some(Place { file, beside, path }))
    }

    /// All but its name.
    fn write(&mut self, text: &str) -> Result<(), OpsError> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|source| self.failed(source))
    }

    fn keep(self) -> Result<String, OpsError> {
        std::fs::rename(&self.beside, &self.path).map_err(|source| self.failed(source))?;
        Ok(self.path.display().to_string())
    }

    fn failed(&self, source: std::io::Error) -> OpsError {
        OpsError::Io { what: self.path.display().to_string(), source }
    }

    fn give_up(self) {
        let _ = std::fs::remove_file(&self.beside);
    }
}

/// Tells how it goes on.
struct Screen {
    json: bool,
    place: Option<Place>,
    /// Where the certificate is.
    written: Option<String>,
}

impl Watch for Screen {
    fn keep(&mut self, certificate: &Certificate) -> Result<(), OpsError> {
        let text = certificate.text()?;
        if let Some(place) = &mut self.place {
            place.write(&text)?;
        }
        // A reader that has gone has no certificate: then there shall be none at its place either, so that comes last.
        if self.place.is_none() || self.json {
            std::io::stdout()
                .lock()
                .write_all(text.as_bytes())
                .and_then(|()| std::io::stdout().flush())
                .map_err(|source| OpsError::Io { what: "standard output".to_owned(), source })?;
        }
        if let Some(place) = self.place.take() {
            self.written = Some(place.keep()?);
        }
        Ok(())
    }

    fn step(&mut self, timing: &Timing) {
        let seconds = std::time::Duration::from_millis(timing.milliseconds).as_secs_f64();
        let pause = if timing.paused { "pause" } else { "     " };
        let line = format!("{seconds:7.3} s  {pause}  {}\n", timing.step);
        // With --json standard output is for programs.
        if self.json {
            eprint!("{line}");
        } else {
            let _ = verb::print(&line);
        }
    }

    fn note(&mut self, text: &str) {
        eprint!("{}", hang(&format!("seqshadow: {text}"), 2));
    }
}

fn yes(certificate: &Certificate, written: &str) -> String {
    let counts = certificate.counts();
    let others: String = [
        (counts.past_publisher, "past the publisher's own only"),
        (counts.past_rows, "past the ids in its tables only"),
        (counts.as_publisher, "at the publisher's state only (CYCLE)"),
    ]
    .iter()
    .filter(|(some, _)| *some > 0)
    .map(|(some, what)| format!(", {some} more {what}"))
    .collect();
    let mut out = hang(
        &format!(
            "YES: {} of {} proven past everything{others}.",
            count(counts.past, "sequence"),
            count(certificate.databases.len(), "database")
        ),
        5,
    );
    out.insert(0, '\n');
    let pause = std::time::Duration::from_millis(certificate.write_pause_ms).as_secs_f64();
    out += &format!("The write pause until the proof was {pause:.3} s, and goes on.\n");
    for one in &certificate.databases {
        out += &hang(&format!("{}: proven up to {}", one.database, one.proven_up_to_lsn), 2);
        for note in &one.notes {
            out += &hang(&format!("  note: {note}"), 4);
        }
        if certificate.exact {
            out += &exactness(&one.sequences);
        }
        for proof in one.sequences.iter().map(|one| &one.proof) {
            if let Some(ids) = proof.set_aside_text() {
                out += &hang(&format!("  set aside, not part of the proof: {} {ids}", proof.sequence), 4);
            }
        }
    }
    out + &hang(&format!("certificate: {written}"), 2)
        + "Next: seqshadow reverse --apply, if the way back shall stay open; then let the\napplication use the subscriber.\n"
}

/// How many have the publisher's own state, and which have not.
fn exactness(sequences: &[CertifiedSequence]) -> String {
    let (exact, others): (Vec<_>, Vec<_>) = sequences.iter().partition(|one| one.exact == Some(true));
    let summary =
        format!("  exact: {} of {} as on the publisher", exact.len(), count(sequences.len(), "sequence"));
    let others = others.iter().map(|one| {
        let reason = one.exact_reason.as_deref().unwrap_or_default();
        hang(&format!("  NOT exact: {}: {reason}", one.proof.sequence), 4)
    });
    hang(&summary, 4) + &others.collect::<String>()
}

/// For whoever cannot reach it any more.
const LOST: &str = "if the publisher is gone for good: seqshadow cutover --publisher-lost puts the sequences past what \
                    the subscriber has, without a certificate";

fn is_publisher_unreachable(error: &OpsError) -> bool {
    error.exit_code() == ExitCode::Unreachable
        && matches!(error, OpsError::Sides(SidesError::Sql { side: "publisher", .. }))
}

fn no(args: &CutoverArgs, shut: Shut) -> Result<ExitCode, OpsError> {
    let changed = if shut.writes_still_stopped {
        "The writes are STILL STOPPED: see above how to let them go on."
    } else if shut.sequences_moved && args.cycle_back {
        "Sequences of the subscriber were moved: forwards, which harms nothing; those with CYCLE to the publisher's \
         state, perhaps back. Nothing else was changed."
    } else if shut.sequences_moved {
        "Sequences of the subscriber were moved forwards, which harms nothing; nothing else was changed."
    } else if args.heartbeat.is_some() {
        "Nothing was changed, but a heartbeat row may have been written."
    } else {
        "Nothing was changed."
    };
    let told = (shut.sequences_moved, shut.writes_still_stopped);
    match shut.stop {
        Stop::Blocked(blocker) => {
            if args.common.json {
                verb::print_json(&serde_json::json!({
                    "schema": "seqshadow.blocker/1",
                    "blocker": blocker,
                    "sequences_moved": shut.sequences_moved,
                    "writes_still_stopped": shut.writes_still_stopped,
                }))?;
            } else {
                let what = hang(&format!("  {}", blocker.what), 2);
                let action = hang(&format!("  {}", blocker.action), 2);
                let changed = hang(changed, 0);
                let head = hang(&format!("NO: {} (database {})", blocker.code, blocker.database), 2);
                verb::print(&format!("\n{head}{what}{action}{changed}"))?;
            }
            Ok(if blocker.code == "another-cutover" { ExitCode::Refused } else { ExitCode::NotReady })
        }
        Stop::Failed(error) => {
            complain(&format!("no certificate. {changed}"));
            complain(&error);
            if is_publisher_unreachable(&error) {
                complain(&LOST);
            }
            Ok(failed(args, &error, error.exit_code(), &told))
        }
        Stop::Interrupted(signal) => {
            let what = format!("interrupted by {signal}, no certificate");
            complain(&format!("{what}. {changed}"));
            Ok(failed(args, &what, ExitCode::NotReady, &told))
        }
    }
}

/// For programs also what was changed by then.
fn failed(
    args: &CutoverArgs,
    error: &dyn std::fmt::Display,
    code: ExitCode,
    (moved, stopped): &(bool, bool),
) -> ExitCode {
    if args.common.json {
        let failure = Failure::new(error, code);
        Failure { sequences_moved: Some(*moved), writes_still_stopped: Some(*stopped), ..failure }.print();
    }
    code
}
