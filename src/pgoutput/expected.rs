//! Recognises a row that begins as the last one did, which nearly all do.
//!
//! In: a payload. Out: its id, to the sink, or "not what was expected", and then nothing was handed on: the full path
//! looks at it again. A message's tag, transaction, relation, kind of row and number of columns are its first 8 bytes
//! (12 in a stream); when they equal those of a row that was accepted, and no other kind of message came since, they
//! need no second look, and one comparison takes the place of all checks.

use crate::wire::Reader;

use super::id;
use super::relations::Plan;
use super::sink::Sink;
use super::tuple::Value;
use super::walk::nth;

/// The beginning of an Insert, or Update without an old row, of a relation with one tracked column.
#[derive(Debug)]
pub(crate) struct Expected {
    head: [u8; 8],
    /// In a stream the transaction id pushes four bytes more of the beginning back.
    tail: Option<[u8; 4]>,
    column: u16,
    slot: u32,
}

impl Expected {
    /// What is to be expected after `payload`, of which `r` has read up to the relation; to be used once it was
    /// accepted.
    pub(crate) fn after(payload: &[u8], r: Reader<'_>, plan: &Plan) -> Option<Self> {
        let (&Plan::One { column, slot, .. }, Some(b'N')) = (plan, r.left().first()) else { return None };
        let (head, rest) = payload.split_first_chunk::<8>()?;
        let tail = match r.offset() {
            5 => None,
            9 => Some(*rest.first_chunk::<4>()?),
            _ => return None,
        };
        Some(Expected { head: *head, tail, column, slot })
    }

    /// Hands on the id if the row is as expected and holds one in plain text, or none.
    #[inline]
    pub(crate) fn take<S: Sink>(&self, payload: &[u8], sink: &mut S) -> bool {
        let Some((head, mut row)) = payload.split_first_chunk::<8>() else { return false };
        if *head != self.head {
            return false;
        }
        if let Some(tail) = &self.tail {
            match row.split_first_chunk::<4>() {
                Some((found, rest)) if found == tail => row = rest,
                _ => return false,
            }
        }
        match nth(&mut Reader::new(row), self.column) {
            Ok(Value::Text(text)) => match id::integer(text) {
                Ok(id) => {
                    sink.id(self.slot, id);
                    true
                }
                Err(_) => false,
            },
            Ok(Value::Null | Value::Unchanged) => true,
            Ok(Value::Binary(_)) | Err(_) => false,
        }
    }
}
