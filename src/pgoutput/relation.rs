//! What a Relation message says of a table.
//!
//! In: the message. Out: [`RelationMessage`], which borrows from it, and [`Relation`], which is its own.

use crate::wire::{ReadError, Reader, Text};

use super::transaction::stream_xid;

/// Oids of built-in types, the same on every server: `src/include/catalog/pg_type.dat`.
pub mod type_oid {
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const NUMERIC: u32 = 1700;
    /// Types that users made have oids from here on (`FirstNormalObjectId`); a domain arrives as itself, not as its
    /// base type.
    pub const FIRST_OF_USERS: u32 = 16384;
}

/// `REPLICA IDENTITY` of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    /// `d`: the primary key.
    Default,
    /// `n`
    Nothing,
    /// `f`: the whole old row.
    Full,
    /// `i`
    Index,
}

impl ReplicaIdentity {
    fn read(r: &mut Reader<'_>) -> Result<Self, ReadError> {
        let at = *r;
        match r.u8()? {
            b'd' => Ok(ReplicaIdentity::Default),
            b'n' => Ok(ReplicaIdentity::Nothing),
            b'f' => Ok(ReplicaIdentity::Full),
            b'i' => Ok(ReplicaIdentity::Index),
            other => Err(at.value("a replica identity 'd', 'n', 'f' or 'i'", i64::from(other))),
        }
    }
}

/// `R`, borrowed; its columns were checked to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationMessage<'a> {
    /// The (sub)transaction, inside a stream only.
    pub xid: Option<u32>,
    pub oid: u32,
    /// Empty on the wire for `pg_catalog`; here it is what was sent.
    pub schema: Text<'a>,
    pub name: Text<'a>,
    pub replica_identity: ReplicaIdentity,
    column_count: u16,
    columns: &'a [u8],
    body: &'a [u8],
}

impl<'a> RelationMessage<'a> {
    pub(crate) fn read(r: &mut Reader<'a>, in_stream: bool) -> Result<Self, ReadError> {
        let xid = stream_xid(r, in_stream)?;
        let (body, start) = (r.left(), r.offset());
        let (oid, schema, name) = (nonzero_oid(r)?, r.cstr()?, r.cstr()?);
        let replica_identity = ReplicaIdentity::read(r)?;
        let column_count = r.u16()?;
        let (columns, columns_start) = (r.left(), r.offset());
        for _ in 0..column_count {
            ColumnMessage::read(r)?;
        }
        let upto = |start| r.offset().saturating_sub(start);
        Ok(RelationMessage {
            xid,
            oid,
            schema,
            name,
            replica_identity,
            column_count,
            columns: columns.get(..upto(columns_start)).unwrap_or_default(),
            body: body.get(..upto(start)).unwrap_or_default(),
        })
    }

    /// The published columns in table order.
    #[must_use]
    pub fn columns(&self) -> ColumnMessages<'a> {
        ColumnMessages { r: Reader::new(self.columns) }
    }

    #[must_use]
    pub fn column_count(&self) -> u16 {
        self.column_count
    }

    /// The message from its oid on: equal bytes describe equal relations.
    pub(crate) fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Copies it, to keep.
    #[must_use]
    pub fn to_relation(&self) -> Relation {
        Relation {
            oid: self.oid,
            schema: if self.schema == "" { "pg_catalog".into() } else { self.schema.to_string() },
            name: self.name.to_string(),
            replica_identity: self.replica_identity,
            columns: self.columns().map(ColumnMessage::to_column).collect(),
        }
    }
}

fn nonzero_oid(r: &mut Reader<'_>) -> Result<u32, ReadError> {
    let at = *r;
    match r.u32()? {
        0 => Err(at.value("an oid", 0)),
        oid => Ok(oid),
    }
}

/// One column of a [`RelationMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnMessage<'a> {
    /// Part of the replica identity.
    pub key: bool,
    pub name: Text<'a>,
    pub type_oid: u32,
    /// `atttypmod`; -1 for none.
    pub type_modifier: i32,
}

impl<'a> ColumnMessage<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, ReadError> {
        Ok(ColumnMessage {
            key: r.u8()? & 1 != 0,
            name: r.cstr()?,
            type_oid: r.u32()?,
            type_modifier: r.i32()?,
        })
    }

    fn to_column(self) -> Column {
        Column {
            name: self.name.to_string(),
            type_oid: self.type_oid,
            type_modifier: self.type_modifier,
            key: self.key,
        }
    }
}

/// See [`RelationMessage::columns`].
#[derive(Clone, Debug)]
pub struct ColumnMessages<'a> {
    r: Reader<'a>,
}

impl<'a> Iterator for ColumnMessages<'a> {
    type Item = ColumnMessage<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        ColumnMessage::read(&mut self.r).ok() // ends at the end: the message was walked before
    }
}

/// A published table as its publisher described it. Names that are not UTF-8 have U+FFFD in place of what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid` on the publisher; with `publish_via_partition_root` that of the root.
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub replica_identity: ReplicaIdentity,
    /// The published columns in table order; a row has exactly as many values.
    pub columns: Vec<Column>,
}

/// A published column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// `pg_type.oid` on the publisher: see [`type_oid`].
    pub type_oid: u32,
    /// `atttypmod`; -1 for none.
    pub type_modifier: i32,
    /// Part of the replica identity.
    pub key: bool,
}
