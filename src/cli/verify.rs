//! `seqshadow verify`. See [`crate::ops::verify`].

use std::process::ExitCode as ProcessExit;

use clap::Args;

use super::args::VerbArgs;
use super::show::{Align, Listing, count, maybe};
use super::verb;
use super::verify_data::{self, DataArgs};
use crate::demo::text::hang;
use crate::exit::ExitCode;
use crate::ops::survey::{Depth, Surveyor};
use crate::ops::verify::{AS_PUBLISHER, PAST_PUBLISHER, PAST_ROWS, Proof, Verification};
use crate::sides::{Needs, Sides};

/// So many columns of a sequence are named.
const COLUMNS_NAMED: usize = 3;

/// Flags of `verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Scan the columns that have no index, and ids inside text, however long it takes
    #[arg(long)]
    full: bool,
    /// Show every sequence, not only those that are not proven
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    common: VerbArgs,
    // Last, as its heading goes on to what follows.
    #[command(flatten)]
    data: DataArgs,
}

/// Exit 0 when everything is proven, 1 with a list otherwise.
#[must_use]
pub fn run(args: &VerifyArgs) -> ProcessExit {
    if args.data.data {
        return verify_data::run(&args.common, &args.data);
    }
    verb::run(&args.common, async |settings, environment| {
        let sides = Sides::find(&settings, &environment, Needs::ADDRESSES).await?;
        let mut surveyor = Surveyor::open(&sides, &settings).await?;
        let depth = if args.full { Depth::Scan } else { Depth::Indexes };
        let survey = surveyor.survey(depth).await?;
        let verification = Verification::of(&survey);
        if args.common.json {
            verb::print_json(&verification)?;
        } else {
            verb::print(&text(&verification, args.all))?;
        }
        Ok(if verification.proven { ExitCode::Success } else { ExitCode::NotReady })
    })
}

fn text(verification: &Verification, all: bool) -> String {
    let mut listing = Listing::new(&[
        ("sequence", Align::Left),
        ("furthest id", Align::Right),
        ("next value", Align::Right),
        ("margin", Align::Right),
        ("verdict", Align::Left),
    ]);
    let is_open = |proof: &&Proof| matches!(proof.verdict, "behind" | "unproven");
    for proof in verification.sequences.iter().filter(|proof| all || is_open(proof)) {
        let margin = proof.margin.and_then(|margin| i64::try_from(margin).ok());
        listing.row([
            proof.sequence.clone(),
            maybe(proof.furthest_id),
            maybe(proof.next_value),
            maybe(margin),
            proof.verdict.replace('_', " "),
        ]);
    }
    let mut out = if listing.is_empty() { String::new() } else { listing.render() + "\n" };
    for proof in verification.sequences.iter().filter(is_open) {
        let reason = proof.reason.clone().unwrap_or_default();
        out += &hang(&format!("{}{}: {reason}", proof.sequence, columns(proof)), 2);
    }
    for proof in &verification.sequences {
        if let Some(ids) = proof.set_aside_text() {
            out += &hang(&format!("{}: set aside, and so not part of the proof: {ids}", proof.sequence), 2);
        }
    }
    for lesser in verification.sequences.iter().filter_map(Proof::lesser) {
        out += &hang(&lesser, 2);
    }
    out + &summary(verification)
}

/// How many stand where.
fn summary(verification: &Verification) -> String {
    let with = |verdict| verification.sequences.iter().filter(|proof| proof.verdict == verdict).count();
    let past = with("past");
    let (behind, unproven, excluded) = (with("behind"), with("unproven"), with("excluded"));
    let excluded = if excluded > 0 { format!(", {excluded} excluded") } else { String::new() };
    let lsn = &verification.publisher_lsn;
    let lesser = [
        (with(PAST_PUBLISHER), "past the publisher's own"),
        (with(PAST_ROWS), "past the ids in its tables"),
        (with(AS_PUBLISHER), "at the publisher's state (CYCLE)"),
    ];
    let only: String = lesser
        .iter()
        .filter(|(some, _)| *some > 0)
        .map(|(some, what)| format!("{} {what}, and no more is proven\n", count(*some, "sequence")))
        .collect();
    let told = if !verification.proven {
        let past = lesser.iter().fold(past, |sum, (some, _)| sum.saturating_add(*some));
        format!("NOT proven: {behind} behind, {unproven} unproven; {past} past, up to {lsn}{excluded}\n")
    } else if past > 0 {
        format!(
            "{} proven: every next value is past every id up to {lsn}{excluded}\n",
            count(past, "sequence")
        )
    } else {
        format!("no next value is behind, up to {lsn}{excluded}\n")
    };
    only + &told
}

/// The first columns of a sequence, in brackets.
fn columns(proof: &Proof) -> String {
    let shown = proof.columns.iter().take(COLUMNS_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match proof.columns.len().saturating_sub(COLUMNS_NAMED) {
        _ if shown.is_empty() => String::new(),
        0 => format!(" ({shown})"),
        more => format!(" ({shown} and {more} more)"),
    }
}
