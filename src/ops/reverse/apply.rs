//! Makes the way back, step by step.
//!
//! In: both servers, locked. Out: the steps that were taken, or what stands against it with nothing changed.
//!
//! The order is chosen so that a kill between any two steps loses no row and is finished by the next run:
//!
//! 1. the publication on the new server, whose comment remembers the forward subscription;
//! 2. the forward subscription is disabled, so that what is in the reverse slot cannot have come from the old server;
//! 3. the reverse slot: from here on every write on the new server goes back;
//! 4. the proof, from the forward slot itself, that it has nothing left to send; only then that slot is dropped;
//! 5. the forward subscription is dropped;
//! 6. the subscription on the old server.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::conditions::{Obstacle, list, unready};
use super::connection::Route;
use super::ends::{Ends, NEW, OLD, PAUSE, refusal};
use super::found::{Forward, Piece, SlotPiece, old_slot};
use super::names::Mark;
use super::statements;
use super::tables::Tables;
use super::{Request, Reversed, Step, undo};
use crate::config::ShownDuration;
use crate::demo::text::counted;
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::sql;
use crate::types::{Lsn, QualifiedName, quote_identifier};
use tokio_postgres::{Client, Row};

/// A transaction that shows how far the forward subscription is.
const FENCE: &str = "SELECT pg_logical_emit_message(true, 'seqshadow', 'reverse')";
/// Everything committed before is below it, and it is sent without another write.
const FLUSHED: &str = "SELECT pg_current_wal_flush_lsn()";
/// A worker that was told of an idle server's position answers at once only when it is told again.
const FENCE_AGAIN: Duration = Duration::from_millis(500);
/// The worker of the reverse subscription is started by the old server's launcher, when it sees fit.
const WORKER_PATIENCE: Duration = Duration::from_secs(30);

/// Proves what only an attempt can prove. Nothing is changed.
///
/// # Errors
/// Where a connection is lost.
pub(super) async fn rehearse(
    ends: &Ends,
    tables: &Tables,
    route: &Route,
    wait: Duration,
    done: &mut Reversed,
) -> Result<(), SidesError> {
    if let Some(forward) = ends.found.forward.as_ref().filter(|forward| forward.enabled) {
        done.obstacles.extend(caught_up(ends, forward, wait).await?);
    }
    if !done.obstacles.is_empty() {
        return Ok(());
    }
    if ends.found.publication == Piece::Absent {
        let sql = statements::rehearse_publication(&ends.names, tables);
        if let Some(why) = attempt(NEW, &ends.new.client, &sql).await? {
            let action = "connect to the new server as a role that may create it: the owner of every table, or a superuser";
            done.obstacles
                .push(Obstacle::not_ready(format!("the reverse publication cannot be made: {why}"), action));
        }
    }
    if ends.found.subscription == Piece::Absent {
        let sql = statements::rehearse_subscription(&ends.names, route.text.expose(), ends.old.version);
        if let Some(why) = attempt(OLD, &ends.old.client, &sql).await? {
            done.obstacles.push(Obstacle::not_ready(
                format!("the reverse subscription cannot be made: {why}"),
                "it needs a superuser, or a member of pg_create_subscription (16 and newer) with a password in \
                 --connection; and --connection must lead from the old server to the new one",
            ));
        }
    }
    Ok(())
}

/// A table that the forward publications publish, and that no subscription of the new server knows: the forward slot has
/// confirmed its rows, and nobody has applied them. `None` where the forward subscription was dropped after that proof.
///
/// # Errors
/// Where a connection is lost.
pub(super) async fn never_subscribed(ends: &Ends) -> Result<Option<Obstacle>, SidesError> {
    let Some(forward) = &ends.found.forward else { return Ok(None) };
    let name = |side: Side, row: &Row| -> Result<QualifiedName, SidesError> {
        Ok(QualifiedName::new(side.get::<String>(row, 0)?, side.get::<String>(row, 1)?))
    };
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_subscription_rel r
                 JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace";
    let rows = NEW.rows(&ends.new.client, sql, &[]).await?;
    let known: BTreeSet<QualifiedName> = rows.iter().map(|row| name(NEW, row)).collect::<Result<_, _>>()?;
    let sql = "SELECT DISTINCT schemaname::text, tablename::text FROM pg_publication_tables
                WHERE pubname = ANY($1) ORDER BY 1, 2";
    let rows = OLD.rows(&ends.old.client, sql, &[&forward.publications]).await?;
    let published: Vec<QualifiedName> = rows.iter().map(|row| name(OLD, row)).collect::<Result<_, _>>()?;
    let never: Vec<&QualifiedName> = published.iter().filter(|table| !known.contains(table)).collect();
    let subscription = quote_identifier(&forward.name);
    Ok((!never.is_empty()).then(|| {
        Obstacle::refused(
            format!(
                "published on the old server, and not known to any subscription of the new one, so that their rows have \
                 not come: {}",
                list(&never)
            ),
            format!(
                "on the new server: ALTER SUBSCRIPTION {subscription} REFRESH PUBLICATION; and wait until they are copied"
            ),
        )
    }))
}

