//! Replaces what users stored by filler of the same length and kind, but keeps ids of tracked columns.
//!
//! In: bodies of CopyData in stream order. Out: bodies of the same length and shape. Never: a value that was not
//! understood; such a message is an error, and the recording ends before it. What stays: ids of tracked columns, NULLs
//! and lengths, names (tables, columns, types, origins, prefixes of logical messages), times and WAL positions.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pgoutput::id::{BinaryKind, from_binary, from_text};
use crate::pgoutput::{
    Context, DecodeError, IdFormat, Message, ProtocolVersion, Relation, Streaming, Unreadable,
};
use crate::tracking::Tracking;
use crate::types::QualifiedName;
use crate::wire::{ReadError, Reader, Replication};

/// Bytes of an XLogData before the message of the plugin.
const XLOG_HEAD: usize = 25;

/// Why a message cannot be redacted.
#[derive(Debug, thiserror::Error)]
pub enum RedactError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("a row of the relation with OID {0}, which the publisher has not described")]
    Unknown(u32),
}

/// What is kept of a column: ids in these formats.
#[derive(Clone, Debug)]
struct Kept {
    formats: Vec<IdFormat>,
    kind: BinaryKind,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Redactor {
    tracking: Arc<Tracking>,
    context: Context,
    /// By the publisher's OID, for each column.
    relations: HashMap<u32, Vec<Option<Kept>>>,
}

impl Redactor {
    /// For a stream that was asked for with these options.
    #[must_use]
    pub fn new(version: ProtocolVersion, streaming: Streaming, tracking: Arc<Tracking>) -> Self {
        let context = Context::new(version, streaming);
        Redactor { tracking, context, relations: HashMap::new() }
    }

    /// Writes the redacted `body` into `out`; `rest` more bytes of it were not kept.
    ///
    /// # Errors
    /// What of it is not understood.
    pub fn redact(&mut self, body: &[u8], rest: usize, out: &mut Vec<u8>) -> Result<(), RedactError> {
        out.clear();
        let Replication::XLogData { payload, .. } = Replication::parse(body)? else {
            out.extend_from_slice(body);
            return Ok(());
        };
        out.extend_from_slice(body.get(..XLOG_HEAD).unwrap_or_default());
        match payload.first() {
            Some(b'I' | b'U' | b'D') => self.row(payload, rest, out),
            _ => self.other(payload, rest, out),
        }
    }

    /// An Insert, Update or Delete: its head as it is, then one or two rows.
    fn row(&self, payload: &[u8], rest: usize, out: &mut Vec<u8>) -> Result<(), RedactError> {
        let mut r = Reader::new(payload);
        r.u8()?;
        if self.context.in_stream {
            r.u32()?;
        }
        let oid = r.u32()?;
        let columns = self.relations.get(&oid).ok_or(RedactError::Unknown(oid))?;
        out.extend_from_slice(payload.get(..r.offset()).unwrap_or_default());
        while !r.is_empty() {
            out.push(r.u8()?);
            if !tuple(&mut r, columns, rest, out)? {
                break;
            }
        }
        Ok(())
    }

    fn other(&mut self, payload: &[u8], rest: usize, out: &mut Vec<u8>) -> Result<(), RedactError> {
        let message = Message::decode_cut(payload, rest, &self.context)?;
        // At the end of the message, so many bytes that are not kept, and so many after them that are.
        let (secret, after) = match message {
            Message::StreamStart(_) => {
                self.context.in_stream = true;
                (0, 0)
            }
            Message::StreamStop => {
                self.context.in_stream = false;
                (0, 0)
            }
            Message::Relation(relation) => {
                let relation = relation.to_relation();
                self.relations.insert(relation.oid, self.kept(&relation));
                (0, 0)
            }
            Message::LogicalMessage(message) => (message.content.len(), 0),
            // The name that the user gave to a prepared transaction, and its zero byte.
            Message::BeginPrepare(prepare) | Message::Prepare(prepare) | Message::StreamPrepare(prepare) => {
                (prepare.gid.0.len(), 1)
            }
            Message::CommitPrepared(commit) => (commit.gid.0.len(), 1),
            Message::RollbackPrepared(rollback) => (rollback.gid.0.len(), 1),
            _ => (0, 0),
        };
        let end = payload.len().saturating_sub(after);
        let start = end.saturating_sub(secret);
        out.extend_from_slice(payload.get(..start).unwrap_or_default());
        filler(secret, b'x', out);
        out.extend_from_slice(payload.get(end..).unwrap_or_default());
        Ok(())
    }

