//! The functions that take values of a sequence: by `nextval`, or by calling one that hands such a value on.
//!
//! In: a connection, and the sequences. Out: [`Function`]s, with what goes where. Bodies are read as text, or as the tree
//! that the server has parsed (`BEGIN ATOMIC`, from 14 on). Locks nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tokio_postgres::{Client, Error, Row};

use super::Sequence;
use super::draws::{Goes, Source, draws};
use super::named_in_text::identifiers;
use super::node_tree::{NEXTVAL, Put, calls};
use super::tokens::{Token, tokens};
use crate::types::QualifiedName;

/// Functions with their text, and the sequences and functions that the server itself knows them to use.
const FUNCTIONS: &str = "
WITH parsed AS (
    SELECT d.objid AS function,
           array_agg(d.refobjid) FILTER (WHERE d.refclassid = 'pg_class'::regclass) AS sequences,
           array_agg(d.refobjid) FILTER (WHERE d.refclassid = 'pg_proc'::regclass) AS functions
      FROM pg_depend d
     WHERE d.classid = 'pg_proc'::regclass
       AND (d.refclassid = 'pg_class'::regclass
            AND EXISTS (SELECT FROM pg_class c WHERE c.oid = d.refobjid AND c.relkind = 'S')
            OR d.refclassid = 'pg_proc'::regclass)
     GROUP BY d.objid
)
SELECT p.oid, n.nspname::text, p.proname::text, pg_get_function_identity_arguments(p.oid), p.prosrc,
       coalesce(parsed.sequences, '{}'::oid[]), p.prorettype = 'trigger'::regtype,
       CASE WHEN p.prosrc = '' THEN to_jsonb(p) ->> 'prosqlbody' END
  FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c')
  LEFT JOIN parsed ON parsed.function = p.oid
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND ";

/// Those that take a value themselves.
const FIRST: &str = "(parsed.sequences IS NOT NULL OR p.prosrc ILIKE '%nextval%')";

/// Those that may call others, by the names and the OIDs of these.
const CALLING: &str = "(parsed.functions && $2::oid[]
    OR EXISTS (SELECT FROM (SELECT lower(p.prosrc) AS text OFFSET 0) AS body, unnest($1::text[]) AS called (name)
                WHERE strpos(body.text, called.name) > 0))";

/// So deep are calls followed.
const DEPTH: usize = 8;

/// So many functions may have one name before only those of the caller's own schema count.
const ALIKE: usize = 20;

/// What a function means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    This(u32),
    /// One of the sequences of this name.
    Named(String),
}

/// Where the value of each draw goes.
pub(super) type Draws = Vec<BTreeSet<Goes>>;

/// A function with the sequences that it takes values of.
pub(super) struct Function {
    pub oid: u32,
    name: QualifiedName,
    pub what: String,
    text: String,
    /// Of a body that the server has parsed.
    tree: Option<String>,
    pub is_trigger: bool,
    pub takes: BTreeMap<Target, Draws>,
    /// What it takes of a sequence whose name is put together, or given to it.
    pub computed: Draws,
    /// The function that it has the values from.
    pub through: Option<QualifiedName>,
}

/// The functions that take values.
#[derive(Default)]
pub(super) struct Takers {
    pub functions: BTreeMap<u32, Function>,
}

/// What a function hands on.
struct Callee {
    oid: u32,
    name: QualifiedName,
    targets: Vec<Target>,
    is_computed: bool,
}

impl Takers {
    /// Finds them.
    ///
    /// # Errors
    /// The server's or the connection's error.
    pub(super) async fn find(client: &Client, names: &Names<'_>) -> Result<Self, Error> {
        let mut found = Takers::default();
        for row in client.query(&format!("{FUNCTIONS}{FIRST}"), &[]).await? {
            if let Some(mut function) = function(&row)? {
                function.take(names, &row.try_get::<_, Vec<u32>>(5)?);
                found.functions.insert(function.oid, function);
            }
        }
        let mut told = HashSet::new();
        for _ in 0..DEPTH {
            let callees = found.hand_on(&mut told);
            if callees.is_empty() {
                return Ok(found);
            }
            // A schema for each customer has as many functions of one name.
            let of_names: BTreeSet<String> =
                callees.iter().map(|callee| callee.name.name.to_ascii_lowercase()).collect();
            let of_names: Vec<String> = of_names.into_iter().collect();
            let oids: Vec<u32> = callees.iter().map(|callee| callee.oid).collect();
            for row in client.query(&format!("{FUNCTIONS}{CALLING}"), &[&of_names, &oids]).await? {
                let Some(new) = function(&row)? else { continue };
                let function = found.functions.entry(new.oid).or_insert(new);
                function.call(&callees, names);
            }
        }
        // Who knows where it ends.
        for callee in found.hand_on(&mut told) {
            let Some(function) = found.functions.get_mut(&callee.oid) else { continue };
            for target in callee.targets {
                function.takes.entry(target).or_default().push(unknown());
            }
        }
        Ok(found)
    }

