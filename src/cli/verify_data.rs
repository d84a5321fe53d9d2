//! `seqshadow verify --data`. See [`crate::ops::compare`].

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode as ProcessExit;
use std::time::{Duration, Instant};

use clap::Args;

use super::args::VerbArgs;
use super::show::{self, Align, Listing, count, number};
use super::verb;
use crate::config::{SequencePattern, parse_duration};
use crate::demo::text::hang;
use crate::exit::ExitCode;
use crate::ops::compare::{self, Comparison, Difference, Kind, Options, Status, Step, TableReport};
use crate::sides::{Needs, Sides};

/// Flags of `verify` that concern the comparison of rows.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Comparing rows (--data)")]
pub struct DataArgs {
    /// Compare the rows of the published tables instead, by count and checksum
    #[arg(long, conflicts_with_all = ["full", "all"])]
    pub(super) data: bool,
    /// Compare these tables only, repeatable
    #[arg(long, value_name = "PATTERN", requires = "data", value_parser = pattern)]
    table: Vec<SequencePattern>,
    /// Leave these tables out, repeatable
    #[arg(long, value_name = "PATTERN", requires = "data", value_parser = pattern)]
    exclude_table: Vec<SequencePattern>,
    /// Never use more connections to one server than this
    #[arg(short, long, value_name = "N", default_value_t = 2, requires = "data",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Compare about so many rows at a time
    #[arg(long, value_name = "N", default_value_t = 50_000, requires = "data",
          value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    chunk_rows: u32,
    /// Name so many rows of each table that differs
    #[arg(long, value_name = "N", default_value_t = 10, requires = "data",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Compare only this share of the chunks
    #[arg(long, value_name = "PERCENT", requires = "data", value_parser = percent)]
    sample: Option<f64>,
    /// Another seed takes another sample
    #[arg(long, value_name = "N", default_value_t = 0, requires = "data")]
    seed: u64,
    /// Keep what was found equal in this file, and go on from it
    #[arg(long, value_name = "FILE", requires = "data")]
    state: Option<PathBuf>,
    /// Wait so long for the subscription, and for rows that change all the time
    #[arg(long, value_name = "TIME", default_value = "1min", requires = "data", value_parser = time)]
    wait: Duration,
}

fn pattern(text: &str) -> Result<SequencePattern, String> {
    text.parse().map_err(|_| format!("expected a table pattern such as orders_* or app.orders, got {text:?}"))
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim().parse::<f64>().ok();
    let wanted = number.filter(|percent| *percent > 0.0 && *percent <= 100.0);
    wanted.ok_or_else(|| format!("expected percent, more than 0 and at most 100, got {text:?}"))
}

fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

impl DataArgs {
    fn options(&self) -> Options {
        Options {
            tables: self.table.clone(),
            exclude_tables: self.exclude_table.clone(),
            chunk_rows: self.chunk_rows,
            jobs: self.jobs.into(),
            limit: self.limit.into(),
            sample: self.sample.filter(|percent| *percent < 100.0),
            seed: self.seed,
            state: self.state.clone(),
            wait: self.wait,
        }
    }
}

/// Exit 0 when every table is equal, 1 with a list otherwise.
#[must_use]
pub fn run(common: &VerbArgs, args: &DataArgs) -> ProcessExit {
    verb::run(common, async |settings, environment| {
        let begun = Instant::now();
        let sides = Sides::find(&settings, &environment, Needs::PUBLICATIONS).await?;
        let bar = RefCell::new(show::progress("chunks compared"));
        let progress = |step: Step| {
            let bar = bar.borrow();
            match step {
                Step::Chunks { done, total } => {
                    bar.set_length(total as u64);
                    bar.set_position(done as u64);
                }
                Step::Again(open) => bar.set_message(format!("{} again", count(open, "difference"))),
            }
        };
        let comparison = compare::compare(&sides, &settings, &args.options(), progress).await?;
        bar.borrow().finish_and_clear();
        if common.json {
            verb::print_json(&comparison)?;
        } else {
            verb::print(&text(&comparison, begun.elapsed().as_secs_f64()))?;
        }
        Ok(if comparison.equal { ExitCode::Success } else { ExitCode::NotReady })
    })
}

