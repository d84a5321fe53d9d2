//! The gate of one database: what it has open, and each step of [`super`]. What it proves, and how it knows that nobody
//! writes, have files of their own.

mod pause;
mod proof;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::applier::{Applier, confirmed, elsewhere, emit};
use super::stop::{Blocker, Stop};
use super::witness::Witness;
use super::writes::{self, Undo};
use super::{Request, Watch, WritesStopped};
use crate::config::Settings;
use crate::keeper::Todo;
use crate::ops::ask::Side;
use crate::ops::plan::todo;
use crate::ops::read_only::Said;
use crate::ops::survey::{Depth, Survey, Surveyed, Surveyor};
use crate::plan::Lead;
use crate::publisher::slot::{self, Verdict as SlotVerdict};
use crate::sides::{Sides, SidesError};
use crate::sql::{self, Connection, SqlError};
use crate::types::{Lsn, Oid, SlotName};

/// The keys of the advisory lock that keeps a second cutover out: "seqs", "cuto" in ASCII.
const CUTOVER_LOCK: (i32, i32) = (0x7365_7173, 0x6375_746F);

/// How long a publisher that is restarting is waited for so that the writes can go on.
const UNDO_PATIENCE: Duration = Duration::from_secs(30);
const UNDO_PAUSE: Duration = Duration::from_millis(300);

/// How long one attempt at it may take: a server that hangs is given up in time to say so.
const UNDO_ANSWER: Duration = Duration::from_secs(10);

/// How long a server that may hang is asked whether it does.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// How often to look while waiting.
const LOOK: Duration = Duration::from_millis(20);

/// One database's gate.
pub(super) struct Gate<'a> {
    settings: &'a Settings,
    sides: &'a Sides,
    surveyor: Surveyor<'a>,
    applier: Applier,
    lead: Lead,
    depth: Depth,
    /// For the fence and for questions.
    publisher: Connection,
    /// For stopping the writes and letting them go on; never busy with anything else.
    control: Connection,
    /// Holds the lock that keeps others out.
    lock: Connection,
    witness: Option<Witness>,
    undo: Option<Undo>,
    /// The operator's own setting, which is to hold until the end.
    relied_on: Option<Said>,
    fence: Lsn,
    proven: Lsn,
    survey: Option<Survey>,
    sessions_left: usize,
    /// Who may hold values of a sequence with a CACHE.
    subscriber_sessions: Vec<i32>,
    notes: Vec<String>,
    moved: bool,
    /// The transaction of our own row past the fence.
    heartbeat: Option<u32>,
    /// The sequences that were there before the pause.
    known: HashMap<Oid, String>,
}

impl<'a> Gate<'a> {
    /// Connects, and keeps other cutovers of this database out.
    pub(super) async fn open(
        settings: &'a Settings,
        sides: &'a Sides,
        applier: Applier,
        request: &Request,
    ) -> Result<Self, Stop> {
        let lock = sides.publisher().await?;
        let (first, second) = CUTOVER_LOCK;
        let taken: bool = Side::Publisher
            .value(&lock.client, "SELECT pg_try_advisory_lock($1, $2)", &[&first, &second])
            .await?;
        if !taken {
            return Err(Blocker {
                database: sides.publisher_conninfo.dbname().to_owned(),
                ..Blocker::new(
                    "another-cutover",
                    "another cutover of this database is under way, or it is named twice in this call",
                    "wait for its end; name each of the publisher's databases once",
                )
            }
            .into());
        }
        Ok(Gate {
            settings,
            sides,
            surveyor: Surveyor::open(sides, settings).await?.cycling_back(request.cycle_back),
            applier,
            lead: if request.exact { Lead::Steps(0) } else { settings.lead },
            depth: request.depth,
            publisher: sides.publisher().await?,
            control: sides.publisher().await?,
            lock,
            witness: None,
            undo: None,
            relied_on: None,
            fence: Lsn::ZERO,
            proven: Lsn::ZERO,
            survey: None,
            sessions_left: 0,
            subscriber_sessions: Vec::new(),
            notes: Vec::new(),
            moved: false,
            heartbeat: None,
            known: HashMap::new(),
        })
    }

    /// Whether sequences may have been moved.
    pub(super) fn has_moved(&self) -> bool {
        self.moved
    }

