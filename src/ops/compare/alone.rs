//! Partitions that only the subscriber has: published leaf by leaf, no table of the publisher stands for them, and what they
//! hold would go unseen.
//!
//! In: the catalogs of both sides. Out: each such [`Leaf`], and later a report on it: whatever it holds is on the subscriber
//! only. A partitioned table that is published as its root is compared as one, and has none.

use std::collections::HashSet;

use super::Options;
use super::relations::load;
use super::report::TableReport;
use super::session::{Both, Stop};
use super::tables::{Sought, VERSION_COLUMN_LISTS, published, readable, role};
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::{QualifiedName, quote_identifier};

/// A partition without a counterpart.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) name: QualifiedName,
    /// The partitioned table, as the publisher calls it.
    of: QualifiedName,
    /// Columns that identify its rows; none: it has no key.
    key: Vec<String>,
    /// Why it cannot be read.
    refused: Option<String>,
}

/// A partitioned table of the publisher.
struct Parent {
    name: QualifiedName,
    /// Itself, or one above it, is in a publication: what is made below it later will be published, too.
    is_named: bool,
    /// Of them those that logical replication could bring.
    logged: HashSet<QualifiedName>,
    leaves: HashSet<QualifiedName>,
    /// Itself and those above it.
    ancestors: HashSet<QualifiedName>,
}

impl Parent {
    /// All of it is published, each leaf by its own name.
    fn is_published_by_leaves(&self, published: &HashSet<QualifiedName>) -> bool {
        self.ancestors.is_disjoint(published)
            && self.logged.is_subset(published)
            && (self.is_named || !self.logged.is_empty())
    }
}

/// Finds them. `wanted` says which tables are asked for.
///
/// # Errors
/// Those of either server.
pub(super) async fn find(
    both: &Both<'_>,
    sought: &Sought<'_>,
    wanted: impl Fn(&QualifiedName) -> bool,
) -> Result<Vec<Leaf>, SidesError> {
    let names = published(&both.publisher, sought.version, sought.publications).await?;
    let names: HashSet<QualifiedName> = names.into_keys().collect();
    let mut parents = parents(both, sought).await?;
    parents.retain(|parent| parent.is_published_by_leaves(&names));
    let renames = sought.settings.renames_by_publisher();
    let there = |name: &QualifiedName| renames.get(name).unwrap_or(name).clone();
    let counterparts: HashSet<QualifiedName> =
        names.iter().chain(parents.iter().flat_map(|parent| &parent.leaves)).map(there).collect();
    let role = role(&both.subscriber).await?;
    let mut found: Vec<Leaf> = Vec::new();
    for parent in &parents {
        for path in leaves(both, &there(&parent.name)).await? {
            // What a counterpart is cut into there is compared with it.
            let Some(name) = path.first() else { continue };
            let is_known = path.iter().any(|one| counterparts.contains(one));
            if is_known || !wanted(name) || found.iter().any(|leaf| leaf.name == *name) {
                continue;
            }
            let loaded = load(&both.subscriber, std::slice::from_ref(name)).await?;
            let Some(relation) = loaded.get(name) else { continue };
            let is_whole = |key: &&Vec<String>| {
                key.iter().all(|column| relation.column(column).is_some_and(|column| column.not_null))
            };
            found.push(Leaf {
                name: name.clone(),
                of: parent.name.clone(),
                key: relation.keys.iter().find(is_whole).cloned().unwrap_or_default(),
                refused: readable("subscriber", name, relation, &role).err(),
            });
        }
    }
    Ok(found)
}

async fn parents(both: &Both<'_>, sought: &Sought<'_>) -> Result<Vec<Parent>, SidesError> {
    // Schemas can be published since 15.
    let by_schema = if sought.version >= VERSION_COLUMN_LISTS {
        "OR EXISTS (SELECT FROM pg_publication_namespace s JOIN pg_class k ON k.relnamespace = s.pnnspid
                     WHERE s.pnpubid = p.oid AND k.oid IN (SELECT relid FROM pg_partition_ancestors(c.oid)))"
    } else {
        ""
    };
    let names = |condition: &str, function: &str| {
        let of = |column: &str| {
            format!(
                "ARRAY(SELECT {column}::text FROM {function}(c.oid) t JOIN pg_class k ON k.oid = t.relid
                         JOIN pg_namespace m ON m.oid = k.relnamespace WHERE {condition} ORDER BY k.oid)"
            )
        };
        format!("{}, {}", of("m.nspname"), of("k.relname"))
    };
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text,
                EXISTS (SELECT FROM pg_publication p WHERE p.pubname = ANY($1) AND (p.puballtables
                    OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid
                                  AND r.prrelid IN (SELECT relid FROM pg_partition_ancestors(c.oid)))
                    {by_schema})),
                {}, {}, {}
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind = 'p' AND c.relpersistence = 'p' ORDER BY c.oid",
        names("t.isleaf AND k.relkind = 'r' AND k.relpersistence = 'p'", "pg_partition_tree"),
        names("t.isleaf", "pg_partition_tree"),
        names("true", "pg_partition_ancestors"),
    );
    let side = Side::Publisher;
    let mut found = Vec::new();
    for row in side.rows(both.publisher.client(), &sql, &[&sought.publications]).await? {
        let set = |at: usize| -> Result<HashSet<QualifiedName>, SidesError> {
            let (schemas, names): (Vec<String>, Vec<String>) = (side.get(&row, at)?, side.get(&row, at + 1)?);
            Ok(schemas
                .into_iter()
                .zip(names)
                .map(|(schema, name)| QualifiedName::new(schema, name))
                .collect())
        };
        found.push(Parent {
            name: QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?),
            is_named: side.get(&row, 2)?,
            logged: set(3)?,
            leaves: set(5)?,
            ancestors: set(7)?,
        });
    }
    Ok(found)
}

