//! Tries to break: following a stream allocates nothing per message, whatever the rows hold.
#![allow(unsafe_code, reason = "a counting allocator is one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell as Counter;

use proto_tests::encode::{self, Cell, ColumnSpec};
use seqshadow::pgoutput::transaction::{Commit, CommitPrepared, Prepare, RollbackPrepared, StreamCommit};
use seqshadow::pgoutput::{
    IdFormat, ProtocolVersion, Relation, Sink, Streaming, Tap, Tracked, Truncation, Unreadable, type_oid,
};
use seqshadow::types::Lsn;
use seqshadow::wire::{Backend, Limits, Replication, Scanner};

thread_local! {
    static ALLOCATIONS: Counter<u64> = const { Counter::new(0) };
}

struct Counting;

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Adds up what it is told, and keeps nothing.
#[derive(Default)]
struct Sum {
    ids: u64,
    unreadable: u64,
    transactions: u64,
}

impl Sink for Sum {
    fn relation(&mut self, relation: &Relation) -> Vec<Tracked> {
        let affix = IdFormat::Affix { prefix: b"ORD-".as_slice().into(), suffix: Box::default() };
        let formats = [IdFormat::Integer, affix];
        let tracked = (0u16..).zip(formats).map(|(column, format)| Tracked { column, slot: 0, format });
        tracked.take(relation.columns.len() - 1).collect()
    }
    fn id(&mut self, _: u32, _: i64) {
        self.ids += 1;
    }
    fn unreadable_id(&mut self, _: u32, _: &Relation, _: u16, _: Unreadable) {
        self.unreadable += 1;
    }
    fn begin(&mut self, _: Lsn, _: u32) {}
    fn commit(&mut self, _: &Commit) {
        self.transactions += 1;
    }
    fn truncate(&mut self, _: &Truncation<'_>) {}
    fn stream_start(&mut self, _: u32, _: bool) {}
    fn stream_stop(&mut self, _: u32) {}
    fn stream_commit(&mut self, _: &StreamCommit) {}
    fn stream_abort(&mut self, _: u32, _: u32) {}
    fn begin_prepare(&mut self, _: &Prepare<'_>) {}
    fn prepare(&mut self, _: &Prepare<'_>) {}
    fn commit_prepared(&mut self, _: &CommitPrepared<'_>) {}
    fn rollback_prepared(&mut self, _: &RollbackPrepared<'_>) {}
    fn stream_prepare(&mut self, _: &Prepare<'_>) {}
}

/// How often following `transaction` a thousand times allocates, once it was followed, and what was told of it all.
/// `described` comes before, at the place where the transaction describes relations.
fn follow(described: &[Vec<u8>], transaction: &[Vec<u8>], streaming: Streaming) -> (Sum, u64) {
    let bytes: Vec<u8> = transaction.iter().flat_map(|payload| encode::copy_data(5, payload)).collect();
    let (mut tap, mut sink) = (Tap::new(ProtocolVersion::V4, streaming), Sum::default());
    described.iter().for_each(|payload| tap.feed(payload, &mut sink).unwrap());
    let mut scanner = Scanner::new(Limits::default());
    let mut follow = || {
        for frame in scanner.scan(&bytes) {
            let Backend::CopyData(body) = Backend::parse(frame.unwrap()).unwrap() else {
                panic!("no CopyData")
            };
            let Replication::XLogData { payload, .. } = Replication::parse(body).unwrap() else {
                panic!("no XLogData")
            };
            tap.feed(payload, &mut sink).unwrap();
        }
    };
    follow();
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        follow();
    }
    let allocated = ALLOCATIONS.get() - before;
    (sink, allocated)
}

fn columns(n: usize) -> Vec<ColumnSpec> {
    vec![ColumnSpec::new("c", type_oid::TEXT); n]
}

#[test]
fn a_thousand_transactions_allocate_nothing() {
    let relations = [
        encode::relation(None, 1, "s", "one", b'd', &columns(2)),
        encode::relation(None, 2, "s", "two", b'f', &columns(3)),
        encode::relation(None, 3, "s", "without an id", b'd', &columns(1)),
    ];
    let one = |id: i64| encode::insert(None, 1, &[Cell::text(id), Cell::text("note")]);
    let two = |code: &str| [Cell::text("12.00"), Cell::text(code), Cell::Unchanged];
    let transaction = [
        encode::begin(9, 0, 7),
        one(1),
        one(22_222_222_222),
        one(-3),
        encode::update(None, 2, Some((b'O', &two("ORD-1"))), &two("ORD-2")),
        encode::insert(None, 2, &two("free text")),
        encode::delete(None, 2, b'O', &two("ORD-1")),
        encode::insert(None, 1, &[Cell::text("NaN"), Cell::Null]),
        encode::insert(None, 1, &[Cell::text("NaN"), Cell::Null]),
        encode::insert(None, 3, &[Cell::text("not looked at")]),
        encode::truncate(None, true, true, &[1, 2]),
        relations[0].clone(),
        encode::logical_message(None, true, 3, "p", b"content"),
        encode::commit(9, 10, 0),
    ];
    let begin = [encode::begin(9, 0, 7)];
    let described = [&begin[..], &relations, &[encode::commit(9, 10, 0)]].concat();
    let (sink, allocated) = follow(&described, &transaction, Streaming::Off);
    assert_eq!(sink.transactions, 1002);
    assert_eq!((sink.ids, sink.unreadable), (6 * 1001, 3 * 1001));
    assert_eq!(allocated, 0);
}

#[test]
fn streamed_and_binary_rows_allocate_nothing() {
    let xid = Some(7);
    let ids = [ColumnSpec::new("id", type_oid::INT8), ColumnSpec::new("c", type_oid::TEXT)];
    let relation = |xid| encode::relation(xid, 1, "s", "one", b'd', &ids);
    let row = |xid, id: i64| {
        let note = Cell::Binary(b"note".to_vec());
        encode::insert(xid, 1, &[Cell::Binary(id.to_be_bytes().to_vec()), note])
    };
    let described = [
        encode::stream_start(7, true),
        relation(xid),
        encode::stream_stop(),
        encode::stream_abort(7, 7, None),
    ];
    let transaction = [
        encode::stream_start(7, true),
        relation(xid),
        row(xid, 1),
        row(Some(8), 2),
        encode::stream_stop(),
        encode::stream_start(9, true),
        row(Some(9), 3),
        encode::stream_stop(),
        encode::stream_start(7, false),
        encode::update(Some(10), 1, None, &[Cell::text(5), Cell::Unchanged]),
        encode::stream_stop(),
        encode::stream_abort(7, 8, None),
        encode::stream_commit(7, 9, 10, 0),
        encode::stream_abort(9, 9, None),
        encode::begin(9, 0, 11),
        row(None, 4),
        encode::commit(9, 10, 0),
    ];
    let (sink, allocated) = follow(&described, &transaction, Streaming::On);
    assert_eq!((sink.transactions, sink.ids, sink.unreadable), (1001, 5 * 1001, 0));
    assert_eq!(allocated, 0);
}
