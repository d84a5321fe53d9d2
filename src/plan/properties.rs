//! Promises 1 and 8, tried to break: from any state, towards any mark, `decide` never goes back, always passes the
//! mark, keeps the lane, leaves a usable next value, and is content with its own result.

use proptest::prelude::*;

use super::*;

/// Numbers where sums overflow and signs change, more often than chance would bring them.
fn edgy() -> impl Strategy<Value = i64> {
    prop_oneof![
        3 => any::<i64>(),
        3 => -300..300_i64,
        1 => (0..300_i64).prop_map(|d| i64::MAX - d),
        1 => (0..300_i64).prop_map(|d| i64::MIN + d),
        1 => (-300..300_i64).prop_map(|d| i64::from(i32::MAX) + d),
        1 => (-300..300_i64).prop_map(|d| i64::from(i16::MIN) + d),
    ]
}

fn increment() -> impl Strategy<Value = i64> {
    prop_oneof![Just(1_i64), Just(-1), -70..70_i64, edgy()].prop_filter("not zero", |i| *i != 0)
}

fn bounds() -> impl Strategy<Value = Bounds> {
    prop_oneof![Just(Bounds::INT2), Just(Bounds::INT4), Just(Bounds::INT8)]
}

fn case() -> impl Strategy<Value = (Definition, State)> {
    (edgy(), edgy(), edgy(), edgy(), increment(), any::<bool>()).prop_filter_map(
        "an empty range",
        |(a, b, start, last, increment, is_called)| {
            let (min, max) = (a.min(b), a.max(b));
            let definition = Definition::new(start.clamp(min, max), increment, min, max, 1, false).ok()?;
            Some((definition, State { last_value: last.clamp(min, max), is_called }))
        },
    )
}

fn lead() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0_u64), Just(32), 0..5000_u64, any::<u64>()]
}

/// The range of a model small enough to count through.
const SMALL: i64 = 400;

