//! Where the subscriber's schema is not the publisher's: tables, columns, keys and extensions. DDL is not replicated.

use std::collections::BTreeMap;

use super::bundle::bundle;
use super::relations::{Both, Column, Kind, Published, Relation};
use super::unread::published_tables_are_locked;
use super::{Code, Context, Finding, Severity};
use crate::ops::ask::Side;
use crate::readings::trouble;
use crate::sides::SidesError;
use crate::sql::SqlError;
use crate::types::{quote_identifier, quote_literal};

const TABLE_MISSING: Code = Code {
    code: "table-missing",
    severity: Severity::Blocker,
    meaning: "A published table is not on the subscriber: its first row stops the subscription.",
};
const COLUMN_MISSING: Code = Code {
    code: "column-missing",
    severity: Severity::Blocker,
    meaning: "A published column is not on the subscriber: the table's first row stops the subscription.",
};
const COLUMN_REQUIRED: Code = Code {
    code: "column-required",
    severity: Severity::Warning,
    meaning: "A column that the publisher does not send is NOT NULL on the subscriber and has no default, so that a replicated row is refused unless a trigger fills it.",
};
const TYPE_DIFFERS: Code = Code {
    code: "column-type-differs",
    severity: Severity::Warning,
    meaning: "A column has another type on the subscriber: values may be refused there, or be read differently.",
};
const TYPE_WIDER: Code = Code {
    code: "column-type-wider",
    severity: Severity::Notice,
    meaning: "An integer column is wider on the subscriber, as one makes it to have more room for ids.",
};
const DEFAULT_MISSING: Code = Code {
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

pub(super) async fn findings(context: &Context<'_>, both: &Both) -> Result<Vec<Finding>, SidesError> {
    let mut found = Vec::new();
    if both.published.is_none() {
        found.push(published_tables_are_locked());
    }
    found.extend(bundle(tables(both), "table"));
    let mut columns = columns(both);
    columns.add_expressions(context).await?;
    for list in [columns.missing, columns.required, columns.types, columns.wider, columns.defaults] {
        found.extend(bundle(list, "column"));
    }
    found.extend(bundle(keys(both), "table"));
    found.extend(extensions(context).await?);
    Ok(found)
}

fn tables(both: &Both) -> Vec<Finding> {
    let mut found = Vec::new();
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
            let refresh = refresh.unwrap_or_default();
            finding = finding.mend(format!("{dump} PUBLISHER | psql SUBSCRIBER{refresh}"));
        }
        found.push(finding);
    }
    found
}

/// A word for a shell: identifiers may hold spaces and quotes.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[derive(Default)]
struct Columns {
    missing: Vec<Finding>,
    required: Vec<Finding>,
    types: Vec<Finding>,
    wider: Vec<Finding>,
    defaults: Vec<Finding>,
    expressions: Vec<Expression>,
}

/// A statement that lacks its expression.
struct Expression {
    /// Which of the missing defaults.
    finding: usize,
    /// The publisher's.
    table: u32,
    column: String,
    before: String,
    after: String,
}

fn columns(both: &Both) -> Columns {
    let mut found = Columns::default();
    for (table, there, here) in both.pairs() {
        found.compare(both, table, there, here);
    }
    found
}

impl Columns {
    fn lacks_default(&mut self, column: &Column, there: &Relation, here: &Relation) {
        let name = quote_identifier(&column.name);
        let full = &format!("{}.{name}", here.name);
        let alter = format!("ALTER TABLE {} ALTER COLUMN {name}", here.name);
        let expression = |before: String, after: &str| Expression {
            finding: self.defaults.len(),
            table: there.oid.0,
            column: column.name.clone(),
            before,
            after: after.to_owned(),
        };
        self.defaults.push(if column.generated {
            // What is generated cannot be written by replication, so that this one has to wait.
            let before = format!(
                "-- After the cutover:\nALTER TABLE {0} DROP COLUMN {name};\nALTER TABLE {0} ADD COLUMN {name} {1} \
                 GENERATED ALWAYS AS (",
                here.name, column.type_name
            );
            self.expressions.push(expression(before, ") STORED;"));
            let message = "is generated on the publisher, and a plain column on the subscriber";
            Finding::on_subscriber(&DEFAULT_MISSING, full, message)
        } else if column.is_identity {
            let message = "is an identity on the publisher, and gets no value by itself on the subscriber";
            Finding::on_subscriber(&DEFAULT_MISSING, full, message)
                .mend(format!("{alter} ADD GENERATED BY DEFAULT AS IDENTITY;"))
        } else {
            self.expressions.push(expression(format!("{alter} SET DEFAULT "), ";"));
            let message = "has a default on the publisher, and none on the subscriber";
            Finding::on_subscriber(&DEFAULT_MISSING, full, message)
        });
    }

