//! Reads a [`Catalog`] from a server with a few set-based queries. Takes no lock on any sequence.
//!
//! Printing a column's default locks its table, so the defaults are read last and in batches: one that is locked is
//! [`Readable::NotNow`], and spoils nothing else. Printing a domain's default locks nothing.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::{Client, Error, Row};

use super::default_expression::{Shape, classify};
use super::named_in_text::{doubts, named};
use super::suspects::suspects;
use super::views::views;
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
/// defaults (`pg_depend` from the default to the sequence), defaults of domains in columns without one of their own, and the
/// same column in every partition or inheriting table below, whose rows get their ids through the parent. Locks no table.
///
/// `$1` to `$4`: what [`named`] found, defaults of columns with their sequences and domains with theirs. A domain over a
/// domain has a copy of that one's default, so that no other than the column's own type counts.
///
/// Every table brings two types of its own, so that only those of the columns are followed to their base: joined with all
/// types it would take the square of the number of tables.
const CONSUMERS: &str = "
WITH RECURSIVE domains AS (
    SELECT d.refobjid AS seq, d.objid AS type
      FROM pg_depend d
      JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
      JOIN pg_type t ON t.oid = d.objid AND t.typtype = 'd'
     WHERE d.classid = 'pg_type'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
    UNION
    SELECT named.seq, named.type FROM unnest($3::oid[], $4::oid[]) AS named (type, seq)
), direct AS (
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
    UNION ALL
    SELECT named.seq, ad.adrelid, ad.adnum, 'd'
      FROM unnest($1::oid[], $2::oid[]) AS named (def, seq) JOIN pg_attrdef ad ON ad.oid = named.def
    UNION ALL
    SELECT domains.seq, a.attrelid, a.attnum, 'd'
      FROM domains
      JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = domains.type
       AND d.classid = 'pg_class'::regclass AND d.objsubid > 0
      JOIN pg_attribute a ON a.attrelid = d.objid AND a.attnum = d.objsubid AND a.atttypid = domains.type
     WHERE NOT a.atthasdef AND a.attidentity = ''
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
    SELECT oid AS type, oid AS base, typbasetype, typtype = 'd' AND typdefaultbin IS NOT NULL AS has_default FROM pg_type
     WHERE typtype <> 'c' AND oid IN (SELECT atttypid FROM columns)
    UNION ALL
    SELECT types.type, t.oid, t.typbasetype, types.has_default FROM types JOIN pg_type t ON t.oid = types.typbasetype
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
       k.rel <> k.top, k.parent, CASE WHEN t.has_default THEN t.type END
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

/// The texts of the defaults of domains.
const DOMAINS: &str = "SELECT t.oid, pg_get_expr(t.typdefaultbin, 0) FROM pg_type t WHERE t.oid = ANY($1)";

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
    let rows = client.query(SEQUENCES, &[]).await?;
    let mut sequences =
        rows.iter().filter_map(|row| sequence(row).transpose()).collect::<Result<Vec<_>, Error>>()?;
    let named = named(client, &sequences).await?;
    let ((defaults, their), (domains, theirs)) = (&named.columns, &named.domains);
    let consumers = client.query(CONSUMERS, &[defaults, their, domains, theirs]).await?;
    let expressions = Expressions::read(client, &consumers).await?;
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
    for sequence in &mut sequences {
        sequence.consumers = by_sequence.remove(&sequence.oid).unwrap_or_default();
    }
    let mut suspected = suspects(client, &sequences).await?;
    let of_views = views(client, &sequences, (defaults, their)).await?;
    for (sequence, more) in doubts(&sequences, &named.doubtful).into_iter().chain(of_views) {
        suspected.entry(sequence).or_default().extend(more);
    }
    for sequence in &mut sequences {
        sequence.suspects = suspected.remove(&sequence.oid).unwrap_or_default();
    }
    Ok(Catalog { sequences })
}

/// The texts of the defaults of columns and of domains, by OID. What cannot be read now is missing.
struct Expressions {
    columns: HashMap<u32, Option<String>>,
    domains: HashMap<u32, Option<String>>,
}

impl Expressions {
    /// Those behind the rows of [`CONSUMERS`].
    async fn read(client: &Client, consumers: &[Row]) -> Result<Self, Error> {
        let of = |column: usize| {
            let found = consumers.iter().filter_map(|row| row.try_get::<_, Option<u32>>(column).transpose());
            found.collect::<Result<BTreeSet<u32>, Error>>().map(Vec::from_iter)
        };
        let mut domains = HashMap::new();
        let of_domains = of(13)?;
        if !of_domains.is_empty() {
            for row in client.query(DOMAINS, &[&of_domains]).await? {
                domains.insert(row.try_get(0)?, row.try_get(1)?);
            }
        }
        Ok(Expressions { columns: expressions(client, &of(8)?).await?, domains })
    }

    /// The default that is in force for a column: its own, or that of its domain. `None`: it has none; the inner one: it
    /// cannot be read now.
    fn of(&self, row: &Row) -> Result<Option<Option<&Option<String>>>, Error> {
        let (own, domain) = (row.try_get::<_, Option<u32>>(8)?, row.try_get::<_, Option<u32>>(13)?);
        let domain = || domain.map(|domain| self.domains.get(&domain));
        Ok(own.map(|own| self.columns.get(&own)).or_else(domain))
    }
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

fn sequence(row: &Row) -> Result<Option<Sequence>, Error> {
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
        consumers: Vec::new(),
        suspects: Vec::new(),
    }))
}

fn consumer(row: &Row, expressions: &Expressions) -> Result<Consumer, Error> {
    let link = match row.try_get::<_, String>(5)?.as_str() {
        "i" => Link::Identity,
        "a" => Link::Owned,
        _ => Link::Default,
    };
    let base_type: String = row.try_get(6)?;
    let expression = expressions.of(row)?;
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
