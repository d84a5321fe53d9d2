//! Stopping the application's writes on the publisher, and letting them go on again.
//!
//! In: a connection of its own to the publisher's database. What is changed is one setting of the database, so that
//! `--abort` finds it also after a crash: there is no other record.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::stop::Blocker;
use crate::ops::ask::Side;
use crate::ops::read_only::{self, NewSessions, SETTING, Said};
use crate::publisher::connection::APPLICATION_NAME;
use crate::sides::SidesError;
use crate::sql::SqlError;
use crate::types::{quote_identifier, quote_literal};

/// How often to look whether the sessions are gone.
const LOOK: Duration = Duration::from_millis(10);

/// What has to be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Undo {
    database: String,
    /// What the setting was for this database; nothing where it was not set.
    before: Option<String>,
    /// The version of the database's settings that we made; nothing where it is not known.
    stamp: Option<String>,
}

impl Undo {
    /// The statement that lets writes go on.
    pub(super) fn sql(&self) -> String {
        let database = quote_identifier(&self.database);
        match &self.before {
            Some(value) => format!("ALTER DATABASE {database} SET {SETTING} = {};", quote_literal(value)),
            None => format!("ALTER DATABASE {database} RESET {SETTING};"),
        }
    }

    /// Whether the setting has been ours all the time: nobody has let the writes go on, not even for a moment.
    pub(super) async fn holds(&self, client: &Client) -> Result<bool, SidesError> {
        let is_on = setting(client).await?.is_some_and(|value| is_on(&value));
        Ok(is_on && self.stamp.is_some() && stamp(client).await? == self.stamp)
    }

    /// Whether the database was read-only by default before us.
    pub(super) fn was_stopped(&self) -> bool {
        self.before.as_deref().is_some_and(is_on)
    }

    /// Puts it back.
    pub(super) async fn run(&self, client: &Client) -> Result<(), SidesError> {
        Side::Publisher.run(client, &self.sql()).await
    }
}

/// What the database's own setting is.
pub(super) async fn setting(client: &Client) -> Result<Option<String>, SidesError> {
    let sql = "SELECT substr(config, length($1) + 2) FROM pg_db_role_setting s, unnest(s.setconfig) AS config
                WHERE s.setrole = 0 AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND config LIKE $1 || '=%'";
    let rows = Side::Publisher.rows(client, sql, &[&SETTING]).await?;
    rows.first().map(|row| Side::Publisher.get(row, 0)).transpose()
}

/// Which transaction has written the database's settings last.
async fn stamp(client: &Client) -> Result<Option<String>, SidesError> {
    let sql = "SELECT xmin::text FROM pg_db_role_setting
                WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = Side::Publisher.rows(client, sql, &[]).await?;
    rows.first().map(|row| Side::Publisher.get(row, 0)).transpose()
}

/// Lets the writes of the database go on, whoever stopped them. Says whether there was anything to do.
///
/// # Errors
/// The server's refusal.
pub async fn abort(client: &Client) -> Result<bool, SidesError> {
    if let Some(value) = setting(client).await? {
        if !is_on(&value) {
            return Ok(false);
        }
        let database: String = Side::Publisher.value(client, "SELECT current_database()::text", &[]).await?;
        Undo { database, before: None, stamp: None }.run(client).await?;
        return Ok(true);
    }
    // Nobody but the operator has made it so, and it is not for this database alone.
    let (what, action) = match read_only::by_default(Side::Publisher, client).await? {
        NewSessions::MayWrite | NewSessions::ReadOnly(Said::Database(_)) => return Ok(false),
        NewSessions::ReadOnly(Said::Everybody(_)) => (
            for_all("all roles in every database of the publisher"),
            format!("ALTER ROLE ALL RESET {SETTING};"),
        ),
        NewSessions::ReadOnly(Said::Server(_)) => (
            for_all("the whole publisher"),
            format!("ALTER SYSTEM RESET {SETTING}; SELECT pg_reload_conf();"),
        ),
        NewSessions::Unknown(hidden) => (hidden.what(), hidden.action()),
    };
    Err(SidesError::Setting { what, action: format!("there: {action}") })
}

