//! Reads where sequences stand, in batches, on either server.
//!
//! In: sequences of a [`Catalog`](crate::catalog::Catalog). Out: a [`Reading`] each. One sequence that is locked,
//! dropped or not granted never spoils the others: those that are locked are left out of a batch that fails, and for
//! any other reason it is halved until the culprit stands alone.
//! `pg_sequence_last_value` says nothing of a sequence that was never called, so such a one is read directly; so are
//! all of a standby, where it cannot take its lock.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};

use crate::catalog::Sequence;
use crate::plan::State;
use crate::sql;
use crate::types::Oid;

/// `pg_sequence_last_value` keeps a lock per sequence until the statement ends, and `max_locks_per_transaction`
/// (64) times the connections is all there is: so many at a time at most.
const BATCH: usize = 500;

/// What a server said of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    State(State),
    /// Never called, and our role lacks SELECT, so that where it starts is not known for sure.
    Uncalled,
    /// Neither USAGE nor SELECT.
    Denied,
    Gone,
    /// Somebody holds AccessExclusive on it (a truncate in progress), or the server took too long.
    Locked,
    /// The server refused for a reason of its own, in its words: the sequence's page is damaged, for one.
    Failed(String),
}

/// What became of a statement on one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    Denied,
    Gone,
    Locked,
    /// In the server's words. Also what a relation that is dropped under a running statement answers, as XX000: the
    /// catalog tells that from a damaged one.
    Other(String),
}

/// Sorts a server's refusal; `None` means that the connection itself is not usable any more.
#[must_use]
pub fn trouble(error: &Error) -> Option<Trouble> {
    let code = error.code()?;
    let class = code.code().get(..2).unwrap_or_default();
    match code {
        &SqlState::LOCK_NOT_AVAILABLE | &SqlState::QUERY_CANCELED | &SqlState::T_R_DEADLOCK_DETECTED => {
            Some(Trouble::Locked)
        }
        &SqlState::INSUFFICIENT_PRIVILEGE => Some(Trouble::Denied),
        &SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_OBJECT | &SqlState::INVALID_SCHEMA_NAME => {
            Some(Trouble::Gone)
        }
        &SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN | &SqlState::CANNOT_CONNECT_NOW => None,
        &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => None,
        _ if class == "08" => None,
        _ => Some(Trouble::Other(sql::describe(error))),
    }
}

/// Prepared once per connection.
#[derive(Clone)]
pub struct Reader {
    last_values: Statement,
    in_recovery: bool,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    /// # Errors
    /// The server's or the connection's error.
    pub async fn prepare(client: &Client) -> Result<Self, Error> {
        let last_values = client
            .prepare_typed(
                "SELECT t.o, pg_sequence_last_value(t.o::regclass), has_sequence_privilege(t.o, 'USAGE, SELECT')
                   FROM unnest($1) AS t(o)
                  WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = t.o)",
                &[Type::OID_ARRAY],
            )
            .await?;
        let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
        Ok(Reader { last_values, in_recovery: row.try_get(0)? })
    }

    /// Reads every one of `sequences`, in their order. Not for use inside a transaction block: the first refusal
    /// would spoil the rest of it.
    ///
    /// # Errors
    /// Only where the connection is lost; what concerns one sequence is its [`Reading`].
    pub async fn read(&self, client: &Client, sequences: &[&Sequence]) -> Result<Vec<Reading>, Error> {
        let mut readings = vec![Reading::Denied; sequences.len()];
        let all: Vec<usize> = (0..sequences.len()).collect();
        let mut pending: Vec<Vec<usize>> = all.chunks(BATCH).map(<[usize]>::to_vec).collect();
        while let Some(batch) = pending.pop() {
            let asked: Vec<&Sequence> = batch.iter().filter_map(|&i| sequences.get(i)).copied().collect();
            let found = match self.read_strictly(client, &asked).await {
                Ok(found) => found,
                Err(error) => {
                    let trouble = trouble(&error).ok_or(error)?;
                    match Smaller::of(client, batch, &asked, &trouble).await? {
                        Smaller::One(index) => put(&mut readings, index, trouble.into()),
                        Smaller::Free { locked, free } => {
                            locked.into_iter().for_each(|index| put(&mut readings, index, Reading::Locked));
                            pending.push(free);
                        }
                        Smaller::Halves(first, second) => pending.extend([first, second]),
                    }
                    continue;
                }
            };
            batch.into_iter().zip(found).for_each(|(index, reading)| put(&mut readings, index, reading));
        }
        Ok(readings)
    }

    /// The same, for at most some hundred sequences, where one refusal is an error for all of them.
    ///
    /// # Errors
    /// The server's or the connection's error.
    pub async fn read_strictly(
        &self,
        client: &Client,
        sequences: &[&Sequence],
    ) -> Result<Vec<Reading>, Error> {
        if self.in_recovery {
            return read_directly(client, sequences).await;
        }
        let permitted = sequences.iter().filter(|s| s.privileges.may_read());
        let oids: Vec<u32> = permitted.map(|s| s.oid.0).collect();
        let found = self.last_values(client, &oids).await?;
        let uncalled: Vec<&Sequence> = sequences
            .iter()
            .filter(|s| s.privileges.select && found.get(&s.oid.0) == Some(&LastValue::Null))
            .copied()
            .collect();
        let uncalled = states(client, &uncalled).await?;
        let reading = |sequence: &&Sequence| {
            if !sequence.privileges.may_read() {
                return Reading::Denied;
            }
            match (found.get(&sequence.oid.0), uncalled.get(&sequence.oid.0)) {
                (None, _) => Reading::Gone,
                (Some(LastValue::Denied), _) => Reading::Denied,
                (Some(LastValue::Called(last_value)), _) => {
                    Reading::State(State { last_value: *last_value, is_called: true })
                }
                (Some(LastValue::Null), Some(state)) => Reading::State(*state),
                (Some(LastValue::Null), None) => Reading::Uncalled,
            }
        };
        Ok(sequences.iter().map(reading).collect())
    }

    async fn last_values(&self, client: &Client, oids: &[u32]) -> Result<HashMap<u32, LastValue>, Error> {
        let rows = client.query(&self.last_values, &[&oids]).await?;
        let last_value = |row: &tokio_postgres::Row| -> Result<LastValue, Error> {
            let permitted = row.try_get::<_, Option<bool>>(2)?.unwrap_or(false);
            Ok(match row.try_get(1)? {
                Some(last_value) => LastValue::Called(last_value),
                None if permitted => LastValue::Null,
                None => LastValue::Denied,
            })
        };
        rows.iter().map(|row| Ok((row.try_get(0)?, last_value(row)?))).collect()
    }
}

