//! The gate of one database: what it has open, and each step of [`super`].

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::Request;
use super::Watch;
use super::applier::{Applier, confirmed, emit};
use super::certificate::Certified;
use super::stop::{Blocker, Stop};
use super::witness::Witness;
use super::writes::{self, Undo};
use crate::config::Settings;
use crate::keeper::Todo;
use crate::ops::ask::Side;
use crate::ops::plan::todo;
use crate::ops::survey::{Depth, Survey, Surveyed, Surveyor};
use crate::ops::verdict::Verdict;
use crate::ops::verify::Proof;
use crate::plan::{Lead, State};
use crate::publisher::slot::{self, Verdict as SlotVerdict};
use crate::sides::{Sides, SidesError};
use crate::sql::Connection;
use crate::types::{Lsn, Oid, SlotName};

/// The keys of the advisory lock that keeps a second cutover out: "seqs", "cuto" in ASCII.
const CUTOVER_LOCK: (i32, i32) = (0x7365_7173, 0x6375_746F);

/// How long a publisher that is restarting is waited for so that the writes can go on.
const UNDO_PATIENCE: Duration = Duration::from_secs(30);
const UNDO_PAUSE: Duration = Duration::from_millis(300);

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
    fence: Lsn,
    proven: Lsn,
    survey: Option<Survey>,
    sessions_left: usize,
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
                    "another cutover of this database is under way",
                    "wait for its end",
                )
            }
            .into());
        }
        Ok(Gate {
            settings,
            sides,
            surveyor: Surveyor::open(sides, settings).await?,
            applier,
            lead: if request.exact { Lead::Steps(0) } else { settings.lead },
            depth: request.depth,
            publisher: sides.publisher().await?,
            control: sides.publisher().await?,
            lock,
            witness: None,
            undo: None,
            fence: Lsn::ZERO,
            proven: Lsn::ZERO,
            survey: None,
            sessions_left: 0,
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

    fn database(&self) -> &str {
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
    pub(super) async fn before_the_pause(&mut self, give_up: Instant) -> Result<(), Stop> {
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
        self.applier.check(self.sides, client).await?;
        self.nothing_prepared().await?;
        let survey = self.surveyor.survey(self.depth).await?;
        self.could_be_proven(&survey)?;
        let named = |one: &Surveyed| (one.managed.oid(), one.managed.sequence.name.to_string());
        self.known = survey.sequences.iter().map(named).collect();
        // The pause shall not be spent on an old backlog.
        let now = emit(client, "seqshadow cutover").await?;
        self.applier.wait(self.sides, client, now, give_up).await
    }

    /// Every sequence must be where it can be brought past everything.
    fn could_be_proven(&self, survey: &Survey) -> Result<(), Blocker> {
        if let Some(missing) = survey.missing_publications.first() {
            return Err(Blocker::new(
                "publication-missing",
                format!(
                    "publication \"{missing}\" is not on the publisher, so that nobody would see a row of it"
                ),
                "create it there, or name others with --publication",
            ));
        }
        if survey.sequences.iter().all(|one| one.managed.excluded.is_some()) {
            return Err(Blocker::new(
                "no-sequence",
                "no sequence is left to prove anything of: there is none, or all are excluded",
                "see --schema, --exclude-schema and --exclude-sequence",
            ));
        }
        for one in &survey.sequences {
            let name = &one.managed.sequence.name;
            if one.managed.excluded.is_some() {
                continue;
            }
            if let Todo::Hold(hold) = todo(&one.managed, self.lead) {
                return Err(Blocker::new(
                    "sequence-held",
                    format!(
                        "sequence {name} cannot be moved: {}",
                        one.managed.hold_text(&hold, &survey.role)
                    ),
                    "mend it, or leave it out with --exclude-sequence",
                ));
            }
            let moves = matches!(todo(&one.managed, self.lead), Todo::Advance { .. } | Todo::Follow(_));
            match one.verdict(&survey.role) {
                Verdict::Unproven(why) if !(moves && one.managed.cycles()) => {
                    return Err(unproven(one, &why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn nothing_prepared(&self) -> Result<(), Stop> {
        let Some(first) = writes::prepared(&self.publisher.client).await?.into_iter().next() else {
            return Ok(());
        };
        let literal = crate::types::quote_literal(&first);
        Err(Blocker::new(
            "prepared-transaction",
            format!("transaction {literal} is prepared on the publisher and could commit at any time"),
            format!("there: COMMIT PREPARED {literal}; or ROLLBACK PREPARED {literal};"),
        )
        .into())
    }

    /// From here on no published row goes unseen.
    pub(super) async fn place_witness(&mut self, give_up: Instant) -> Result<(), Stop> {
        let connection = self.sides.publisher().await?;
        let patience = give_up.saturating_duration_since(Instant::now()).max(LOOK);
        let publications = Applier::publications(self.sides, &self.publisher.client).await?;
        self.witness = Some(Witness::new(connection, &publications, patience).await?);
        Ok(())
    }

    /// Stops the writes, or sees that nobody writes.
    pub(super) async fn stop_writes(&mut self, by_us: bool, give_up: Instant) -> Result<(), Stop> {
        if by_us {
            let control = &self.control.client;
            if let Some(role) = writes::exempt_roles(control).await?.into_iter().next() {
                let role = crate::types::quote_identifier(&role);
                return Err(Blocker::new(
                    "role-writes-on",
                    format!(
                        "role {role} has default_transaction_read_only = off of its own and would write on"
                    ),
                    format!("ALTER ROLE {role} RESET default_transaction_read_only; (or IN DATABASE …)"),
                )
                .into());
            }
            let patience = give_up.saturating_duration_since(Instant::now());
            let keep = self.own_sessions();
            writes::stop(control, &keep, patience, &mut self.undo).await??;
        } else if !writes::are_stopped(&self.publisher.client).await? {
            self.notes.push(
                "default_transaction_read_only of the publisher's database is off: what keeps the application from \
                 writing is not known here"
                    .to_owned(),
            );
        }
        self.nobody_writes(give_up).await?;
        self.nothing_prepared().await
    }

    async fn nobody_writes(&self, give_up: Instant) -> Result<(), Stop> {
        loop {
            let writing = writes::writing_sessions(&self.publisher.client, &self.own_sessions()).await?;
            if writing.is_empty() {
                return Ok(());
            }
            if Instant::now() > give_up {
                let pids = writing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(Blocker::new(
                    "open-transaction",
                    format!("a transaction of this database has written and is still open on the publisher: pid {pids}"),
                    format!(
                        "wait for it, end it there with SELECT pg_terminate_backend({}), or use --stop-writes",
                        writing.first().copied().unwrap_or_default()
                    ),
                )
                .into());
            }
            tokio::time::sleep(LOOK).await;
        }
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
        let Some(name) = &self.settings.slot else { return Ok(()) };
        if !self.sidecar_streams(name).await? {
            self.notes.push(format!("no seqshadow streams from slot {name}"));
            return Ok(());
        }
        loop {
            let now = confirmed(&self.publisher.client, name.as_str()).await?;
            if now >= self.fence {
                return Ok(());
            }
            if Instant::now() > give_up {
                return Err(Blocker::new(
                    "sidecar-lags",
                    format!(
                        "the running seqshadow has confirmed up to {now} on slot {name}, short of the fence at {}",
                        self.fence
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
        let survey = self.surveyor.survey(self.depth).await?;
        self.all_there(&survey)?;
        self.could_be_proven(&survey)?;
        self.no_row_since_the_fence().await?;
        self.survey = Some(survey);
        Ok(())
    }

    /// None of the sequences that were there before the pause may be gone.
    fn all_there(&self, survey: &Survey) -> Result<(), Blocker> {
        let there: HashSet<Oid> = survey.sequences.iter().map(|one| one.managed.oid()).collect();
        let Some((_, name)) = self.known.iter().find(|(oid, _)| !there.contains(oid)) else { return Ok(()) };
        Err(Blocker::new(
            "sequence-gone",
            format!("sequence {name} was dropped on the subscriber meanwhile"),
            "see who did, and try again",
        ))
    }

    async fn no_row_since_the_fence(&self) -> Result<(), Stop> {
        let Some(witness) = &self.witness else { return Ok(()) };
        let Some(row) = witness.first_row_past(self.fence, self.heartbeat).await? else { return Ok(()) };
        Err(Blocker::new(
            "writes-go-on",
            format!(
                "a row of {} was committed at {} by transaction {}, after the fence at {}",
                row.table, row.at, row.xid, self.fence
            ),
            "stop that writer: a session can set default_transaction_read_only = off for itself",
        )
        .into())
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

    /// Reads both sides anew, and hears the witness again.
    pub(super) async fn prove(&mut self, give_up: Instant) -> Result<(), Stop> {
        let Some(mut proven) = self.survey.take() else { return Ok(()) };
        if self.undo.is_some() && !writes::are_stopped_here(&self.publisher.client).await? {
            return Err(Blocker::new(
                "aborted",
                "somebody has let the writes go on meanwhile",
                "see who ran cutover --abort or ALTER DATABASE, and try again",
            )
            .into());
        }
        self.nobody_writes(give_up).await?;
        self.nothing_prepared().await?;
        self.proven = emit(&self.publisher.client, "seqshadow cutover proven").await?;
        self.no_row_since_the_fence().await?;
        // Last, so that nothing is drawn between it and the word of the witness unseen.
        let before: HashMap<Oid, Option<State>> =
            proven.sequences.iter().map(|one| (one.managed.oid(), publisher_state(one))).collect();
        // The tables are as they were seen after the fence: no row has come since, as the witness will tell.
        self.surveyor.look_again(&mut proven).await?;
        for one in &proven.sequences {
            let name = one.managed.sequence.name.clone();
            let now = publisher_state(one);
            match before.get(&one.managed.oid()) {
                Some(before) if *before != now => {
                    let text = |state: &Option<State>| {
                        state.map_or_else(|| "unknown".to_owned(), |state| state.last_value.to_string())
                    };
                    return Err(Blocker::new(
                        "sequence-moved",
                        format!(
                            "sequence {name} of the publisher went from {} to {} after the fence",
                            text(before),
                            text(&now)
                        ),
                        "somebody still draws ids there: stop that writer and try again",
                    )
                    .into());
                }
                _ => {}
            }
            match one.verdict(&proven.role) {
                Verdict::Past | Verdict::Excluded(_) => {}
                Verdict::Behind => return Err(unproven(one, "its next value is in use").into()),
                Verdict::Unproven(why) => return Err(unproven(one, &why).into()),
            }
        }
        self.sessions_left = writes::count_others(&self.publisher.client, &self.own_sessions()).await?;
        self.survey = Some(proven);
        Ok(())
    }

    /// What goes into the certificate. The writes stay stopped.
    pub(super) fn certify(&mut self) -> Certified {
        let (mut sequences, mut excluded) = (Vec::new(), Vec::new());
        let mut notes = std::mem::take(&mut self.notes);
        let survey = self.survey.take();
        for one in survey.iter().flat_map(|survey| &survey.sequences) {
            let sequence = &one.managed.sequence;
            if one.managed.excluded.is_some() {
                excluded.push(sequence.name.to_string());
                continue;
            }
            if sequence.definition.cache > 1 {
                notes.push(format!(
                    "{} has CACHE {}: sessions that are connected to the subscriber now may hold values; reconnect them",
                    sequence.name, sequence.definition.cache
                ));
            }
            sequences.push(Proof::of(one, survey.as_ref().map_or("", |survey| &survey.role)));
        }
        let by_us = self.undo.is_some();
        if self.sessions_left > 0 {
            notes.push(format!(
                "{} still connected to the publisher and could write again: this holds up to {}",
                if self.sessions_left == 1 {
                    "1 session is".to_owned()
                } else {
                    format!("{} sessions are", self.sessions_left)
                },
                self.proven
            ));
        }
        Certified {
            database: self.database().to_owned(),
            publisher: self.surveyor.publisher_peer().to_owned(),
            subscriber: self.sides.subscriber.peer.clone(),
            applier: self.applier.describe(),
            fence_lsn: self.fence.to_string(),
            proven_up_to_lsn: self.proven.to_string(),
            writes_stopped_by_us: by_us,
            sessions_left: self.sessions_left,
            sequences,
            excluded,
            notes,
        }
    }

    /// Lets the writes go on, where we have stopped them. False where that failed.
    pub(super) async fn undo(&mut self, watch: &mut dyn Watch) -> bool {
        let Some(undo) = self.undo.take() else { return true };
        let give_up = Instant::now() + UNDO_PATIENCE;
        // The connection may be what failed, and the server may be on its way back.
        let mut undone = undo.run(&self.control.client).await;
        while undone.is_err() && Instant::now() < give_up {
            tokio::time::sleep(UNDO_PAUSE).await;
            undone = match self.sides.publisher().await {
                Ok(connection) => undo.run(&connection.client).await,
                Err(error) => Err(error),
            };
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

fn publisher_state(one: &Surveyed) -> Option<State> {
    one.managed.publisher_value().and_then(|value| value.state)
}

fn unproven(one: &Surveyed, why: &str) -> Blocker {
    Blocker::new(
        "sequence-unproven",
        format!("sequence {} cannot be proven: {why}", one.managed.sequence.name),
        "mend it, or leave it out with --exclude-sequence",
    )
}
