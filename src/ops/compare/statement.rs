//! The SQL that reads a table for comparison, the same for both sides but for the table's name.
//!
//! A row's text is `ROW(columns)::text`: made by each type's output function, NULL and '' told apart, quoted so that
//! no two rows have one text. Its digest is MD5 (SHA-256 where a server is in FIPS mode and has no MD5): unlike the
//! `hash…` functions its result is the same by definition on every major and every architecture. A chunk's checksum is
//! its row count and the sum of the first 64 bits of the digests. As the key is part of each row and the chunk is
//! bounded by keys, a sum says as much as a checksum in order would, and spares a sort that two servers with different
//! collations do not agree on. It is made to find accidents, not forgeries.
//!
//! Chunks are ranges of the key's leading columns where both servers order those the same way and have an index to
//! read them by; elsewhere buckets of the key's digest, all of which one scan reads.

use crate::ops::ask::Side;
use crate::types::{quote_identifier, quote_literal};

/// A key as text, one for each column; for a table without a key the digest of the whole row.
pub(super) type Key = Vec<String>;

/// How the digest of a text is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    /// One of the servers has no MD5.
    pub(super) sha256: bool,
    /// The servers' encodings differ.
    pub(super) convert: bool,
}

impl Digest {
    /// Hexadecimal digits of the digest of the text `expression`.
    fn of(self, expression: &str) -> String {
        match (self.sha256, self.convert) {
            (true, _) => format!("encode(sha256(convert_to({expression}, 'UTF8')), 'hex')"),
            (false, true) => format!("md5(convert_to({expression}, 'UTF8'))"),
            (false, false) => format!("md5({expression})"),
        }
    }
}

/// A table to be compared, as both sides have it.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// As SQL names it on the publisher, and for messages.
    pub(super) name: String,
    /// As SQL names it on the subscriber.
    pub(super) subscriber: String,
    /// What follows FROM, on either side: with ONLY where its children are tables of their own.
    pub(super) from: [String; 2],
    /// Those that are compared.
    pub(super) columns: Vec<String>,
    /// Columns of its key; none: it has no key.
    pub(super) key: Vec<String>,
    /// So many of the key's columns can be read by range.
    pub(super) ranged: usize,
    /// The publications' row filter.
    pub(super) filter: Option<String>,
    /// Rows, as the publisher's statistics have it.
    pub(super) estimate: u64,
    pub(super) digest: Digest,
}

/// Rows whose key is past `after` and not past `up_to`; open where there is no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) after: Option<Key>,
    pub(super) up_to: Option<Key>,
}

/// Of the rows whose digest falls into some of `modulus` buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Buckets {
    pub(super) modulus: u32,
    pub(super) remainders: Vec<u32>,
}

impl Buckets {
    /// All rows.
    pub(super) fn all() -> Self {
        Buckets { modulus: 1, remainders: vec![0] }
    }
}

impl Table {
    /// Whether its chunks are ranges of the key.
    pub(super) fn is_ranged(&self) -> bool {
        self.ranged > 0
    }

    fn from(&self, side: Side) -> &str {
        let [publisher, subscriber] = &self.from;
        match side {
            Side::Publisher => publisher,
            Side::Subscriber => subscriber,
        }
    }

    /// What decides whether an earlier run compared the same thing.
    pub(super) fn fingerprint(&self) -> String {
        format!(
            "{} = {}; columns {}; key {}, {} by range; filter {}; {:?}",
            self.name,
            self.subscriber,
            list(&self.columns, ""),
            list(&self.key, ""),
            self.ranged,
            self.filter.as_deref().unwrap_or("none"),
            self.digest
        )
    }

    fn row_digest(&self) -> String {
        self.digest.of(&format!("ROW({})::text", list(&self.columns, "")))
    }

    /// What rows are identified by.
    fn key_digest(&self) -> String {
        if self.key.is_empty() {
            return self.row_digest();
        }
        self.digest.of(&format!("ROW({})::text", list(&self.key, "")))
    }

    fn ranged_columns(&self) -> &[String] {
        self.key.get(..self.ranged).unwrap_or_default()
    }

    fn in_bucket(&self, buckets: &Buckets) -> Option<String> {
        if buckets.modulus <= 1 {
            return None;
        }
        let remainders: Vec<String> = buckets.remainders.iter().map(ToString::to_string).collect();
        let of = bucket(&self.key_digest(), buckets.modulus);
        Some(format!("{of} IN ({})", remainders.join(", ")))
    }

    fn conditions(&self, range: &Range, more: Option<String>) -> String {
        let columns = self.ranged_columns();
        let bound = |operator: &str, key: &Key| {
            format!(
                "({}) {operator} ({})",
                list(columns, ""),
                literals(key.get(..self.ranged).unwrap_or(key))
            )
        };
        let conditions: Vec<String> = [
            range.after.as_ref().map(|key| bound(">", key)),
            range.up_to.as_ref().map(|key| bound("<=", key)),
            self.filter.as_ref().map(|filter| format!("({filter})")),
            more,
        ]
        .into_iter()
        .flatten()
        .collect();
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
    }

