//! The streams that are decoded: what a walsender would send for some tables, and what real ones sent.
//!
//! In: the name of one of [`NAMES`] and a size. Out: bytes as they come over the socket (XLogData in CopyData), which
//! begin and end between transactions, so that they can be read again and again; what describes the tables comes
//! before, as with a real publisher once per connection.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use seqshadow::pgoutput::{Context, Message, ProtocolVersion, Streaming, type_oid};

use crate::capture::Capture;
use crate::encode::{self, Cell, ColumnSpec};
use crate::marks::{Marks, Number, Wanted};

/// Streams that are made up, and which of the contestants' features they need.
pub const MADE_UP: &[&str] = &[
    "narrow",
    "wide",
    "id-last",
    "update-heavy",
    "streamed",
    "binary",
    "relations-1",
    "relations-100",
    "relations-10000",
    "sequences-1",
    "sequences-100",
    "sequences-10000",
];

/// Recorded ones that are timed; that all contestants agree on is tried with every recorded one.
pub const CAPTURED: &[&str] = &[
    "captured-17-text",
    "captured-17-stream",
    "captured-17-binary",
    "captured-18-parallel",
    "captured-15-narrow",
];

/// Where the recorded streams lie.
fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto-tests/captures")
}

/// The names of all recorded streams, sorted.
pub fn all_captured() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(captures())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "capture") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            names.push(format!("captured-{stem}"));
        }
    }
    names.sort();
    Ok(names)
}

/// The first oid of made-up tables.
const FIRST_OID: u32 = 16_385;

/// Bytes of a stream and what must be found in it.
#[derive(Clone, Debug)]
pub struct Stream {
    pub name: String,
    pub version: ProtocolVersion,
    pub streaming: Streaming,
    pub binary: bool,
    /// Describes the tables, for a connection that has just begun; a recorded stream does so itself.
    pub preamble: Vec<u8>,
    pub bytes: Bytes,
    pub messages: u64,
    pub wanted: Wanted,
    /// The largest id of every slot.
    pub expected: Vec<Option<i64>>,
}

impl Stream {
    /// `total_bytes`: it is at least so long, and ends with a transaction.
    pub fn make(name: &str, total_bytes: usize) -> anyhow::Result<Self> {
        if let Some(capture) = name.strip_prefix("captured-") {
            return captured(name, capture, total_bytes);
        }
        let plain = Rows::default();
        let tables = |count: &str| count.parse::<u32>().context("a number of tables");
        let rows = match name.split_once('-') {
            None if name == "narrow" => plain,
            None if name == "wide" => Rows { columns: 24, message_bytes: 927, ..plain },
            Some(("id", "last")) => Rows { id_at: 5, ..plain },
            Some(("update", "heavy")) => Rows { updates: true, ..plain },
            None if name == "streamed" => Rows { streamed: true, ..plain },
            None if name == "binary" => Rows { binary: true, ..plain },
            Some(("relations", count)) => Rows { tables: tables(count)?, ..plain },
            Some(("sequences", count)) => Rows { tables: tables(count)?, own_sequences: true, ..plain },
            _ => bail!("there is no stream {name}"),
        };
        Ok(rows.stream(name, total_bytes))
    }
}

/// Rows of some tables in turn.
#[derive(Clone, Copy)]
struct Rows {
    tables: u32,
    /// Each table has a sequence of its own, or all share one.
    own_sequences: bool,
    columns: usize,
    id_at: usize,
    /// Of an Insert, headers included.
    message_bytes: usize,
    updates: bool,
    streamed: bool,
    binary: bool,
    per_transaction: u64,
}

impl Default for Rows {
    fn default() -> Self {
        Rows {
            tables: 1,
            own_sequences: false,
            columns: 6,
            id_at: 0,
            message_bytes: 174,
            updates: false,
            streamed: false,
            binary: false,
            per_transaction: 10_000,
        }
    }
}

