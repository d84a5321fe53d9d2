//! The sequences of both servers side by side: missing ones, and how their definitions differ.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::bundle::bundle;
use super::create::{Place, create};
use super::{Code, Coming, Context, Finding, Severity};
use crate::catalog::{Catalog, Consumer, Link, Persistence, Readable, Sequence};
use crate::keeper::Managed;
use crate::ops::ask::Side;
use crate::plan::Definition;
use crate::sides::SidesError;
use crate::types::{Oid, QualifiedName, quote_identifier};

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

    pub(super) fn renamed<'b>(&'b self, name: &'b QualifiedName) -> &'b QualifiedName {
        self.renames.get(name).unwrap_or(name)
    }
}

/// `coming` gets what the subscriber has once the missing sequences are made.
///
/// # Errors
/// The subscriber's refusal, or that the connection is lost.
pub(super) async fn findings(
    context: &Context<'_>,
    counterparts: &Counterparts<'_>,
    coming: &mut Coming,
) -> Result<Vec<Finding>, SidesError> {
    let managed = || {
        let all = context.survey.sequences.iter().map(|one| &one.managed);
        all.filter(|one| one.excluded.is_none())
    };
    let pairs = || managed().filter_map(|one| Some((one, counterparts.of(&one.sequence)?)));
    let lacking = lacking(context, counterparts);
    let others: Vec<_> = pairs().filter(|pair| owners(*pair, counterparts).is_some()).collect();
    let place = Place::load(context, counterparts, &lacking, &others).await?;
    let mut found = bundle(missing(&lacking, counterparts, &place, coming), "sequence");
    found.extend(bundle(pairs().filter_map(definition_differs).collect(), "sequence"));
    found.extend(bundle(managed().filter_map(has_cache).collect(), "sequence"));
    found.extend(bundle(pairs().filter_map(cache_differs).collect(), "sequence"));
    let owned = others.into_iter().filter_map(|pair| owner_differs(pair, counterparts, &place));
    found.extend(bundle(owned.collect(), "sequence"));
    let there = pairs().flat_map(|(_, there)| narrower(there, Side::Publisher));
    let narrow = there.chain(managed().flat_map(|one| narrower(&one.sequence, Side::Subscriber)));
    found.extend(bundle(narrow.collect(), "column"));
    found.extend(bundle(managed().filter_map(only_here).collect(), "sequence"));
    Ok(found)
}

/// A sequence that the subscriber lacks, and the one that stands behind the same column there.
type Lacking<'a> = (&'a Sequence, Option<&'a QualifiedName>);

fn lacking<'a>(context: &'a Context<'_>, counterparts: &'a Counterparts<'_>) -> Vec<Lacking<'a>> {
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
        // Another table's name, so another sequence's.
        if other.is_none() || !is_renamed {
            found.push((there, other));
        }
    }
    found
}

fn missing(
    lacking: &[Lacking<'_>],
    counterparts: &Counterparts<'_>,
    place: &Place,
    coming: &mut Coming,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for (there, other) in lacking {
        let name = there.name.to_string();
        found.push(match other {
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
                    finding.advise("it is in another schema: which of the two it shall be is for you to decide")
                }
            }
            None => {
                let message = "is not on the subscriber: nextval of it fails after the cutover";
                let finding = Finding::on_subscriber(&MISSING, name, message);
                let (sql, advice) = create(there, counterparts, place, coming);
                finding.mend(sql).advise(advice)
            }
        });
    }
    found
}

/// As it stands now, nothing goes back by it: where the subscriber's sequence stands outside the publisher's bounds, it goes on to the nearer
/// one if that lies ahead, and keeps its own bound if it does not.
fn definition_differs((one, there): (&Managed, &Sequence)) -> Option<Finding> {
    let mismatch = one.publisher_value()?.mismatch.as_ref()?;
    let name = &one.sequence.name;
    let finding =
        Finding::on_subscriber(&DEFINITION, name.to_string(), format!("is defined differently: {mismatch}"));
    let to = mended(&one.sequence.definition, &there.definition, one.state.map(|state| state.last_value));
    let d = &to.definition;
    // A bound that is kept may be too large for the publisher's type.
    let data_type = if to.keeps { &one.sequence.data_type } else { &there.data_type };
    let cycle = if d.cycle { "CYCLE" } else { "NO CYCLE" };
    let restart = to.restart.map(|value| format!(" RESTART {value}")).unwrap_or_default();
    let sql = format!(
        "ALTER SEQUENCE {name} AS {data_type} START {} INCREMENT {}\n  MINVALUE {} MAXVALUE {}{restart} {cycle};",
        d.start, d.increment, d.min, d.max
    );
    let last = one.state.map(|state| state.last_value).unwrap_or_default();
    Some(finding.mend(sql).advise(match (to.keeps, to.restart) {
        (true, _) => format!(
            "it stands at {last}, past the publisher's end, and is not moved back: it keeps its own end; give the \
             publisher's sequence the same, or acknowledge that they differ"
        ),
        (false, Some(value)) => {
            format!(
                "it stands at {last}, before the publisher's first value, and goes on at {value}: run this only while \
                 that is so, and check again if it has moved since, for RESTART would then set it back"
            )
        }
        (false, None) => String::new(),
    }))
}