/// Runs a transaction that rolls itself back. `Some` is what the server said against it.
async fn attempt(side: Side, client: &Client, sql: &str) -> Result<Option<String>, SidesError> {
    match side.run(client, sql).await {
        Ok(()) => Ok(None),
        Err(error) => {
            let why = refusal(error)?;
            side.run(client, "ROLLBACK").await?;
            Ok(Some(why))
        }
    }
}

/// Waits until the forward subscription has applied, and confirmed as durable, what is committed on the old server now.
async fn caught_up(ends: &Ends, forward: &Forward, wait: Duration) -> Result<Option<Obstacle>, SidesError> {
    let client = &ends.old.client;
    OLD.run(client, FENCE).await?;
    let fence: Lsn = OLD.value(client, FLUSHED, &[]).await?;
    let until = Instant::now() + wait;
    let mut again = Instant::now() + FENCE_AGAIN;
    let slot = forward.slot.clone().unwrap_or_default();
    let sql = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1";
    loop {
        let rows = OLD.rows(client, sql, &[&slot]).await?;
        let confirmed: Option<Lsn> = rows.first().map(|row| OLD.get(row, 0)).transpose()?.flatten();
        let unready = unready(ends, &forward.name).await?;
        if confirmed.is_some_and(|confirmed| confirmed >= fence) && unready.is_empty() {
            return Ok(None);
        }
        if Instant::now() > until {
            let at = confirmed.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string());
            return Ok(Some(Obstacle::refused(
                format!(
                    "subscription {} has not applied everything within {}: the old server is at {fence}, it has confirmed \
                     {at}",
                    quote_identifier(&forward.name),
                    ShownDuration(wait)
                ),
                "dropping it would lose rows: see pg_stat_subscription and the new server's log, and run this again",
            )));
        }
        if Instant::now() > again {
            OLD.run(client, FENCE).await?;
            again = Instant::now() + FENCE_AGAIN;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Does it.
///
/// # Errors
/// Where a connection is lost or a server refuses what it did not refuse in the rehearsal.
pub(super) async fn apply(
    ends: &mut Ends,
    tables: &Tables,
    route: &Route,
    request: &Request,
    done: &mut Reversed,
) -> Result<(), SidesError> {
    let name = ends.names.object.clone();
    if ends.found.publication == Piece::Absent {
        let mark = mark(ends);
        NEW.run(&ends.new.client, &statements::create_publication(&ends.names, tables, &mark)).await?;
        done.steps.push(Step::done("new", format!("created publication {name}")));
    }
    if let Some(forward) = ends.found.forward.clone()
        && let Some(obstacle) = stop_forward(ends, &forward, request.wait, done).await?
    {
        done.obstacles.push(obstacle);
        return give_up(ends, request, done).await;
    }
    if let Some(obstacle) = make_slot(ends, request.wait, done).await? {
        done.obstacles.push(obstacle);
        return give_up(ends, request, done).await;
    }
    if let Some(forward) = ends.found.forward.clone() {
        if let Some(obstacle) = nothing_left(ends, &forward).await? {
            done.obstacles.push(obstacle);
            return give_up(ends, request, done).await;
        }
        drop_forward(ends, &forward, done).await?;
    } else if let Some(slot) = ends
        .found
        .publication
        .mark()
        .and_then(|m| m.slot.clone())
        .filter(|_| ends.found.forward_slot.is_some())
    {
        done.notes
            .push(format!("slot {slot} is left on the old server, and no subscription of ours uses it"));
    }
    if ends.found.subscription == Piece::Absent {
        let switched_at: Lsn = OLD.value(&ends.old.client, FLUSHED, &[]).await?;
        let mark = Mark { switched_at: Some(switched_at.to_string()), ..Mark::default() };
        let comment = statements::comment(&mark);
        let sql =
            statements::create_subscription(&ends.names, route.text.expose(), ends.old.version, &comment);
        OLD.run(&ends.old.client, &sql).await?;
        done.steps.push(Step::done("old", format!("created subscription {name}")));
    }
    if ends.found.sidecar_slot.is_some() {
        done.notes.push(format!(
            "slot {} of the sidecar that ran forwards is left on the old server and holds back WAL there; while it is, \
             --status sees every row that is written there by somebody. Drop it in the end: {}",
            ends.names.forward_sidecar,
            statements::drop_slot(&ends.names.forward_sidecar)
        ));
    }
    done.obstacles.extend(works(ends, request.wait.max(WORKER_PATIENCE)).await?);
    ends.look().await
}

/// What the publication's comment remembers.
pub(super) fn mark(ends: &Ends) -> Mark {
    let forward = ends.found.forward.as_ref();
    Mark {
        subscription: forward.map(|forward| forward.name.clone()),
        slot: forward.and_then(|forward| forward.slot.clone()),
        publications: ends.publications.clone(),
        switched_at: None,
    }
}

/// Leaves everything as it was found before the first run.
async fn give_up(ends: &mut Ends, request: &Request, done: &mut Reversed) -> Result<(), SidesError> {
    ends.look().await?;
    undo::undo(ends, request.wait, done).await
}

/// Disables the forward subscription, and waits until nobody applies for it any more.
async fn stop_forward(
    ends: &Ends,
    forward: &Forward,
    wait: Duration,
    done: &mut Reversed,
) -> Result<Option<Obstacle>, SidesError> {
    let name = quote_identifier(&forward.name);
    if forward.enabled {
        NEW.run(&ends.new.client, &statements::disable(&forward.name)).await?;
        done.steps.push(Step::done("new", format!("disabled subscription {name}")));
    }
    let until = Instant::now() + wait;
    let slot = forward.slot.clone().unwrap_or_default();
    let workers = "SELECT count(*) FROM pg_stat_subscription WHERE subname = $1 AND pid IS NOT NULL";
    loop {
        let active = old_slot(&ends.old, &slot).await?.and_then(|slot| slot.active_pid);
        if active.is_none() && NEW.value::<i64>(&ends.new.client, workers, &[&forward.name]).await? == 0 {
            return Ok(None);
        }
        if Instant::now() > until {
            return Ok(Some(Obstacle::refused(
                format!("subscription {name} is disabled, but still at work"),
                "see pg_stat_subscription on the new server and pg_replication_slots on the old one",
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Makes the reverse slot. A session of a run that was killed may be at it: it is waited for.
async fn make_slot(
    ends: &mut Ends,
    wait: Duration,
    done: &mut Reversed,
) -> Result<Option<Obstacle>, SidesError> {
    let until = Instant::now() + wait;
    loop {
        ends.look().await?;
        match &ends.found.slot {
            SlotPiece::Ready { .. } => return Ok(None),
            SlotPiece::Foreign(why) => {
                let what = format!("slot {} on the new server: {why}", ends.names.object);
                return Ok(Some(Obstacle::refused(what, "somebody else has made it meanwhile")));
            }
            SlotPiece::Absent => {
                let client = &ends.new.client;
                // It waits for every writing transaction of the server to end.
                let made = patiently(NEW, client, &statements::create_slot(&ends.names), wait).await;
                NEW.run(client, "SET statement_timeout = '30s'; SET lock_timeout = '5s'").await?;
                let Err(error) = made else {
                    done.steps.push(Step::done("new", format!("created slot {}", ends.names.object)));
                    continue;
                };
                let why = refusal(error)?;
                return Ok(Some(Obstacle::not_ready(
                    format!("the reverse slot cannot be made: {why}"),
                    "it waits for the writing transactions of the whole new server: SELECT pid, xact_start, query FROM \
                     pg_stat_activity WHERE backend_xid IS NOT NULL;",
                )));
            }
            SlotPiece::Making if Instant::now() > until => {
                let what = format!("slot {} is still being made on the new server", ends.names.object);
                return Ok(Some(Obstacle::not_ready(what, "run this again later")));
            }
            SlotPiece::Making => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Runs what may take as long as `wait`.
async fn patiently(side: Side, client: &Client, sql: &str, wait: Duration) -> Result<(), SidesError> {
    let limit = format!("SET statement_timeout = {}; SET lock_timeout = 0", wait.as_millis());
    side.run(client, &limit).await?;
    let done = sql::within(wait + Duration::from_secs(15), client.batch_execute(sql)).await;
    done.map_err(|error| side.error(error))
}

/// The proof: the forward slot itself, read up to its end, has no row that was not confirmed.
async fn nothing_left(ends: &Ends, forward: &Forward) -> Result<Option<Obstacle>, SidesError> {
    let (Some(slot), Some(_)) = (&forward.slot, &ends.found.forward_slot) else {
        // It was dropped by a run that had the proof.
        return Ok(None);
    };
    let messages = statements::messages(slot, &forward.publications, ends.old.version, forward.local_only);
    let sql = format!("SELECT count(*) FROM {messages} WHERE kind IN {}", statements::CHANGES);
    let left: i64 = match OLD.value(&ends.old.client, &sql, &[]).await {
        Ok(left) => left,
        Err(error) => {
            let what =
                format!("it cannot be proven that slot {slot} has nothing left to send: {}", refusal(error)?);
            return Ok(Some(Obstacle::refused(what, "nothing was dropped; mend this, and run it again")));
        }
    };
    if left == 0 {
        return Ok(None);
    }
    Ok(Some(Obstacle::refused(
        format!(
            "slot {slot} on the old server has {} that the new server does not have",
            counted(left, "change")
        ),
        "somebody writes on the old server: stop that, and run this again",
    )))
}

async fn drop_forward(ends: &Ends, forward: &Forward, done: &mut Reversed) -> Result<(), SidesError> {
    if let (Some(slot), Some(_)) = (&forward.slot, &ends.found.forward_slot) {
        OLD.run(&ends.old.client, &statements::drop_slot(slot)).await?;
        done.steps.push(Step::done("old", format!("dropped slot {slot}, which had nothing left to send")));
    }
    NEW.run(&ends.new.client, &statements::drop_subscription(&forward.name)).await?;
    let name = quote_identifier(&forward.name);
    done.steps.push(Step::done("new", format!("dropped subscription {name}")));
    Ok(())
}

/// Waits until the old server follows the reverse slot.
async fn works(ends: &Ends, wait: Duration) -> Result<Option<Obstacle>, SidesError> {
    let until = Instant::now() + wait;
    let sql = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = $1";
    while !NEW.value::<bool>(&ends.new.client, sql, &[&ends.names.object]).await? {
        if Instant::now() > until {
            return Ok(Some(Obstacle::not_ready(
                format!(
                    "subscription {} on the old server does not connect to the new one",
                    ends.names.object
                ),
                "everything is made and no row is lost: see the old server's log, and run this again",
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(None)
}

/// What would be done, in this order.
pub(super) fn planned(ends: &Ends, tables: &Tables, route: &Route) -> Vec<Step> {
    let (names, found) = (&ends.names, &ends.found);
    let name = &names.object;
    let mut steps = Vec::new();
    let mut add = |server, what: String, sql: String| steps.push(Step::planned(server, what, sql));
    if found.publication == Piece::Absent {
        let sql = statements::create_publication(names, tables, &mark(ends));
        add("new", format!("create publication {name}"), sql);
    }
    if let Some(forward) = found.forward.as_ref().filter(|forward| forward.enabled) {
        let what = format!("disable subscription {}", quote_identifier(&forward.name));
        add("new", what, statements::disable(&forward.name));
    }
    if !matches!(found.slot, SlotPiece::Ready { .. }) {
        add("new", format!("create slot {name}"), statements::create_slot(names));
    }
    if let Some(forward) = &found.forward {
        if let (Some(slot), Some(_)) = (&forward.slot, &found.forward_slot) {
            add(
                "old",
                format!("drop slot {slot}, if it has nothing left to send"),
                statements::drop_slot(slot),
            );
        }
        let what = format!("drop subscription {}", quote_identifier(&forward.name));
        add("new", what, statements::drop_subscription(&forward.name));
    }
    if found.subscription == Piece::Absent {
        let comment = statements::comment(&Mark::default());
        let sql = statements::create_subscription(names, &route.shown, ends.old.version, &comment);
        add("old", format!("create subscription {name}"), sql);
    }
    steps
}
