//! Writes pgoutput messages as a publisher does, for tests, benches and the fake publisher.
//!
//! In: what a message should say. Out: its payload. Written from the manual's "Logical Replication Message Formats",
//! independently of the decoder. Nothing is checked: a test may ask for nonsense.

use std::fmt::Display;

/// A column's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

impl Cell {
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "numbers are passed as they are")]
    pub fn text(text: impl Display) -> Self {
        Cell::Text(format!("{text}").into_bytes())
    }
}

/// A column as a Relation describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    pub key: bool,
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
}

impl ColumnSpec {
    #[must_use]
    pub fn new(name: &str, type_oid: u32) -> Self {
        ColumnSpec { key: false, name: name.to_owned(), type_oid, type_modifier: -1 }
    }
}

/// One payload in the making.
#[derive(Clone, Debug, Default)]
struct Payload(Vec<u8>);

impl Payload {
    fn tag(tag: u8) -> Self {
        Payload(vec![tag])
    }

    fn tag_in_stream(tag: u8, xid: Option<u32>) -> Self {
        let payload = Payload::tag(tag);
        match xid {
            Some(xid) => payload.u32(xid),
            None => payload,
        }
    }

    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn cstr(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self.u8(0)
    }

    fn counted(mut self, bytes: &[u8]) -> Self {
        self = self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
        self
    }

    fn tuple(self, cells: &[Cell]) -> Self {
        let counted = self.u16(u16::try_from(cells.len()).unwrap_or(u16::MAX));
        cells.iter().fold(counted, |payload, cell| match cell {
            Cell::Null => payload.u8(b'n'),
            Cell::Unchanged => payload.u8(b'u'),
            Cell::Text(bytes) => payload.u8(b't').counted(bytes),
            Cell::Binary(bytes) => payload.u8(b'b').counted(bytes),
        })
    }
}

#[must_use]
pub fn begin(final_lsn: u64, time_us: u64, xid: u32) -> Vec<u8> {
    Payload::tag(b'B').u64(final_lsn).u64(time_us).u32(xid).0
}

#[must_use]
pub fn commit(commit_lsn: u64, end_lsn: u64, time_us: u64) -> Vec<u8> {
    Payload::tag(b'C').u8(0).u64(commit_lsn).u64(end_lsn).u64(time_us).0
}

#[must_use]
pub fn origin(commit_lsn: u64, name: &str) -> Vec<u8> {
    Payload::tag(b'O').u64(commit_lsn).cstr(name).0
}

#[must_use]
pub fn logical_message(
    xid: Option<u32>,
    transactional: bool,
    lsn: u64,
    prefix: &str,
    content: &[u8],
) -> Vec<u8> {
    Payload::tag_in_stream(b'M', xid).u8(u8::from(transactional)).u64(lsn).cstr(prefix).counted(content).0
}

#[must_use]
pub fn relation(
    xid: Option<u32>,
    oid: u32,
    schema: &str,
    name: &str,
    identity: u8,
    columns: &[ColumnSpec],
) -> Vec<u8> {
    let count = u16::try_from(columns.len()).unwrap_or(u16::MAX);
    let head = Payload::tag_in_stream(b'R', xid).u32(oid).cstr(schema).cstr(name).u8(identity).u16(count);
    let whole = columns.iter().fold(head, |payload, column| {
        let modifier = u32::from_be_bytes(column.type_modifier.to_be_bytes());
        payload.u8(u8::from(column.key)).cstr(&column.name).u32(column.type_oid).u32(modifier)
    });
    whole.0
}

#[must_use]
pub fn type_name(xid: Option<u32>, oid: u32, schema: &str, name: &str) -> Vec<u8> {
    Payload::tag_in_stream(b'Y', xid).u32(oid).cstr(schema).cstr(name).0
}

#[must_use]
pub fn insert(xid: Option<u32>, oid: u32, new: &[Cell]) -> Vec<u8> {
    Payload::tag_in_stream(b'I', xid).u32(oid).u8(b'N').tuple(new).0
}

