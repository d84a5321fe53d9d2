//! Follows the publisher through everything that happens to a slot: one loop, one table of what to do about errors.
//!
//! In: the wanted slot. Out: streams, one after the other, and at most one [`Fatal`] reason to end. Whatever may heal
//! by itself is waited for with backoff; only what a person must mend ends it.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use super::connection::{
    APPLICATION_NAME, ReplicationConnection, ReplicationError, SlotOptions, StreamOptions,
};
use super::poll::Request;
use super::slot::{self, Verdict};
use super::stream::{self, End, Shared, Timing};
use crate::backoff::Backoff;
use crate::confirm::Synchronous;
use crate::conninfo::Conninfo;
use crate::pgoutput::{Streaming, Tap};
use crate::sql::{self, Connection, SqlError};
use crate::types::SlotName;

/// How often the slot is looked at: its WAL, and whether somebody else's transaction pins it.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Receipts that are impossible for so long make us leave the slot idle: a held flush would block the publisher's
/// fast shutdown.
const RECEIPTS_GRACE: Duration = Duration::from_secs(5);

/// How often a hot standby looks whether the slot is free.
const STANDBY_LOOK: Duration = Duration::from_secs(1);

/// While the slot is being created: how often to say what it waits for.
const CREATION_REPORT: Duration = Duration::from_secs(30);

/// A reason to end that only a person can mend.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fatal {
    /// Exit code 4.
    #[error("refused: {why}; {action}")]
    Refused { why: String, action: String },
    /// Exit code 2.
    #[error("{what}; {action}")]
    Setting { what: String, action: String },
    /// Exit code 3.
    #[error("publisher: {0}")]
    Unreachable(String),
}

/// What to do after an error.
#[derive(Debug)]
enum Reaction {
    Retry,
    /// The slot, or what it needs, is gone: make it anew and seed again.
    Recreate(String),
    Stop(Fatal),
}

/// What is fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct Follow {
    pub conninfo: Conninfo,
    pub slot: SlotName,
    pub publications: Vec<String>,
    /// The subscriber's `(subscription, slot)` pairs: slots that are never ours.
    pub subscriptions: Vec<(String, String)>,
    pub slot_options: SlotOptions,
    pub create_slot: bool,
    pub streaming: Streaming,
    pub timing: Timing,
}

/// What changes, and whom to tell.
#[derive(Debug)]
pub struct Links {
    pub shared: Shared,
    pub requests: mpsc::Sender<Request>,
    /// Since when receipts are impossible (the subscriber is away); `None` while they are possible.
    pub receipts_impossible_since: watch::Receiver<Option<Instant>>,
    /// Bytes of WAL that our slot may hold back.
    pub max_retained_wal: watch::Receiver<u64>,
    /// Tells the keeper to confirm what has no receipt: past the ceiling.
    pub give_up: mpsc::Sender<()>,
    pub stop: watch::Receiver<bool>,
    /// What the slot does now, for people: `streaming`, `waiting for the slot`, …
    pub state: watch::Sender<SlotState>,
}

/// What the slot does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotState {
    pub doing: Doing,
    pub retained_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    #[default]
    Connecting,
    /// `CREATE_REPLICATION_SLOT` waits for writing transactions.
    Creating,
    /// Another seqshadow streams.
    Standby,
    Streaming,
    /// The subscriber is away: the slot is left alone.
    Idle,
}

/// How one round ended.
enum Round {
    Again,
    Stopped,
}

impl Follow {
    /// Follows until told to stop (`Ok`) or until a person is needed.
    ///
    /// # Errors
    /// [`Fatal`].
    pub async fn run(&self, mut links: Links) -> Result<(), Fatal> {
        let mut backoff = Backoff::default();
        let mut recovering = false;
        loop {
            if *links.stop.borrow() {
                return Ok(());
            }
            links.shared.alive.beat();
            let failure = match self.round(&mut links, &mut backoff, &mut recovering).await {
                Ok(Round::Again) => continue,
                Ok(Round::Stopped) => return Ok(()),
                Err(failure) => failure,
            };
            self.react(&failure, &mut links).await?;
            recovering = true;
            let delay = backoff.next_delay();
            links.state.send_modify(|state| state.doing = Doing::Connecting);
            warn!(slot = %self.slot, error = %failure, retry_in = ?delay, "the stream is interrupted; sequences stay protected by polling");
            tokio::select! {
                () = sleep(delay) => {}
                () = told_to(&mut links.stop) => return Ok(()),
            }
        }
    }

