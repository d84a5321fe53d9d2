//! Who has the server call a function, or take a value of a sequence, besides the functions themselves: defaults, domains,
//! triggers, rules and views. In: a connection. Out: rows of the catalogs as they are. Locks nothing.

use std::collections::HashMap;

use tokio_postgres::{Client, Error};

use super::named_in_text::decoded;
use super::node_tree::NEXTVAL;
use crate::types::QualifiedName;

/// Whose default calls one of the functions (its own, or that of its domain), and which tables have a trigger that does.
const CALLERS: &str = "
SELECT d.refobjid, n.nspname::text, c.relname::text, a.attname::text
  FROM pg_depend d
  JOIN pg_attrdef ad ON ad.oid = d.objid
  JOIN pg_class c ON c.oid = ad.adrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = ad.adrelid AND a.attnum = ad.adnum
 WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = ANY($1::oid[])
UNION
SELECT d.refobjid, n.nspname::text, c.relname::text, a.attname::text
  FROM pg_depend d
  JOIN pg_type t ON t.oid = d.objid AND t.typtype = 'd' AND t.typdefaultbin IS NOT NULL
  JOIN pg_depend u ON u.refclassid = 'pg_type'::regclass AND u.refobjid = t.oid
   AND u.classid = 'pg_class'::regclass AND u.objsubid > 0
  JOIN pg_class c ON c.oid = u.objid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = u.objid AND a.attnum = u.objsubid AND a.atttypid = t.oid
   AND NOT a.atthasdef AND a.attidentity = ''
 WHERE d.classid = 'pg_type'::regclass AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = ANY($1::oid[])
UNION
SELECT t.tgfoid, n.nspname::text, c.relname::text, NULL
  FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.tgfoid = ANY($1::oid[]) AND NOT t.tgisinternal
 ORDER BY 1, 2, 3, 4";

/// Rules, and views, that call `nextval` with a sequence or call one of the functions; and the columns that they use.
const RULES: &str = "
WITH used AS (
    SELECT d.objid AS rule, d.refclassid = 'pg_proc'::regclass AS is_function, d.refobjid AS of
      FROM pg_depend d
     WHERE d.classid = 'pg_rewrite'::regclass
       AND (d.refclassid = 'pg_class'::regclass AND d.refobjsubid = 0
            AND EXISTS (SELECT FROM pg_class s WHERE s.oid = d.refobjid AND s.relkind = 'S')
            OR d.refclassid = 'pg_proc'::regclass AND d.refobjid = ANY($1::oid[]))
), columns AS (
    SELECT u.objid AS rule, u.refobjsubid, n.nspname, c.relname, a.attname
      FROM pg_depend u
      JOIN pg_rewrite r ON r.oid = u.objid AND r.ev_class <> u.refobjid
      JOIN pg_class c ON c.oid = u.refobjid
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = u.refobjid AND a.attnum = u.refobjsubid
     WHERE u.classid = 'pg_rewrite'::regclass AND u.refclassid = 'pg_class'::regclass AND u.refobjsubid > 0
       AND u.objid IN (SELECT rule FROM used)
)
SELECT r.rulename::text, n.nspname::text, v.relname::text, r.ev_type = '1', r.ev_action::text,
       ARRAY(SELECT DISTINCT of FROM used WHERE rule = r.oid AND NOT is_function),
       ARRAY(SELECT DISTINCT of FROM used WHERE rule = r.oid AND is_function),
       ARRAY(SELECT refobjsubid FROM columns WHERE rule = r.oid ORDER BY nspname, relname, refobjsubid),
       ARRAY(SELECT nspname::text FROM columns WHERE rule = r.oid ORDER BY nspname, relname, refobjsubid),
       ARRAY(SELECT relname::text FROM columns WHERE rule = r.oid ORDER BY nspname, relname, refobjsubid),
       ARRAY(SELECT attname::text FROM columns WHERE rule = r.oid ORDER BY nspname, relname, refobjsubid)
  FROM pg_rewrite r
  JOIN pg_class v ON v.oid = r.ev_class
  JOIN pg_namespace n ON n.oid = v.relnamespace
 WHERE r.oid IN (SELECT rule FROM used)
   AND (r.ev_action::text LIKE '%:funcid $NEXTVAL %' OR r.oid IN (SELECT rule FROM used WHERE is_function))
 ORDER BY 2, 3, 1";

