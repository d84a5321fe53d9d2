//! What our roles may do with schemas, sequences and id columns, on both sides. One finding per schema and kind: a
//! thousand sequences lack a right as one.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Code, Context, Finding, Severity, up_to_five};
use crate::catalog::coverage::Coverage;
use crate::catalog::{ByFunction, Consumer, Sequence};
use crate::ops::ask::Side;
use crate::ops::survey::Surveyed;
use crate::types::{QualifiedName, quote_identifier};

const PUBLISHER_SCHEMA: Code = Code {
    code: "publisher-schema-usage",
    severity: Severity::Warning,
    meaning: "Our role lacks USAGE of a schema on the publisher: none of its sequences can be read there.",
};
const PUBLISHER_SEQUENCE: Code = Code {
    code: "publisher-sequence-select",
    severity: Severity::Warning,
    meaning: "Our role may not read sequences on the publisher: a cutover cannot prove that theirs are passed.",
};
const PUBLISHER_BLIND: Code = Code {
    code: "publisher-blind-select",
    severity: Severity::Blocker,
    meaning: "Sequences that the stream does not show are followed by reading them on the publisher, and our role may \
              not: nothing follows them.",
};
const PUBLISHER_COLUMN: Code = Code {
    code: "publisher-column-select",
    severity: Severity::Notice,
    meaning: "Our role may not read id columns on the publisher: ids that were there before our slot, and did not \
              come from the sequence, are looked for in the subscriber's tables only.",
};
const SUBSCRIBER_SCHEMA: Code = Code {
    code: "subscriber-schema-usage",
    severity: Severity::Blocker,
    meaning: "Our role lacks USAGE of a schema on the subscriber: none of its sequences can be read or advanced.",
};
const SUBSCRIBER_ADVANCE: Code = Code {
    code: "subscriber-sequence-advance",
    severity: Severity::Blocker,
    meaning: "Our role lacks the rights to read and advance sequences on the subscriber (USAGE, or SELECT and UPDATE).",
};
const SUBSCRIBER_UPDATE: Code = Code {
    code: "subscriber-sequence-update",
    severity: Severity::Warning,
    meaning: "Our role may advance sequences by nextval only: without UPDATE a long way takes long.",
};
const SUBSCRIBER_SELECT: Code = Code {
    code: "subscriber-sequence-select",
    severity: Severity::Warning,
    meaning: "Without SELECT it cannot be read where a sequence starts that was never called.",
};
const SUBSCRIBER_COLUMN: Code = Code {
    code: "subscriber-column-select",
    severity: Severity::Notice,
    meaning: "Our role may not read id columns on the subscriber: ids in its tables that the stream did not show are \
              not seen.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[
    PUBLISHER_SCHEMA,
    PUBLISHER_SEQUENCE,
    PUBLISHER_BLIND,
    PUBLISHER_COLUMN,
    SUBSCRIBER_SCHEMA,
    SUBSCRIBER_ADVANCE,
    SUBSCRIBER_UPDATE,
    SUBSCRIBER_SELECT,
    SUBSCRIBER_COLUMN,
];

/// Names by schema.
type BySchema = BTreeMap<String, BTreeSet<String>>;
/// `(column, table)`, quoted, by schema.
type Columns = BTreeMap<String, BTreeSet<(String, String)>>;

pub(super) fn findings(context: &Context<'_>) -> Vec<Finding> {
    let followed: Vec<&Surveyed> =
        context.survey.sequences.iter().filter(|one| one.managed.excluded.is_none()).collect();
    if followed.is_empty() {
        return Vec::new();
    }
    let there = context.catalog.as_ref().map(|catalog| catalog.sequences.as_slice()).unwrap_or_default();
    let mut found = on_publisher(context, &followed, there);
    found.extend(on_subscriber(context, &followed));
    found
}

/// The sequences and columns of the publisher that those of the subscriber go by.
struct Counterparts<'a> {
    names: HashSet<&'a QualifiedName>,
    columns: HashSet<(&'a QualifiedName, &'a str)>,
}

impl<'a> Counterparts<'a> {
    fn of(followed: impl Iterator<Item = &'a &'a Surveyed>) -> Self {
        let (mut names, mut columns) = (HashSet::new(), HashSet::new());
        for one in followed {
            let sequence = &one.managed.sequence;
            names.insert(&sequence.name);
            columns.extend(sequence.consumers.iter().map(|c| (&c.table, c.column.as_str())));
        }
        Counterparts { names, columns }
    }

    fn has(&self, sequence: &Sequence, renamed: impl Fn(&QualifiedName) -> QualifiedName) -> bool {
        self.names.contains(&sequence.name)
            || sequence
                .consumers
                .iter()
                .any(|c| self.columns.contains(&(&renamed(&c.table), c.column.as_str())))
    }
}

