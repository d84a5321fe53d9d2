//! Who may take values of a sequence beside the columns that are known to: functions and defaults of views. A hint for
//! people, never a mark: what a function makes of a value is its own affair.
//!
//! In: a connection, and the sequences with their columns. Out: [`Suspect`]s, by sequence. Bodies are searched for calls of
//! `nextval`, or for names between quotes; those that the server has parsed (`BEGIN ATOMIC`, from 14 on) by `pg_depend`.
//! Locks nothing.
//!
//! What only does for a column what is known of it is no suspect: a trigger that puts a value into a column of that very
//! sequence. A name that several sequences have is held against the columns of all of them, and its suspects are found once
//! for the name, so that a schema per customer does not take the square of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tokio_postgres::{Client, Error, Row};

use super::Sequence;
use super::draws::{draws, writes};
use super::named_in_text::identifiers;
use crate::types::{Oid, QualifiedName, quote_identifier, quote_literal};

/// Something that seems to take values of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// `function public.f(), which the default of public.t.id calls`, and such.
    pub what: String,
    /// What makes the column known: one statement, or several of which one is the right one. Empty: nobody can say.
    pub mend: Vec<String>,
}

/// So many of a sequence are kept one by one.
pub(super) const KEPT: usize = 20;

/// Functions that may draw from a sequence, with their text, and the sequences that the server itself knows them to use;
/// and whether it knows them to use a table.
const FUNCTIONS: &str = "
WITH parsed AS (
    SELECT d.objid AS function, array_agg(d.refobjid) AS sequences
      FROM pg_depend d JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
     WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass
     GROUP BY d.objid
)
SELECT p.oid, n.nspname::text, p.proname::text, pg_get_function_identity_arguments(p.oid), p.prosrc,
       coalesce(parsed.sequences, '{}'::oid[]),
       EXISTS (SELECT FROM pg_depend d JOIN pg_class c ON c.oid = d.refobjid AND c.relkind <> 'S'
                WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass)
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

/// By what a sequence is meant.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum By<'a> {
    Oid(u32),
    /// Without its schema.
    Name(&'a str),
}

/// The columns that are known, to be asked for one by one.
pub(super) struct Known<'a> {
    columns: HashSet<(By<'a>, &'a QualifiedName, &'a str)>,
    /// Their tables, by the name alone.
    tables: HashSet<(By<'a>, &'a str)>,
    sequences: HashSet<By<'a>>,
}

impl<'a> Known<'a> {
    pub(super) fn of(sequences: &'a [Sequence]) -> Self {
        let mut known = Known { columns: HashSet::new(), tables: HashSet::new(), sequences: HashSet::new() };
        for sequence in sequences {
            for by in [By::Oid(sequence.oid.0), By::Name(&sequence.name.name)] {
                for consumer in &sequence.consumers {
                    known.columns.insert((by, &consumer.table, &consumer.column));
                    known.tables.insert((by, &consumer.table.name));
                    known.sequences.insert(by);
                }
            }
        }
        known
    }

    /// Whether a column is known to take its values from a sequence of this name.
    pub(super) fn by_name(&self, name: &str, table: &QualifiedName, column: &str) -> bool {
        self.columns.contains(&(By::Name(name), table, column))
    }

    fn takes(&self, target: &Target, table: &QualifiedName, column: &str) -> bool {
        self.columns.contains(&(target.by(), table, column))
    }
}

/// What a function means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Target {
    This(u32),
    /// One of the sequences of this name.
    Named(String),
}

impl Target {
    fn by(&self) -> By<'_> {
        match self {
            Target::This(oid) => By::Oid(*oid),
            Target::Named(name) => By::Name(name),
        }
    }
}

/// The columns of the new row that the values go into, where each of them does.
type Into = Option<BTreeSet<String>>;

/// A function with the sequences that it mentions.
struct Function {
    oid: u32,
    what: String,
    mentions: BTreeMap<Target, Into>,
    /// The names of the tables that it writes to, without schemas. `None`: nobody can say.
    writes: Option<BTreeSet<String>>,
}

impl Function {
    /// Whether what it takes goes where it is known to go. What is called by nothing that the server knows of is for the
    /// application to call, as `nextval` is: it counts where it writes itself, to a table that is not known.
    fn is_ordinary(&self, target: &Target, callers: &[Caller], known: &Known<'_>) -> bool {
        let by = target.by();
        if callers.is_empty() {
            let has_column = known.sequences.contains(&by);
            let known = |table: &String| known.tables.contains(&(by, table.as_str()));
            return has_column && self.writes.as_ref().is_some_and(|tables| tables.iter().all(known));
        }
        let into = self.mentions.get(target).and_then(Option::as_ref);
        callers.iter().all(|caller| match (&caller.column, into) {
            (Some(column), _) => known.takes(target, &caller.table, column),
            (None, Some(into)) => into.iter().all(|column| known.takes(target, &caller.table, column)),
            (None, None) => false,
        })
    }
}

/// Finds the functions.
///
/// # Errors
/// The server's or the connection's error.
pub(super) async fn suspects(
    client: &Client,
    sequences: &[Sequence],
) -> Result<HashMap<Oid, Vec<Suspect>>, Error> {
    let mut functions: Vec<Function> = Vec::new();
    let names = Names::of(sequences);
    if sequences.is_empty() {
        return Ok(HashMap::new());
    }
    for row in client.query(FUNCTIONS, &[]).await? {
        let mentions = names.mentioned(&row)?;
        // A function that was dropped just now has no arguments.
        if let (false, Some(arguments)) = (mentions.is_empty(), row.try_get::<_, Option<String>>(3)?) {
            let name = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
            functions.push(Function {
                oid: row.try_get(0)?,
                what: format!("function {name}({arguments})"),
                mentions,
                writes: if row.try_get(6)? { None } else { writes(&row.try_get::<_, String>(4)?) },
            });
        }
    }
    if functions.is_empty() {
        return Ok(HashMap::new());
    }
    functions.sort_by(|one, other| one.what.cmp(&other.what));
    let oids: Vec<u32> = functions.iter().map(|function| function.oid).collect();
    let mut callers: HashMap<u32, Vec<Caller>> = HashMap::new();
    for row in client.query(CALLERS, &[&oids]).await? {
        let table = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
        let caller = Caller { table, column: row.try_get(3)? };
        callers.entry(row.try_get(0)?).or_default().push(caller);
    }
    Ok(told(sequences, &functions, &callers))
}

