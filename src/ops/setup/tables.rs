//! Which tables and columns the narrow publication shows.
//!
//! In: the columns of the subscriber that take their values from a sequence we manage, and the publisher's tables of these
//! names. Out: the [`Wanted`] tables under the names that the stream will use, and what cannot be shown, with the reason.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tokio_postgres::Client;

use crate::catalog::{Catalog, Consumer, Persistence, Readable, Sequence};
use crate::config::Settings;
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::{Oid, QualifiedName, quote_identifier};

/// Partitioned tables can be published, and their partitions' rows under their name.
const VERSION_PARTITION_ROOT: u32 = 130_000;

/// Publications can list columns.
pub(super) const VERSION_COLUMN_LISTS: u32 = 150_000;

/// What is to be published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub tables: BTreeMap<QualifiedName, Table>,
    /// What is not, and why.
    pub skipped: Vec<String>,
}

/// One table of the publisher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub columns: BTreeSet<String>,
    pub partitioned: bool,
    /// Our role has the rights of its owner.
    pub owned: bool,
    pub owner: String,
}

impl Wanted {
    /// The rows of partitions are to come under the name of the table that is published. For one without partitions this
    /// changes nothing; a partitioned one may not have a column list without it.
    pub(super) fn through_root(&self) -> bool {
        self.tables.values().any(|table| table.partitioned)
    }

    pub(super) fn columns(&self) -> usize {
        self.tables.values().map(|table| table.columns.len()).sum()
    }

    /// What comes after `TABLE`. `ONLY`: tables that inherit are listed by themselves, with columns of their own.
    pub(super) fn list(&self, version: u32) -> String {
        let one = |(name, table): (&QualifiedName, &Table)| {
            if version < VERSION_COLUMN_LISTS {
                return format!("ONLY {name}");
            }
            let columns: Vec<String> = table.columns.iter().map(|c| quote_identifier(c)).collect();
            format!("ONLY {name} ({})", columns.join(", "))
        };
        self.tables.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// A column of the subscriber whose ids are to be shown, by the publisher's names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    table: QualifiedName,
    name: String,
    /// The partitioned tables above it on the subscriber.
    above: BTreeSet<QualifiedName>,
}

/// A table of the publisher, as it is found there.
#[derive(Clone, Debug, Default)]
struct Relation {
    oid: Oid,
    partitioned: bool,
    /// Why it cannot be published at all.
    unfit: Option<&'static str>,
    columns: BTreeSet<String>,
    /// Partitioned tables above it, the nearest first.
    above: Vec<Oid>,
    owned: bool,
    owner: String,
}

/// Sequences of the subscriber that ids can be followed for.
pub(super) fn managed<'a>(catalog: &'a Catalog, settings: &Settings) -> Vec<&'a Sequence> {
    let is_managed = |s: &&Sequence| s.persistence == Persistence::Permanent && !settings.excludes(&s.name);
    catalog.sequences.iter().filter(is_managed).collect()
}

/// Finds what is to be published for the sequences `managed`.
///
/// # Errors
/// Where the publisher cannot be asked.
pub(super) async fn wanted(
    publisher: &Client,
    version: u32,
    managed: &[&Sequence],
    settings: &Settings,
) -> Result<Wanted, SidesError> {
    let columns = columns(managed, settings);
    let relations = relations(publisher, &columns).await?;
    Ok(choose(&columns, &relations, version))
}

