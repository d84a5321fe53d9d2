//! Which sequences can be followed in the stream alone, and which must be polled, with the reasons.
//!
//! In: a sequence of the subscriber and what the publications publish. Out: its [`Coverage`]. Pure.

use std::collections::{BTreeSet, HashMap};

use super::{Consumer, Readable, Sequence};
use crate::types::QualifiedName;

/// What the stream's publications say of one table (`pg_publication_tables`, `pg_publication`), for each kind of change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// `None` where inserts are not published.
    pub inserts: Option<Shown>,
    pub updates: Option<Shown>,
}

/// How much of the changes of one kind is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The published columns; `None` means all of them (no column list; always so before 15).
    pub columns: Option<BTreeSet<String>>,
    pub row_filter: bool,
}

impl Published {
    /// Two publications of the same table in one stream: what either shows is shown.
    #[must_use]
    pub fn union(self, other: Published) -> Published {
        Published {
            inserts: Shown::union(self.inserts, other.inserts),
            updates: Shown::union(self.updates, other.updates),
        }
    }
}

impl Shown {
    fn union(one: Option<Shown>, other: Option<Shown>) -> Option<Shown> {
        let (a, b) = match (one, other) {
            (Some(a), Some(b)) => (a, b),
            (one, other) => return one.or(other),
        };
        let columns = match (a.columns, b.columns) {
            (Some(a), Some(b)) => Some(a.union(&b).cloned().collect()),
            _ => None,
        };
        Some(Shown { columns, row_filter: a.row_filter && b.row_filter })
    }

    /// Whether a column is published.
    pub(crate) fn lists(&self, column: &str) -> bool {
        self.columns.as_ref().is_none_or(|listed| listed.contains(column))
    }
}

/// Whether the stream shows every id of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Every id that is inserted. `but` says which others nobody sees.
    Covered { but: Vec<String> },
    /// Followed by polling the publisher, because of these.
    Blind(Vec<String>),
}

/// Decides for `sequence`. `published` is keyed by the subscriber's table names; `None` where it could not be read.
#[must_use]
pub fn coverage(sequence: &Sequence, published: Option<&HashMap<QualifiedName, Published>>) -> Coverage {
    if sequence.definition.cycle {
        return Coverage::Blind(vec!["it may CYCLE, so no id is the furthest".to_owned()]);
    }
    if let Some(unknown) = sequence.unknown_column() {
        return Coverage::Blind(vec![unknown]);
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
    if !reasons.is_empty() {
        return Coverage::Blind(reasons.into_iter().collect());
    }
    let updates = sequence.consumers.iter().filter(has_rows);
    let but: BTreeSet<String> = updates.filter_map(|c| unseen_updates(c, sequence, published)).collect();
    Coverage::Covered { but: but.into_iter().collect() }
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
    let Some(publication) = publication_of(consumer, sequence, published) else {
        return Some(format!("{} is not published", consumer.table));
    };
    let Some(inserts) = &publication.inserts else {
        return Some(format!("inserts of {} are not published", consumer.table));
    };
    if !inserts.lists(&consumer.column) {
        return Some(format!("{column} is not in the publication's column list"));
    }
    inserts.row_filter.then(|| format!("{} is published with a row filter", consumer.table))
}

/// No index finds the furthest of such ids, so that no right and no index mends it.
pub(crate) const INSIDE_TEXT: &str = "they are inside text, which verify --full reads";

/// Of a publication without updates, the narrow one for instance, the ids that an UPDATE sets lie in the tables only:
/// those of the subscriber are looked at every minute, where that is cheap and permitted. (Else those of the publisher are,
/// where that is: whoever can tell takes these reasons back.)
fn unseen_updates(
    consumer: &Consumer,
    sequence: &Sequence,
    published: &HashMap<QualifiedName, Published>,
) -> Option<String> {
    let updates = publication_of(consumer, sequence, published)?.updates.as_ref();
    let is_shown = updates.is_some_and(|shown| !shown.row_filter && shown.lists(&consumer.column));
    if is_shown || consumer.numeric && consumer.indexed && consumer.selectable {
        return None;
    }
    let (table, column) = (&consumer.table, crate::types::quote_identifier(&consumer.column));
    let mend = if !consumer.numeric {
        INSIDE_TEXT.to_owned()
    } else if consumer.indexed {
        format!("on either server: GRANT SELECT ({column}) ON {table} TO the role we connect as")
    } else {
        format!("{column} has no index to read it by")
    };
    Some(format!("UPDATEs of {table} are not published in full, ids that they set are not seen; {mend}"))
}

/// What the publications say of the table of `consumer`, one of those of `sequence`.
pub(crate) fn publication_of<'a>(
    consumer: &Consumer,
    sequence: &Sequence,
    published: &'a HashMap<QualifiedName, Published>,
) -> Option<&'a Published> {
    // With publish_via_partition_root the rows of a partition come under the name of its root.
    let through_root = || ancestors(consumer, sequence).into_iter().find_map(|c| published.get(&c.table));
    published.get(&consumer.table).or_else(through_root)
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
