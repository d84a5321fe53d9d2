//! Which sequences can be followed in the stream alone, and which must be polled, with the reasons.
//!
//! In: a sequence of the subscriber and what the publications publish. Out: its [`Coverage`]. Pure.

use std::collections::{BTreeSet, HashMap};

use super::{Consumer, Readable, Sequence};
use crate::types::QualifiedName;

/// What the stream's publications say of one table (`pg_publication_tables`, `pg_publication`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The published columns; `None` means all of them (no column list; always so before 15).
    pub columns: Option<BTreeSet<String>>,
    pub row_filter: bool,
    pub inserts: bool,
}

/// Whether the stream shows every id of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    Covered,
    /// Followed by polling the publisher, because of these.
    Blind(Vec<String>),
}

/// Decides for `sequence`. `published` is keyed by the subscriber's table names; `None` where it could not be read.
#[must_use]
pub fn coverage(sequence: &Sequence, published: Option<&HashMap<QualifiedName, Published>>) -> Coverage {
    if sequence.definition.cycle {
        return Coverage::Blind(vec!["it may CYCLE, so no id is the furthest".to_owned()]);
    }
    if sequence.consumers.is_empty() {
        return Coverage::Blind(vec!["no column takes its values from it".to_owned()]);
    }
    let Some(published) = published else {
        return Coverage::Blind(vec![
            "a published table is locked on the publisher, what is published will be read later".to_owned(),
        ]);
    };
    let has_rows = |c: &&Consumer| !c.partitioned || sequence.consumers.iter().all(|other| other.partitioned);
    let reasons: BTreeSet<String> = sequence
        .consumers
        .iter()
        .filter(has_rows)
        .filter_map(|consumer| unseen(consumer, sequence, published))
        .collect();
    if reasons.is_empty() { Coverage::Covered } else { Coverage::Blind(reasons.into_iter().collect()) }
}

/// Why the ids of `consumer` are not all seen.
fn unseen(
    consumer: &Consumer,
    sequence: &Sequence,
    published: &HashMap<QualifiedName, Published>,
) -> Option<String> {
    let column = format!("{}.{}", consumer.table, crate::types::quote_identifier(&consumer.column));
    match consumer.readable {
        Readable::Yes(_) => {}
        Readable::No(why) => return Some(format!("{column}: {why}")),
        Readable::NotNow => {
            return Some(format!("{} is locked, its default will be read later", consumer.table));
        }
    }
    // With publish_via_partition_root the rows of a partition come under the name of its root.
    let through_root = || ancestors(consumer, sequence).into_iter().find_map(|c| published.get(&c.table));
    let Some(publication) = published.get(&consumer.table).or_else(through_root) else {
        return Some(format!("{} is not published", consumer.table));
    };
    if !publication.inserts {
        return Some(format!("inserts of {} are not published", consumer.table));
    }
    if publication.columns.as_ref().is_some_and(|listed| !listed.contains(&consumer.column)) {
        return Some(format!("{column} is not in the publication's column list"));
    }
    publication.row_filter.then(|| format!("{} is published with a row filter", consumer.table))
}

/// The partitioned tables above `consumer` whose same column is a consumer too, so that the stream is watched for it.
fn ancestors<'a>(consumer: &'a Consumer, sequence: &'a Sequence) -> Vec<&'a Consumer> {
    let mut found: Vec<&Consumer> = Vec::new();
    let mut below = vec![consumer];
    while let Some(child) = below.pop() {
        let above = |c: &&Consumer| {
            c.partitioned && c.column == consumer.column && child.parents.contains(&c.table_oid)
        };
        for parent in sequence.consumers.iter().filter(above) {
            if !found.iter().any(|known| known.table_oid == parent.table_oid) {
                found.push(parent);
                below.push(parent);
            }
        }
    }
    found
}
