//! Reads a [`Catalog`] from a server with three set-based queries. Takes no lock on any sequence.
//!
//! Printing a default locks its table, so the defaults are read last and in batches: one that is locked is
//! [`Readable::NotNow`], and spoils nothing else.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::{Client, Error, Row};

use super::default_expression::{Shape, classify};
use super::{ByFunction, Catalog, Consumer, Link, Persistence, Privileges, Readable, Sequence};
use crate::pgoutput::IdFormat;
use crate::plan::Definition;
use crate::readings::{Trouble, trouble};
use crate::types::{Oid, QualifiedName};

/// Every sequence outside the system schemas, with what we may do with it.
const SEQUENCES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relpersistence::text, format_type(s.seqtypid, NULL),
       s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
       has_sequence_privilege(c.oid, 'USAGE') AND has_schema_privilege(n.oid, 'USAGE'),
       has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),
       has_sequence_privilege(c.oid, 'UPDATE') AND has_schema_privilege(n.oid, 'USAGE'),
       pg_has_role(c.relowner, 'USAGE'), has_schema_privilege(n.oid, 'USAGE')
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_sequence s ON s.seqrelid = c.oid
 WHERE c.relkind = 'S' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
 ORDER BY n.nspname, c.relname";

/// Every column behind which a sequence stands: owned and identity (`pg_depend` from the sequence to the column),
/// defaults (`pg_depend` from the default to the sequence), and the same column in every partition or inheriting
/// table below, whose rows get their ids through the parent. Locks no table.
///
/// Every table brings two types of its own, so that only those of the columns are followed to their base: joined with all
/// types it would take the square of the number of tables.
const CONSUMERS: &str = "
WITH RECURSIVE direct AS (
    SELECT d.objid AS seq, d.refobjid AS rel, d.refobjsubid::int2 AS attnum, d.deptype::text AS link
      FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
       AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
    UNION ALL
    SELECT d.refobjid, ad.adrelid, ad.adnum, 'd'
      FROM pg_depend d
      JOIN pg_attrdef ad ON ad.oid = d.objid
      JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
     WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
), consumers AS (
    SELECT direct.seq, direct.rel, a.attname, direct.link, direct.rel AS top, NULL::oid AS parent
      FROM direct JOIN pg_attribute a ON a.attrelid = direct.rel AND a.attnum = direct.attnum
    UNION
    SELECT above.seq, i.inhrelid, above.attname, above.link, above.top, above.rel
      FROM consumers above JOIN pg_inherits i ON i.inhparent = above.rel
), columns AS (
    SELECT k.seq, k.rel, k.attname, k.link, k.top, k.parent, c.relnamespace, c.relname, c.relkind, a.attnum, a.atttypid
      FROM consumers k
      JOIN pg_class c ON c.oid = k.rel AND c.relkind IN ('r', 'p', 'f')
      JOIN pg_attribute a ON a.attrelid = k.rel AND a.attname = k.attname AND NOT a.attisdropped
), types AS (
    SELECT oid AS type, oid AS base, typbasetype FROM pg_type
     WHERE typtype <> 'c' AND oid IN (SELECT atttypid FROM columns)
    UNION ALL
    SELECT types.type, t.oid, t.typbasetype FROM types JOIN pg_type t ON t.oid = types.typbasetype
)
SELECT k.seq, n.nspname::text, k.relname::text, k.rel, k.attname::text, k.link,
       t.base::regtype::text, k.relkind = 'p',
       coalesce(own.oid, top.oid),
       has_column_privilege(k.rel, k.attnum, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),
       EXISTS (SELECT FROM pg_index i
                WHERE i.indrelid = k.rel AND i.indkey[0] = k.attnum AND i.indisvalid AND i.indisready
                  AND i.indpred IS NULL
                  AND (SELECT am.amname = 'btree' FROM pg_class ic JOIN pg_am am ON am.oid = ic.relam
                        WHERE ic.oid = i.indexrelid)),
       k.rel <> k.top, k.parent
  FROM columns k
  JOIN pg_namespace n ON n.oid = k.relnamespace
  JOIN types t ON t.type = k.atttypid AND t.typbasetype = 0
  LEFT JOIN pg_attrdef own ON own.adrelid = k.rel AND own.adnum = k.attnum
  LEFT JOIN pg_attribute ta ON ta.attrelid = k.top AND ta.attname = k.attname
  LEFT JOIN pg_attrdef top ON top.adrelid = k.top AND top.adnum = ta.attnum
 WHERE n.nspname !~ '^pg_'
 ORDER BY k.seq, n.nspname, k.relname, k.attname";

