//! Removes what `reverse` has made, and nothing else.
//!
//! In: what was found. Out: the steps that were taken. The publication goes last, because its comment is what tells that
//! the rest is ours: a run that is killed is finished by the next one.

use std::time::{Duration, Instant};

use super::conditions::Obstacle;
use super::ends::{Ends, NEW, OLD, PAUSE};
use super::found::SlotPiece;
use super::statements;
use super::{Reversed, Step};
use crate::sides::SidesError;
use crate::types::quote_identifier;

/// What would be removed, in this order.
pub(super) fn planned(ends: &Ends) -> Vec<Step> {
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
        if let Some(forward) = found.forward.as_ref().filter(|f| !f.enabled && found.forward_slot.is_some()) {
            let what = format!("enable subscription {} again", quote_identifier(&forward.name));
            steps.push(Step::planned("new", what, statements::enable(&forward.name)));
        }
        let sql = statements::drop_publication(&ends.names);
        steps.push(Step::planned("new", format!("drop publication {name}"), sql));
    }
    steps
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
    NEW.run(&ends.new.client, &statements::drop_publication(&ends.names)).await?;
    done.steps.push(Step::done("new", format!("dropped publication {name}")));
    let sidecar = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
    if NEW.value(&ends.new.client, sidecar, &[&ends.names.sidecar]).await? {
        done.notes.push(format!(
            "slot {0} of the sidecar that ran the other way is left on the new server, and holds back WAL there: stop it, \
             then {1}",
            ends.names.sidecar,
            statements::drop_slot(&ends.names.sidecar)
        ));
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
