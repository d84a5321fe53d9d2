//! One column's value → an id.
//!
//! In: the bytes of a value and how ids look there. Out: the exact `i64`, or why it is none. Never: a wrapped,
//! rounded or guessed number.

use crate::wire::{ReadError, Reader};

use super::relation::type_oid;

/// How a column writes its ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdFormat {
    /// The number alone: any integer type, numeric, or text of digits (leading zeros too).
    Integer,
    /// Text with constant bytes around the digits: the default `'ORD-' || nextval(…)` has the prefix `ORD-`.
    Affix { prefix: Box<[u8]>, suffix: Box<[u8]> },
}

/// Why a value is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unreadable {
    #[error("it is not a number")]
    NotANumber,
    #[error("it has a fraction")]
    Fraction,
    #[error("it is past what a sequence can hold")]
    Overflow,
    #[error("the text around the number is another")]
    Affix,
    #[error("it is binary, of a type that cannot be read")]
    BinaryType,
    #[error("it is binary, of a length that its type does not have")]
    BinaryLength,
    #[error("the row is too long to be held and the column lies past the part that is")]
    PastWindow,
}

/// What a binary value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BinaryKind {
    Integer { bytes: u8 },
    Numeric,
    Text,
    Unknown,
}

impl BinaryKind {
    pub(crate) fn of(oid: u32) -> Self {
        match oid {
            type_oid::INT2 => BinaryKind::Integer { bytes: 2 },
            type_oid::INT4 => BinaryKind::Integer { bytes: 4 },
            type_oid::INT8 => BinaryKind::Integer { bytes: 8 },
            type_oid::NUMERIC => BinaryKind::Numeric,
            type_oid::TEXT | type_oid::VARCHAR | type_oid::BPCHAR => BinaryKind::Text,
            _ => BinaryKind::Unknown,
        }
    }
}

/// Reads a value in text format.
#[inline]
pub(crate) fn from_text(text: &[u8], format: &IdFormat) -> Result<i64, Unreadable> {
    match format {
        IdFormat::Integer => integer(text),
        IdFormat::Affix { prefix, suffix } => affixed(text, prefix, suffix),
    }
}

/// Reads a value in binary format.
pub(crate) fn from_binary(bytes: &[u8], kind: BinaryKind, format: &IdFormat) -> Result<i64, Unreadable> {
    match (kind, format) {
        (BinaryKind::Text, _) | (BinaryKind::Unknown, IdFormat::Affix { .. }) => from_text(bytes, format),
        (BinaryKind::Integer { bytes: width }, IdFormat::Integer) if usize::from(width) == bytes.len() => {
            binary_integer(bytes)
        }
        (BinaryKind::Integer { .. }, IdFormat::Integer) => Err(Unreadable::BinaryLength),
        (BinaryKind::Numeric, IdFormat::Integer) => {
            binary_numeric(bytes).unwrap_or(Err(Unreadable::BinaryLength))
        }
        (BinaryKind::Unknown, IdFormat::Integer)
        | (BinaryKind::Integer { .. } | BinaryKind::Numeric, IdFormat::Affix { .. }) => {
            Err(Unreadable::BinaryType)
        }
    }
}

/// `-?[0-9]+`, with what PostgreSQL may add to it: see [`unusual`].
#[inline]
pub(crate) fn integer(text: &[u8]) -> Result<i64, Unreadable> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match magnitude(digits) {
        Some(magnitude) => signed(negative, magnitude),
        None => unusual(negative, digits),
    }
}

/// The value of 1 to 19 digits, which a `u64` can hold whatever they are; `None` for anything else.
#[inline]
fn magnitude(digits: &[u8]) -> Option<u64> {
    match digits.len() {
        4..=8 => up_to_eight(digits),
        9..=16 => {
            let (head, tail) = digits.split_last_chunk::<8>()?;
            Some(one_by_one(head)? * 100_000_000 + eight(u64::from_le_bytes(*tail))?)
        }
        1..=3 | 17..=19 => one_by_one(digits),
        _ => None,
    }
}

#[inline]
fn one_by_one(digits: &[u8]) -> Option<u64> {
    let mut sum = 0u64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum = sum.wrapping_mul(10).wrapping_add(u64::from(digit));
    }
    Some(sum)
}