/// A sequence that may cycle is not followed by ids, nor is a column out of which none can be read.
fn columns(managed: &[&Sequence], settings: &Settings) -> Vec<Column> {
    let renames: HashMap<&QualifiedName, &QualifiedName> =
        settings.renames.iter().map(|r| (&r.subscriber, &r.publisher)).collect();
    let there = |name: &QualifiedName| renames.get(name).map_or_else(|| name.clone(), |n| (*n).clone());
    let mut found = Vec::new();
    for sequence in managed.iter().filter(|s| !s.definition.cycle) {
        let is_shown = |c: &&Consumer| !matches!(c.readable, Readable::No(_));
        for consumer in sequence.consumers.iter().filter(is_shown) {
            let mut above = BTreeSet::new();
            let mut below = vec![consumer];
            while let Some(child) = below.pop() {
                let parents = sequence.consumers.iter().filter(|c| child.parents.contains(&c.table_oid));
                for parent in parents.filter(|c| c.partitioned && c.column == consumer.column) {
                    if above.insert(there(&parent.table)) {
                        below.push(parent);
                    }
                }
            }
            found.push(Column { table: there(&consumer.table), name: consumer.column.clone(), above });
        }
    }
    found
}

async fn relations(
    publisher: &Client,
    columns: &[Column],
) -> Result<HashMap<QualifiedName, Relation>, SidesError> {
    let names: BTreeSet<&QualifiedName> = columns.iter().map(|c| &c.table).collect();
    let schemas: Vec<&str> = names.iter().map(|n| n.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|n| n.name.as_str()).collect();
    let sql = "
        SELECT n.nspname::text, c.relname::text, c.oid, c.relkind::text, c.relpersistence::text,
               ARRAY(SELECT a.attname::text FROM pg_attribute a
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
               ARRAY(SELECT p.relid::oid FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS p(relid, nr)
                      WHERE p.relid <> c.oid ORDER BY p.nr),
               pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner)::text
          FROM unnest($1::text[], $2::text[]) AS w(s, t)
          JOIN pg_namespace n ON n.nspname = w.s
          JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t";
    let side = Side::Publisher;
    let mut found = HashMap::new();
    for row in side.rows(publisher, sql, &[&schemas, &tables]).await? {
        let kind: String = side.get(&row, 3)?;
        let persistence: String = side.get(&row, 4)?;
        let unfit = match (kind.as_str(), persistence.as_str()) {
            ("r" | "p", "p") => None,
            ("r" | "p", "u") => Some("an unlogged table, which is never replicated"),
            ("f", _) => Some("a foreign table, which is never replicated"),
            _ => Some("no table"),
        };
        let above: Vec<u32> = side.get(&row, 6)?;
        let columns: Vec<String> = side.get(&row, 5)?;
        let relation = Relation {
            oid: Oid(side.get(&row, 2)?),
            partitioned: kind == "p",
            unfit,
            columns: columns.into_iter().collect(),
            above: above.into_iter().map(Oid).collect(),
            owned: side.get(&row, 7)?,
            owner: side.get(&row, 8)?,
        };
        let name = QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?);
        found.insert(name, relation);
    }
    Ok(found)
}

