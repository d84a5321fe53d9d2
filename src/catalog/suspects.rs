//! Who may take values of a sequence beside the columns that are known to: functions, rules, and triggers that have its name
//! in their arguments. A hint for people, never a mark: what a function makes of a value is its own affair.
//!
//! In: a connection, and the sequences with their columns. Out: [`Suspect`]s, by sequence. Locks nothing.
//!
//! No suspect is what provably puts each value into a column that is known for that very sequence, or that has a foreign key
//! to one. What hands its values on is judged by those that call it; if nobody is known to, nobody can say where they go. A
//! name that several sequences have is held against the columns of all of them, and its suspects are found once
//! for the name, so that a schema per customer does not take the square of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio_postgres::{Client, Error};

use super::Sequence;
use super::callers::{Arguments, Caller, Rule, arguments, callers, rules};
use super::draws::Goes;
use super::named_in_text::identifiers;
use super::node_tree::{NEXTVAL, Put, calls};
use super::takers::{Function, Names, Takers, Target};
use super::targets::{Tables, columns};
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
}

impl<'a> Known<'a> {
    pub(super) fn of(sequences: &'a [Sequence]) -> Self {
        let mut known = Known { columns: HashSet::new() };
        for sequence in sequences {
            for by in [By::Oid(sequence.oid.0), By::Name(&sequence.name.name)] {
                for consumer in &sequence.consumers {
                    known.columns.insert((by, &consumer.table, &consumer.column));
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
        self.columns.contains(&(by(target), table, column))
    }
}

fn by(target: &Target) -> By<'_> {
    match target {
        Target::This(oid) => By::Oid(*oid),
        Target::Named(name) => By::Name(name),
    }
}

/// What is told of a sequence, and of which column.
struct Told {
    what: String,
    /// The table, and the column if that is known. `None`: nobody can say.
    column: Option<(QualifiedName, Option<String>)>,
    /// Whether the column's own default can do it, and not an owner alone.
    is_default: bool,
}

type Found = BTreeMap<Target, Vec<Told>>;

/// Finds them.
///
/// # Errors
/// The server's or the connection's error.
pub(super) async fn suspects(
    client: &Client,
    sequences: &[Sequence],
) -> Result<HashMap<Oid, Vec<Suspect>>, Error> {
    if sequences.is_empty() {
        return Ok(HashMap::new());
    }
    let names = Names::of(sequences);
    let takers = Takers::find(client, &names).await?;
    let oids: Vec<u32> = takers.functions.keys().copied().collect();
    let callers = if oids.is_empty() { HashMap::new() } else { callers(client, &oids).await? };
    let rules = rules(client, &oids).await?;
    let tables = Tables::read(client, &takers).await?;
    let judge = Judge {
        known: Known::of(sequences),
        takers: &takers,
        callers: &callers,
        rules: &rules,
        tables: &tables,
    };
    let mut found = judge.functions();
    judge.rules(&mut found);
    judge.arguments(&arguments(client).await?, &names, &mut found);
    Ok(told(sequences, &found))
}

struct Judge<'a> {
    known: Known<'a>,
    takers: &'a Takers,
    callers: &'a HashMap<u32, Vec<Caller>>,
    rules: &'a [Rule],
    tables: &'a Tables,
}

impl Judge<'_> {
    fn callers(&self, function: u32) -> &[Caller] {
        self.callers.get(&function).map(Vec::as_slice).unwrap_or_default()
    }

    fn functions(&self) -> Found {
        let mut functions: Vec<&Function> = self.takers.functions.values().collect();
        functions.sort_by(|one, other| one.what.cmp(&other.what));
        let mut found = Found::new();
        for function in functions {
            let callers = self.callers(function.oid);
            for (target, draws) in &function.takes {
                if draws.iter().all(|goes| goes.is_empty() || self.is_ordinary(function, target, goes)) {
                    continue;
                }
                let caller = callers.iter().find(|caller| caller.column.is_some()).or(callers.first());
                let into = draws.iter().flatten().find_map(|goes| match goes {
                    Goes::New(column) => Some(column.clone()),
                    _ => None,
                });
                found.entry(target.clone()).or_default().push(Told {
                    what: what(function, callers),
                    is_default: caller.is_some_and(|caller| caller.column.is_some()),
                    column: caller.map(|caller| (caller.table.clone(), caller.column.clone().or(into))),
                });
            }
        }
        found
    }

    /// Whether what it takes goes where it is known to go.
    fn is_ordinary(
        &self,
        function: &Function,
        target: &Target,
        goes: &std::collections::BTreeSet<Goes>,
    ) -> bool {
        let callers = self.callers(function.oid);
        let is_known = |caller: &Caller, column: &str| self.known.takes(target, &caller.table, column);
        goes.iter().all(|goes| match goes {
            Goes::Unknown => false,
            Goes::Column { .. } => self.is_known_column(target, goes),
            Goes::New(column) => {
                let triggers = callers.iter().filter(|caller| caller.column.is_none());
                triggers.into_iter().all(|caller| is_known(caller, column))
            }
            // What an application does with the result is not known of `nextval` itself either.
            Goes::Result => {
                let mut defaults =
                    callers.iter().filter_map(|caller| Some((caller, caller.column.as_ref()?)));
                defaults.all(|(caller, column)| is_known(caller, column))
            }
        })
    }