fn text(comparison: &Comparison, seconds: f64) -> String {
    let mut listing = Listing::new(&[
        ("table", Align::Left),
        ("rows", Align::Right),
        ("on subscriber", Align::Right),
        ("chunks", Align::Right),
        ("status", Align::Left),
    ]);
    listing.keep_whole(4);
    let rows = |rows: u64| number(i64::try_from(rows).unwrap_or(i64::MAX));
    for table in &comparison.tables {
        let is_read = table.chunks > 0;
        let maybe = |text: String| if is_read { text } else { "–".to_owned() };
        listing.row([
            table.table.clone(),
            maybe(rows(table.publisher_rows)),
            maybe(rows(table.subscriber_rows)),
            maybe(chunks(table)),
            table.status.as_str().to_owned(),
        ]);
    }
    let mut out = listing.render() + "\n";
    for table in &comparison.tables {
        out += &explanation(table);
    }
    if !comparison.progress_known {
        out += &hang(
            "The publisher does not have the subscription's slot, so nobody tells how far it has applied: what is \
             called different stayed so until --wait had passed.",
            0,
        );
    }
    out + &conclusion(comparison, seconds)
}

fn chunks(table: &TableReport) -> String {
    let total = number(i64::from(table.chunks));
    let compared = i64::try_from(table.chunks_compared).unwrap_or(i64::MAX);
    if compared == i64::from(table.chunks) { total } else { format!("{} of {total}", number(compared)) }
}

/// What is to be said of one table, if anything.
fn explanation(table: &TableReport) -> String {
    let reason = table.reason.iter().map(|reason| hang(&format!("{}: {reason}", table.table), 2));
    let mut out: String = reason.collect();
    if table.status == Status::NotCompared || table.reason.is_some() && table.key.is_empty() {
        return out;
    }
    if table.key.is_empty() && !table.differences.is_empty() {
        let of = |kind| table.differences.iter().filter(|difference| difference.kind == kind).count();
        let at_least = if table.more { "at least " } else { "" };
        return hang(
            &format!(
                "{}: {at_least}{} missing, {} extra; it has no key by which they could be named",
                table.table,
                count(of(Kind::Missing), "row"),
                of(Kind::Extra)
            ),
            2,
        );
    }
    for difference in &table.differences {
        out += &hang(&format!("{}: {}", table.table, sentence(difference)), 2);
    }
    if table.more {
        out += &hang(&format!("{}: and more; --limit names more of them", table.table), 2);
    }
    out
}

fn sentence(difference: &Difference) -> String {
    let key: Vec<String> =
        difference.key.iter().flatten().map(|(column, value)| format!("{column} = {value}")).collect();
    let what = match difference.kind {
        Kind::Changed => "is not the same on the subscriber",
        Kind::Missing => "is missing on the subscriber",
        Kind::Extra => "is on the subscriber only",
    };
    format!("{} {what}", key.join(", "))
}

fn conclusion(comparison: &Comparison, seconds: f64) -> String {
    let with = |status| comparison.tables.iter().filter(|table| table.status == status).count();
    let (equal, differs, unknown) = (with(Status::Equal), with(Status::Differs), with(Status::NotCompared));
    let resumed: u64 = comparison.tables.iter().map(|table| table.chunks_resumed).sum();
    let resumed = match resumed {
        0 => String::new(),
        _ => format!("; {} taken over", count(usize::try_from(resumed).unwrap_or(usize::MAX), "chunk")),
    };
    let sample = comparison.sample.map_or_else(String::new, |percent| format!(" in a sample of {percent} %"));
    let lsn = &comparison.publisher_lsn;
    if comparison.equal {
        return format!("{} equal{sample}, at {lsn}{resumed}: {seconds:.2} s\n", count(equal, "table"));
    }
    hang(
        &format!(
            "NOT proven equal{sample}: {} {}, {unknown} not compared; {equal} equal, at {lsn}{resumed}: \
             {seconds:.2} s",
            count(differs, "table"),
            if differs == 1 { "differs" } else { "differ" }
        ),
        2,
    )
}
