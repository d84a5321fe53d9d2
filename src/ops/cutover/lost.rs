//! `cutover --publisher-lost`: the publisher is gone. From what is on the subscriber, with a wide margin.
//!
//! There is no certificate: ids that were committed on the publisher and never came here are not known to anybody. What
//! is written instead is a [`Statement`] of what was done, and of what is not known.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::catalog::Persistence;
use crate::config::{ConninfoText, Settings};
use crate::conninfo::{Conninfo, Environment};
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::ops::survey::{Depth, Surveyed, subscriber_alone};
use crate::ops::sync::{Failed, Moved, Mover};
use crate::plan::Lead;
use crate::session::ConnectErrorKind;
use crate::sides::{SidesError, connect_subscriber, conninfo};
use crate::sql::{self, Connection, SqlError};
use crate::subscriber::advance::Advancer;
use crate::subscriber::subscription::{self, Subscription};
use crate::types::{quote_identifier, quote_literal};

/// The name and version of the JSON.
pub const SCHEMA: &str = "seqshadow.statement/1";

/// How many ids are left free, unless the operator says otherwise: what a busy application draws in the minutes that
/// its last rows may be behind.
pub const MARGIN: u64 = 100_000;

/// How long a worker that has just lost its publisher may take to end.
const WORKER_PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// What was done without the publisher. Serialized as it is written.
#[derive(Clone, Debug, Serialize)]
pub struct Statement {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    pub database: String,
    pub subscriber: String,
    /// Steps that each sequence was put past what is known, fewer where little is left of it.
    pub margin: u64,
    pub moved: Vec<Moved>,
    pub in_place: usize,
    pub excluded: usize,
    pub failed: Vec<Failed>,
    /// Columns that were not looked at, and ids that were not followed.
    pub gaps: Vec<String>,
    /// What nobody knows.
    pub not_known: Vec<String>,
}

/// Brings the subscriber's sequences up from what is there.
///
/// # Errors
/// [`OpsError::Refused`] where the publisher answers after all; else what went wrong on the subscriber.
pub async fn without_publisher(
    settings: &Settings,
    environment: &Environment,
    margin: u64,
    depth: Depth,
) -> Result<Statement, OpsError> {
    let (subscriber, subscriber_conninfo) = connect_subscriber(settings, environment).await?;
    is_gone(settings, environment, &subscriber).await?;
    let client = &subscriber.client;
    let mut survey = subscriber_alone(client, settings, depth).await?;
    let advancer = Advancer::prepare(client).await.map_err(SidesError::on_subscriber)?.in_bulk();
    let advancer = advancer.calling(settings.advance_function.as_ref());
    let mover = Mover { client, advancer: &advancer };
    let synced = mover.sync(&mut survey, Lead::Steps(margin), |_, _| {}).await?;
    let (mut gaps, mut failed, mut in_place) = (Vec::new(), synced.failed, synced.in_place);
    for one in &survey.sequences {
        let name = &one.managed.sequence.name;
        let named = |failed: &Failed| failed.sequence == name.to_string();
        if let Some(reason) = left_where_it_is(one).filter(|_| !failed.iter().any(named)) {
            in_place = in_place.saturating_sub(1);
            failed.push(Failed { sequence: name.to_string(), reason });
        }
        if !one.gaps.is_empty() {
            let reason = format!("put ahead of where it stood only, for {}", one.gaps.join("; "));
            failed.push(Failed { sequence: name.to_string(), reason });
        }
        if one.managed.sequence.persistence == Persistence::Unlogged
            && let Some(why) = one.managed.excluded
        {
            gaps.push(format!("{name} was left as it is: {why}"));
        }
        gaps.extend(one.gaps.iter().map(|gap| format!("{name}: {gap}")));
        gaps.extend(
            one.managed
                .set_aside()
                .map(|id| format!("{name}: id {id} lies too far out and was not followed")),
        );
    }
    Ok(Statement {
        schema: SCHEMA,
        at: crate::ops::now(),
        database: subscriber_conninfo.dbname().to_owned(),
        subscriber: subscriber.peer,
        margin,
        moved: synced.moved,
        in_place,
        excluded: synced.excluded,
        failed,
        gaps,
        not_known: [
            "rows that were committed on the publisher and had not arrived here, and their ids",
            "ids drawn there and used outside the database (sent to customers, printed, exported)",
            "how many ids were drawn there since: each sequence has the margin past where it stood here and past every id \
             found here, and each run adds one more",
        ]
        .map(str::to_owned)
        .to_vec(),
    })
}

