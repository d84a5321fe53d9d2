//! Defaults of columns of views that take values of a sequence: what is inserted through the view lies in a table below it.
//!
//! In: a connection, the sequences with their columns, and the defaults that hold a name as text. Out: [`Suspect`]s, by
//! sequence. A view over the very column that is known to take the values, under the same name, is none. Locks nothing.

use std::collections::{HashMap, HashSet};

use tokio_postgres::{Client, Error};

use super::{Sequence, Suspect};
use crate::types::{Oid, QualifiedName, quote_identifier, quote_literal};

/// The columns with such a default, and the columns of the same name that the view is made of: their tables by OID and, of
/// tables, by name.
const VIEWS: &str = "
WITH taken AS (
    SELECT d.objid AS def, d.refobjid AS seq
      FROM pg_depend d JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
     WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
    UNION
    SELECT named.def, named.seq FROM unnest($1::oid[], $2::oid[]) AS named (def, seq)
), defaults AS (
    SELECT taken.seq, v.oid AS view, n.nspname, v.relname, a.attname
      FROM taken
      JOIN pg_attrdef ad ON ad.oid = taken.def
      JOIN pg_class v ON v.oid = ad.adrelid AND v.relkind = 'v'
      JOIN pg_namespace n ON n.oid = v.relnamespace
      JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum = ad.adnum
), below AS (
    SELECT DISTINCT d.view, d.attname, u.refobjid AS rel
      FROM defaults d
      JOIN pg_rewrite r ON r.ev_class = d.view AND r.ev_type = '1'
      JOIN pg_depend u ON u.classid = 'pg_rewrite'::regclass AND u.objid = r.oid
       AND u.refclassid = 'pg_class'::regclass AND u.refobjsubid > 0 AND u.refobjid <> d.view
      JOIN pg_attribute c ON c.attrelid = u.refobjid AND c.attnum = u.refobjsubid AND c.attname = d.attname
)
SELECT d.seq, d.nspname::text, d.relname::text, d.attname::text,
       ARRAY(SELECT b.rel FROM below b WHERE b.view = d.view AND b.attname = d.attname),
       ARRAY(SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
               FROM below b
               JOIN pg_class c ON c.oid = b.rel AND c.relkind IN ('r', 'p', 'f')
               JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE b.view = d.view AND b.attname = d.attname)
  FROM defaults d
 ORDER BY 1, 2, 3, 4";

/// Finds them. `named`: OIDs of `pg_attrdef`, and of the sequence that each means.
///
/// # Errors
/// The server's or the connection's error.
pub(super) async fn views(
    client: &Client,
    sequences: &[Sequence],
    named: (&Vec<u32>, &Vec<u32>),
) -> Result<HashMap<Oid, Vec<Suspect>>, Error> {
    let mut found: HashMap<Oid, Vec<Suspect>> = HashMap::new();
    let rows = client.query(VIEWS, &[named.0, named.1]).await?;
    if rows.is_empty() {
        return Ok(found);
    }
    let names: HashMap<u32, &QualifiedName> = sequences.iter().map(|one| (one.oid.0, &one.name)).collect();
    let columns = sequences.iter().flat_map(|one| one.consumers.iter().map(move |column| (one, column)));
    let known: HashSet<(u32, u32, &str)> =
        columns.map(|(one, column)| (one.oid.0, column.table_oid.0, column.column.as_str())).collect();
    for row in rows {
        let (sequence, column): (u32, String) = (row.try_get(0)?, row.try_get(3)?);
        let (below, tables): (Vec<u32>, Vec<String>) = (row.try_get(4)?, row.try_get(5)?);
        let is_known =
            !below.is_empty() && below.iter().all(|rel| known.contains(&(sequence, *rel, &column)));
        let Some(name) = names.get(&sequence).filter(|_| !is_known) else { continue };
        let view = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
        let (column, literal) = (quote_identifier(&column), quote_literal(&name.to_string()));
        let mend = tables.iter().map(|table| {
            format!("ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT nextval({literal}::regclass);")
        });
        found.entry(Oid(sequence)).or_default().push(Suspect {
            what: format!("the default of {view}.{column}, a view, takes its values"),
            mend: mend.collect(),
        });
    }
    Ok(found)
}
