//! Says whether the subscriber's sequences can take over: the promises, as one judgement per sequence.
//!
//! [`behind`] only reads. [`judge`] does what the application will do after the cutover: it calls `nextval` on the
//! subscriber, some times for each sequence, and holds the answers against everything that was ever given out.

use crate::journal::Journal;
use crate::sequence::next_of;
use crate::zoo::{Sequence, Zoo};
use anyhow::Result;
use seqshadow::plan::State;
use seqshadow::types::{Lsn, quote_literal};
use std::collections::HashSet;
use std::fmt;
use tokio_postgres::Client;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The sequence, as SQL names it.
    pub sequence: String,
    /// What kind of animal it is.
    pub about: &'static str,
    /// What is wrong with it.
    pub what: Wrong,
}

/// What can be wrong with a sequence on the subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Its next value is not past an id that the publisher gave out.
    Behind { next: i64, furthest: i64 },
    /// It gave out what is in a table: the application's first insert fails.
    Collides { id: i64, table: String },
    /// It gave out what the publisher had given out, whether or not a row has it.
    Repeats { id: i64 },
    /// It left its lattice: another writer's ids may be hit.
    OffLattice { id: i64, anchor: i64, increment: i64 },
    /// It gave out something that is not further than what it gave out before.
    WentBack { from: i64, to: i64 },
    /// `nextval` failed.
    Refuses { error: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {:?}", self.sequence, self.about, self.what)
    }
}

impl Fault {
    fn of(sequence: &Sequence, what: Wrong) -> Fault {
        Fault { sequence: sequence.name.to_string(), about: sequence.about, what }
    }
}

/// Fails the test when there are faults, and lists all of them.
///
/// # Panics
/// When `faults` is not empty.
pub fn assert_no_faults(faults: &[Fault]) {
    let list: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{} promises broken:\n{}", list.len(), list.join("\n"));
}

/// The sequences whose next value on the subscriber is not past every id committed on the publisher below `lsn`
/// (all ids ever seen when `None`). Draws nothing. Cycling sequences are left out.
///
/// # Errors
/// When the subscriber cannot be asked.
pub async fn behind(
    zoo: &Zoo,
    journal: &Journal,
    lsn: Option<Lsn>,
    subscriber: &Client,
) -> Result<Vec<Fault>> {
    let nexts = Nexts::read(zoo, subscriber).await?;
    Ok(nexts.not_past(zoo, |index, sequence| match lsn {
        Some(lsn) => journal.furthest_committed(index, sequence, lsn),
        None => journal.furthest(index, sequence),
    }))
}

/// What each sequence of the subscriber would give next; cycling sequences are left out.
#[derive(Clone, Debug)]
pub struct Nexts(Vec<(usize, i64)>);

impl Nexts {
    /// Reads them; draws nothing.
    ///
    /// # Errors
    /// When the subscriber cannot be asked.
    pub async fn read(zoo: &Zoo, subscriber: &Client) -> Result<Nexts> {
        let judged = (0..zoo.sequences.len()).filter(|index| !zoo.sequences[*index].cycle);
        let mut nexts = Vec::new();
        for row in subscriber.query(&zoo.states_sql(judged), &[]).await? {
            let index = usize::try_from(row.get::<_, i32>(0))?;
            let state = State { last_value: row.get(1), is_called: row.get(2) };
            nexts.push((index, next_of(state, zoo.sequences[index].increment)));
        }
        Ok(Nexts(nexts))
    }

    /// The sequences whose next value is not past the id that `furthest` gives for their place in the zoo.
    pub fn not_past(
        &self,
        zoo: &Zoo,
        mut furthest: impl FnMut(usize, &Sequence) -> Option<i64>,
    ) -> Vec<Fault> {
        let fault = |(index, next): &(usize, i64)| {
            let (sequence, next) = (&zoo.sequences[*index], *next);
            let furthest =
                furthest(*index, sequence).filter(|furthest| !sequence.further(next, *furthest))?;
            Some(Fault::of(sequence, Wrong::Behind { next, furthest }))
        };
        self.0.iter().filter_map(fault).collect()
    }
}

