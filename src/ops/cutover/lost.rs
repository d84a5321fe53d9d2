//! `cutover --publisher-lost`: the publisher is gone. From what is on the subscriber, with a wide margin.
//!
//! There is no certificate: ids that were committed on the publisher and never came here are not known to anybody. What
//! is written instead is a [`Statement`] of what was done, and of what is not known.

use serde::Serialize;

use crate::catalog::Persistence;
use crate::config::{ConninfoText, Settings};
use crate::conninfo::Environment;
use crate::ops::OpsError;
use crate::ops::survey::{Depth, subscriber_alone};
use crate::ops::sync::{Failed, Moved, Mover};
use crate::plan::Lead;
use crate::session::ConnectErrorKind;
use crate::sides::{SidesError, connect_subscriber, conninfo};
use crate::sql::{self, SqlError};
use crate::subscriber::advance::Advancer;
use crate::subscriber::subscription;

/// The name and version of the JSON.
pub const SCHEMA: &str = "seqshadow.statement/1";

/// How many ids are left free, unless the operator says otherwise: what a busy application draws in the minutes that
/// its last rows may be behind.
pub const MARGIN: u64 = 100_000;

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
    let mut addresses: Vec<ConninfoText> = settings.publisher.iter().cloned().collect();
    if addresses.is_empty() {
        let known = subscription::load(&subscriber.client).await.map_err(SidesError::on_subscriber)?;
        for one in known {
            addresses
                .extend(subscription::conninfo(&subscriber.client, &one.name).await.map(ConninfoText::new));
        }
    }
    for address in &addresses {
        let conninfo = conninfo(Some(address), "publisher", settings, environment)?;
        let answer = match sql::connect(&conninfo, "publisher").await {
            Ok(connection) => format!("the publisher {} answers", connection.peer),
            Err(SqlError::TimedOut { .. }) => continue,
            Err(SqlError::Connect(error))
                if matches!(error.kind(), ConnectErrorKind::Unreachable | ConnectErrorKind::Timeout) =>
            {
                continue;
            }
            // Whoever refuses us is there.
            Err(error) => format!("the publisher is not gone, it answers: {error}"),
        };
        return Err(OpsError::Refused {
            what: answer,
            action: "cut over without --publisher-lost, or take it away from here first".to_owned(),
        });
    }
    let client = &subscriber.client;
    let mut survey = subscriber_alone(client, settings, depth).await?;
    let advancer = Advancer::prepare(client).await.map_err(SidesError::on_subscriber)?.in_bulk();
    let advancer = advancer.calling(settings.advance_function.as_ref());
    let mover = Mover { client, advancer: &advancer };
    let synced = mover.sync(&mut survey, Lead::Steps(margin), |_, _| {}).await?;
    let (mut gaps, mut failed) = (Vec::new(), synced.failed);
    for one in &survey.sequences {
        let name = &one.managed.sequence.name;
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
        in_place: synced.in_place,
        excluded: synced.excluded,
        failed,
        gaps,
        not_known: [
            "rows that were committed on the publisher and had not arrived here, and their ids",
            "ids drawn there and used outside the database (sent to customers, printed, exported)",
            "ids of sequences whose values no column here shows: they have the margin past where they stood (each run adds one)",
        ]
        .map(str::to_owned)
        .to_vec(),
    })
}
