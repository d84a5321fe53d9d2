//! From mark, state and lead to a decision about one sequence.

use super::axis::{Axis, count};
use super::{Bounds, Decision, Definition, End, Held, LimitedBy, State};

/// Of the values left after the mark, the part that a lead may skip: one in this many (the 1 % rule). It beats the
/// lead asked for and the floor of an automatic one, so that no sequence is used up by its lead.
const REMAINING_PER_LEAD: i128 = 100;

/// What to do with a sequence whose subscriber side is in `state` when `mark` is the furthest id known to be used
/// ("not yet called with v" is given as the id one unit short of v, see [`State::mark`]).
///
/// After an [`Advance`](Decision::Advance)
/// * the next value is strictly past the mark, and past every value the subscriber had handed out before;
/// * `to` is on the lattice through the subscriber's own `last_value`, so interleaved lanes stay apart;
/// * it is `lead_steps` steps past the mark, rounded up to the lattice, or 1 % of the steps left if that is less;
/// * the next value exists and fits every consumer's type.
///
/// Deciding again about the result is [`Enough`](Decision::Enough). Without a mark nothing is promised and nothing
/// moves.
#[must_use]
pub fn decide(
    definition: &Definition,
    bounds: &Bounds,
    state: &State,
    mark: Option<i64>,
    lead_steps: u64,
) -> Decision {
    if definition.cycle {
        return Decision::Held(Held::Cycles);
    }
    let axis = Axis::new(definition, bounds);
    let anchor = axis.place(state.last_value);
    let next = if state.is_called { anchor + axis.step } else { anchor };
    let last_usable = axis.lattice_at_or_before(anchor, axis.end);
    let end = || end_of(definition, bounds, &axis);

    if next > last_usable || last_usable < axis.first {
        // Said of the mark where it is the cause, as it is the mark that an operator can look up.
        let beyond = mark.filter(|mark| axis.place(*mark) > axis.end);
        return Decision::Held(match beyond {
            Some(mark) => Held::MarkOutside { mark, end: end() },
            None => Held::Exhausted { last_value: state.last_value, end: end() },
        });
    }
    let Some(mark_value) = mark else {
        let start = axis.place(definition.start);
        return Decision::Enough { lead_left: count((next - start).div_euclid(axis.step)) };
    };
    if axis.place(mark_value) > axis.end {
        return Decision::Held(Held::MarkOutside { mark: mark_value, end: end() });
    }
    // Values short of the first usable one are of no use to anybody: as good as used.
    let mark = axis.place(mark_value).max(axis.first - 1);
    if mark >= last_usable {
        return Decision::Held(Held::MarkAtEnd { mark: mark_value, end: end() });
    }

    let base = axis.lattice_at_or_after(anchor, mark);
    let lead = i128::from(lead_steps).min((last_usable - base) / axis.step / REMAINING_PER_LEAD);
    let lead_left = (next - axis.step - mark).div_euclid(axis.step).max(0);
    if next > mark && 2 * lead_left >= lead {
        return Decision::Enough { lead_left: count(lead_left) };
    }
    // Between the last two usable values `base` is the last one, and setting the sequence to it would exhaust it.
    let to = (base + lead * axis.step).min(last_usable - axis.step);
    Decision::Advance { to: axis.value(to), steps: count((to - next) / axis.step + 1) }
}

/// For a sequence that cycles: the state to give to the subscriber so that it is the publisher's, or `None` when it is
/// that already.
///
/// # Errors
/// The subscriber's `definition` cannot hold the publisher's state.
pub fn follow_exact(
    definition: &Definition,
    publisher: State,
    subscriber: State,
) -> Result<Option<State>, Held> {
    let &Definition { min, max, .. } = definition;
    if !(min..=max).contains(&publisher.last_value) {
        return Err(Held::StateOutside { last_value: publisher.last_value, min, max });
    }
    Ok((publisher != subscriber).then_some(publisher))
}

