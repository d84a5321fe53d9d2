//! Removes what `reverse` has made, and nothing else.
//!
//! In: what was found. Out: the steps that were taken. The publication goes last, because its comment is what tells that
//! the rest is ours: a run that is killed is finished by the next one.

use std::time::{Duration, Instant};

use super::conditions::Obstacle;
use super::ends::{Ends, NEW, OLD, PAUSE, refusal};
use super::found::SlotPiece;
use super::statements;
use super::{Reversed, Step};
use crate::sides::SidesError;
use crate::types::quote_identifier;

/// How long a sidecar that was stopped may be seen still.
const SIDECAR_PATIENCE: Duration = Duration::from_secs(3);

/// What would be removed, in this order.
pub(super) async fn planned(ends: &Ends) -> Result<Vec<Step>, SidesError> {
    let (name, found) = (&ends.names.object, &ends.found);
    let mut steps = Vec::new();
    if found.subscription.mark().is_some() {
        steps.push(Step::planned(
            "old",
            format!("drop subscription {name}"),
            statements::drop_subscription(name),
        ));
    }
    if matches!(found.slot, SlotPiece::Making | SlotPiece::Ready { .. }) {
        steps.push(Step::planned("new", format!("drop slot {name}"), statements::drop_slot(name)));
    }
    if found.begun() {
        if sidecar_slot(ends).await? == SidecarSlot::Free {
            let name = &ends.names.sidecar;
            let what = format!("drop slot {name} of the sidecar that ran the other way");
            steps.push(Step::planned("new", what, statements::drop_slot(name)));
        }
        if let Some(forward) = found.forward.as_ref().filter(|f| !f.enabled && found.forward_slot.is_some()) {
            let what = format!("enable subscription {} again", quote_identifier(&forward.name));
            steps.push(Step::planned("new", what, statements::enable(&forward.name)));
        }
        let sql = statements::drop_publication(&ends.names);
        steps.push(Step::planned("new", format!("drop publication {name}"), sql));
    }
    Ok(steps)
}

/// Removes it.
///
/// # Errors
/// Where a connection is lost or a server refuses.
pub(super) async fn undo(ends: &mut Ends, wait: Duration, done: &mut Reversed) -> Result<(), SidesError> {
    let name = ends.names.object.clone();
    let made_subscription = ends.found.subscription.mark().is_some();
    if made_subscription {
        OLD.run(&ends.old.client, &statements::drop_subscription(&name)).await?;
        done.steps.push(Step::done("old", format!("dropped subscription {name}")));
    }
    if matches!(ends.found.slot, SlotPiece::Making | SlotPiece::Ready { .. }) {
        if let Some(obstacle) = free_slot(ends, wait).await? {
            done.obstacles.push(obstacle);
            return Ok(());
        }
        NEW.run(&ends.new.client, &statements::drop_slot(&name)).await?;
        done.steps.push(Step::done("new", format!("dropped slot {name}")));
    }
    if !ends.found.begun() {
        return Ok(());
    }
    if let Some(forward) = ends.found.forward.as_ref().filter(|forward| !forward.enabled) {
        let shown = quote_identifier(&forward.name);
        if ends.found.forward_slot.is_some() {
            NEW.run(&ends.new.client, &statements::enable(&forward.name)).await?;
            done.steps.push(Step::done("new", format!("enabled subscription {shown} again")));
        } else {
            done.notes.push(format!(
                "subscription {shown} is left on the new server, disabled and without its slot on the old one: {}",
                statements::drop_subscription(&forward.name).replace('\n', " ")
            ));
        }
    } else if made_subscription {
        done.notes.push(
            "what is written on the new server from now on does not go to the old one; the forward subscription is gone, \
             and is not made again"
                .to_owned(),
        );
    }
    drop_sidecar_slot(ends, done).await?;
    NEW.run(&ends.new.client, &statements::drop_publication(&ends.names)).await?;
    done.steps.push(Step::done("new", format!("dropped publication {name}")));
    Ok(())
}

/// The slot of the sidecar that runs the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SidecarSlot {
    Absent,
    Free,
    InUse,
    /// Something else of that name.
    Foreign,
}

async fn sidecar_slot(ends: &Ends) -> Result<SidecarSlot, SidesError> {
    let sql = "SELECT coalesce(plugin = 'pgoutput' AND database = current_database() AND NOT temporary, false), active
                 FROM pg_replication_slots WHERE slot_name = $1";
    let rows = NEW.rows(&ends.new.client, sql, &[&ends.names.sidecar]).await?;
    let Some(row) = rows.first() else { return Ok(SidecarSlot::Absent) };
    let (is_ours, active): (bool, bool) = (NEW.get(row, 0)?, NEW.get(row, 1)?);
    Ok(match (is_ours, active) {
        (false, _) => SidecarSlot::Foreign,
        (true, true) => SidecarSlot::InUse,
        (true, false) => SidecarSlot::Free,
    })
}

/// Drops it, unless that sidecar still runs: without the way back it would hold back WAL for nothing.
async fn drop_sidecar_slot(ends: &Ends, done: &mut Reversed) -> Result<(), SidesError> {
    let name = &ends.names.sidecar;
    let drop = statements::drop_slot(name);
    // The server notices a moment later that a sidecar was stopped.
    let until = Instant::now() + SIDECAR_PATIENCE;
    let mut found = sidecar_slot(ends).await?;
    while found == SidecarSlot::InUse && Instant::now() < until {
        tokio::time::sleep(PAUSE).await;
        found = sidecar_slot(ends).await?;
    }
    let why = match found {
        SidecarSlot::Absent | SidecarSlot::Foreign => return Ok(()),
        SidecarSlot::InUse => "it still runs: stop it, then".to_owned(),
        SidecarSlot::Free => match NEW.run(&ends.new.client, &drop).await {
            Ok(()) => {
                let what = format!("dropped slot {name} of the sidecar that ran the other way");
                done.steps.push(Step::done("new", what));
                return Ok(());
            }
            Err(error) => format!("{}; when it is stopped,", refusal(error)?),
        },
    };
    done.notes.push(format!(
        "slot {name} of the sidecar that ran the other way is left on the new server, and holds back WAL there; {why} {drop}"
    ));
    Ok(())
}

/// Says on which of the servers new sessions begin read-only still, as a cutover has left it.
pub(super) async fn read_only(ends: &Ends, done: &mut Reversed) -> Result<(), SidesError> {
    let servers = [(OLD, &ends.old.client, "old"), (NEW, &ends.new.client, "new")];
    for (side, client, which) in servers {
        if let Some(database) = crate::ops::read_only::database(side, client).await? {
            done.notes.push(crate::ops::read_only::note(&format!("on the {which} server"), &database));
        }
    }
    Ok(())
}

/// Waits until nobody uses the reverse slot: the subscription's worker may be about to end, and one that is being made
/// belongs to a session that is.
async fn free_slot(ends: &Ends, wait: Duration) -> Result<Option<Obstacle>, SidesError> {
    let until = Instant::now() + wait;
    let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1 AND active";
    loop {
        let rows = NEW.rows(&ends.new.client, sql, &[&ends.names.object]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        if Instant::now() > until {
            let pid: Option<i32> = NEW.get(row, 0)?;
            return Ok(Some(Obstacle::not_ready(
                format!("slot {} is in use on the new server", ends.names.object),
                format!(
                    "end who uses it, and run this again: SELECT pg_terminate_backend({});",
                    pid.unwrap_or_default()
                ),
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
