//! The slot of a `teardown`: whether it is ours, whether somebody uses it, and its end.
//!
//! In: the slot's name, and whether a publication with our mark names it. Out: that it is gone, or why it may not go.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Options;
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::ops::setup::mark::Names;
use crate::ops::setup::{LOOK_AGAIN, Object, Outcome};
use crate::publisher::connection::APPLICATION_NAME;
use crate::publisher::slot::{self, Verdict};
use crate::sides::SidesError;
use crate::sql::Connection;

/// How long whoever lets go of the slot may take for it.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who has made a slot and was killed leaves its session for so long at most.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(5);

/// A sidecar whose connection was ended tries again within this time.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(4);

/// What is to be done with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SlotPlan {
    Absent,
    Drop,
    /// Drop it when its holder's connection was ended.
    End {
        pid: i32,
    },
    /// Its making is ended: whoever asked for that is gone.
    Orphan {
        pid: i32,
    },
}

const SIDE: Side = Side::Publisher;

/// Looks at the slot. `marked`: a publication with our mark names it.
///
/// # Errors
/// Where it is not ours or in use.
pub(super) async fn look(
    publisher: &Connection,
    subscriptions: &[(String, String)],
    names: &Names,
    marked: bool,
    options: Options,
) -> Result<SlotPlan, OpsError> {
    let name = &names.slot;
    let database: String = SIDE.value(&publisher.client, "SELECT current_database()::text", &[]).await?;
    let begun = Instant::now();
    loop {
        let found = slot::load(&publisher.client, publisher.version, name).await;
        let found = found.map_err(SidesError::on_publisher)?;
        let in_the_making = found.as_ref().is_some_and(|slot| slot.confirmed_flush.is_none());
        match slot::judge(name, found.as_ref(), &database, subscriptions) {
            // Of a setup that was killed a moment ago: it may be about to make the slot.
            Verdict::Missing if marked && begun.elapsed() < ORPHAN_PATIENCE => {
                if without_slot(publisher).await? == 0 {
                    return Ok(SlotPlan::Absent);
                }
            }
            Verdict::Missing => return Ok(SlotPlan::Absent),
            Verdict::Refused { why, .. } => {
                return Err(OpsError::Refused {
                    what: format!("{why}, so it is not one that setup made"),
                    action: "nothing was removed".to_owned(),
                });
            }
            Verdict::Leaving if begun.elapsed() < PATIENCE => {}
            // Of a setup that was killed, its client is gone; of a daemon, that has other sessions too.
            Verdict::Standby { pid } if in_the_making && marked => {
                if others(publisher, pid).await? == 0 {
                    return Ok(SlotPlan::Orphan { pid });
                }
                if begun.elapsed() > ORPHAN_PATIENCE {
                    return in_use(name.as_str(), pid, options);
                }
            }
            Verdict::Standby { pid } => return in_use(name.as_str(), pid, options),
            Verdict::Leaving | Verdict::Ours | Verdict::Lost { .. } if marked => return Ok(SlotPlan::Drop),
            Verdict::Leaving | Verdict::Ours | Verdict::Lost { .. } => {
                return Err(OpsError::Refused {
                    what: format!(
                        "slot {name} is there, and no publication says that setup made it; nothing was removed"
                    ),
                    action: format!(
                        "if it is seqshadow's, on the publisher: SELECT pg_drop_replication_slot('{name}');"
                    ),
                });
            }
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn in_use(name: &str, pid: i32, options: Options) -> Result<SlotPlan, OpsError> {
    if options.force {
        return Ok(SlotPlan::End { pid });
    }
    Err(OpsError::Refused {
        what: format!(
            "a running seqshadow uses slot {name} (pid {pid} on the publisher); nothing was removed"
        ),
        action: "stop it first; --force ends its connection".to_owned(),
    })
}

/// Other sessions of a seqshadow in this database.
async fn others(publisher: &Connection, holder: i32) -> Result<i64, SidesError> {
    let sql = "SELECT count(*) FROM pg_stat_activity
                WHERE application_name = $1 AND datname = current_database() AND pid NOT IN (pg_backend_pid(), $2)";
    SIDE.value(&publisher.client, sql, &[&APPLICATION_NAME, &holder]).await
}

/// Replication connections of a seqshadow that hold no slot (yet).
async fn without_slot(publisher: &Connection) -> Result<i64, SidesError> {
    let sql = "SELECT count(*) FROM pg_stat_replication r WHERE r.application_name = $1
                  AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid)";
    SIDE.value(&publisher.client, sql, &[&APPLICATION_NAME]).await
}

/// Drops it.
///
/// # Errors
/// Where the publisher refuses or the connection is lost.
pub(super) async fn remove(
    publisher: &Connection,
    plan: &SlotPlan,
    names: &Names,
    options: Options,
) -> Result<Object, OpsError> {
    let name = names.slot.as_str();
    let object = |outcome| Object::new(SIDE, "slot", name, outcome);
    let drop = format!("SELECT pg_drop_replication_slot('{name}')");
    let (sql, end) = match plan {
        SlotPlan::Absent => return Ok(object(Outcome::Absent)),
        SlotPlan::Drop => (vec![drop], None),
        SlotPlan::End { pid } | SlotPlan::Orphan { pid } => {
            (vec![format!("SELECT pg_terminate_backend({pid})"), drop], Some(*pid))
        }
    };
    if options.dry_run {
        return Ok(object(Outcome::ToRemove).sql(sql));
    }
    let deadline = Instant::now() + PATIENCE;
    let mut ended = None;
    loop {
        let Some(holder) = holder(publisher, name).await? else {
            return Ok(object(Outcome::Removed).sql(sql));
        };
        match holder {
            // Between two looks it may have got another holder: that one is ended too, as it is the same sidecar's.
            Some(pid) if end.is_some() && ended != Some(pid) => {
                end_session(publisher, pid).await?;
                ended = Some(pid);
            }
            Some(_) => {}
            None => {
                let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                            WHERE slot_name = $1 AND active_pid IS NULL";
                match SIDE.rows(&publisher.client, sql, &[&name]).await {
                    Ok(_) => continue,
                    // Somebody was faster, to take it or to drop it.
                    Err(error) if matches!(code(&error).as_deref(), Some("55006" | "42704")) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if Instant::now() > deadline {
            let note = format!(
                "it is in use again and again: stop the seqshadow that uses it{}",
                holder.map(|pid| format!(" (pid {pid} on the publisher)")).unwrap_or_default()
            );
            return Ok(object(Outcome::Left).note(note).sql(sql));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether our role may drop a slot.
///
/// # Errors
/// Where the publisher cannot be asked.
pub(super) async fn may_drop(client: &tokio_postgres::Client) -> Result<bool, SidesError> {
    let sql = "SELECT r.rolsuper OR r.rolreplication
                      OR EXISTS (SELECT FROM pg_roles rds WHERE rds.rolname = 'rds_replication'
                                    AND pg_has_role(r.oid, rds.oid, 'MEMBER'))
                 FROM pg_roles r WHERE r.rolname = current_user";
    SIDE.value(client, sql, &[]).await
}

/// Ends what holds the slot, if it still is a walsender of a seqshadow.
async fn end_session(publisher: &Connection, pid: i32) -> Result<(), SidesError> {
    let sql =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = $2";
    SIDE.rows(&publisher.client, sql, &[&pid, &APPLICATION_NAME]).await.map(drop)
}

/// `None` where there is no slot, else who holds it.
async fn holder(publisher: &Connection, name: &str) -> Result<Option<Option<i32>>, SidesError> {
    let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
    let rows = SIDE.rows(&publisher.client, sql, &[&name]).await?;
    rows.first().map(|row| SIDE.get(row, 0)).transpose()
}

/// Whether a sidecar that was robbed of its slot has made it again, which one that still runs may.
///
/// # Errors
/// Where the connection is lost.
pub(super) async fn comes_back(publisher: &Connection, names: &Names) -> Result<Option<String>, SidesError> {
    let until = Instant::now() + COMES_BACK_WITHIN;
    while Instant::now() < until {
        if holder(publisher, names.slot.as_str()).await?.is_some() {
            return Ok(Some(format!(
                "a seqshadow that still runs has made it again; stop that, and on the publisher: SELECT \
                 pg_drop_replication_slot('{}');",
                names.slot
            )));
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(None)
}

fn code(error: &SidesError) -> Option<String> {
    let SidesError::Sql { source: crate::sql::SqlError::Query(error), .. } = error else { return None };
    error.code().map(|code| code.code().to_owned())
}
