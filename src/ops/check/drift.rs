//! Where the subscriber accepts less than the publisher sends: what stops the subscription at the first row that breaks it.
//!
//! In: [`Both`], and the enums and CHECK constraints of both sides. Out: findings, each about one column, constraint or
//! label. Unique and exclusion constraints are told with the tables.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Client;

use super::bundle::bundle;
use super::relations::Both;
use super::{Code, Context, Finding, Severity};
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::{Oid, QualifiedName, quote_identifier, quote_literal};

const NOT_NULL: Code = Code {
    code: "column-not-null",
    severity: Severity::Warning,
    meaning: "A column is NOT NULL on the subscriber only: a row that has NULL there stops the subscription.",
};
const GENERATED: Code = Code {
    code: "column-generated",
    severity: Severity::Blocker,
    meaning: "A published column is a generated one on the subscriber, where nothing can be written to it: the table's first row stops the subscription.",
};
const CHECK: Code = Code {
    code: "check-only-on-subscriber",
    severity: Severity::Warning,
    meaning: "The subscriber has a CHECK constraint of a name that the publisher's table has not: a row that breaks it stops the subscription.",
};
const LABEL: Code = Code {
    code: "enum-label-missing",
    severity: Severity::Warning,
    meaning: "An enum lacks a label on the subscriber that it has on the publisher: the first row with it stops the subscription.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[NOT_NULL, GENERATED, CHECK, LABEL];

/// The version from which a generated column can be published.
const VERSION_PUBLISHES_GENERATED: u32 = 180_000;

pub(super) async fn findings(context: &Context<'_>, both: &Both) -> Result<Vec<Finding>, SidesError> {
    let mut found = bundle(not_null(both), "column");
    found.extend(bundle(generated(context, both).await?, "column"));
    found.extend(bundle(checks(context, both).await?, "constraint"));
    found.extend(bundle(labels(context).await?, "label"));
    Ok(found)
}

fn not_null(both: &Both) -> Vec<Finding> {
    let mut found = Vec::new();
    for (table, there, here) in both.pairs() {
        let columns = both.subscriber.columns(here.oid);
        for column in both.publisher.columns(there.oid).iter().filter(|c| table.shows(c) && !c.not_null) {
            let strict = |other: &&super::relations::Column| other.name == column.name && other.not_null;
            // Of a primary key that only the subscriber has the key is told.
            let in_key = both.subscriber.primary_key(here.oid).contains(&column.name);
            if in_key || !columns.iter().any(|other| strict(&other)) {
                continue;
            }
            let name = quote_identifier(&column.name);
            let message = "is NOT NULL on the subscriber, and not on the publisher";
            let drop = |table: &super::relations::Relation| {
                format!("ALTER TABLE {} ALTER COLUMN {name} DROP NOT NULL;", table.name)
            };
            // A partition may have it from its root, or of its own.
            let root = both.subscriber.root(here);
            let mend =
                if root.oid == here.oid { drop(here) } else { format!("{}\n{}", drop(root), drop(here)) };
            found
                .push(Finding::on_subscriber(&NOT_NULL, format!("{}.{name}", here.name), message).mend(mend));
        }
    }
    found
}

async fn generated(context: &Context<'_>, both: &Both) -> Result<Vec<Finding>, SidesError> {
    let is_sent = |generated: bool| !generated || context.publisher.version >= VERSION_PUBLISHES_GENERATED;
    let mut columns = Vec::new();
    for (table, there, here) in both.pairs() {
        let sent =
            both.publisher.columns(there.oid).iter().filter(|c| table.shows(c) && is_sent(c.generated));
        let sent: HashSet<&str> = sent.map(|column| column.name.as_str()).collect();
        let here_columns = both.subscriber.columns(here.oid).iter();
        columns.extend(
            here_columns
                .filter(|c| c.generated && sent.contains(c.name.as_str()))
                .map(|column| (here, column)),
        );
    }
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    // Only what is stored can become a plain column, from 13 on.
    let side = Side::Subscriber;
    let sql = "SELECT a.attrelid, a.attname::text FROM pg_attribute a WHERE a.attgenerated = 's'
                  AND a.attrelid = ANY ($1) AND current_setting('server_version_num')::int >= 130000";
    let tables: Vec<u32> = columns.iter().map(|(here, _)| here.oid.0).collect();
    let mut mendable = HashSet::new();
    for row in side.rows(&context.sides.subscriber.client, sql, &[&tables]).await? {
        mendable.insert((Oid(side.get(&row, 0)?), side.get::<String>(&row, 1)?));
    }
    let finding = |(here, column): &(&super::relations::Relation, &super::relations::Column)| {
        let name = quote_identifier(&column.name);
        let message = "is generated on the subscriber, and published by the publisher";
        let finding = Finding::on_subscriber(&GENERATED, format!("{}.{name}", here.name), message);
        if mendable.contains(&(here.oid, column.name.clone())) {
            let table = &both.subscriber.root(here).name;
            finding.mend(format!("ALTER TABLE {table} ALTER COLUMN {name} DROP EXPRESSION;"))
        } else {
            finding.advise("make it a plain column anew: this server cannot drop an expression alone")
        }
    };
    Ok(columns.iter().map(finding).collect())
}

/// The names of the CHECK constraints that are enforced, by table.
async fn checks_of(side: Side, client: &Client) -> Result<Vec<(Oid, String)>, SidesError> {
    let sql = "SELECT c.conrelid, c.conname::text FROM pg_constraint c
                WHERE c.contype = 'c' AND c.conrelid <> 0 AND (to_jsonb(c) ->> 'conenforced') IS DISTINCT FROM 'false'
                ORDER BY 1, 2";
    let rows = side.rows(client, sql, &[]).await?;
    rows.iter().map(|row| Ok((Oid(side.get(row, 0)?), side.get(row, 1)?))).collect()
}

/// Compared by name: servers of other versions print the same expression otherwise.
async fn checks(context: &Context<'_>, both: &Both) -> Result<Vec<Finding>, SidesError> {
    let here_all = checks_of(Side::Subscriber, &context.sides.subscriber.client).await?;
    if here_all.is_empty() {
        return Ok(Vec::new());
    }
    let there_all = checks_of(Side::Publisher, &context.publisher.client).await?;
    let there_all: HashSet<(Oid, String)> = there_all.into_iter().collect();
    let mut here_by_table: HashMap<Oid, Vec<String>> = HashMap::new();
    for (table, name) in here_all {
        here_by_table.entry(table).or_default().push(name);
    }
    let mut found = Vec::new();
    for (_, there, here) in both.pairs() {
        for name in here_by_table.get(&here.oid).into_iter().flatten() {
            if there_all.contains(&(there.oid, name.clone())) {
                continue;
            }
            let quoted = quote_identifier(name);
            let root = both.subscriber.root(here);
            let of_root = here_by_table.get(&root.oid).is_some_and(|names| names.contains(name));
            let table = if of_root { root } else { here };
            let message = "is a CHECK constraint, and the publisher's table has none of that name";
            found.push(
                Finding::on_subscriber(&CHECK, format!("{quoted} on {}", here.name), message)
                    .mend(format!("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {quoted};", table.name)),
            );
        }
    }
    Ok(found)
}

/// Each enum with its labels in their order, by name of the type.
async fn enums(side: Side, client: &Client) -> Result<Vec<(QualifiedName, Vec<String>)>, SidesError> {
    let sql = "SELECT n.nspname::text, t.typname::text,
                      ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
                 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
                WHERE t.typtype = 'e' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1, 2";
    let rows = side.rows(client, sql, &[]).await?;
    let one = |row| {
        let name = QualifiedName::new(side.get::<String>(row, 0)?, side.get::<String>(row, 1)?);
        Ok((name, side.get(row, 2)?))
    };
    rows.iter().map(one).collect()
}

/// A type that the subscriber lacks is told with the columns of it.
async fn labels(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let here: HashMap<QualifiedName, Vec<String>> =
        enums(Side::Subscriber, &context.sides.subscriber.client).await?.into_iter().collect();
    if here.is_empty() {
        return Ok(Vec::new());
    }
    let literal = |label: &str| quote_literal(label).trim_start().to_owned();
    let mut found = Vec::new();
    for (name, there) in enums(Side::Publisher, &context.publisher.client).await? {
        let Some(here) = here.get(&name) else { continue };
        let mut before: Option<&String> = None;
        for label in &there {
            if !here.contains(label) {
                // Its place among the others is its order.
                let first = there.iter().find(|other| here.contains(*other));
                let place = match (before, first) {
                    (Some(before), _) => format!(" AFTER {}", literal(before)),
                    (None, Some(first)) => format!(" BEFORE {}", literal(first)),
                    (None, None) => String::new(),
                };
                let message = format!("lacks the label {} on the subscriber", literal(label));
                found.push(
                    Finding::on_subscriber(&LABEL, name.to_string(), message)
                        .mend(format!("ALTER TYPE {name} ADD VALUE {}{place};", literal(label))),
                );
            }
            before = Some(label);
        }
    }
    Ok(found)
}