    async fn round(
        &self,
        links: &mut Links,
        backoff: &mut Backoff,
        recovering: &mut bool,
    ) -> Result<Round, Failure> {
        let sql = sql::connect(&self.conninfo, "publisher").await?;
        if links.receipts_impossible_since.borrow().is_some() {
            return self.idle(links, &sql).await;
        }
        let found = slot::load(&sql.client, sql.version, &self.slot).await?;
        links
            .state
            .send_modify(|state| state.retained_bytes = found.as_ref().map_or(0, |s| s.retained_bytes));
        match self.judge(&sql, found.as_ref()).await? {
            Verdict::Refused { why, action } => Err(Failure::Fatal(Fatal::Refused { why, action })),
            Verdict::Standby { pid } => self.stand_by(links, pid).await,
            Verdict::Lost { why } => {
                self.drop_lost(&sql, links, &why).await?;
                Ok(Round::Again)
            }
            Verdict::Missing => self.create_and_stream(links, &sql, backoff, recovering).await,
            Verdict::Ours => {
                let connection = ReplicationConnection::open(&self.conninfo).await?;
                self.stream(links, &sql, connection, backoff, recovering).await
            }
        }
    }

    async fn judge(&self, sql: &Connection, found: Option<&slot::Slot>) -> Result<Verdict, Failure> {
        let row =
            sql.client.query_one("SELECT current_database()::text", &[]).await.map_err(SqlError::from)?;
        let database: String = row.try_get(0).map_err(SqlError::from)?;
        Ok(slot::judge(&self.slot, found, &database, &self.subscriptions))
    }

    /// Another seqshadow has the slot. Our sequences are protected by polls; when it is free we go on with the stream.
    async fn stand_by(&self, links: &mut Links, pid: i32) -> Result<Round, Failure> {
        if links.state.borrow().doing != Doing::Standby {
            info!(slot = %self.slot, pid, "another seqshadow streams from the slot; standing by until it is free");
            links.state.send_modify(|state| state.doing = Doing::Standby);
        }
        tokio::select! {
            () = sleep(STANDBY_LOOK) => Ok(Round::Again),
            () = told_to(&mut links.stop) => Ok(Round::Stopped),
        }
    }

    /// The subscriber is away. The slot is left alone, so that the publisher may shut down, but its WAL is watched.
    async fn idle(&self, links: &mut Links, sql: &Connection) -> Result<Round, Failure> {
        loop {
            links.shared.alive.beat();
            // Right after the start the keeper may still be at its first reading, which is no absence.
            let away = links.receipts_impossible_since.borrow().map(|since| since.elapsed());
            if away.is_some_and(|away| away >= RECEIPTS_GRACE) && links.state.borrow().doing != Doing::Idle {
                warn!(slot = %self.slot, "the subscriber is away: the slot is left idle until it is back");
                links.state.send_modify(|state| state.doing = Doing::Idle);
            }
            let found = slot::load(&sql.client, sql.version, &self.slot).await?;
            let retained = found.as_ref().map_or(0, |s| s.retained_bytes);
            links.state.send_modify(|state| state.retained_bytes = retained);
            let ours = matches!(self.judge(sql, found.as_ref()).await?, Verdict::Ours);
            let ceiling = *links.max_retained_wal.borrow();
            if ours && retained > ceiling {
                self.drop_slot(sql).await?;
                warn!(
                    slot = %self.slot, retained_bytes = retained, max_retained_wal = ceiling,
                    "the slot held back more WAL than allowed while the subscriber is away: it was dropped; \
                     it will be created again and the sequences seeded again when the subscriber is back"
                );
            }
            tokio::select! {
                () = sleep(LOOK_INTERVAL.min(Duration::from_secs(1))) => {}
                possible = links.receipts_impossible_since.wait_for(Option::is_none) => {
                    return if possible.is_ok() { Ok(Round::Again) } else { Ok(Round::Stopped) };
                }
                () = told_to(&mut links.stop) => return Ok(Round::Stopped),
            }
        }
    }

