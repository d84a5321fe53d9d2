//! The SQL that gives a sequence more room, on the server that it is of.

use crate::catalog::{Consumer, Readable, Sequence};
use crate::plan::{Column, Held};

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