    /// Those that hand on what was not handed on yet.
    fn hand_on(&self, told: &mut HashSet<(u32, Option<Target>)>) -> Vec<Callee> {
        let hands_on = |draws: &Draws| draws.iter().any(|goes| goes.contains(&Goes::Result));
        let mut found = Vec::new();
        for function in self.functions.values().filter(|function| !function.is_trigger) {
            let targets =
                function.takes.iter().filter(|(_, draws)| hands_on(draws)).map(|(target, _)| target.clone());
            let targets: Vec<Target> =
                targets.filter(|target| told.insert((function.oid, Some(target.clone())))).collect();
            let is_computed = hands_on(&function.computed) && told.insert((function.oid, None));
            if is_computed || !targets.is_empty() {
                found.push(Callee { oid: function.oid, name: function.name.clone(), targets, is_computed });
            }
        }
        found
    }
}

/// `None`: it was dropped just now, and has no arguments.
fn function(row: &Row) -> Result<Option<Function>, Error> {
    let Some(arguments) = row.try_get::<_, Option<String>>(3)? else { return Ok(None) };
    let name = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
    Ok(Some(Function {
        oid: row.try_get(0)?,
        what: format!("function {name}({arguments})"),
        name,
        text: row.try_get(4)?,
        tree: row.try_get(7)?,
        is_trigger: row.try_get(6)?,
        takes: BTreeMap::new(),
        computed: Vec::new(),
        through: None,
    }))
}

impl Function {
    /// What it takes itself.
    fn take(&mut self, names: &Names<'_>, parsed: &[u32]) {
        for sequence in parsed {
            let draws =
                self.tree.as_deref().map_or_else(|| vec![unknown()], |tree| self.stored(tree, NEXTVAL));
            if !draws.is_empty() {
                self.takes.entry(Target::This(*sequence)).or_default().extend(draws);
            }
        }
        let Some(draws) = draws(&self.text, &[]) else {
            for target in names.between_quotes(&self.text) {
                self.takes.entry(target).or_default().push(unknown());
            }
            self.computed.push(unknown());
            return;
        };
        for draw in draws {
            let goes = self.seen(draw.goes);
            match draw.of {
                Source::Sequence(written) => {
                    let target = identifiers(&written, '.').and_then(|parts| names.target(&parts));
                    if let Some(target) = target {
                        self.takes.entry(target).or_default().push(goes);
                    }
                }
                Source::Computed | Source::Function(_) => self.compute(names, goes),
            }
        }
    }

    /// What it takes by calling `callees`.
    fn call(&mut self, callees: &[Callee], names: &Names<'_>) {
        let text = self.text.to_ascii_lowercase();
        let mut said: HashMap<&str, bool> = HashMap::new();
        let mut is_said =
            |name| *said.entry(name).or_insert_with(|| text.contains(&name.to_ascii_lowercase()));
        let mut callees: Vec<&Callee> = callees
            .iter()
            .filter(|callee| callee.oid != self.oid)
            .filter(|callee| self.tree.is_some() || is_said(callee.name.name.as_str()))
            .collect();
        if callees.len() > ALIKE {
            let own = |callee: &&Callee| callee.name.schema == self.name.schema;
            let of_own: HashSet<&str> =
                callees.iter().copied().filter(own).map(|callee| callee.name.name.as_str()).collect();
            callees.retain(|callee| own(callee) || !of_own.contains(callee.name.name.as_str()));
        }
        let mut calls: Vec<(&Callee, BTreeSet<Goes>)> = Vec::new();
        if let Some(tree) = &self.tree {
            for callee in &callees {
                calls.extend(self.stored(tree, callee.oid).into_iter().map(|goes| (*callee, goes)));
            }
        } else {
            let of_names: Vec<&QualifiedName> = callees.iter().map(|callee| &callee.name).collect();
            match draws(&self.text, &of_names) {
                Some(draws) => calls.extend(draws.into_iter().filter_map(|draw| match draw.of {
                    Source::Function(number) => Some((*callees.get(number)?, self.seen(draw.goes))),
                    _ => None,
                })),
                None => calls.extend(
                    callees
                        .iter()
                        .filter(|callee| has_word(&text, &callee.name.name))
                        .map(|callee| (*callee, unknown())),
                ),
            }
        }
        for (callee, goes) in calls {
            self.through.get_or_insert_with(|| callee.name.clone());
            for target in &callee.targets {
                self.takes.entry(target.clone()).or_default().push(goes.clone());
            }
            if callee.is_computed {
                self.compute(names, goes);
            }
        }
    }

