//! Runs the statements of one step, all or none, and says what to do where the server refuses.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::sql::{self, STATEMENT_TIMEOUT, SqlError};

/// `setup` and `teardown` of one slot exclude each other: "sset" in ASCII, and the slot's hash.
const LOCK: i32 = 0x7373_6574;

/// How long another one may take to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether what is waited for has happened.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Lets this session wait for locks: what is altered here blocks nobody's reads and writes while it waits.
///
/// # Errors
/// Where the connection is lost.
pub(crate) async fn be_patient(side: Side, client: &Client, wait: Duration) -> Result<(), SidesError> {
    let statement = wait + STATEMENT_TIMEOUT;
    let sql = format!(
        "SET lock_timeout = {}; SET statement_timeout = {}",
        wait.as_millis().max(1),
        statement.as_millis()
    );
    side.run(client, &sql).await
}

/// Takes the lock of `slot` on one side for as long as the session lasts. What a killed run still has under way there is
/// done by then, one way or the other.
///
/// # Errors
/// Where another `setup` or `teardown` of this slot runs.
pub(crate) async fn lock(side: Side, client: &Client, slot: &str) -> Result<(), OpsError> {
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    let sql = "SELECT pg_try_advisory_lock($1, hashtext($2))";
    while !side.value::<bool>(client, sql, &[&LOCK, &slot]).await? {
        if tokio::time::Instant::now() > deadline {
            return Err(OpsError::NotReady {
                what: format!("another setup or teardown of slot {slot} is running"),
                action: "wait for its end, and run this one again".to_owned(),
            });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Runs `statements` as one transaction. Waits no longer than the session's statement timeout, and a little.
///
/// # Errors
/// The server's refusal, with what to do about it; then none of them was done.
pub(crate) async fn apply(
    side: Side,
    client: &Client,
    statements: &[String],
    wait: Duration,
) -> Result<(), OpsError> {
    // Several statements in one message are one transaction.
    let sql = statements.join(";\n");
    let after = wait + 2 * STATEMENT_TIMEOUT;
    sql::within(after, client.batch_execute(&sql)).await.map_err(|error| explain(side, error))
}

fn explain(side: Side, error: SqlError) -> OpsError {
    let text = side.error(error);
    let SidesError::Sql { source: SqlError::Query(error), .. } = &text else { return text.into() };
    let Some(code) = error.code() else { return text.into() };
    let what = text.to_string();
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        let action = "nothing of this step was done; run it as a superuser or as the owner of what is named, or see \
                      the SQL with --dry-run and have it run by one";
        return SidesError::Setting { what, action: action.to_owned() }.into();
    }
    let action = if *code == SqlState::LOCK_NOT_AVAILABLE {
        "nothing of this step was done; somebody holds a lock that is needed (an ALTER TABLE, VACUUM, CREATE INDEX): \
         run it again, with a longer --wait perhaps"
    } else {
        "nothing of this step was done"
    };
    OpsError::NotReady { what, action: action.to_owned() }
}
