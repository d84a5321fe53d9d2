//! What one server's catalog says of the tables to be compared.

use std::collections::HashMap;

use super::session::Session;
use crate::sides::SidesError;
use crate::types::QualifiedName;

/// A table.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) oid: u32,
    kind: String,
    pub(super) schema_usable: bool,
    pub(super) readable: bool,
    /// Rows, as the statistics have it.
    pub(super) estimate: u64,
    /// What it is a partition of, at every level.
    pub(super) ancestors: Vec<u32>,
    pub(super) columns: Vec<Column>,
    /// Columns of its unique indexes, the best first: primary key, replica identity, others.
    pub(super) keys: Vec<Vec<String>>,
    /// Leading columns of the indexes that give an order.
    pub(super) indexes: Vec<Vec<String>>,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) generated: bool,
    pub(super) not_null: bool,
    /// Columns with the same word here are in the same order on every server; `None`: who knows.
    pub(super) order: Option<String>,
}

impl Relation {
    /// A column by its name.
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// What follows FROM: the children of an ordinary table are tables of their own.
    pub(super) fn from(&self, name: &QualifiedName) -> String {
        if self.kind == "r" { format!("ONLY {name}") } else { name.to_string() }
    }
}

const RELATIONS: &str = "
SELECT n.nspname::text, c.relname::text, c.oid, c.relkind::text, has_schema_privilege(n.oid, 'USAGE'),
       has_table_privilege(c.oid, 'SELECT'),
       (SELECT coalesce(sum(greatest(k.reltuples, 0)), 0)::int8 FROM pg_class k
         WHERE k.oid = c.oid AND c.relkind <> 'p'
            OR k.relkind <> 'p' AND k.oid IN (SELECT relid FROM pg_partition_tree(c.oid))),
       ARRAY(SELECT relid::oid FROM pg_partition_ancestors(c.oid) WHERE relid <> c.oid)
  FROM unnest($1::text[], $2::text[]) AS wanted (schema, name)
  JOIN pg_namespace n ON n.nspname = wanted.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
 WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm')";

/// Enums and other types are left out on purpose: what orders them may differ, or be in another order.
const COLUMNS: &str = "
WITH RECURSIVE base (relation, number, type) AS (
    SELECT attrelid, attnum, atttypid FROM pg_attribute
     WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT b.relation, b.number, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd')
SELECT a.attrelid, a.attname::text, a.attgenerated <> '', a.attnotnull,
       CASE WHEN t.typnamespace <> 'pg_catalog'::regnamespace THEN NULL
            WHEN t.typname IN ('int2', 'int4', 'int8') THEN 'integer'
            WHEN t.typname IN ('numeric', 'oid', 'uuid', 'date', 'time', 'timestamp', 'timestamptz', 'bytea', 'bool',
                               'float4', 'float8', 'inet', 'macaddr', 'macaddr8', 'name') THEN t.typname::text
            WHEN t.typname IN ('text', 'varchar', 'bpchar') AND (
                l.collname IN ('C', 'POSIX') AND l.collnamespace = 'pg_catalog'::regnamespace
                OR a.attcollation = 100 AND d.datcollate IN ('C', 'POSIX')
                   AND coalesce(to_jsonb(d)->>'datlocprovider', 'c') = 'c')
                 THEN CASE WHEN t.typname = 'bpchar' THEN 'bpchar' ELSE 'text' END
       END
  FROM base b
  JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
  JOIN pg_attribute a ON a.attrelid = b.relation AND a.attnum = b.number
  JOIN pg_database d ON d.datname = current_database()
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 ORDER BY a.attrelid, a.attnum";

const INDEXES: &str = "
SELECT i.indrelid, i.indisunique, m.amname = 'btree',
       ARRAY(SELECT a.attname::text FROM generate_series(0, i.indnkeyatts - 1) k
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] ORDER BY k)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
 WHERE i.indrelid = ANY($1) AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
 ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, c.relname";

/// Reads these tables; those that are not there are left out.
///
/// # Errors
/// The server's.
pub(super) async fn load(
    session: &Session<'_>,
    names: &[QualifiedName],
) -> Result<HashMap<QualifiedName, Relation>, SidesError> {
    let (side, client) = (session.side, session.client());
    let schemas: Vec<&String> = names.iter().map(|name| &name.schema).collect();
    let tables: Vec<&String> = names.iter().map(|name| &name.name).collect();
    let mut found = HashMap::new();
    let mut by_oid: HashMap<u32, QualifiedName> = HashMap::new();
    for row in side.rows(client, RELATIONS, &[&schemas, &tables]).await? {
        let name = QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?);
        let relation = Relation {
            oid: side.get(&row, 2)?,
            kind: side.get(&row, 3)?,
            schema_usable: side.get(&row, 4)?,
            readable: side.get(&row, 5)?,
            estimate: u64::try_from(side.get::<i64>(&row, 6)?).unwrap_or(0),
            ancestors: side.get(&row, 7)?,
            columns: Vec::new(),
            keys: Vec::new(),
            indexes: Vec::new(),
        };
        by_oid.insert(relation.oid, name.clone());
        found.insert(name, relation);
    }
    let oids: Vec<u32> = by_oid.keys().copied().collect();
    for row in side.rows(client, COLUMNS, &[&oids]).await? {
        let column = Column {
            name: side.get(&row, 1)?,
            generated: side.get(&row, 2)?,
            not_null: side.get(&row, 3)?,
            order: side.get(&row, 4)?,
        };
        if let Some(relation) = by_oid.get(&side.get(&row, 0)?).and_then(|name| found.get_mut(name)) {
            relation.columns.push(column);
        }
    }
    for row in side.rows(client, INDEXES, &[&oids]).await? {
        let (unique, ordered): (bool, bool) = (side.get(&row, 1)?, side.get(&row, 2)?);
        let columns: Vec<String> = side.get(&row, 3)?;
        if let Some(relation) = by_oid.get(&side.get(&row, 0)?).and_then(|name| found.get_mut(name)) {
            if unique {
                relation.keys.push(columns.clone());
            }
            if ordered {
                relation.indexes.push(columns);
            }
        }
    }
    Ok(found)
}
