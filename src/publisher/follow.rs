//! Follows the publisher through everything that happens to a slot, in one loop. What to do about errors is said by
//! [`super::reaction`], when a stream must end by [`super::watch`]; `creation` makes the slot.
//!
//! In: the wanted slot. Out: streams, one after the other, and at most one [`Fatal`] reason to end. Whatever may heal
//! by itself is waited for with backoff; only what a person must mend ends it.

mod course;
mod creation;
mod links;
mod waiting;

use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error, info, warn};

pub(in crate::publisher) use course::Course;
pub(super) use links::told_to;
pub use links::{AnotherPublisher, Doing, Links, SlotState};

use super::connection::{Identity, ReplicationConnection, SlotOptions, StreamOptions};
use super::reaction::{AfterLook, Facts, Failure, Fatal, Reaction, after_a_look, reaction};
use super::slot::{self, Verdict};
use super::stream::{self, End, Timing};
use super::watch::{Why, complain_about_synchronous, synchronous, watch_over};
use crate::conninfo::Conninfo;
use crate::pgoutput::{Streaming, Tap};
use crate::sql::{self, Connection, SqlError};
use crate::types::SlotName;

/// How often the slot is looked at: its WAL, and whether somebody else's transaction pins it.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Receipts that are impossible for so long make us leave the slot idle: a held flush would block the publisher's
/// fast shutdown.
pub(super) const RECEIPTS_GRACE: Duration = Duration::from_secs(5);

/// The slot may hold back more WAL than allowed for so long, while all is tried that may release it. Longer than it takes
/// to connect anew and to confirm, three times over.
pub(super) const CEILING_GRACE: Duration = Duration::from_secs(15);

/// How long the publisher may take to say what it knows of the slot.
pub(super) const LOOK_TIMEOUT: Duration = Duration::from_secs(15);

/// The shortest time between two rounds: whatever goes on and on must not become a flood of connections.
const ROUND_GAP: Duration = Duration::from_millis(200);

/// A stream that lasts so long was a success.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// After so many streams in a row that ended sooner, one that has just begun is no news.
const SHORT_STREAMS_TOLD: u32 = 2;

/// How long the keeper may take to forget the positions of another publisher: it may be waiting for the subscriber.
const FORGET_TIMEOUT: Duration = Duration::from_secs(60);