/// The definition that a sequence can be given.
struct Mended {
    definition: Definition,
    /// Where it has to go on; the bounds leave it out otherwise.
    restart: Option<i64>,
    /// One of the bounds is the one that it has.
    keeps: bool,
}

/// `here` made as `there`, for a sequence that stands at `last`.
fn mended(here: &Definition, there: &Definition, last: Option<i64>) -> Mended {
    let mut to = Mended { definition: *there, restart: None, keeps: false };
    let d = &mut to.definition;
    match last {
        Some(last) if last < there.min && there.descending() => (d.min, to.keeps) = (here.min, true),
        Some(last) if last > there.max && !there.descending() => (d.max, to.keeps) = (here.max, true),
        Some(last) if last < there.min => to.restart = Some(there.min),
        Some(last) if last > there.max => to.restart = Some(there.max),
        _ => {}
    }
    to
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

/// The subscriber's and the publisher's owners of it, where they are others.
fn owners(
    (one, there): (&Managed, &Sequence),
    counterparts: &Counterparts<'_>,
) -> Option<(BTreeSet<String>, BTreeSet<String>)> {
    let column = |table: &QualifiedName, c: &Consumer| format!("{table}.{}", quote_identifier(&c.column));
    let ours: BTreeSet<String> = one.sequence.owners().map(|c| column(&c.table, c)).collect();
    let theirs: BTreeSet<String> =
        there.owners().map(|c| column(counterparts.renamed(&c.table), c)).collect();
    (ours != theirs).then_some((ours, theirs))
}

fn owner_differs(
    pair: (&Managed, &Sequence),
    counterparts: &Counterparts<'_>,
    place: &Place,
) -> Option<Finding> {
    let (ours, theirs) = owners(pair, counterparts)?;
    let (one, there) = pair;
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
    let finding = Finding::on_subscriber(&OWNER, name.to_string(), message);
    if one.sequence.consumers.iter().any(|c| c.link == Link::Identity) {
        return Some(finding.advise("it is an identity's, whose owner cannot be changed"));
    }
    let Some(owner) = there.owners().next() else {
        return Some(finding.mend(format!("ALTER SEQUENCE {name} OWNED BY NONE;")));
    };
    let (table, column) = (counterparts.renamed(&owner.table), &owner.column);
    let target = text(&theirs);
    let Some(known) = place.column(table, column) else {
        return Some(finding.advise(format!("{target} is not on the subscriber: make it first")));
    };
    if table.schema != name.schema {
        return Some(finding.advise(format!(
            "a sequence has to be in its table's schema: ALTER SEQUENCE {name} SET SCHEMA {} comes first",
            quote_identifier(&table.schema)
        )));
    }
    let mut sql = String::new();
    if place.sequence_owners.get(&one.sequence.oid) != Some(&known.role) {
        if !ours.is_empty() {
            sql += &format!("ALTER SEQUENCE {name} OWNED BY NONE;\n");
        }
        sql += &format!("ALTER SEQUENCE {name} OWNER TO {};\n", quote_identifier(&known.role));
    }
    Some(finding.mend(format!("{sql}ALTER SEQUENCE {name} OWNED BY {target};")))
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
        let alter = format!("ALTER TABLE {} ALTER COLUMN {column}", consumer.table);
        found.push(
            finding
                .mend(format!("{alter} TYPE {};", sequence.data_type))
                .advise("this writes the whole table anew, and locks it meanwhile"),
        );
    }
    found
}

fn only_here(one: &Managed) -> Option<Finding> {
    let message = "is not on the publisher: it is followed by the ids in its tables alone";
    let absent = one.publisher_value().is_some_and(|value| value.absent);
    absent.then(|| Finding::on_subscriber(&ONLY_HERE, one.sequence.name.to_string(), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_never_moved_back() {
        let up = |min, max| Definition::new(min, 1, min, max, 1, false).unwrap();
        let (here, there) = (up(1, 1000), up(100, 500));
        let to = |last| {
            let to = mended(&here, &there, last);
            (to.definition.min, to.definition.max, to.restart, to.keeps)
        };
        assert_eq!(to(None), (100, 500, None, false));
        assert_eq!(to(Some(99)), (100, 500, Some(100), false));
        assert_eq!(to(Some(100)), (100, 500, None, false));
        assert_eq!(to(Some(500)), (100, 500, None, false));
        assert_eq!(to(Some(501)), (100, 1000, None, true));

        let down = |min, max| Definition::new(max, -1, min, max, 1, false).unwrap();
        let (here, there) = (down(-1000, -1), down(-500, -100));
        let to = |last| {
            let to = mended(&here, &there, Some(last));
            (to.definition.min, to.definition.max, to.restart, to.keeps)
        };
        assert_eq!(to(-99), (-500, -100, Some(-100), false));
        assert_eq!(to(-501), (-1000, -100, None, true));
    }
}