/// From 13 on a partitioned table is published itself, and its partitions through it: those that come later too. Before,
/// only its partitions can be.
fn choose(columns: &[Column], relations: &HashMap<QualifiedName, Relation>, version: u32) -> Wanted {
    let roots = version >= VERSION_PARTITION_ROOT;
    let by_oid: HashMap<Oid, &QualifiedName> = relations.iter().map(|(name, r)| (r.oid, name)).collect();
    let has_listed_partition: HashSet<Oid> =
        relations.values().filter(|r| !r.partitioned).flat_map(|r| r.above.iter().copied()).collect();
    let mut wanted = Wanted::default();
    let mut skipped = BTreeSet::new();
    for column in columns {
        let name = &column.table;
        let Some(relation) = relations.get(name) else {
            if !column.above.iter().any(|above| relations.contains_key(above)) {
                skipped.insert(format!("{name}: there is no such table on the publisher"));
            }
            continue;
        };
        if let Some(unfit) = relation.unfit {
            skipped.insert(format!("{name}: on the publisher it is {unfit}"));
            continue;
        }
        if !relation.columns.contains(&column.name) {
            let column = quote_identifier(&column.name);
            skipped.insert(format!("{name}: there is no column {column} on the publisher"));
            continue;
        }
        if relation.partitioned && !roots {
            if !has_listed_partition.contains(&relation.oid) {
                skipped.insert(format!(
                    "{name}: it is partitioned, PostgreSQL 12 publishes partitions only, and the subscriber has none \
                     of these names"
                ));
            }
            continue;
        }
        // The topmost that the stream is watched for: the subscriber has it under this name.
        let topmost = relation.above.iter().rev().filter(|_| roots).find_map(|oid| by_oid.get(oid).copied());
        let name = topmost.unwrap_or(name);
        let Some(relation) = relations.get(name) else { continue };
        let table = wanted.tables.entry(name.clone()).or_insert_with(|| Table {
            columns: BTreeSet::new(),
            partitioned: relation.partitioned,
            owned: relation.owned,
            owner: relation.owner.clone(),
        });
        table.columns.insert(column.name.clone());
    }
    wanted.skipped = skipped.into_iter().collect();
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> QualifiedName {
        QualifiedName::new("public", name)
    }

    fn column(table: &str, above: &[&str]) -> Column {
        Column {
            table: name(table),
            name: "id".to_owned(),
            above: above.iter().map(|above| name(above)).collect(),
        }
    }

    fn relation(oid: u32, partitioned: bool, above: &[u32]) -> Relation {
        Relation {
            oid: Oid(oid),
            partitioned,
            columns: ["id", "note"].map(str::to_owned).into(),
            above: above.iter().copied().map(Oid).collect(),
            ..Relation::default()
        }
    }

    fn chosen(
        columns: &[Column],
        relations: &[(&str, Relation)],
        version: u32,
    ) -> (Vec<String>, Vec<String>) {
        let relations = relations.iter().map(|(table, r)| (name(table), r.clone())).collect();
        let wanted = choose(columns, &relations, version);
        (wanted.tables.keys().map(|name| name.name.clone()).collect(), wanted.skipped)
    }

    #[test]
    fn a_partitioned_table_is_published_as_one_where_that_is_possible() {
        let columns = [column("root", &[]), column("leaf", &["root"]), column("plain", &[])];
        let there = [
            ("root", relation(1, true, &[])),
            ("leaf", relation(2, false, &[1])),
            ("plain", relation(3, false, &[])),
        ];
        assert_eq!(chosen(&columns, &there, 130_000).0, ["plain", "root"]);
        let (tables, skipped) = chosen(&columns, &there, 120_000);
        assert_eq!(tables, ["leaf", "plain"]);
        assert!(skipped.is_empty(), "{skipped:?}");
    }

    #[test]
    fn what_the_subscriber_does_not_have_is_not_published_and_its_own_partitions_are_not_missed() {
        // The publisher's root (9) has another name than anything here.
        let columns = [column("leaf", &[]), column("orders", &[]), column("orders_1", &["orders"])];
        let there = [("leaf", relation(2, false, &[9])), ("orders", relation(3, false, &[]))];
        let (tables, skipped) = chosen(&columns, &there, 170_000);
        assert_eq!(tables, ["leaf", "orders"]);
        assert!(skipped.is_empty(), "{skipped:?}");
        let (_, skipped) = chosen(&[column("gone", &[])], &there, 170_000);
        assert_eq!(skipped, ["public.gone: there is no such table on the publisher"]);
    }

    #[test]
    fn names_are_quoted_and_old_servers_get_whole_tables() {
        let mut wanted = Wanted::default();
        let columns = ["Id", "user"].map(str::to_owned).into();
        wanted.tables.insert(QualifiedName::new("Größe", "a\"b"), Table { columns, ..Table::default() });
        assert_eq!(wanted.list(150_000), "ONLY \"Größe\".\"a\"\"b\" (\"Id\", \"user\")");
        assert_eq!(wanted.list(140_000), "ONLY \"Größe\".\"a\"\"b\"");
    }
}