/// Triggers with arguments, each of which ends with a zero.
const ARGUMENTS: &str = "
SELECT t.tgfoid, n.nspname::text, c.relname::text, t.tgargs
  FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.tgisinternal AND t.tgnargs > 0
 ORDER BY 2, 3, t.tgname";

/// Who calls a function.
#[derive(Debug)]
pub(super) struct Caller {
    pub table: QualifiedName,
    /// The column whose default calls it; `None`: a trigger of the table.
    pub column: Option<String>,
}

/// Those that call `functions`, by function.
///
/// # Errors
/// The server's or the connection's error.
pub(super) async fn callers(client: &Client, functions: &[u32]) -> Result<HashMap<u32, Vec<Caller>>, Error> {
    let mut found: HashMap<u32, Vec<Caller>> = HashMap::new();
    for row in client.query(CALLERS, &[&functions]).await? {
        let table = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
        let caller = Caller { table, column: row.try_get(3)? };
        found.entry(row.try_get(0)?).or_default().push(caller);
    }
    Ok(found)
}

/// A rule, or the rule that is a view.
pub(super) struct Rule {
    /// `rule r of public.v`, `view public.v`.
    pub what: String,
    pub tree: String,
    pub sequences: Vec<u32>,
    pub functions: Vec<u32>,
    /// Columns that it uses, with their numbers.
    pub columns: Vec<(i32, QualifiedName, String)>,
}

/// Those that take values themselves or by `functions`.
///
/// # Errors
/// The server's or the connection's error.
pub(super) async fn rules(client: &Client, functions: &[u32]) -> Result<Vec<Rule>, Error> {
    let sql = RULES.replace("$NEXTVAL", &NEXTVAL.to_string());
    let rows = client.query(&sql, &[&functions]).await?;
    let rules = rows.iter().map(|row| {
        let (name, of) = (
            row.try_get::<_, String>(0)?,
            QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?),
        );
        let (numbers, schemas): (Vec<i32>, Vec<String>) = (row.try_get(7)?, row.try_get(8)?);
        let (tables, columns): (Vec<String>, Vec<String>) = (row.try_get(9)?, row.try_get(10)?);
        let tables = schemas.into_iter().zip(tables).map(|(schema, table)| QualifiedName::new(schema, table));
        Ok(Rule {
            what: if row.try_get(3)? {
                format!("view {of}")
            } else {
                format!("rule {} of {of}", crate::types::quote_identifier(&name))
            },
            tree: row.try_get(4)?,
            sequences: row.try_get(5)?,
            functions: row.try_get(6)?,
            columns: numbers
                .into_iter()
                .zip(tables)
                .zip(columns)
                .map(|((n, table), c)| (n, table, c))
                .collect(),
        })
    });
    rules.collect()
}

/// A trigger with its arguments.
pub(super) struct Arguments {
    pub function: u32,
    pub table: QualifiedName,
    pub texts: Vec<String>,
}

/// Those that have any.
///
/// # Errors
/// The server's or the connection's error.
pub(super) async fn arguments(client: &Client) -> Result<Vec<Arguments>, Error> {
    let rows = client.query(ARGUMENTS, &[]).await?;
    let mut bytes: Vec<(usize, &[u8])> = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        let all: &[u8] = row.try_get(3)?;
        bytes.extend(all.split(|byte| *byte == 0).filter(|one| !one.is_empty()).map(|one| (place, one)));
    }
    let texts = if bytes.is_empty() {
        HashMap::new()
    } else {
        decoded(client, &bytes.iter().map(|(_, one)| *one).collect::<Vec<_>>()).await?
    };
    let mut of_row: HashMap<usize, Vec<String>> = HashMap::new();
    for (number, (place, _)) in (1_i64..).zip(&bytes) {
        of_row.entry(*place).or_default().extend(texts.get(&number).cloned());
    }
    let found = rows.iter().enumerate().map(|(place, row)| {
        Ok(Arguments {
            function: row.try_get(0)?,
            table: QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?),
            texts: of_row.remove(&place).unwrap_or_default(),
        })
    });
    found.collect()
}
