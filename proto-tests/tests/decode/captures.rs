//! What real publishers of every major from 12 on sent, decoded by us in full, by the tap, and by `pg_walstream`.
//!
//! Tries to break: no message of a real server is refused or read differently; cut at any byte, none is accepted
//! (promise 10); the tap sees exactly the ids that the full decoder sees.

use std::collections::{BTreeMap, HashMap};

use pg_walstream::LogicalReplicationParser;
use proto_tests::capture::{self, Capture};
use proto_tests::record::{Event, Recorder};
use seqshadow::pgoutput::{
    Context, IdFormat, Message, Place, Relation, Streaming, Tap, Tracked, Tuple, Value, type_oid,
};

/// Calls `visit` with every payload and the context in which it came.
fn walk(capture: &Capture, mut visit: impl FnMut(&[u8], &Context)) {
    let (version, streaming) = capture.protocol().unwrap();
    let mut context = Context::new(version, streaming);
    for record in &capture.records {
        visit(&record.payload, &context);
        match Message::decode(&record.payload, &context).unwrap() {
            Message::StreamStart(_) => context.in_stream = true,
            Message::StreamStop => context.in_stream = false,
            _ => {}
        }
    }
}

#[test]
fn an_independent_decoder_reads_the_same() {
    for (name, capture) in capture::all().unwrap() {
        let (version, _) = capture.protocol().unwrap();
        let mut theirs = LogicalReplicationParser::with_protocol_version(u32::from(version.number()));
        walk(&capture, |payload, context| {
            let ours = Message::decode(payload, context).unwrap();
            let read = theirs.parse_wal_message(payload).unwrap();
            assert_eq!(crate::oracle::expected(&ours), read.message, "{name}");
            if let Some(xid) = crate::oracle::stream_xid(&ours) {
                assert_eq!(Some(xid), read.xid, "{name}");
            }
        });
    }
}

#[test]
fn a_message_cut_or_continued_anywhere_is_refused() {
    for (name, capture) in capture::all().unwrap() {
        walk(&capture, |payload, context| {
            for cut in 0..payload.len() {
                let (kept, _) = payload.split_at(cut);
                assert!(Message::decode(kept, context).is_err(), "{name}: {payload:?} cut at {cut}");
            }
            let longer = [payload, &[0]].concat();
            assert!(Message::decode(&longer, context).is_err(), "{name}: {payload:?} with a byte more");
        });
    }
}

/// Every column that may hold an id, each in a slot of its own.
fn track_all(relation: &Relation) -> Vec<Tracked> {
    let mut tracked = Vec::new();
    for (column, described) in (0u16..).zip(&relation.columns) {
        let format = match (described.name.as_str(), described.type_oid) {
            ("code", type_oid::TEXT) => {
                IdFormat::Affix { prefix: b"ORD-".as_slice().into(), suffix: Box::default() }
            }
            (_, type_oid::INT2 | type_oid::INT4 | type_oid::INT8 | type_oid::NUMERIC | type_oid::BPCHAR) => {
                IdFormat::Integer
            }
            ("dom", _) => IdFormat::Integer,
            _ => continue,
        };
        tracked.push(Tracked { column, slot: u32::from(column), format });
    }
    tracked
}

fn tapped(capture: &Capture) -> Recorder {
    let (version, streaming) = capture.protocol().unwrap();
    let mut tap = Tap::new(version, streaming);
    let mut sink = Recorder::choosing(track_all);
    // order_id is the only domain.
    for relation in relations(capture).values() {
        for column in relation.columns.iter().filter(|column| column.name == "dom") {
            sink.base_types.insert(column.type_oid, type_oid::INT8);
        }
    }
    for record in &capture.records {
        tap.feed(&record.payload, &mut sink).unwrap();
    }
    assert_eq!(tap.place(), Place::Idle);
    sink
}

/// The relations of a capture as they were last described.
fn relations(capture: &Capture) -> HashMap<u32, Relation> {
    let mut relations = HashMap::new();
    walk(capture, |payload, context| {
        if let Message::Relation(message) = Message::decode(payload, context).unwrap() {
            relations.insert(message.oid, message.to_relation());
        }
    });
    relations
}

/// The ids of a row, read in a plain way from the fully decoded row.
fn plain_ids(relation: &Relation, tuple: &Tuple<'_>) -> Vec<(u32, i64)> {
    let values: Vec<_> = tuple.values().collect();
    let mut ids = Vec::new();
    for tracked in track_all(relation) {
        let column = &relation.columns[usize::from(tracked.column)];
        let id = match values[usize::from(tracked.column)] {
            Value::Text(bytes) => plain_text(std::str::from_utf8(bytes).unwrap(), &tracked.format),
            Value::Binary(bytes) => match (bytes.len(), column.type_oid) {
                (_, type_oid::TEXT | type_oid::BPCHAR) => {
                    plain_text(std::str::from_utf8(bytes).unwrap(), &tracked.format)
                }
                (_, type_oid::NUMERIC) => continue, // compared with the text capture instead
                (2, _) => Some(i64::from(i16::from_be_bytes(bytes.try_into().unwrap()))),
                (4, _) => Some(i64::from(i32::from_be_bytes(bytes.try_into().unwrap()))),
                (8, _) => Some(i64::from_be_bytes(bytes.try_into().unwrap())),
                _ => None,
            },
            Value::Null | Value::Unchanged => None,
        };
        ids.extend(id.map(|id| (tracked.slot, id)));
    }
    ids
}

