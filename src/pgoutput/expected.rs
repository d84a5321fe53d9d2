//! Recognises a row that begins as an earlier one did, which nearly all do.
//!
//! In: a payload. Out: its id, to the sink, or "not what was expected", and then nothing was handed on: the full path
//! looks at it again. A message's tag, transaction, relation, kind of row and number of columns are its first 8 bytes
//! (12 in a stream, where a transaction id is among them); when they equal those of a row that was accepted in the
//! same mode, and no relation was described anew since, they need no second look: one comparison takes the place of
//! all checks.

use crate::wire::Reader;

use super::id;
use super::relations::Plan;
use super::sink::Sink;
use super::tuple::Value;
use super::walk::nth;

/// Beginnings of rows that were accepted lately, outside and inside of streams.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    plain: Beginnings<8>,
    streamed: Beginnings<12>,
}

impl Expected {
    pub(crate) fn clear(&mut self) {
        *self = Expected::default();
    }

    /// Hands on the id if the row is as expected and holds one in plain text, or none.
    #[inline]
    pub(crate) fn take<S: Sink>(&self, payload: &[u8], in_stream: bool, sink: &mut S) -> bool {
        if in_stream { self.streamed.take(payload, sink) } else { self.plain.take(payload, sink) }
    }

    /// Remembers an accepted row, whose first `read` bytes go up to the relation.
    pub(crate) fn remember(&mut self, payload: &[u8], read: usize, in_stream: bool, plan: &Plan) {
        // An old row in between is of any length.
        let (&Plan::One { column, slot, .. }, Some(b'N')) = (plan, payload.get(read)) else { return };
        if in_stream {
            self.streamed.remember(payload, column, slot);
        } else {
            self.plain.remember(payload, column, slot);
        }
    }
}

/// A few beginnings, each at the place that its relation's oid gives it, so that rows of tables which take turns do
/// not push each other out.
#[derive(Debug)]
struct Beginnings<const N: usize>([Beginning<N>; 8]);

/// That of an Insert, or Update without an old row, of a relation with one tracked column.
#[derive(Clone, Copy, Debug)]
struct Beginning<const N: usize> {
    bytes: [u8; N],
    column: u16,
    slot: u32,
}

impl<const N: usize> Default for Beginnings<N> {
    fn default() -> Self {
        // An empty place holds bytes that belong to the next one, so no row found here can equal them.
        let nowhere = Beginning { bytes: [0; N], column: 0, slot: 0 };
        let mut places = [nowhere; 8];
        for (next, place) in [1, 2, 3, 4, 5, 6, 7, 0].into_iter().zip(&mut places) {
            if let [.., oid, _, _, _] = place.bytes.as_mut_slice() {
                *oid = next;
            }
        }
        Beginnings(places)
    }
}

impl<const N: usize> Beginnings<N> {
    /// By the oid's lowest byte, which is followed by the kind of row and the number of columns.
    #[inline]
    fn place(bytes: &[u8; N]) -> usize {
        let [.., oid, _, _, _] = bytes.as_slice() else { return 0 };
        usize::from((oid ^ (oid >> 3)) & 7)
    }

    #[inline]
    fn take<S: Sink>(&self, payload: &[u8], sink: &mut S) -> bool {
        let Some((bytes, row)) = payload.split_first_chunk::<N>() else { return false };
        let Some(expected) = self.0.get(Self::place(bytes)) else { return false };
        if expected.bytes != *bytes {
            return false;
        }
        match nth(&mut Reader::new(row), expected.column) {
            Ok(Value::Text(text)) => match id::integer(text) {
                Ok(id) => {
                    sink.id(expected.slot, id);
                    true
                }
                Err(_) => false,
            },
            Ok(Value::Null | Value::Unchanged) => true,
            Ok(Value::Binary(_)) | Err(_) => false,
        }
    }

    fn remember(&mut self, payload: &[u8], column: u16, slot: u32) {
        if let Some(bytes) = payload.first_chunk::<N>()
            && let Some(place) = self.0.get_mut(Self::place(bytes))
        {
            *place = Beginning { bytes: *bytes, column, slot };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_place_is_never_what_a_row_begins_with() {
        let empty = Beginnings::<8>::default();
        for (at, place) in empty.0.iter().enumerate() {
            assert_ne!(Beginnings::<8>::place(&place.bytes), at);
        }
        let empty = Beginnings::<12>::default();
        for (at, place) in empty.0.iter().enumerate() {
            assert_ne!(Beginnings::<12>::place(&place.bytes), at);
        }
    }
}
