//! Defaults of columns of views that take values of a sequence: what is inserted through the view lies in a table below it.
//!
//! In: a connection, the sequences with their columns, and the defaults that hold a name as text. Out: [`Suspect`]s, by
//! sequence. A view over the very column that is known to take the values, under whatever name, is none. Locks nothing.

use std::collections::{HashMap, HashSet};

use tokio_postgres::{Client, Error, Row};

use super::node_tree::origin;
use super::{Sequence, Suspect};
use crate::types::{Oid, QualifiedName, quote_identifier, quote_literal};

/// The columns with such a default, the view's own tree, whether something else than the server writes for it, and the columns
/// that it is made of.
const VIEWS: &str = "
WITH taken AS (
    SELECT d.objid AS def, d.refobjid AS seq
      FROM pg_depend d JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
     WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
    UNION
    SELECT named.def, named.seq FROM unnest($1::oid[], $2::oid[]) AS named (def, seq)
), defaults AS (
    SELECT taken.seq, v.oid AS view, n.nspname, v.relname, a.attname, a.attnum
      FROM taken
      JOIN pg_attrdef ad ON ad.oid = taken.def
      JOIN pg_class v ON v.oid = ad.adrelid AND v.relkind = 'v'
      JOIN pg_namespace n ON n.oid = v.relnamespace
      JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum = ad.adnum
), below AS (
    SELECT DISTINCT d.view, u.refobjid AS rel, u.refobjsubid AS attnum, c.attname::text,
           quote_ident(n.nspname) || '.' || quote_ident(t.relname) AS name
      FROM defaults d
      JOIN pg_rewrite r ON r.ev_class = d.view AND r.ev_type = '1'
      JOIN pg_depend u ON u.classid = 'pg_rewrite'::regclass AND u.objid = r.oid
       AND u.refclassid = 'pg_class'::regclass AND u.refobjsubid > 0 AND u.refobjid <> d.view
      JOIN pg_attribute c ON c.attrelid = u.refobjid AND c.attnum = u.refobjsubid
      JOIN pg_class t ON t.oid = u.refobjid AND t.relkind IN ('r', 'p', 'f')
      JOIN pg_namespace n ON n.oid = t.relnamespace
)
SELECT d.seq, d.nspname::text, d.relname::text, d.attname::text, d.attnum::int4, r.ev_action::text,
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = d.view AND t.tgtype & 64 <> 0 AND NOT t.tgisinternal)
       OR EXISTS (SELECT FROM pg_rewrite o WHERE o.ev_class = d.view AND o.ev_type <> '1'),
       ARRAY(SELECT b.rel FROM below b WHERE b.view = d.view ORDER BY b.rel, b.attnum),
       ARRAY(SELECT b.attnum FROM below b WHERE b.view = d.view ORDER BY b.rel, b.attnum),
       ARRAY(SELECT b.attname FROM below b WHERE b.view = d.view ORDER BY b.rel, b.attnum),
       ARRAY(SELECT b.name FROM below b WHERE b.view = d.view ORDER BY b.rel, b.attnum)
  FROM defaults d
  JOIN pg_rewrite r ON r.ev_class = d.view AND r.ev_type = '1'
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
        let below = origin(&row.try_get::<_, String>(5)?, row.try_get(4)?);
        let place = place(&row, below)?.filter(|_| !row.try_get::<_, bool>(6).unwrap_or(true));
        let is_known =
            place.as_ref().is_some_and(|(rel, below, _)| known.contains(&(sequence, *rel, below.as_str())));
        let Some(name) = names.get(&sequence).filter(|_| !is_known) else { continue };
        let view = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
        let (column, literal) = (quote_identifier(&column), quote_literal(&name.to_string()));
        let mend = place.iter().map(|(_, below, table)| {
            let below = quote_identifier(below);
            format!("ALTER TABLE {table} ALTER COLUMN {below} SET DEFAULT nextval({literal}::regclass);")
        });
        found.entry(Oid(sequence)).or_default().push(Suspect {
            what: format!("the default of {view}.{column}, a view, takes its values"),
            mend: mend.collect(),
        });
    }
    Ok(found)
}

/// The column of a table that a view shows: the table's OID, the column, and the table's name.
fn place(row: &Row, below: Option<(u32, i32)>) -> Result<Option<(u32, String, String)>, Error> {
    let (rels, numbers): (Vec<u32>, Vec<i32>) = (row.try_get(7)?, row.try_get(8)?);
    let (columns, tables): (Vec<String>, Vec<String>) = (row.try_get(9)?, row.try_get(10)?);
    let all = rels.into_iter().zip(numbers).zip(columns.into_iter().zip(tables));
    let found = all.into_iter().find(|(place, _)| Some(*place) == below);
    Ok(found.map(|((rel, _), (column, table))| (rel, column, table)))
}