fn on_publisher(context: &Context<'_>, followed: &[&Surveyed], sequences: &[Sequence]) -> Vec<Finding> {
    let renames = context.settings.renames_by_publisher();
    let renamed = |name: &QualifiedName| renames.get(name).unwrap_or(name).clone();
    let all = Counterparts::of(followed.iter());
    let is_blind = |one: &&&Surveyed| matches!(one.managed.coverage, Some(Coverage::Blind(_)));
    let blind = Counterparts::of(followed.iter().filter(is_blind));
    let (mut closed, mut unread, mut unseen) = (BySchema::new(), BySchema::new(), BySchema::new());
    let mut columns = Columns::new();
    for sequence in sequences.iter().filter(|s| all.has(s, renamed)) {
        let rights = sequence.privileges;
        if !rights.schema {
            note(&mut closed, &sequence.name);
        } else if !rights.select {
            note(&mut unread, &sequence.name);
        }
        if !rights.may_read() && blind.has(sequence, renamed) {
            note(&mut unseen, &sequence.name);
        }
        note_columns(&mut columns, sequence);
    }
    let user = quote_identifier(context.sides.publisher_conninfo.user());
    let side = Side::Publisher;
    let select = format!("GRANT SELECT ON ALL SEQUENCES IN SCHEMA {{}} TO {user};");
    let usage = format!("GRANT USAGE ON SCHEMA {{}} TO {user};\n{select}");
    let closed_text = "our role lacks USAGE, so that these are out of reach";
    let mut found = Vec::new();
    found.extend(by_schema(
        side,
        &PUBLISHER_BLIND,
        unseen,
        &usage,
        "our role may not read what nothing else shows",
    ));
    found.extend(by_schema(side, &PUBLISHER_SCHEMA, closed, &usage, closed_text));
    found.extend(by_schema(
        side,
        &PUBLISHER_SEQUENCE,
        unread,
        &select,
        "our role lacks SELECT on the sequences",
    ));
    found.extend(by_column(side, &PUBLISHER_COLUMN, &columns, &user));
    found
}

fn on_subscriber(context: &Context<'_>, followed: &[&Surveyed]) -> Vec<Finding> {
    let [mut closed, mut stuck, mut slow, mut unread] = [const { BySchema::new() }; 4];
    let mut columns = Columns::new();
    for one in followed {
        let sequence = &one.managed.sequence;
        let rights = sequence.privileges;
        let kind = match rights {
            _ if !rights.schema => Some(&mut closed),
            _ if !rights.may_advance() || !rights.may_read() => Some(&mut stuck),
            // The function refuses CYCLE: there is no forwards.
            _ if !rights.update && (rights.function != ByFunction::Possible || sequence.definition.cycle) => {
                Some(&mut slow)
            }
            _ if !rights.select => Some(&mut unread),
            _ => None,
        };
        if let Some(kind) = kind {
            note(kind, &sequence.name);
        }
        note_columns(&mut columns, sequence);
    }
    let user = quote_identifier(&context.survey.role);
    let side = Side::Subscriber;
    let all = format!("GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA {{}} TO {user};");
    let usage = format!("GRANT USAGE ON SCHEMA {{}} TO {user};\n{all}");
    let closed_text = "our role lacks USAGE, so that these are out of reach";
    let mut found = Vec::new();
    found.extend(by_schema(side, &SUBSCRIBER_SCHEMA, closed, &usage, closed_text));
    match &context.settings.advance_function {
        None => {
            let text = "our role may not read and advance the sequences";
            found.extend(by_schema(side, &SUBSCRIBER_ADVANCE, stuck, &all, text));
        }
        Some(function) => {
            let text = "neither our role nor the advance function may advance the sequences, or our role may not \
                        read them";
            let setup =
                format!("seqshadow setup --role {user} --advance-function={} --grant", function.schema());
            // What setup grants, it grants in every schema.
            let told = by_schema(side, &SUBSCRIBER_ADVANCE, stuck, "", text);
            found.extend(told.map(|finding| finding.command(&*setup)));
        }
    }
    found.extend(by_schema(side, &SUBSCRIBER_UPDATE, slow, &all, "our role lacks UPDATE on the sequences"));
    found.extend(by_schema(side, &SUBSCRIBER_SELECT, unread, &all, "our role lacks SELECT on the sequences"));
    found.extend(by_column(side, &SUBSCRIBER_COLUMN, &columns, &user));
    found
}

fn note(names: &mut BySchema, name: &QualifiedName) {
    names.entry(name.schema.clone()).or_default().insert(quote_identifier(&name.name));
}

/// The columns that would be read if they might be. In a schema that is closed to us they are not worth a word.
fn note_columns(columns: &mut Columns, sequence: &Sequence) {
    let is_hidden = |c: &&Consumer| !c.selectable && !c.partitioned && c.numeric && c.indexed;
    if !sequence.privileges.schema {
        return;
    }
    for consumer in sequence.consumers.iter().filter(is_hidden) {
        let column = (quote_identifier(&consumer.column), consumer.table.to_string());
        columns.entry(consumer.table.schema.clone()).or_default().insert(column);
    }
}

fn finding(side: Side, code: &Code, object: String, message: String) -> Finding {
    match side {
        Side::Publisher => Finding::on_publisher(code, object, message),
        Side::Subscriber => Finding::on_subscriber(code, object, message),
    }
}

/// One finding per schema; `mend` has the schema's place in it.
fn by_schema<'a>(
    side: Side,
    code: &'a Code,
    names: BySchema,
    mend: &'a str,
    message: &'a str,
) -> impl Iterator<Item = Finding> + 'a {
    names.into_iter().map(move |(schema, names)| {
        let schema = quote_identifier(&schema);
        let names: Vec<String> = names.into_iter().collect();
        let message = format!("{message}: {}", up_to_five(&names));
        finding(side, code, format!("schema {schema}"), message).mend(mend.replace("{}", &schema))
    })
}

fn by_column(side: Side, code: &Code, columns: &Columns, user: &str) -> Vec<Finding> {
    let one = |(schema, columns): (&String, &BTreeSet<(String, String)>)| {
        let schema = quote_identifier(schema);
        let names: Vec<String> = columns.iter().map(|(column, table)| format!("{table}.{column}")).collect();
        let mend = if columns.len() > 5 {
            format!("GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {user};")
        } else {
            let grant =
                |(column, table): &(String, String)| format!("GRANT SELECT ({column}) ON {table} TO {user};");
            columns.iter().map(grant).collect::<Vec<_>>().join("\n")
        };
        let message = format!("our role may not read the id columns: {}", up_to_five(&names));
        finding(side, code, format!("schema {schema}"), message).mend(mend)
    };
    columns.iter().map(one).collect()
}
