//! Rows as they lie in Insert, Update and Delete.
//!
//! In: a reader at a tuple. Out: a [`Tuple`], checked to its end, over whose [`Value`]s one iterates.

use crate::wire::{ReadError, Reader};

/// One column's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `n`
    Null,
    /// `u`: a TOASTed value that an update did not touch; it is not sent.
    Unchanged,
    /// `t`: as the type's output function writes it.
    Text(&'a [u8]),
    /// `b`: as the type's send function writes it (option `binary`).
    Binary(&'a [u8]),
}

impl<'a> Value<'a> {
    #[inline]
    pub(crate) fn read(r: &mut Reader<'a>) -> Result<Self, ReadError> {
        let at = *r;
        match r.u8()? {
            b't' => r.counted().map(Value::Text),
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            b'b' => r.counted().map(Value::Binary),
            other => Err(at.value("a kind of value 'n', 'u', 't' or 'b'", i64::from(other))),
        }
    }
}

/// A row; all of its values were checked to be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    values: &'a [u8],
}

impl<'a> Tuple<'a> {
    pub(crate) fn read(r: &mut Reader<'a>) -> Result<Self, ReadError> {
        let columns = r.u16()?;
        let values = r.left();
        let before = r.offset();
        for _ in 0..columns {
            Value::read(r)?;
        }
        let walked = r.offset().saturating_sub(before);
        Ok(Tuple { columns, values: values.get(..walked).unwrap_or_default() })
    }

    /// How many columns the row has, unpublished ones not counted.
    #[must_use]
    pub fn columns(&self) -> u16 {
        self.columns
    }

    /// The values in column order.
    #[must_use]
    pub fn values(&self) -> Values<'a> {
        Values { r: Reader::new(self.values) }
    }
}

impl std::fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.values()).finish()
    }
}

/// See [`Tuple::values`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    r: Reader<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        Value::read(&mut self.r).ok() // ends at the end: the tuple was walked before
    }
}
