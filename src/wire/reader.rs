//! The one checked reader through which every byte of a peer is read.
//!
//! In: a slice. Out: integers in network byte order, C strings and sub-slices, or a [`ReadError`] that says what was
//! expected, where, and what was there. Never: indexing, `as`, an allocation or a panic.

use std::borrow::Cow;
use std::fmt;

/// Why bytes of a peer could not be read. Offsets count from the first byte given to [`Reader::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("expected {expected} at byte {offset}, got only {left} more bytes")]
    Short { expected: &'static str, offset: usize, left: usize },
    #[error("expected a zero byte to end the string at byte {offset}, got {left} bytes without one")]
    Unterminated { offset: usize, left: usize },
    #[error("expected the end of the message at byte {offset}, got {left} more bytes")]
    Trailing { offset: usize, left: usize },
    #[error("expected {expected} at byte {offset}, got {got}")]
    Value { expected: &'static str, offset: usize, got: i64 },
}

/// A cursor over a peer's bytes; a failed read leaves it where it was.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
    total: usize,
}

macro_rules! integer {
    ($(#[$doc:meta] $name:ident -> $type:ty, $expected:literal;)*) => {$(
        #[$doc]
        ///
        /// # Errors
        /// [`ReadError::Short`] when fewer bytes are left.
        #[inline]
        pub fn $name(&mut self) -> Result<$type, ReadError> {
            match self.left.split_first_chunk() {
                Some((bytes, rest)) => {
                    self.left = rest;
                    Ok(<$type>::from_be_bytes(*bytes))
                }
                None => Err(self.short($expected)),
            }
        }
    )*};
}

impl<'a> Reader<'a> {
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { left: bytes, total: bytes.len() }
    }

    /// Bytes read so far.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> usize {
        self.total.saturating_sub(self.left.len())
    }

    /// The bytes not yet read, without reading them.
    #[inline]
    #[must_use]
    pub fn left(&self) -> &'a [u8] {
        self.left
    }

    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    integer! {
        /// One byte.
        u8 -> u8, "one byte";
        /// One signed byte.
        i8 -> i8, "one byte";
        /// Two bytes, unsigned.
        u16 -> u16, "a 16-bit integer";
        /// Two bytes, signed.
        i16 -> i16, "a 16-bit integer";
        /// Four bytes, unsigned: an oid or a transaction id.
        u32 -> u32, "a 32-bit integer";
        /// Four bytes, signed.
        i32 -> i32, "a 32-bit integer";
        /// Eight bytes, unsigned: an LSN.
        u64 -> u64, "a 64-bit integer";
        /// Eight bytes, signed: microseconds since 2000-01-01 UTC.
        i64 -> i64, "a 64-bit integer";
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], ReadError> {
        match self.left.split_at_checked(n) {
            Some((bytes, rest)) => {
                self.left = rest;
                Ok(bytes)
            }
            None => Err(self.short("a value of the announced length")),
        }
    }

    /// A 32-bit length and that many bytes.
    ///
    /// # Errors
    /// [`ReadError::Value`] when the length is negative, [`ReadError::Short`] when the bytes are not there.
    #[inline]
    pub fn counted(&mut self) -> Result<&'a [u8], ReadError> {
        let at = *self;
        let announced = self.i32()?;
        let taken = match usize::try_from(announced) {
            Ok(n) => self.take(n),
            Err(_) => Err(at.value("a length that is not negative", i64::from(announced))),
        };
        if taken.is_err() {
            *self = at;
        }
        taken
    }

    /// Bytes up to the next zero byte, which is read too and not returned.
    ///
    /// # Errors
    /// [`ReadError::Unterminated`] when there is none.
    #[inline]
    pub fn cstr(&mut self) -> Result<Text<'a>, ReadError> {
        let end = self.left.iter().position(|&byte| byte == 0);
        match end.and_then(|end| self.left.split_at_checked(end)) {
            Some((text, [_, rest @ ..])) => {
                self.left = rest;
                Ok(Text(text))
            }
            _ => Err(ReadError::Unterminated { offset: self.offset(), left: self.left.len() }),
        }
    }

    /// All that is left.
    #[inline]
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    /// The message must end here.
    ///
    /// # Errors
    /// [`ReadError::Trailing`] when bytes are left.
    #[inline]
    pub fn finish(self) -> Result<(), ReadError> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(ReadError::Trailing { offset: self.offset(), left: self.left.len() })
        }
    }

    /// The error for a value that was read but may not stand at this place; make it before reading the value.
    #[cold]
    #[must_use]
    pub fn value(&self, expected: &'static str, got: i64) -> ReadError {
        ReadError::Value { expected, offset: self.offset(), got }
    }

    #[cold]
    fn short(&self, expected: &'static str) -> ReadError {
        ReadError::Short { expected, offset: self.offset(), left: self.left.len() }
    }
}

