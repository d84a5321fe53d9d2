//! The only code that changes a sequence, and it never moves one backwards.
//!
//! In: [`Step`]s (a sequence, where it was last seen, where it shall be). Out: an [`Outcome`] each, and the WAL
//! position whose flush makes what was read durable. It decides no target (see [`crate::plan`]).
//!
//! `setval(s, greatest(target, last_value))` races with `nextval` of others: between its read and its write the
//! sequence may have passed the target, and is then moved back. So the way is chosen by what others could do:
//!
//! - **set**: a `setval` guarded by the value last seen, when nobody has moved the sequence since and the target is
//!   so far ahead that nobody could pass it between the statement's read and its write;
//! - **walk**: `nextval` in a server-side loop, monotone by construction, in every other case; it ends when the
//!   sequence is there, whoever brought it there, so that it never uses up more than it must;
//! - **lock**: where a walk would be too long and our role owns the sequence, it is [locked](super::lock) until the
//!   guarded `setval` is committed. In bulk, for whoever waits for many sequences, that is so for far shorter walks,
//!   and many are locked at once;
//! - **call**: where our role may do none of that, the advance-only [`function`](super::function) does it for us.
//!
//! All writers of ours hold one advisory lock per database while they write, because two guarded setvals of
//! different sessions do race.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Statement};

use super::function::{AdvanceFunction, Caller};
use super::lock::lock;
use crate::catalog::{ByFunction, Sequence};
use crate::plan::State;
use crate::readings::{Reader, Reading, Smaller, Trouble, put, trouble};
use crate::types::{Lsn, Oid};

/// The two keys of the advisory lock that all our writers take: "seqs", "hado" in ASCII. Advisory locks are per
/// database, as sequences are.
pub const WRITER_LOCK: (i32, i32) = (0x7365_7173, 0x6861_646F);

/// From how many steps on a quiet sequence may be set: a session needs more than 40 ms for so many `nextval`s, the
/// guarded statement some microseconds between its read and its write.
const STEPS_SET_MIN: u64 = 100_000;

/// Under CACHE the first `nextval` of a session takes that many values at once: so many sessions may do so between
/// the read and the write.
const SESSIONS_AT_ONCE: u64 = 1_000;

/// How many steps one transaction walks at most, all its sequences together: about 0.1 s, so that no sequence waits
/// long for another.
const STEPS_WALK_CHUNK: u64 = 200_000;

/// No further lock is asked for when a transaction is this old: a refused one takes `lock_timeout`.
const LOCKING_MAX: Duration = Duration::from_millis(200);

/// From how many steps on a lock is better than a walk (about 1 s).
const STEPS_LOCK_MIN: u64 = 2_000_000;

/// The same in bulk, for a sequence that nobody moves: a lock costs about as much as a hundred `nextval`s, and keeps
/// others waiting for as long as the transaction takes.
const STEPS_LOCK_IN_BULK_MIN: u64 = 300;

/// How many sequences are moved in one transaction.
const BATCH: usize = 500;

/// Bring `sequence` from where it was `seen` to `to`, a value of its lattice.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    pub sequence: &'a Sequence,
    /// What the last reading said: a sequence that differs from it now is in use by others.
    pub seen: State,
    /// The `last_value` to reach (`is_called` true).
    pub to: i64,
}

impl Step<'_> {
    /// How many `nextval`s are left to make from `now`; `None` where it is there already. One that was set back since it
    /// was seen goes nowhere: what it was to be brought to may be of before a truncate.
    fn left(&self, now: State) -> Option<u64> {
        let definition = &self.sequence.definition;
        if now.is_short_of(self.seen, definition) {
            return None;
        }
        steps_to(now, self.to, definition.increment)
    }
}

/// What became of a [`Step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sequence stands here now; perhaps short of the target (a long walk goes on with the next step), or of where it
    /// was seen (somebody has set it back).
    At(State),
    /// Nothing was done, for this reason.
    Refused(Trouble),
    /// Another writer of ours held the advisory lock.
    Busy,
}

