//! Makes the slot: waits for its publications and for the publisher's writing transactions, says what it waits for, and
//! gives up where the slot in the making holds back too much WAL.
//!
//! In: the wanted slot, which is not there. Out: a stream from it (see [`super`]).

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::{Course, Doing, Follow, LOOK_INTERVAL, LOOK_TIMEOUT, Links, Round, told_to};
use crate::alive::BEAT;
use crate::publisher::connection::{ReplicationConnection, SlotOptions};
use crate::publisher::publication;
use crate::publisher::reaction::{Failure, Fatal};
use crate::sql::{self, Connection};
use crate::types::quote_identifier;

/// From here on a stream goes on without a publication that does not exist.
const VERSION_SKIPS_PUBLICATIONS: u32 = 180_000;

/// While the slot is being created: how often to say what it waits for.
const CREATION_REPORT: Duration = Duration::from_secs(30);

impl Follow {
    /// Makes the slot, and streams from it.
    pub(super) async fn create_and_stream(
        &self,
        links: &mut Links,
        sql: &Connection,
        course: &mut Course,
    ) -> Result<Round, Failure> {
        let Some(ready) = links.unless_stopped(self.has_publications(sql)).await else {
            return Ok(Round::Stopped);
        };
        ready?;
        if std::mem::take(&mut course.had_slot) {
            course.gave_up_slot(links);
            if self.slot_options.temporary {
                info!(slot = %self.slot, "the temporary slot went with its connection: it is created again and every sequence is seeded again");
            } else {
                warn!(slot = %self.slot, "the slot was dropped by somebody else: it is created again and every sequence is seeded again");
            }
        }
        if !self.create_slot {
            return Err(Failure::Fatal(Fatal::Setting {
                what: format!("replication slot {} does not exist and --no-create-slot was given", self.slot),
                action: format!(
                    "create it: SELECT pg_create_logical_replication_slot('{}', 'pgoutput');",
                    self.slot
                ),
            }));
        }
        let opening = ReplicationConnection::open(&self.conninfo);
        let Some(connection) = links.unless_stopped(opening).await else {
            return Ok(Round::Stopped);
        };
        let mut connection = connection?;
        let pid = connection.backend_pid();
        links.state.send_modify(|state| state.doing = Doing::Creating);
        let begun = Instant::now();
        let mut next_report = begun + Duration::from_secs(3);
        let mut next_look = begun + LOOK_INTERVAL;
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
                        links.shared.alive.through(self.report_creation(sql, pid, begun)).await;
                    }
                    () = sleep_until(next_look) => {
                        // A slot in the making holds back WAL like any other.
                        if let Err(failure) = links.shared.alive.through(self.look(sql, &links.state)).await {
                            // A walsender that waits does not notice that we hang up, and would keep the slot's name.
                            if let Ok(sql) = links.shared.alive.through(sql::connect(&self.conninfo, "publisher")).await {
                                cancel(&sql, pid).await;
                            }
                            return Err(failure);
                        }
                        next_look = Instant::now() + LOOK_INTERVAL;
                        if links.state.borrow().retained_bytes > *links.max_retained_wal.borrow() {
                            cancel(sql, pid).await;
                            return Err(Failure::Ended(
                                "the slot in the making held back more WAL than allowed: its creation is given up for now",
                            ));
                        }
                    }
                    () = told_to(&mut stop) => {
                        cancel(sql, pid).await;
                        return Ok(Round::Stopped);
                    }
                    () = sleep(BEAT) => {}
                }
                links.shared.alive.beat();
            }
        }
        info!(slot = %self.slot, temporary = self.slot_options.temporary, took = ?begun.elapsed(), "replication slot created");
        // Ids from before the slot's consistent point never come in the stream.
        links.requests.seed();
        self.stream(links, sql, connection, course).await
    }

    /// Up to 17 a slot never sees a publication that is made after it, and its stream fails.
    async fn has_publications(&self, sql: &Connection) -> Result<(), Failure> {
        if sql.version >= VERSION_SKIPS_PUBLICATIONS {
            return Ok(());
        }
        let found = publication::load(&sql.client, &self.publications);
        let missing = sql::within(LOOK_TIMEOUT, found).await?.missing;
        let Some(first) = missing.first() else { return Ok(()) };
        Err(Failure::Fatal(Fatal::Setting {
            what: format!(
                "the slot {} is not created before its publications, and these do not exist on the publisher: {}",
                self.slot,
                missing.join(", ")
            ),
            action: format!("create them there: CREATE PUBLICATION {} FOR …;", quote_identifier(first)),
        }))
    }

    async fn report_creation(&self, sql: &Connection, pid: i32, begun: Instant) {
        let asked = timeout(LOOK_TIMEOUT, sql.client.query_one("SELECT pg_is_in_recovery()", &[])).await;
        if asked.ok().and_then(Result::ok).and_then(|row| row.try_get(0).ok()).unwrap_or(false) {
            warn!(
                slot = %self.slot, waiting = ?begun.elapsed(),
                "the publisher is a standby: the slot is created when the primary logs which transactions run, and \
                 those that write have ended; on the primary: SELECT pg_log_standby_snapshot(); until \
                 then the publisher's sequences are polled instead"
            );
            return;
        }
        // Who waits for whom is public; what the others do is shown to few roles.
        let blocking = "SELECT b.pid, a.datname::text, a.usename::text
                          FROM unnest(pg_blocking_pids($1)) AS b(pid) LEFT JOIN pg_stat_activity a ON a.pid = b.pid
                         LIMIT 1";
        let found = timeout(LOOK_TIMEOUT, sql.client.query_opt(blocking, &[&pid])).await;
        let blocker = found.ok().and_then(Result::ok).flatten().and_then(|row| {
            let text = |column| row.try_get::<_, Option<String>>(column).ok().flatten().unwrap_or_default();
            match row.try_get(0).ok()? {
                0 => Some("a prepared one, see pg_prepared_xacts".to_owned()),
                pid @ 1_i32.. => Some(format!("pid {pid} in database {} of role {}", text(1), text(2))),
                _ => None,
            }
        });
        warn!(
            slot = %self.slot, waiting = ?begun.elapsed(),
            transaction = blocker.as_deref().unwrap_or("not known"),
            "the slot cannot be created before the writing transactions of the publisher's instance end; \
             until then the publisher's sequences are polled instead"
        );
    }
}

/// Ends what a session of ours is at: a walsender that waits for a transaction does not notice that we hang up.
async fn cancel(sql: &Connection, pid: i32) {
    let cancelled = async { sql.client.execute("SELECT pg_cancel_backend($1)", &[&pid]).await };
    let _ = timeout(Duration::from_secs(1), cancelled).await;
}
