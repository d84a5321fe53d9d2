//! One payload in any context: a message, all of whose parts can be walked, or an error. What is accepted is not
//! accepted any more when its last byte is missing.
//!
//! Input: one byte that chooses version, streaming and whether it is inside a stream, then the payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use seqshadow::pgoutput::{Context, Message, ProtocolVersion, Streaming};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, payload)) = data.split_first() else { return };
    let version = ProtocolVersion::try_from(u32::from(choice & 3) + 1).unwrap();
    let streaming = [Streaming::Off, Streaming::On, Streaming::Parallel][usize::from(choice >> 2) % 3];
    let context = Context { version, streaming, in_stream: choice & 0x80 != 0 };
    let Ok(message) = Message::decode(payload, &context) else { return };
    match message {
        Message::Insert(insert) => assert_eq!(insert.new.values().count(), usize::from(insert.new.columns())),
        Message::Relation(relation) => {
            let count = usize::from(relation.column_count());
            assert_eq!(relation.to_relation().columns.len(), count);
            assert_eq!(relation.columns().count(), count);
        }
        Message::Truncate(truncate) => assert_eq!(truncate.relations.len(), truncate.relations.count()),
        _ => {}
    }
    let _ = format!("{message:?}");
    assert!(Message::decode(&payload[..payload.len() - 1], &context).is_err());
});
