//! `pgoutput`: the shape of messages is chosen by type parameters, so inside a streamed block another parser is used.
//!
//! Inside such a block it takes a Relation's columns to begin one byte early (0.0.7), so it is given that message as
//! it would be outside. And it refuses logical messages of less than 37
//! bytes and the Stream Abort of parallel streams, so these pass it by: they carry no ids.

use bytes::{Buf, BytesMut};
use pgoutput::events::base::event::BaseEvent;
use pgoutput::events::base::tuple_data::{PGValue, TupleDataColumn};
use pgoutput::events::event::{Event, EventType};
use pgoutput::events::stream::StreamEvent;
use pgoutput::options::{
    BinaryValueTraitOff, BinaryValueTraitOn, StreamingValueTraitOff, StreamingValueTraitOn,
};

use crate::contestant::{BEFORE_PAYLOAD, Decoder, next_frame};
use crate::marks::{Marks, Number};
use crate::streams::Stream;

pub struct Pgoutput {
    marks: Marks,
    binary: bool,
    in_stream: bool,
}

/// A value of either format.
trait Sent: PGValue + std::fmt::Debug + Sized {
    fn number(value: &Self::Type) -> Number<'_>;
}

impl Sent for BinaryValueTraitOff {
    fn number(value: &String) -> Number<'_> {
        Number::Text(value.as_bytes())
    }
}

impl Sent for BinaryValueTraitOn {
    fn number(value: &Vec<u8>) -> Number<'_> {
        Number::Binary(value)
    }
}

fn number<B: Sent>(row: &[TupleDataColumn<B>], column: usize) -> Option<Number<'_>> {
    match row.get(column)? {
        TupleDataColumn::Value(value) => Some(B::number(value)),
        TupleDataColumn::PGNull | TupleDataColumn::PGUnchangedToastedValue => None,
    }
}

/// Reads a payload with the parser of these options. The types of what it gives have the same fields and no trait in
/// common.
macro_rules! read {
    ($self:expr, $tag:expr, $payload:expr, $binary:ty, $streaming:ty) => {
        match Event::<$binary, $streaming>::parse($tag, $payload).map_err(anyhow::Error::msg)? {
            Event::Base(BaseEvent::Insert(row)) => {
                $self.marks.row(row.oid.cast_unsigned(), |column| number::<$binary>(&row.data, column));
            }
            Event::Base(BaseEvent::Update(row)) => {
                $self.marks.row(row.oid.cast_unsigned(), |column| number::<$binary>(&row.data, column));
            }
            Event::Base(BaseEvent::Relation(relation)) => {
                let columns = relation.columns.iter().map(|column| column.name.as_str());
                let (schema, name) = (&relation.relation_namespace, &relation.name);
                $self.marks.describe(relation.oid.cast_unsigned(), schema, name, columns);
            }
            Event::Stream(StreamEvent::Start(_)) => $self.in_stream = true,
            Event::Stream(StreamEvent::Stop) => $self.in_stream = false,
            _ => {}
        }
    };
}

impl Pgoutput {
    pub fn new(stream: &Stream) -> Self {
        Pgoutput { marks: Marks::new(&stream.wanted), binary: stream.binary, in_stream: false }
    }

    #[inline]
    fn message(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let (&tag, payload) = payload.split_first().unwrap_or((&0, &[]));
        let Some(kind) = EventType::from_char(tag) else { anyhow::bail!("unknown tag {tag}") };
        match (tag, self.in_stream, self.binary) {
            (b'M' | b'A', ..) => {}
            (b'R', true, _) => {
                let payload = payload.get(4..).unwrap_or_default();
                read!(self, &kind, payload, BinaryValueTraitOff, StreamingValueTraitOff);
            }
            (_, true, false) => read!(self, &kind, payload, BinaryValueTraitOff, StreamingValueTraitOn),
            (_, true, true) => read!(self, &kind, payload, BinaryValueTraitOn, StreamingValueTraitOn),
            (_, false, false) => read!(self, &kind, payload, BinaryValueTraitOff, StreamingValueTraitOff),
            (_, false, true) => read!(self, &kind, payload, BinaryValueTraitOn, StreamingValueTraitOff),
        }
        Ok(())
    }
}

impl Decoder for Pgoutput {
    const NAME: &'static str = "pgoutput";

    fn take(&mut self, buffer: &mut BytesMut) -> anyhow::Result<()> {
        let mut at = 0;
        while let Some(end) = next_frame(&buffer[at..]) {
            self.message(&buffer[at + BEFORE_PAYLOAD..at + end])?;
            at += end;
        }
        buffer.advance(at);
        Ok(())
    }

    fn marks(&mut self) -> Vec<Option<i64>> {
        self.marks.found()
    }
}
