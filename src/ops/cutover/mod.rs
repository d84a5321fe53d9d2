//! `seqshadow cutover`: the gate. It says yes with a certificate, or no and the first thing that stands against it.
//!
//! In this order, for all databases of one call together:
//!
//! 1. everything that can be known before the pause: the applier works and has caught up, no prepared transaction, every
//!    sequence can be proven or moved;
//! 2. [`witness`] takes its place, so that no published row goes unseen from here on;
//! 3. the writes are stopped ([`writes`]), or the operator has done so; nobody has a transaction that could still commit;
//! 4. the fence: a logical message on the publisher; the applier has durably applied all that was committed before it
//!    ([`applier`]), and so has our own sidecar, where one runs;
//! 5. the last look at every sequence and table of both sides, the last advance, and the proof;
//! 6. a second look at the publisher's sequences and a second word of the witness: nothing has moved since the fence.
//!
//! Until the fifth nothing is changed but what [`writes`] undoes. What the fifth changes is only ever forwards.

pub mod applier;
pub mod certificate;
mod gate;
pub mod lost;
pub mod stop;
mod witness;
pub mod writes;

use std::time::{Duration, Instant};

use applier::Applier;
use certificate::{Certificate, Timing};
use gate::Gate;
use stop::{Blocker, Shut, Stop};

use crate::config::Settings;
use crate::conninfo::Environment;
use crate::ops::OpsError;
use crate::ops::survey::Depth;
use crate::sides::{Needs, Sides};
use crate::types::QualifiedName;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// How the application's writes are stopped.
    pub writes: WritesStopped,
    /// How long anything is waited for, all in all.
    pub wait: Duration,
    /// No lead: each sequence gets the publisher's own state, where it is not past it already.
    pub exact: bool,
    /// A CYCLE sequence that is further than the publisher's is set back to its state, too.
    pub cycle_back: bool,
    pub depth: Depth,
    /// Who applies, where it is not the subscription.
    pub applier: Option<AppliedBy>,
    /// Only what can be known before the pause.
    pub dry_run: bool,
}

/// What keeps the application from writing during the cutover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritesStopped {
    /// We make the database read-only by default and end its sessions.
    ByUs,
    /// It must be read-only by default already.
    BySetting,
    /// Something else, which only the operator knows of.
    AsTheOperatorSays,
}

/// Another applier than a native subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppliedBy {
    Slot(String),
    Heartbeat(QualifiedName),
}

/// What came of it.
#[derive(Debug)]
pub enum Answer {
    Yes(Box<Certificate>),
    /// Nothing stands against it now, of these databases; of a dry run.
    NothingAgainstIt(Vec<String>),
}

/// Whoever watches a cutover, and keeps its certificate.
pub trait Watch {
    /// Puts the certificate where it belongs. If that fails there is none, and everything is undone.
    ///
    /// # Errors
    /// Why it cannot be kept.
    fn keep(&mut self, certificate: &Certificate) -> Result<(), OpsError>;

    /// A step is done.
    fn step(&mut self, timing: &Timing);
    /// Something a person should know.
    fn note(&mut self, text: &str);
}

/// Cuts `databases` over together: all or none. `interrupted` ends it early, and whatever was stopped goes on.
///
/// # Errors
/// Why there is no certificate. By then the writes go on again, or the error says how to let them.
pub async fn cutover(
    databases: &[Settings],
    environment: &Environment,
    request: &Request,
    watch: &mut dyn Watch,
    interrupted: impl Future<Output = &'static str>,
) -> Result<Answer, Shut> {
    let mut sides = Vec::new();
    for settings in databases {
        let found = Sides::find(settings, environment, Needs::PUBLICATIONS).await;
        sides.push(found.map_err(Stop::from)?);
    }
    let mut gates = Vec::new();
    for (settings, sides) in databases.iter().zip(&sides) {
        let applier = whose(settings, sides, request)?;
        gates.push(Gate::open(settings, sides, applier, request).await?);
    }
    let outcome = tokio::select! {
        outcome = pass(&mut gates, request, watch) => outcome,
        signal = interrupted => Err(Stop::Interrupted(signal)),
        () = tokio::time::sleep(request.wait + ANSWER_PATIENCE) => Err(no_answer(&gates).await.into()),
    };
    let mut writes_still_stopped = false;
    if outcome.is_err() {
        for gate in &mut gates {
            writes_still_stopped |= !gate.undo(watch).await;
        }
    }
    let sequences_moved = gates.iter().any(Gate::has_moved);
    outcome.map_err(|stop| Shut { stop, sequences_moved, writes_still_stopped })
}