fn end_of(definition: &Definition, bounds: &Bounds, axis: &Axis) -> End {
    let descending = definition.descending();
    let (of_sequence, of_column) =
        if descending { (definition.min, bounds.lowest) } else { (definition.max, bounds.highest) };
    let limited_by = match axis.place(of_sequence).cmp(&axis.place(of_column)) {
        std::cmp::Ordering::Less => LimitedBy::Sequence,
        std::cmp::Ordering::Equal => LimitedBy::Both,
        std::cmp::Ordering::Greater => LimitedBy::Column,
    };
    End { value: axis.value(axis.end), limited_by, column_end: of_column, descending }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIGSERIAL: Definition =
        Definition { start: 1, increment: 1, min: 1, max: i64::MAX, cache: 1, cycle: false };
    const SERIAL: Definition = Definition { max: i32::MAX as i64, ..BIGSERIAL };
    const SMALLSERIAL: Definition = Definition { max: i16::MAX as i64, ..BIGSERIAL };
    const FRESH: State = State { last_value: 1, is_called: false };

    fn called(last_value: i64) -> State {
        State { last_value, is_called: true }
    }

    #[test]
    fn a_mark_and_a_lead_make_the_target() {
        let decision = decide(&BIGSERIAL, &Bounds::INT8, &FRESH, Some(1000), 32);
        assert_eq!(decision, Decision::Advance { to: 1032, steps: 1032 });
        let decision = decide(&BIGSERIAL, &Bounds::INT8, &called(1032), Some(1016), 32);
        assert_eq!(decision, Decision::Enough { lead_left: 16 });
        let decision = decide(&BIGSERIAL, &Bounds::INT8, &called(1032), Some(1017), 32);
        assert_eq!(decision, Decision::Advance { to: 1049, steps: 17 });
    }

    #[test]
    fn without_a_lead_the_next_value_is_just_past_the_mark() {
        assert_eq!(
            decide(&BIGSERIAL, &Bounds::INT8, &FRESH, Some(7), 0),
            Decision::Advance { to: 7, steps: 7 }
        );
        assert_eq!(
            decide(&BIGSERIAL, &Bounds::INT8, &called(7), Some(7), 0),
            Decision::Enough { lead_left: 0 }
        );
        assert_eq!(decide(&BIGSERIAL, &Bounds::INT8, &FRESH, Some(0), 0), Decision::Enough { lead_left: 0 });
    }

    #[test]
    fn lanes_keep_their_parity_even_when_start_value_says_otherwise() {
        let two = Definition { increment: 2, ..BIGSERIAL };
        let even = State { last_value: 2, is_called: false };
        assert_eq!(
            decide(&two, &Bounds::INT8, &even, Some(101), 10),
            Decision::Advance { to: 122, steps: 61 }
        );
        assert_eq!(
            decide(&two, &Bounds::INT8, &FRESH, Some(101), 10),
            Decision::Advance { to: 121, steps: 61 }
        );
    }

    #[test]
    fn a_descending_sequence_is_the_mirror_image() {
        let down = Definition { start: -1, increment: -1, min: i64::MIN, max: -1, cache: 1, cycle: false };
        let fresh = State { last_value: -1, is_called: false };
        assert_eq!(
            decide(&down, &Bounds::INT8, &fresh, Some(-1000), 32),
            Decision::Advance { to: -1032, steps: 1032 }
        );
    }

    #[test]
    fn the_lead_shrinks_near_the_end_and_never_uses_up_the_sequence() {
        let near = |mark, lead| decide(&SMALLSERIAL, &Bounds::INT2, &FRESH, Some(mark), lead);
        assert_eq!(near(31_767, 32), Decision::Advance { to: 31_777, steps: 31_777 });
        assert_eq!(near(32_766, 32), Decision::Advance { to: 32_766, steps: 32_766 });
        assert!(matches!(near(32_767, 32), Decision::Held(Held::MarkAtEnd { mark: 32_767, .. })));
        assert!(matches!(near(32_768, 32), Decision::Held(Held::MarkOutside { mark: 32_768, .. })));
    }

    #[test]
    fn the_narrowest_column_counts() {
        let held = decide(&BIGSERIAL, &Bounds::INT4, &FRESH, Some(2_147_483_647), 1);
        let Decision::Held(Held::MarkAtEnd { end, .. }) = held else { panic!("{held:?}") };
        assert_eq!(end.limited_by, LimitedBy::Column);
        let held = decide(&SERIAL, &Bounds::INT4, &called(2_147_483_647), Some(5), 1);
        let Decision::Held(Held::Exhausted { end, .. }) = held else { panic!("{held:?}") };
        assert_eq!(end.limited_by, LimitedBy::Both);
        let held = decide(&SERIAL, &Bounds::INT8, &FRESH, Some(3_000_000_000), 1);
        let Decision::Held(Held::MarkOutside { end, .. }) = held else { panic!("{held:?}") };
        assert_eq!(end.limited_by, LimitedBy::Sequence);
    }

    #[test]
    fn the_far_ends_of_bigint_do_not_overflow() {
        let two =
            Definition { start: i64::MIN, increment: i64::MAX, min: i64::MIN, max: i64::MAX, ..BIGSERIAL };
        let state = State { last_value: i64::MIN, is_called: false };
        // i64::MIN, -1 and i64::MAX - 1 are all it has.
        assert_eq!(
            decide(&two, &Bounds::INT8, &state, Some(-1), u64::MAX),
            Decision::Advance { to: -1, steps: 2 }
        );
        let held = decide(&two, &Bounds::INT8, &state, Some(i64::MAX - 1), 1);
        assert!(matches!(held, Decision::Held(Held::MarkAtEnd { .. })));
        let held = decide(&BIGSERIAL, &Bounds::INT8, &FRESH, Some(i64::MAX), u64::MAX);
        assert!(matches!(held, Decision::Held(Held::MarkAtEnd { .. })));
        let giant =
            Definition { start: i64::MAX, increment: i64::MIN, min: i64::MIN, max: i64::MAX, ..BIGSERIAL };
        let top = State { last_value: i64::MAX, is_called: false };
        assert_eq!(
            decide(&giant, &Bounds::INT8, &top, Some(0), 9),
            Decision::Advance { to: i64::MAX, steps: 1 }
        );
    }

    #[test]
    fn nothing_known_moves_nothing() {
        assert_eq!(decide(&BIGSERIAL, &Bounds::INT8, &FRESH, None, 32), Decision::Enough { lead_left: 0 });
    }

    #[test]
    fn cycling_sequences_are_copied_not_planned() {
        let ring = Definition { max: 10, cycle: true, ..BIGSERIAL };
        assert_eq!(decide(&ring, &Bounds::INT8, &FRESH, Some(3), 1), Decision::Held(Held::Cycles));
        assert_eq!(called(10).next(&ring), Some(1));
        assert_eq!(follow_exact(&ring, called(3), called(9)), Ok(Some(called(3))));
        assert_eq!(follow_exact(&ring, called(3), called(3)), Ok(None));
        let outside = Held::StateOutside { last_value: 11, min: 1, max: 10 };
        assert_eq!(follow_exact(&ring, called(11), called(3)), Err(outside));
    }
}