/// The texts of defaults. `pg_get_expr` takes a lock on the table, for as long as the statement runs.
const EXPRESSIONS: &str = "
SELECT ad.oid, pg_get_expr(ad.adbin, ad.adrelid) FROM pg_attrdef ad WHERE ad.oid = ANY($1)";

/// Leaves out the tables that somebody holds or awaits AccessExclusive on: waiting for each of them takes too long.
const NOT_LOCKED: &str = " AND ad.adrelid <> ALL (ARRAY(
    SELECT l.relation FROM pg_locks l
     WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.relation IS NOT NULL
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())))";

/// As many defaults at a time, for the server's lock table is small.
const BATCH: usize = 500;

/// Reads the catalog of the database that `client` is connected to.
///
/// # Errors
/// The server's or the connection's error, unchanged.
pub async fn load(client: &Client) -> Result<Catalog, Error> {
    let (sequences, consumers) =
        futures_util::future::join(client.query(SEQUENCES, &[]), client.query(CONSUMERS, &[])).await;
    let (sequences, consumers) = (sequences?, consumers?);
    let defaults = consumers.iter().filter_map(|row| row.try_get::<_, Option<u32>>(8).transpose());
    let defaults: BTreeSet<u32> = defaults.collect::<Result<_, Error>>()?;
    let expressions = expressions(client, &defaults.into_iter().collect::<Vec<_>>()).await?;
    let mut by_sequence: HashMap<Oid, Vec<Consumer>> = HashMap::new();
    for row in &consumers {
        let sequence = Oid(row.try_get::<_, u32>(0)?);
        let found = by_sequence.entry(sequence).or_default();
        let consumer = consumer(row, &expressions)?;
        // A serial column is linked twice, as owned and by its default: once is enough, and owned says more. The rows of
        // one column follow each other.
        let is_same = |c: &&mut Consumer| c.table_oid == consumer.table_oid && c.column == consumer.column;
        match found.last_mut().filter(is_same) {
            Some(known) => {
                let parents: BTreeSet<Oid> = known.parents.union(&consumer.parents).copied().collect();
                if known.link == Link::Default {
                    *known = consumer;
                }
                known.parents = parents;
            }
            None => found.push(consumer),
        }
    }
    let sequences = sequences
        .iter()
        .filter_map(|row| sequence(row, &mut by_sequence).transpose())
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(Catalog { sequences })
}

/// The texts of `defaults` (OIDs of `pg_attrdef`). What cannot be read now is left out.
async fn expressions(client: &Client, defaults: &[u32]) -> Result<HashMap<u32, Option<String>>, Error> {
    let patient = format!("{EXPRESSIONS}{NOT_LOCKED}");
    let mut found = HashMap::new();
    let mut pending: Vec<(&str, &[u32])> = defaults.chunks(BATCH).map(|batch| (EXPRESSIONS, batch)).collect();
    while let Some((sql, batch)) = pending.pop() {
        match client.query(sql, &[&batch]).await {
            Ok(rows) => {
                for row in &rows {
                    found.insert(row.try_get(0)?, row.try_get(1)?);
                }
            }
            Err(error) => {
                if trouble(&error).ok_or(error)? == Trouble::Locked && sql == EXPRESSIONS {
                    pending.push((&patient, batch));
                } else if batch.len() > 1 {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    pending.extend([(sql, first), (sql, second)]);
                }
            }
        }
    }
    Ok(found)
}

