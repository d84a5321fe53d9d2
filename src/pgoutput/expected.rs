//! Recognises a row that begins as an earlier one did, which nearly all do.
//!
//! In: a payload. Out: its id, to the sink, or "not what was expected", and then nothing was handed on: the full path
//! looks at it again. A message's tag, relation, kind of row and number of columns are 8 bytes (in a stream a
//! transaction id lies between them, which says nothing); when they equal those of a row that was accepted, and its
//! relation was not described anew since, they need no second look: one comparison takes the place of all checks.

use super::id::{self, BinaryKind, IdFormat};
use super::relations::Plan;
use super::sink::Sink;

/// Beginnings of rows that were accepted, each at the place that its tag and its relation's oid give it. They grow
/// with the number of relations, so that rows of tables which take turns do not push each other out.
#[derive(Debug)]
pub(crate) struct Expected {
    /// Two to the power of `bits` in number.
    places: Vec<Beginning>,
    bits: u32,
}

/// That of an Insert, or Update without an old row, of a relation with one tracked column; or of any row of a relation
/// with none.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    key: u64,
    slot: u32,
    /// [`NONE`] for a relation without a tracked column.
    column: u16,
    kind: BinaryKind,
}

/// No row has so many columns that one of them were at this position.
const NONE: u16 = u16::MAX;

/// To begin with; 16 bytes each.
const PLACES: usize = 32;

/// 4 MiB, for some 65,000 tables; beyond, some share a place.
const PLACES_MAX: usize = 1 << 18;

/// What an empty place holds: bytes that belong to another one, so that no row which is looked for here equals them.
/// No row has tag 0 and oid 0; if one were sent all the same, it would be looked for at place 0.
const EMPTY: Beginning = Beginning { key: 0, slot: 0, column: NONE, kind: BinaryKind::Unknown };
const EMPTY_FIRST: Beginning = Beginning { key: 1 << KEY_OID_SHIFT, ..EMPTY };

/// In a key lie, from the highest byte on: tag, oid, kind of row, number of columns.
const KEY_OID_SHIFT: u32 = 24;

impl Default for Expected {
    fn default() -> Self {
        Expected::with_places(PLACES)
    }
}

impl Expected {
    fn with_places(count: usize) -> Self {
        let mut places = vec![EMPTY; count];
        if let Some(first) = places.first_mut() {
            *first = EMPTY_FIRST;
        }
        Expected { places, bits: count.trailing_zeros() }
    }

    /// Forgets all, and keeps the room.
    pub(crate) fn clear(&mut self) {
        *self = Expected::with_places(self.places.len());
    }

    /// Forgets a relation, and makes room for so many.
    pub(crate) fn described(&mut self, oid: u32, relations: usize) {
        let wanted = relations.saturating_mul(4).next_power_of_two().min(PLACES_MAX);
        if wanted > self.places.len() {
            *self = Expected::with_places(wanted);
            return;
        }
        let [a, b, c, d] = oid.to_be_bytes();
        for tag in [b'I', b'U'] {
            let key = u64::from_be_bytes([tag, a, b, c, d, 0, 0, 0]);
            let index = self.index(key);
            if let Some(place) = self.places.get_mut(index)
                && place.key >> KEY_OID_SHIFT == key >> KEY_OID_SHIFT
            {
                *place = if index == 0 { EMPTY_FIRST } else { EMPTY };
            }
        }
    }

    /// By the oid's lowest bits, because oids of tables are close together or at about the same distance; what is above
    /// them is added, so that those of the next round fall into the gaps. 37 did best of those tried, for distances
    /// up to 30. Updates lie apart from inserts.
    #[inline]
    fn index(&self, key: u64) -> usize {
        let (tag, oid) = (key >> 56, (key >> KEY_OID_SHIFT) & 0xFFFF_FFFF);
        let above = oid.wrapping_shr(self.bits).wrapping_mul(37);
        let apart = tag.wrapping_shl(self.bits.wrapping_sub(5));
        let place = oid.wrapping_add(above).wrapping_add(apart);
        usize::try_from(place).unwrap_or(0) & self.places.len().wrapping_sub(1)
    }

    /// Hands on the id if the row is as expected and holds a plain one, or none.
    ///
    /// Always inlined, with what is rare behind calls: nearly all messages of a stream go through here.
    #[inline(always)]
    pub(crate) fn take<S: Sink>(&self, payload: &[u8], in_stream: bool, sink: &mut S) -> bool {
        let Some((key, mut at)) = beginning(payload, in_stream) else { return false };
        let Some(expected) = self.places.get(self.index(key)) else { return false };
        if expected.key != key {
            return false;
        }
        if expected.column != 0 {
            if expected.column == NONE {
                return true;
            }
            let Some(there) = skip(payload, at, expected.column) else { return false };
            at = there;
        }
        let id = match text(payload, at) {
            Some(id) => id,
            None => match other(payload, at, expected) {
                Some(Found::Id(id)) => id,
                Some(Found::None) => return true,
                None => return false,
            },
        };
        sink.id(expected.slot, id);
        true
    }