    async fn drop_lost(&self, sql: &Connection, links: &Links, why: &str) -> Result<(), Failure> {
        self.drop_slot(sql).await?;
        warn!(slot = %self.slot, %why, "the slot was lost: it is created again and every sequence is seeded again");
        let _ = links.requests.send(Request::Seed).await;
        Ok(())
    }

    async fn drop_slot(&self, sql: &Connection) -> Result<(), Failure> {
        // Only while nobody holds it, and only if it is there: another seqshadow may have been faster.
        sql.client
            .execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                  WHERE slot_name = $1 AND active_pid IS NULL",
                &[&self.slot.as_str()],
            )
            .await
            .map_err(SqlError::from)?;
        Ok(())
    }

    async fn create_and_stream(
        &self,
        links: &mut Links,
        sql: &Connection,
        backoff: &mut Backoff,
        recovering: &mut bool,
    ) -> Result<Round, Failure> {
        if !self.create_slot {
            return Err(Failure::Fatal(Fatal::Setting {
                what: format!("replication slot {} does not exist and --no-create-slot was given", self.slot),
                action: format!(
                    "create it: SELECT pg_create_logical_replication_slot('{}', 'pgoutput');",
                    self.slot
                ),
            }));
        }
        let mut connection = ReplicationConnection::open(&self.conninfo).await?;
        let pid = connection.backend_pid();
        links.state.send_modify(|state| state.doing = Doing::Creating);
        let begun = Instant::now();
        let mut next_report = begun + Duration::from_secs(3);
        let mut stop = links.stop.clone();
        {
            let options = SlotOptions {
                failover: self.slot_options.failover && sql.version >= 170_000,
                ..self.slot_options
            };
            let creation = connection.create_slot(&self.slot, options);
            tokio::pin!(creation);
            loop {
                tokio::select! {
                    created = &mut creation => {
                        created?;
                        break;
                    }
                    () = sleep_until(next_report) => {
                        next_report += CREATION_REPORT;
                        self.report_creation(sql, pid, begun).await;
                    }
                    () = told_to(&mut stop) => {
                        // A walsender that waits for a transaction does not notice that we hang up.
                        let cancel = async { sql.client.execute("SELECT pg_cancel_backend($1)", &[&pid]).await };
                        let _ = timeout(Duration::from_secs(1), cancel).await;
                        return Ok(Round::Stopped);
                    }
                }
                links.shared.alive.beat();
            }
        }
        info!(slot = %self.slot, temporary = self.slot_options.temporary, took = ?begun.elapsed(), "replication slot created");
        // Ids from before the slot's consistent point never come in the stream.
        let _ = links.requests.send(Request::Seed).await;
        self.stream(links, sql, connection, backoff, recovering).await
    }

    async fn report_creation(&self, sql: &Connection, pid: i32, begun: Instant) {
        let oldest = "SELECT pid, datname::text, usename::text, extract(epoch FROM now() - xact_start)::int8
                        FROM pg_stat_activity
                       WHERE (backend_xid IS NOT NULL OR xact_start IS NOT NULL) AND pid NOT IN ($1, pg_backend_pid())
                         AND backend_type = 'client backend'
                       ORDER BY backend_xid IS NULL, xact_start LIMIT 1";
        let found = sql.client.query_opt(oldest, &[&pid]).await.ok().flatten();
        let blocker = found.and_then(|row| {
            let blocking: i32 = row.try_get(0).ok()?;
            let database: Option<String> = row.try_get(1).ok()?;
            Some(format!("pid {blocking} in database {}", database.unwrap_or_default()))
        });
        warn!(
            slot = %self.slot, waiting = ?begun.elapsed(),
            transaction = blocker.as_deref().unwrap_or("not visible to our role, perhaps a prepared one"),
            "the slot cannot be created before the writing transactions of the publisher's instance end; \
             the sequences are kept ahead by polling meanwhile"
        );
    }

    async fn stream(
        &self,
        links: &mut Links,
        sql: &Connection,
        connection: ReplicationConnection,
        backoff: &mut Backoff,
        recovering: &mut bool,
    ) -> Result<Round, Failure> {
        let options =
            StreamOptions::for_server(connection.version(), self.streaming, self.publications.clone());
        let tap = Tap::new(options.version, options.streaming);
        let timing = Timing { synchronous: synchronous(sql).await?, ..self.timing };
        let (socket, received) = connection.start(&self.slot, &options).await?;
        links.state.send_modify(|state| state.doing = Doing::Streaming);
        if std::mem::take(recovering) {
            info!(slot = %self.slot, "recovered: the stream goes on");
            let _ = links.requests.try_send(Request::Seed);
        } else {
            info!(slot = %self.slot, publications = ?self.publications, server = %sql.peer, version = sql.version, "streaming");
        }
        let started = Instant::now();
        let (why_send, mut why) = watch::channel(Why::Nothing);
        let mut shared = links.shared.clone();
        let stop = watch_over(self, links, sql, &why_send);
        let (end, stats) = stream::run(socket, received, tap, &mut shared, timing, stop).await;
        debug!(rows = stats.rows, ?end, "stream ended");
        if started.elapsed() > Duration::from_secs(10) {
            backoff.succeeded();
        }
        let why = why.borrow_and_update().clone();
        match (end, why) {
            (End::Failed(error), _) => Err(Failure::Replication(error)),
            (End::Asked, Why::Stop) => Ok(Round::Stopped),
            (End::Asked, Why::Drop { retained }) => {
                self.drop_slot(sql).await?;
                warn!(
                    slot = %self.slot, retained_bytes = retained,
                    "confirming did not release the WAL that the slot holds back: it was dropped, and is created again"
                );
                let _ = links.requests.send(Request::Seed).await;
                Ok(Round::Again)
            }
            (End::Asked, Why::Nothing | Why::Idle) => Ok(Round::Again),
            (End::Finished, _) => Err(Failure::Ended("the publisher ended the stream")),
            (End::Stuck, _) => Err(Failure::Ended(
                "the publisher waits for a confirmation that is not possible now (it is shutting down): left alone",
            )),
        }
    }

    /// The one table of what to do about errors.
    async fn react(&self, failure: &Failure, links: &mut Links) -> Result<(), Fatal> {
        match self.reaction(failure) {
            Reaction::Retry => Ok(()),
            Reaction::Stop(fatal) => Err(fatal),
            Reaction::Recreate(why) => {
                let dropped = async {
                    let sql = sql::connect(&self.conninfo, "publisher").await?;
                    let found = slot::load(&sql.client, sql.version, &self.slot).await?;
                    if matches!(self.judge(&sql, found.as_ref()).await?, Verdict::Ours | Verdict::Lost { .. })
                    {
                        self.drop_lost(&sql, links, &why).await?;
                    }
                    Ok::<(), Failure>(())
                };
                if let Err(failure) = dropped.await {
                    debug!(error = %failure, "the slot could not be dropped now; it is looked at again");
                }
                Ok(())
            }
        }
    }

    fn reaction(&self, failure: &Failure) -> Reaction {
        let (error, text) = match failure {
            Failure::Fatal(fatal) => return Reaction::Stop(fatal.clone()),
            Failure::Ended(_) => return Reaction::Retry,
            Failure::Sql(error) => (sql_state(error), error.to_string()),
            Failure::Replication(error) => (error.sqlstate().map(str::to_owned), error.to_string()),
        };
        if let Failure::Replication(ReplicationError::Connect(error)) = failure
            && error.is_pooler_refusal()
        {
            return Reaction::Stop(Fatal::Setting {
                what: format!(
                    "the publisher's address leads to a connection pooler, which cannot replicate: {text}"
                ),
                action: "give the server's own host and port in --publisher".to_owned(),
            });
        }
        let Some(state) = error else { return Reaction::Retry };
        match state.as_str() {
            // The slot or a publication is gone. A publication made after the slot is never seen by it on ≤ 17.
            "42704" if text.contains("publication") => Reaction::Recreate(text),
            "42704" => Reaction::Retry,
            "55000" if text.contains("wal_level") => Reaction::Stop(Fatal::Setting {
                what: text,
                action: "on the publisher: ALTER SYSTEM SET wal_level = logical; and restart it".to_owned(),
            }),
            // Invalidated between our look and the start: the next look says so. Any other 55000 is refused there too.
            "55000" => {
                if ["invalidated", "can no longer", "no longer get changes"].iter().any(|w| text.contains(w))
                {
                    Reaction::Recreate(text)
                } else {
                    Reaction::Stop(Fatal::Refused {
                        why: text,
                        action: "name a slot of its own with --slot".to_owned(),
                    })
                }
            }
            "42501" => Reaction::Stop(Fatal::Setting {
                what: text,
                action: "on the publisher: ALTER ROLE … REPLICATION; (on RDS: GRANT rds_replication TO …;)"
                    .to_owned(),
            }),
            "53400" => Reaction::Stop(Fatal::Setting {
                what: text,
                action: "raise max_replication_slots on the publisher, or drop a slot that is not used"
                    .to_owned(),
            }),
            state if state.starts_with("28") => Reaction::Stop(Fatal::Unreachable(format!(
                "{text}; check user, password and pg_hba.conf (a replication connection to a database is matched by \
                 the database's name, not by \"replication\")"
            ))),
            "3D000" => Reaction::Stop(Fatal::Unreachable(text)),
            // 55006 the slot is taken, 53300 too many connections, 57P01/57P03 shutting down or starting up, and all else.
            _ => Reaction::Retry,
        }
    }
}

