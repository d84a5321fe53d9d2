//! A sequence of payloads through the tap: no panic, bounded memory, and wherever it accepts a whole message that the
//! full decoder accepts too, both see the same ids.
//!
//! Input: one byte that chooses version and streaming, then payloads, each with two bytes of length before it; the
//! highest bit of the length says that the payload was cut off there.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use seqshadow::pgoutput::transaction::{Commit, CommitPrepared, Prepare, RollbackPrepared, StreamCommit};
use seqshadow::pgoutput::{
    Context, IdFormat, Message, Place, ProtocolVersion, Relation, RelationLimits, Sink, Streaming, Tap,
    Tracked, Truncation, Tuple, Unreadable, Value,
};
use seqshadow::types::Lsn;

/// Tracks the first and the third column; an id is what parses as one in text.
#[derive(Default)]
struct Ids {
    seen: Vec<(u32, i64)>,
    unreadable: Vec<u32>,
    depth: i32,
}

impl Ids {
    fn enter(&mut self, by: i32) {
        self.depth += by;
        assert!((0..=1).contains(&self.depth), "transactions nest");
    }
}

impl Sink for Ids {
    fn relation(&mut self, relation: &Relation) -> Vec<Tracked> {
        let column = |column| Tracked { column, slot: u32::from(column), format: IdFormat::Integer };
        if relation.oid % 2 == 0 { vec![column(0)] } else { vec![column(2), column(0)] }
    }
    fn id(&mut self, slot: u32, id: i64) {
        self.seen.push((slot, id));
    }
    fn unreadable_id(&mut self, slot: u32, relation: &Relation, column: u16, _: Unreadable) {
        assert!(usize::from(column) < relation.columns.len());
        self.unreadable.push(slot);
    }
    fn begin(&mut self, _: Lsn, _: u32) {
        self.enter(1);
    }
    fn commit(&mut self, _: &Commit) {
        self.enter(-1);
    }
    fn truncate(&mut self, truncation: &Truncation<'_>) {
        assert_eq!(self.depth, 1);
        let _ = truncation.relations.count();
    }
    fn stream_start(&mut self, _: u32, _: bool) {
        self.enter(1);
    }
    fn stream_stop(&mut self, _: u32) {
        self.enter(-1);
    }
    fn stream_commit(&mut self, _: &StreamCommit) {}
    fn stream_abort(&mut self, _: u32, _: u32) {}
    fn begin_prepare(&mut self, _: &Prepare<'_>) {
        self.enter(1);
    }
    fn prepare(&mut self, _: &Prepare<'_>) {
        self.enter(-1);
    }
    fn commit_prepared(&mut self, _: &CommitPrepared<'_>) {}
    fn rollback_prepared(&mut self, _: &RollbackPrepared<'_>) {}
    fn stream_prepare(&mut self, _: &Prepare<'_>) {}
}

/// The ids of a row as the simplest code reads them: whole numbers in text.
fn plain(relation: u32, row: &Tuple<'_>) -> Vec<(u32, i64)> {
    let tracked: &[u32] = if relation.is_multiple_of(2) { &[0] } else { &[0, 2] };
    let values = (0u32..).zip(row.values()).filter(|(column, _)| tracked.contains(column));
    let ids = values.filter_map(|(column, value)| match value {
        Value::Text(text) if !text.starts_with(b"+") => {
            Some((column, std::str::from_utf8(text).ok()?.parse().ok()?))
        }
        _ => None,
    });
    ids.collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, mut left)) = data.split_first() else { return };
    let version = ProtocolVersion::try_from(u32::from(choice & 3) + 1).unwrap();
    let streaming = [Streaming::Off, Streaming::On, Streaming::Parallel][usize::from(choice >> 2) % 3];
    let mut tap = Tap::with_limits(version, streaming, RelationLimits { bytes: 1 << 16 });
    let mut sink = Ids::default();
    let mut columns: HashMap<u32, u16> = HashMap::new();
    while let Some((length, rest)) = left.split_first_chunk::<2>() {
        let length = u16::from_be_bytes(*length);
        let (payload, after) = rest.split_at_checked(usize::from(length & 0x7FFF)).unwrap_or((rest, &[]));
        left = after;
        sink.seen.clear();
        sink.unreadable.clear();
        if length & 0x8000 != 0 {
            let _ = tap.feed_cut(payload, 1000, &mut sink);
            continue;
        }
        let in_stream = matches!(tap.place(), Place::Stream { .. });
        let context = Context { version, streaming, in_stream };
        let outcome = tap.feed(payload, &mut sink);
        if outcome.is_err() {
            assert!(sink.seen.is_empty() && sink.unreadable.is_empty(), "a broken message told something");
        }
        match (outcome, Message::decode(payload, &context)) {
            (Ok(()), Ok(Message::Relation(relation))) => {
                columns.insert(relation.oid, relation.column_count());
            }
            (Ok(()), Ok(Message::Insert(insert))) => compare(insert.relation, &insert.new, &columns, &sink),
            (Ok(()), Ok(Message::Update(update))) => compare(update.relation, &update.new, &columns, &sink),
            _ => {}
        }
    }
});

fn compare(relation: u32, row: &Tuple<'_>, columns: &HashMap<u32, u16>, sink: &Ids) {
    // Rows of a relation without tracked columns are not counted.
    if columns.get(&relation) == Some(&row.columns()) {
        // The tap reads more than the simple code does (12.00), never less or other.
        for id in plain(relation, row) {
            assert!(sink.seen.contains(&id), "{id:?} is missing in {:?}", sink.seen);
        }
    }
    assert!(sink.seen.len() + sink.unreadable.len() <= 2);
}
