//! SQL in, rows out: what a test's closure is asked, and what it may say.

use super::session::Type;

/// A statement that a client wants run (or, with the extended protocol, first only described).
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its text.
    pub sql: String,
    /// Whether it came on a replication connection.
    pub replication: bool,
    /// Which connection it came on, from 0.
    pub connection: usize,
}

/// What a statement gets.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A result. `params` are the types of `$1`…, which clients that prepare want to know.
    Rows { params: Vec<Type>, columns: Vec<(String, Type)>, rows: Vec<Vec<Cell>> },
    /// Done, without a result: the command's tag.
    Done(String),
    /// An error, with its SQLSTATE.
    Error { code: String, message: String },
    /// An error after which the connection ends.
    Fatal { code: String, message: String },
    /// No answer at all, for ever.
    Silence,
}

/// A value; it must fit the type of its column.
#[derive(Clone, Debug)]
pub enum Cell {
    Null,
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Oid(u32),
    Text(String),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.to_owned())
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Cell::Int8(number)
    }
}

impl From<i32> for Cell {
    fn from(number: i32) -> Self {
        Cell::Int4(number)
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Cell::Bool(value)
    }
}

impl Answer {
    /// A result with these columns and rows.
    #[must_use]
    pub fn rows(columns: &[(&str, Type)], rows: Vec<Vec<Cell>>) -> Answer {
        let columns = columns.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect();
        Answer::Rows { params: Vec::new(), columns, rows }
    }

    /// The same result for a statement with parameters of these types.
    #[must_use]
    pub fn with_params(mut self, types: &[Type]) -> Answer {
        if let Answer::Rows { params, .. } = &mut self {
            *params = types.to_vec();
        }
        self
    }

    /// An error, as `Answer::error("42704", "…")`.
    #[must_use]
    pub fn error(code: &str, message: &str) -> Answer {
        Answer::Error { code: code.to_owned(), message: message.to_owned() }
    }

    /// What any publisher says to what any client asks; an error for the rest, so that a test notices.
    #[must_use]
    pub fn usual(ask: &Ask) -> Answer {
        let words: Vec<String> = ask.sql.split_whitespace().map(str::to_uppercase).collect();
        let text = |names: &[&str], values: &[&str]| {
            let columns: Vec<_> = names.iter().map(|name| (*name, Type::TEXT)).collect();
            Answer::rows(&columns, vec![values.iter().map(|value| Cell::from(*value)).collect()])
        };
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["IDENTIFY_SYSTEM", ..] | ["IDENTIFY_SYSTEM;", ..] => Answer::rows(
                &[
                    ("systemid", Type::TEXT),
                    ("timeline", Type::INT4),
                    ("xlogpos", Type::TEXT),
                    ("dbname", Type::TEXT),
                ],
                vec![vec!["7000000000000000001".into(), 1.into(), "0/1000".into(), "shop".into()]],
            ),
            ["CREATE_REPLICATION_SLOT", name, ..] => text(
                &["slot_name", "consistent_point", "snapshot_name", "output_plugin"],
                &[name.trim_matches('"').to_lowercase().as_str(), "0/1000", "", "pgoutput"],
            ),
            ["SHOW", name, ..] => {
                let name = name.trim_end_matches(';').to_lowercase();
                let value = match name.as_str() {
                    "server_version_num" => "170000",
                    "wal_level" => "logical",
                    "server_encoding" | "client_encoding" => "UTF8",
                    _ => "",
                };
                text(&[&name], &[value])
            }
            [first @ ("SET" | "BEGIN" | "COMMIT" | "ROLLBACK" | "DISCARD" | "DROP_REPLICATION_SLOT"), ..] => {
                Answer::Done((*first).to_owned())
            }
            _ => Answer::error("0A000", &format!("the test has no answer for: {}", ask.sql)),
        }
    }
}
