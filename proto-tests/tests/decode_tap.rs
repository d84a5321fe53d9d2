//! Tries to break: "no panic and no advance from a broken message" (promise 10), message by message, and that the
//! fast path says what the full decoder says.

use proto_tests::encode::{self, Cell, ColumnSpec};
use proto_tests::record::{Event, Recorder};
use seqshadow::pgoutput::{
    DecodeError, IdFormat, Place, ProtocolVersion, RelationLimits, Streaming, Tap, Tracked, Unreadable,
    type_oid,
};
use seqshadow::types::Lsn;

const ORDERS: u32 = 16_385;
const XID: u32 = 740;

fn orders(xid: Option<u32>) -> Vec<u8> {
    let columns = [ColumnSpec::new("note", type_oid::TEXT), ColumnSpec::new("id", type_oid::INT8)];
    encode::relation(xid, ORDERS, "public", "orders", b'd', &columns)
}

fn row(id: impl ToString) -> Vec<Cell> {
    vec![Cell::text("a note"), Cell::text(id)]
}

fn tap() -> (Tap, Recorder) {
    let tracked = Tracked { column: 1, slot: 5, format: IdFormat::Integer };
    (Tap::new(ProtocolVersion::V4, Streaming::Parallel), Recorder::tracking(ORDERS, vec![tracked]))
}

fn in_transaction() -> (Tap, Recorder) {
    let (mut tap, mut sink) = tap();
    tap.feed(&encode::begin(9, 0, XID), &mut sink).unwrap();
    tap.feed(&orders(None), &mut sink).unwrap();
    sink.events.clear();
    (tap, sink)
}

#[test]
fn ids_of_inserts_and_updates_arrive_in_order() {
    let (mut tap, mut sink) = in_transaction();
    let old = row(1);
    for payload in [
        encode::insert(None, ORDERS, &row(i64::MAX)),
        encode::update(None, ORDERS, None, &row(2)),
        encode::update(None, ORDERS, Some((b'K', &old)), &row(3)),
        encode::update(None, ORDERS, Some((b'O', &old)), &row(i64::MIN)),
        encode::update(None, ORDERS, None, &[Cell::Null, Cell::Unchanged]),
        encode::insert(None, ORDERS, &[Cell::Null, Cell::Null]),
        encode::delete(None, ORDERS, b'K', &row(99)),
        encode::insert(None, ORDERS, &[Cell::Null, Cell::Binary(7i64.to_be_bytes().to_vec())]),
        encode::commit(9, 10, 0),
    ] {
        tap.feed(&payload, &mut sink).unwrap();
    }
    let id = |id| Event::Id { slot: 5, id };
    let commit = Event::Commit { commit_lsn: Lsn(9), end_lsn: Lsn(10) };
    assert_eq!(sink.events, [id(i64::MAX), id(2), id(3), id(i64::MIN), id(7), commit]);
    assert_eq!(tap.place(), Place::Idle);
}