/// What a call of [`Advancer::advance`] did.
#[derive(Debug)]
pub struct Advanced {
    /// One for each step, in their order.
    pub outcomes: Vec<Outcome>,
    /// Once the subscriber's WAL is flushed up to its end here, every state in `outcomes` survives a crash.
    pub wal: WalEnd,
}

/// The subscriber's WAL at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalEnd {
    /// Where it ended: when it is flushed up to here, all that was read before is durable.
    pub end: Lsn,
    /// Up to where it was flushed.
    pub flushed: Lsn,
}

/// Statements prepared once per connection.
pub struct Advancer {
    reader: Reader,
    walk: Statement,
    set: Statement,
    wal_end: Statement,
    caller: Caller,
    walk_chunk: u64,
    in_bulk: bool,
    /// Who is the first to be locked.
    turn: AtomicUsize,
}

impl std::fmt::Debug for Advancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Advancer")
    }
}

/// How a single step is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Nothing,
    Walk(u64),
    Set,
    Lock,
    /// Together with others.
    LockInBulk,
    Call,
}

impl Advancer {
    /// # Errors
    /// The server's or the connection's error.
    pub async fn prepare(client: &Client) -> Result<Self, Error> {
        let reader = Reader::prepare(client).await?;
        let walk = client
            .prepare_typed(
                // The condition names `g` so that it is asked anew for each step.
                "SELECT count(nextval(t.o::regclass))
                   FROM unnest($1, $2, $3, $4) AS t(o, n, target, down), generate_series(1, t.n) AS g
                  WHERE CASE WHEN g < 1 THEN false
                             WHEN t.down THEN coalesce(pg_sequence_last_value(t.o::regclass) > t.target, true)
                             ELSE coalesce(pg_sequence_last_value(t.o::regclass) < t.target, true) END",
                &[Type::OID_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY, Type::BOOL_ARRAY],
            )
            .await?;
        let set = client
            .prepare_typed(
                "SELECT setval(t.o::regclass, t.target, true) FROM unnest($1, $2, $3) AS t(o, target, seen)
                  WHERE pg_sequence_last_value(t.o::regclass) IS NOT DISTINCT FROM t.seen",
                &[Type::OID_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY],
            )
            .await?;
        let wal_end = client
            .prepare_typed("SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()", &[])
            .await?;
        let (walk_chunk, turn) = (STEPS_WALK_CHUNK, AtomicUsize::new(0));
        Ok(Advancer {
            reader,
            walk,
            set,
            wal_end,
            caller: Caller::default(),
            walk_chunk,
            in_bulk: false,
            turn,
        })
    }

    /// For one that moves many sequences at once, and is waited for.
    #[must_use]
    pub fn in_bulk(self) -> Self {
        Advancer { in_bulk: true, ..self }
    }

    /// With the function that moves what our role may not.
    #[must_use]
    pub fn calling(self, function: Option<&AdvanceFunction>) -> Self {
        Advancer { caller: Caller::of(function), ..self }
    }

    /// The reader of the same connection.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Where the subscriber's WAL ends, and how far it is flushed.
    ///
    /// # Errors
    /// The server's or the connection's error.
    pub async fn wal_end(&self, client: &Client) -> Result<WalEnd, Error> {
        let row = client.query_one(&self.wal_end, &[]).await?;
        Ok(WalEnd { end: row.try_get(0)?, flushed: row.try_get(1)? })
    }

