//! A connection made ready for comparing: the same text for the same value whatever the defaults of server, database
//! and role are; no timeout, no parallel workers; and, on the publisher, one snapshot for all of them.
//!
//! In: SQL that only reads. Out: rows of text, or a [`Stop`] that says whether one table or everything is concerned.

use std::cell::Cell;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::ops::ask::Side;
use crate::readings::{Trouble, trouble};
use crate::sides::SidesError;
use crate::types::quote_literal;

/// What decides how a value is written is pinned; extra_float_digits 3 gives every bit of a float, and the shortest
/// such text on every supported major. No parallel workers: `jobs` is what the servers are promised. `serializable`
/// as a default would make every row that is read a predicate lock.
const SETTINGS: &str = "
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET lock_timeout = '10s';
SET default_transaction_isolation = 'read committed';
SET default_transaction_deferrable = off;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres';
SET extra_float_digits = 3;
SET bytea_output = 'hex';
SET xmlbinary = 'base64';
SET xmloption = 'content';
SET lc_monetary = 'C';
SET quote_all_identifiers = off;
SET max_parallel_workers_per_gather = 0;
SET jit = off";

/// Ends a query of ours soon after we are gone. Not every major and platform has it.
const NOTICE_OUR_END: &str = "SET client_connection_check_interval = '10s'";

/// Rows as the simple protocol gives them.
pub(super) type Rows = Vec<Vec<Option<String>>>;

/// Why something could not be read.
#[derive(Debug)]
pub(super) enum Stop {
    /// This table cannot be compared, for this reason.
    Table(String),
    /// Nothing can be compared any more.
    Everything(SidesError),
}

impl From<SidesError> for Stop {
    fn from(error: SidesError) -> Self {
        Stop::Everything(error)
    }
}

/// A connection to one side.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) side: Side,
    client: &'a Client,
    /// In the transaction that keeps the snapshot.
    keeps_snapshot: Cell<bool>,
}

impl<'a> Session<'a> {
    /// Makes the connection ready.
    ///
    /// # Errors
    /// The server's refusal of a setting.
    pub(super) async fn new(side: Side, client: &'a Client) -> Result<Self, SidesError> {
        side.run(client, SETTINGS).await?;
        if let Err(error) = client.batch_execute(NOTICE_OUR_END).await {
            tracing::debug!(%error, "a query of ours may outlive us");
        }
        Ok(Session { side, client, keeps_snapshot: Cell::new(false) })
    }

    /// The client, for questions about the catalog.
    pub(super) fn client(&self) -> &Client {
        self.client
    }

    /// Begins the transaction whose snapshot everybody shares, or joins it.
    ///
    /// # Errors
    /// The server's.
    pub(super) async fn keep_snapshot(&self, shared: Option<&str>) -> Result<String, SidesError> {
        self.side.run(self.client, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        self.keeps_snapshot.set(true);
        if let Some(name) = shared {
            let sql = format!("SET TRANSACTION SNAPSHOT {}", quote_literal(name));
            self.side.run(self.client, &sql).await?;
            return Ok(name.to_owned());
        }
        self.side.value(self.client, "SELECT pg_export_snapshot()", &[]).await
    }

    /// Lets go of the snapshot.
    ///
    /// # Errors
    /// The server's.
    pub(super) async fn release_snapshot(&self) -> Result<(), SidesError> {
        self.keeps_snapshot.set(false);
        self.side.run(self.client, "ROLLBACK").await
    }

    /// Runs one SELECT, however long it takes. Inside the snapshot's transaction it has a subtransaction of its own
    /// that is rolled back: so the lock on the table is let go of at once (a TRUNCATE of the application waits for one
    /// chunk, not for the whole comparison), and a refusal does not end the snapshot.
    ///
    /// # Errors
    /// What concerns the table only, or the loss of the connection.
    pub(super) async fn rows(&self, sql: &str) -> Result<Rows, Stop> {
        let kept = self.keeps_snapshot.get();
        let answer = if kept {
            let guarded = format!("SAVEPOINT one; {sql}; ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one");
            self.client.simple_query(&guarded).await
        } else {
            self.client.simple_query(sql).await
        };
        let error = match answer {
            Ok(messages) => return self.texts(&messages),
            Err(error) => error,
        };
        let Some(trouble) = trouble(&error).filter(|_| !self.client.is_closed()) else {
            return Err(Stop::Everything(self.side.error(error)));
        };
        if kept {
            self.side.run(self.client, "ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one").await?;
        }
        let on = self.on();
        Err(Stop::Table(match trouble {
            Trouble::Denied => {
                let message = error.as_db_error().map_or_else(String::new, |e| e.message().to_owned());
                format!("our role may not read it on the {on}: {message}")
            }
            Trouble::Locked => format!(
                "it was locked on the {on}, or the statement was cancelled: run it again when nobody changes its \
                 definition"
            ),
            Trouble::Gone => format!("it was dropped or renamed on the {on} meanwhile"),
            Trouble::Other(why) => format!("{on}: {why}"),
        }))
    }

    /// The side as messages have it.
    pub(super) fn on(&self) -> &'static str {
        on(self.side)
    }

    fn texts(&self, messages: &[SimpleQueryMessage]) -> Result<Rows, Stop> {
        let mut rows = Vec::new();
        for message in messages {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let mut texts = Vec::with_capacity(row.len());
            for column in 0..row.len() {
                texts.push(row.try_get(column).map_err(|e| self.side.error(e))?.map(str::to_owned));
            }
            rows.push(texts);
        }
        Ok(rows)
    }
}

/// The side as messages have it.
pub(super) fn on(side: Side) -> &'static str {
    match side {
        Side::Publisher => "publisher",
        Side::Subscriber => "subscriber",
    }
}

/// One connection to each side: what one job works with.
#[derive(Debug)]
pub(super) struct Both<'a> {
    pub(super) publisher: Session<'a>,
    pub(super) subscriber: Session<'a>,
}