/// What `decide` promises, by counting through the lane: where to set the sequence, if it has to move, or `Err` if it
/// has to be held.
fn by_counting(d: &Definition, b: &Bounds, state: &State, mark: i64, lead: u64) -> Result<Option<i64>, ()> {
    let past = |v: i64, w: i64| d.is_past(v, w);
    let lowest = d.min.max(b.lowest);
    let highest = d.max.min(b.highest);
    let (first, end) = if d.descending() { (highest, lowest) } else { (lowest, highest) };
    let one_short_of_first = if d.descending() { first + 1 } else { first - 1 };
    let mut lane: Vec<i64> = (-20 * SMALL..20 * SMALL)
        .map(|k| state.last_value + k * d.increment)
        .filter(|v| v.abs() < 10 * SMALL)
        .collect();
    let next = if state.is_called { state.last_value + d.increment } else { state.last_value };
    lane.retain(|v| !past(*v, end));
    let last = *lane.last().ok_or(())?;

    let used = d.further(mark, one_short_of_first);
    if past(first, last) || past(next, last) || past(mark, end) || !past(last, used) {
        return Err(());
    }
    let base = *lane.iter().find(|v| !past(used, **v)).ok_or(())?;
    let values_left = lane.iter().filter(|v| past(**v, base)).count() as u64;
    let lead = lead.min(values_left / 100);

    let mut lead_left = 0;
    while !past(used + (lead_left + 1) * d.increment, next - d.increment) {
        lead_left += 1;
    }
    if past(next, mark) && past(next, used) && 2 * lead_left >= i64::try_from(lead).map_err(|_| ())? {
        return Ok(None);
    }
    let mut to = base;
    for _ in 0..lead {
        to += d.increment;
    }
    Ok(Some(if to == last { to - d.increment } else { to }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn an_advance_keeps_every_promise(
        (definition, state) in case(), bounds in bounds(), mark in edgy(), lead in lead(),
    ) {
        let decision = decide(&definition, &bounds, &state, Some(mark), lead);
        let Decision::Advance { to, steps } = decision else { return Ok(()) };
        let after = State { last_value: to, is_called: true };
        let next = after.next(&definition);
        prop_assert!(next.is_some(), "exhausted by {decision:?}");
        let next = next.unwrap();
        let before = state.next(&definition).unwrap();

        prop_assert!(definition.is_past(next, before), "went back: {decision:?}");
        prop_assert!(definition.is_past(next, mark), "not past the mark: {decision:?}");
        let step = i128::from(definition.increment);
        prop_assert_eq!((i128::from(to) - i128::from(state.last_value)) % step, 0, "left its lane");
        prop_assert!((definition.min..=definition.max).contains(&to));
        prop_assert!((bounds.lowest..=bounds.highest).contains(&next), "a value no column can hold");
        prop_assert_eq!(i128::from(steps), (i128::from(next) - i128::from(before)) / step);

        let end = if definition.descending() {
            definition.min.max(bounds.lowest)
        } else {
            definition.max.min(bounds.highest)
        };
        let first = if definition.descending() {
            i128::from(definition.max.min(bounds.highest)) + 1
        } else {
            i128::from(definition.min.max(bounds.lowest)) - 1
        };
        let from = if definition.descending() { i128::from(mark).min(first) } else { i128::from(mark).max(first) };
        // Whole steps: `to` may lie a part of one further, on its lane.
        let past_mark = ((i128::from(to) - from) * step.signum()).div_euclid(step.abs());
        let remaining = (i128::from(end) - from) / step;
        prop_assert!(past_mark <= 0 || past_mark * 100 <= remaining, "{past_mark} of {remaining} steps");
        prop_assert!(past_mark <= i128::from(lead));

        let again = decide(&definition, &bounds, &after, Some(mark), lead);
        prop_assert!(matches!(again, Decision::Enough { .. }), "{decision:?}, then {again:?}");
    }

    #[test]
    fn enough_and_held_are_true(
        (definition, state) in case(), bounds in bounds(), mark in edgy(), lead in lead(),
    ) {
        match decide(&definition, &bounds, &state, Some(mark), lead) {
            Decision::Advance { .. } => {}
            Decision::Enough { .. } => {
                let next = state.next(&definition).unwrap();
                prop_assert!(definition.is_past(next, mark));
                prop_assert!((bounds.lowest..=bounds.highest).contains(&next));
            }
            Decision::Held(_) => {
                // What is used, or of no use, is less than a step from the end: no value on the lane is left.
                let sign = i128::from(definition.increment.signum());
                let (one_short, end) = if definition.descending() {
                    (definition.max.min(bounds.highest), definition.min.max(bounds.lowest))
                } else {
                    (definition.min.max(bounds.lowest), definition.max.min(bounds.highest))
                };
                let used = match state.next(&definition) {
                    None => state.last_value,
                    Some(next) if definition.is_past(next, end) => next,
                    Some(_) => mark,
                };
                let used = (i128::from(used) * sign).max(i128::from(one_short) * sign - 1);
                let gap = i128::from(end) * sign - used;
                prop_assert!(gap < i128::from(definition.increment.unsigned_abs()));
            }
        }
    }

    #[test]
    fn targets_grow_with_the_mark(
        (definition, state) in case(), bounds in bounds(), a in edgy(), b in edgy(), lead in lead(),
    ) {
        let far = definition.further(a, b);
        let near = if far == a { b } else { a };
        let to = |mark| match decide(&definition, &bounds, &state, Some(mark), lead) {
            Decision::Advance { to, .. } => Some(to),
            _ => None,
        };
        if let (Some(to_near), Some(to_far)) = (to(near), to(far)) {
            prop_assert!(!definition.is_past(to_near, to_far), "{to_near} for {near}, {to_far} for {far}");
        }
    }

    #[test]
    fn a_longer_lead_never_makes_a_nearer_target(
        (definition, state) in case(), bounds in bounds(), mark in edgy(), a in lead(), b in lead(),
    ) {
        let to = |lead| match decide(&definition, &bounds, &state, Some(mark), lead) {
            Decision::Advance { to, .. } => Some(to),
            _ => None,
        };
        if let (Some(short), Some(long)) = (to(a.min(b)), to(a.max(b))) {
            prop_assert!(!definition.is_past(short, long));
        }
    }

    #[test]
    fn counting_gives_the_same_answer(
        increment in prop_oneof![Just(1_i64), Just(-1), -9..9_i64].prop_filter("not zero", |i| *i != 0),
        (min, width) in (-SMALL..SMALL, 1..2 * SMALL), last in 0..2 * SMALL, is_called: bool,
        (lowest, highest) in (-2 * SMALL..SMALL, -SMALL..2 * SMALL),
        mark in -3 * SMALL..3 * SMALL, lead in 0..12_u64,
    ) {
        let max = min + width;
        let definition = Definition::new(min, increment, min, max, 1, false).unwrap();
        let state = State { last_value: min + last % (width + 1), is_called };
        let bounds = Bounds { lowest: lowest.min(highest), highest: lowest.max(highest) };
        let decision = decide(&definition, &bounds, &state, Some(mark), lead);
        match by_counting(&definition, &bounds, &state, mark, lead) {
            Err(()) => prop_assert!(matches!(decision, Decision::Held(_)), "{decision:?}"),
            Ok(None) => prop_assert!(matches!(decision, Decision::Enough { .. }), "{decision:?}"),
            Ok(Some(expected)) => {
                prop_assert!(matches!(decision, Decision::Advance { to, .. } if to == expected),
                    "expected {expected}, got {decision:?}");
            }
        }
    }

    #[test]
    fn following_a_cycle_ends_where_the_publisher_is(
        (definition, publisher) in case(), last in edgy(), is_called: bool,
    ) {
        let ring = Definition { cycle: true, ..definition };
        let subscriber = State { last_value: last.clamp(ring.min, ring.max), is_called };
        let after = follow_exact(&ring, publisher, subscriber).unwrap().unwrap_or(subscriber);
        prop_assert_eq!(after, publisher);
        prop_assert_eq!(follow_exact(&ring, publisher, after), Ok(None));
        prop_assert!(after.next(&ring).is_some());
    }

    #[test]
    fn the_next_value_is_what_postgresql_would_return((definition, state) in case()) {
        let raw = i128::from(state.last_value) + if state.is_called { i128::from(definition.increment) } else { 0 };
        let fits = (i128::from(definition.min)..=i128::from(definition.max)).contains(&raw);
        prop_assert_eq!(state.next(&definition).map(i128::from), fits.then_some(raw));
    }
}
