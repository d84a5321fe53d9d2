//! An id typed in by hand must neither burn a sequence nor stop it: which ids are followed, which are set aside.
//!
//! An id is a candidate when it lies further past the publisher's own `last_value` than the publisher is likely to
//! get before we look again. The caller then asks the publisher again, and only what is still too far is set aside.

use super::axis::Axis;
use super::{Bounds, Definition, State};

/// Part of the values remaining that an id may lie past the publisher's sequence: one in this many.
const REMAINING_PER_REACH: i128 = 10;
/// An id this near is followed even where a tenth of what remains is less (small types)…
const REACH_MIN: i128 = 10_000;
/// …unless that were more than this part of what remains, one in this many.
const REMAINING_PER_REACH_MIN: i128 = 2;

/// What to do with an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is a mark like any other.
    Follow,
    /// Read the publisher's sequence again, then judge again.
    AskPublisher,
    /// It is no mark: alarm, list, and follow the rest.
    SetAside,
}

/// The furthest id that is followed without asking the publisher again.
///
/// Ids up to the publisher's `last_value`, and up to the `mark` (already followed), are never outliers. Without the
/// publisher's state the mark stands for it; with neither, nothing can be told apart and everything is followed.
#[must_use]
pub fn limit(definition: &Definition, bounds: &Bounds, publisher: Option<State>, mark: Option<i64>) -> i64 {
    let axis = Axis::new(definition, bounds);
    let mark = mark.map(|mark| axis.place(mark));
    let Some(base) = publisher.map(|publisher| axis.place(publisher.last_value)).or(mark) else {
        return axis.value(axis.end);
    };
    let remaining = (axis.end - base).max(0);
    let reach = (remaining / REMAINING_PER_REACH).max(REACH_MIN.min(remaining / REMAINING_PER_REACH_MIN));
    axis.value((base + reach).max(mark.unwrap_or(base)))
}

/// The verdict on `id`. `asked` says that `publisher` was read after the id was seen (or could not be read then).
#[must_use]
pub fn judge(
    definition: &Definition,
    bounds: &Bounds,
    publisher: Option<State>,
    mark: Option<i64>,
    id: i64,
    asked: bool,
) -> Verdict {
    if !definition.is_past(id, limit(definition, bounds, publisher, mark)) {
        Verdict::Follow
    } else if asked {
        Verdict::SetAside
    } else {
        Verdict::AskPublisher
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SERIAL: Definition =
        Definition { start: 1, increment: 1, min: 1, max: i32::MAX as i64, cache: 1, cycle: false };
    const SMALLSERIAL: Definition = Definition { max: i16::MAX as i64, ..SERIAL };

    fn at(last_value: i64) -> Option<State> {
        Some(State { last_value, is_called: true })
    }

    #[test]
    fn a_hand_typed_maximum_is_set_aside_and_near_ids_are_followed() {
        let serial = |id, asked| judge(&SERIAL, &Bounds::INT4, at(100), Some(100), id, asked);
        assert_eq!(serial(2_147_483_647, false), Verdict::AskPublisher);
        assert_eq!(serial(2_147_483_647, true), Verdict::SetAside);
        assert_eq!(serial(5_000, false), Verdict::Follow);

        let small = |last, id| judge(&SMALLSERIAL, &Bounds::INT2, at(last), None, id, true);
        assert_eq!(small(100, 5_000), Verdict::Follow);
        assert_eq!(small(32_000, 32_767), Verdict::SetAside);
        assert_eq!(small(32_000, 32_100), Verdict::Follow);
        assert_eq!(small(32_000, 31_000), Verdict::Follow);
    }

    #[test]
    fn descending_mirrors() {
        let down =
            Definition { start: -1, increment: -1, min: i32::MIN.into(), max: -1, cache: 1, cycle: false };
        let judged = |id| judge(&down, &Bounds::INT4, at(-100), None, id, true);
        assert_eq!(judged(-2_147_483_648), Verdict::SetAside);
        assert_eq!(judged(-5_000), Verdict::Follow);
        assert_eq!(judged(7), Verdict::Follow);
    }

    #[test]
    fn the_mark_stands_for_an_unreadable_publisher() {
        let judged = |mark, id| judge(&SERIAL, &Bounds::INT4, None, mark, id, true);
        assert_eq!(judged(Some(100), 2_147_483_647), Verdict::SetAside);
        assert_eq!(judged(Some(100), 5_000), Verdict::Follow);
        assert_eq!(judged(None, 2_147_483_646), Verdict::Follow);
    }

    #[test]
    fn a_publisher_past_the_subscribers_bounds_is_believed() {
        let judged = |id| judge(&SMALLSERIAL, &Bounds::INT2, at(40_000), None, id, true);
        assert_eq!(judged(40_000), Verdict::Follow);
        assert_eq!(judged(40_001), Verdict::SetAside);
    }

    proptest! {
        #[test]
        fn ids_within_the_publishers_reach_and_the_mark_are_never_outliers(
            increment in any::<i64>().prop_filter("not zero", |i| *i != 0),
            a: i64, b: i64, last: i64, mark: Option<i64>, id: i64,
        ) {
            prop_assume!(a != b);
            let definition =
                Definition { start: a.min(b), increment, min: a.min(b), max: a.max(b), cache: 1, cycle: false };
            let limit = limit(&definition, &Bounds::INT8, at(last), mark);
            prop_assert!(!definition.is_past(last, limit));
            if let Some(mark) = mark {
                prop_assert!(!definition.is_past(mark, limit));
            }
            let verdict = judge(&definition, &Bounds::INT8, at(last), mark, id, true);
            if !definition.is_past(id, last) {
                prop_assert_eq!(verdict, Verdict::Follow);
            }
            // A publisher that is further on never makes an id an outlier that was none.
            let further = at(definition.further(last, id));
            prop_assert_eq!(judge(&definition, &Bounds::INT8, further, mark, id, true), Verdict::Follow);
        }
    }
}