fn sequence(row: &Row, consumers: &mut HashMap<Oid, Vec<Consumer>>) -> Result<Option<Sequence>, Error> {
    let oid = Oid(row.try_get::<_, u32>(0)?);
    let definition = Definition::new(
        row.try_get(5)?,
        row.try_get(6)?,
        row.try_get(7)?,
        row.try_get(8)?,
        row.try_get(9)?,
        row.try_get(10)?,
    );
    // A sequence dropped between the query's snapshot and its privilege functions answers NULL: it is gone.
    let privileges = (
        row.try_get::<_, Option<bool>>(11)?,
        row.try_get::<_, Option<bool>>(12)?,
        row.try_get::<_, Option<bool>>(13)?,
        row.try_get::<_, Option<bool>>(14)?,
        row.try_get::<_, Option<bool>>(15)?,
    );
    let (Ok(definition), (Some(usage), Some(select), Some(update), Some(owner), Some(schema))) =
        (definition, privileges)
    else {
        return Ok(None);
    };
    Ok(Some(Sequence {
        oid,
        name: QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?),
        persistence: match row.try_get::<_, String>(3)?.as_str() {
            "t" => Persistence::Temporary,
            "u" => Persistence::Unlogged,
            _ => Persistence::Permanent,
        },
        data_type: row.try_get(4)?,
        definition,
        privileges: Privileges { schema, usage, select, update, owner, function: ByFunction::Unused },
        consumers: consumers.remove(&oid).unwrap_or_default(),
    }))
}

fn consumer(row: &Row, expressions: &HashMap<u32, Option<String>>) -> Result<Consumer, Error> {
    let link = match row.try_get::<_, String>(5)?.as_str() {
        "i" => Link::Identity,
        "a" => Link::Owned,
        _ => Link::Default,
    };
    let base_type: String = row.try_get(6)?;
    let default: Option<u32> = row.try_get(8)?;
    let expression = default.map(|default| expressions.get(&default));
    let (range, numeric) = match base_type.as_str() {
        "smallint" => (i64::from(i16::MIN)..=i64::from(i16::MAX), true),
        "integer" => (i64::from(i32::MIN)..=i64::from(i32::MAX), true),
        "bigint" | "numeric" => (i64::MIN..=i64::MAX, true),
        _ => (i64::MIN..=i64::MAX, false),
    };
    Ok(Consumer {
        table: QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?),
        table_oid: Oid(row.try_get::<_, u32>(3)?),
        column: row.try_get(4)?,
        link,
        readable: match expression {
            Some(None) => Readable::NotNow,
            Some(Some(text)) => readable(link, &base_type, text.as_deref()),
            None => readable(link, &base_type, None),
        },
        range,
        indexed: numeric && row.try_get::<_, bool>(10)?,
        numeric,
        selectable: row.try_get::<_, Option<bool>>(9)?.unwrap_or(false),
        partitioned: row.try_get(7)?,
        inherited: row.try_get(11)?,
        parents: row.try_get::<_, Option<u32>>(12)?.map(Oid).into_iter().collect(),
    })
}

fn affix(prefix: &str, suffix: &str) -> IdFormat {
    IdFormat::Affix { prefix: prefix.as_bytes().into(), suffix: suffix.as_bytes().into() }
}

/// Whether ids can be read out of a column of `base_type` whose default is `expression`.
fn readable(link: Link, base_type: &str, expression: Option<&str>) -> Readable {
    let is_integer = matches!(base_type, "smallint" | "integer" | "bigint" | "numeric");
    let shape = match (link, expression) {
        (Link::Identity, _) => Shape::Bare,
        (_, Some(expression)) => classify(expression),
        (_, None) => Shape::Other,
    };
    match shape {
        Shape::Bare if is_integer => Readable::Yes(IdFormat::Integer),
        Shape::Bare | Shape::Affix { .. } if !matches!(base_type, "text" | "character varying") => {
            Readable::No("ids cannot be read out of the column's type")
        }
        Shape::Bare => Readable::Yes(affix("", "")),
        Shape::Affix { prefix, suffix } => Readable::Yes(affix(&prefix, &suffix)),
        // The sequence is OWNED BY an integer column that something else (a trigger, the application) fills.
        Shape::Other if is_integer && expression.is_none() => Readable::Yes(IdFormat::Integer),
        Shape::Other => Readable::No("the column's default cannot be inverted with certainty"),
    }
}