impl Rows {
    fn stream(self, name: &str, total_bytes: usize) -> Stream {
        let slots = if self.own_sequences { self.tables } else { 1 };
        let mut wanted = Wanted::default();
        for table in 0..self.tables {
            wanted.add("public", &format!("t{table}"), &format!("c{}", self.id_at), table % slots);
        }
        let mut expected = vec![None; wanted.slots()];
        let filler = self.filler();
        let (mut bytes, mut messages) = (Vec::with_capacity(total_bytes + (1 << 16)), 0u64);
        let (mut n, mut xid) = (0u64, 700u32);
        // Every table comes up at least once, so that every sequence has a mark.
        while bytes.len() < total_bytes || n < u64::from(self.tables) {
            let (begin, end) = self.ends(xid);
            let mut put = |payload: &[u8]| {
                bytes.extend_from_slice(&encode::copy_data(u64::from(xid), payload));
                messages += 1;
                bytes.len()
            };
            put(&begin);
            for _ in 0..self.per_transaction {
                let table = u32::try_from(n % u64::from(self.tables)).unwrap_or(0);
                let id = 5_000_000 + i64::try_from(n * 7 % 1_000_003).unwrap_or(0);
                let slot = &mut expected[(table % slots) as usize];
                *slot = (*slot).max(Some(id));
                let length = put(&self.row(self.streamed.then_some(xid), FIRST_OID + table, n, id, filler));
                n += 1;
                if length >= total_bytes && n >= u64::from(self.tables) {
                    break;
                }
            }
            for payload in end {
                put(&payload);
            }
            xid += 1;
        }
        Stream {
            name: name.to_owned(),
            version: ProtocolVersion::V4,
            streaming: if self.streamed { Streaming::On } else { Streaming::Off },
            binary: self.binary,
            preamble: self.preamble(),
            bytes: bytes.into(),
            messages,
            wanted,
            expected,
        }
    }

    /// What begins and ends a transaction, or a block of a streamed one and that one.
    fn ends(self, xid: u32) -> (Vec<u8>, Vec<Vec<u8>>) {
        let lsn = u64::from(xid) << 20;
        if self.streamed {
            let end = vec![encode::stream_stop(), encode::stream_commit(xid, lsn, lsn + 48, 0)];
            (encode::stream_start(xid, true), end)
        } else {
            (encode::begin(lsn, 0, xid), vec![encode::commit(lsn, lsn + 48, 0)])
        }
    }

    fn preamble(self) -> Vec<u8> {
        let text = |n: usize| ColumnSpec::new(&format!("c{n}"), type_oid::TEXT);
        let mut columns: Vec<ColumnSpec> = (0..self.columns).map(text).collect();
        columns[self.id_at].type_oid = type_oid::INT8;
        let xid = 600;
        let (begin, end) = self.ends(xid);
        let describe = |n: u32| {
            let xid = self.streamed.then_some(xid);
            encode::relation(xid, FIRST_OID + n, "public", &format!("t{n}"), b'd', &columns)
        };
        let payloads = std::iter::once(begin).chain((0..self.tables).map(describe)).chain(end);
        payloads.flat_map(|payload| encode::copy_data(0, &payload)).collect()
    }

    /// The `n`-th row.
    fn row(self, xid: Option<u32>, oid: u32, n: u64, id: i64, filler: usize) -> Vec<u8> {
        let cell = |bytes: Vec<u8>| if self.binary { Cell::Binary(bytes) } else { Cell::Text(bytes) };
        let key = if self.binary { Cell::Binary(id.to_be_bytes().to_vec()) } else { Cell::text(id) };
        let others = self.columns - 1;
        // The odd bytes go to the first ones, so that the message has exactly the length asked for.
        let length = |at: usize| filler / others + usize::from(at < filler % others);
        let mut lengths = (0..others).map(length);
        let mut cells: Vec<Cell> = (0..self.columns)
            .map(|at| cell(vec![b'x'; if at == self.id_at { 0 } else { lengths.next().unwrap_or(0) }]))
            .collect();
        cells[self.id_at] = key.clone();
        if !self.updates || n.is_multiple_of(5) {
            return encode::insert(xid, oid, &cells);
        }
        // As most updates are: the key is not touched, nor is a long value; now and then the key is.
        if let Some(last) = cells.last_mut() {
            *last = Cell::Unchanged;
        }
        let mut old = vec![Cell::Null; self.columns];
        old[self.id_at] = key;
        let old = (n % 10 == 1).then_some((b'K', old.as_slice()));
        encode::update(xid, oid, old, &cells)
    }