/// Draws `draws` values from each sequence of the subscriber, outside of any transaction, and judges them against the
/// journal and the tables of both sides. Cycling sequences are left out: their ids come again by design.
///
/// # Errors
/// When a server cannot be asked.
pub async fn judge(
    zoo: &Zoo,
    journal: &Journal,
    publisher: &Client,
    subscriber: &Client,
    draws: u32,
) -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    for (index, sequence) in zoo.sequences.iter().enumerate().filter(|(_, sequence)| !sequence.cycle) {
        let mut ids = Vec::new();
        for _ in 0..draws {
            let sql = format!("SELECT nextval({})", quote_literal(&sequence.name.to_string()));
            match subscriber.query_one(&sql, &[]).await {
                Ok(row) => ids.push(row.get::<_, i64>(0)),
                Err(error) if error.as_db_error().is_some() => {
                    faults.push(Fault::of(sequence, Wrong::Refuses { error: error.to_string() }));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let furthest = journal.furthest(index, sequence);
        let wrongs = weigh(sequence, &ids, &journal.ids(index), furthest);
        faults.extend(wrongs.into_iter().map(|wrong| Fault::of(sequence, wrong)));
        for consumer in &sequence.consumers {
            let sql = format!(
                "SELECT {number} FROM {table} WHERE {number} = ANY ($1::bigint[]) LIMIT 1",
                number = consumer.number,
                table = consumer.table
            );
            for server in [subscriber, publisher] {
                if let Some(row) = server.query_opt(&sql, &[&ids]).await? {
                    let what = Wrong::Collides { id: row.get(0), table: consumer.table.clone() };
                    faults.push(Fault::of(sequence, what));
                    break;
                }
            }
        }
    }
    Ok(faults)
}

/// What is wrong with `ids`, drawn one after the other, when `given` had been given out before.
fn weigh(sequence: &Sequence, ids: &[i64], given: &HashSet<i64>, furthest: Option<i64>) -> Vec<Wrong> {
    let mut wrongs = Vec::new();
    if let (Some(next), Some(furthest)) = (ids.first().copied(), furthest)
        && !sequence.further(next, furthest)
    {
        wrongs.push(Wrong::Behind { next, furthest });
    }
    if let Some(id) = ids.iter().copied().find(|id| given.contains(id)) {
        wrongs.push(Wrong::Repeats { id });
    }
    let (anchor, increment) = (sequence.anchor, sequence.increment);
    let on_lattice = |id: i64| (i128::from(id) - i128::from(anchor)) % i128::from(increment) == 0;
    if let Some(id) = ids.iter().copied().find(|id| !on_lattice(*id)) {
        wrongs.push(Wrong::OffLattice { id, anchor, increment });
    }
    for pair in ids.windows(2) {
        if let [from, to] = *pair
            && !sequence.further(to, from)
        {
            wrongs.push(Wrong::WentBack { from, to });
        }
    }
    wrongs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weigh_even(ids: &[i64], given: &[i64]) -> Vec<Wrong> {
        let zoo = crate::zoo::all();
        let sequence = zoo.sequence("lane_setval");
        let given: HashSet<i64> = given.iter().copied().collect();
        weigh(sequence, ids, &given, given.iter().copied().max())
    }

    #[test]
    fn a_sequence_ahead_on_its_own_lane_is_right() {
        assert_eq!(weigh_even(&[10, 12, 14], &[1, 3, 9]), []);
        assert_eq!(weigh_even(&[10, 12], &[]), []);
    }

    #[test]
    fn each_broken_promise_is_named() {
        assert_eq!(weigh_even(&[8, 10], &[1, 9]), [Wrong::Behind { next: 8, furthest: 9 }]);
        assert_eq!(weigh_even(&[11], &[9]), [Wrong::OffLattice { id: 11, anchor: 2, increment: 2 }]);
        assert_eq!(weigh_even(&[12, 10], &[9]), [Wrong::WentBack { from: 12, to: 10 }]);
        assert_eq!(
            weigh_even(&[6, 8], &[8]),
            [Wrong::Behind { next: 6, furthest: 8 }, Wrong::Repeats { id: 8 }]
        );
    }

    #[test]
    fn descending_sequences_are_judged_downwards() {
        let zoo = crate::zoo::all();
        let sequence = zoo.sequence("t_by_minus_five_id_seq");
        let given = HashSet::from([-1000, -1005]);
        assert_eq!(weigh(sequence, &[-1010, -1015], &given, Some(-1005)), []);
        assert_eq!(
            weigh(sequence, &[-1000], &given, Some(-1005)),
            [Wrong::Behind { next: -1000, furthest: -1005 }, Wrong::Repeats { id: -1000 }]
        );
    }
}
