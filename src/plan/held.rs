//! Why a sequence is not moved, in words, and the SQL that mends it.

use std::fmt;

use crate::types::{QualifiedName, quote_identifier};

/// A sequence that cannot be put past its mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// It cycles: no id is the furthest. [`follow_exact`](super::follow_exact) is for these.
    Cycles,
    /// It cycles, and the publisher's stands where the subscriber's cannot.
    StateOutside { last_value: i64, min: i64, max: i64 },
    /// The mark is an id that the subscriber can neither store nor hand out.
    MarkOutside { mark: i64, end: End },
    /// The mark is the last id the subscriber can hand out, or past it: no value is left after it.
    MarkAtEnd { mark: i64, end: End },
    /// The subscriber's own sequence has no usable value left, wherever the mark is.
    Exhausted { last_value: i64, end: End },
}

/// The last value that can be used, in the direction of the increment, and what sets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    pub value: i64,
    pub limited_by: LimitedBy,
    /// What the consumers' column types alone would allow.
    pub column_end: i64,
    pub descending: bool,
}

/// Which of the two has to be widened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitedBy {
    /// `MAXVALUE` (`MINVALUE` if descending)
    Sequence,
    /// a consumer's type
    Column,
    /// both end at the same value, as with `serial`
    Both,
}

/// A consumer, by name, for the SQL shown.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    pub table: &'a QualifiedName,
    pub name: &'a str,
}

impl Held {
    /// The end that is in the way.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        match self {
            Held::Cycles | Held::StateOutside { .. } => None,
            Held::MarkOutside { end, .. } | Held::MarkAtEnd { end, .. } | Held::Exhausted { end, .. } => {
                Some(end)
            }
        }
    }

    /// Whether `other` differs only in the id that shows it.
    #[must_use]
    pub fn is_like(&self, other: &Held) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.end() == other.end()
    }

    /// The statements to run on the subscriber so that the sequence can be followed, ready to paste. `columns` are
    /// those consumers whose type ends where [`End::value`] does. Empty if nothing wider exists.
    #[must_use]
    pub fn mending_sql(&self, sequence: &QualifiedName, columns: &[Column<'_>]) -> Vec<String> {
        if let Held::StateOutside { last_value, min, max } = *self {
            // Wide enough for now; how wide it should be, the difference of the definitions says.
            let (min, max) = (min.min(last_value), max.max(last_value));
            return vec![format!("ALTER SEQUENCE {sequence} AS bigint MINVALUE {min} MAXVALUE {max} CYCLE;")];
        }
        let Some(end) = self.end() else { return Vec::new() };
        let widest = if end.descending { i64::MIN } else { i64::MAX };
        if end.value == widest {
            return Vec::new();
        }
        let mut statements = Vec::new();
        if matches!(end.limited_by, LimitedBy::Column | LimitedBy::Both) {
            statements.extend(columns.iter().map(|column| {
                format!(
                    "ALTER TABLE {} ALTER COLUMN {} TYPE bigint;",
                    column.table,
                    quote_identifier(column.name)
                )
            }));
        }
        let bound = if end.descending { "MINVALUE" } else { "MAXVALUE" };
        match end.limited_by {
            LimitedBy::Column => {}
            LimitedBy::Sequence => {
                statements.push(format!("ALTER SEQUENCE {sequence} AS bigint {bound} {};", end.column_end));
            }
            LimitedBy::Both => {
                statements.push(format!("ALTER SEQUENCE {sequence} AS bigint {bound} {widest};"));
            }
        }
        statements
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Held::Cycles => f.write_str("the sequence cycles, so no id is the furthest one"),
            Held::StateOutside { last_value, min, max } => write!(
                f,
                "the sequence cycles and stands at {last_value} on the publisher, but the subscriber's goes from {min} to {max}"
            ),
            Held::MarkOutside { mark, end } => {
                write!(f, "id {mark} is in use on the publisher, but {end}")
            }
            Held::MarkAtEnd { mark, end } => {
                write!(f, "id {mark} is in use and no value is left after it: {end}")
            }
            Held::Exhausted { last_value, end } => {
                write!(f, "the subscriber's sequence is used up: its last value is {last_value} and {end}")
            }
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = if self.descending { "MINVALUE" } else { "MAXVALUE" };
        match self.limited_by {
            LimitedBy::Sequence => write!(f, "the subscriber's sequence ends at {bound} {}", self.value),
            LimitedBy::Column => {
                write!(f, "the type of a column that uses the subscriber's sequence ends at {}", self.value)
            }
            LimitedBy::Both => write!(
                f,
                "the subscriber's sequence ({bound}) and the type of a column that uses it both end at {}",
                self.value
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mending(limited_by: LimitedBy, value: i64, descending: bool) -> Vec<String> {
        let end = End { value, limited_by, column_end: 2_147_483_647, descending };
        let (sequence, table) =
            (QualifiedName::new("public", "o_id_seq"), QualifiedName::new("public", "order"));
        Held::MarkAtEnd { mark: value, end }.mending_sql(&sequence, &[Column { table: &table, name: "id" }])
    }

    #[test]
    fn the_sql_widens_what_is_too_narrow_and_nothing_else() {
        let column = "ALTER TABLE public.\"order\" ALTER COLUMN id TYPE bigint;";
        assert_eq!(mending(LimitedBy::Column, 2_147_483_647, false), [column]);
        assert_eq!(
            mending(LimitedBy::Sequence, 999, false),
            ["ALTER SEQUENCE public.o_id_seq AS bigint MAXVALUE 2147483647;"]
        );
        assert_eq!(
            mending(LimitedBy::Both, 2_147_483_647, false),
            [column, "ALTER SEQUENCE public.o_id_seq AS bigint MAXVALUE 9223372036854775807;"]
        );
        assert_eq!(
            mending(LimitedBy::Both, -32_768, true),
            [column, "ALTER SEQUENCE public.o_id_seq AS bigint MINVALUE -9223372036854775808;"]
        );
        assert!(mending(LimitedBy::Both, i64::MAX, false).is_empty());
        let outside = Held::StateOutside { last_value: 20, min: 1, max: 10 };
        assert_eq!(
            outside.mending_sql(&QualifiedName::new("public", "ring"), &[]),
            ["ALTER SEQUENCE public.ring AS bigint MINVALUE 1 MAXVALUE 20 CYCLE;"]
        );
    }
}
