//! The sequences of both servers side by side: missing ones, and how their definitions differ.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::bundle::bundle;
use super::{Code, Context, Finding, Severity};
use crate::catalog::{Catalog, Consumer, Link, Persistence, Readable, Sequence};
use crate::keeper::Managed;
use crate::ops::ask::Side;
use crate::pgoutput::IdFormat;
use crate::sides::SidesError;
use crate::types::{Oid, QualifiedName, quote_identifier, quote_literal};

const MISSING: Code = Code {
    code: "sequence-missing",
    severity: Severity::Warning,
    meaning: "A sequence of the publisher is not on the subscriber: after the cutover nextval of it fails.",
};
const DEFINITION: Code = Code {
    code: "sequence-definition-differs",
    severity: Severity::Warning,
    meaning: "The two sides define a sequence differently, in what PostgreSQL 19 compares too: type, START, INCREMENT, MINVALUE, MAXVALUE or CYCLE.",
};
const CACHE: Code = Code {
    code: "sequence-cache",
    severity: Severity::Warning,
    meaning: "A sequence of the subscriber has a CACHE: a session that has called nextval before the cutover goes on with the values in its cache, which the publisher may have used.",
};
const CACHE_DIFFERS: Code = Code {
    code: "sequence-cache-differs",
    severity: Severity::Notice,
    meaning: "A sequence has another CACHE on each side: sessions will take ids in other portions after the cutover.",
};
const OWNER: Code = Code {
    code: "sequence-owner-differs",
    severity: Severity::Notice,
    meaning: "A sequence is OWNED BY another column on each side: DROP TABLE and TRUNCATE ... RESTART IDENTITY will mean other sequences.",
};
const NARROWER: Code = Code {
    code: "sequence-column-narrower",
    severity: Severity::Notice,
    meaning: "A column holds less than its sequence can hand out: inserts fail before the sequence is used up.",
};
const ONLY_HERE: Code = Code {
    code: "sequence-only-on-subscriber",
    severity: Severity::Notice,
    meaning: "A sequence of the subscriber is not on the publisher: it is followed by the ids in its tables alone.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[MISSING, DEFINITION, CACHE, CACHE_DIFFERS, OWNER, NARROWER, ONLY_HERE];

/// The publisher's sequences, and which of them each of the subscriber's stands for.
#[derive(Debug)]
pub(super) struct Counterparts<'a> {
    pub publisher: &'a Catalog,
    /// Those that came with an extension, which will bring its own.
    of_extensions: HashSet<Oid>,
    by_name: HashMap<QualifiedName, usize>,
    /// By the subscriber's names.
    by_column: HashMap<(QualifiedName, String), usize>,
    renames: HashMap<QualifiedName, QualifiedName>,
}

impl<'a> Counterparts<'a> {
    /// Those of `publisher`, the publisher's catalog.
    ///
    /// # Errors
    /// The publisher's refusal, or that the connection is lost.
    pub(super) async fn of_catalog(
        context: &Context<'_>,
        publisher: &'a Catalog,
    ) -> Result<Self, SidesError> {
        let (side, client) = (Side::Publisher, &context.publisher.client);
        let extensions = "SELECT c.oid FROM pg_class c JOIN pg_depend d ON d.objid = c.oid
                    WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'";
        let rows = side.rows(client, extensions, &[]).await?;
        let of_extensions =
            rows.iter().map(|row| Ok(Oid(side.get(row, 0)?))).collect::<Result<_, SidesError>>()?;
        let renames = context.settings.renames_by_publisher();
        let mut by_column = HashMap::new();
        for (index, sequence) in publisher.sequences.iter().enumerate() {
            for consumer in &sequence.consumers {
                let table = renames.get(&consumer.table).unwrap_or(&consumer.table).clone();
                by_column.entry((table, consumer.column.clone())).or_insert(index);
            }
        }
        let by_name = publisher.by_name();
        Ok(Counterparts { publisher, of_extensions, by_name, by_column, renames })
    }

    /// The publisher's sequence of the same name, else the one behind the same column.
    pub(super) fn of(&self, here: &Sequence) -> Option<&Sequence> {
        let same_column = || {
            let keys = here.consumers.iter().map(|c| (c.table.clone(), c.column.clone()));
            keys.into_iter().find_map(|key| self.by_column.get(&key))
        };
        let index = self.by_name.get(&here.name).or_else(same_column)?;
        self.publisher.sequences.get(*index)
    }

    fn renamed<'b>(&'b self, name: &'b QualifiedName) -> &'b QualifiedName {
        self.renames.get(name).unwrap_or(name)
    }
}

