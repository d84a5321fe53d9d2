//! Who may take values of a sequence that no column is known to use: functions that mention it. A hint for people, never a
//! mark: what a function makes of a value is its own affair.
//!
//! In: a connection, and the sequences without a column. Out: [`Suspect`]s, by sequence. Bodies are searched for names between
//! quotes; those that the server has parsed (`BEGIN ATOMIC`, from 14 on) by `pg_depend`. Locks nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::{Client, Error, Row};

use super::Sequence;
use super::named_in_text::identifiers;
use crate::types::{Oid, QualifiedName, quote_identifier, quote_literal};

/// Something that seems to take values of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// `function public.f(), which the default of public.t.id calls`, and such.
    pub what: String,
    /// What makes the column known.
    pub mend: Option<String>,
}

/// Functions that may draw from a sequence, with their text, and the sequences that the server itself knows them to use.
const FUNCTIONS: &str = "
WITH parsed AS (
    SELECT d.objid AS function, array_agg(d.refobjid) AS sequences
      FROM pg_depend d JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
     WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass
     GROUP BY d.objid
)
SELECT p.oid, n.nspname::text, p.proname::text, pg_get_function_identity_arguments(p.oid), p.prosrc,
       coalesce(parsed.sequences, '{}'::oid[])
  FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c')
  LEFT JOIN parsed ON parsed.function = p.oid
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND (parsed.function IS NOT NULL OR p.prosrc ILIKE '%nextval%')";

/// Whose default calls one of the functions, and which tables have a trigger that does.
const CALLERS: &str = "
SELECT d.refobjid, n.nspname::text, c.relname::text, a.attname::text
  FROM pg_depend d
  JOIN pg_attrdef ad ON ad.oid = d.objid
  JOIN pg_class c ON c.oid = ad.adrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = ad.adrelid AND a.attnum = ad.adnum
 WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = ANY($1::oid[])
UNION
SELECT t.tgfoid, n.nspname::text, c.relname::text, NULL
  FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.tgfoid = ANY($1::oid[]) AND NOT t.tgisinternal
 ORDER BY 1, 2, 3, 4";

/// So many callers of a function are named.
const NAMED: usize = 3;

/// Finds them for those of `sequences` that no column is known to use.
///
/// # Errors
/// The server's or the connection's error.
pub(super) async fn suspects(
    client: &Client,
    sequences: &[Sequence],
) -> Result<HashMap<Oid, Vec<Suspect>>, Error> {
    let mut found: HashMap<Oid, Vec<Suspect>> = HashMap::new();
    let loose = Loose::of(sequences);
    if loose.by_oid.is_empty() {
        return Ok(found);
    }
    let mut functions: Vec<(u32, String, BTreeSet<u32>)> = Vec::new();
    for row in client.query(FUNCTIONS, &[]).await? {
        let mentioned = loose.mentioned(&row)?;
        // A function that was dropped just now has no arguments.
        if let (false, Some(arguments)) = (mentioned.is_empty(), row.try_get::<_, Option<String>>(3)?) {
            let name = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
            functions.push((row.try_get(0)?, format!("function {name}({arguments})"), mentioned));
        }
    }
    if functions.is_empty() {
        return Ok(found);
    }
    functions.sort_by(|one, other| one.1.cmp(&other.1));
    let oids: Vec<u32> = functions.iter().map(|(oid, ..)| *oid).collect();
    let mut callers: BTreeMap<u32, Vec<Caller>> = BTreeMap::new();
    for row in client.query(CALLERS, &[&oids]).await? {
        let table = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
        let caller = Caller { table, column: row.try_get(3)? };
        callers.entry(row.try_get(0)?).or_default().push(caller);
    }
    for (oid, function, mentioned) in functions {
        let callers = callers.get(&oid).map(Vec::as_slice).unwrap_or_default();
        for sequence in mentioned {
            let Some(name) = loose.by_oid.get(&sequence) else { continue };
            let suspect = Suspect { what: what(&function, callers), mend: mend(name, callers) };
            found.entry(Oid(sequence)).or_default().push(suspect);
        }
    }
    Ok(found)
}