fn for_all(whom: &str) -> String {
    format!("{SETTING} is on for {whom}, not for this database alone")
}

/// As the server reads a boolean: any beginning of the word will do.
fn is_on(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    !value.is_empty()
        && (value == "1" || value == "on" || "true".starts_with(&value) || "yes".starts_with(&value))
}

/// Whether our role could stop the writes now: the setting is changed and taken back in one transaction, which nobody
/// sees, and of every session that would have to end it is known whether we may end it.
pub(super) async fn may_stop(client: &Client, keep: &[i32]) -> Result<Result<(), Blocker>, SidesError> {
    let database: String = Side::Publisher.value(client, "SELECT current_database()::text", &[]).await?;
    let quoted = quote_identifier(&database);
    let attempt = format!("BEGIN READ WRITE; ALTER DATABASE {quoted} SET {SETTING} = on; ROLLBACK");
    if let Err(error) = Side::Publisher.run(client, &attempt).await {
        // The transaction is still there where the server refused a statement of it.
        Side::Publisher.run(client, "ROLLBACK").await?;
        return refused(error, &owner(client).await?);
    }
    let others = other_sessions(client, keep).await?;
    // As pg_terminate_backend decides.
    let sql = "SELECT a.pid, coalesce(a.usename::text, '?'), coalesce(r.rolsuper, true)
                 FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
                WHERE a.pid = ANY ($1) AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
                  AND (coalesce(r.rolsuper, true) OR NOT (pg_has_role(a.usesysid, 'USAGE')
                                                          OR pg_has_role('pg_signal_backend', 'USAGE')))
                ORDER BY a.pid LIMIT 1";
    let rows = Side::Publisher.rows(client, sql, &[&others]).await?;
    let Some(row) = rows.first() else { return Ok(Ok(())) };
    let (pid, role): (i32, String) = (Side::Publisher.get(row, 0)?, Side::Publisher.get(row, 1)?);
    let superuser: bool = Side::Publisher.get(row, 2)?;
    let action =
        if superuser { "end it by hand; no other role may end a superuser's session" } else { SIGNAL };
    Ok(Err(may_not(&format!("it may not end session {pid} of role {}", quote_identifier(&role)), action)))
}

/// What it takes to change a database's setting.
async fn owner(client: &Client) -> Result<String, SidesError> {
    let sql = "SELECT current_database()::text, current_user::text, r.rolname::text, r.rolsuper
                 FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE d.datname = current_database()";
    let rows = Side::Publisher.rows(client, sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok("run it as the owner of the database".to_owned()) };
    let text = |at| Side::Publisher.get::<String>(row, at).map(|name| quote_identifier(&name));
    let (database, role, owner) = (text(0)?, text(1)?, text(2)?);
    // Whoever is a member of a superuser's role can become the superuser.
    Ok(if Side::Publisher.get(row, 3)? {
        format!(
            "run it as {owner}, who owns the database, or there: ALTER DATABASE {database} OWNER TO {role};"
        )
    } else {
        format!("run it as {owner}, who owns the database, or there: GRANT {owner} TO {role};")
    })
}

/// What it takes to end sessions.
const SIGNAL: &str = "GRANT pg_signal_backend TO the role; superusers' sessions end by hand";