    /// Gives the last key of every `every` rows, in the key's order.
    pub(super) fn bounds_sql(&self, every: u32) -> String {
        let columns = list(self.ranged_columns(), "");
        format!(
            "SELECT {} FROM (SELECT {columns}, row_number() OVER (ORDER BY {columns}) AS seqshadow_row FROM {}{}) r \
             WHERE seqshadow_row % {every} = 0 ORDER BY seqshadow_row",
            list(self.ranged_columns(), "::text"),
            self.from(Side::Publisher),
            self.conditions(&Range::default(), None)
        )
    }

    /// Gives bucket, row count and checksum for each bucket that has rows.
    pub(super) fn checksum_sql(&self, side: Side, range: &Range, buckets: &Buckets) -> String {
        let from = self.from(side);
        let sum =
            |digest: &str| format!("count(*), coalesce(sum(('x' || left({digest}, 16))::bit(64)::int8), 0)");
        let conditions = self.conditions(range, self.in_bucket(buckets));
        if buckets.modulus <= 1 {
            return format!("SELECT 0, {} FROM {from}{conditions}", sum(&self.row_digest()));
        }
        // OFFSET 0 keeps the digests from being made anew for each use.
        format!(
            "SELECT {}, {} FROM (SELECT {} AS d, {} AS k FROM {from}{conditions} OFFSET 0) r GROUP BY 1",
            bucket("k", buckets.modulus),
            sum("d"),
            self.row_digest(),
            self.key_digest(),
        )
    }

    /// Gives digest, row version and key of each row of these buckets, in the key's order.
    pub(super) fn rows_sql(&self, side: Side, range: &Range, buckets: &Buckets) -> String {
        let order =
            if self.is_ranged() { format!(" ORDER BY {}", list(&self.key, "")) } else { String::new() };
        format!(
            "SELECT {} FROM {}{}{order}",
            self.row_columns(),
            self.from(side),
            self.conditions(range, self.in_bucket(buckets))
        )
    }

    /// As [`rows_sql`](Self::rows_sql), of these keys.
    pub(super) fn keys_sql(&self, side: Side, keys: &[&Key]) -> String {
        let wanted = if self.key.is_empty() {
            let digests: Vec<String> = keys.iter().map(|key| literals(key)).collect();
            format!("{} IN ({})", self.key_digest(), digests.join(", "))
        } else {
            let keys: Vec<String> = keys.iter().map(|key| format!("({})", literals(key))).collect();
            format!("({}) IN ({})", list(&self.key, ""), keys.join(", "))
        };
        let conditions = self.conditions(&Range::default(), Some(wanted));
        format!("SELECT {} FROM {}{conditions}", self.row_columns(), self.from(side))
    }

    fn row_columns(&self) -> String {
        let key = if self.key.is_empty() { self.key_digest() } else { list(&self.key, "::text") };
        format!("left({}, 16), concat_ws(' ', tableoid, ctid, xmin), {key}", self.row_digest())
    }
}

fn bucket(digest: &str, modulus: u32) -> String {
    format!("(('x' || substr({digest}, 17, 8))::bit(32)::int8 % {modulus})")
}

fn list(columns: &[String], cast: &str) -> String {
    let columns: Vec<String> = columns.iter().map(|c| format!("{}{cast}", quote_identifier(c))).collect();
    columns.join(", ")
}

/// Untyped literals: the server reads each as what it is compared with.
fn literals(key: &[String]) -> String {
    let literals: Vec<String> = key.iter().map(|text| quote_literal(text)).collect();
    literals.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(key: &[&str], ranged: usize) -> Table {
        let texts = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
        Table {
            name: "public.t".to_owned(),
            subscriber: "public.u".to_owned(),
            from: ["ONLY public.t".to_owned(), "public.u".to_owned()],
            columns: texts(&["id", "Name"]),
            key: texts(key),
            ranged,
            filter: Some("id > 5".to_owned()),
            estimate: 0,
            digest: Digest { sha256: false, convert: false },
        }
    }

    #[test]
    fn a_range_is_read_by_the_leading_columns_of_the_key() {
        let range = Range { after: Some(vec!["1".to_owned()]), up_to: Some(vec!["o'x".to_owned()]) };
        assert_eq!(
            table(&["id", "Name"], 1).checksum_sql(Side::Subscriber, &range, &Buckets::all()),
            "SELECT 0, count(*), coalesce(sum(('x' || left(md5(ROW(id, \"Name\")::text), 16))::bit(64)::int8), 0) \
             FROM public.u WHERE (id) > ('1') AND (id) <= ('o''x') AND (id > 5)"
        );
    }

    #[test]
    fn without_a_key_the_row_is_its_own() {
        let sql = table(&[], 0).keys_sql(Side::Publisher, &[&vec!["ab".to_owned()]]);
        assert!(sql.ends_with("WHERE (id > 5) AND md5(ROW(id, \"Name\")::text) IN ('ab')"), "{sql}");
        assert!(sql.contains("FROM ONLY public.t"), "{sql}");
    }
}