/// By sequence, those that are not ordinary.
fn told(
    sequences: &[Sequence],
    functions: &[Function],
    callers: &HashMap<u32, Vec<Caller>>,
) -> HashMap<Oid, Vec<Suspect>> {
    let known = Known::of(sequences);
    let callers = |function: &Function| callers.get(&function.oid).map(Vec::as_slice).unwrap_or_default();
    let mut by_target: HashMap<&Target, Vec<&Function>> = HashMap::new();
    for function in functions {
        for target in function.mentions.keys() {
            if !function.is_ordinary(target, callers(function), &known) {
                by_target.entry(target).or_default().push(function);
            }
        }
    }
    let mut found = HashMap::new();
    for sequence in sequences {
        let mut suspects = Vec::new();
        let mut more = 0_usize;
        for target in [Target::This(sequence.oid.0), Target::Named(sequence.name.name.clone())] {
            let functions = by_target.get(&target).map(Vec::as_slice).unwrap_or_default();
            more = more.saturating_add(functions.len().saturating_sub(KEPT));
            suspects.extend(functions.iter().take(KEPT).map(|function| {
                let (callers, into) = (callers(function), function.mentions.get(&target));
                let into = into.and_then(Option::as_ref);
                Suspect { what: what(&function.what, callers), mend: mend(sequence, callers, into) }
            }));
        }
        if more > 0 {
            suspects.push(Suspect { what: format!("{more} more functions mention it"), mend: Vec::new() });
        }
        if !suspects.is_empty() {
            found.insert(sequence.oid, suspects);
        }
    }
    found
}

/// The sequences by name.
struct Names<'a> {
    by_name: HashMap<&'a str, HashMap<&'a str, u32>>,
}

impl<'a> Names<'a> {
    fn of(sequences: &'a [Sequence]) -> Self {
        let mut by_name: HashMap<&str, HashMap<&str, u32>> = HashMap::new();
        for sequence in sequences {
            let of_name = by_name.entry(&sequence.name.name).or_default();
            of_name.insert(&sequence.name.schema, sequence.oid.0);
        }
        Names { by_name }
    }

    /// What a name may mean, in its parts.
    fn target(&self, parts: &[String]) -> Option<Target> {
        let (name, before) = parts.split_last()?;
        let of_name = self.by_name.get(name.as_str())?;
        match (before.last(), of_name.len()) {
            (Some(schema), _) => of_name.get(schema.as_str()).map(|oid| Target::This(*oid)),
            (None, 1) => of_name.values().next().map(|oid| Target::This(*oid)),
            (None, _) => Some(Target::Named(name.clone())),
        }
    }

    /// Those that a function uses, as far as its text tells; else those that it has the name of in its text.
    fn mentioned(&self, function: &Row) -> Result<BTreeMap<Target, Into>, Error> {
        let parsed: Vec<u32> = function.try_get(5)?;
        let mut found: BTreeMap<Target, Into> =
            parsed.into_iter().map(|oid| (Target::This(oid), None)).collect();
        let text: String = function.try_get(4)?;
        let Some(draws) = draws(&text) else {
            found.extend(names(&text).filter_map(|parts| self.target(&parts)).map(|target| (target, None)));
            return Ok(found);
        };
        for draw in draws {
            let target = identifiers(&draw.name, '.').and_then(|parts| self.target(&parts));
            let Some(target) = target else { continue };
            let into = found.entry(target).or_insert_with(|| Some(BTreeSet::new()));
            match (into.as_mut(), draw.into) {
                (Some(into), Some(column)) => {
                    into.insert(column);
                }
                _ => *into = None,
            }
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

/// How the column is made known, where it holds the values as they are. A sequence has one owner at most, in its own
/// schema; a default makes any number of columns known.
fn mend(sequence: &Sequence, callers: &[Caller], into: Option<&BTreeSet<String>>) -> Vec<String> {
    let caller = callers.iter().find(|caller| caller.column.is_some()).or(callers.first());
    let Some(Caller { table, column }) = caller else { return Vec::new() };
    let column = column.as_ref().or_else(|| into.and_then(BTreeSet::first));
    let is_free = sequence.consumers.is_empty() && sequence.name.schema == table.schema;
    vec![match (caller.and_then(|caller| caller.column.as_ref()), column) {
        (None, column) if is_free => {
            let column = column.map_or_else(|| "COLUMN".to_owned(), |column| quote_identifier(column));
            format!("ALTER SEQUENCE {} OWNED BY {table}.{column};", sequence.name)
        }
        (_, column) => set_default(table, column.map(String::as_str), &sequence.name),
    }]
}

/// The statement that makes a column known (`None`: that somebody has to name).
pub(super) fn set_default(table: &QualifiedName, column: Option<&str>, sequence: &QualifiedName) -> String {
    let column = column.map_or_else(|| "COLUMN_NAME".to_owned(), quote_identifier);
    let name = quote_literal(&sequence.to_string());
    format!("ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT nextval({name}::regclass);")
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
