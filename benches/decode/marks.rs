//! What every contestant must find: the largest id of every tracked column.
//!
//! For the others this is the application on top of a decoder. It is made as cheap as it can be, in their favour:
//! tables are found by a plain index into an array, and a number is read digit by digit without any check but that
//! it is one.

use std::collections::HashMap;

/// The oid from which on tables have a place in [`Marks`].
const FIRST_OID: u32 = 16_384;

/// Which columns of which tables are tracked.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub tables: HashMap<(String, String), Vec<(String, u32)>>,
    slots: usize,
}

impl Wanted {
    pub fn add(&mut self, schema: &str, table: &str, column: &str, slot: u32) {
        let columns = self.tables.entry((schema.to_owned(), table.to_owned())).or_default();
        columns.push((column.to_owned(), slot));
        self.slots = self.slots.max(slot as usize + 1);
    }

    /// How many sequences there are.
    pub fn slots(&self) -> usize {
        self.slots
    }
}

/// A value of a tracked column, as it was sent.
#[derive(Clone, Copy, Debug)]
pub enum Number<'a> {
    Text(&'a [u8]),
    Binary(&'a [u8]),
}

impl Number<'_> {
    #[inline]
    fn read(self) -> Option<i64> {
        match self {
            Number::Text(text) => {
                let (negative, digits) = match text {
                    [b'-', digits @ ..] => (true, digits),
                    digits => (false, digits),
                };
                let mut sum = 0i64;
                for digit in digits {
                    if !digit.is_ascii_digit() {
                        return None;
                    }
                    sum = sum.wrapping_mul(10).wrapping_sub(i64::from(digit - b'0'));
                }
                Some(if negative { sum } else { sum.wrapping_neg() })
            }
            Number::Binary(bytes) => match bytes.len() {
                8 => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
                4 => Some(i64::from(i32::from_be_bytes(bytes.try_into().ok()?))),
                2 => Some(i64::from(i16::from_be_bytes(bytes.try_into().ok()?))),
                _ => None,
            },
        }
    }
}

/// The marks of a contestant.
#[derive(Clone, Debug)]
pub struct Marks {
    wanted: Wanted,
    /// By oid: columns and their slots.
    relations: Vec<Vec<(usize, u32)>>,
    furthest: Vec<i64>,
}

impl Marks {
    pub fn new(wanted: &Wanted) -> Self {
        Marks { wanted: wanted.clone(), relations: Vec::new(), furthest: vec![i64::MIN; wanted.slots] }
    }

    /// The publisher describes a table.
    pub fn describe<'a>(
        &mut self,
        oid: u32,
        schema: &str,
        table: &str,
        columns: impl Iterator<Item = &'a str>,
    ) {
        let wanted = self.wanted.tables.get(&(schema.to_owned(), table.to_owned()));
        let slot = |name: &str| wanted?.iter().find(|(known, _)| known == name).map(|(_, slot)| *slot);
        let targets = columns.enumerate().filter_map(|(at, name)| Some((at, slot(name)?))).collect();
        let index = oid.saturating_sub(FIRST_OID) as usize;
        if self.relations.len() <= index {
            self.relations.resize(index + 1, Vec::new());
        }
        self.relations[index] = targets;
    }

    /// A row was inserted or updated; `value` gives what one of its columns holds, if it is sent and not null.
    #[inline]
    pub fn row<'a>(&mut self, oid: u32, value: impl Fn(usize) -> Option<Number<'a>>) {
        let Some(targets) = self.relations.get(oid.wrapping_sub(FIRST_OID) as usize) else { return };
        for &(column, slot) in targets {
            if let Some(id) = value(column).and_then(Number::read) {
                let mark = &mut self.furthest[slot as usize];
                *mark = id.max(*mark);
            }
        }
    }

    /// What was found in all that was read since the last call.
    pub fn found(&mut self) -> Vec<Option<i64>> {
        let found = self.furthest.iter().map(|&mark| (mark != i64::MIN).then_some(mark)).collect();
        self.furthest.fill(i64::MIN);
        found
    }
}
