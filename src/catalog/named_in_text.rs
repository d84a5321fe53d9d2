//! Defaults that hold the sequence's name as text, `nextval('q'::text)` as pg_dump wrote it once: the server looks the name
//! up at each insert, so that `pg_depend` knows nothing of it.
//!
//! In: a connection, and the sequences that there are. Out: which default means which sequence ([`Named`]). The name is read
//! out of the stored expression itself, so that no table is locked for it.

use std::collections::{HashMap, HashSet};

use tokio_postgres::{Client, Error, Row};

use super::suspects::{KEPT, Known, set_default};
use super::{Persistence, Sequence, Suspect};
use crate::types::{Oid, QualifiedName, quote_identifier};

/// Defaults of columns and of domains that turn a text into a sequence: functions 1574, `nextval(regclass)`, and 1079,
/// `regclass(text)`. Both numbers are part of PostgreSQL's initial catalogs and never change.
const CANDIDATES: &str = "
SELECT ad.oid, NULL::oid, ad.adbin::text, n.nspname::text, c.relname::text, a.attname::text
  FROM pg_attrdef ad
  JOIN pg_class c ON c.oid = ad.adrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = ad.adrelid AND a.attnum = ad.adnum
 WHERE ad.adbin::text LIKE '%:funcid 1079 %' AND ad.adbin::text LIKE '%:funcid 1574 %'
UNION ALL
SELECT NULL, t.oid, t.typdefaultbin::text, n.nspname::text, t.typname::text, NULL
  FROM pg_type t
  JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typtype = 'd' AND t.typdefaultbin::text LIKE '%:funcid 1079 %' AND t.typdefaultbin::text LIKE '%:funcid 1574 %'";

/// The text of a name, which is in the database's encoding.
const DECODED: &str = "SELECT i::int8, convert_from(b, getdatabaseencoding())
  FROM unnest($1::bytea[]) WITH ORDINALITY AS names (b, i)";

/// Where sessions of this database look for names without a schema: what the database says (first), and what it or a role
/// says for some of them.
const SEARCH_PATHS: &str = "
SELECT s.setrole = 0, substr(setting, strpos(setting, '=') + 1)
  FROM pg_db_role_setting s, unnest(s.setconfig) AS setting
 WHERE setting LIKE 'search\\_path=%'
   AND (s.setdatabase = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        OR s.setrole <> 0 AND s.setdatabase = 0)";

/// The schemas that nobody passes over.
const OPEN: &str = "
SELECT n.nspname::text FROM pg_namespace n
 WHERE n.nspname = ANY($1::text[]) AND has_schema_privilege('public', n.oid, 'USAGE')";

/// What the defaults mean.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// OIDs of `pg_attrdef`, and of the sequence that each means.
    pub columns: (Vec<u32>, Vec<u32>),
    /// OIDs of domains, and of the sequence that the default of each means.
    pub domains: (Vec<u32>, Vec<u32>),
    /// Defaults that may mean one of several sequences.
    pub doubtful: Vec<Doubt>,
}

/// A default that names a sequence without its schema, where that is not enough.
#[derive(Debug)]
pub(super) struct Doubt {
    /// The table, or the domain.
    owner: QualifiedName,
    /// `None`: of a domain.
    column: Option<String>,
    written: String,
    /// The name of the sequences that it may mean.
    name: String,
}

/// Finds them.
///
/// # Errors
/// The server's or the connection's error.
pub(super) async fn named(client: &Client, sequences: &[Sequence]) -> Result<Named, Error> {
    let rows = client.query(CANDIDATES, &[]).await?;
    let mut named = Named::default();
    if rows.is_empty() {
        return Ok(named);
    }
    let mut found: Vec<(&Row, Vec<u8>)> = Vec::new();
    for row in &rows {
        let expression: String = row.try_get(2)?;
        found.extend(names(&expression).into_iter().map(|name| (row, name)));
    }
    let bytes: Vec<&[u8]> = found.iter().map(|(_, name)| name.as_slice()).collect();
    let texts = decoded(client, &bytes).await?;
    let names = Names::of(sequences, Path::read(client).await?);
    for (place, (row, _)) in (1_i64..).zip(&found) {
        let Some(written) = texts.get(&place) else { continue };
        match names.resolve(written) {
            Meant::One(sequence) => {
                let (column, domain) = (row.try_get::<_, Option<u32>>(0)?, row.try_get::<_, Option<u32>>(1)?);
                for (of, (defaults, meant)) in [(column, &mut named.columns), (domain, &mut named.domains)] {
                    if let Some(of) = of {
                        defaults.push(of);
                        meant.push(sequence.0);
                    }
                }
            }
            Meant::Any(name) => named.doubtful.push(Doubt {
                owner: QualifiedName::new(row.try_get::<_, String>(3)?, row.try_get::<_, String>(4)?),
                column: row.try_get(5)?,
                written: written.clone(),
                name,
            }),
            Meant::None => {}
        }
    }
    Ok(named)
}