/// Why a stream was asked to stop.
#[derive(Clone, Debug)]
enum Why {
    Nothing,
    Stop,
    Idle,
    Drop { retained: u64 },
}

/// Ends when the stream must: told to stop, the subscriber is away too long, or too much WAL is held back.
async fn watch_over(follow: &Follow, links: &mut Links, sql: &Connection, why: &watch::Sender<Why>) {
    let mut over_ceiling = 0_u32;
    let mut next_look = Instant::now() + LOOK_INTERVAL;
    loop {
        let away = *links.receipts_impossible_since.borrow_and_update();
        let leave_at = away.map(|since| since + RECEIPTS_GRACE);
        tokio::select! {
            () = told_to(&mut links.stop) => {
                let _ = why.send(Why::Stop);
                return;
            }
            changed = links.receipts_impossible_since.changed() => {
                if changed.is_err() {
                    let _ = why.send(Why::Stop);
                    return;
                }
            }
            () = async { sleep_until(leave_at.unwrap_or_else(Instant::now)).await }, if leave_at.is_some() => {
                let _ = why.send(Why::Idle);
                return;
            }
            () = sleep_until(next_look) => {
                next_look = Instant::now() + LOOK_INTERVAL;
                let look = timeout(LOOK_INTERVAL, slot::load(&sql.client, sql.version, &follow.slot)).await;
                let Ok(Ok(Some(found))) = look else { continue };
                links.state.send_modify(|state| state.retained_bytes = found.retained_bytes);
                let ceiling = *links.max_retained_wal.borrow();
                if found.retained_bytes <= ceiling {
                    over_ceiling = 0;
                    continue;
                }
                over_ceiling += 1;
                warn!(
                    slot = %follow.slot, retained_bytes = found.retained_bytes, max_retained_wal = ceiling,
                    "the slot holds back more WAL than allowed: confirming what is possible, a new seed is owed"
                );
                let _ = links.give_up.try_send(());
                let _ = links.requests.try_send(Request::Seed);
                // Confirming takes a moment, and an open writing transaction may pin the WAL all the same.
                if over_ceiling >= 3 {
                    let _ = why.send(Why::Drop { retained: found.retained_bytes });
                    return;
                }
            }
        }
    }
}

/// Whether the publisher's commits would wait for us.
async fn synchronous(sql: &Connection) -> Result<Option<Synchronous>, SqlError> {
    let row = sql.client.query_one("SELECT current_setting('synchronous_standby_names')", &[]).await?;
    let names: String = row.try_get(0)?;
    let matching = Synchronous::matching(&names, APPLICATION_NAME);
    if matching.is_some() {
        error!(
            synchronous_standby_names = %names,
            "the publisher takes us for a synchronous standby, its commits would wait for us: everything is confirmed \
             at once; name the real standbys: ALTER SYSTEM SET synchronous_standby_names = '…'; SELECT pg_reload_conf();"
        );
    }
    Ok(matching)
}

/// What went wrong in a round.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    #[error("{0}")]
    Ended(&'static str),
    #[error(transparent)]
    Fatal(Fatal),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Failure::Sql(error.into())
    }
}

/// Waits until told to stop, or until whoever could tell is gone.
async fn told_to(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn sql_state(error: &SqlError) -> Option<String> {
    match error {
        SqlError::Connect(error) => error.sqlstate().map(str::to_owned),
        SqlError::Query(error) => error.code().map(|code| code.code().to_owned()),
        SqlError::TimedOut { .. } => None,
    }
}
