//! Rows with typed columns, put into messages by pgwire.

use std::sync::Arc;

use bytes::BytesMut;
use pgwire::api::Type;
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo};
use pgwire::error::PgWireResult;
use pgwire::messages::data::{FieldDescription, RowDescription};
use pgwire::messages::{Message, PgWireBackendMessage};

/// The type of a column, by PostgreSQL's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Int8,
    Bool,
    Float8,
}

/// One column of an answer.
pub(super) type Column = (&'static str, Kind);

/// One value; NULL where it is not known.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Text(Option<String>),
    Int8(Option<i64>),
    Bool(bool),
    Float8(Option<f64>),
}

/// Rows, made one after the other as they are sent.
pub(super) type Rows = Box<dyn Iterator<Item = Vec<Cell>> + Send>;

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::Text(Some(text))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(Some(text.to_owned()))
    }
}

impl From<Option<String>> for Cell {
    fn from(text: Option<String>) -> Self {
        Cell::Text(text)
    }
}

impl From<Option<i64>> for Cell {
    fn from(value: Option<i64>) -> Self {
        Cell::Int8(value)
    }
}

/// A count; the largest `int8` for what does not fit.
impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Cell::Int8(Some(i64::try_from(count).unwrap_or(i64::MAX)))
    }
}

impl From<Option<u64>> for Cell {
    fn from(count: Option<u64>) -> Self {
        count.map_or(Cell::Int8(None), Cell::from)
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Cell::Bool(value)
    }
}

impl From<Option<f64>> for Cell {
    fn from(value: Option<f64>) -> Self {
        Cell::Float8(value)
    }
}

/// What the columns are, with the format that the client wants for each: one for all, or one each.
pub(super) fn fields(columns: &[Column], formats: &[FieldFormat]) -> Arc<Vec<FieldInfo>> {
    let format = |index: usize| match formats {
        [one] => *one,
        many => many.get(index).copied().unwrap_or(FieldFormat::Text),
    };
    let field = |(index, (name, kind)): (usize, &Column)| {
        let (kind, size) = match kind {
            Kind::Text => (Type::TEXT, -1),
            Kind::Int8 => (Type::INT8, 8),
            Kind::Bool => (Type::BOOL, 1),
            Kind::Float8 => (Type::FLOAT8, 8),
        };
        FieldInfo::new((*name).to_owned(), None, None, kind, format(index)).with_type_size(size)
    };
    Arc::new(columns.iter().enumerate().map(field).collect())
}

/// Appends the message that says what the columns are.
pub(super) fn describe(fields: &[FieldInfo], out: &mut BytesMut) -> PgWireResult<()> {
    let fields = fields.iter().map(FieldDescription::from).collect();
    PgWireBackendMessage::RowDescription(RowDescription::new(fields)).encode(out)
}

/// Appends one row. It has as many cells as there are columns.
pub(super) fn row(encoder: &mut DataRowEncoder, cells: &[Cell], out: &mut BytesMut) -> PgWireResult<()> {
    for cell in cells {
        match cell {
            Cell::Text(text) => encoder.encode_field(text)?,
            Cell::Int8(value) => encoder.encode_field(value)?,
            Cell::Bool(value) => encoder.encode_field(value)?,
            Cell::Float8(value) => encoder.encode_field(value)?,
        }
    }
    encoder.take_row().encode(out)
}