/// The time is over while a question is open.
async fn no_answer(gates: &[Gate<'_>]) -> Blocker {
    for gate in gates {
        if let Some(side) = gate.silent().await {
            return Blocker {
                database: gate.database().to_owned(),
                ..Blocker::new(
                    "no-answer",
                    format!("the {side} does not answer"),
                    format!("see why the {side} hangs, and try again"),
                )
            };
        }
    }
    Blocker::new(
        "no-answer",
        "both servers answer, but the work was not done in the time of --wait",
        "wait longer with --wait",
    )
}

fn whose(settings: &Settings, sides: &Sides, request: &Request) -> Result<Applier, Stop> {
    match &request.applier {
        Some(AppliedBy::Slot(slot)) if settings.slot.as_ref().is_some_and(|own| own.as_str() == slot) => {
            return Err(applier::is_seqshadow(slot).into());
        }
        Some(AppliedBy::Slot(slot)) => return Ok(Applier::Slot(slot.clone())),
        Some(AppliedBy::Heartbeat(table)) => return Ok(Applier::Heartbeat(table.clone())),
        None => {}
    }
    let Some(subscription) = &sides.chosen else {
        return Err(Blocker::new(
            "no-applier",
            "nobody is known to apply the rows: the subscriber has no subscription to go by",
            "name the applier's slot with --applier-slot, or a published table with --heartbeat",
        )
        .into());
    };
    let Some(slot) = &subscription.slot else {
        return Err(Blocker::new(
            "subscription-without-slot",
            format!("subscription {} has no slot, so that nothing is applied", subscription.name),
            "ALTER SUBSCRIPTION … SET (slot_name = …) on the subscriber",
        )
        .into());
    };
    Ok(Applier::Subscription { name: subscription.name.clone(), slot: slot.clone() })
}

/// An answer that is under way when the time of `--wait` is over may take so much longer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Measures the steps.
struct Clock<'w> {
    watch: &'w mut dyn Watch,
    last: Instant,
    timings: Vec<Timing>,
}

impl Clock<'_> {
    fn step(&mut self, step: &'static str, paused: bool) {
        let timing = Timing { step, milliseconds: millis(self.last.elapsed()), paused };
        self.last = Instant::now();
        self.watch.step(&timing);
        self.timings.push(timing);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn pass(gates: &mut [Gate<'_>], request: &Request, watch: &mut dyn Watch) -> Result<Answer, Stop> {
    let give_up = Instant::now() + request.wait;
    let by_us = request.writes == WritesStopped::ByUs;
    let mut clock = Clock { watch, last: Instant::now(), timings: Vec::new() };
    for gate in &mut *gates {
        let looked = gate.before_the_pause(request.writes, give_up).await;
        gate.named(looked)?;
    }
    clock.step("looked at everything before the pause", false);
    if request.dry_run {
        for gate in &*gates {
            // Last: what else stands against it is more worth to know.
            let rehearsed = gate.rehearse(request.writes, give_up).await;
            gate.named(rehearsed)?;
        }
        // Its slot goes with its connection.
        for gate in &mut *gates {
            let placed = gate.place_witness(give_up).await;
            gate.named(placed)?;
        }
        let names = gates.iter().map(|gate| gate.database().to_owned());
        return Ok(Answer::NothingAgainstIt(names.collect()));
    }
    for gate in &mut *gates {
        let placed = gate.place_witness(give_up).await;
        gate.named(placed)?;
    }
    clock.step("a witness of every published row is in place", false);
    let paused = Instant::now();
    for gate in &mut *gates {
        let stopped = gate.stop_writes(request.writes, give_up).await;
        gate.named(stopped)?;
    }
    let said = if by_us { "the writes are stopped" } else { "nobody writes" };
    clock.step(said, true);
    for gate in &mut *gates {
        let fenced = gate.fence(give_up).await;
        gate.named(fenced)?;
    }
    for gate in &mut *gates {
        let applied = gate.wait_applied(give_up).await;
        gate.named(applied)?;
    }
    clock.step("all that was committed before the fence is applied", true);
    for gate in &mut *gates {
        let looked = gate.last_look().await;
        gate.named(looked)?;
    }
    clock.step("the last look at sequences and tables of both sides", true);
    // Only now, when no database stands against it, is anything moved.
    for gate in &mut *gates {
        let advanced = gate.advance().await;
        gate.named(advanced)?;
    }
    clock.step("the last advance, durable", true);
    for gate in &mut *gates {
        let proven = gate.prove(give_up).await;
        gate.named(proven)?;
    }
    clock.step("proven: nothing has moved on the publisher since the fence", true);
    let pause = paused.elapsed();
    let databases = gates.iter_mut().map(Gate::certify).collect();
    let certificate =
        Certificate::new(databases, std::mem::take(&mut clock.timings), millis(pause), request.exact);
    clock.watch.keep(&certificate)?;
    Ok(Answer::Yes(Box::new(certificate)))
}
