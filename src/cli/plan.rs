//! `seqshadow plan`. See [`crate::ops::plan`].

use std::process::ExitCode as ProcessExit;

use clap::Args;

use super::args::VerbArgs;
use super::verb;
use crate::exit::ExitCode;
use crate::ops::plan::Plan;
use crate::ops::survey::{Depth, Surveyor};
use crate::sides::{Needs, Sides};

/// Flags of `plan`.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    /// Set a CYCLE sequence that is further than the publisher's back to its state, too
    #[arg(long)]
    cycle_back: bool,
    #[command(flatten)]
    common: VerbArgs,
}

/// Exit 0, or 1 where a sequence cannot be brought up.
#[must_use]
pub fn run(args: &PlanArgs) -> ProcessExit {
    verb::run(&args.common, async |settings, environment| {
        let sides = Sides::find(&settings, &environment, Needs::ADDRESSES).await?;
        let mut surveyor = Surveyor::open(&sides, &settings).await?.cycling_back(args.cycle_back);
        let survey = surveyor.survey(Depth::Indexes).await?;
        let plan = Plan::of(&survey, settings.lead);
        if args.common.json {
            verb::print_json(&plan)?;
        } else {
            let publisher = format!("{} {}", surveyor.publisher_peer(), sides.publisher_conninfo.dbname());
            let subscriber = format!("{} {}", sides.subscriber.peer, sides.subscriber_conninfo.dbname());
            verb::print(&plan.script(&publisher, &subscriber))?;
        }
        Ok(if plan.held.is_empty() { ExitCode::Success } else { ExitCode::NotReady })
    })
}