/// `old`: `K` or `O`, and its cells.
#[must_use]
pub fn update(xid: Option<u32>, oid: u32, old: Option<(u8, &[Cell])>, new: &[Cell]) -> Vec<u8> {
    let head = Payload::tag_in_stream(b'U', xid).u32(oid);
    let head = match old {
        Some((kind, cells)) => head.u8(kind).tuple(cells),
        None => head,
    };
    head.u8(b'N').tuple(new).0
}

/// `kind`: `K` or `O`.
#[must_use]
pub fn delete(xid: Option<u32>, oid: u32, kind: u8, old: &[Cell]) -> Vec<u8> {
    Payload::tag_in_stream(b'D', xid).u32(oid).u8(kind).tuple(old).0
}

#[must_use]
pub fn truncate(xid: Option<u32>, cascade: bool, restart_identity: bool, oids: &[u32]) -> Vec<u8> {
    let count = u32::try_from(oids.len()).unwrap_or(u32::MAX);
    let flags = u8::from(cascade) | (u8::from(restart_identity) << 1);
    let head = Payload::tag_in_stream(b'T', xid).u32(count).u8(flags);
    oids.iter().fold(head, |payload, &oid| payload.u32(oid)).0
}

#[must_use]
pub fn stream_start(xid: u32, first: bool) -> Vec<u8> {
    Payload::tag(b'S').u32(xid).u8(u8::from(first)).0
}

#[must_use]
pub fn stream_stop() -> Vec<u8> {
    vec![b'E']
}

#[must_use]
pub fn stream_commit(xid: u32, commit_lsn: u64, end_lsn: u64, time_us: u64) -> Vec<u8> {
    Payload::tag(b'c').u32(xid).u8(0).u64(commit_lsn).u64(end_lsn).u64(time_us).0
}

/// `at`: LSN and time, with `streaming = parallel` only.
#[must_use]
pub fn stream_abort(xid: u32, subxid: u32, at: Option<(u64, u64)>) -> Vec<u8> {
    let head = Payload::tag(b'A').u32(xid).u32(subxid);
    match at {
        Some((lsn, time_us)) => head.u64(lsn).u64(time_us).0,
        None => head.0,
    }
}

#[must_use]
pub fn begin_prepare(prepare_lsn: u64, end_lsn: u64, time_us: u64, xid: u32, gid: &str) -> Vec<u8> {
    Payload::tag(b'b').u64(prepare_lsn).u64(end_lsn).u64(time_us).u32(xid).cstr(gid).0
}

#[must_use]
pub fn prepare(prepare_lsn: u64, end_lsn: u64, time_us: u64, xid: u32, gid: &str) -> Vec<u8> {
    Payload::tag(b'P').u8(0).u64(prepare_lsn).u64(end_lsn).u64(time_us).u32(xid).cstr(gid).0
}

#[must_use]
pub fn commit_prepared(commit_lsn: u64, end_lsn: u64, time_us: u64, xid: u32, gid: &str) -> Vec<u8> {
    Payload::tag(b'K').u8(0).u64(commit_lsn).u64(end_lsn).u64(time_us).u32(xid).cstr(gid).0
}

/// `times_us`: of the prepare and of the rollback.
#[must_use]
pub fn rollback_prepared(
    prepare_end_lsn: u64,
    rollback_end_lsn: u64,
    times_us: (u64, u64),
    xid: u32,
    gid: &str,
) -> Vec<u8> {
    let head = Payload::tag(b'r').u8(0).u64(prepare_end_lsn).u64(rollback_end_lsn);
    head.u64(times_us.0).u64(times_us.1).u32(xid).cstr(gid).0
}

#[must_use]
pub fn stream_prepare(prepare_lsn: u64, end_lsn: u64, time_us: u64, xid: u32, gid: &str) -> Vec<u8> {
    Payload::tag(b'p').u8(0).u64(prepare_lsn).u64(end_lsn).u64(time_us).u32(xid).cstr(gid).0
}

/// `payload` in an XLogData in a CopyData, as it comes over the socket.
#[must_use]
pub fn copy_data(start_lsn: u64, payload: &[u8]) -> Vec<u8> {
    let mut framed = Payload::tag(b'd').u32(u32::try_from(payload.len() + 29).unwrap_or(u32::MAX));
    framed = framed.u8(b'w').u64(start_lsn).u64(start_lsn).u64(0);
    framed.0.extend_from_slice(payload);
    framed.0
}