/// The sequences without a column.
struct Loose<'a> {
    by_oid: HashMap<u32, &'a QualifiedName>,
    by_name: HashMap<&'a str, Vec<&'a Sequence>>,
}

impl<'a> Loose<'a> {
    fn of(sequences: &'a [Sequence]) -> Self {
        let mut loose = Loose { by_oid: HashMap::new(), by_name: HashMap::new() };
        for sequence in sequences.iter().filter(|sequence| sequence.consumers.is_empty()) {
            loose.by_oid.insert(sequence.oid.0, &sequence.name);
            loose.by_name.entry(&sequence.name.name).or_default().push(sequence);
        }
        loose
    }

    /// Those that a function uses, or has the name of in its text.
    fn mentioned(&self, function: &Row) -> Result<BTreeSet<u32>, Error> {
        let parsed: Vec<u32> = function.try_get(5)?;
        let mut found: BTreeSet<u32> = parsed.into_iter().filter(|s| self.by_oid.contains_key(s)).collect();
        let text: String = function.try_get(4)?;
        for written in names(&text) {
            let Some((name, before)) = written.split_last() else { continue };
            let of_name = self.by_name.get(name.as_str()).into_iter().flatten();
            let meant = of_name.filter(|s| before.last().is_none_or(|schema| s.name.schema == *schema));
            found.extend(meant.map(|sequence| sequence.oid.0));
        }
        Ok(found)
    }
}

/// What stands between quotes in a function's text and is a name, in its parts. However deep the quotes are, and whichever of
/// them opens: what is no name between them falls through.
fn names(text: &str) -> impl Iterator<Item = Vec<String>> {
    text.split('\'').filter_map(|piece| identifiers(piece.trim_end_matches('\\'), '.'))
}

/// Who calls a function.
#[derive(Debug)]
struct Caller {
    table: QualifiedName,
    /// The column whose default calls it; `None`: a trigger of the table.
    column: Option<String>,
}

fn what(function: &str, callers: &[Caller]) -> String {
    if callers.is_empty() {
        return format!("{function} mentions it");
    }
    let named: Vec<String> = callers
        .iter()
        .take(NAMED)
        .map(|caller| match &caller.column {
            Some(column) => format!("the default of {}.{}", caller.table, quote_identifier(column)),
            None => format!("a trigger of {}", caller.table),
        })
        .collect();
    let more = match callers.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{function}, called by {}{more}, mentions it", named.join(", "))
}

/// How the column is made known, where it holds the values as they are.
fn mend(sequence: &QualifiedName, callers: &[Caller]) -> Option<String> {
    let caller = callers.iter().find(|caller| caller.column.is_some()).or(callers.first())?;
    let table = &caller.table;
    Some(match &caller.column {
        Some(column) => format!(
            "ALTER TABLE {table} ALTER {} SET DEFAULT nextval({});",
            quote_identifier(column),
            quote_literal(&sequence.to_string())
        ),
        None => format!("ALTER SEQUENCE {sequence} OWNED BY {table}.COLUMN;"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_functions_text_is_searched_for_names_between_quotes() {
        let text = "BEGIN NEW.no := nextval('Public.order_no') + nextval('\"Größe\".\"Eine Nr\"'::regclass);
            EXECUTE 'SELECT nextval(''deep'')'; EXECUTE E'SELECT nextval(\\'escaped\\')'; RETURN loose; END";
        let mut found: Vec<String> = names(text).map(|parts| parts.join("|")).collect();
        // What no sequence is called does no harm.
        found.retain(|name| name != ")");
        assert_eq!(found, ["public|order_no", "Größe|Eine Nr", "deep", "escaped"]);
    }
}