    /// A value of a sequence that is not named at the place: of those that it has the names of, somewhere.
    fn compute(&mut self, names: &Names<'_>, goes: BTreeSet<Goes>) {
        for target in names.between_quotes(&self.text) {
            self.takes.entry(target).or_insert_with(|| vec![unknown()]);
        }
        self.computed.push(goes);
    }

    fn stored(&self, tree: &str, called: u32) -> Draws {
        let puts = calls(tree, &[called]).into_iter();
        puts.map(|put| if put == Put::Shown { BTreeSet::from([Goes::Result]) } else { self.seen(unknown()) })
            .collect()
    }

    /// What a function that writes nothing makes of a value can only go to whom it was called by.
    fn seen(&self, goes: BTreeSet<Goes>) -> BTreeSet<Goes> {
        if self.is_trigger || !goes.contains(&Goes::Unknown) || !self.only_reads() {
            return goes;
        }
        let known = goes.into_iter().filter(|goes| *goes != Goes::Unknown);
        known.chain([Goes::Result]).collect()
    }

    fn only_reads(&self) -> bool {
        let writes = |token: &Token| match token {
            Token::Word(word) => {
                matches!(
                    word.as_str(),
                    "insert" | "update" | "merge" | "execute" | "perform" | "call" | "copy"
                )
            }
            _ => false,
        };
        match &self.tree {
            Some(tree) => [2, 3, 5].iter().all(|command| !tree.contains(&format!(":commandType {command} "))),
            None => tokens(&self.text).is_some_and(|tokens| !tokens.iter().any(writes)),
        }
    }
}

fn unknown() -> BTreeSet<Goes> {
    BTreeSet::from([Goes::Unknown])
}

/// Whether `name` stands in a text, and is no part of a longer one. `text` has small letters only.
fn has_word(text: &str, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_part = |c: char| c == '_' || c.is_alphanumeric();
    text.match_indices(&name).any(|(at, _)| {
        let after = text.get(at.saturating_add(name.len())..).unwrap_or_default();
        !text.get(..at).unwrap_or_default().ends_with(is_part) && !after.starts_with(is_part)
    })
}

/// The sequences by name.
pub(super) struct Names<'a> {
    by_name: HashMap<&'a str, HashMap<&'a str, u32>>,
}

impl<'a> Names<'a> {
    pub(super) fn of(sequences: &'a [Sequence]) -> Self {
        let mut by_name: HashMap<&str, HashMap<&str, u32>> = HashMap::new();
        for sequence in sequences {
            let of_name = by_name.entry(&sequence.name.name).or_default();
            of_name.insert(&sequence.name.schema, sequence.oid.0);
        }
        Names { by_name }
    }

    /// What a name may mean, in its parts.
    pub(super) fn target(&self, parts: &[String]) -> Option<Target> {
        let (name, before) = parts.split_last()?;
        let of_name = self.by_name.get(name.as_str())?;
        match (before.last(), of_name.len()) {
            (Some(schema), _) => of_name.get(schema.as_str()).map(|oid| Target::This(*oid)),
            (None, 1) => of_name.values().next().map(|oid| Target::This(*oid)),
            (None, _) => Some(Target::Named(name.clone())),
        }
    }

    /// Those whose names stand between quotes.
    fn between_quotes(&self, text: &str) -> Vec<Target> {
        names(text).filter_map(|parts| self.target(&parts)).collect()
    }
}

/// What stands between quotes in a function's text and is a name, in its parts. However deep the quotes are, and whichever of
/// them opens: what is no name between them falls through.
fn names(text: &str) -> impl Iterator<Item = Vec<String>> {
    text.split('\'').filter_map(|piece| identifiers(piece.trim_end_matches('\\'), '.'))
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