/// A string of a peer: bytes without a zero, in the encoding that the peer chose. Identifiers of a `SQL_ASCII`
/// database, and errors sent before the encoding is agreed, need not be UTF-8, so no decoding step refuses them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text<'a>(pub &'a [u8]);

impl<'a> Text<'a> {
    #[inline]
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// As UTF-8, with U+FFFD for what is not.
    #[must_use]
    pub fn lossy(self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.0)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.lossy())
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.lossy(), f)
    }
}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_big_endian_and_counted() {
        let mut r = Reader::new(&[1, 0xFF, 0, 2, 0xFF, 0xFE, 0, 0, 0, 3, 0xFF, 0xFF, 0xFF, 0xFC]);
        assert_eq!(r.u8(), Ok(1));
        assert_eq!(r.i8(), Ok(-1));
        assert_eq!(r.u16(), Ok(2));
        assert_eq!(r.i16(), Ok(-2));
        assert_eq!(r.u32(), Ok(3));
        assert_eq!(r.i32(), Ok(-4));
        assert_eq!(r.offset(), 14);
        assert_eq!(r.finish(), Ok(()));
        let mut r = Reader::new(&[0, 0, 0, 0, 0, 0, 0, 5, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFA]);
        assert_eq!((r.u64(), r.i64()), (Ok(5), Ok(-6)));
    }

    #[test]
    fn a_failed_read_says_what_and_where_and_does_not_move() {
        let mut r = Reader::new(&[9, 0, 0]);
        r.u8().unwrap();
        assert_eq!(r.u32(), Err(ReadError::Short { expected: "a 32-bit integer", offset: 1, left: 2 }));
        assert_eq!(r.u16(), Ok(0));
        assert_eq!(r.u8(), Err(ReadError::Short { expected: "one byte", offset: 3, left: 0 }));

        let mut r = Reader::new(&[0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(
            r.counted(),
            Err(ReadError::Value { expected: "a length that is not negative", offset: 0, got: -1 })
        );
        assert_eq!(r.i32(), Ok(-1));
        let mut r = Reader::new(&[0, 0, 0, 2, b'x']);
        assert!(matches!(r.counted(), Err(ReadError::Short { offset: 4, left: 1, .. })));
        assert_eq!(r.offset(), 0);
    }

    #[test]
    fn strings_end_at_the_first_zero() {
        let mut r = Reader::new(b"ab\0\0c");
        assert_eq!(r.cstr().unwrap(), "ab");
        assert_eq!(r.cstr().unwrap(), "");
        assert_eq!(r.cstr(), Err(ReadError::Unterminated { offset: 4, left: 1 }));
        assert_eq!(r.finish(), Err(ReadError::Trailing { offset: 4, left: 1 }));
        assert_eq!(r.rest(), b"c");
        assert!(r.is_empty());
        assert_eq!(Text(b"caf\xe9").to_string(), "caf\u{FFFD}");
    }
}
