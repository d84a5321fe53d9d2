//! `seqshadow sync`. See [`crate::ops::sync`].

use std::process::ExitCode as ProcessExit;
use std::time::Instant;

use clap::Args;

use super::args::VerbArgs;
use super::show::{self, Align, Listing, count, maybe};
use super::verb;
use crate::demo::text::hang;
use crate::exit::ExitCode;
use crate::ops::plan::Plan;
use crate::ops::survey::{Depth, Surveyor};
use crate::ops::sync::Synced;
use crate::sides::{Needs, Sides};

/// Flags of `sync`.
#[derive(Args, Clone, Debug)]
pub struct SyncArgs {
    /// Only say what would be moved
    #[arg(long)]
    dry_run: bool,
    /// Name each sequence that was moved
    #[arg(short, long)]
    all: bool,
    /// Set a CYCLE sequence that is further than the publisher's back to its state, too
    #[arg(long)]
    cycle_back: bool,
    #[command(flatten)]
    common: VerbArgs,
}

/// Exit 0 when every sequence is where it should be, 1 with a list otherwise.
#[must_use]
pub fn run(args: &SyncArgs) -> ProcessExit {
    verb::run(&args.common, async |settings, environment| {
        let begun = Instant::now();
        let sides = Sides::find(&settings, &environment, Needs::ADDRESSES).await?;
        let mut surveyor = Surveyor::open(&sides, &settings).await?.cycling_back(args.cycle_back);
        let mut survey = surveyor.survey(Depth::Indexes).await?;
        if args.dry_run {
            let plan = Plan::of(&survey, settings.lead);
            if args.common.json {
                verb::print_json(&plan)?;
            } else {
                verb::print(&planned(&plan))?;
            }
            return Ok(if plan.held.is_empty() { ExitCode::Success } else { ExitCode::NotReady });
        }
        let bar = show::progress("sequences");
        let progress = |done: usize, total: usize| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let synced = surveyor.sync(&mut survey, settings.lead, progress).await?;
        bar.finish_and_clear();
        if args.common.json {
            verb::print_json(&synced)?;
        } else {
            verb::print(&text(&synced, args.all, begun.elapsed().as_secs_f64()))?;
        }
        Ok(if synced.failed.is_empty() { ExitCode::Success } else { ExitCode::NotReady })
    })
}

fn text(synced: &Synced, all: bool, seconds: f64) -> String {
    let mut out = String::new();
    if all && !synced.moved.is_empty() {
        let mut listing = Listing::new(&[
            ("sequence", Align::Left),
            ("furthest id", Align::Right),
            ("next before", Align::Right),
            ("next value", Align::Right),
        ]);
        for one in &synced.moved {
            listing.row([
                one.sequence.clone(),
                maybe(one.furthest_id),
                maybe(one.next_before),
                maybe(one.next_value),
            ]);
        }
        out = listing.render() + "\n";
    }
    for one in &synced.failed {
        out += &hang(&format!("{}: {}", one.sequence, one.reason), 2);
    }
    let excluded =
        if synced.excluded > 0 { format!(", {} excluded", synced.excluded) } else { String::new() };
    let failed =
        if synced.failed.is_empty() { String::new() } else { format!(", {} NOT", synced.failed.len()) };
    out + &format!(
        "{} moved, {} in place{failed}{excluded}, up to {}: {seconds:.2} s\n",
        count(synced.moved.len(), "sequence"),
        synced.in_place,
        synced.publisher_lsn
    )
}

fn planned(plan: &Plan) -> String {
    let mut listing = Listing::new(&[
        ("sequence", Align::Left),
        ("furthest id", Align::Right),
        ("next value", Align::Right),
        ("last value to be", Align::Right),
    ]);
    for one in &plan.moves {
        listing.row([
            one.sequence.clone(),
            maybe(one.furthest_id),
            maybe(one.next_value),
            maybe(Some(one.to)),
        ]);
    }
    let mut out = if listing.is_empty() { String::new() } else { listing.render() + "\n" };
    for one in &plan.held {
        out += &hang(&format!("{}: {}", one.sequence, one.reason), 2);
    }
    out + &format!(
        "{} to move, {} in place, {} held, {} excluded; nothing was changed\n",
        count(plan.moves.len(), "sequence"),
        plan.in_place,
        plan.held.len(),
        plan.excluded
    )
}