/// Makes the database read-only by default and ends the sessions of others, so that they come back as readers. `keep`
/// are sessions of ours.
///
/// # Errors
/// The server's refusal; what was changed by then is in `undo`.
pub(super) async fn stop(
    client: &Client,
    keep: &[i32],
    patience: Duration,
    undo: &mut Option<Undo>,
) -> Result<Result<usize, Blocker>, SidesError> {
    let database: String = Side::Publisher.value(client, "SELECT current_database()::text", &[]).await?;
    let before = setting(client).await?;
    let quoted = quote_identifier(&database);
    // Noted first: it may take effect although we are told that it failed.
    *undo = Some(Undo { database, before, stamp: None });
    let altered = Side::Publisher.run(client, &format!("ALTER DATABASE {quoted} SET {SETTING} = on")).await;
    if let Err(error) = altered {
        if matches!(&error, SidesError::Sql { source: SqlError::Query(e), .. } if e.as_db_error().is_some()) {
            *undo = None;
        }
        return refused(error, &owner(client).await?);
    }
    if let Some(undo) = undo {
        undo.stamp = stamp(client).await?;
    }
    let mut older = Older::look(client, keep).await?;
    let give_up = Instant::now() + patience;
    let mut ended = 0;
    loop {
        if older.are_gone() {
            return Ok(Ok(ended));
        }
        if Instant::now() > give_up {
            let pids = older.pids().map(|pid| pid.to_string()).collect::<Vec<_>>().join(", ");
            return Ok(Err(Blocker::new(
                "sessions-stay",
                format!("sessions of the database do not end although they were told to: pids {pids}"),
                "end them by hand on the publisher, and try again",
            )));
        }
        let sql = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM unnest($1::int4[]) AS pid";
        match Side::Publisher.value::<i64>(client, sql, &[&older.connected]).await {
            Ok(told) => ended = ended.max(usize::try_from(told).unwrap_or(0)),
            Err(error) => {
                return refused(error, SIGNAL);
            }
        }
        tokio::time::sleep(LOOK).await;
        older.look_again(client, keep).await?;
    }
}

/// The sessions that may have begun before the database's setting was made, and so may not be bound by it.
///
/// When a session began is hidden from a role without pg_read_all_stats, so they are told by their process ids: whoever is
/// not there in the first look has begun after it. A session reads the settings of the database before it is shown in
/// pg_stat_activity, but while it does so it holds a lock on the database, which pg_locks shows to everybody; that is
/// looked at first. Whoever takes the lock later reads what is committed by then.
///
/// A process id that was missing in one look belongs to another process when it comes back, and is let be. One that is
/// used again between two looks is taken for the old one: that reader is ended as well, and nobody older is missed.
struct Older {
    /// Sessions of this database.
    connected: Vec<i32>,
    /// Those that are about to begin, in this database; who they are is not known yet.
    beginning: Vec<i32>,
}

impl Older {
    /// To be called when the setting is committed.
    async fn look(client: &Client, keep: &[i32]) -> Result<Self, SidesError> {
        let beginning = beginning_sessions(client, keep).await?;
        Ok(Older { connected: other_sessions(client, keep).await?, beginning })
    }

    /// Keeps those that are still there.
    async fn look_again(&mut self, client: &Client, keep: &[i32]) -> Result<(), SidesError> {
        let mut now = Self::look(client, keep).await?;
        let before: HashSet<i32> = self.pids().collect();
        now.connected.retain(|pid| before.contains(pid));
        now.beginning.retain(|pid| before.contains(pid));
        *self = now;
        Ok(())
    }

    fn are_gone(&self) -> bool {
        self.connected.is_empty() && self.beginning.is_empty()
    }

    fn pids(&self) -> impl Iterator<Item = i32> {
        self.connected.iter().chain(&self.beginning).copied()
    }
}

/// Who holds the lock that a session, or a background worker, has on its database while it begins, and no longer.
async fn beginning_sessions(client: &Client, keep: &[i32]) -> Result<Vec<i32>, SidesError> {
    let sql = "SELECT DISTINCT pid FROM pg_locks
                WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND mode = 'RowExclusiveLock'
                  AND objid = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND pid <> pg_backend_pid() AND pid <> ALL ($1)
                ORDER BY pid";
    let rows = Side::Publisher.rows(client, sql, &[&keep]).await?;
    rows.iter().map(|row| Side::Publisher.get(row, 0)).collect()
}

/// What our role may not do is a blocker with the right to give; anything else is an error.
fn refused<T>(error: SidesError, action: &str) -> Result<Result<T, Blocker>, SidesError> {
    match &error {
        SidesError::Sql { source: SqlError::Query(source), .. }
            if source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) =>
        {
            Ok(Err(may_not(&crate::sql::describe(source), action)))
        }
        _ => Err(error),
    }
}

fn may_not(why: &str, action: &str) -> Blocker {
    Blocker::new(
        "may-not-stop-writes",
        format!("our role may not stop the writes: {why}"),
        format!("on the publisher: {action}; or stop the application yourself and leave --stop-writes out"),
    )
}