/// The value of 4 to 8 digits: two loads that overlap, filled up with zeros in front.
#[inline]
fn up_to_eight(digits: &[u8]) -> Option<u64> {
    let first = u64::from(u32::from_le_bytes(*digits.first_chunk::<4>()?));
    let last = u64::from(u32::from_le_bytes(*digits.last_chunk::<4>()?));
    let length = u32::try_from(digits.len()).ok()?;
    let front = 8u32.checked_sub(length)? * 8;
    eight((first << front) | (last << 32) | ZEROS.unbounded_shr(64 - front))
}

/// The value of 1 to 16 digits at the end of bytes which before them have as many as make 8 or 16 of them, of any
/// content: one or two loads, whatever the number of digits. `None` for anything else, a sign among it.
#[inline(always)]
pub(crate) fn ending(bytes: &[u8], digits: usize) -> Option<i64> {
    let (before, last) = bytes.split_last_chunk::<8>()?;
    let magnitude = match digits {
        1..=8 => last_of_eight(*last, digits)?,
        9..=16 => {
            let head = last_of_eight(*before.last_chunk()?, digits.wrapping_sub(8))?;
            head.wrapping_mul(100_000_000).wrapping_add(last_of_eight(*last, 8)?)
        }
        _ => return None,
    };
    i64::try_from(magnitude).ok()
}

