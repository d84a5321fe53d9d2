//! The statements that make a sequence of the publisher on the subscriber, behind the same columns.
//!
//! In: the publisher's sequence, and what of its columns the subscriber has. Out: SQL, and what has to be said with it.

use std::collections::{HashMap, HashSet};

use super::definitions::Counterparts;
use super::{Coming, Context};
use crate::catalog::{Consumer, Link, Readable, Sequence};
use crate::keeper::Managed;
use crate::ops::ask::Side;
use crate::pgoutput::IdFormat;
use crate::sides::SidesError;
use crate::types::{Oid, QualifiedName, quote_identifier, quote_literal};

/// What the subscriber has, of what the publisher's sequences go with.
#[derive(Debug, Default)]
pub(super) struct Place {
    tables: HashSet<QualifiedName>,
    columns: HashMap<(QualifiedName, String), Known>,
    schemas: HashSet<String>,
    /// The roles that own sequences whose column is another.
    pub sequence_owners: HashMap<Oid, String>,
}

/// A column of the subscriber.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub type_name: String,
    pub not_null: bool,
    pub has_default: bool,
    /// The role that owns the table.
    pub role: String,
}

const COLUMNS: &str = "
SELECT k.schema, k.rel, k.name, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef, r.rolname::text
  FROM unnest($1::text[], $2::text[], $3::text[]) AS k (schema, rel, name)
  JOIN pg_namespace n ON n.nspname = k.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = k.rel AND c.relkind IN ('r', 'p')
  JOIN pg_roles r ON r.oid = c.relowner
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name AND a.attnum > 0 AND NOT a.attisdropped";

impl Place {
    /// For the sequences that are `lacking`, and those with another owner.
    ///
    /// # Errors
    /// The subscriber's refusal, or that the connection is lost.
    pub(super) async fn load(
        context: &Context<'_>,
        counterparts: &Counterparts<'_>,
        lacking: &[(&Sequence, Option<&QualifiedName>)],
        others: &[(&Managed, &Sequence)],
    ) -> Result<Self, SidesError> {
        let mut place = Place::default();
        if lacking.is_empty() && others.is_empty() {
            return Ok(place);
        }
        let (side, client) = (Side::Subscriber, &context.sides.subscriber.client);
        let there = lacking.iter().map(|(there, _)| *there).chain(others.iter().map(|(_, there)| *there));
        let (mut schemas, mut tables, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for consumer in there.flat_map(|sequence| &sequence.consumers) {
            let table = counterparts.renamed(&consumer.table);
            schemas.push(table.schema.as_str());
            tables.push(table.name.as_str());
            names.push(consumer.column.as_str());
        }
        for row in side.rows(client, COLUMNS, &[&schemas, &tables, &names]).await? {
            let table = QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?);
            place.tables.insert(table.clone());
            let Some(type_name) = side.get(&row, 3)? else { continue };
            let known = Known {
                type_name,
                not_null: side.get(&row, 4)?,
                has_default: side.get(&row, 5)?,
                role: side.get(&row, 6)?,
            };
            place.columns.insert((table, side.get(&row, 2)?), known);
        }
        for row in side.rows(client, "SELECT nspname::text FROM pg_namespace", &[]).await? {
            place.schemas.insert(side.get(&row, 0)?);
        }
        let sql = "SELECT c.oid, r.rolname::text FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
                    WHERE c.oid = ANY($1)";
        let sequences: Vec<u32> = others.iter().map(|(one, _)| one.sequence.oid.0).collect();
        for row in side.rows(client, sql, &[&sequences]).await? {
            place.sequence_owners.insert(Oid(side.get(&row, 0)?), side.get(&row, 1)?);
        }
        Ok(place)
    }

    pub(super) fn column(&self, table: &QualifiedName, column: &str) -> Option<&Known> {
        self.columns.get(&(table.clone(), column.to_owned()))
    }
}

/// The SQL, and advice; `coming` gets what it makes.
pub(super) fn create(
    there: &Sequence,
    counterparts: &Counterparts<'_>,
    place: &Place,
    coming: &mut Coming,
) -> (String, String) {
    let columns = || there.consumers.iter().filter(|c| !c.inherited);
    let target = |c: &Consumer| counterparts.renamed(&c.table).clone();
    if let Some(consumer) = columns().find(|c| c.link == Link::Identity) {
        let table = target(consumer);
        return match place.column(&table, &consumer.column) {
            Some(known) => {
                coming.filled.insert((table.clone(), consumer.column.clone()));
                coming.sequences.insert(there.name.clone());
                (identity(there, &table, &consumer.column, known), String::new())
            }
            None => (String::new(), comes_with(&table, &consumer.column)),
        };
    }
    // The table is to be brought over by pg_dump, which brings what it owns.
    if let Some(owner) = columns().find(|c| c.link == Link::Owned)
        && !place.tables.contains(&target(owner))
    {
        return (String::new(), comes_with(&target(owner), &owner.column));
    }
    let mut sql = String::new();
    if !place.schemas.contains(&there.name.schema) {
        sql += &format!("CREATE SCHEMA IF NOT EXISTS {};\n", quote_identifier(&there.name.schema));
    }
    sql += &format!("CREATE SEQUENCE {} AS {}{};", there.name, there.data_type, options(there));
    coming.sequences.insert(there.name.clone());
    let mut absent = Vec::new();
    for consumer in columns() {
        let (table, column) = (target(consumer), quote_identifier(&consumer.column));
        let Some(known) = place.column(&table, &consumer.column) else {
            absent.push(format!("{table}.{column}"));
            continue;
        };
        if consumer.link == Link::Owned && table.schema == there.name.schema {
            // It has to be of the same role as the table.
            sql += &format!("\nALTER SEQUENCE {} OWNER TO {};", there.name, quote_identifier(&known.role));
            sql += &format!("\nALTER SEQUENCE {} OWNED BY {table}.{column};", there.name);
        }
        if consumer.readable == Readable::Yes(IdFormat::Integer) {
            let literal = quote_literal(&there.name.to_string());
            sql += &format!("\nALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT nextval({literal});");
            coming.filled.insert((table, consumer.column.clone()));
        }
    }
    let advice = if absent.is_empty() {
        String::new()
    } else {
        format!("{} is not on the subscriber either, so that nothing gets its values yet", absent.join(", "))
    };
    (sql, advice)
}

fn comes_with(table: &QualifiedName, column: &str) -> String {
    format!("it comes with {table}.{}, which is not on the subscriber either", quote_identifier(column))
}

fn identity(there: &Sequence, table: &QualifiedName, name: &str, known: &Known) -> String {
    let column = quote_identifier(name);
    let alter = format!("ALTER TABLE {table} ALTER COLUMN {column}");
    let mut sql = String::new();
    // An identity wants a column that is NOT NULL and has no default.
    if known.has_default {
        sql += &format!("{alter} DROP DEFAULT;\n");
    }
    if !known.not_null {
        sql += &format!("{alter} SET NOT NULL;\n");
    }
    // Bounds of another type would not fit.
    let options = if known.type_name == there.data_type { options(there) } else { String::new() };
    format!("{sql}{alter} ADD GENERATED BY DEFAULT AS IDENTITY\n  (SEQUENCE NAME {}{options});", there.name)
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
