//! What everybody may ask about the managed sequences: status views, the console, the demonstration.
//!
//! In: the keeper's word on each sequence, whenever it changes. Out: snapshots. It lies beside the hot path, not in it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use tokio::time::Instant;

use crate::plan::LeadMeter;
use crate::types::{Lsn, QualifiedName};

/// How a sequence is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Every consumer is seen in the stream.
    Covered,
    /// Followed by polling the publisher.
    Blind,
    /// Not moved, with the reason.
    Held,
    /// Left out: by the user, or because it is temporary or unlogged.
    Excluded,
}

impl Class {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Covered => "covered",
            Class::Blind => "blind",
            Class::Held => "held",
            Class::Excluded => "excluded",
        }
    }
}

/// Where the furthest mark came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Stream,
    /// The publisher's own sequence.
    Sequence,
    /// A table, on either side.
    Table,
}

impl Source {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Stream => "stream",
            Source::Sequence => "sequence",
            Source::Table => "table",
        }
    }
}

/// All about one sequence of the subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceStatus {
    pub name: QualifiedName,
    /// The columns that take their values from it.
    pub consumers: String,
    pub class: Class,
    /// Whether the publisher has been asked about it, and what it said was acted on.
    pub settled: bool,
    /// Why it is blind, held or excluded; what differs from the publisher.
    pub reason: Option<String>,
    /// `last_value` of the publisher's sequence, as last read; of an uncalled one the id before its first.
    pub publisher_value: Option<i64>,
    pub mark: Option<i64>,
    pub source: Option<Source>,
    /// The next value that `nextval` on the subscriber would give.
    pub next_value: Option<i64>,
    /// `last_value` on the subscriber.
    pub last_value: Option<i64>,
    /// Ids between the mark and the next value, in steps of the increment.
    pub lead_steps: Option<u64>,
    /// The next value is known, and not past the mark.
    pub behind: bool,
    /// The pace of its ids, on the [`Registry::clock`].
    pub meter: LeadMeter,
    pub advances: u64,
    pub last_advance: Option<SystemTime>,
    pub rewinds: u64,
    /// Ids that are not followed: the last ones found, in their order.
    pub set_aside: Vec<i64>,
}

impl SequenceStatus {
    /// Steps a second at the time `now` of the [`Registry::clock`]; zero where nothing moves.
    #[must_use]
    pub fn rate(&self, now: Duration) -> u64 {
        self.meter.rate(now)
    }

    /// How long the lead lasts at the present rate; `None` where nothing moves or the lead is not known.
    #[must_use]
    pub fn lead_seconds(&self, now: Duration) -> Option<f64> {
        let rate = self.rate(now);
        let lead = self.lead_steps.filter(|_| rate > 0)?;
        #[allow(clippy::cast_precision_loss)] // for people
        let seconds = lead as f64 / rate as f64;
        Some((seconds * 10.0).round() / 10.0)
    }
}

/// Sums over all sequences since the start.
#[derive(Debug, Default)]
pub struct Totals {
    pub advances: AtomicU64,
    pub rewinds: AtomicU64,
    pub rows: AtomicU64,
    /// Looks at everything on the publisher, tables too.
    pub seeds: AtomicU64,
}

/// The shared views.
#[derive(Debug)]
pub struct Registry {
    born: Instant,
    sequences: DashMap<QualifiedName, SequenceStatus>,
    pub totals: Totals,
    confirmed: AtomicU64,
    protecting: AtomicBool,
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            born: Instant::now(),
            sequences: DashMap::new(),
            totals: Totals::default(),
            confirmed: AtomicU64::new(0),
            protecting: AtomicBool::new(false),
        }
    }
}

impl Registry {
    /// When the clock of the lead meters began.
    #[must_use]
    pub fn born(&self) -> Instant {
        self.born
    }

    /// The clock of the lead meters, now.
    #[must_use]
    pub fn clock(&self) -> Duration {
        self.born.elapsed()
    }

    pub fn put(&self, status: SequenceStatus) {
        self.sequences.insert(status.name.clone(), status);
    }

    pub fn remove(&self, name: &QualifiedName) {
        self.sequences.remove(name);
    }

    #[must_use]
    pub fn get(&self, name: &QualifiedName) -> Option<SequenceStatus> {
        self.sequences.get(name).map(|entry| entry.value().clone())
    }

    /// All of them, by name.
    #[must_use]
    pub fn snapshot(&self) -> Vec<SequenceStatus> {
        let mut all: Vec<_> = self.sequences.iter().map(|entry| entry.value().clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Every sequence was read, compared with the publisher and put ahead for the first time.
    pub fn set_protecting(&self) {
        self.protecting.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn is_protecting(&self) -> bool {
        self.protecting.load(Ordering::Acquire)
    }

    pub fn set_confirmed(&self, lsn: Lsn) {
        self.confirmed.store(lsn.0, Ordering::Relaxed);
    }

    /// What was last allowed to be confirmed to the publisher.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Ordering::Relaxed))
    }

    /// The least lead of all that are followed.
    #[must_use]
    pub fn least_lead(&self) -> Option<(QualifiedName, u64)> {
        self.sequences
            .iter()
            .filter(|entry| matches!(entry.class, Class::Covered | Class::Blind))
            .filter_map(|entry| entry.lead_steps.map(|lead| (entry.name.clone(), lead)))
            .min_by_key(|(_, lead)| *lead)
    }

    /// How many sequences there are of `class`.
    #[must_use]
    pub fn count(&self, class: Class) -> usize {
        self.sequences.iter().filter(|entry| entry.class == class).count()
    }
}
