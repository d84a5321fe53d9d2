//! The furthest id that lies in a table, read through an index, on either server.
//!
//! In: consumers with an index, the direction, and the limit past which an id may be an outlier. Out: the furthest id
//! within the limit and the furthest past it. A table that is locked, gone or not granted is left out, and said so.

use std::fmt::Write as _;

use tokio_postgres::{Client, Error};

use crate::catalog::Consumer;
use crate::readings::{Trouble, trouble};
use crate::types::quote_identifier;

/// How many tables are asked for in one statement.
const BATCH: usize = 100;

/// One column to look at.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The caller's own number, returned with the answer.
    pub key: usize,
    pub consumer: &'a Consumer,
    pub descending: bool,
    pub limit: i64,
}

/// What lies in one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub key: usize,
    pub within: Option<i64>,
    pub beyond: Option<i64>,
}

/// Whether a consumer's furthest value is cheap to read.
#[must_use]
pub fn is_cheap(consumer: &Consumer) -> bool {
    consumer.indexed && consumer.numeric && consumer.selectable && !consumer.partitioned
}

/// Asks `questions`; those that the server refuses are in the second list.
///
/// # Errors
/// Only where the connection is lost.
pub async fn furthest(
    client: &Client,
    questions: &[Question<'_>],
) -> Result<(Vec<Answer>, Vec<(usize, Trouble)>), Error> {
    let mut answers = Vec::with_capacity(questions.len());
    let mut refused = Vec::new();
    let mut pending: Vec<&[Question<'_>]> = questions.chunks(BATCH).rev().collect();
    while let Some(batch) = pending.pop() {
        match client.query(&statement(batch), &[]).await {
            Ok(rows) => {
                for row in rows {
                    let key = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(usize::MAX);
                    answers.push(Answer { key, within: row.try_get(1)?, beyond: row.try_get(2)? });
                }
            }
            Err(error) => {
                let why = trouble(&error).ok_or(error)?;
                if let [only] = batch {
                    refused.push((only.key, why));
                } else {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    pending.push(second);
                    pending.push(first);
                }
            }
        }
    }
    Ok((answers, refused))
}

fn statement(batch: &[Question<'_>]) -> String {
    let mut sql = String::new();
    for Question { key, consumer, descending, limit } in batch {
        let union = if sql.is_empty() { "" } else { " UNION ALL " };
        let column = quote_identifier(&consumer.column);
        let table = &consumer.table;
        let (furthest, within, beyond) = if *descending { ("min", ">=", "<") } else { ("max", "<=", ">") };
        // numeric columns may hold what bigint cannot: such a value is nobody's id.
        let (lowest, highest) = (i64::MIN, i64::MAX);
        let part = |comparison: &str| {
            format!(
                "(SELECT {furthest}({column}) FROM ONLY {table} WHERE {column} {comparison} '{limit}'::int8 \
                 AND {column} BETWEEN '{lowest}'::int8 AND '{highest}'::int8)::int8"
            )
        };
        // Writing to a String cannot fail.
        let _ = write!(sql, "{union}SELECT {key}::int8, {}, {}", part(within), part(beyond));
    }
    sql
}