    /// The publisher's database.
    pub(super) fn database(&self) -> &str {
        self.sides.publisher_conninfo.dbname()
    }

    /// Says of a blocker which database it is about.
    pub(super) fn named<T>(&self, outcome: Result<T, Stop>) -> Result<T, Stop> {
        outcome.map_err(|stop| match stop {
            Stop::Blocked(blocker) => {
                Stop::Blocked(Blocker { database: self.database().to_owned(), ..blocker })
            }
            other => other,
        })
    }

    /// Our own sessions on the publisher, which may stay.
    fn own_sessions(&self) -> Vec<i32> {
        let witness = self.witness.as_ref().map(Witness::pid);
        [
            self.publisher.backend_pid,
            self.control.backend_pid,
            self.lock.backend_pid,
            self.surveyor.publisher_pid(),
        ]
        .into_iter()
        .chain(witness)
        .collect()
    }

    /// What can be known before anybody is kept from writing.
    pub(super) async fn before_the_pause(&mut self, by: WritesStopped, give_up: Instant) -> Result<(), Stop> {
        let client = &self.publisher.client;
        let standby: bool = Side::Publisher.value(client, "SELECT pg_is_in_recovery()", &[]).await?;
        if standby {
            return Err(Blocker::new(
                "publisher-is-standby",
                "the publisher is a standby, which takes no fence",
                "name its primary in --publisher",
            )
            .into());
        }
        self.nobody_exempt(by).await?;
        self.nobody_feeds(by).await?;
        if by == WritesStopped::ByUs {
            writes::may_stop(&self.control.client, &self.own_sessions()).await??;
        }
        let client = &self.publisher.client;
        self.applier.check(self.sides, client).await?;
        self.nothing_prepared().await?;
        let survey = self.surveyor.survey_again(self.depth).await?;
        self.could_be_proven(&survey)?;
        let named = |one: &Surveyed| (one.managed.oid(), one.managed.sequence.name.to_string());
        self.known = survey.sequences.iter().map(named).collect();
        // The pause shall not be spent on an old backlog.
        let now = emit(client, "seqshadow cutover").await?;
        self.applier.wait(self.sides, client, now, give_up).await
    }

    /// From here on no published row goes unseen.
    pub(super) async fn place_witness(&mut self, give_up: Instant) -> Result<(), Stop> {
        let connection = self.sides.publisher().await?;
        let patience = give_up.saturating_duration_since(Instant::now()).max(LOOK);
        let publications = self.applier.publications(self.sides, &self.publisher.client).await?;
        self.witness = Some(Witness::new(connection, &publications, patience).await?);
        Ok(())
    }

    /// Sets the fence.
    pub(super) async fn fence(&mut self, give_up: Instant) -> Result<(), Stop> {
        let token = format!("seqshadow-cutover-{}-{}", self.publisher.backend_pid, crate::ops::now());
        self.fence = emit(&self.publisher.client, &token).await?;
        self.heartbeat = self.applier.beat(self.sides, &self.publisher.client, &token, give_up).await?;
        Ok(())
    }

    /// Waits for the applier, and for our own sidecar where one runs.
    pub(super) async fn wait_applied(&mut self, give_up: Instant) -> Result<(), Stop> {
        self.applier.wait(self.sides, &self.publisher.client, self.fence, give_up).await?;
        if let Some(name) = &self.settings.slot
            && !self.sidecar_has(self.fence, give_up).await?
        {
            self.notes.push(format!("no seqshadow streams from slot {name}"));
        }
        for other in elsewhere(self.sides, &self.publisher.client).await? {
            self.notes.push(format!(
                "subscription {other} of the subscriber gets its rows from elsewhere: ids that it brings later are \
                 no part of the proof"
            ));
        }
        Ok(())
    }

