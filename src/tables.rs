//! The furthest id that lies in a table, read through an index, on either server.
//!
//! In: consumers with an index, the direction, and the limit past which an id may be an outlier. Out: the furthest id
//! within the limit and the furthest past it. A table that is locked, gone, not granted or slow (an index full of dead
//! rows) is left out, and said so; it delays the others by seconds at most.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use crate::catalog::{Consumer, Readable};
use crate::pgoutput::IdFormat;
use crate::readings::{Trouble, trouble};
use crate::sql::STATEMENT_TIMEOUT;
use crate::types::{quote_identifier, quote_literal};

/// The ways in which tables are asked, one after the other: how many in one statement, and how long it may take. What
/// one way does not answer is left to the next: first all that are quick alone, then the slow ones.
const WAYS: [(usize, Duration); 3] =
    [(100, Duration::from_secs(1)), (1, Duration::from_millis(250)), (1, Duration::from_secs(5))];

/// No statement begins later than this after the first. Well below what the callers wait for the whole.
const BUDGET: Duration = Duration::from_secs(15);

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

/// Asks `questions`; those that the server refuses, or does not answer in time, are in the second list.
///
/// # Errors
/// Only where the connection is lost.
pub async fn furthest(
    client: &Client,
    questions: &[Question<'_>],
) -> Result<(Vec<Answer>, Vec<(usize, Trouble)>), Error> {
    let deadline = Instant::now() + BUDGET;
    let mut found = Found::default();
    let mut open = questions.to_vec();
    for (size, patience) in WAYS {
        if open.is_empty() {
            break;
        }
        // Where time is short, it must not be the same tables that go without an answer at each reading.
        open.shuffle(&mut rand::rng());
        limit_statements(client, patience).await?;
        open = found.ask(client, &open, size, deadline).await?;
    }
    limit_statements(client, STATEMENT_TIMEOUT).await?;
    found.refused.extend(open.iter().map(|question| (question.key, Trouble::Locked)));
    Ok((found.answers, found.refused))
}

#[derive(Debug, Default)]
struct Found {
    answers: Vec<Answer>,
    refused: Vec<(usize, Trouble)>,
}

impl Found {
    /// Asks `size` at a time. Returns those that are to be asked in another way.
    async fn ask<'a>(
        &mut self,
        client: &Client,
        questions: &[Question<'a>],
        size: usize,
        deadline: Instant,
    ) -> Result<Vec<Question<'a>>, Error> {
        let mut open = Vec::new();
        let mut pending: Vec<&[Question<'a>]> = questions.chunks(size).collect();
        while let Some(batch) = pending.pop() {
            if Instant::now() >= deadline {
                open.extend_from_slice(batch);
                continue;
            }
            let error = match client.query(&statement(batch), &[]).await {
                Ok(rows) => {
                    for row in rows {
                        let key = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(usize::MAX);
                        self.answers.push(Answer { key, within: row.try_get(1)?, beyond: row.try_get(2)? });
                    }
                    continue;
                }
                Err(error) => error,
            };
            let took_too_long = error.code() == Some(&SqlState::QUERY_CANCELED);
            let why = trouble(&error).ok_or(error)?;
            match batch {
                [only] if !took_too_long => self.refused.push((only.key, why)),
                // Halving would wait for the slow or locked ones again and again.
                _ if why == Trouble::Locked => open.extend_from_slice(batch),
                _ => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    pending.extend([second, first]);
                }
            }
        }
        Ok(open)
    }
}

async fn limit_statements(client: &Client, timeout: Duration) -> Result<(), Error> {
    client.batch_execute(&format!("SET statement_timeout = {}", timeout.as_millis())).await
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

/// One column to look at row by row.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    pub consumer: &'a Consumer,
    pub descending: bool,
    pub limit: i64,
}

/// The furthest ids in a column without an index, or inside text: within the limit, and past it. Takes as long as the
/// table is large. The inner error is the server's refusal, in its words.
///
/// # Errors
/// Only where the connection is lost.
pub async fn scan(
    client: &Client,
    scan: Scan<'_>,
) -> Result<Result<(Option<i64>, Option<i64>), String>, Error> {
    let Scan { consumer, descending, limit } = scan;
    let (table, column) = (&consumer.table, quote_identifier(&consumer.column));
    let ids = match &consumer.readable {
        Readable::Yes(IdFormat::Affix { prefix, suffix }) => {
            let (prefix, suffix) = (String::from_utf8_lossy(prefix), String::from_utf8_lossy(suffix));
            let digits = format!(
                "substr({column}, {} + 1, length({column}) - {})",
                prefix.chars().count(),
                prefix.chars().count() + suffix.chars().count()
            );
            format!(
                "SELECT {digits}::numeric AS id FROM ONLY {table} WHERE left({column}, {p}) = {prefix} \
                 AND right({column}, {s}) = {suffix} AND length({column}) > {p} + {s} \
                 AND CASE WHEN length({column}) > {p} + {s} THEN {digits} ~ '^-?[0-9]{{1,30}}$' ELSE false END",
                p = prefix.chars().count(),
                s = suffix.chars().count(),
                prefix = quote_literal(&prefix),
                suffix = quote_literal(&suffix),
            )
        }
        _ => format!("SELECT {column}::numeric AS id FROM ONLY {table}"),
    };
    let (furthest, within) = if descending { ("min", ">=") } else { ("max", "<=") };
    let sql = format!(
        "SELECT {furthest}(id) FILTER (WHERE id {within} {limit})::int8, \
                {furthest}(id) FILTER (WHERE NOT id {within} {limit})::int8 \
           FROM ({ids}) AS found WHERE id BETWEEN {} AND {}",
        i64::MIN,
        i64::MAX
    );
    client.batch_execute("SET statement_timeout = 0").await?;
    let found = client.query_one(&sql, &[]).await;
    limit_statements(client, STATEMENT_TIMEOUT).await?;
    match found {
        Ok(row) => Ok(Ok((row.try_get(0)?, row.try_get(1)?))),
        Err(error) if trouble(&error).is_some() => Ok(Err(crate::sql::describe(&error))),
        Err(error) => Err(error),
    }
}