    fn kept(&self, relation: &Relation) -> Vec<Option<Kept>> {
        let name = QualifiedName::new(relation.schema.clone(), relation.name.clone());
        let watched = self.tracking.tables.get(&name);
        let column = |column: &crate::pgoutput::Column| {
            let of = watched.into_iter().flatten().filter(|watched| watched.column == column.name);
            let formats: Vec<IdFormat> = of.map(|watched| watched.format.clone()).collect();
            let kept = Kept { formats, kind: BinaryKind::of(column.type_oid) };
            if kept.formats.is_empty() { None } else { Some(kept) }
        };
        relation.columns.iter().map(column).collect()
    }
}

/// One row; says whether all of it was there: the last `rest` bytes of the message were not kept.
fn tuple(
    r: &mut Reader<'_>,
    columns: &[Option<Kept>],
    rest: usize,
    out: &mut Vec<u8>,
) -> Result<bool, RedactError> {
    let is_cut = |r: &Reader<'_>, needed: usize| rest > 0 && r.left().len() < needed;
    if is_cut(r, 2) {
        out.extend_from_slice(r.rest());
        return Ok(false);
    }
    let count = r.u16()?;
    out.extend_from_slice(&count.to_be_bytes());
    for index in 0..usize::from(count) {
        if is_cut(r, 1) {
            return Ok(false);
        }
        let at = *r;
        let kind = r.u8()?;
        out.push(kind);
        match kind {
            b'n' | b'u' => continue,
            b't' | b'b' => {}
            other => return Err(at.value("a kind of value 'n', 'u', 't' or 'b'", other.into()).into()),
        }
        let fill = if kind == b't' { b'x' } else { 0 };
        if is_cut(r, 4) {
            out.extend_from_slice(r.rest());
            return Ok(false);
        }
        let announced = r.left().get(..4).unwrap_or_default();
        out.extend_from_slice(announced);
        let length = usize::try_from(Reader::new(announced).i32()?).unwrap_or(usize::MAX);
        if is_cut(r, length.saturating_add(4)) {
            r.take(4)?;
            filler(r.rest().len(), fill, out);
            return Ok(false);
        }
        let value = r.counted()?;
        match columns.get(index).and_then(Option::as_ref) {
            Some(kept) => kept.value(kind, value, out),
            None => filler(value.len(), fill, out),
        }
    }
    Ok(true)
}

impl Kept {
    /// An id as it is; what is none by a filler that is none either.
    fn value(&self, kind: u8, value: &[u8], out: &mut Vec<u8>) {
        let read = |format: &IdFormat| match kind {
            b't' => from_text(value, format),
            _ => from_binary(value, self.kind, format),
        };
        if self.formats.iter().any(|format| read(format).is_ok()) {
            out.extend_from_slice(value);
            return;
        }
        let overflows = self.formats.iter().any(|format| read(format) == Err(Unreadable::Overflow));
        let as_text = kind == b't' || self.kind == BinaryKind::Text;
        let fill = match (as_text, overflows) {
            // The number is past what a sequence can hold: so it stays.
            (true, true) => b'9',
            (true, false) => b'x',
            // As zeros a number would be one.
            (false, _) => 0xFF,
        };
        filler(value.len(), fill, out);
    }
}

fn filler(length: usize, with: u8, out: &mut Vec<u8>) {
    out.resize(out.len().saturating_add(length), with);
}