/// Texts of the database, by their places from 1 on. What is no text to us is left out.
pub(super) async fn decoded(client: &Client, bytes: &[&[u8]]) -> Result<HashMap<i64, String>, Error> {
    let mut texts = HashMap::new();
    for row in client.query(DECODED, &[&bytes]).await? {
        if let Ok(text) = row.try_get(1) {
            texts.insert(row.try_get(0)?, text);
        }
    }
    Ok(texts)
}

/// What `doubtful` says of each sequence, but of columns that are known to take their values from one of that name: that is
/// how a person says which. Found once for a name, so that a schema per customer does not take the square of them.
pub(super) fn doubts(sequences: &[Sequence], doubtful: &[Doubt]) -> HashMap<Oid, Vec<Suspect>> {
    let known = Known::of(sequences);
    let mut by_name: HashMap<&str, Vec<&Doubt>> = HashMap::new();
    for doubt in doubtful {
        let is_known = doubt.column.as_ref().is_some_and(|c| known.by_name(&doubt.name, &doubt.owner, c));
        if !is_known {
            by_name.entry(&doubt.name).or_default().push(doubt);
        }
    }
    let mut candidates: HashMap<&str, Vec<&QualifiedName>> = HashMap::new();
    for sequence in sequences.iter().filter(|one| may_be_named(one)) {
        candidates.entry(&sequence.name.name).or_default().push(&sequence.name);
    }
    let mut found = HashMap::new();
    for sequence in sequences.iter().filter(|one| may_be_named(one)) {
        let Some(doubts) = by_name.get(sequence.name.name.as_str()) else { continue };
        let candidates = candidates.get(sequence.name.name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let of = |doubt: &&Doubt| doubt.suspect(&sequence.name, candidates);
        let mut suspects: Vec<Suspect> = doubts.iter().take(KEPT).map(of).collect();
        if let more @ 1.. = doubts.len().saturating_sub(KEPT) {
            let what = format!("{more} more defaults name it without a schema");
            suspects.push(Suspect { what, mend: Vec::new() });
        }
        found.insert(sequence.oid, suspects);
    }
    found
}

impl Doubt {
    /// As it is told of `sequence`, which is one of `candidates`.
    fn suspect(&self, sequence: &QualifiedName, candidates: &[&QualifiedName]) -> Suspect {
        let (owner, written) = (&self.owner, &self.written);
        let of = match &self.column {
            Some(column) => format!("{owner}.{}", quote_identifier(column)),
            None => format!("domain {owner}"),
        };
        let others = candidates.iter().copied().filter(|other| *other != sequence);
        let mut named: Vec<&QualifiedName> =
            [sequence].into_iter().chain(others).take(CANDIDATES_NAMED).collect();
        named.sort();
        let mend = self.column.iter().flat_map(|column| {
            named.iter().map(move |sequence| set_default(owner, Some(column.as_str()), sequence))
        });
        Suspect {
            what: format!(
                "the default of {of} names {written} without a schema, so that search_path decides"
            ),
            mend: mend.collect(),
        }
    }
}

/// So many sequences of one name are told.
const CANDIDATES_NAMED: usize = 5;

/// Those of a session are its own affair.
fn may_be_named(sequence: &Sequence) -> bool {
    sequence.persistence != Persistence::Temporary
}

/// What a name in a default means.
enum Meant {
    One(Oid),
    /// Any that has this name, whatever its schema.
    Any(String),
    None,
}

/// The schemas in which a name without one is looked for, as far as they are the same in each session.
#[derive(Default)]
struct Path {
    schemas: Vec<String>,
    /// Those that every role may use. A role passes over the others without a word, if it may not use them.
    open: HashSet<String>,
}

impl Path {
    async fn read(client: &Client) -> Result<Self, Error> {
        let (mut of_database, mut of_roles) = (Vec::new(), Vec::new());
        for row in client.query(SEARCH_PATHS, &[]).await? {
            let path = identifiers(&row.try_get::<_, String>(1)?, ',').unwrap_or_default();
            if row.try_get(0)? { of_database = path } else { of_roles.push(path) }
        }
        if of_roles.iter().any(|path| *path != of_database) {
            return Ok(Path::default());
        }
        let schemas: Vec<String> = of_database.into_iter().take_while(|schema| schema != "$user").collect();
        let mut open = HashSet::new();
        for row in client.query(OPEN, &[&schemas]).await? {
            open.insert(row.try_get(0)?);
        }
        Ok(Path { schemas, open })
    }
}

/// What a name may mean.
struct Names<'a> {
    by_name: HashMap<&'a str, Vec<&'a Sequence>>,
    path: Path,
}

