//! Random streams that obey the protocol, and random bytes that do not.
//!
//! Tries to break: what was encoded is what is decoded, by us and by `pg_walstream`; the tap sees the ids of the full
//! decoder; cut anywhere, nothing is accepted in full and nothing panics (promise 10).

use pg_walstream::LogicalReplicationParser;
use proptest::collection::vec;
use proptest::prelude::*;
use proto_tests::encode::{self, Cell, ColumnSpec};
use proto_tests::record::Recorder;
use seqshadow::pgoutput::message::OldTuple;
use seqshadow::pgoutput::{
    Context, IdFormat, Message, ProtocolVersion, Streaming, Tap, Tracked, Tuple, Value, type_oid,
};
use seqshadow::wire::{Backend, Limits, Replication, Scanner};

const RELATION: u32 = 20_001;

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        1 => Just(Cell::Null),
        1 => Just(Cell::Unchanged),
        6 => any::<i64>().prop_map(Cell::text),
        2 => (0i64..100_000_000).prop_map(Cell::text),
        1 => vec(any::<u8>(), 0..40).prop_map(Cell::Text),
        1 => any::<i64>().prop_map(|id| Cell::Binary(id.to_be_bytes().to_vec())),
    ]
}

/// A row change of [`RELATION`] with so many columns.
fn change(columns: usize, xid: Option<u32>) -> impl Strategy<Value = Vec<u8>> {
    let row = move || vec(cell(), columns);
    let identity = prop_oneof![Just(b'K'), Just(b'O')];
    prop_oneof![
        4 => row().prop_map(move |new| encode::insert(xid, RELATION, &new)),
        2 => (proptest::option::of((identity.clone(), row())), row()).prop_map(move |(old, new)| {
            let old = old.as_ref().map(|(kind, cells)| (*kind, cells.as_slice()));
            encode::update(xid, RELATION, old, &new)
        }),
        1 => (identity, row()).prop_map(move |(kind, old)| encode::delete(xid, RELATION, kind, &old)),
        1 => any::<(bool, bool)>().prop_map(move |(cascade, restart)| {
            encode::truncate(xid, cascade, restart, &[RELATION])
        }),
        1 => (any::<bool>(), "[a-z]{0,8}", vec(any::<u8>(), 0..20)).prop_map(move |(bound, prefix, content)| {
            encode::logical_message(xid, bound, 77, &prefix, &content)
        }),
        1 => ("[a-zé]{0,8}", "[A-Z]{0,8}").prop_map(move |(schema, name)| {
            encode::type_name(xid, 70_000, &schema, &name)
        }),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Frame {
    Committed,
    Prepared,
    Streamed,
}

/// One transaction, whole, in any of the ways in which it may come.
fn transaction(columns: usize) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let frame = prop_oneof![Just(Frame::Committed), Just(Frame::Prepared), Just(Frame::Streamed)];
    (frame, 1u32.., 1u64.., any::<u32>(), "[a-z ]{1,9}").prop_flat_map(move |(frame, xid, lsn, time, gid)| {
        let in_stream = matches!(frame, Frame::Streamed).then_some(xid);
        vec(change(columns, in_stream), 0..6).prop_map(move |changes| {
            let (end, time) = (lsn.saturating_add(1), u64::from(time));
            let described: Vec<_> =
                (0..columns).map(|n| ColumnSpec::new(&format!("c{n}"), type_oid::INT8)).collect();
            let relation = encode::relation(in_stream, RELATION, "public", "t", b'd', &described);
            let (before, after) = match frame {
                Frame::Committed => (
                    vec![encode::begin(lsn, time, xid), encode::origin(lsn, &gid)],
                    vec![encode::commit(lsn, end, time)],
                ),
                Frame::Prepared => (
                    vec![encode::begin_prepare(lsn, end, time, xid, &gid)],
                    vec![
                        encode::prepare(lsn, end, time, xid, &gid),
                        encode::commit_prepared(end, end, time, xid, &gid),
                        encode::rollback_prepared(end, end, (time, time), xid, &gid),
                    ],
                ),
                Frame::Streamed => (
                    vec![encode::stream_start(xid, time % 2 == 0)],
                    vec![
                        encode::stream_stop(),
                        encode::stream_abort(xid, xid.wrapping_add(1).max(1), Some((lsn, time))),
                        encode::stream_prepare(lsn, end, time, xid, &gid),
                        encode::stream_commit(xid, lsn, end, time),
                    ],
                ),
            };
            [before, vec![relation], changes, after].concat()
        })
    })
}

fn stream() -> impl Strategy<Value = (usize, Vec<Vec<u8>>)> {
    (1usize..6).prop_flat_map(|columns| {
        vec(transaction(columns), 1..4).prop_map(move |transactions| (columns, transactions.concat()))
    })
}

/// Reads ids of a row in the plainest way: integers in text, and eight bytes in binary.
fn plain_ids(tuple: &Tuple<'_>, tracked: &[u16]) -> Vec<(u32, i64)> {
    let values: Vec<_> = tuple.values().collect();
    let mut ids = Vec::new();
    for &column in tracked {
        let id = match values[usize::from(column)] {
            Value::Text(text) => std::str::from_utf8(text)
                .ok()
                .filter(|text| !text.starts_with('+'))
                .and_then(|text| text.trim_end().parse().ok()),
            Value::Binary(bytes) => bytes.try_into().ok().map(i64::from_be_bytes),
            Value::Null | Value::Unchanged => None,
        };
        ids.extend(id.map(|id| (u32::from(column), id)));
    }
    ids
}

fn context() -> Context {
    Context::new(ProtocolVersion::V4, Streaming::Parallel)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn streams_are_read_alike_by_all((columns, payloads) in stream(), chosen in vec(any::<bool>(), 6)) {
        let tracked: Vec<u16> = (0u16..).zip(&chosen).take(columns).filter(|(_, yes)| **yes).map(|(c, _)| c).collect();
        let ids = |&column: &u16| Tracked { column, slot: u32::from(column), format: IdFormat::Integer };
        let mut sink = Recorder::tracking(RELATION, tracked.iter().map(ids).collect());
        let mut tap = Tap::new(ProtocolVersion::V4, Streaming::Parallel);
        let mut theirs = LogicalReplicationParser::with_protocol_version(4);
        let mut expected = Vec::new();
        let mut context = context();

        // Through the socket's shape too.
        let bytes: Vec<u8> = payloads.iter().flat_map(|payload| encode::copy_data(9, payload)).collect();
        let mut scanner = Scanner::new(Limits::default());
        let mut seen = 0;
        for (frame, encoded) in scanner.scan(&bytes).zip(&payloads) {
            let Backend::CopyData(body) = Backend::parse(frame?)? else { panic!("no CopyData") };
            let Replication::XLogData { payload, .. } = Replication::parse(body)? else { panic!("no XLogData") };
            prop_assert_eq!(payload, encoded.as_slice());
            seen += 1;

            let message = Message::decode(payload, &context)?;
            let read = theirs.parse_wal_message(payload).unwrap();
            prop_assert_eq!(crate::oracle::expected(&message), read.message);
            let xid = crate::oracle::stream_xid(&message);
            prop_assert!(xid.is_none() || xid == read.xid);
            match &message {
                Message::StreamStart(_) => context.in_stream = true,
                Message::StreamStop => context.in_stream = false,
                Message::Insert(insert) => expected.extend(plain_ids(&insert.new, &tracked)),
                Message::Update(update) => {
                    expected.extend(plain_ids(&update.new, &tracked));
                    if let Some(OldTuple::Key(old) | OldTuple::Full(old)) = &update.old {
                        prop_assert_eq!(usize::from(old.columns()), columns);
                    }
                }
                _ => {}
            }
            tap.feed(payload, &mut sink)?;
        }
        prop_assert_eq!(seen, payloads.len());
        prop_assert_eq!(sink.ids(), expected);
    }

    #[test]
    fn cut_anywhere_nothing_is_accepted_in_full((columns, payloads) in stream()) {
        let all = (0u16..6).take(columns).map(|column| Tracked { column, slot: 0, format: IdFormat::Integer });
        let mut sink = Recorder::tracking(RELATION, all.collect());
        let mut tap = Tap::new(ProtocolVersion::V4, Streaming::Parallel);
        let mut context = context();
        for payload in &payloads {
            for cut in 0..payload.len() {
                prop_assert!(Message::decode(&payload[..cut], &context).is_err());
                // All columns are tracked: of a row that may give ids, no byte may be missing.
                let told = sink.events.len();
                let accepted = tap.feed(&payload[..cut], &mut sink).is_ok();
                prop_assert!(!accepted || payload[0] == b'D', "{:?} cut at {}", payload, cut);
                prop_assert_eq!(sink.events.len(), told);
            }
            match Message::decode(payload, &context)? {
                Message::StreamStart(_) => context.in_stream = true,
                Message::StreamStop => context.in_stream = false,
                _ => {}
            }
            tap.feed(payload, &mut sink)?;
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(payloads in vec(vec(any::<u8>(), 0..60), 0..20), tags in vec(0usize..19, 20)) {
        let mut sink = Recorder::choosing(|_| vec![Tracked { column: 0, slot: 0, format: IdFormat::Integer }]);
        let mut tap = Tap::new(ProtocolVersion::V4, Streaming::Parallel);
        for (mut payload, tag) in payloads.into_iter().zip(tags) {
            if let Some(first) = payload.first_mut() {
                *first = b"BCOMRYIUDTSEcAbPKrp"[tag];
            }
            for in_stream in [false, true] {
                let context = Context { in_stream, ..context() };
                let _ = Message::decode(&payload, &context).map(|message| format!("{message:?}"));
            }
            let _ = tap.feed(&payload, &mut sink);
            for frame in Scanner::new(Limits { body: 100, window: 20 }).scan(&payload) {
                let Ok(frame) = frame else { break };
                let _ = Backend::parse(frame);
            }
            let _ = Replication::parse(&payload);
        }
    }

    #[test]
    fn ids_are_exact_as_text(id in any::<i64>(), zeros in 0usize..12, digits in "[0-9]{1,25}") {
        let read = |text: String| {
            let mut sink = Recorder::choosing(|_| vec![Tracked { column: 0, slot: 0, format: IdFormat::Integer }]);
            let mut tap = Tap::new(ProtocolVersion::V1, Streaming::Off);
            let columns = [ColumnSpec::new("id", type_oid::NUMERIC)];
            tap.feed(&encode::begin(1, 0, 1), &mut sink).unwrap();
            tap.feed(&encode::relation(None, RELATION, "s", "t", b'd', &columns), &mut sink).unwrap();
            tap.feed(&encode::insert(None, RELATION, &[Cell::text(text)]), &mut sink).unwrap();
            sink.ids().first().map(|&(_, id)| id)
        };
        prop_assert_eq!(read(id.to_string()), Some(id));
        prop_assert_eq!(read(format!("{id}.{}", "0".repeat(zeros))), Some(id));
        if let Some(magnitude) = id.checked_abs() {
            prop_assert_eq!(read(format!("{}{magnitude}", "0".repeat(zeros))), Some(magnitude));
        }
        prop_assert_eq!(read(digits.clone()), digits.parse().ok());
        prop_assert_eq!(read(format!("-{digits}")), format!("-{digits}").parse().ok());
    }
}
