//! Makes the slot: waits for the publisher's writing transactions for a bounded time, says which they are, and leaves no
//! half-made slot behind, whichever way it ends.
//!
//! In: a replication connection opened before anything was made, which proved the right to replicate. Out: that the slot
//! is there, or why not.

use std::time::Duration;

use tokio::time::timeout;

use crate::config::ShownDuration;
use crate::conninfo::Conninfo;
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::publisher::connection::{ReplicationConnection, ReplicationError, SlotOptions};
use crate::sides::SidesError;
use crate::sql::Connection;
use crate::types::{SlotName, quote_identifier};

/// How long a cancelled creation may take to end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Created {
    Yes,
    /// Time is up; whom it waited for, as far as that can be seen.
    Waited {
        for_whom: String,
    },
    /// Ctrl-C, or told to end.
    Interrupted,
}

/// Opens the replication connection. Whatever becomes of us, the server does not wait for transactions longer than `wait`
/// through it: one that waits does not notice that its client is gone.
///
/// # Errors
/// What kept us from replicating, with what to do about it.
pub(super) async fn open(conninfo: &Conninfo, wait: Duration) -> Result<ReplicationConnection, OpsError> {
    let mut conninfo = conninfo.clone();
    conninfo.append_options(&format!("-c lock_timeout={}", wait.as_millis().max(1)));
    ReplicationConnection::open(&conninfo).await.map_err(|error| explain(error, conninfo.user()))
}

/// Creates the slot.
///
/// # Errors
/// The publisher's refusal, with what to do about it.
pub(super) async fn create(
    mut connection: ReplicationConnection,
    sql: &Connection,
    slot: &SlotName,
    options: SlotOptions,
    wait: Duration,
    user: &str,
) -> Result<Created, OpsError> {
    let pid = connection.backend_pid();
    let creation = connection.create_slot(slot, options);
    tokio::pin!(creation);
    let ended = tokio::select! {
        created = &mut creation => match created {
            Ok(()) => return Ok(Created::Yes),
            // The server gave up a moment before us.
            Err(error) if error.sqlstate() == Some("55P03") => {
                return Ok(Created::Waited { for_whom: blockers(sql, None).await });
            }
            Err(error) => return Err(explain(error, user)),
        },
        () = tokio::time::sleep(wait) => Created::Waited { for_whom: blockers(sql, Some(pid)).await },
        () = told_to_end() => Created::Interrupted,
    };
    let cancelled = async { sql.client.execute("SELECT pg_cancel_backend($1)", &[&pid]).await };
    let _ = timeout(CANCEL_TIMEOUT, cancelled).await;
    match timeout(CANCEL_TIMEOUT, creation).await {
        // It was made in the last moment.
        Ok(Ok(())) => Ok(Created::Yes),
        _ => Ok(ended),
    }
}

/// SIGINT or SIGTERM.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// The transactions that a slot in the making waits for. Who waits for whom is public; who writes is shown to few roles.
async fn blockers(sql: &Connection, pid: Option<i32>) -> String {
    let asked = "SELECT DISTINCT b.pid, a.datname::text, a.usename::text
                   FROM (SELECT unnest(pg_blocking_pids($1))
                         UNION SELECT pid FROM pg_stat_activity
                                WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()) AS b(pid)
                   LEFT JOIN pg_stat_activity a ON a.pid = b.pid ORDER BY 1";
    let Ok(rows) = Side::Publisher.rows(&sql.client, asked, &[&pid.unwrap_or(0)]).await else {
        return "it cannot be seen by whom".to_owned();
    };
    let one = |row: &tokio_postgres::Row| {
        let text = |column| row.try_get::<_, Option<String>>(column).ok().flatten().unwrap_or_default();
        match row.try_get(0).ok()? {
            0 => Some("a prepared one, see pg_prepared_xacts".to_owned()),
            pid @ 1_i32.. => Some(format!("pid {pid} (database {}, role {})", text(1), text(2))),
            _ => None,
        }
    };
    let found: Vec<String> = rows.iter().filter_map(one).collect();
    if found.is_empty() { "it cannot be seen by whom".to_owned() } else { found.join(", ") }
}

/// What `wait` was too short for, in words.
pub(super) fn waited(slot: &SlotName, wait: Duration, for_whom: &str) -> String {
    format!(
        "slot {slot} was not made within {}: it waits for every transaction that writes anywhere on the publisher's \
         instance ({for_whom}); nothing of it is left. Have them end, or give it more time with --wait, and run setup \
         again; or leave it to the daemon with --no-slot",
        ShownDuration(wait)
    )
}

fn explain(error: ReplicationError, user: &str) -> OpsError {
    let role = quote_identifier(user);
    let action = match error.sqlstate() {
        Some("42501") => format!(
            "run setup as a role that may replicate; on the publisher: ALTER ROLE {role} REPLICATION; (on RDS: GRANT \
             rds_replication TO {role};)"
        ),
        Some("53400") => "raise max_replication_slots on the publisher, or drop a slot that is not used".to_owned(),
        Some("53300") => "raise max_wal_senders on the publisher".to_owned(),
        Some(state) if state.starts_with("28") => {
            "check the role's right to replicate, its password and pg_hba.conf (a replication connection to a database \
             is matched by the database's name, not by \"replication\")"
                .to_owned()
        }
        Some(_) => "nothing of the slot is left".to_owned(),
        None => {
            return match error {
                ReplicationError::Connect(error) => SidesError::on_publisher(error).into(),
                error => OpsError::Unreachable {
                    what: error.to_string(),
                    action: "a slot in the making may be left: run setup or teardown again".to_owned(),
                },
            };
        }
    };
    SidesError::Setting { what: error.to_string(), action }.into()
}
