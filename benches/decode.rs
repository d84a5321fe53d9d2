//! How fast ids come out of a stream, next to others in the same run.
//!
//! Every contestant gets the same bytes, as they come over the socket (CopyData with XLogData with Insert), and must
//! find the largest id of the same column; they are compared before anything is timed. "memory sum" adds up the
//! bytes in 64-bit words and is the bound that memory sets; "framing" only splits, as a bound for what is built on it.
//!
//!     cargo bench --bench decode

#[path = "../proto-tests/src/encode.rs"]
#[allow(dead_code, reason = "of the encoder of the tests, only rows are needed")]
mod encode;

use std::hint::black_box;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use encode::{Cell, ColumnSpec};
use seqshadow::pgoutput::transaction::{CommitPrepared, Prepare, RollbackPrepared};
use seqshadow::pgoutput::{
    IdFormat, ProtocolVersion, Relation, Sink, Streaming, Tap, Tracked, Truncation, Unreadable, type_oid,
};
use seqshadow::types::Lsn;
use seqshadow::wire::{Backend, Limits, Replication, Scanner};

const RELATION: u32 = 16_385;
const BODY_AT: usize = 30; // CopyData header, XLogData header

/// Bytes of a stream and what must be found in it.
struct Stream {
    preamble: Vec<Vec<u8>>,
    bytes: Vec<u8>,
    messages: u64,
    largest: i64,
}

/// Rows of tables in turn whose messages have about `message_bytes` on the wire, in some `total_bytes`.
fn stream(tables: u32, columns: usize, message_bytes: usize, total_bytes: usize) -> Stream {
    let mut described = vec![ColumnSpec::new("id", type_oid::INT8)];
    described.extend((1..columns).map(|n| ColumnSpec::new(&format!("c{n}"), type_oid::TEXT)));
    let preamble = std::iter::once(encode::begin(1, 0, 7))
        .chain(
            (0..tables).map(|n| encode::relation(None, RELATION + n, "public", "orders", b'd', &described)),
        )
        .collect();
    let row = |id: i64, filler: usize| {
        let table = u32::try_from(id).unwrap_or(0) % tables;
        let mut cells = vec![Cell::text(id)];
        cells.extend((1..columns).map(|_| Cell::Text(vec![b'x'; filler])));
        encode::copy_data(1, &encode::insert(None, RELATION + table, &cells))
    };
    let bare = row(5_000_000, 0).len();
    let filler = message_bytes.saturating_sub(bare) / (columns - 1);
    let (mut bytes, mut messages, mut largest) = (Vec::with_capacity(total_bytes + 4096), 0, 0);
    while bytes.len() < total_bytes {
        let id = 5_000_000 + i64::try_from(messages * 7 % 1_000_003).unwrap_or(0);
        largest = largest.max(id);
        bytes.extend_from_slice(&row(id, filler));
        messages += 1;
    }
    Stream { preamble, bytes, messages, largest }
}

/// The sink that the daemon would be if it had one sequence.
struct Largest(i64);

