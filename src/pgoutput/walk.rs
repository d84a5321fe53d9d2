//! Walks a row up to its last tracked column.
//!
//! In: a reader after a row message's relation oid. Out: ids, to the sink. Never: a byte past the last tracked
//! column, and no id before the walk has come to its end.

use std::collections::VecDeque;

use crate::wire::{ReadError, Reader};

use super::error::DecodeError;
use super::id::{self, BinaryKind, IdFormat, Unreadable};
use super::relation::Relation;
use super::relations::{Entry, Plan, Target};
use super::sink::Sink;
use super::tuple::Value;

/// Which message the row came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowKind {
    Insert,
    Update,
}

impl RowKind {
    #[inline]
    pub(crate) fn name(self) -> &'static str {
        match self {
            RowKind::Insert => "Insert",
            RowKind::Update => "Update",
        }
    }
}

/// Where a row's ids go.
pub(crate) struct Report<'t, S> {
    pub sink: &'t mut S,
    pub described: &'t mut Described,
}

/// The relations last described to [`Sink::unreadable_id`], so that even a flood of such ids costs no allocation
/// each.
#[derive(Debug, Default)]
pub(crate) struct Described(VecDeque<Relation>);

impl Described {
    /// More tables than this with unreadable ids at a time are rare, and then cost an allocation each.
    const HELD_MAX: usize = 16;

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn of(&mut self, entry: &Entry) -> Option<&Relation> {
        if !self.0.iter().any(|relation| relation.oid == entry.oid) {
            self.0.truncate(Self::HELD_MAX - 1);
            self.0.push_front(entry.describe()?);
        }
        self.0.iter().find(|relation| relation.oid == entry.oid)
    }
}

/// A row of a relation with tracked columns.
pub(crate) struct Row<'t> {
    pub entry: &'t Entry,
    pub kind: RowKind,
    /// Bytes of the message that were not kept.
    pub rest: usize,
}

impl Row<'_> {
    /// Hands on the ids of the new row, which `r` is before.
    #[inline]
    pub(crate) fn walk<S: Sink>(
        &self,
        mut r: Reader<'_>,
        report: &mut Report<'_, S>,
    ) -> Result<(), DecodeError> {
        let count = match self.new_row(&mut r) {
            Ok(count) => count,
            Err(source) => return self.broken(None, source, report),
        };
        if count != self.entry.columns {
            return Err(self.column_count(count));
        }
        let start = r;
        let walked = match &self.entry.plan {
            Plan::Skip => Ok(()),
            Plan::One { column, slot, kind } => nth(&mut r, *column)
                .map(|value| self.deliver(*slot, *column, read(value, *kind, &IdFormat::Integer), report)),
            Plan::Many(targets) => self.many(targets, r, report),
        };
        match walked {
            Ok(()) => Ok(()),
            Err(source) => self.broken(Some(start), source, report),
        }
    }

    /// Up to the new row's first value; how many it has.
    #[inline]
    fn new_row(&self, r: &mut Reader<'_>) -> Result<u16, ReadError> {
        let mut at = *r;
        let mut kind = r.u8()?;
        if self.kind == RowKind::Update && matches!(kind, b'K' | b'O') {
            let old = r.u16()?;
            (0..old).try_for_each(|_| Value::read(r).map(drop))?;
            at = *r;
            kind = r.u8()?;
        }
        if kind == b'N' { r.u16() } else { Err(at.value("a new row 'N'", i64::from(kind))) }
    }

    fn many<S: Sink>(
        &self,
        targets: &[Target],
        r: Reader<'_>,
        report: &mut Report<'_, S>,
    ) -> Result<(), ReadError> {
        walk_targets(targets, r, |_, _| {})?;
        walk_targets(targets, r, |target, value| self.deliver_target(target, value, report))
    }

    #[inline]
    fn deliver_target<S: Sink>(&self, target: &Target, value: Value<'_>, report: &mut Report<'_, S>) {
        self.deliver(target.slot, target.column, read(value, target.kind, &target.format), report);
    }

    #[inline]
    fn deliver<S: Sink>(
        &self,
        slot: u32,
        column: u16,
        id: Result<Option<i64>, Unreadable>,
        report: &mut Report<'_, S>,
    ) {
        match id {
            Ok(Some(id)) => report.sink.id(slot, id),
            Ok(None) => {}
            Err(why) => self.unreadable(slot, column, why, report),
        }
    }

    #[cold]
    fn unreadable<S: Sink>(&self, slot: u32, column: u16, why: Unreadable, report: &mut Report<'_, S>) {
        if let Some(relation) = report.described.of(self.entry) {
            report.sink.unreadable_id(slot, relation, column, why);
        }
    }

    #[cold]
    fn column_count(&self, got: u16) -> DecodeError {
        let (message, oid, expected) = (self.kind.name(), self.entry.oid, self.entry.columns);
        DecodeError::ColumnCount { message, oid, expected, got }
    }

    /// The walk failed; `start` is the first value of the new row, if it came that far. Where only the kept part of a
    /// long row ended, what it holds is handed on and the rest reported.
    #[cold]
    fn broken<S: Sink>(
        &self,
        start: Option<Reader<'_>>,
        source: ReadError,
        report: &mut Report<'_, S>,
    ) -> Result<(), DecodeError> {
        if self.rest == 0 || !matches!(source, ReadError::Short { .. }) {
            return Err(DecodeError::Malformed { message: self.kind.name(), source });
        }
        let mut held = 0usize;
        let why = Err(Unreadable::PastWindow);
        match &self.entry.plan {
            Plan::Skip => {}
            Plan::One { column, slot, .. } => self.deliver(*slot, *column, why, report),
            Plan::Many(targets) => {
                if let Some(start) = start {
                    // Ends with the error that brought us here, after the targets that lie in the kept part.
                    let _ = walk_targets(targets, start, |target, value| {
                        held = held.saturating_add(1);
                        self.deliver_target(target, value, report);
                    });
                }
                for target in targets.iter().skip(held) {
                    self.deliver(target.slot, target.column, why, report);
                }
            }
        }
        Ok(())
    }
}

/// The value of a column, from the reader at column 0.
#[inline]
pub(crate) fn nth<'a>(r: &mut Reader<'a>, column: u16) -> Result<Value<'a>, ReadError> {
    for _ in 0..column {
        Value::read(r)?;
    }
    Value::read(r)
}

/// Calls `take` with the value of each target, which are sorted by column.
#[inline]
fn walk_targets<'a>(
    targets: &[Target],
    mut r: Reader<'a>,
    mut take: impl FnMut(&Target, Value<'a>),
) -> Result<(), ReadError> {
    let mut value = Value::Null;
    let mut next = 0u16;
    for target in targets {
        while next <= target.column {
            value = Value::read(&mut r)?;
            next = next.saturating_add(1);
        }
        take(target, value);
    }
    Ok(())
}

/// The id in a value; a NULL has none, and an unchanged one was seen when it was written.
#[inline]
fn read(value: Value<'_>, kind: BinaryKind, format: &IdFormat) -> Result<Option<i64>, Unreadable> {
    match value {
        Value::Text(text) => id::from_text(text, format).map(Some),
        Value::Null | Value::Unchanged => Ok(None),
        Value::Binary(bytes) => id::from_binary(bytes, kind, format).map(Some),
    }
}