impl<'a> Names<'a> {
    fn of(sequences: &'a [Sequence], path: Path) -> Self {
        let mut by_name: HashMap<&str, Vec<&Sequence>> = HashMap::new();
        for sequence in sequences.iter().filter(|one| may_be_named(one)) {
            by_name.entry(&sequence.name.name).or_default().push(sequence);
        }
        Names { by_name, path }
    }

    /// As the server would in a session of the application, where that is certain.
    fn resolve(&self, written: &str) -> Meant {
        let parts = identifiers(written, '.').unwrap_or_default();
        let Some((name, before)) = parts.split_last() else { return Meant::None };
        let possible = self.by_name.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let in_schema = |schema: &String| possible.iter().find(|sequence| sequence.name.schema == *schema);
        // Before the schema there may be the database, which can only be this one.
        match (before.last(), possible) {
            (Some(schema), _) => in_schema(schema).map_or(Meant::None, |found| Meant::One(found.oid)),
            (None, []) => Meant::None,
            (None, [only]) => Meant::One(only.oid),
            (None, _) => {
                let mut on_path = self.path.schemas.iter().filter_map(in_schema);
                match (on_path.next(), on_path.next()) {
                    (Some(found), next) if next.is_none() || self.path.open.contains(&found.name.schema) => {
                        Meant::One(found.oid)
                    }
                    _ => Meant::Any(name.clone()),
                }
            }
        }
    }
}

/// So many bytes of a name count: the server cuts off the rest, and says so to nobody who reads.
const NAME_BYTES: usize = 63;

/// Splits `a.B."C"` as the server does: without quotes letters become small. `None` where it is no such list.
pub(super) fn identifiers(text: &str, separator: char) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(char::is_ascii_whitespace).is_some() {}
        let mut name = String::new();
        if rest.next_if_eq(&'"').is_some() {
            loop {
                match rest.next()? {
                    '"' if rest.next_if_eq(&'"').is_some() => name.push('"'),
                    '"' => break,
                    other => name.push(other),
                }
            }
        } else {
            let ends = |c: &char| *c == separator || *c == '"' || c.is_ascii_whitespace();
            while let Some(c) = rest.next_if(|c| !ends(c)) {
                name.push(c.to_ascii_lowercase());
            }
        }
        if name.is_empty() {
            return None;
        }
        name.truncate(name.floor_char_boundary(NAME_BYTES));
        found.push(name);
        while rest.next_if(char::is_ascii_whitespace).is_some() {}
        match rest.next() {
            None => return Some(found),
            Some(c) if c == separator => {}
            Some(_) => return None,
        }
    }
}

/// The names in a stored expression (`pg_node_tree`) that `nextval` is given as text, in the database's encoding.
fn names(expression: &str) -> Vec<Vec<u8>> {
    let calls = expression.split("{FUNCEXPR :funcid 1574 ").skip(1);
    calls.filter_map(name).collect()
}