pub(super) fn findings(context: &Context<'_>, counterparts: &Counterparts<'_>) -> Vec<Finding> {
    let managed = || {
        let all = context.survey.sequences.iter().map(|one| &one.managed);
        all.filter(|one| one.excluded.is_none())
    };
    let pairs = || managed().filter_map(|one| Some((one, counterparts.of(&one.sequence)?)));
    let mut found = bundle(missing(context, counterparts), "sequence");
    found.extend(bundle(pairs().filter_map(definition_differs).collect(), "sequence"));
    found.extend(bundle(managed().filter_map(has_cache).collect(), "sequence"));
    found.extend(bundle(pairs().filter_map(cache_differs).collect(), "sequence"));
    found.extend(bundle(pairs().filter_map(|pair| owner_differs(pair, counterparts)).collect(), "sequence"));
    let there = pairs().flat_map(|(_, there)| narrower(there, Side::Publisher));
    let narrow = there.chain(managed().flat_map(|one| narrower(&one.sequence, Side::Subscriber)));
    found.extend(bundle(narrow.collect(), "column"));
    found.extend(bundle(managed().filter_map(only_here).collect(), "sequence"));
    found
}

fn missing(context: &Context<'_>, counterparts: &Counterparts<'_>) -> Vec<Finding> {
    let here = || context.survey.sequences.iter().map(|one| &one.managed.sequence);
    let names: HashSet<&QualifiedName> = here().map(|sequence| &sequence.name).collect();
    let mut behind: HashMap<(&QualifiedName, &str), &QualifiedName> = HashMap::new();
    for sequence in here() {
        behind.extend(sequence.consumers.iter().map(|c| ((&c.table, c.column.as_str()), &sequence.name)));
    }
    let mut found = Vec::new();
    for there in &counterparts.publisher.sequences {
        let is_passing =
            there.persistence == Persistence::Temporary || counterparts.of_extensions.contains(&there.oid);
        if is_passing || names.contains(&there.name) || context.settings.excludes(&there.name) {
            continue;
        }
        let column = |c: &Consumer| behind.get(&(counterparts.renamed(&c.table), c.column.as_str())).copied();
        let other = there.consumers.iter().find_map(column);
        let is_renamed = there.consumers.iter().any(|c| counterparts.renames.contains_key(&c.table));
        let name = there.name.to_string();
        found.push(match other {
            // Another table's name, so another sequence's.
            Some(_) if is_renamed => continue,
            Some(other) => {
                let message = format!(
                    "is not on the subscriber, where {other} stands behind the same column: nextval of it by name \
                     fails after the cutover"
                );
                let finding = Finding::on_subscriber(&MISSING, name, message);
                if other.schema == there.name.schema {
                    let to = quote_identifier(&there.name.name);
                    finding.mend(format!("ALTER SEQUENCE {other} RENAME TO {to};"))
                } else {
                    finding
                }
            }
            None => {
                let message = "is not on the subscriber: nextval of it fails after the cutover";
                Finding::on_subscriber(&MISSING, name, message).mend(create(there, counterparts))
            }
        });
    }
    found
}

/// The statements that make a sequence as the publisher's is, behind the same columns.
fn create(there: &Sequence, counterparts: &Counterparts<'_>) -> String {
    let columns: Vec<&Consumer> = there.consumers.iter().filter(|c| !c.inherited).collect();
    let place = |c: &Consumer| {
        let table = counterparts.renamed(&c.table).clone();
        (table, quote_identifier(&c.column))
    };
    if let Some((table, column)) = columns.iter().find(|c| c.link == Link::Identity).map(|c| place(c)) {
        return format!(
            "ALTER TABLE {table} ALTER COLUMN {column} ADD GENERATED BY DEFAULT AS IDENTITY\n  \
             (SEQUENCE NAME {}{});",
            there.name,
            options(there)
        );
    }
    let mut sql = format!("CREATE SEQUENCE {} AS {}{};", there.name, there.data_type, options(there));
    for consumer in columns {
        let (table, column) = place(consumer);
        if consumer.link == Link::Owned {
            sql += &format!("\nALTER SEQUENCE {} OWNED BY {table}.{column};", there.name);
        }
        if consumer.readable == Readable::Yes(IdFormat::Integer) {
            let literal = quote_literal(&there.name.to_string());
            sql += &format!("\nALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT nextval({literal});");
        }
    }
    sql
}

