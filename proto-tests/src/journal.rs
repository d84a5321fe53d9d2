//! What the publisher gave out: every id that a client saw, and what became of its transaction.

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

/// Every id that was given out, by the sequence's place in the zoo.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    by_sequence: Vec<Vec<(i64, Fate)>>,
}

impl Journal {
    /// Notes that `sequence` gave out `id`.
    pub fn record(&mut self, sequence: usize, id: i64, fate: Fate) {
        if self.by_sequence.len() <= sequence {
            self.by_sequence.resize_with(sequence + 1, Vec::new);
        }
        self.by_sequence[sequence].push((id, fate));
    }

    /// All entries of a sequence.
    #[must_use]
    pub fn entries(&self, sequence: usize) -> &[(i64, Fate)] {
        self.by_sequence.get(sequence).map_or(&[], Vec::as_slice)
    }

    /// All ids of a sequence.
    #[must_use]
    pub fn ids(&self, sequence: usize) -> HashSet<i64> {
        self.entries(sequence).iter().map(|(id, _)| *id).collect()
    }

    /// The furthest id of the sequence at place `index` that any client saw.
    #[must_use]
    pub fn furthest(&self, index: usize, sequence: &Sequence) -> Option<i64> {
        furthest(sequence, self.entries(index).iter().map(|(id, _)| *id))
    }

    /// The furthest id of the sequence at place `index` whose transaction had committed below `lsn`.
    #[must_use]
    pub fn furthest_committed(&self, index: usize, sequence: &Sequence, lsn: Lsn) -> Option<i64> {
        let committed = |fate: Fate| matches!(fate, Fate::Committed(at) if at <= lsn);
        furthest(sequence, self.entries(index).iter().filter(|(_, fate)| committed(*fate)).map(|(id, _)| *id))
    }

    /// How many ids were given out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_sequence.iter().map(Vec::len).sum()
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
