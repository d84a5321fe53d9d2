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
    fn a_hand_typed_maximum_is_too_far_and_near_ids_are_not() {
        let serial = limit(&SERIAL, &Bounds::INT4, at(100), Some(100));
        assert!((5_000..2_147_483_647).contains(&serial));
        let small = |last| limit(&SMALLSERIAL, &Bounds::INT2, at(last), None);
        assert!(small(100) >= 5_000);
        assert!((32_100..32_767).contains(&small(32_000)));
    }

    #[test]
    fn descending_mirrors() {
        let down =
            Definition { start: -1, increment: -1, min: i32::MIN.into(), max: -1, cache: 1, cycle: false };
        let limit = limit(&down, &Bounds::INT4, at(-100), None);
        assert!(limit > -2_147_483_648 && limit <= -5_000);
    }

    #[test]
    fn the_mark_stands_for_an_unreadable_publisher() {
        let limit = |mark| limit(&SERIAL, &Bounds::INT4, None, mark);
        assert!((5_000..2_147_483_647).contains(&limit(Some(100))));
        assert_eq!(limit(None), 2_147_483_647);
    }

    #[test]
    fn a_publisher_past_the_subscribers_bounds_is_believed() {
        assert_eq!(limit(&SMALLSERIAL, &Bounds::INT2, at(40_000), None), 40_000);
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
            let reach = limit(&definition, &Bounds::INT8, at(last), mark);
            prop_assert!(!definition.is_past(last, reach));
            if let Some(mark) = mark {
                prop_assert!(!definition.is_past(mark, reach));
            }
            // A publisher that is further on never makes an id an outlier that was none.
            let further = at(definition.further(last, id));
            prop_assert!(!definition.is_past(id, limit(&definition, &Bounds::INT8, further, mark)));
        }
    }
}
