//! Tries to break: "no panic and no advance from a broken message" (promise 10), message by message, and that the
//! fast path says what the full decoder says.

use proto_tests::encode::{self, Cell, ColumnSpec};
use proto_tests::record::{Event, Recorder};
use seqshadow::pgoutput::{
    DecodeError, IdFormat, Place, ProtocolVersion, RelationLimits, StreamXids, Streaming, Tap, Tracked,
    Unreadable, type_oid,
};
use seqshadow::types::Lsn;

const ORDERS: u32 = 16_385;
const XID: u32 = 740;

fn orders(xid: Option<u32>) -> Vec<u8> {
    let columns = [ColumnSpec::new("note", type_oid::TEXT), ColumnSpec::new("id", type_oid::INT8)];
    encode::relation(xid, ORDERS, "public", "orders", b'd', &columns)
}

fn row(id: impl std::fmt::Display) -> Vec<Cell> {
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

#[test]
fn a_row_cut_before_its_last_tracked_column_delivers_nothing() {
    // Both columns tracked: the first is whole long before the second is.
    let tracked = |column| Tracked { column, slot: u32::from(column), format: IdFormat::Integer };
    let row = encode::insert(None, ORDERS, &[Cell::text(11), Cell::text(22), Cell::text("not looked at")]);
    let columns = ["a", "b", "c"].map(|name| ColumnSpec::new(name, type_oid::INT8));
    let described = encode::relation(None, ORDERS, "public", "t", b'd', &columns);
    let needed = row.len() - (5 + "not looked at".len());
    for warm in [false, true] {
        for cut in 0..needed {
            let mut sink = Recorder::tracking(ORDERS, vec![tracked(1), tracked(0)]);
            let mut tap = Tap::new(ProtocolVersion::V1, Streaming::Off);
            tap.feed(&encode::begin(9, 0, XID), &mut sink).unwrap();
            tap.feed(&described, &mut sink).unwrap();
            if warm {
                tap.feed(&row, &mut sink).unwrap();
            }
            sink.events.clear();
            assert!(tap.feed(&row[..cut], &mut sink).is_err(), "cut at {cut}");
            assert_eq!(sink.events, [], "cut at {cut}");
        }
    }
}

#[test]
fn the_expected_row_is_checked_as_the_first_one_was() {
    let (mut tap, mut sink) = in_transaction();
    let good = encode::insert(None, ORDERS, &row(5));
    tap.feed(&good, &mut sink).unwrap();
    for cut in 0..good.len() {
        assert!(tap.feed(&good[..cut], &mut sink).is_err(), "cut at {cut}");
    }
    // Another relation, another number of columns, another kind of row.
    let mut other = good.clone();
    other[4] ^= 1;
    assert!(matches!(tap.feed(&other, &mut sink), Err(DecodeError::UnknownRelation { .. })));
    let wide = encode::insert(None, ORDERS, &[row(6), row(7)].concat());
    assert_eq!(
        tap.feed(&wide, &mut sink),
        Err(DecodeError::ColumnCount { message: "Insert", oid: ORDERS, expected: 2, got: 4 })
    );
    assert_eq!(sink.events, [Event::Id { slot: 5, id: 5 }]);
    // After the Commit the same bytes are out of place.
    tap.feed(&encode::commit(9, 10, 0), &mut sink).unwrap();
    let misplaced = DecodeError::Misplaced { message: "Insert", place: Place::Idle };
    assert_eq!(tap.feed(&good, &mut sink), Err(misplaced));
    // In a stream they would be read as a transaction id.
    tap.feed(&encode::stream_start(XID, true), &mut sink).unwrap();
    assert!(tap.feed(&good, &mut sink).is_err());
    for id in [8, 9] {
        tap.feed(&encode::insert(Some(XID + 1), ORDERS, &row(id)), &mut sink).unwrap();
    }
    tap.feed(&encode::insert(Some(XID + 2), ORDERS, &row(10)), &mut sink).unwrap();
    assert!(tap.feed(&encode::insert(Some(0), ORDERS, &row(11)), &mut sink).is_err());
    assert_eq!(sink.ids(), [(5, 5), (5, 8), (5, 9), (5, 10)]);
}

#[test]
fn what_is_no_id_is_reported_with_its_reason() {
    let (mut tap, mut sink) = in_transaction();
    let why = [
        ("1.5", Unreadable::Fraction),
        ("9223372036854775808", Unreadable::Overflow),
        ("x", Unreadable::NotANumber),
        ("", Unreadable::NotANumber),
    ];
    for (text, _) in why {
        tap.feed(&encode::insert(None, ORDERS, &row(text)), &mut sink).unwrap();
    }
    tap.feed(&encode::insert(None, ORDERS, &[Cell::Null, Cell::Binary(vec![0; 3])]), &mut sink).unwrap();
    let expected = why.iter().map(|&(_, why)| why).chain([Unreadable::BinaryLength]);
    let expected: Vec<_> =
        expected.map(|why| Event::Unreadable { slot: 5, relation: ORDERS, column: 1, why }).collect();
    assert_eq!(sink.events, expected);
}

#[test]
fn a_column_past_what_is_kept_of_a_long_row_is_reported() {
    let whole = encode::insert(None, ORDERS, &[Cell::Text(vec![b'x'; 500]), Cell::text(7)]);
    let (kept, rest) = whole.split_at(100);
    let (mut tap, mut sink) = in_transaction();
    tap.feed_cut(kept, rest.len(), &mut sink).unwrap();
    let why = Unreadable::PastWindow;
    assert_eq!(sink.events, [Event::Unreadable { slot: 5, relation: ORDERS, column: 1, why }]);
    // Only running short is forgiven.
    let mut broken = kept.to_vec();
    broken[8] = b'?';
    assert!(tap.feed_cut(&broken, rest.len(), &mut sink).is_err());
    let commit = encode::commit(9, 10, 0);
    let error = tap.feed_cut(&commit, 1, &mut sink);
    assert_eq!(error, Err(DecodeError::TooLong { message: "Commit", rest: 1 }));
    let message = encode::logical_message(None, true, 3, "p", &[b'c'; 50]);
    tap.feed_cut(&message[..40], message.len() - 40, &mut sink).unwrap();
}

#[test]
fn messages_out_of_order_are_refused() {
    let idle = |payload: Vec<u8>| {
        let (mut tap, mut sink) = tap();
        let error = tap.feed(&payload, &mut sink).unwrap_err();
        assert_eq!(sink.events, []);
        error
    };
    for payload in [
        encode::commit(9, 10, 0),
        orders(None),
        encode::type_name(None, 70_000, "s", "t"),
        encode::origin(1, "o"),
        encode::insert(None, ORDERS, &row(1)),
        encode::update(None, ORDERS, None, &row(1)),
        encode::delete(None, ORDERS, b'K', &row(1)),
        encode::truncate(None, false, true, &[ORDERS]),
        encode::stream_stop(),
        encode::prepare(5, 6, 0, XID, "g"),
    ] {
        assert!(matches!(idle(payload), DecodeError::Misplaced { place: Place::Idle, .. }));
    }
    for payload in [
        encode::begin(9, 0, XID),
        encode::begin_prepare(5, 6, 0, XID, "g"),
        encode::stream_start(XID, true),
        encode::stream_stop(),
        encode::stream_commit(XID, 1, 2, 0),
        encode::stream_abort(XID, XID, Some((1, 1))),
        encode::stream_prepare(1, 2, 0, XID, "g"),
        encode::commit_prepared(1, 2, 0, XID, "g"),
        encode::rollback_prepared(1, 2, (0, 0), XID, "g"),
        encode::prepare(5, 6, 0, XID, "g"),
    ] {
        let (mut tap, mut sink) = in_transaction();
        assert!(matches!(tap.feed(&payload, &mut sink), Err(DecodeError::Misplaced { .. })));
        assert_eq!(sink.events, []);
    }
    let (mut tap, mut sink) = in_transaction();
    let changed = DecodeError::LsnChanged { message: "Commit", expected: Lsn(9), got: Lsn(8) };
    assert_eq!(tap.feed(&encode::commit(8, 10, 0), &mut sink), Err(changed));
    let unknown = DecodeError::UnknownRelation { message: "Truncate", oid: 3 };
    assert_eq!(tap.feed(&encode::truncate(None, false, true, &[ORDERS, 3]), &mut sink), Err(unknown));
}

#[test]
fn what_was_not_asked_for_is_refused() {
    for (version, streaming, payload) in [
        (ProtocolVersion::V1, Streaming::Off, encode::stream_start(XID, true)),
        (ProtocolVersion::V2, Streaming::Off, encode::stream_start(XID, true)),
        (ProtocolVersion::V2, Streaming::On, encode::begin_prepare(1, 2, 0, XID, "g")),
        (ProtocolVersion::V4, Streaming::On, encode::stream_abort(XID, XID, Some((1, 1)))),
        (ProtocolVersion::V4, Streaming::Parallel, encode::stream_abort(XID, XID, None)),
        (ProtocolVersion::V4, Streaming::Parallel, b"?".to_vec()),
        (ProtocolVersion::V4, Streaming::Parallel, Vec::new()),
    ] {
        let mut sink = Recorder::tracking(ORDERS, Vec::new());
        assert!(Tap::new(version, streaming).feed(&payload, &mut sink).is_err(), "{payload:?}");
        assert_eq!(sink.events, []);
    }
}

#[test]
fn a_streamed_truncate_says_whose_it_is() {
    let (mut tap, mut sink) = tap();
    for payload in [
        encode::stream_start(XID, true),
        orders(Some(XID)),
        encode::truncate(Some(XID + 3), true, true, &[ORDERS]),
        encode::stream_stop(),
        encode::stream_abort(XID, XID + 3, Some((7, 8))),
        encode::stream_commit(XID, 9, 10, 0),
    ] {
        tap.feed(&payload, &mut sink).unwrap();
    }
    let stream = Some(StreamXids { xid: XID, subxid: XID + 3 });
    assert_eq!(
        sink.events,
        [
            Event::StreamStart { xid: XID, first: true },
            Event::Relation(ORDERS),
            Event::Truncate { relations: vec![ORDERS], cascade: true, restart_identity: true, stream },
            Event::StreamStop { xid: XID },
            Event::StreamAbort { xid: XID, subxid: XID + 3 },
            Event::StreamCommit { xid: XID, commit_lsn: Lsn(9), end_lsn: Lsn(10) },
        ]
    );
}

#[test]
fn the_sink_is_asked_when_a_relation_is_new_or_changed_or_all_are_asked_again() {
    let (mut tap, mut sink) = in_transaction();
    tap.feed(&orders(None), &mut sink).unwrap();
    assert_eq!(sink.events, []);
    let columns = [ColumnSpec::new("id", type_oid::INT8)];
    tap.feed(&encode::relation(None, ORDERS, "public", "orders", b'f', &columns), &mut sink).unwrap();
    tap.feed(&encode::insert(None, ORDERS, &[Cell::text(3)]), &mut sink).unwrap(); // column 1 is gone
    assert_eq!(sink.events, [Event::Relation(ORDERS)]);
    let mut other =
        Recorder::tracking(ORDERS, vec![Tracked { column: 0, slot: 9, format: IdFormat::Integer }]);
    tap.retrack(&mut other);
    tap.feed(&encode::insert(None, ORDERS, &[Cell::text(4)]), &mut other).unwrap();
    assert_eq!(other.events, [Event::Relation(ORDERS), Event::Id { slot: 9, id: 4 }]);
    tap.reset();
    assert_eq!((tap.place(), tap.relation_count()), (Place::Idle, 0));
}

#[test]
fn descriptions_of_relations_cannot_fill_the_memory() {
    let limits = RelationLimits { bytes: 100_000 };
    let mut tap = Tap::with_limits(ProtocolVersion::V1, Streaming::Off, limits);
    let mut sink = Recorder::tracking(ORDERS, Vec::new());
    tap.feed(&encode::begin(9, 0, XID), &mut sink).unwrap();
    let columns = [ColumnSpec::new("id", type_oid::INT8)];
    let mut describe = |oid| tap.feed(&encode::relation(None, oid, "s", "t", b'd', &columns), &mut sink);
    let full = (1..).map(&mut describe).find_map(Result::err).unwrap();
    let DecodeError::RelationsFull { oid, bytes, limit: 100_000 } = full else { panic!("{full}") };
    assert!(oid > 500 && bytes > 100_000, "{oid} {bytes}");
    assert!(matches!(
        tap.feed(&encode::relation(None, 0, "s", "t", b'd', &columns), &mut sink),
        Err(DecodeError::Malformed { .. })
    ));
    assert_eq!(tap.relation_count(), usize::try_from(oid - 1).unwrap());
}

#[test]
fn many_relations_are_told_apart() {
    let mut tap = Tap::new(ProtocolVersion::V1, Streaming::Off);
    let tracked = |relation: &seqshadow::pgoutput::Relation| {
        vec![Tracked { column: 0, slot: relation.oid, format: IdFormat::Integer }]
    };
    let mut sink = Recorder::choosing(tracked);
    tap.feed(&encode::begin(9, 0, XID), &mut sink).unwrap();
    let oids: Vec<u32> = (0..20_000u32).map(|n| 16_384 + n * 3).chain([1, u32::MAX]).collect();
    for &oid in &oids {
        let columns = [ColumnSpec::new("id", type_oid::INT8)];
        tap.feed(&encode::relation(None, oid, "s", "t", b'd', &columns), &mut sink).unwrap();
    }
    sink.events.clear();
    for &oid in &oids {
        tap.feed(&encode::insert(None, oid, &[Cell::text(oid)]), &mut sink).unwrap();
    }
    let expected: Vec<_> = oids.iter().map(|&oid| (oid, i64::from(oid))).collect();
    assert_eq!(sink.ids(), expected);
    assert!(tap.feed(&encode::insert(None, 16_385, &[Cell::text(1)]), &mut sink).is_err());
}

#[test]
fn binary_values_of_a_domain_need_its_base_type() {
    let columns = [ColumnSpec::new("id", 70_000)];
    let row = encode::insert(None, ORDERS, &[Cell::Binary(7i64.to_be_bytes().to_vec())]);
    for known in [false, true] {
        let mut tap = Tap::new(ProtocolVersion::V2, Streaming::Off);
        let tracked = Tracked { column: 0, slot: 0, format: IdFormat::Integer };
        let mut sink = Recorder::tracking(ORDERS, vec![tracked]);
        if known {
            sink.base_types.insert(70_000, type_oid::INT8);
        }
        tap.feed(&encode::begin(9, 0, XID), &mut sink).unwrap();
        tap.feed(&encode::relation(None, ORDERS, "s", "t", b'd', &columns), &mut sink).unwrap();
        tap.feed(&row, &mut sink).unwrap();
        let why = Unreadable::BinaryType;
        let unreadable = Event::Unreadable { slot: 0, relation: ORDERS, column: 0, why };
        let expected = if known { Event::Id { slot: 0, id: 7 } } else { unreadable };
        assert_eq!(sink.events.last(), Some(&expected));
    }
}