/// Each option with a space before it.
fn options(sequence: &Sequence) -> String {
    let d = &sequence.definition;
    let cycle = if d.cycle { " CYCLE" } else { "" };
    format!(
        " START {} INCREMENT {}\n  MINVALUE {} MAXVALUE {} CACHE {}{cycle}",
        d.start, d.increment, d.min, d.max, d.cache
    )
}

fn definition_differs((one, there): (&Managed, &Sequence)) -> Option<Finding> {
    let mismatch = one.publisher_value()?.mismatch.as_ref()?;
    let d = &there.definition;
    let cycle = if d.cycle { "CYCLE" } else { "NO CYCLE" };
    let name = &one.sequence.name;
    let sql = format!(
        "ALTER SEQUENCE {name} AS {} START {} INCREMENT {}\n  MINVALUE {} MAXVALUE {} {cycle};",
        there.data_type, d.start, d.increment, d.min, d.max
    );
    let finding = Finding::new(&DEFINITION, name.to_string(), format!("is defined differently: {mismatch}"));
    Some(finding.mend(sql))
}

fn has_cache(one: &Managed) -> Option<Finding> {
    let (name, cache) = (&one.sequence.name, one.sequence.definition.cache);
    let message = format!(
        "has CACHE {cache}: sessions that have called nextval on the subscriber before the cutover go on with values \
         of before; have them reconnect then, or do without it"
    );
    let finding = Finding::on_subscriber(&CACHE, name.to_string(), message);
    (cache > 1).then(|| finding.mend(format!("ALTER SEQUENCE {name} CACHE 1;")))
}

fn cache_differs((one, there): (&Managed, &Sequence)) -> Option<Finding> {
    let (ours, theirs) = (one.sequence.definition.cache, there.definition.cache);
    let message = format!("has CACHE {theirs} on the publisher and {ours} on the subscriber");
    (ours != theirs).then(|| Finding::new(&CACHE_DIFFERS, one.sequence.name.to_string(), message))
}

fn owner_differs((one, there): (&Managed, &Sequence), counterparts: &Counterparts<'_>) -> Option<Finding> {
    let column = |table: &QualifiedName, c: &Consumer| format!("{table}.{}", quote_identifier(&c.column));
    let ours: BTreeSet<String> = one.sequence.owners().map(|c| column(&c.table, c)).collect();
    let theirs: BTreeSet<String> =
        there.owners().map(|c| column(counterparts.renamed(&c.table), c)).collect();
    if ours == theirs {
        return None;
    }
    let text = |owners: &BTreeSet<String>| {
        if owners.is_empty() {
            "no column".to_owned()
        } else {
            owners.iter().cloned().collect::<Vec<_>>().join(", ")
        }
    };
    let message =
        format!("is owned by {} on the publisher and by {} on the subscriber", text(&theirs), text(&ours));
    let name = &one.sequence.name;
    let finding = Finding::new(&OWNER, name.to_string(), message);
    // The owner of an identity's sequence cannot be changed.
    let of_identity = one.sequence.consumers.iter().any(|c| c.link == Link::Identity);
    Some(if of_identity {
        finding
    } else {
        let owner = theirs.first().map_or("NONE", String::as_str);
        finding.mend(format!("ALTER SEQUENCE {name} OWNED BY {owner};"))
    })
}

fn narrower(sequence: &Sequence, side: Side) -> Vec<Finding> {
    let d = &sequence.definition;
    let is_direct = |c: &&Consumer| c.numeric && !c.inherited && matches!(c.readable, Readable::Yes(_));
    let mut found = Vec::new();
    for consumer in sequence.consumers.iter().filter(is_direct) {
        let (lowest, highest) = consumer.range.clone().into_inner();
        let (end, room) = if d.descending() { (d.min, lowest) } else { (d.max, highest) };
        if !d.is_past(end, room) || d.cycle {
            continue;
        }
        let column = quote_identifier(&consumer.column);
        let message = format!("ends at {room}, and its sequence {} at {end}", sequence.name);
        let object = format!("{}.{column}", consumer.table);
        let finding = match side {
            Side::Publisher => Finding::on_publisher(&NARROWER, object, message),
            Side::Subscriber => Finding::on_subscriber(&NARROWER, object, message),
        };
        found.push(finding.mend(format!(
            "ALTER TABLE {} ALTER COLUMN {column} TYPE {}; -- rewrites it",
            consumer.table, sequence.data_type
        )));
    }
    found
}

fn only_here(one: &Managed) -> Option<Finding> {
    let message = "is not on the publisher: it is followed by the ids in its tables alone";
    let absent = one.publisher_value().is_some_and(|value| value.absent);
    absent.then(|| Finding::on_subscriber(&ONLY_HERE, one.sequence.name.to_string(), message))
}
