//! A witness of what is committed on the publisher: a temporary slot of our own, read by SQL.
//!
//! It is made before the writes are stopped and sees every published row from then on, so that a writer who ignores the
//! pause is seen whatever session or setting he uses. The slot goes away with its connection.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::stop::{Blocker, Stop};
use crate::ops::ask::Side;
use crate::pgoutput::{Context, Message, ProtocolVersion, Streaming};
use crate::sides::SidesError;
use crate::sql::Connection;
use crate::types::{Lsn, quote_identifier};

/// A row that was committed where none should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The commit's position.
    pub at: Lsn,
    pub xid: u32,
    /// `schema.table`, where the stream told.
    pub table: String,
}

/// Sees what is committed.
#[derive(Debug)]
pub(super) struct Witness {
    connection: Connection,
    slot: String,
    /// As the output plugin takes them: each for a stream of its own.
    streams: Vec<String>,
}

impl Witness {
    /// Takes its place. Waits for every transaction that writes anywhere on the instance, for `patience` at most. Each of
    /// the lists of publications is read as a stream of its own.
    pub(super) async fn new(
        connection: Connection,
        publications: &[Vec<String>],
        patience: Duration,
    ) -> Result<Self, Stop> {
        let slot = format!("seqshadow_cutover_{}", connection.backend_pid);
        let client = &connection.client;
        // The wait for a transaction is the wait for its lock.
        let timeout = format!("SET statement_timeout = {}; SET lock_timeout = 0", patience.as_millis());
        Side::Publisher.run(client, &timeout).await?;
        let made =
            client.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)", &[&slot]).await;
        match made {
            Ok(_) => {}
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                return Err(open_transactions(client).await?.into());
            }
            Err(error) if error.code() == Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED) => {
                return Err(Blocker::new(
                    "no-free-slot",
                    "the publisher has no free replication slot for the witness",
                    "drop one that is not used, or raise max_replication_slots there",
                )
                .into());
            }
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                return Err(may_not_replicate(client, &error).await?.into());
            }
            Err(error) => return Err(SidesError::on_publisher(error).into()),
        }
        Side::Publisher
            .run(client, &format!("SET statement_timeout = {}", patience.as_millis().max(30_000)))
            .await?;
        let quoted = |list: &Vec<String>| list.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>();
        let streams = publications.iter().map(|list| quoted(list).join(",")).collect();
        Ok(Witness { connection, slot, streams })
    }

    /// Our session's process id.
    pub(super) fn pid(&self) -> i32 {
        self.connection.backend_pid
    }

    /// Reads all that was committed since the last look, and returns the first published row whose transaction was
    /// committed at `after` or later.
    pub(super) async fn first_row_past(&self, after: Lsn, but: Option<u32>) -> Result<Option<Row>, Stop> {
        let client = &self.connection.client;
        let upto: String =
            Side::Publisher.value(client, "SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
        let mut first: Option<Row> = None;
        for (index, stream) in self.streams.iter().enumerate() {
            // The same stretch for all of them: only the last one leaves it behind.
            let read = if index + 1 == self.streams.len() { "get" } else { "peek" };
            let sql = format!(
                "SELECT data FROM pg_logical_slot_{read}_binary_changes(
                     $1, $2::text::pg_lsn, NULL, 'proto_version', '1', 'publication_names', $3)"
            );
            let rows = Side::Publisher.rows(client, &sql, &[&self.slot, &upto, stream]).await?;
            let mut seen = Seen { but, ..Seen::default() };
            for row in &rows {
                let data: &[u8] = row.try_get(0).map_err(SidesError::on_publisher)?;
                seen.take(data, after)?;
            }
            first = first.or(seen.first);
        }
        Ok(first)
    }
}

/// What one look saw.
#[derive(Debug, Default)]
struct Seen {
    commit: Lsn,
    xid: u32,
    tables: std::collections::HashMap<u32, String>,
    first: Option<Row>,
    but: Option<u32>,
}

impl Seen {
    fn take(&mut self, data: &[u8], after: Lsn) -> Result<(), Blocker> {
        let context = Context::new(ProtocolVersion::V1, Streaming::Off);
        let message = Message::decode(data, &context).map_err(|error| {
            Blocker::new(
                "witness-unreadable",
                format!("the publisher's stream cannot be decoded: {error}"),
                "report it with the publisher's version",
            )
        })?;
        let relation = match message {
            Message::Begin(begin) => {
                self.commit = begin.final_lsn;
                self.xid = begin.xid;
                return Ok(());
            }
            Message::Relation(relation) => {
                let name = format!(
                    "{}.{}",
                    quote_identifier(&relation.schema.lossy()),
                    quote_identifier(&relation.name.lossy())
                );
                self.tables.insert(relation.oid, name);
                return Ok(());
            }
            Message::Insert(row) => Some(row.relation),
            Message::Update(row) => Some(row.relation),
            Message::Delete(row) => Some(row.relation),
            Message::Truncate(_) => None,
            _ => return Ok(()),
        };
        if self.first.is_none() && self.commit >= after && self.but != Some(self.xid) {
            let table = relation.and_then(|id| self.tables.get(&id)).cloned();
            self.first = Some(Row {
                at: self.commit,
                xid: self.xid,
                table: table.unwrap_or_else(|| "a published table".to_owned()),
            });
        }
        Ok(())
    }
}

/// What our role lacks. Providers have other ways to give it: the server is asked by trying, not by the role's attributes.
async fn may_not_replicate(client: &Client, error: &tokio_postgres::Error) -> Result<Blocker, SidesError> {
    let role: String = Side::Publisher.value(client, "SELECT current_user::text", &[]).await?;
    let role = quote_identifier(&role);
    Ok(Blocker::new(
        "may-not-replicate",
        format!(
            "role {role} may not make the slot from which every row committed in the pause is read: {}",
            crate::sql::describe(error)
        ),
        format!(
            "on the publisher: ALTER ROLE {role} REPLICATION; (or what your provider has for it: see seqshadow check)"
        ),
    ))
}

/// Who kept the slot from being made.
async fn open_transactions(client: &Client) -> Result<Blocker, SidesError> {
    let sql = "SELECT l.pid, coalesce(a.datname::text, '?') FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
                WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
                  AND l.pid IS DISTINCT FROM pg_backend_pid()";
    let rows = Side::Publisher.rows(client, sql, &[]).await?;
    let mut who = Vec::new();
    for row in &rows {
        let (pid, database): (Option<i32>, String) =
            (Side::Publisher.get(row, 0)?, Side::Publisher.get(row, 1)?);
        who.push(match pid {
            Some(pid) => format!("pid {pid} in database {}", quote_identifier(&database)),
            None => "a prepared transaction (see pg_prepared_xacts)".to_owned(),
        });
    }
    let who =
        if who.is_empty() { "a transaction that has ended meanwhile".to_owned() } else { who.join(", ") };
    Ok(Blocker::new(
        "open-transaction",
        format!("a transaction that writes on the publisher's instance does not end: {who}"),
        "wait for it, or end it with SELECT pg_terminate_backend(pid) there",
    ))
}