    /// How many bytes the values besides the id must have together for a message to have the length asked for.
    fn filler(self) -> usize {
        let bare =
            Rows { updates: false, ..self }.row(self.streamed.then_some(1), FIRST_OID, 0, 5_000_000, 0);
        let framed = encode::copy_data(0, &bare).len();
        self.message_bytes.saturating_sub(framed)
    }
}

/// What a real publisher sent, as often as it takes; all of its integer columns are tracked.
fn captured(name: &str, capture: &str, total_bytes: usize) -> anyhow::Result<Stream> {
    let file = captures().join(format!("{capture}.capture"));
    let bytes = std::fs::read(&file).with_context(|| format!("{}", file.display()))?;
    let capture = Capture::parse(&bytes)?;
    let (version, streaming) = capture.protocol()?;
    let wanted = integer_columns(&capture)?;
    let expected = reference(&capture, &wanted)?;
    let once: Vec<u8> = capture
        .records
        .iter()
        .flat_map(|record| encode::copy_data(record.start.0, &record.payload))
        .collect();
    let loops = total_bytes.div_ceil(once.len()).max(2);
    Ok(Stream {
        name: name.to_owned(),
        version,
        streaming,
        binary: capture.option("binary").is_some_and(|binary| binary != "off" && binary != "false"),
        preamble: Vec::new(),
        bytes: once.repeat(loops).into(),
        messages: (capture.records.len() * loops) as u64,
        wanted,
        expected,
    })
}

/// Calls `see` with every message of a capture.
fn each_message(capture: &Capture, mut see: impl FnMut(&Message<'_>)) -> anyhow::Result<()> {
    let (version, streaming) = capture.protocol()?;
    let mut context = Context::new(version, streaming);
    for record in &capture.records {
        let message = Message::decode(&record.payload, &context)?;
        match message {
            Message::StreamStart(_) => context.in_stream = true,
            Message::StreamStop => context.in_stream = false,
            _ => {}
        }
        see(&message);
    }
    Ok(())
}

fn integer_columns(capture: &Capture) -> anyhow::Result<Wanted> {
    let mut wanted = Wanted::default();
    let mut known = HashSet::new();
    each_message(capture, |message| {
        let Message::Relation(relation) = message else { return };
        let relation = relation.to_relation();
        for column in &relation.columns {
            let integer = [type_oid::INT2, type_oid::INT4, type_oid::INT8].contains(&column.type_oid);
            let name = (relation.schema.clone(), relation.name.clone(), column.name.clone());
            if integer && known.insert(name) {
                let slot = u32::try_from(wanted.slots()).unwrap_or(u32::MAX);
                wanted.add(&relation.schema, &relation.name, &column.name, slot);
            }
        }
    })?;
    Ok(wanted)
}

/// The marks by the way that looks at every byte of every message.
fn reference(capture: &Capture, wanted: &Wanted) -> anyhow::Result<Vec<Option<i64>>> {
    use seqshadow::pgoutput::Value;
    let mut marks = Marks::new(wanted);
    each_message(capture, |message| {
        let (oid, row) = match message {
            Message::Relation(relation) => {
                let relation = relation.to_relation();
                let columns = relation.columns.iter().map(|column| column.name.as_str());
                return marks.describe(relation.oid, &relation.schema, &relation.name, columns);
            }
            Message::Insert(insert) => (insert.relation, insert.new),
            Message::Update(update) => (update.relation, update.new),
            _ => return,
        };
        let values: Vec<_> = row.values().collect();
        marks.row(oid, |column| match values.get(column)? {
            Value::Text(text) => Some(Number::Text(text)),
            Value::Binary(bytes) => Some(Number::Binary(bytes)),
            Value::Null | Value::Unchanged => None,
        });
    })?;
    Ok(marks.found())
}