/// Nobody answers where the publisher was, and no subscription gets a stream from it.
///
/// # Errors
/// [`OpsError::Refused`] otherwise; where the subscriber cannot be asked.
async fn is_gone(
    settings: &Settings,
    environment: &Environment,
    subscriber: &Connection,
) -> Result<(), OpsError> {
    if let Some(named) = &settings.publisher {
        let address = conninfo(Some(named), "publisher", settings, environment)?;
        no_answer(&address).await?;
    }
    let known = subscription::load(&subscriber.client).await.map_err(SidesError::on_subscriber)?;
    let is_asked = |name: &str| settings.subscription.as_deref().is_none_or(|named| named == name);
    // Where the publisher is named, a disabled one is out of the question: its address may be another server's by now.
    let is_of_use =
        |one: &&Subscription| is_asked(&one.name) && (one.enabled || settings.publisher.is_none());
    for one in known.iter().filter(is_of_use) {
        let text = subscription::conninfo(&subscriber.client, &one.name).await.map(ConninfoText::new);
        // It was written for the subscriber's server: files that it names need not be here.
        if let Some(text) = text
            && let Ok(address) = conninfo(Some(&text), "publisher", settings, environment)
        {
            match no_answer(&address).await {
                Err(OpsError::Sides(_)) | Ok(()) => {}
                Err(refused) => return Err(refused),
            }
        }
    }
    let give_up = Instant::now() + WORKER_PATIENCE;
    loop {
        let streams = streaming(subscriber).await?;
        let Some(name) = streams.iter().find(|name| is_asked(name)) else { return Ok(()) };
        if Instant::now() > give_up {
            let quoted = quote_identifier(name);
            return Err(OpsError::Refused {
                what: format!("the publisher is not gone: subscription {quoted} gets a stream from it"),
                action: format!(
                    "see whether --publisher names the right server, and cut over without --publisher-lost; where the \
                     publisher is gone all the same, and the worker only waits for it: ALTER SUBSCRIPTION {quoted} \
                     DISABLE; where another publisher feeds this subscription, name that of the lost one with \
                     --subscription"
                ),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whoever refuses us is there; only one that cannot be reached may be gone.
///
/// # Errors
/// [`OpsError::Refused`] where somebody answers; [`OpsError::Sides`] where the address itself is of no use here.
async fn no_answer(address: &Conninfo) -> Result<(), OpsError> {
    let what = match sql::connect(address, "publisher").await {
        Ok(connection) => format!("the publisher {} answers", connection.peer),
        Err(SqlError::TimedOut { .. }) => return Ok(()),
        Err(SqlError::Connect(error)) => match error.kind() {
            ConnectErrorKind::Unreachable | ConnectErrorKind::Timeout => return Ok(()),
            // What is wrong with the address on this machine tells nothing of the publisher.
            ConnectErrorKind::Config => return Err(SidesError::on_publisher(error).into()),
            _ => format!("the publisher is not gone, it answers: {error}"),
        },
        Err(error) => format!("the publisher is not gone, it answers: {error}"),
    };
    let action = "cut over without --publisher-lost, or take it away from here first; where another server answers at the \
                  address of a subscription: ALTER SUBSCRIPTION … DISABLE on the subscriber"
        .to_owned();
    Err(OpsError::Refused { what, action })
}

/// The subscriptions of this database of which a worker is connected to its publisher.
async fn streaming(subscriber: &Connection) -> Result<Vec<String>, SidesError> {
    // Before 14 ordinary roles may not read the oid; the name may be that of another database's subscription, too.
    let same = if subscriber.version >= 140_000 { "s.oid = w.subid" } else { "s.subname = w.subname" };
    let sql = format!(
        "SELECT DISTINCT s.subname::text FROM pg_stat_subscription w JOIN pg_subscription s ON {same}
           JOIN pg_database d ON d.oid = s.subdbid
          WHERE d.datname = current_database() AND w.pid IS NOT NULL AND w.received_lsn IS NOT NULL ORDER BY 1"
    );
    let rows = Side::Subscriber.rows(&subscriber.client, &sql, &[]).await?;
    rows.iter().map(|row| Side::Subscriber.get(row, 0)).collect()
}

/// Of a CYCLE sequence: it was not moved, and what helps a person to decide where to.
fn left_where_it_is(one: &Surveyed) -> Option<String> {
    let managed = &one.managed;
    if !managed.cycles() || managed.excluded.is_some() {
        return None;
    }
    let name = &managed.sequence.name;
    let stands = managed.state.map_or_else(String::new, |state| format!(", at {}", state.last_value));
    let looks: Vec<String> = managed
        .sequence
        .consumers
        .iter()
        .filter(|consumer| !consumer.inherited)
        .map(|consumer| {
            let column = quote_identifier(&consumer.column);
            format!("SELECT min({column}), max({column}), count(*) FROM {};", consumer.table)
        })
        .collect();
    let looks =
        if looks.is_empty() { String::new() } else { format!("see what is in use: {} ", looks.join(" ")) };
    let literal = quote_literal(&name.to_string());
    Some(format!(
        "it may CYCLE, so that no id is the furthest, and was left where it stood{stands}: where the publisher's stood is \
         not known; {looks}then put it past that: SELECT setval({}, VALUE);",
        literal.trim_start()
    ))
}