    /// Adds the expressions to what mends missing defaults. To print one its table is locked for a moment: where somebody
    /// else holds it, the statements are left out.
    async fn add_expressions(&mut self, context: &Context<'_>) -> Result<(), SidesError> {
        if self.expressions.is_empty() {
            return Ok(());
        }
        let sql = "SELECT k.n, pg_get_expr(d.adbin, d.adrelid)
                     FROM unnest($1::oid[], $2::text[]) WITH ORDINALITY AS k (rel, name, n)
                     JOIN pg_attribute a ON a.attrelid = k.rel AND a.attname = k.name
                     JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum";
        let tables: Vec<u32> = self.expressions.iter().map(|one| one.table).collect();
        let names: Vec<&String> = self.expressions.iter().map(|one| &one.column).collect();
        let side = Side::Publisher;
        let rows = match side.rows(&context.publisher.client, sql, &[&tables, &names]).await {
            Err(SidesError::Sql { source: SqlError::Query(error), .. }) if trouble(&error).is_some() => {
                return Ok(());
            }
            rows => rows?,
        };
        for row in rows {
            let place = usize::try_from(side.get::<i64>(&row, 0)? - 1).unwrap_or(usize::MAX);
            let Some(one) = self.expressions.get(place) else { continue };
            if let (Some(finding), Some(text)) =
                (self.defaults.get_mut(one.finding), side.get::<Option<String>>(&row, 1)?)
            {
                finding.mend = Some(format!("{}{text}{}", one.before, one.after));
            }
        }
        Ok(())
    }

    fn compare(&mut self, both: &Both, table: &Published, there: &Relation, here: &Relation) {
        let on_publisher = both.publisher.columns(there.oid);
        let on_subscriber = both.subscriber.columns(here.oid);
        let full = |column: &str| format!("{}.{}", here.name, quote_identifier(column));
        let alter =
            |column: &str| format!("ALTER TABLE {} ALTER COLUMN {}", here.name, quote_identifier(column));
        for column in on_publisher.iter().filter(|column| table.shows(column)) {
            let name = &column.name;
            let Some(same) = on_subscriber.iter().find(|other| other.name == *name) else {
                let add = format!(
                    "ALTER TABLE {} ADD COLUMN {} {};",
                    here.name,
                    quote_identifier(name),
                    column.type_name
                );
                let message = "is published and not on the subscriber";
                self.missing.push(Finding::on_subscriber(&COLUMN_MISSING, full(name), message).mend(add));
                continue;
            };
            if same.type_name != column.type_name {
                let message = format!(
                    "is {} on the publisher and {} on the subscriber",
                    column.type_name, same.type_name
                );
                if is_wider(&same.type_name, &column.type_name) {
                    self.wider.push(Finding::on_subscriber(&TYPE_WIDER, full(name), message));
                } else {
                    let mend = format!("{} TYPE {};", alter(name), column.type_name);
                    self.types.push(Finding::on_subscriber(&TYPE_DIFFERS, full(name), message).mend(mend));
                }
            }
            if column.has_default && !same.has_default {
                self.lacks_default(column, there, here);
            }
        }
        for column in on_subscriber {
            let sent = on_publisher.iter().any(|other| other.name == column.name && table.shows(other));
            if !sent && column.not_null && !column.has_default {
                let message = "is not sent by the publisher, and is NOT NULL without a default";
                self.required.push(
                    Finding::on_subscriber(&COLUMN_REQUIRED, full(&column.name), message)
                        .mend(format!("{} DROP NOT NULL; -- or SET DEFAULT", alter(&column.name))),
                );
            }
        }
    }
}

/// Whether `here` holds every integer that `there` holds.
fn is_wider(here: &str, there: &str) -> bool {
    let width =
        |name: &str| ["smallint", "integer", "bigint", "numeric"].iter().position(|known| *known == name);
    width(here).zip(width(there)).is_some_and(|(here, there)| here > there)
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
        found.push(match (on_publisher, on_subscriber) {
            (_, []) => Finding::on_subscriber(
                &KEY_DIFFERS,
                here.name.to_string(),
                "has no primary key on the subscriber: UPDATE and DELETE find their rows slowly there, or not at all",
            )
            .mend(format!("ALTER TABLE {} ADD PRIMARY KEY ({a});", here.name)),
            ([], _) => Finding::on_publisher(
                &KEY_DIFFERS,
                there.name.to_string(),
                format!("has the primary key ({b}) on the subscriber only: a row that breaks it stops the subscription"),
            )
            .mend(format!("ALTER TABLE {} ADD PRIMARY KEY ({b});", there.name)),
            _ => Finding::on_subscriber(
                &KEY_DIFFERS,
                here.name.to_string(),
                format!("has the primary key ({a}) on the publisher and ({b}) on the subscriber"),
            ),
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
                let files = if available.contains(name) { "" } else { ", nor are its files on that server" };
                let message = format!("is not on the subscriber{files}");
                let (name, schema) = (quote_identifier(name), quote_identifier(schema));
                absent.push(
                    Finding::on_subscriber(&EXTENSION_MISSING, name.clone(), message)
                        .mend(format!("CREATE EXTENSION {name} WITH SCHEMA {schema};")),
                );
            }
            Some((ours, _)) if ours != version => {
                let message = format!("is version {version} on the publisher and {ours} on the subscriber");
                let finding = Finding::on_subscriber(&EXTENSION_VERSION, quote_identifier(name), message);
                let newest = "SELECT default_version FROM pg_available_extensions WHERE name = ";
                other.push(finding.mend(format!("{newest}{};", quote_literal(name))));
            }
            Some(_) => {}
        }
    }
    absent = bundle(absent, "extension");
    absent.extend(bundle(other, "extension"));
    Ok(absent)
}