/// The value of the last 1 to 8 of eight bytes.
#[inline(always)]
fn last_of_eight(bytes: [u8; 8], digits: usize) -> Option<u64> {
    let others = 8u32.checked_sub(u32::try_from(digits).ok()?)?.wrapping_mul(8);
    // What is not a digit's place counts as a leading zero.
    let values = (u64::from_le_bytes(bytes) ^ ZEROS) & u64::MAX.unbounded_shl(others);
    // More than 9 in any byte shows in its highest bit, there or after adding; a carry comes only from such a byte.
    if (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    Some(joined(values))
}

/// Eight times `'0'`.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The value of eight digits at once, the first of them in the lowest byte.
#[inline]
fn eight(digits: u64) -> Option<u64> {
    const HIGH: u64 = 0xF0F0_F0F0_F0F0_F0F0;
    const SIX: u64 = 0x0606_0606_0606_0606;
    // A byte is a digit when its upper half is 3, and still is after adding 6.
    if (digits & HIGH) | ((digits.wrapping_add(SIX) & HIGH) >> 4) != 0x3333_3333_3333_3333 {
        return None;
    }
    Some(joined(digits & !HIGH))
}

/// Neighbours are joined to pairs, pairs to fours, fours to the whole, each step with one multiplication for all of
/// them.
#[inline(always)]
fn joined(ones: u64) -> u64 {
    let pairs = ones.wrapping_mul(10).wrapping_add(ones >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_FFFF_0000_FFFF;
    fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xFFFF_FFFF
}

#[inline]
fn signed(negative: bool, magnitude: u64) -> Result<i64, Unreadable> {
    let id =
        if negative { 0i64.checked_sub_unsigned(magnitude) } else { 0i64.checked_add_unsigned(magnitude) };
    id.ok_or(Unreadable::Overflow)
}

/// More digits than fit (leading zeros are allowed), a fraction of zeros (numeric with a scale), or the blanks with
/// which `character(n)` is filled up.
#[cold]
fn unusual(negative: bool, text: &[u8]) -> Result<i64, Unreadable> {
    let text = text.trim_ascii_end();
    let (digits, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(point) => text.split_at_checked(point).unwrap_or((text, b"")),
        None => (text, &b""[..]),
    };
    let fraction = fraction.strip_prefix(b".").unwrap_or_default();
    if digits.is_empty() || !digits.iter().chain(fraction).all(u8::is_ascii_digit) {
        return Err(Unreadable::NotANumber);
    }
    if fraction.iter().any(|&byte| byte != b'0') {
        return Err(Unreadable::Fraction);
    }
    let magnitude = digits
        .iter()
        .try_fold(0u64, |sum, &byte| sum.checked_mul(10)?.checked_add(u64::from(byte.wrapping_sub(b'0'))));
    signed(negative, magnitude.ok_or(Unreadable::Overflow)?)
}

fn affixed(text: &[u8], prefix: &[u8], suffix: &[u8]) -> Result<i64, Unreadable> {
    let after = text.strip_prefix(prefix).ok_or(Unreadable::Affix)?;
    // `character(n)` fills up with blanks, which are not part of the value.
    let number = after
        .strip_suffix(suffix)
        .or_else(|| after.trim_ascii_end().strip_suffix(suffix.trim_ascii_end()))
        .ok_or(Unreadable::Affix)?;
    match integer(number) {
        Err(Unreadable::Fraction) => Err(Unreadable::NotANumber),
        other => other,
    }
}

fn binary_integer(bytes: &[u8]) -> Result<i64, Unreadable> {
    let mut r = Reader::new(bytes);
    let read = match bytes.len() {
        2 => r.i16().map(i64::from),
        4 => r.i32().map(i64::from),
        _ => r.i64(),
    };
    read.map_err(|_| Unreadable::BinaryLength)
}

/// Base-10000 digits with a weight: `numeric_send` of `src/backend/utils/adt/numeric.c`.
fn binary_numeric(bytes: &[u8]) -> Result<Result<i64, Unreadable>, ReadError> {
    let mut r = Reader::new(bytes);
    let (count, weight, sign, _scale) = (r.u16()?, r.i16()?, r.u16()?, r.u16()?);
    let negative = match sign {
        0 => false,
        0x4000 => true,
        _ => return Ok(Err(Unreadable::NotANumber)), // NaN and the infinities
    };
    let mut place = i32::from(weight); // of the next digit: its value is digit × 10000^place
    let mut magnitude = 0u64;
    let mut overflow = false;
    let mut fraction = false;
    for _ in 0..count {
        let digit = u64::from(r.u16()?);
        if digit > 9999 {
            return Ok(Err(Unreadable::NotANumber));
        }
        if place < 0 {
            fraction |= digit != 0;
        } else {
            match magnitude.checked_mul(10_000).and_then(|m| m.checked_add(digit)) {
                Some(next) => magnitude = next,
                None => overflow = true,
            }
        }
        place = place.saturating_sub(1);
    }
    r.finish()?;
    // Trailing zero digits are not sent: places from here down to 0 are zero.
    if magnitude != 0 {
        for _ in 0..=place {
            match magnitude.checked_mul(10_000) {
                Some(next) => magnitude = next,
                None => {
                    overflow = true;
                    break;
                }
            }
        }
    }
    Ok(match (overflow, fraction) {
        (true, _) => Err(Unreadable::Overflow),
        (_, true) => Err(Unreadable::Fraction),
        _ => signed(negative, magnitude),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_exact_to_the_last_id() {
        for id in [0, 1, -1, 9, 10, 99_999_999, 100_000_000, i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1] {
            assert_eq!(integer(id.to_string().as_bytes()), Ok(id));
            assert_eq!(integer(format!("{id}.000").as_bytes()), Ok(id));
            assert_eq!(integer(format!("{id}   ").as_bytes()), Ok(id));
        }
        assert_eq!(integer(b"00000000000000000000000000000000042"), Ok(42));
        assert_eq!(integer(b"0009223372036854775807"), Ok(i64::MAX));
        assert_eq!(integer(b"-0"), Ok(0));
    }

    #[test]
    fn digits_taken_together_are_the_same_as_one_by_one() {
        for length in 1..=19 {
            for seed in 0..200u64 {
                let digits: Vec<u8> = (0..length)
                    .map(|at| b'0' + u8::try_from((seed * 7919 + at * 104_729 + seed * at) % 10).unwrap())
                    .collect();
                assert_eq!(magnitude(&digits), one_by_one(&digits));
                let id = one_by_one(&digits).filter(|_| length <= 16);
                let id = id.map(|id| i64::try_from(id).unwrap());
                for before in [[0xFF; 16], [b'9'; 16], [0; 16], *b"t\0\0\0\x05-12t\0\0\0\x05---"] {
                    assert_eq!(ending(&[&before, &digits[..]].concat(), digits.len()), id);
                }
            }
            for at in 0..length {
                for byte in [0, b'/', b':', b'-', b' ', b'.', b'p', 0xB5, 0xFF] {
                    let mut digits = vec![b'5'; usize::try_from(length).unwrap()];
                    digits[usize::try_from(at).unwrap()] = byte;
                    assert_eq!(magnitude(&digits), None, "{digits:?}");
                    assert_eq!(
                        ending(&[&[b'1'; 16], &digits[..]].concat(), digits.len()),
                        None,
                        "{digits:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_no_id_is_said_to_be_none() {
        for (text, why) in [
            ("9223372036854775808", Unreadable::Overflow),
            ("-9223372036854775809", Unreadable::Overflow),
            ("9999999999999999999", Unreadable::Overflow),
            ("99999999999999999999999", Unreadable::Overflow),
            ("", Unreadable::NotANumber),
            ("-", Unreadable::NotANumber),
            ("--1", Unreadable::NotANumber),
            ("+1", Unreadable::NotANumber),
            (" 1", Unreadable::NotANumber),
            ("1 2", Unreadable::NotANumber),
            ("NaN", Unreadable::NotANumber),
            ("-Infinity", Unreadable::NotANumber),
            (".5", Unreadable::NotANumber),
            ("1.2.3", Unreadable::NotANumber),
            ("1.50", Unreadable::Fraction),
            ("12a4567890", Unreadable::NotANumber),
        ] {
            assert_eq!(integer(text.as_bytes()), Err(why), "{text:?}");
        }
    }

    #[test]
    fn affixes_must_be_there() {
        let format = IdFormat::Affix { prefix: b"ORD-".as_slice().into(), suffix: b"/x".as_slice().into() };
        let read = |text: &str| from_text(text.as_bytes(), &format);
        assert_eq!(read("ORD-000123/x"), Ok(123));
        assert_eq!(read("ORD-7/x   "), Ok(7));
        assert_eq!(read("ORD--7/x"), Ok(-7));
        assert_eq!(read("ORD-/x"), Err(Unreadable::NotANumber));
        let bare = IdFormat::Affix { prefix: b"A".as_slice().into(), suffix: b"".as_slice().into() };
        assert_eq!(from_text(b"A-60", &bare), Ok(-60), "of a descending sequence");
        assert_eq!(read("ord-7/x"), Err(Unreadable::Affix));
        assert_eq!(read("ORD-7"), Err(Unreadable::Affix));
        assert_eq!(read("ORD-1.0/x"), Ok(1));
        assert_eq!(read("ORD-1.5/x"), Err(Unreadable::NotANumber));
        assert_eq!(from_binary(b"ORD-9/x", BinaryKind::Unknown, &format), Ok(9));
        assert_eq!(from_binary(&[0, 0, 0, 1], BinaryKind::of(23), &format), Err(Unreadable::BinaryType));
    }

    fn numeric(weight: i16, sign: u16, digits: &[u16]) -> Vec<u8> {
        let mut bytes = u16::try_from(digits.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&weight.to_be_bytes());
        bytes.extend_from_slice(&sign.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        digits.iter().for_each(|digit| bytes.extend_from_slice(&digit.to_be_bytes()));
        bytes
    }

    #[test]
    fn binary_values_are_read_by_their_type() {
        let read = |bytes: &[u8], oid| from_binary(bytes, BinaryKind::of(oid), &IdFormat::Integer);
        assert_eq!(read(&i16::MIN.to_be_bytes(), type_oid::INT2), Ok(i64::from(i16::MIN)));
        assert_eq!(read(&i32::MIN.to_be_bytes(), type_oid::INT4), Ok(i64::from(i32::MIN)));
        assert_eq!(read(&i64::MIN.to_be_bytes(), type_oid::INT8), Ok(i64::MIN));
        assert_eq!(read(&[0, 0, 0, 1], type_oid::INT8), Err(Unreadable::BinaryLength));
        assert_eq!(read(b"12345678", type_oid::TEXT), Ok(12_345_678));
        assert_eq!(read(&[0; 8], 70_000), Err(Unreadable::BinaryType));

        let read = |bytes: &[u8]| read(bytes, type_oid::NUMERIC);
        assert_eq!(read(&numeric(0, 0, &[])), Ok(0));
        assert_eq!(read(&numeric(1, 0, &[12, 3456])), Ok(123_456));
        assert_eq!(read(&numeric(2, 0x4000, &[1])), Ok(-100_000_000));
        assert_eq!(read(&numeric(4, 0, &[922, 3372, 368, 5477, 5807])), Ok(i64::MAX));
        assert_eq!(read(&numeric(4, 0x4000, &[922, 3372, 368, 5477, 5808])), Ok(i64::MIN));
        assert_eq!(read(&numeric(4, 0, &[922, 3372, 368, 5477, 5808])), Err(Unreadable::Overflow));
        assert_eq!(read(&numeric(i16::MAX, 0, &[1])), Err(Unreadable::Overflow));
        assert_eq!(read(&numeric(0, 0, &[5, 0])), Ok(5));
        assert_eq!(read(&numeric(0, 0, &[5, 5000])), Err(Unreadable::Fraction));
        assert_eq!(read(&numeric(-1, 0, &[5000])), Err(Unreadable::Fraction));
        assert_eq!(read(&numeric(0, 0xC000, &[])), Err(Unreadable::NotANumber));
        assert_eq!(read(&numeric(0, 0, &[10_000])), Err(Unreadable::NotANumber));
        assert_eq!(read(&numeric(0, 0, &[1])[..9]), Err(Unreadable::BinaryLength));
    }
}