/// What `pg_sequence_last_value` answers. New majors answer NULL, not an error, where a right was taken away since the
/// catalog was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastValue {
    Called(i64),
    Null,
    Denied,
}

impl From<Trouble> for Reading {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Denied => Reading::Denied,
            Trouble::Gone => Reading::Gone,
            Trouble::Locked => Reading::Locked,
            Trouble::Other(why) => Reading::Failed(why),
        }
    }
}

/// What a batch that was refused falls into, as indexes of its sequences.
#[derive(Debug, PartialEq, Eq)]
pub enum Smaller {
    /// It was a single one.
    One(usize),
    Free {
        locked: Vec<usize>,
        free: Vec<usize>,
    },
    Halves(Vec<usize>, Vec<usize>),
}

impl Smaller {
    /// `batch` are the indexes of `asked`. Each refusal by a lock takes the whole `lock_timeout`, so who is locked is
    /// asked once, not found out one by one.
    ///
    /// # Errors
    /// The server's or the connection's error.
    pub async fn of(
        client: &Client,
        mut batch: Vec<usize>,
        asked: &[&Sequence],
        trouble: &Trouble,
    ) -> Result<Self, Error> {
        if let [only] = batch.as_slice() {
            return Ok(Smaller::One(*only));
        }
        if *trouble == Trouble::Locked {
            let held = locked(client, asked).await?;
            if !held.is_empty() {
                let oids = batch.into_iter().zip(asked.iter().map(|s| s.oid));
                let (locked, free): (Vec<_>, Vec<_>) = oids.partition(|(_, oid)| held.contains(oid));
                let indexes = |part: Vec<(usize, Oid)>| part.into_iter().map(|(index, _)| index).collect();
                return Ok(Smaller::Free { locked: indexes(locked), free: indexes(free) });
            }
        }
        let second = batch.split_off(batch.len() / 2);
        Ok(Smaller::Halves(batch, second))
    }
}

/// Those of `sequences` on which another session has, or waits for, a lock that `nextval` and its like wait for.
///
/// # Errors
/// The server's or the connection's error.
pub async fn locked(client: &Client, sequences: &[&Sequence]) -> Result<HashSet<Oid>, Error> {
    if sequences.is_empty() {
        return Ok(HashSet::new());
    }
    let oids: Vec<u32> = sequences.iter().map(|s| s.oid.0).collect();
    // The locks of a prepared transaction have no pid.
    let sql = "SELECT DISTINCT relation FROM pg_locks
                WHERE locktype = 'relation' AND relation = ANY($1) AND pid IS DISTINCT FROM pg_backend_pid()
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')";
    let rows = client.query(sql, &[&oids]).await?;
    rows.iter().map(|row| Ok(Oid(row.try_get(0)?))).collect()
}

/// Puts `one` in its place, if there is such a place.
pub fn put<T>(all: &mut [T], index: usize, one: T) {
    if let Some(place) = all.get_mut(index) {
        *place = one;
    }
}

async fn read_directly(client: &Client, sequences: &[&Sequence]) -> Result<Vec<Reading>, Error> {
    let selectable: Vec<&Sequence> = sequences.iter().filter(|s| s.privileges.select).copied().collect();
    let found = states(client, &selectable).await?;
    let reading = |sequence: &&Sequence| match found.get(&sequence.oid.0) {
        Some(state) => Reading::State(*state),
        None if sequence.privileges.select => Reading::Gone,
        None => Reading::Denied,
    };
    Ok(sequences.iter().map(reading).collect())
}

async fn states(client: &Client, sequences: &[&Sequence]) -> Result<HashMap<u32, State>, Error> {
    let mut sql = String::new();
    for sequence in sequences {
        let union = if sql.is_empty() { "" } else { " UNION ALL " };
        // Writing to a String cannot fail.
        let _ =
            write!(sql, "{union}SELECT {}::oid, last_value, is_called FROM {}", sequence.oid, sequence.name);
    }
    if sql.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = client.query(&sql, &[]).await?;
    let state = |row: &tokio_postgres::Row| -> Result<State, Error> {
        Ok(State { last_value: row.try_get(1)?, is_called: row.try_get(2)? })
    };
    rows.iter().map(|row| Ok((row.try_get(0)?, state(row)?))).collect()
}