impl Sink for Largest {
    fn relation(&mut self, _: &Relation) -> Vec<Tracked> {
        vec![Tracked { column: 0, slot: 0, format: IdFormat::Integer }]
    }
    #[inline]
    fn id(&mut self, _: u32, id: i64) {
        self.0 = self.0.max(id);
    }
    fn unreadable_id(&mut self, _: u32, _: &Relation, _: u16, why: Unreadable) {
        panic!("{why}");
    }
    fn begin(&mut self, _: Lsn, _: u32) {}
    fn commit(&mut self, _: Lsn, _: Lsn) {}
    fn truncate(&mut self, _: &Truncation<'_>) {}
    fn stream_start(&mut self, _: u32, _: bool) {}
    fn stream_stop(&mut self, _: u32) {}
    fn stream_commit(&mut self, _: u32, _: Lsn, _: Lsn) {}
    fn stream_abort(&mut self, _: u32, _: u32) {}
    fn begin_prepare(&mut self, _: &Prepare<'_>) {}
    fn prepare(&mut self, _: &Prepare<'_>) {}
    fn commit_prepared(&mut self, _: &CommitPrepared<'_>) {}
    fn rollback_prepared(&mut self, _: &RollbackPrepared<'_>) {}
    fn stream_prepare(&mut self, _: &Prepare<'_>) {}
}

/// Ours, as the stream task does it.
struct Ours {
    scanner: Scanner,
    tap: Tap,
    sink: Largest,
}

impl Ours {
    fn new(stream: &Stream) -> Self {
        let mut ours = Ours {
            scanner: Scanner::new(Limits::default()),
            tap: Tap::new(ProtocolVersion::V4, Streaming::On),
            sink: Largest(0),
        };
        for payload in &stream.preamble {
            ours.tap.feed(payload, &mut ours.sink).unwrap();
        }
        ours
    }

    fn run(&mut self, bytes: &[u8]) -> i64 {
        self.sink.0 = 0;
        for frame in self.scanner.scan(bytes) {
            let frame = frame.unwrap();
            let Backend::CopyData(body) = Backend::parse(frame).unwrap() else { panic!("no CopyData") };
            if let Replication::XLogData { payload, .. } = Replication::parse(body).unwrap() {
                self.tap.feed_cut(payload, frame.rest, &mut self.sink).unwrap();
            }
        }
        self.sink.0
    }
}

/// `pg_walstream`: one `Bytes` for the whole buffer, a slice of it for each message, which is its zero-copy way.
fn walstream(stream: &Stream, bytes: &bytes::Bytes) -> i64 {
    use pg_walstream::{LogicalReplicationMessage, LogicalReplicationParser};
    let mut parser = LogicalReplicationParser::with_protocol_version(4);
    for payload in &stream.preamble {
        parser.parse_wal_message(payload).unwrap();
    }
    let (mut at, mut largest) = (0, 0);
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at + 1..at + 5].try_into().unwrap()) as usize;
        let message = parser.parse_wal_message_bytes(bytes.slice(at + BODY_AT..at + 1 + length)).unwrap();
        if let LogicalReplicationMessage::Insert { tuple, .. } = message.message {
            let id: i64 = tuple.columns[0].as_str().unwrap().parse().unwrap();
            largest = largest.max(id);
        }
        at += 1 + length;
    }
    largest
}

/// `postgres-protocol` splits; the id is then read at its known place, which flatters it.
fn framing(buffer: &mut BytesMut) -> i64 {
    use postgres_protocol::message::backend::{Header, Message};
    let mut largest = 0;
    while Header::parse(buffer).unwrap().is_some() {
        let Some(Message::CopyData(body)) = Message::parse(buffer).unwrap() else { panic!("no CopyData") };
        let payload = &body.data()[25..];
        let length = u32::from_be_bytes(payload[9..13].try_into().unwrap()) as usize;
        let id: i64 = std::str::from_utf8(&payload[13..13 + length]).unwrap().parse().unwrap();
        largest = largest.max(id);
    }
    largest
}

fn memory_sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)))
}

fn decode(c: &mut Criterion) {
    for (name, tables, columns, message_bytes, total_bytes) in [
        ("174 B", 1, 6, 174, 256 << 20),
        ("927 B", 1, 24, 927, 256 << 20),
        ("174 B in cache", 1, 6, 174, 64 << 10),
        ("174 B of 4 tables in turn", 4, 6, 174, 256 << 20),
    ] {
        let stream = stream(tables, columns, message_bytes, total_bytes);
        let shared = bytes::Bytes::from(stream.bytes.clone());
        assert_eq!(Ours::new(&stream).run(&stream.bytes), stream.largest);
        assert_eq!(walstream(&stream, &shared), stream.largest);
        assert_eq!(framing(&mut BytesMut::from(&stream.bytes[..])), stream.largest);

        let each = stream.bytes.len() as u64 / stream.messages;
        let mut group = c.benchmark_group(format!("{name} ({each} B a message)"));
        group.sample_size(10).warm_up_time(Duration::from_millis(300));
        group.measurement_time(Duration::from_secs(2));
        for unit in [Throughput::Bytes(stream.bytes.len() as u64), Throughput::Elements(stream.messages)] {
            let label = if matches!(unit, Throughput::Bytes(_)) { "bytes" } else { "messages" };
            group.throughput(unit);
            let mut ours = Ours::new(&stream);
            group.bench_function(BenchmarkId::new("seqshadow", label), |b| {
                b.iter(|| ours.run(black_box(&stream.bytes)));
            });
            if label == "bytes" {
                group.bench_function(BenchmarkId::new("memory sum", label), |b| {
                    b.iter(|| memory_sum(black_box(&stream.bytes)));
                });
            } else {
                group.bench_function(BenchmarkId::new("pg_walstream", label), |b| {
                    b.iter(|| walstream(&stream, black_box(&shared)));
                });
                group.bench_function(BenchmarkId::new("postgres-protocol framing", label), |b| {
                    b.iter_batched(
                        || BytesMut::from(&stream.bytes[..]),
                        |mut buffer| framing(black_box(&mut buffer)),
                        criterion::BatchSize::PerIteration,
                    );
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
