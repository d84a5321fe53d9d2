//! Where the subscriber's schema is not the publisher's: tables, columns, keys and extensions. DDL is not replicated.

use std::collections::BTreeMap;

use super::bundle::bundle;
use super::relations::{Both, Kind};
use super::unread::published_tables_are_locked;
use super::{Code, Coming, Context, Finding, Severity, columns};
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::quote_identifier;

const TABLE_MISSING: Code = Code {
    code: "table-missing",
    severity: Severity::Blocker,
    meaning: "A published table is not on the subscriber: its first row stops the subscription.",
};
pub(super) const COLUMN_MISSING: Code = Code {
    code: "column-missing",
    severity: Severity::Blocker,
    meaning: "A published column is not on the subscriber: the table's first row stops the subscription.",
};
pub(super) const COLUMN_REQUIRED: Code = Code {
    code: "column-required",
    severity: Severity::Warning,
    meaning: "A column that the publisher does not send is NOT NULL on the subscriber and has no default, so that a replicated row is refused unless a trigger fills it.",
};
pub(super) const TYPE_DIFFERS: Code = Code {
    code: "column-type-differs",
    severity: Severity::Warning,
    meaning: "A column has another type on the subscriber: values may be refused there, or be read differently.",
};
pub(super) const TYPE_WIDER: Code = Code {
    code: "column-type-wider",
    severity: Severity::Notice,
    meaning: "An integer column is wider on the subscriber, as one makes it to have more room for ids.",
};
pub(super) const DEFAULT_MISSING: Code = Code {
    code: "column-default-missing",
    severity: Severity::Warning,
    meaning: "A column has a default or an identity on the publisher and none on the subscriber: rows inserted after the cutover lack its value.",
};
const KEY_DIFFERS: Code = Code {
    code: "primary-key-differs",
    severity: Severity::Warning,
    meaning: "A table's primary key is missing on one side, or made of other columns.",
};
const EXTENSION_MISSING: Code = Code {
    code: "extension-missing",
    severity: Severity::Warning,
    meaning: "An extension of the publisher is not on the subscriber: what uses it fails after the cutover.",
};
const EXTENSION_VERSION: Code = Code {
    code: "extension-version",
    severity: Severity::Notice,
    meaning: "An extension has another version on the subscriber, which is usual between major versions.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[
    TABLE_MISSING,
    COLUMN_MISSING,
    COLUMN_REQUIRED,
    TYPE_DIFFERS,
    TYPE_WIDER,
    DEFAULT_MISSING,
    KEY_DIFFERS,
    EXTENSION_MISSING,
    EXTENSION_VERSION,
];

pub(super) async fn findings(
    context: &Context<'_>,
    both: &Both,
    coming: &Coming,
) -> Result<Vec<Finding>, SidesError> {
    let mut found = Vec::new();
    if both.published.is_none() {
        found.push(published_tables_are_locked());
    }
    found.extend(bundle(tables(both), "table"));
    found.extend(columns::findings(context, both, coming).await?);
    found.extend(bundle(keys(both), "table"));
    found.extend(extensions(context).await?);
    Ok(found)
}

fn tables(both: &Both) -> Vec<Finding> {
    let mut found = Vec::new();
    // A refresh fails as long as one of them cannot be followed.
    let in_the_way = both.published.iter().flatten().any(|table| {
        let name = both.renamed(&table.name);
        both.subscriber
            .by_name(name)
            .map_or(*name != table.name, |here| !matches!(here.kind, Kind::Table | Kind::Partitioned))
    });
    for table in both.published.iter().flatten() {
        let name = both.renamed(&table.name);
        let message = match both.subscriber.by_name(name) {
            Some(here) if matches!(here.kind, Kind::Table | Kind::Partitioned) => continue,
            Some(here) => {
                format!("is {} on the subscriber, and rows can go to a table only", here.kind.as_str())
            }
            None if both.assumed => "is on the publisher and not on the subscriber".to_owned(),
            None => "is published and not on the subscriber".to_owned(),
        };
        let dump = format!("pg_dump --schema-only --table={}", shell(&table.name.to_string()));
        let mut finding = Finding::on_subscriber(&TABLE_MISSING, name.to_string(), message);
        if *name == table.name && both.subscriber.by_name(name).is_none() {
            let refresh = both.subscription.as_ref().map(|name| {
                let sql = format!("ALTER SUBSCRIPTION {} REFRESH PUBLICATION", quote_identifier(name));
                format!("\npsql SUBSCRIBER -c {}", shell(&sql))
            });
            let refresh = refresh.filter(|_| !in_the_way).unwrap_or_default();
            finding = finding.command(format!("{dump} PUBLISHER | psql SUBSCRIBER{refresh}"));
        }
        if in_the_way && both.subscription.is_some() {
            finding = finding.advise("once every published table is a table there, refresh the subscription");
        }
        found.push(finding);
    }
    found
}