/// What is fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct Follow {
    pub conninfo: Conninfo,
    pub slot: SlotName,
    pub publications: Vec<String>,
    /// The subscriber's `(subscription, slot)` pairs: slots that are never ours.
    pub subscriptions: watch::Receiver<Vec<(String, String)>>,
    pub slot_options: SlotOptions,
    pub create_slot: bool,
    pub streaming: Streaming,
    pub timing: Timing,
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
        let mut course = Course::default();
        loop {
            if *links.stop.borrow() {
                return Ok(());
            }
            links.shared.alive.beat();
            let begun = Instant::now();
            let failure = match self.round(&mut links, &mut course).await {
                Ok(Round::Again) => {
                    tokio::select! {
                        () = sleep_until(begun + ROUND_GAP) => continue,
                        () = told_to(&mut links.stop) => return Ok(()),
                    }
                }
                Ok(Round::Stopped) => return Ok(()),
                Err(failure) => failure,
            };
            let news = course.told.is_news(&failure.to_string());
            match self.react(&failure, &mut links, &mut course).await {
                // What may not be so at the start is no reason to leave the sequences alone later.
                Err(fatal) if !course.streamed => return Err(fatal),
                Err(fatal) if news => {
                    error!(slot = %self.slot, error = %fatal, "the stream cannot go on until somebody mends this; it is tried again");
                }
                Ok(()) if news => {
                    warn!(slot = %self.slot, error = %failure, "the stream is interrupted, and tried again; until it goes on the publisher's sequences are polled instead");
                }
                _ => {}
            }
            course.recovering = true;
            let delay = course.backoff.next_delay();
            links.state.send_modify(|state| state.doing = Doing::Connecting);
            debug!(slot = %self.slot, error = %failure, retry_in = ?delay, "no stream: the interruption lasts");
            if links.unless_stopped(sleep(delay)).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn round(&self, links: &mut Links, course: &mut Course) -> Result<Round, Failure> {
        let Some(sql) = links.unless_stopped(sql::connect(&self.conninfo, "publisher")).await else {
            return Ok(Round::Stopped);
        };
        // While it is away nothing can be tried that would release WAL.
        let sql = sql.inspect_err(|_| course.over_ceiling = None)?;
        if links.receipts_impossible_since.borrow().is_some() {
            return self.idle(links, &sql, course).await;
        }
        course.began = true;
        let Some(looked) = links.unless_stopped(self.look(&sql, &links.state)).await else {
            return Ok(Round::Stopped);
        };
        match looked? {
            Verdict::Refused { why, action } => Err(Failure::Fatal(Fatal::Refused { why, action })),
            Verdict::Standby { pid } => self.stand_by(links, &sql, course, pid).await,
            Verdict::Leaving => Ok(Round::Again),
            Verdict::Lost { why } => {
                self.drop_lost(&sql, links, course, &why).await?;
                Ok(Round::Again)
            }
            Verdict::Missing => self.create_and_stream(links, &sql, course).await,
            // A first stream is opened whatever the slot holds back: it may well drain it.
            Verdict::Ours if course.recovering && course.is_over_ceiling_too_long(links) => {
                links.shared.alive.through(self.drop_slot(&sql)).await?;
                course.gave_up_slot(links);
                warn!(
                    slot = %self.slot, retained_bytes = links.state.borrow().retained_bytes,
                    max_retained_wal = *links.max_retained_wal.borrow(),
                    "the slot held back more WAL than allowed, and its stream cannot be opened, or ends each time: it \
                     was dropped; when a stream can be opened it is created again and every sequence is seeded again"
                );
                Ok(Round::Again)
            }
            Verdict::Ours => {
                let opening = ReplicationConnection::open(&self.conninfo);
                let Some(connection) = links.unless_stopped(opening).await else {
                    return Ok(Round::Stopped);
                };
                self.stream(links, &sql, connection?, course).await
            }
        }
    }

    /// After a fail-over or a restore the same address leads to another server, or to an older copy: positions of the
    /// old one must neither be confirmed to it nor outweigh what it says.
    async fn recognize(&self, links: &Links, course: &mut Course, identity: Identity) -> Result<(), Failure> {
        let received = links.shared.progress.borrow().received;
        if course.publisher.as_ref().is_none_or(|known| identity.continues(known, received)) {
            course.publisher = Some(identity);
            return Ok(());
        }
        warn!(
            slot = %self.slot, system_identifier = %identity.system, timeline = identity.timeline,
            wal_end = %identity.wal_end, received = %received,
            "the publisher is another server or an older copy now: its positions count from here, and every sequence is seeded again"
        );
        let (done_send, done) = oneshot::channel();
        let forgotten = async {
            let other = AnotherPublisher { wal_end: identity.wal_end, forgotten: done_send };
            links.another_publisher.send(other).await.ok()?;
            done.await.ok()
        };
        if timeout(FORGET_TIMEOUT, forgotten).await.ok().flatten().is_none() {
            return Err(Failure::Ended(
                "the positions of the old publisher are still in use: nothing is confirmed to this one before they are forgotten",
            ));
        }
        links.shared.progress.send_replace(stream::Progress::default());
        links.requests.seed();
        // Not earlier: had the wait been cut, the next one to answer would be taken for the one that is known, and
        // positions of the old one would be confirmed to it.
        course.publisher = Some(identity);
        Ok(())
    }

    /// Reads the slot and judges it.
    async fn look(&self, sql: &Connection, state: &watch::Sender<SlotState>) -> Result<Verdict, Failure> {
        let found = sql::within(LOOK_TIMEOUT, slot::load(&sql.client, sql.version, &self.slot)).await?;
        state.send_modify(|state| state.retained_bytes = found.as_ref().map_or(0, |s| s.retained_bytes));
        let asked = sql.client.query_one("SELECT current_database()::text", &[]);
        let database: String = sql::within(LOOK_TIMEOUT, asked).await?.try_get(0).map_err(SqlError::from)?;
        Ok(slot::judge(&self.slot, found.as_ref(), &database, &self.subscriptions.borrow()))
    }

    async fn drop_lost(
        &self,
        sql: &Connection,
        links: &Links,
        course: &mut Course,
        why: &str,
    ) -> Result<(), Failure> {
        links.shared.alive.through(self.drop_slot(sql)).await?;
        course.gave_up_slot(links);
        warn!(slot = %self.slot, %why, "the slot was lost: it is created again and every sequence is seeded again");
        Ok(())
    }

    /// Drops the slot. Only while nobody holds it, and only if it is there: another seqshadow may have been faster. A
    /// walsender that we have just left needs a moment to let go of it.
    async fn drop_slot(&self, sql: &Connection) -> Result<(), Failure> {
        let command = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                        WHERE slot_name = $1 AND active_pid IS NULL";
        let is_there = "SELECT FROM pg_replication_slots WHERE slot_name = $1";
        let name = self.slot.as_str();
        let deadline = Instant::now() + LOOK_TIMEOUT;
        loop {
            sql::within(LOOK_TIMEOUT, sql.client.execute(command, &[&name])).await?;
            let left = sql::within(LOOK_TIMEOUT, sql.client.query_opt(is_there, &[&name])).await?;
            if left.is_none() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::Ended("the slot is to be dropped, but somebody holds it"));
            }
            sleep(ROUND_GAP).await;
        }
    }

    async fn stream(
        &self,
        links: &mut Links,
        sql: &Connection,
        connection: ReplicationConnection,
        course: &mut Course,
    ) -> Result<Round, Failure> {
        let options =
            StreamOptions::for_server(connection.version(), self.streaming, self.publications.clone());
        let tap = Tap::new(options.version, options.streaming);
        let synchronous = links.shared.alive.through(synchronous(sql)).await?;
        if synchronous.is_some() {
            complain_about_synchronous(&self.slot);
        }
        let timing = Timing { synchronous, ..self.timing };
        let mut connection = connection;
        let Some(identity) = links.unless_stopped(connection.identify()).await else {
            return Ok(Round::Stopped);
        };
        let Some(recognized) = links.unless_stopped(self.recognize(links, course, identity?)).await else {
            return Ok(Round::Stopped);
        };
        recognized?;
        let Some(started) = links.unless_stopped(connection.start(&self.slot, &options)).await else {
            return Ok(Round::Stopped);
        };
        let (socket, received) = started?;
        links.state.send_modify(|state| state.doing = Doing::Streaming);
        course.streamed = true;
        course.had_slot = true;
        // Whoever had the slot meanwhile may have confirmed what we never saw, or made it after our seed.
        if std::mem::take(&mut course.stood_by) {
            course.recovering = false;
            course.told.is_over();
            info!(slot = %self.slot, publications = ?self.publications, "the slot is free: we stream from it now");
            links.requests.seed();
        } else if std::mem::take(&mut course.recovering) {
            if course.short_streams < SHORT_STREAMS_TOLD {
                course.recovered(&self.slot);
            }
            links.requests.seed();
        } else {
            info!(slot = %self.slot, publications = ?self.publications, server = %sql.peer, version = sql.version, "streaming");
        }
        let started = Instant::now();
        let (why_send, mut why) = watch::channel(Why::Nothing);
        let mut shared = links.shared.clone();
        let stop = watch_over(self, links, sql, synchronous.is_some(), course, &why_send);
        let (end, stats) = stream::run(socket, received, tap, &mut shared, timing, stop).await;
        links.state.send_modify(|state| state.doing = Doing::Connecting);
        debug!(rows = stats.rows, ?end, "stream ended");
        if started.elapsed() >= STABLE_AFTER {
            course.lasted(&self.slot);
            course.backoff.succeeded();
        } else if !matches!(end, End::Asked) {
            course.short_streams = course.short_streams.saturating_add(1);
        }
        let why = why.borrow_and_update().clone();
        match (end, why) {
            (End::Failed(error), _) => Err(Failure::Replication(error)),
            (End::Asked, Why::Stop) => Ok(Round::Stopped),
            (End::Asked, Why::Drop { retained }) => {
                // The connection that watched may be the one that failed.
                let alive = &links.shared.alive;
                let sql = alive.through(sql::connect(&self.conninfo, "publisher")).await?;
                alive.through(self.drop_slot(&sql)).await?;
                course.gave_up_slot(links);
                warn!(
                    slot = %self.slot, retained_bytes = retained,
                    "confirming did not release the WAL that the slot holds back: it was dropped, and is created again"
                );
                Ok(Round::Again)
            }
            (End::Asked, Why::Nothing | Why::Idle | Why::Synchronous) => Ok(Round::Again),
            (End::Finished, _) => Err(Failure::Ended("the publisher ended the stream")),
            (End::Stuck, _) => Err(Failure::Ended(
                "the publisher waits for a confirmation that is not possible now (it is shutting down): left alone",
            )),
        }
    }

    /// The one table of what to do about errors.
    async fn react(&self, failure: &Failure, links: &mut Links, course: &mut Course) -> Result<(), Fatal> {
        let unfit = match reaction(failure, self.conninfo.user()) {
            Reaction::Retry => return Ok(()),
            Reaction::Stop(fatal) => return Err(fatal),
            Reaction::LookAgain(unfit) => unfit,
        };
        let alive = links.shared.alive.clone();
        let (sql, facts) = match alive.through(self.look_again(&links.state)).await {
            Ok(found) => found,
            Err(failure) => {
                debug!(error = %failure, "the publisher cannot be looked at now; the next round does");
                return Ok(());
            }
        };
        match after_a_look(unfit, failure.to_string(), &facts) {
            AfterLook::Retry => {}
            AfterLook::Stop(fatal) => return Err(fatal),
            AfterLook::Recreate => {
                if let Err(failure) = self.drop_lost(&sql, links, course, &failure.to_string()).await {
                    debug!(error = %failure, "the slot could not be dropped now; it is looked at again");
                }
            }
        }
        Ok(())
    }

    /// What the publisher's refusal may have to do with.
    async fn look_again(&self, state: &watch::Sender<SlotState>) -> Result<(Connection, Facts), Failure> {
        let sql = sql::connect(&self.conninfo, "publisher").await?;
        let verdict = self.look(&sql, state).await?;
        let settings = "SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int4,
                               pg_is_in_recovery()";
        let row = sql::within(LOOK_TIMEOUT, sql.client.query_one(settings, &[])).await?;
        let facts = Facts {
            verdict,
            version: sql.version,
            wal_level: row.try_get(0)?,
            replication_slots_max: row.try_get(1)?,
            in_recovery: row.try_get(2)?,
        };
        Ok((sql, facts))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::*;
    use crate::alive::Alive;
    use crate::confirm::FlushLsn;
    use crate::conninfo::Environment;
    use crate::handover::Handover;
    use crate::publisher::requests::Requests;
    use crate::publisher::stream::Shared;
    use crate::tracking::Tracking;
    use crate::types::Lsn;

    fn follow() -> Follow {
        Follow {
            conninfo: Conninfo::parse("host=nowhere.invalid user=u", &Environment::default()).unwrap(),
            slot: "ours".parse().unwrap(),
            publications: Vec::new(),
            subscriptions: watch::channel(Vec::new()).1,
            slot_options: SlotOptions::default(),
            create_slot: true,
            streaming: Streaming::On,
            timing: Timing {
                status_interval: Duration::from_secs(1),
                dead_after: Duration::from_secs(6),
                synchronous: None,
            },
        }
    }

    fn links(another_publisher: mpsc::Sender<AnotherPublisher>, progress: stream::Progress) -> Links {
        Links {
            shared: Shared {
                handover: Arc::new(Handover::default()),
                tracking: watch::channel(Arc::new(Tracking::default())).1,
                flush: watch::channel(FlushLsn::default()).1,
                progress: watch::channel(progress).0,
                alive: Arc::new(Alive::default()),
            },
            requests: Arc::new(Requests::default()),
            receipts_impossible_since: watch::channel(None).1,
            max_retained_wal: watch::channel(0).1,
            give_up: mpsc::channel(1).0,
            another_publisher,
            stop: watch::channel(false).1,
            state: watch::channel(SlotState::default()).0,
        }
    }

    /// Until the keeper has forgotten the positions of the old publisher, the new one must be taken for another each
    /// time.
    #[tokio::test]
    async fn another_publisher_is_known_only_when_the_positions_of_the_old_one_are_forgotten() {
        let identity = |system: &str| Identity { system: system.to_owned(), timeline: 1, wal_end: Lsn(900) };
        let mut course = Course { publisher: Some(identity("old")), ..Course::default() };
        let progress = stream::Progress { received: Lsn(500), ..stream::Progress::default() };
        let (sender, mut keeper) = mpsc::channel::<AnotherPublisher>(1);
        let (follow, links) = (follow(), links(sender, progress));

        let refuses = async { drop(keeper.recv().await) };
        let (recognized, ()) = tokio::join!(follow.recognize(&links, &mut course, identity("new")), refuses);
        assert!(recognized.is_err());
        assert_eq!(course.publisher, Some(identity("old")));
        assert_eq!(*links.shared.progress.borrow(), progress);

        let waits =
            timeout(Duration::from_millis(100), follow.recognize(&links, &mut course, identity("new")));
        assert!(waits.await.is_err());
        assert_eq!(course.publisher, Some(identity("old")));

        let answers = async {
            // The wait that was cut asked too.
            while let Some(other) = keeper.recv().await {
                if other.forgotten.send(()).is_ok() {
                    break;
                }
            }
        };
        let (recognized, ()) = tokio::join!(follow.recognize(&links, &mut course, identity("new")), answers);
        recognized.unwrap();
        assert_eq!(course.publisher, Some(identity("new")));
        assert_eq!(links.shared.progress.borrow().received, Lsn::ZERO);
    }
}
