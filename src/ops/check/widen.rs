//! The SQL that gives a sequence more room, on the server that it is of.

use crate::catalog::{Consumer, Readable, Sequence};
use crate::plan::{Column, End, Held, LimitedBy};

/// What mends a sequence that is held for this reason. Empty where nothing wider exists.
pub(super) fn mending(sequence: &Sequence, held: &Held) -> String {
    let descending = sequence.definition.descending();
    let end = held.end().map(|end| end.value);
    let too_narrow = |c: &&Consumer| {
        let last = if descending { *c.range.start() } else { *c.range.end() };
        !c.inherited && c.numeric && matches!(c.readable, Readable::Yes(_)) && end == Some(last)
    };
    let columns = sequence.consumers.iter().filter(too_narrow);
    let columns: Vec<Column<'_>> = columns.map(|c| Column { table: &c.table, name: &c.column }).collect();
    held.mending_sql(&sequence.name, &columns).join("\n")
}

/// What puts the end of a sequence, and of the columns that it fills, further. Empty where nothing wider exists.
pub(super) fn widening(sequence: &Sequence) -> String {
    let (d, bounds) = (&sequence.definition, sequence.bounds());
    let (of_sequence, of_column) =
        if d.descending() { (d.min, bounds.lowest) } else { (d.max, bounds.highest) };
    let (value, limited_by) = if of_sequence == of_column {
        (of_sequence, LimitedBy::Both)
    } else if d.is_past(of_column, of_sequence) {
        (of_sequence, LimitedBy::Sequence)
    } else {
        (of_column, LimitedBy::Column)
    };
    let end = End { value, limited_by, column_end: of_column, descending: d.descending() };
    mending(sequence, &Held::Exhausted { last_value: value, end })
}