/// A word for a shell: identifiers may hold spaces and quotes.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn keys(both: &Both) -> Vec<Finding> {
    let mut found = Vec::new();
    for (_, there, here) in both.pairs() {
        let on_publisher = both.publisher.primary_key(there.oid);
        let on_subscriber = both.subscriber.primary_key(here.oid);
        if on_publisher == on_subscriber {
            continue;
        }
        let columns =
            |key: &[String]| key.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ");
        let (a, b) = (columns(on_publisher), columns(on_subscriber));
        let (finding, table, key, known) = match (on_publisher, on_subscriber) {
            (_, []) => (
                Finding::on_subscriber(
                    &KEY_DIFFERS,
                    here.name.to_string(),
                    "has no primary key on the subscriber: UPDATE and DELETE find their rows slowly there, or not \
                     at all",
                ),
                &here.name,
                on_publisher,
                both.subscriber.columns(here.oid),
            ),
            ([], _) => (
                Finding::on_publisher(
                    &KEY_DIFFERS,
                    there.name.to_string(),
                    format!(
                        "has the primary key ({b}) on the subscriber only: a row that breaks it stops the \
                         subscription"
                    ),
                ),
                &there.name,
                on_subscriber,
                both.publisher.columns(there.oid),
            ),
            _ => {
                let message =
                    format!("has the primary key ({a}) on the publisher and ({b}) on the subscriber");
                let finding = Finding::on_subscriber(&KEY_DIFFERS, here.name.to_string(), message);
                found.push(finding.advise("which of them is right is for you to decide"));
                continue;
            }
        };
        let add = format!("ALTER TABLE {table} ADD PRIMARY KEY ({});", columns(key));
        found.push(if key.iter().all(|name| known.iter().any(|column| column.name == *name)) {
            finding
                .mend(add)
                .advise("this fails where two rows have the same key, or one has none: mend them first")
        } else {
            finding.advise(format!(
                "not every column of it is there: once they are, {}",
                add.trim_end_matches(';')
            ))
        });
    }
    found
}

/// Name, version and schema of each.
async fn installed(
    side: Side,
    client: &tokio_postgres::Client,
) -> Result<BTreeMap<String, (String, String)>, SidesError> {
    let sql = "SELECT e.extname::text, e.extversion, n.nspname::text
                 FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace";
    let rows = side.rows(client, sql, &[]).await?;
    rows.iter().map(|row| Ok((side.get(row, 0)?, (side.get(row, 1)?, side.get(row, 2)?)))).collect()
}

async fn extensions(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let client = &context.sides.subscriber.client;
    let there = installed(Side::Publisher, &context.publisher.client).await?;
    let here = installed(Side::Subscriber, client).await?;
    let missing: Vec<&String> = there.keys().filter(|name| !here.contains_key(*name)).collect();
    // Reading the list of what could be installed reads files on the server: only where it is of use.
    let available: Vec<String> = if missing.is_empty() {
        Vec::new()
    } else {
        let sql = "SELECT name::text FROM pg_available_extensions WHERE name::text = ANY($1)";
        let rows = Side::Subscriber.rows(client, sql, &[&missing]).await?;
        rows.iter().map(|row| Side::Subscriber.get(row, 0)).collect::<Result<_, _>>()?
    };
    let (mut absent, mut other) = (Vec::new(), Vec::new());
    for (name, (version, schema)) in &there {
        match here.get(name) {
            None => {
                let has_files = available.contains(name);
                let files = if has_files { "" } else { ", nor are its files on that server" };
                let message = format!("is not on the subscriber{files}");
                let (name, schema) = (quote_identifier(name), quote_identifier(schema));
                let finding = Finding::on_subscriber(&EXTENSION_MISSING, name.clone(), message);
                let create = format!("CREATE EXTENSION {name} WITH SCHEMA {schema}");
                absent.push(if !has_files {
                    finding.advise(format!("once its files are installed there, {create}"))
                } else if schema == "pg_catalog" || schema == "public" {
                    finding.mend(format!("{create};"))
                } else {
                    finding.mend(format!("CREATE SCHEMA IF NOT EXISTS {schema};\n{create};"))
                });
            }
            Some((ours, _)) if ours != version => {
                let message = format!("is version {version} on the publisher and {ours} on the subscriber");
                let finding = Finding::on_subscriber(&EXTENSION_VERSION, quote_identifier(name), message);
                other.push(finding.advise("ALTER EXTENSION ... UPDATE takes the newest that its server has"));
            }
            Some(_) => {}
        }
    }
    absent = bundle(absent, "extension");
    absent.extend(bundle(other, "extension"));
    Ok(absent)
}
