//! One direction for all: a descending sequence is its mirror image, so every rule is written once, ascending, in
//! `i128`, where no sum or difference of two `i64` can overflow.

use super::{Bounds, Definition};

/// A sequence's number line, turned so that values grow with every `nextval`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    descending: bool,
    /// The increment's size, at least 1.
    pub(super) step: i128,
    /// The first value that the sequence and all its consumers' types can hold.
    pub(super) first: i128,
    /// The last one.
    pub(super) end: i128,
}

impl Axis {
    pub(super) fn new(definition: &Definition, bounds: &Bounds) -> Self {
        let lowest = i128::from(definition.min.max(bounds.lowest));
        let highest = i128::from(definition.max.min(bounds.highest));
        let descending = definition.descending();
        let (first, end) = if descending { (-highest, -lowest) } else { (lowest, highest) };
        // `Definition::new` refuses a zero; a literal made without it must not divide by it.
        let step = i128::from(definition.increment.unsigned_abs().max(1));
        Axis { descending, step, first, end }
    }

    pub(super) fn place(&self, value: i64) -> i128 {
        if self.descending { -i128::from(value) } else { i128::from(value) }
    }

    /// The value at a place, at the nearest end of `i64` if it lies outside.
    pub(super) fn value(&self, place: i128) -> i64 {
        let value = if self.descending { -place } else { place };
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    }

    /// The last place on the lattice through `anchor` that is not past `place`.
    pub(super) fn lattice_at_or_before(&self, anchor: i128, place: i128) -> i128 {
        place - (place - anchor).rem_euclid(self.step)
    }

    /// The first place on the lattice through `anchor` that is not short of `place`.
    pub(super) fn lattice_at_or_after(&self, anchor: i128, place: i128) -> i128 {
        place + (anchor - place).rem_euclid(self.step)
    }
}

/// A count that is never negative, as `u64`, at its maximum if it is larger.
pub(super) fn count(steps: i128) -> u64 {
    u64::try_from(steps.max(0)).unwrap_or(u64::MAX)
}
