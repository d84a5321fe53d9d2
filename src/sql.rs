//! SQL connections of ours, on either server: opened through [`crate::session`], with the settings that keep a
//! session of ours harmless whatever the role's or the database's defaults are.

use std::time::Duration;

use tokio_postgres::Client;
use tracing::debug;

use crate::conninfo::Conninfo;
use crate::session::{self, ConnectError, Purpose};

/// An idle SQL connection of ours.
pub struct Connection {
    pub client: Client,
    /// As `server_version_num`.
    pub version: u32,
    /// `host:port` and how the connection is protected, for messages.
    pub peer: String,
    pub backend_pid: i32,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).field("version", &self.version).finish()
    }
}

/// Why an SQL connection cannot be used (any more).
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", describe(.0))]
    Query(#[from] tokio_postgres::Error),
    #[error("no answer within {after:?}")]
    TimedOut { after: Duration },
}

/// What every session of ours begins with.
///
/// `synchronous_commit = local`: what we write must be durable on this server, but must not wait for its standbys,
/// which may be dead; a fail-over is covered by asserting everything again. `lock_timeout` is short because a
/// sequence that is being truncated must delay only itself. `row_security = off`: ids that a policy hides from our role
/// must be refused (42501), not silently left out. One process per connection is all that a server spends on us. The last
/// line is for timeouts that older majors do not have.
const SETTINGS: &str = "
SET search_path = pg_catalog;
SET synchronous_commit = local;
SET default_transaction_read_only = off;
SET lock_timeout = '50ms';
SET idle_in_transaction_session_timeout = '30s';
SET client_min_messages = warning;
SET standard_conforming_strings = on;
SET extra_float_digits = 1;
SET row_security = off;
SET max_parallel_workers_per_gather = 0;
SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('transaction_timeout', 'idle_session_timeout')";

/// How long a statement of ours may take, unless whoever sends it says otherwise.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A server that let us in and then says nothing for so long is as good as away.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(15);

/// Opens a connection and makes it ours. `side` is `publisher` or `subscriber`, for the log.
///
/// # Errors
/// What kept us from connecting, or the server's refusal of a setting.
pub async fn connect(conninfo: &Conninfo, side: &'static str) -> Result<Connection, SqlError> {
    let session = session::connect(conninfo, Purpose::Sql).await?;
    let version = session.server_version_num().unwrap_or(0);
    let peer = session.peer().to_string();
    let backend_pid = i32::try_from(session.backend_pid()).unwrap_or(0);
    let (client, driver) = session.into_sql().await?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            debug!(side, error = %error, "connection ended");
        }
    });
    let settings = format!("SET statement_timeout = {};{SETTINGS}", STATEMENT_TIMEOUT.as_millis());
    match tokio::time::timeout(SETTINGS_TIMEOUT, client.batch_execute(&settings)).await {
        Ok(done) => done?,
        Err(_) => return Err(SqlError::TimedOut { after: SETTINGS_TIMEOUT }),
    }
    Ok(Connection { client, version, peer, backend_pid })
}

/// Bounds the wait for an answer: a server that hangs, or a network that swallows, is as good as away.
///
/// # Errors
/// The server's or the connection's error, or that there was no answer.
pub async fn within<T>(
    after: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, SqlError> {
    match tokio::time::timeout(after, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(SqlError::TimedOut { after }),
    }
}

/// A server's error in full: message, detail, hint and SQLSTATE, which the plain Display of the crate leaves out.
#[must_use]
pub fn describe(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        let source = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
        return format!("{error}{source}");
    };
    let mut text = format!("{}: {} (SQLSTATE {})", db.severity(), db.message(), db.code().code());
    for (what, more) in [("DETAIL", db.detail()), ("HINT", db.hint())] {
        if let Some(more) = more {
            text = format!("{text}; {what}: {more}");
        }
    }
    text
}
