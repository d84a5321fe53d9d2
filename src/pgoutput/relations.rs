//! The relations that the publisher described, and where ids lie in their rows.
//!
//! In: Relation messages. Out: for an oid, the [`Plan`] by which its rows are walked. Never: more memory than
//! [`RelationLimits::bytes`]. Descriptions are kept as they came, a few hundred bytes each, because a server may have
//! 100,000 tables; an owned [`Relation`] is made only when somebody asks for one.

use std::hash::{BuildHasher, RandomState};

use crate::wire::Reader;

use super::error::DecodeError;
use super::id::{BinaryKind, IdFormat};
use super::relation::{Relation, RelationMessage};
use super::sink::{Sink, Tracked};

/// What the descriptions of relations may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationLimits {
    pub bytes: usize,
}

impl Default for RelationLimits {
    /// Enough for some 250,000 tables of ten columns.
    fn default() -> Self {
        RelationLimits { bytes: 128 << 20 }
    }
}

/// Held per relation besides its description: the entry, its places in the tables, and what the allocator adds.
const ENTRY_BYTES: usize = 128;

/// How to walk a row of a relation.
#[derive(Debug)]
pub(crate) enum Plan {
    /// No column is tracked.
    Skip,
    /// The usual case, without a pointer to follow.
    One { column: u16, slot: u32, kind: BinaryKind },
    /// Sorted by column.
    Many(Box<[Target]>),
}

/// One tracked column.
#[derive(Debug)]
pub(crate) struct Target {
    pub column: u16,
    pub slot: u32,
    pub kind: BinaryKind,
    pub format: IdFormat,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub oid: u32,
    pub columns: u16,
    pub plan: Plan,
    description: Box<[u8]>,
}

impl Entry {
    /// The relation as an owned value; `None` cannot happen, for only checked descriptions are kept.
    pub(crate) fn describe(&self) -> Option<Relation> {
        RelationMessage::read(&mut Reader::new(&self.description), false).ok().map(|m| m.to_relation())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Relations {
    limits: RelationLimits,
    bytes: usize,
    entries: Vec<Entry>,
    /// Open addressing with linear probing, a power of two in size and at most half full. `(0, _)` is empty: no
    /// relation has oid 0.
    index: Vec<(u32, u32)>,
    /// Odd and random, so that no publisher can choose oids that collide.
    multiplier: u32,
    last: (u32, u32),
}

impl Relations {
    pub(crate) fn new(limits: RelationLimits) -> Self {
        let [a, b, c, d, ..] = RandomState::new().hash_one(0u8).to_ne_bytes();
        let multiplier = u32::from_ne_bytes([a, b, c, d]) | 1;
        Relations { limits, bytes: 0, entries: Vec::new(), index: vec![(0, 0); 16], multiplier, last: (0, 0) }
    }

    pub(crate) fn clear(&mut self) {
        *self = Relations::new(self.limits);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry of a relation. Rows mostly come in runs of one table, so the last answer is tried first.
    #[inline]
    pub(crate) fn find(&mut self, oid: u32) -> Option<&Entry> {
        if self.last.0 != oid || oid == 0 {
            self.last = (oid, self.probe(oid)?);
        }
        self.entries.get(to_usize(self.last.1))
    }

    pub(crate) fn knows(&self, oid: u32) -> bool {
        self.probe(oid).is_some()
    }

    #[inline]
    fn bucket(&self, oid: u32) -> usize {
        let spread = u64::from(oid.wrapping_mul(self.multiplier));
        let size = self.index.len();
        // The high bits of a product are the mixed ones: scale them to the size instead of masking the low ones.
        usize::try_from((spread.wrapping_mul(u64::try_from(size).unwrap_or(0))) >> 32).unwrap_or(0)
    }

    #[inline(never)]
    fn probe(&self, oid: u32) -> Option<u32> {
        let start = self.bucket(oid);
        let (before, after) = self.index.split_at_checked(start)?;
        for &(found, entry) in after.iter().chain(before) {
            if found == 0 {
                return None;
            }
            if found == oid {
                return Some(entry);
            }
        }
        None
    }

    fn place(&mut self, oid: u32, entry: u32) {
        let start = self.bucket(oid);
        let Some((before, after)) = self.index.split_at_mut_checked(start) else { return };
        if let Some(free) = after.iter_mut().chain(before).find(|(found, _)| *found == 0) {
            *free = (oid, entry);
        }
    }

    fn grow(&mut self) {
        let size = self.index.len().saturating_mul(2);
        self.index = vec![(0, 0); size];
        let oids: Vec<u32> = self.entries.iter().map(|entry| entry.oid).collect();
        for (entry, oid) in (0u32..).zip(oids) {
            self.place(oid, entry);
        }
    }

    /// Takes note of a Relation message; a new or changed one is put before the sink. Whether it was one.
    pub(crate) fn note<S: Sink>(
        &mut self,
        message: &RelationMessage<'_>,
        sink: &mut S,
    ) -> Result<bool, DecodeError> {
        let known = self.probe(message.oid);
        let held = known.and_then(|at| self.entries.get(to_usize(at)));
        let freed = match held {
            Some(entry) if *entry.description == *message.body() => return Ok(false),
            Some(entry) => ENTRY_BYTES.saturating_add(entry.description.len()),
            None => 0,
        };
        let bytes =
            self.bytes.saturating_sub(freed).saturating_add(ENTRY_BYTES).saturating_add(message.body().len());
        if bytes > self.limits.bytes {
            return Err(DecodeError::RelationsFull { oid: message.oid, bytes, limit: self.limits.bytes });
        }
        self.bytes = bytes;
        let entry = Entry {
            oid: message.oid,
            columns: message.column_count(),
            plan: plan(&message.to_relation(), sink),
            description: message.body().into(),
        };
        match known.and_then(|at| self.entries.get_mut(to_usize(at))) {
            Some(held) => *held = entry,
            None => self.add(entry),
        }
        Ok(true)
    }

    fn add(&mut self, entry: Entry) {
        let Ok(at) = u32::try_from(self.entries.len()) else { return }; // the byte limit comes long before
        let oid = entry.oid;
        self.entries.push(entry);
        if self.entries.len().saturating_mul(2) > self.index.len() {
            self.grow();
        } else {
            self.place(oid, at);
        }
    }

    /// Asks the sink again for every relation.
    pub(crate) fn retrack<S: Sink>(&mut self, sink: &mut S) {
        for entry in &mut self.entries {
            if let Some(relation) = entry.describe() {
                entry.plan = plan(&relation, sink);
            }
        }
    }
}

fn to_usize(entry: u32) -> usize {
    usize::try_from(entry).unwrap_or(usize::MAX)
}

fn plan<S: Sink>(relation: &Relation, sink: &mut S) -> Plan {
    let mut targets: Vec<Target> = Vec::new();
    for Tracked { column, slot, format } in sink.relation(relation) {
        let Some(described) = relation.columns.get(usize::from(column)) else { continue };
        let kind = match BinaryKind::of(described.type_oid) {
            BinaryKind::Unknown => {
                sink.base_type(relation, column).map_or(BinaryKind::Unknown, BinaryKind::of)
            }
            known => known,
        };
        targets.push(Target { column, slot, kind, format });
    }
    targets.sort_by_key(|target| target.column);
    match *targets {
        [] => Plan::Skip,
        [Target { column, slot, kind, format: IdFormat::Integer }] => Plan::One { column, slot, kind },
        _ => Plan::Many(targets.into()),
    }
}