    /// Whether a column is known, or refers to one that is: whichever table of the name it may be.
    fn is_known_column(&self, target: &Target, goes: &Goes) -> bool {
        let Goes::Column { schema, table, at } = goes else { return false };
        let found = self.tables.columns(schema.as_deref(), table, at);
        let is_known = |(table, column): &(QualifiedName, String)| {
            self.known.takes(target, table, column)
                || self
                    .tables
                    .referred(table, column)
                    .any(|(table, column)| self.known.takes(target, table, column))
        };
        found.is_some_and(|found| !found.is_empty() && found.iter().all(is_known))
    }

    fn rules(&self, found: &mut Found) {
        for rule in self.rules {
            let taken = rule.sequences.iter().map(|sequence| (Target::This(*sequence), NEXTVAL));
            let functions = rule.functions.iter().filter_map(|oid| self.takers.functions.get(oid));
            let through = functions
                .flat_map(|function| function.takes.keys().map(|target| (target.clone(), function.oid)));
            for (target, called) in taken.chain(through) {
                let strange = calls(&rule.tree, &[called]).into_iter().find_map(|put| {
                    let columns = match put {
                        Put::Column(number) => columns(rule, number),
                        Put::Shown | Put::Unknown => Vec::new(),
                    };
                    let strange =
                        columns.iter().find(|(table, column)| !self.known.takes(&target, table, column));
                    (columns.is_empty() || strange.is_some()).then(|| strange.cloned())
                });
                if let Some(column) = strange {
                    found.entry(target).or_default().push(Told {
                        what: format!("{} takes its values", rule.what),
                        column: column.map(|(table, column)| (table, Some(column))),
                        is_default: true,
                    });
                }
            }
        }
    }

    /// Triggers that have a sequence's name in their arguments.
    fn arguments(&self, all: &[Arguments], names: &Names<'_>, found: &mut Found) {
        for trigger in all {
            let mut before: Option<&String> = None;
            for text in &trigger.texts {
                let column = before.replace(text);
                let target = identifiers(text, '.').and_then(|parts| names.target(&parts));
                let Some(target) = target else { continue };
                let takes = |column: &str| self.known.takes(&target, &trigger.table, column);
                let draws = self.takers.functions.get(&trigger.function).map(|function| &function.computed);
                let into: Vec<Option<&String>> = draws
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|goes| match goes {
                        Goes::New(column) => Some(column),
                        _ => None,
                    })
                    .collect();
                // As the extension autoinc is told: a column, and its sequence.
                let is_known = column.is_some_and(|column| takes(column))
                    || !into.is_empty()
                        && into.iter().all(|column| column.is_some_and(|column| takes(column)));
                if !is_known {
                    found.entry(target).or_default().push(Told {
                        what: format!("a trigger of {} has its name in its arguments", trigger.table),
                        column: Some((trigger.table.clone(), into.first().copied().flatten().cloned())),
                        is_default: false,
                    });
                }
            }
        }
    }
}

/// By sequence.
fn told(sequences: &[Sequence], found: &Found) -> HashMap<Oid, Vec<Suspect>> {
    let mut by_sequence = HashMap::new();
    for sequence in sequences {
        let mut suspects = Vec::new();
        let mut more = 0_usize;
        for target in [Target::This(sequence.oid.0), Target::Named(sequence.name.name.clone())] {
            let all = found.get(&target).map(Vec::as_slice).unwrap_or_default();
            more = more.saturating_add(all.len().saturating_sub(KEPT));
            let kept = all.iter().take(KEPT);
            suspects.extend(kept.map(|one| Suspect { what: one.what.clone(), mend: mend(sequence, one) }));
        }
        if more > 0 {
            suspects.push(Suspect { what: format!("{more} more functions mention it"), mend: Vec::new() });
        }
        if !suspects.is_empty() {
            by_sequence.insert(sequence.oid, suspects);
        }
    }
    by_sequence
}

fn what(function: &Function, callers: &[Caller]) -> String {
    let does = match &function.through {
        Some(other) => format!("takes its values by {other}"),
        None => "mentions it".to_owned(),
    };
    let function = &function.what;
    if callers.is_empty() {
        return format!("{function} {does}");
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
    format!("{function}, called by {}{more}, {does}", named.join(", "))
}

/// How the column is made known, where it holds the values as they are. A sequence has one owner at most, in its own
/// schema; a default makes any number of columns known.
fn mend(sequence: &Sequence, told: &Told) -> Vec<String> {
    let Some((table, column)) = &told.column else { return Vec::new() };
    let is_free = sequence.consumers.is_empty() && sequence.name.schema == table.schema;
    vec![if is_free && !told.is_default {
        let column = column.as_deref().map_or_else(|| "COLUMN".to_owned(), quote_identifier);
        format!("ALTER SEQUENCE {} OWNED BY {table}.{column};", sequence.name)
    } else {
        set_default(table, column.as_deref(), &sequence.name)
    }]
}

/// The statement that makes a column known (`None`: that somebody has to name).
pub(super) fn set_default(table: &QualifiedName, column: Option<&str>, sequence: &QualifiedName) -> String {
    let column = column.map_or_else(|| "COLUMN_NAME".to_owned(), quote_identifier);
    let name = quote_literal(&sequence.to_string());
    format!("ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT nextval({name}::regclass);")
}