    /// Remembers an accepted row.
    pub(crate) fn remember(&mut self, payload: &[u8], in_stream: bool, plan: &Plan) {
        let Some((key, _)) = beginning(payload, in_stream) else { return };
        let [.., row, _, _] = key.to_be_bytes();
        let new = match *plan {
            // An old row in between is of any length.
            Plan::One { column, slot, kind } if row == b'N' => Beginning { key, slot, column, kind },
            Plan::Skip => Beginning { key, ..EMPTY },
            Plan::One { .. } | Plan::Many(_) => return,
        };
        let index = self.index(key);
        if let Some(place) = self.places.get_mut(index) {
            *place = new;
        }
    }
}

/// What a row begins with, and where its first value begins.
#[inline]
fn beginning(payload: &[u8], in_stream: bool) -> Option<(u64, usize)> {
    if in_stream {
        let &[tag, x0, x1, x2, x3, a, b, c, d, row, m, n] = payload.first_chunk::<12>()?;
        // No transaction has id 0: what is wrong there is for the full path to say.
        (u32::from_be_bytes([x0, x1, x2, x3]) != 0)
            .then_some((u64::from_be_bytes([tag, a, b, c, d, row, m, n]), 12))
    } else {
        Some((u64::from_be_bytes(*payload.first_chunk::<8>()?), 8))
    }
}

/// What the tracked column of a row holds.
enum Found {
    Id(i64),
    /// It is null, or was not touched by an update.
    None,
}

/// Where the value of a column begins in a row whose first one begins at `at`.
fn skip(payload: &[u8], mut at: usize, columns: u16) -> Option<usize> {
    for _ in 0..columns {
        at = match payload.get(at..)?.split_first_chunk::<5>() {
            Some((&[b't' | b'b', a, b, c, d], _)) => after(at, [a, b, c, d])?,
            _ => match payload.get(at)? {
                b'n' | b'u' => at.checked_add(1)?,
                _ => return None,
            },
        };
    }
    Some(at)
}

/// The id in the value at `at`, if it is text of up to 16 digits.
#[inline(always)]
fn text(payload: &[u8], at: usize) -> Option<i64> {
    let (&[tag, a, b, c, d], _) = payload.get(at..)?.split_first_chunk::<5>()?;
    if tag != b't' {
        return None;
    }
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    id::ending(payload.get(..after(at, [a, b, c, d])?)?, length)
}

/// What else the value at `at` may be; `None` if it is none that can be read in a glance.
#[inline(never)]
fn other(payload: &[u8], at: usize, expected: &Beginning) -> Option<Found> {
    let Some((&[tag, a, b, c, d], value)) = payload.get(at..)?.split_first_chunk::<5>() else {
        return matches!(payload.get(at)?, b'n' | b'u').then_some(Found::None);
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    match tag {
        b't' => id::integer(value.get(..length)?).ok().map(Found::Id),
        b'b' => id::from_binary(value.get(..length)?, expected.kind, &IdFormat::Integer).ok().map(Found::Id),
        b'n' | b'u' => Some(Found::None),
        _ => None,
    }
}

/// Where a value ends that begins at `at` and announces this length.
#[inline]
fn after(at: usize, length: [u8; 4]) -> Option<usize> {
    at.checked_add(5)?.checked_add(usize::try_from(u32::from_be_bytes(length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_place_is_never_what_a_row_begins_with() {
        for count in [PLACES, 1 << 10, PLACES_MAX] {
            let expected = Expected::with_places(count);
            for (at, place) in expected.places.iter().enumerate() {
                assert_ne!(expected.index(place.key), at, "{count} places");
            }
        }
    }

    #[test]
    fn tables_that_take_turns_do_not_push_each_other_out() {
        let mut expected = Expected::default();
        let row = |oid: u32| [&b"I"[..], &oid.to_be_bytes(), b"N\0\x01", b"t\0\0\0\x011"].concat();
        let plan = Plan::One { column: 0, slot: 0, kind: BinaryKind::Unknown };
        for step in 1..=10 {
            expected.clear();
            let oids = || (0..10_000).map(|n| 16_384 + n * step);
            for (known, oid) in (1..).zip(oids()) {
                expected.described(oid, known);
            }
            oids().for_each(|oid| expected.remember(&row(oid), false, &plan));
            let held =
                |oid: &u32| expected.places[expected.index(key_of(&row(*oid)))].key == key_of(&row(*oid));
            let held = oids().filter(held).count();
            assert!(held >= 9_000, "{held} of tables whose oids are {step} apart");
        }
    }

    fn key_of(payload: &[u8]) -> u64 {
        beginning(payload, false).unwrap().0
    }

    #[test]
    fn a_relation_that_is_described_anew_is_forgotten_and_others_are_not() {
        let mut expected = Expected::default();
        let row = |tag: u8, oid: u32| [&[tag], &oid.to_be_bytes()[..], b"N\0\x01"].concat();
        let rows = [row(b'I', 1), row(b'U', 1), row(b'I', 2)];
        rows.iter().for_each(|row| expected.remember(row, false, &Plan::Skip));
        expected.described(1, 2);
        let held = |row: &[u8]| expected.places[expected.index(key_of(row))].key == key_of(row);
        assert_eq!(rows.each_ref().map(|row| held(row)), [false, false, true]);
    }
}
