//! What was found, as it is printed with `--json`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Options;
use super::chunks::Course;
use super::settle::Case;
use super::statement::Key;
use super::suspect::Kind;
use crate::demo::text::counted;
use crate::types::Lsn;

/// The name and version of the JSON that is printed.
pub const SCHEMA: &str = "seqshadow.compare/1";

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    /// The publisher's WAL position: everything committed before was there to be compared.
    pub publisher_lsn: String,
    /// Whether the publisher tells how far the subscription has applied.
    pub progress_known: bool,
    /// Percent of the chunks that were compared; `null`: all of them.
    pub sample: Option<f64>,
    /// Whether every table is equal, as far as it was to be compared.
    pub equal: bool,
    pub tables: Vec<TableReport>,
}

/// What became of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Equal,
    Differs,
    /// Nobody knows, for the reason given.
    NotCompared,
}

impl Status {
    /// As tables for people have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Equal => "equal",
            Status::Differs => "differs",
            Status::NotCompared => "not compared",
        }
    }
}

/// One table.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    /// On the publisher, quoted where SQL needs it.
    pub table: String,
    /// The name on the subscriber, where it is another.
    pub subscriber_table: Option<String>,
    pub status: Status,
    /// Why it was not compared, or differs as a whole.
    pub reason: Option<String>,
    /// Columns of the key by which rows are told apart; empty: the table has none.
    pub key: Vec<String>,
    /// Rows in the chunks that were compared, in the publisher's snapshot, and on the subscriber then.
    pub publisher_rows: u64,
    pub subscriber_rows: u64,
    pub chunks: u32,
    pub chunks_compared: usize,
    /// Of these, found equal by an earlier run.
    pub chunks_resumed: u64,
    /// The first rows that differ, by key.
    pub differences: Vec<Difference>,
    /// There are more of them, or may be.
    pub more: bool,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub kind: Kind,
    /// Column and value; `null` where the table has no key.
    pub key: Option<BTreeMap<String, String>>,
}

impl Comparison {
    pub(super) fn new(lsn: Lsn, sample: Option<f64>, progress_known: bool) -> Self {
        Comparison {
            schema: SCHEMA,
            at: crate::ops::now(),
            publisher_lsn: lsn.to_string(),
            progress_known,
            sample,
            equal: false,
            tables: Vec::new(),
        }
    }

    pub(super) fn conclude(&mut self, mut tables: Vec<TableReport>) {
        tables.sort_by(|a, b| a.table.cmp(&b.table));
        self.equal = tables.iter().all(|table| table.status == Status::Equal);
        self.tables = tables;
    }
}

impl TableReport {
    /// One that could not be compared.
    pub(super) fn not_compared(table: String, why: String) -> Self {
        TableReport {
            table,
            subscriber_table: None,
            status: Status::NotCompared,
            reason: Some(why),
            key: Vec::new(),
            publisher_rows: 0,
            subscriber_rows: 0,
            chunks: 0,
            chunks_compared: 0,
            chunks_resumed: 0,
            differences: Vec::new(),
            more: false,
        }
    }

    /// A partition that only the subscriber has: it is as it should be if it holds no row. `keys` are the first of them.
    pub(super) fn alone(table: String, parent: &str, key: Vec<String>, rows: u64, keys: Vec<Key>) -> Self {
        let status = if rows == 0 { Status::Equal } else { Status::Differs };
        let reason = (rows > 0).then(|| {
            let rows = counted(rows, "row");
            format!(
                "only the subscriber has this partition of {parent}, with {rows}: make it on the publisher and bring them \
                 there, or DELETE them"
            )
        });
        let of = |found: Key| Difference { kind: Kind::Extra, key: named(&key, found) };
        let differences: Vec<Difference> = keys.into_iter().map(of).collect();
        TableReport {
            status,
            reason,
            subscriber_rows: rows,
            chunks: 1,
            chunks_compared: 1,
            more: u64::try_from(differences.len()).is_ok_and(|named| named < rows),
            differences,
            key,
            ..TableReport::not_compared(table, String::new())
        }
    }

    /// Sums up.
    pub(super) fn of(course: Course, mut case: Case, options: &Options) -> Self {
        let chunks = course.chunks();
        let table = course.table;
        case.differences.sort_by(|(a_kind, a), (b_kind, b)| compare(a, b).then(a_kind.cmp(b_kind)));
        let found = case.differences.len();
        let differences: Vec<Difference> = case
            .differences
            .into_iter()
            .take(options.limit)
            .map(|(kind, key)| Difference { kind, key: named(&table.key, key) })
            .collect();
        let (status, reason) = match course.stopped {
            _ if found > 0 => (Status::Differs, None),
            Some(why) => (Status::NotCompared, Some(why)),
            None if case.restless > 0 => {
                let why = "rows of it were different at each look, and changed between the looks: run it again when \
                           less is written, or with a longer --wait";
                (Status::NotCompared, Some(why.to_owned()))
            }
            None => (Status::Equal, None),
        };
        TableReport {
            subscriber_table: Some(table.subscriber).filter(|other| *other != table.name),
            table: table.name,
            status,
            reason,
            key: table.key,
            publisher_rows: course.publisher_rows,
            subscriber_rows: course.subscriber_rows,
            chunks,
            chunks_compared: course.chosen.len(),
            chunks_resumed: course.resumed,
            more: found > differences.len() || case.more || found > 0 && case.restless > 0,
            differences,
        }
    }
}

fn named(columns: &[String], key: Key) -> Option<BTreeMap<String, String>> {
    if columns.is_empty() {
        return None;
    }
    Some(columns.iter().cloned().zip(key).collect())
}

/// As people order keys: numbers as numbers.
fn compare(a: &Key, b: &Key) -> std::cmp::Ordering {
    let number = |text: &String| text.parse::<i128>().ok();
    a.iter()
        .zip(b)
        .map(|(a, b)| match (number(a), number(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.cmp(b),
        })
        .find(|order| order.is_ne())
        .unwrap_or(std::cmp::Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn programs_find_what_the_schema_promises() {
        let mut report = TableReport::not_compared("public.t".to_owned(), "why".to_owned());
        report
            .differences
            .push(Difference { kind: Kind::Missing, key: named(&["id".to_owned()], vec!["7".to_owned()]) });
        report.differences.push(Difference { kind: Kind::Extra, key: named(&[], vec!["ab".to_owned()]) });
        let mut comparison = Comparison::new(Lsn(0x16_B374_D848), Some(5.0), true);
        comparison.at = "2026-11-21T16:00:00Z".to_owned();
        comparison.conclude(vec![report]);
        let expected = json!({
            "schema": "seqshadow.compare/1", "at": "2026-11-21T16:00:00Z", "publisher_lsn": "16/B374D848",
            "progress_known": true, "sample": 5.0, "equal": false,
            "tables": [{
                "table": "public.t", "subscriber_table": null, "status": "not_compared", "reason": "why", "key": [],
                "publisher_rows": 0, "subscriber_rows": 0, "chunks": 0, "chunks_compared": 0, "chunks_resumed": 0,
                "differences": [{"kind": "missing", "key": {"id": "7"}}, {"kind": "extra", "key": null}],
                "more": false,
            }],
        });
        assert_eq!(serde_json::to_value(&comparison).unwrap(), expected);
    }

    #[test]
    fn keys_are_in_the_order_of_people() {
        let key = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Key>();
        assert!(compare(&key(&["9"]), &key(&["10"])).is_lt());
        assert!(compare(&key(&["1", "b"]), &key(&["1", "a"])).is_gt());
        assert!(compare(&key(&["x"]), &key(&["x"])).is_eq());
    }
}
