//! What the publisher gave out: every id that a client saw, how it came, and what became of its transaction.
//!
//! A `TRUNCATE … RESTART IDENTITY` begins a new epoch of its sequences: ids come again, and those of before are promised
//! to nobody any more.

use crate::zoo::Sequence;
use seqshadow::types::Lsn;
use std::collections::HashSet;

/// What became of the transaction that drew an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Committed; its commit record is below this position.
    Committed(Lsn),
    /// Rolled back: the id is in no row, and yet it was given out.
    RolledBack,
    /// The connection broke before the answer to COMMIT.
    Unknown,
}

impl Fate {
    fn is_committed_below(self, lsn: Lsn) -> bool {
        matches!(self, Fate::Committed(at) if at <= lsn)
    }
}

/// An id that a client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The id.
    pub id: i64,
    /// A row was to have it; otherwise the client called `nextval` itself.
    pub in_row: bool,
    /// How many restarts there had been, see [`Journal::restart`].
    pub epoch: usize,
}

/// Every id that was given out, by the sequence's place in the zoo.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    by_sequence: Vec<History>,
}

#[derive(Clone, Debug, Default)]
struct History {
    draws: Vec<(Draw, Fate)>,
    /// What the commit of each restart lies after.
    restarts: Vec<Lsn>,
}

impl Journal {
    /// Notes what `sequence` gave out.
    pub fn record(&mut self, sequence: usize, draw: Draw, fate: Fate) {
        self.history(sequence).draws.push((draw, fate));
    }

    /// A `TRUNCATE … RESTART IDENTITY` is about to commit, after `lsn`. To be noted while its lock on the table keeps
    /// everybody from drawing. Should it not come to the commit, there is an epoch more, and nothing is wrong with that:
    /// its ids are those that come after.
    pub fn restart(&mut self, sequence: usize, lsn: Lsn) {
        self.history(sequence).restarts.push(lsn);
    }

    /// The epoch that the sequence is in, while somebody's lock on the table keeps it there.
    #[must_use]
    pub fn epoch(&self, sequence: usize) -> usize {
        self.by_sequence.get(sequence).map_or(0, |history| history.restarts.len())
    }

    fn history(&mut self, sequence: usize) -> &mut History {
        if self.by_sequence.len() <= sequence {
            self.by_sequence.resize_with(sequence + 1, History::default);
        }
        &mut self.by_sequence[sequence]
    }

    /// All entries of a sequence.
    #[must_use]
    pub fn entries(&self, sequence: usize) -> &[(Draw, Fate)] {
        self.by_sequence.get(sequence).map_or(&[], |history| &history.draws)
    }

    /// All ids of a sequence.
    #[must_use]
    pub fn ids(&self, sequence: usize) -> HashSet<i64> {
        self.entries(sequence).iter().map(|(draw, _)| draw.id).collect()
    }

    /// The furthest id of the sequence at place `index` that any client saw.
    #[must_use]
    pub fn furthest(&self, index: usize, sequence: &Sequence) -> Option<i64> {
        furthest(sequence, self.entries(index).iter().map(|(draw, _)| draw.id))
    }

    /// The furthest id of the sequence at place `index` whose transaction had committed below `lsn`.
    #[must_use]
    pub fn furthest_committed(&self, index: usize, sequence: &Sequence, lsn: Lsn) -> Option<i64> {
        let committed = self.entries(index).iter().filter(|(_, fate)| fate.is_committed_below(lsn));
        furthest(sequence, committed.map(|(draw, _)| draw.id))
    }

    /// Of the sequence at place `index`, the furthest id of a row whose transaction had committed below `confirmed`, in
    /// the epoch that is the last for somebody who has seen everything below `confirmed` and, on the subscriber,
    /// everything below `applied`.
    #[must_use]
    pub fn promised(&self, index: usize, sequence: &Sequence, confirmed: Lsn, applied: Lsn) -> Option<i64> {
        let history = self.by_sequence.get(index)?;
        // A restart that did not come to its commit may have been noted at a position that a crash took back.
        let seen = history.restarts.iter().rposition(|after| *after <= confirmed.max(applied));
        let epoch = seen.map_or(0, |restart| restart + 1);
        let counts = |draw: &Draw, fate: &Fate| {
            draw.in_row && draw.epoch >= epoch && fate.is_committed_below(confirmed)
        };
        let promised = history.draws.iter().filter(|(draw, fate)| counts(draw, fate));
        furthest(sequence, promised.map(|(draw, _)| draw.id))
    }

    /// Of the sequence at place `index`, the furthest id since the last restart that no rollback and no crash of the
    /// publisher can have taken back.
    #[must_use]
    pub fn furthest_kept(&self, index: usize, sequence: &Sequence) -> Option<i64> {
        let epoch = self.epoch(index);
        let kept = |draw: &Draw, fate: &Fate| draw.epoch == epoch && matches!(fate, Fate::Committed(_));
        let entries = self.entries(index).iter().filter(|(draw, fate)| kept(draw, fate));
        furthest(sequence, entries.map(|(draw, _)| draw.id))
    }

    /// How many restarts were tried.
    #[must_use]
    pub fn restarts(&self) -> usize {
        self.by_sequence.iter().map(|history| history.restarts.len()).sum()
    }

    /// How many ids were given out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_sequence.iter().map(|history| history.draws.len()).sum()
    }

    /// Whether nothing was given out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn furthest(sequence: &Sequence, ids: impl Iterator<Item = i64>) -> Option<i64> {
    ids.reduce(|a, b| if sequence.further(b, a) { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_begins_anew_with_a_restart() {
        let zoo = crate::zoo::all();
        let sequence = zoo.sequence("t_serial_id_seq");
        let mut journal = Journal::default();
        let draw = |journal: &mut Journal, id, in_row, at| {
            let epoch = journal.epoch(0);
            journal.record(0, Draw { id, in_row, epoch }, Fate::Committed(Lsn(at)));
        };
        draw(&mut journal, 50, true, 10);
        draw(&mut journal, 60, false, 12);
        journal.restart(0, Lsn(20));
        draw(&mut journal, 3, true, 30);
        journal.record(0, Draw { id: 4, in_row: true, epoch: 1 }, Fate::RolledBack);
        let promised = |confirmed, applied| journal.promised(0, sequence, Lsn(confirmed), Lsn(applied));
        assert_eq!(promised(9, 0), None);
        assert_eq!(promised(15, 0), Some(50), "of a call the stream knows nothing");
        assert_eq!(promised(15, 25), None, "the subscriber is past the restart, and past those rows");
        assert_eq!(promised(25, 0), None);
        assert_eq!(promised(30, 0), Some(3));
        assert_eq!(journal.furthest_kept(0, sequence), Some(3));
    }

    #[test]
    fn a_restart_that_a_crash_took_back_hides_nothing() {
        let zoo = crate::zoo::all();
        let sequence = zoo.sequence("t_serial_id_seq");
        let mut journal = Journal::default();
        journal.record(0, Draw { id: 50, in_row: true, epoch: 0 }, Fate::Committed(Lsn(10)));
        journal.restart(0, Lsn(90));
        journal.record(0, Draw { id: 51, in_row: true, epoch: 1 }, Fate::Committed(Lsn(20)));
        assert_eq!(journal.promised(0, sequence, Lsn(25), Lsn(25)), Some(51));
        journal.restart(0, Lsn(30));
        assert_eq!(journal.promised(0, sequence, Lsn(35), Lsn(25)), None);
    }
}