/// What follows a call of `nextval`: `… :args ({FUNCEXPR :funcid 1079 … :args ({CONST … :constvalue 8 [ 32 0 0 0 … ]}`.
fn name(call: &str) -> Option<Vec<u8>> {
    let (_, argument) = call.split_once(":args (")?;
    let cast = argument.strip_prefix("{FUNCEXPR :funcid 1079 ")?;
    let (_, text) = cast.split_once(":args (")?;
    // A varchar is taken for a text as it is.
    let constant = text.strip_prefix("{RELABELTYPE :arg ").unwrap_or(text).strip_prefix("{CONST ")?;
    let (fields, _) = constant.split_once('}')?;
    let (_, value) = fields.split_once(":constvalue ")?;
    let (_, bytes) = value.split_once('[')?;
    let (bytes, _) = bytes.split_once(']')?;
    // Printed as signed numbers; the first four are the length.
    let bytes = bytes.split_ascii_whitespace().skip(4).map(|byte| {
        let byte: i16 = byte.parse().ok()?;
        u8::try_from(byte.rem_euclid(256)).ok()
    });
    bytes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a PostgreSQL 15 stores `nextval(('public.q'::text)::regclass)`, and `nextval('Ä'::varchar)`.
    const CAST: &str = "{FUNCEXPR :funcid 1574 :funcresulttype 20 :funcretset false :funcvariadic false :funcformat 0 \
        :funccollid 0 :inputcollid 0 :args ({FUNCEXPR :funcid 1079 :funcresulttype 2205 :funcretset false :funcvariadic \
        false :funcformat 1 :funccollid 0 :inputcollid 100 :args ({CONST :consttype 25 :consttypmod -1 :constcollid 100 \
        :constlen -1 :constbyval false :constisnull false :location 50 :constvalue 12 [ 48 0 0 0 112 117 98 108 105 99 46 \
        113 ]}) :location 73}) :location 41}";
    const RELABELLED: &str = "{FUNCEXPR :funcid 1574 :args ({FUNCEXPR :funcid 1079 :args ({RELABELTYPE :arg {CONST \
        :consttype 1043 :constisnull false :constvalue 6 [ 24 0 0 0 -61 -124 ]} :resulttype 25}) :location 1})}";

    #[test]
    fn names_are_read_out_of_stored_expressions() {
        assert_eq!(names(CAST), [b"public.q".to_vec()]);
        assert_eq!(names(RELABELLED), ["Ä".as_bytes().to_vec()]);
        assert_eq!(names(&format!("{{OPEXPR :args ({CAST} {RELABELLED})}}")).len(), 2);
        // A sequence that the catalog knows of, a name that is put together, another function, nothing.
        let known =
            "{FUNCEXPR :funcid 1574 :args ({CONST :consttype 2205 :constvalue 4 [ 1 64 0 0 0 0 0 0 ]})}";
        let put_together = CAST.replace("({CONST", "({OPEXPR :opno 654 :args ({CONST");
        for other in [known, &put_together, &CAST.replace("1574", "1575"), "{FUNCEXPR :funcid 1574 ", ""] {
            assert_eq!(names(other), Vec::<Vec<u8>>::new(), "{other}");
        }
    }

    #[test]
    fn identifiers_are_split_as_the_server_splits_them() {
        let split = |text: &str| identifiers(text, '.').unwrap_or_default().join("|");
        assert_eq!(split("public.Q"), "public|q");
        assert_eq!(split(" \"a.b\" . \"C\"\"d\" "), "a.b|C\"d");
        // What is too long is cut off, between two letters.
        assert_eq!(
            split(&format!("{}.\"a{}\"", "Q".repeat(70), "ä".repeat(40))),
            format!("{}|a{}", "q".repeat(63), "ä".repeat(31))
        );
        for wrong in ["", ".", "a.", "\"a", "a b", "a\"b\"", "\"\""] {
            assert_eq!(identifiers(wrong, '.'), None, "{wrong}");
        }
        assert_eq!(
            identifiers("\"$user\", public", ','),
            Some(vec!["$user".to_owned(), "public".to_owned()])
        );
    }
}
