//! `pgsync-postgres`: protocol 1; one message at a time, cut out of the buffer without a copy, as its own connection
//! does.

use bytes::{Buf, BytesMut};
use pgsync_core::event::{Tuple, Value};
use pgsync_postgres::replication::pgoutput::{LogicalMessage, ReplicationMessage, decode};

use crate::contestant::{Decoder, next_frame};
use crate::marks::{Marks, Number};
use crate::streams::Stream;

/// Tag and length of CopyData.
const HEADER_BYTES: usize = 5;

pub struct Pgsync {
    marks: Marks,
}

impl Pgsync {
    pub fn new(stream: &Stream) -> Self {
        Pgsync { marks: Marks::new(&stream.wanted) }
    }
}

fn number(row: &Tuple, column: usize) -> Option<Number<'_>> {
    match row.values.get(column)? {
        Value::Text(text) => Some(Number::Text(text)),
        Value::Binary(bytes) => Some(Number::Binary(bytes)),
        Value::Null | Value::Unchanged => None,
    }
}

impl Decoder for Pgsync {
    const NAME: &'static str = "pgsync-postgres";

    fn take(&mut self, buffer: &mut BytesMut) -> anyhow::Result<()> {
        while let Some(end) = next_frame(buffer) {
            let mut body = buffer.split_to(end).freeze();
            body.advance(HEADER_BYTES);
            let ReplicationMessage::XLogData { body, .. } = decode(body)? else { continue };
            match body {
                LogicalMessage::Insert { relation, new } | LogicalMessage::Update { relation, new, .. } => {
                    self.marks.row(relation, |column| number(&new, column));
                }
                LogicalMessage::Relation(relation) => {
                    let columns = relation.columns.iter().map(|column| column.name.as_str());
                    self.marks.describe(relation.id, &relation.schema, &relation.name, columns);
                }
                LogicalMessage::Unsupported { tag } => {
                    anyhow::bail!("unsupported message {:?}", char::from(tag))
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
