//! Where a subscriber's sequence should stand: pure arithmetic, no clock, no socket, no runtime.
//!
//! In: a sequence's [`Definition`], its [`State`] on the subscriber, the [`Bounds`] of the columns that use it and the
//! mark (the furthest id known to be used). Out: a [`Decision`]. Nothing here ever asks for a step backwards.
//!
//! * [`decide`] plans one sequence, [`follow_exact`] copies one that cycles;
//! * [`LeadMeter`] measures how long the lead has to be when it is `auto`;
//! * [`outlier`] tells an id typed in by hand from the sequence's own work.

mod axis;
mod held;
mod lead;
pub mod outlier;
#[cfg(test)]
mod properties;
mod target;

pub use held::{Column, End, Held, LimitedBy};
pub use lead::{LEAD_STEPS_MAX, LEAD_STEPS_MIN, Lead, LeadError, LeadMeter};
pub use target::{decide, follow_exact};

/// A sequence's row in `pg_sequence` (PostgreSQL manual, "System Catalogs").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Definition {
    pub start: i64,
    /// Never zero: [`Definition::new`] refuses it, as `CREATE SEQUENCE` does.
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cache: i64,
    pub cycle: bool,
}

/// Why six numbers are not a sequence's definition. The rules are those of `init_params` in
/// `src/backend/commands/sequence.c`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DefinitionError {
    #[error("a sequence's increment must not be zero")]
    ZeroIncrement,
    #[error("a sequence's minimum ({min}) must be less than its maximum ({max})")]
    Empty { min: i64, max: i64 },
    #[error("a sequence's start must be within {min} and {max}, got {start}")]
    StartOutside { start: i64, min: i64, max: i64 },
    #[error("a sequence's cache must be at least 1, got {cache}")]
    Cache { cache: i64 },
}

impl Definition {
    /// The definition, checked.
    pub fn new(
        start: i64,
        increment: i64,
        min: i64,
        max: i64,
        cache: i64,
        cycle: bool,
    ) -> Result<Self, DefinitionError> {
        if increment == 0 {
            return Err(DefinitionError::ZeroIncrement);
        }
        if min >= max {
            return Err(DefinitionError::Empty { min, max });
        }
        if !(min..=max).contains(&start) {
            return Err(DefinitionError::StartOutside { start, min, max });
        }
        if cache < 1 {
            return Err(DefinitionError::Cache { cache });
        }
        Ok(Definition { start, increment, min, max, cache, cycle })
    }

    /// Whether values get smaller from one `nextval` to the next.
    #[must_use]
    pub fn descending(&self) -> bool {
        self.increment < 0
    }

    /// The one of two values that lies further in the direction of the increment.
    #[must_use]
    pub fn further(&self, a: i64, b: i64) -> i64 {
        if self.descending() { a.min(b) } else { a.max(b) }
    }

    /// Whether `a` lies strictly past `b` in the direction of the increment.
    #[must_use]
    pub fn is_past(&self, a: i64, b: i64) -> bool {
        if self.descending() { a < b } else { a > b }
    }
}

/// What `SELECT last_value, is_called FROM sequence` says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub last_value: i64,
    pub is_called: bool,
}

impl State {
    /// What the next `nextval` would return; `None` when it would fail because the sequence is exhausted.
    #[must_use]
    pub fn next(&self, definition: &Definition) -> Option<i64> {
        if !self.is_called {
            return Some(self.last_value);
        }
        match self.last_value.checked_add(definition.increment) {
            Some(next) if (definition.min..=definition.max).contains(&next) => Some(next),
            _ if definition.cycle && definition.descending() => Some(definition.max),
            _ if definition.cycle => Some(definition.min),
            _ => None,
        }
    }

    /// The furthest id that the next value is past; where nothing is left to hand out, the last value.
    #[must_use]
    pub fn past(&self, definition: &Definition) -> i64 {
        match self.next(definition) {
            Some(next) if definition.descending() => next.saturating_add(1),
            Some(next) => next.saturating_sub(1),
            None => self.last_value,
        }
    }

    /// Whether the next value comes before that of `other`, in the direction of the increment: the sequence was set back.
    #[must_use]
    pub fn is_short_of(&self, other: State, definition: &Definition) -> bool {
        let increment = i128::from(definition.increment);
        let next = |state: &State| {
            i128::from(state.last_value) * increment.signum()
                + if state.is_called { increment.abs() } else { 0 }
        };
        next(self) < next(&other)
    }

    /// The furthest id that a sequence in this state has handed out, as [`decide`] wants its mark: the last value, or
    /// one unit short of it when that value was not called yet. `None` where there is no such number.
    #[must_use]
    pub fn mark(&self, definition: &Definition) -> Option<i64> {
        if self.is_called {
            Some(self.last_value)
        } else if definition.descending() {
            self.last_value.checked_add(1)
        } else {
            self.last_value.checked_sub(1)
        }
    }
}

/// The values that the column type of every consumer of a sequence can hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bounds {
    pub lowest: i64,
    pub highest: i64,
}

impl Bounds {
    /// `smallint`
    pub const INT2: Bounds = Bounds { lowest: i16::MIN as i64, highest: i16::MAX as i64 };
    /// `integer`
    pub const INT4: Bounds = Bounds { lowest: i32::MIN as i64, highest: i32::MAX as i64 };
    /// `bigint`, and whatever is wider than a sequence can count
    pub const INT8: Bounds = Bounds { lowest: i64::MIN, highest: i64::MAX };

    /// What fits into both.
    #[must_use]
    pub fn intersect(self, other: Bounds) -> Bounds {
        Bounds { lowest: self.lowest.max(other.lowest), highest: self.highest.min(other.highest) }
    }
}

/// What is to be done with a sequence now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Nothing: the next value is past the mark and at least half of the lead is left.
    Enough {
        /// Steps that the publisher can still take before the subscriber is behind.
        lead_left: u64,
    },
    /// Move it to `to`, so that `last_value = to` and `is_called`.
    Advance {
        to: i64,
        /// How many calls of `nextval`, from the state given, return `to` at last.
        steps: u64,
    },
    /// It cannot be moved to where it should be, for this reason.
    Held(Held),
}
