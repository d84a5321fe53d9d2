//! `pg_walstream`: one message at a time, cut out of the buffer without a copy.

use bytes::{Buf, BytesMut};
use pg_walstream::{ColumnData, LogicalReplicationMessage, LogicalReplicationParser};

use crate::contestant::{BEFORE_PAYLOAD, Decoder, next_frame};
use crate::marks::{Marks, Number};
use crate::streams::Stream;

pub struct Walstream {
    parser: LogicalReplicationParser,
    marks: Marks,
}

impl Walstream {
    pub fn new(stream: &Stream) -> Self {
        let version = u32::from(stream.version.number());
        Walstream {
            parser: LogicalReplicationParser::with_protocol_version(version),
            marks: Marks::new(&stream.wanted),
        }
    }
}

fn number(value: &ColumnData) -> Option<Number<'_>> {
    if value.is_text() {
        Some(Number::Text(value.as_bytes()))
    } else if value.is_binary() {
        Some(Number::Binary(value.as_bytes()))
    } else {
        None
    }
}

impl Decoder for Walstream {
    const NAME: &'static str = "pg_walstream";

    fn take(&mut self, buffer: &mut BytesMut) -> anyhow::Result<()> {
        while let Some(end) = next_frame(buffer) {
            let mut payload = buffer.split_to(end).freeze();
            payload.advance(BEFORE_PAYLOAD);
            match self.parser.parse_wal_message_bytes(payload)?.message {
                LogicalReplicationMessage::Insert { relation_id, tuple }
                | LogicalReplicationMessage::Update { relation_id, new_tuple: tuple, .. } => {
                    self.marks.row(relation_id, |column| number(tuple.get_column(column)?));
                }
                LogicalReplicationMessage::Relation {
                    relation_id,
                    namespace,
                    relation_name,
                    columns,
                    ..
                } => {
                    let columns = columns.iter().map(|column| &*column.name);
                    self.marks.describe(relation_id, &namespace, &relation_name, columns);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn marks(&mut self) -> Vec<Option<i64>> {
        self.marks.found()
    }
}