fn plain_text(text: &str, format: &IdFormat) -> Option<i64> {
    let text = match format {
        IdFormat::Integer => text.trim_end(),
        IdFormat::Affix { prefix, .. } => text.strip_prefix(std::str::from_utf8(prefix).unwrap())?,
    };
    let whole = text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|b| b == b'0'));
    whole.map_or(text, |(whole, _)| whole).parse().ok()
}

#[test]
fn the_tap_sees_the_ids_of_the_full_decoder() {
    for (name, capture) in capture::all().unwrap() {
        let mut known = HashMap::new();
        let mut numeric = Vec::new();
        let mut expected = Vec::new();
        walk(&capture, |payload, context| match Message::decode(payload, context).unwrap() {
            Message::Relation(message) => {
                known.insert(message.oid, message.to_relation());
                let columns = (0u32..).zip(message.columns());
                numeric
                    .extend(columns.filter(|(_, c)| c.type_oid == type_oid::NUMERIC).map(|(slot, _)| slot));
            }
            Message::Insert(row) => expected.extend(plain_ids(&known[&row.relation], &row.new)),
            Message::Update(row) => expected.extend(plain_ids(&known[&row.relation], &row.new)),
            _ => {}
        });
        let mut seen = tapped(&capture).ids();
        if capture.option("binary").is_some() {
            seen.retain(|(slot, _)| !numeric.contains(slot));
            expected.retain(|(slot, _)| !numeric.contains(slot));
        }
        assert_eq!(seen, expected, "{name}");
    }
}

#[test]
fn text_and_binary_carry_the_same_ids() {
    let captures: BTreeMap<String, Capture> = capture::all().unwrap().into_iter().collect();
    let mut compared = 0;
    for (name, binary) in captures.iter().filter(|(name, _)| name.ends_with("-binary.capture")) {
        let text = &captures[&name.replace("-binary", "-text")];
        assert_eq!(tapped(binary).ids(), tapped(text).ids(), "{name}");
        compared += 1;
    }
    assert_eq!(compared, 6, "majors with binary captures");
}

#[test]
fn cut_off_by_the_window_a_row_is_reported_and_not_refused() {
    for (name, capture) in capture::all().unwrap() {
        let whole = tapped(&capture).ids();
        let (version, streaming) = capture.protocol().unwrap();
        let mut tap = Tap::new(version, streaming);
        let mut sink = Recorder::choosing(track_all);
        for record in &capture.records {
            let payload = record.payload.as_slice();
            let window = if matches!(payload.first(), Some(b'I' | b'U')) { 60 } else { usize::MAX };
            let (kept, rest) = payload.split_at(window.min(payload.len()));
            tap.feed_cut(kept, rest.len(), &mut sink).unwrap();
        }
        let seen = sink.ids();
        assert!(seen.iter().all(|id| whole.contains(id)) && seen.len() <= whole.len(), "{name}");
    }
}

/// The captures must hold what they are for; a recording that lost it is noticed here.
#[test]
fn every_kind_of_message_was_recorded() {
    let mut tags: BTreeMap<u8, usize> = BTreeMap::new();
    let mut majors: BTreeMap<String, usize> = BTreeMap::new();
    let (mut partial_abort, mut abort_with_time, mut streamed_restart) = (0, 0, 0);
    for (_, capture) in capture::all().unwrap() {
        let version = capture.option("server").unwrap();
        *majors.entry(version.split('.').next().unwrap().to_owned()).or_default() += 1;
        walk(&capture, |payload, context| {
            *tags.entry(payload[0]).or_default() += 1;
            if let Message::StreamAbort(abort) = Message::decode(payload, context).unwrap() {
                partial_abort += usize::from(abort.xid != abort.subxid);
                abort_with_time += usize::from(abort.at.is_some());
                assert_eq!(abort.at.is_some(), context.streaming == Streaming::Parallel);
            }
        });
        for event in tapped(&capture).events {
            if let Event::Truncate { restart_identity: true, stream: Some(xids), .. } = event {
                streamed_restart += usize::from(xids.xid != xids.subxid);
            }
        }
    }
    let seen: String = tags.keys().map(|&tag| char::from(tag)).collect();
    assert_eq!(seen, "ABCDEIKMOPRSTUYbcpr");
    // A version is `18.4` or `19rc1 (…)`: its major is the digits that it begins with.
    let digits = |version: &String| version.chars().take_while(char::is_ascii_digit).collect::<String>();
    let majors: Vec<String> = majors.keys().map(digits).collect();
    assert_eq!(majors, ["12", "13", "14", "15", "16", "17", "18", "19"]);
    assert!(partial_abort > 0 && abort_with_time > 0 && streamed_restart > 0);
}