/// Client sessions in this database but ours and those that replicate. A name anybody can give himself: a running
/// seqshadow is known by its role, which streams from a slot, or is ours.
async fn other_sessions(client: &Client, keep: &[i32]) -> Result<Vec<i32>, SidesError> {
    // What kind a backend is may be hidden from us; who replicates is not. A slot may be held by a client session, too.
    let sql = "SELECT pid FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid <> ALL ($1)
                  AND coalesce(backend_type, 'client backend') = 'client backend'
                  AND NOT (coalesce(application_name, '') = $2 AND usesysid IS NOT NULL AND usesysid IN (
                      SELECT oid FROM pg_roles WHERE rolname = current_user
                      UNION ALL
                      SELECT w.usesysid FROM pg_replication_slots s JOIN pg_stat_activity w ON w.pid = s.active_pid
                       WHERE w.application_name = $2 AND s.database = current_database()))
                  AND pid NOT IN (SELECT pid FROM pg_stat_replication)
                ORDER BY pid";
    let rows = Side::Publisher.rows(client, sql, &[&keep, &APPLICATION_NAME]).await?;
    rows.iter().map(|row| Side::Publisher.get(row, 0)).collect()
}

/// Sessions of this database that have a transaction with an id, which may still commit rows.
pub(super) async fn writing_sessions(client: &Client, keep: &[i32]) -> Result<Vec<i32>, SidesError> {
    // pg_stat_activity.backend_xid is hidden from ordinary roles, the lock on it is not.
    let sql = "SELECT DISTINCT l.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
                WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
                  AND a.datname = current_database() AND l.pid <> pg_backend_pid() AND l.pid <> ALL ($1)
                ORDER BY 1";
    let rows = Side::Publisher.rows(client, sql, &[&keep]).await?;
    rows.iter().map(|row| Side::Publisher.get(row, 0)).collect()
}

/// Names of the prepared transactions of this database.
pub(super) async fn prepared(client: &Client) -> Result<Vec<String>, SidesError> {
    let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared";
    let rows = Side::Publisher.rows(client, sql, &[]).await?;
    rows.iter().map(|row| Side::Publisher.get(row, 0)).collect()
}

/// The client sessions of the subscriber's database but our own.
pub(super) async fn sessions_of(subscriber: &Client) -> Result<Vec<i32>, SidesError> {
    // What kind a backend is may be hidden from us; the workers of subscriptions are not.
    let sql = "SELECT pid FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()
                  AND coalesce(backend_type, 'client backend') = 'client backend'
                  AND pid NOT IN (SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL)
                ORDER BY pid";
    let rows = Side::Subscriber.rows(subscriber, sql, &[]).await?;
    rows.iter().map(|row| Side::Subscriber.get(row, 0)).collect()
}

/// The other client sessions there are: each of them could begin to write again.
pub(super) async fn others(client: &Client, keep: &[i32]) -> Result<Vec<i32>, SidesError> {
    other_sessions(client, keep).await
}

/// The same, where a setting that is not of our making is to bind them all: those that began before it are not bound, and
/// which those are nobody can see. One that is about to begin is waited for until `give_up`, and belongs to them after that.
pub(super) async fn perhaps_older(
    client: &Client,
    keep: &[i32],
    give_up: Instant,
) -> Result<Vec<i32>, SidesError> {
    loop {
        let now = Older::look(client, keep).await?;
        if now.beginning.is_empty() || Instant::now() > give_up {
            return Ok(now.pids().collect());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until `give_up` for the end of those that are there now; who begins from here on is bound by a setting that is in
/// force already. Gives those that are still there then.
pub(in crate::ops) async fn outlast(client: &Client, give_up: Instant) -> Result<Vec<i32>, SidesError> {
    let mut older = Older::look(client, &[]).await?;
    while !older.are_gone() && Instant::now() < give_up {
        tokio::time::sleep(LOOK).await;
        older.look_again(client, &[]).await?;
    }
    Ok(older.pids().collect())
}