    /// Makes `steps`, as many in one transaction as go together; what fails is made one by one.
    ///
    /// # Errors
    /// Only where the connection is lost. What is known of the sequences then is what is read after a reconnect.
    pub async fn advance(&self, client: &Client, steps: &[Step<'_>]) -> Result<Advanced, Error> {
        let mut outcomes = vec![Outcome::Busy; steps.len()];
        let all: Vec<usize> = (0..steps.len()).collect();
        let mut pending: Vec<Vec<usize>> = all.chunks(BATCH).rev().map(<[usize]>::to_vec).collect();
        let mut wal = WalEnd::default();
        while let Some(batch) = pending.pop() {
            let made: Vec<Step<'_>> = batch.iter().filter_map(|&i| steps.get(i)).copied().collect();
            match self.batch(client, &made).await {
                Ok(done) => {
                    batch.into_iter().zip(done.outcomes).for_each(|(i, one)| put(&mut outcomes, i, one));
                    wal = if done.wal.end < wal.end { wal } else { done.wal };
                }
                Err(error) => {
                    let Some(reason) = trouble(&error) else { return Err(error) };
                    client.batch_execute("ROLLBACK").await?;
                    let asked: Vec<&Sequence> = made.iter().map(|step| step.sequence).collect();
                    match Smaller::of(client, batch, &asked, &reason).await? {
                        Smaller::One(i) => put(&mut outcomes, i, Outcome::Refused(reason)),
                        Smaller::Free { locked, free } => {
                            let refused = || Outcome::Refused(Trouble::Locked);
                            locked.into_iter().for_each(|i| put(&mut outcomes, i, refused()));
                            pending.push(free);
                        }
                        Smaller::Halves(first, second) => pending.extend([second, first]),
                    }
                }
            }
        }
        Ok(Advanced { outcomes, wal })
    }

    async fn batch(&self, client: &Client, batch: &[Step<'_>]) -> Result<Advanced, Error> {
        let sequences: Vec<&Sequence> = batch.iter().map(|step| step.sequence).collect();
        // Both are sent at once; the server answers the second when the lock is had, or refuses it with the first.
        let (begun, now) =
            tokio::join!(begin_as_only_writer(client), self.reader.read_strictly(client, &sequences));
        if !begun? {
            return Ok(Advanced { outcomes: vec![Outcome::Busy; batch.len()], wal: WalEnd::default() });
        }
        let now = now?;
        let (mut walk, mut set, mut lock, mut call) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut together = Vec::new();
        for (step, reading) in batch.iter().zip(&now) {
            let Some(state) = state_of(reading, step) else { continue };
            match self.way(step, state) {
                Way::Nothing => {}
                Way::Walk(steps) => walk.push((step, steps)),
                Way::Set => set.push((step, state)),
                Way::Lock => lock.push(step),
                Way::LockInBulk => together.push((step, state)),
                Way::Call => call.push((step.sequence, step.to)),
            }
        }
        self.set(client, &set).await?;
        self.caller.call(client, &call).await?;
        if self.lock_and_set_together(client, &together).await? {
            together.clear();
        }
        walk.extend(together.iter().filter_map(|(step, state)| Some((*step, step.left(*state)?))));
        // Near ones first: they are served also while a far one needs many turns.
        walk.sort_by_key(|(_, steps)| *steps);
        let mut left = self.walk_chunk;
        for (_, steps) in &mut walk {
            *steps = (*steps).min(left);
            left -= *steps;
        }
        self.walk(client, &walk).await?;
        let until = Instant::now() + LOCKING_MAX;
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % lock.len().max(1);
        lock.rotate_left(first);
        for step in lock {
            if Instant::now() < until {
                self.lock_and_set(client, step).await?;
            }
        }
        let after = self.reader.read_strictly(client, &sequences).await?;
        let outcomes = batch.iter().zip(after).map(|(step, reading)| outcome(step, reading)).collect();
        Ok(Advanced { outcomes, wal: self.commit(client).await? })
    }

    /// Where the WAL ends is asked with the COMMIT, and answered after it.
    async fn commit(&self, client: &Client) -> Result<WalEnd, Error> {
        let (committed, wal) = tokio::join!(client.batch_execute("COMMIT"), self.wal_end(client));
        committed?;
        wal
    }

    fn way(&self, step: &Step<'_>, now: State) -> Way {
        let definition = &step.sequence.definition;
        let Some(steps) = step.left(now) else { return Way::Nothing };
        let privileges = step.sequence.privileges;
        // Without SELECT a sequence that was never called does not say where it starts: only `nextval` keeps its lane.
        let knows_lane = now.is_called || privileges.select;
        let quiet = now == step.seen && knows_lane;
        let cached = u64::try_from(definition.cache).unwrap_or(1).saturating_sub(1);
        let steps_set_min = STEPS_SET_MIN.saturating_add(cached.saturating_mul(SESSIONS_AT_ONCE));
        if privileges.update && quiet && steps >= steps_set_min {
            Way::Set
        } else if privileges.update && privileges.owner && knows_lane && steps >= STEPS_LOCK_MIN {
            Way::Lock
        } else if !privileges.update && privileges.function == ByFunction::Possible {
            Way::Call
        } else if self.in_bulk
            && privileges.update
            && privileges.owner
            && quiet
            && steps >= STEPS_LOCK_IN_BULK_MIN
        {
            Way::LockInBulk
        } else {
            Way::Walk(steps.min(self.walk_chunk))
        }
    }

    async fn walk(&self, client: &Client, walk: &[(&Step<'_>, u64)]) -> Result<(), Error> {
        let walk: Vec<_> = walk.iter().filter(|(_, steps)| *steps > 0).collect();
        if walk.is_empty() {
            return Ok(());
        }
        // A session that has called nextval before under CACHE answers from its own memory and moves nothing.
        let discarded = client.batch_execute("DISCARD SEQUENCES");
        let oids: Vec<u32> = walk.iter().map(|(step, _)| step.sequence.oid.0).collect();
        let counts: Vec<i64> = walk.iter().map(|(_, n)| i64::try_from(*n).unwrap_or(i64::MAX)).collect();
        let targets: Vec<i64> = walk.iter().map(|(step, _)| step.to).collect();
        let down: Vec<bool> = walk.iter().map(|(step, _)| step.sequence.definition.descending()).collect();
        let parameters: [&(dyn ToSql + Sync); 4] = [&oids, &counts, &targets, &down];
        let (discarded, walked) = tokio::join!(discarded, client.execute(&self.walk, &parameters));
        discarded?;
        walked.map(drop)
    }

    async fn set(&self, client: &Client, set: &[(&Step<'_>, State)]) -> Result<(), Error> {
        if set.is_empty() {
            return Ok(());
        }
        let oids: Vec<u32> = set.iter().map(|(step, _)| step.sequence.oid.0).collect();
        let targets: Vec<i64> = set.iter().map(|(step, _)| step.to).collect();
        let seen: Vec<Option<i64>> = set.iter().map(|(_, s)| s.is_called.then_some(s.last_value)).collect();
        client.execute(&self.set, &[&oids, &targets, &seen]).await?;
        Ok(())
    }

    /// The lock may be refused (`lock_timeout`): on a busy sequence it often is, and the walk goes on instead.
    async fn lock_and_set(&self, client: &Client, step: &Step<'_>) -> Result<(), Error> {
        let sequence = step.sequence;
        if !lock(client, &[sequence.oid]).await? {
            return self.walk(client, &[(step, self.walk_chunk)]).await;
        }
        let now = self.reader.read_strictly(client, &[sequence]).await?;
        if let Some(state) = now.first().and_then(|reading| state_of(reading, step))
            && step.left(state).is_some()
        {
            self.set(client, &[(step, state)]).await?;
        }
        Ok(())
    }

    /// False, with nothing done, where a lock is refused.
    async fn lock_and_set_together(
        &self,
        client: &Client,
        steps: &[(&Step<'_>, State)],
    ) -> Result<bool, Error> {
        let oids: Vec<Oid> = steps.iter().map(|(step, _)| step.sequence.oid).collect();
        if oids.is_empty() || !lock(client, &oids).await? {
            return Ok(false);
        }
        // One that was moved before it was locked is left where it is: the next call sees to it.
        self.set(client, steps).await?;
        Ok(true)
    }

    /// Gives a CYCLE sequence, last `seen` so, the publisher's exact state; for such a one there is no forwards. Where
    /// somebody has drawn from it meanwhile, the outcome is where it stands.
    ///
    /// # Errors
    /// The server's or the connection's error.
    pub async fn follow(
        &self,
        client: &Client,
        sequence: &Sequence,
        seen: State,
        exact: State,
    ) -> Result<Advanced, Error> {
        let outcome = if begin_as_only_writer(client).await? {
            match self.follow_seen(client, sequence, seen, exact).await {
                Ok(outcome) => {
                    client.batch_execute("COMMIT").await?;
                    outcome
                }
                Err(error) => {
                    let reason = trouble(&error).ok_or(error)?;
                    client.batch_execute("ROLLBACK").await?;
                    Outcome::Refused(reason)
                }
            }
        } else {
            Outcome::Busy
        };
        Ok(Advanced { outcomes: vec![outcome], wal: self.wal_end(client).await? })
    }

    async fn follow_seen(
        &self,
        client: &Client,
        sequence: &Sequence,
        seen: State,
        exact: State,
    ) -> Result<Outcome, Error> {
        let sql = "SELECT setval($1::oid::regclass, $2, $3)
                    WHERE pg_sequence_last_value($1::oid::regclass) IS NOT DISTINCT FROM $4";
        let last = seen.is_called.then_some(seen.last_value);
        let set = client.execute(sql, &[&sequence.oid.0, &exact.last_value, &exact.is_called, &last]).await?;
        if set > 0 {
            return Ok(Outcome::At(exact));
        }
        let step = Step { sequence, seen, to: exact.last_value };
        let now = self.reader.read_strictly(client, &[sequence]).await?;
        Ok(now.into_iter().next().map_or(Outcome::Busy, |reading| outcome(&step, reading)))
    }
}

/// Begins a transaction as the only writer of ours in this database; false where another one is at it.
async fn begin_as_only_writer(client: &Client) -> Result<bool, Error> {
    let (first, second) = WRITER_LOCK;
    let begin = format!("BEGIN; SELECT pg_advisory_xact_lock({first}, {second})");
    match client.batch_execute(&begin).await {
        Ok(()) => Ok(true),
        Err(error) if trouble(&error) == Some(Trouble::Locked) => {
            client.batch_execute("ROLLBACK").await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// How many `nextval`s bring a sequence from `now` to `to` or past it; `None` where it is there already.
fn steps_to(now: State, to: i64, increment: i64) -> Option<u64> {
    let (from, to, increment) = (i128::from(now.last_value), i128::from(to), i128::from(increment));
    let distance = (to - from) * increment.signum();
    // The first nextval of a sequence that was never called returns last_value itself.
    let first = i128::from(!now.is_called);
    let step = increment.abs().max(1);
    let steps = if distance < 0 { 0 } else { (distance + step - 1) / step + first };
    u64::try_from(steps).ok().filter(|steps| *steps > 0)
}

/// A reading as a state; a sequence that was never called and cannot be read directly is where it was seen.
fn state_of(reading: &Reading, step: &Step<'_>) -> Option<State> {
    match reading {
        Reading::State(state) => Some(*state),
        Reading::Uncalled => Some(State { is_called: false, ..step.seen }),
        Reading::Denied | Reading::Gone | Reading::Locked | Reading::Failed(_) => None,
    }
}

fn outcome(step: &Step<'_>, after: Reading) -> Outcome {
    match after {
        Reading::State(state) => Outcome::At(state),
        Reading::Uncalled => Outcome::At(State { is_called: false, ..step.seen }),
        Reading::Denied => Outcome::Refused(Trouble::Denied),
        Reading::Gone => Outcome::Refused(Trouble::Gone),
        Reading::Locked => Outcome::Refused(Trouble::Locked),
        Reading::Failed(why) => Outcome::Refused(Trouble::Other(why)),
    }
}

/// Makes an otherwise idle server flush: a transaction id alone is committed asynchronously, and the WAL writer
/// then flushes up to its commit record within `wal_writer_delay`.
///
/// # Errors
/// The server's or the connection's error.
pub async fn nudge_wal_writer(client: &Client) -> Result<(), Error> {
    client.batch_execute("SELECT txid_current()").await
}