    /// Waits until our own sidecar has confirmed up to `upto`. Whether one runs.
    async fn sidecar_has(&self, upto: Lsn, give_up: Instant) -> Result<bool, Stop> {
        let Some(name) = &self.settings.slot else { return Ok(false) };
        if !self.sidecar_streams(name).await? {
            return Ok(false);
        }
        loop {
            let now = confirmed(&self.publisher.client, name.as_str()).await?;
            if now >= upto {
                return Ok(true);
            }
            if Instant::now() > give_up {
                return Err(Blocker::new(
                    "sidecar-lags",
                    format!(
                        "the running seqshadow has confirmed up to {now} on slot {name}, short of {upto}"
                    ),
                    "see its log or seqshadow status for what keeps it",
                )
                .into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn sidecar_streams(&self, name: &SlotName) -> Result<bool, Stop> {
        let found = slot::load(&self.publisher.client, self.publisher.version, name)
            .await
            .map_err(SidesError::on_publisher)?;
        let verdict = slot::judge(name, found.as_ref(), self.database(), &self.sides.slots);
        Ok(matches!(verdict, SlotVerdict::Standby { .. }))
    }

    /// Looks at everything for the last time before anything is moved.
    pub(super) async fn last_look(&mut self) -> Result<(), Stop> {
        self.applier.check_again(self.sides, &self.publisher.client).await?;
        // Definitions are read anew only where one has changed.
        let survey = self.surveyor.survey_again(self.depth).await?;
        self.all_there(&survey)?;
        self.could_be_proven(&survey)?;
        self.no_row_since_the_fence().await?;
        self.survey = Some(survey);
        Ok(())
    }

    /// Moves what is to be moved, and waits until it is durable.
    pub(super) async fn advance(&mut self) -> Result<(), Stop> {
        let Some(survey) = &mut self.survey else { return Ok(()) };
        self.moved = survey
            .sequences
            .iter()
            .any(|one| matches!(todo(&one.managed, self.lead), Todo::Advance { .. } | Todo::Follow(_)));
        let synced = self.surveyor.sync(survey, self.lead, |_, _| {}).await?;
        match synced.failed.into_iter().next() {
            None => Ok(()),
            Some(failed) => Err(Blocker::new(
                "sequence-not-moved",
                format!("sequence {} could not be moved: {}", failed.sequence, failed.reason),
                "mend it and try again; sequences that were moved are ahead, which harms nothing",
            )
            .into()),
        }
    }

    /// Which of the two servers does not answer.
    pub(super) async fn silent(&self) -> Option<&'static str> {
        let publisher = self.lock.client.simple_query("SELECT 1");
        if tokio::time::timeout(SIGN_OF_LIFE, publisher).await.is_err() {
            return Some("publisher");
        }
        // Its connection may be busy with what we have given up.
        let conninfo = &self.sides.subscriber_conninfo;
        let subscriber = sql::connect(conninfo, "subscriber");
        tokio::time::timeout(SIGN_OF_LIFE, subscriber).await.is_err().then_some("subscriber")
    }

    /// Lets the writes go on, where we have stopped them. False where that failed.
    pub(super) async fn undo(&mut self, watch: &mut dyn Watch) -> bool {
        let Some(undo) = self.undo.take() else { return true };
        let give_up = Instant::now() + UNDO_PATIENCE;
        // The connection may be what failed, and the server may be on its way back.
        let mut undone = promptly(undo.run(&self.control.client)).await;
        while undone.is_err() && Instant::now() < give_up {
            tokio::time::sleep(UNDO_PAUSE).await;
            undone = promptly(async {
                let connection = self.sides.publisher().await?;
                undo.run(&connection.client).await
            })
            .await;
        }
        let database = self.database();
        match undone {
            Ok(()) if undo.was_stopped() => {
                watch.note(&format!(
                    "database {database} was read-only by default before, and is so still: seqshadow cutover --abort \
                     lets the writes go on"
                ));
                true
            }
            Ok(()) => {
                watch.note(&format!("the writes to database {database} go on again"));
                true
            }
            Err(error) => {
                watch.note(&format!(
                    "the writes to database {database} are STILL STOPPED, for this failed: {error}; when the publisher \
                     is back: seqshadow cutover --abort, or there: {}",
                    undo.sql()
                ));
                false
            }
        }
    }
}

/// An attempt at letting the writes go on, which ends in time.
async fn promptly(attempt: impl Future<Output = Result<(), SidesError>>) -> Result<(), SidesError> {
    let given_up = |_| Err(SidesError::on_publisher(SqlError::TimedOut { after: UNDO_ANSWER }));
    tokio::time::timeout(UNDO_ANSWER, attempt).await.unwrap_or_else(given_up)
}