/// The leaves of a partitioned table of the subscriber, each with what it is a partition of.
async fn leaves(both: &Both<'_>, of: &QualifiedName) -> Result<Vec<Vec<QualifiedName>>, SidesError> {
    let sql = "SELECT ARRAY(SELECT m.nspname::text FROM pg_partition_ancestors(t.relid) WITH ORDINALITY AS a (relid, i)
                              JOIN pg_class k ON k.oid = a.relid JOIN pg_namespace m ON m.oid = k.relnamespace ORDER BY i),
                      ARRAY(SELECT k.relname::text FROM pg_partition_ancestors(t.relid) WITH ORDINALITY AS a (relid, i)
                              JOIN pg_class k ON k.oid = a.relid ORDER BY i)
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                CROSS JOIN LATERAL pg_partition_tree(c.oid) t JOIN pg_class leaf ON leaf.oid = t.relid
                WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'p' AND t.isleaf AND leaf.relkind = 'r'
                ORDER BY leaf.oid";
    let side = Side::Subscriber;
    let rows = side.rows(both.subscriber.client(), sql, &[&of.schema, &of.name]).await?;
    let path = |row| -> Result<Vec<QualifiedName>, SidesError> {
        let (schemas, names): (Vec<String>, Vec<String>) = (side.get(row, 0)?, side.get(row, 1)?);
        Ok(schemas.into_iter().zip(names).map(|(schema, name)| QualifiedName::new(schema, name)).collect())
    };
    rows.iter().map(path).collect()
}

/// What they hold. A table that the publisher has been given since is not compared.
///
/// # Errors
/// Where a connection is lost.
pub(super) async fn reports(
    both: &Both<'_>,
    leaves: Vec<Leaf>,
    sought: &Sought<'_>,
    options: &Options,
) -> Result<Vec<TableReport>, SidesError> {
    let mut reports = Vec::new();
    for leaf in leaves {
        let name = leaf.name.to_string();
        reports.push(match held(both, &leaf, options.limit).await {
            Err(Stop::Everything(error)) => return Err(error),
            Err(Stop::Table(why)) => TableReport::not_compared(name, why),
            Ok((0, _)) => TableReport::alone(name, &leaf.of.to_string(), leaf.key, 0, Vec::new()),
            Ok((rows, keys)) => {
                // Rows that came from there came after the table was made.
                let still = find(both, sought, |name| *name == leaf.name).await?;
                if still.is_empty() {
                    let why = "it was made on the publisher meanwhile: run it again".to_owned();
                    TableReport::not_compared(name, why)
                } else {
                    TableReport::alone(name, &leaf.of.to_string(), leaf.key, rows, keys)
                }
            }
        });
    }
    Ok(reports)
}

/// How many rows, and the first keys.
async fn held(both: &Both<'_>, leaf: &Leaf, limit: usize) -> Result<(u64, Vec<Vec<String>>), Stop> {
    if let Some(why) = &leaf.refused {
        return Err(Stop::Table(why.clone()));
    }
    let Leaf { name, key, .. } = leaf;
    let counted = both.subscriber.rows(&format!("SELECT count(*) FROM ONLY {name}")).await?;
    let counted = counted.into_iter().flatten().flatten().next().unwrap_or_default();
    let rows = counted.parse::<u64>().unwrap_or(0);
    if rows == 0 {
        return Ok((rows, Vec::new()));
    }
    let columns: Vec<String> = key.iter().map(|column| quote_identifier(column)).collect();
    let (texts, order) = if columns.is_empty() {
        ("''".to_owned(), String::new())
    } else {
        let texts: Vec<String> = columns.iter().map(|column| format!("{column}::text")).collect();
        (texts.join(", "), format!(" ORDER BY {}", columns.join(", ")))
    };
    let sql = format!("SELECT {texts} FROM ONLY {name}{order} LIMIT {limit}");
    let keys = both.subscriber.rows(&sql).await?;
    Ok((rows, keys.into_iter().map(|row| row.into_iter().flatten().collect()).collect()))
}
