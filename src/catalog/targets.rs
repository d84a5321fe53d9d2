//! The columns that functions and rules put values into, as the database has them. In: a connection, and what the functions
//! do. Out: [`Tables`], by name, with the columns that they refer to. Locks nothing.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::{Client, Error};

use super::callers::Rule;
use super::draws::{At, Goes};
use super::takers::Takers;
use crate::types::QualifiedName;

/// Tables and views of these names, with their columns in order.
const TABLES: &str = "
SELECT n.nspname::text, c.relname::text,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = ANY($1::text[]) AND c.relkind IN ('r', 'p', 'f', 'v')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";

/// What their columns refer to, one by one.
const REFERENCES: &str = "
SELECT n.nspname::text, c.relname::text, a.attname::text, other_n.nspname::text, other.relname::text, other_a.attname::text
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid AND c.relname = ANY($1::text[])
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
  JOIN pg_class other ON other.oid = k.confrelid
  JOIN pg_namespace other_n ON other_n.oid = other.relnamespace
  JOIN pg_attribute other_a ON other_a.attrelid = k.confrelid AND other_a.attnum = k.confkey[1]
 WHERE k.contype = 'f' AND cardinality(k.conkey) = 1";

/// The columns of each table of one name, by its schema.
type BySchema = HashMap<String, Vec<String>>;

/// The tables that functions write to.
#[derive(Default)]
pub(super) struct Tables {
    by_name: HashMap<String, BySchema>,
    references: HashMap<(QualifiedName, String), Vec<(QualifiedName, String)>>,
}

impl Tables {
    /// Reads those that `takers` put values into.
    ///
    /// # Errors
    /// The server's or the connection's error.
    pub(super) async fn read(client: &Client, takers: &Takers) -> Result<Self, Error> {
        let all = takers.functions.values().flat_map(|function| function.takes.values());
        let written = all.flatten().flatten().filter_map(|goes| match goes {
            Goes::Column { table, .. } => Some(table.as_str()),
            _ => None,
        });
        let written: Vec<&str> = written.collect::<BTreeSet<_>>().into_iter().collect();
        let mut found = Tables::default();
        if written.is_empty() {
            return Ok(found);
        }
        for row in client.query(TABLES, &[&written]).await? {
            let by_schema = found.by_name.entry(row.try_get(1)?).or_default();
            by_schema.insert(row.try_get(0)?, row.try_get(2)?);
        }
        for row in client.query(REFERENCES, &[&written]).await? {
            let text = |column: usize| row.try_get::<_, String>(column);
            let from = (QualifiedName::new(text(0)?, text(1)?), text(2)?);
            let to = (QualifiedName::new(text(3)?, text(4)?), text(5)?);
            found.references.entry(from).or_default().push(to);
        }
        Ok(found)
    }

    /// The columns that are meant, in each table of the name that may be. `None`: one of them has no such column.
    pub(super) fn columns(
        &self,
        schema: Option<&str>,
        table: &str,
        at: &At,
    ) -> Option<Vec<(QualifiedName, String)>> {
        let by_schema = self.by_name.get(table)?;
        let possible = by_schema.iter().filter(|(found, _)| schema.is_none_or(|schema| schema == *found));
        let columns = possible.map(|(schema, columns)| {
            let column = match at {
                At::Name(name) => name.clone(),
                At::Place(place) => columns.get(*place)?.clone(),
            };
            Some((QualifiedName::new(schema.clone(), table.to_owned()), column))
        });
        columns.collect()
    }

    /// The columns that a foreign key of a column alone refers to.
    pub(super) fn referred(
        &self,
        table: &QualifiedName,
        column: &str,
    ) -> impl Iterator<Item = &(QualifiedName, String)> {
        self.references.get(&(table.clone(), column.to_owned())).into_iter().flatten()
    }
}

/// The columns of this number that a rule may write to.
pub(super) fn columns(rule: &Rule, number: i32) -> Vec<(QualifiedName, String)> {
    let found = rule.columns.iter().filter(|(of, _, _)| *of == number);
    found.map(|(_, table, column)| (table.clone(), column.clone())).collect()
}
