//! The narrow publication: what is there of that name, how it differs from what it should be, and the SQL that makes or
//! mends it.
//!
//! In: its name and the wanted tables. Out: what to run. It never publishes an UPDATE or DELETE: with a column list that
//! would make the application's fail, as the replica identity has to be among the columns then.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::tables::{Table, VERSION_COLUMN_LISTS, Wanted};
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::{QualifiedName, quote_identifier, quote_literal};

const SIDE: Side = Side::Publisher;

/// A publication that is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub comment: Option<String>,
    /// Our role has the rights of its owner.
    pub owned: bool,
    pub owner: String,
    all_tables: bool,
    /// `insert, update, …` as far as it publishes them.
    operations: Vec<&'static str>,
    through_root: bool,
    schemas: bool,
    tables: BTreeMap<QualifiedName, Listed>,
}

/// A table in it.
#[derive(Clone, Debug, Default)]
struct Listed {
    columns: Option<BTreeSet<String>>,
    row_filter: bool,
}

/// How a publication differs from what it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// What makes it another kind of publication than ours.
    pub kind: Vec<String>,
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// Tables with other columns.
    pub changed: Vec<String>,
    /// Partitions are not published through their root, and should be.
    pub root: bool,
}

impl Differences {
    pub(super) fn is_none(&self) -> bool {
        *self == Differences::default()
    }

    /// All of it, for a message.
    pub(super) fn text(&self) -> String {
        let mut parts = self.kind.clone();
        for (what, tables) in
            [("lacks", &self.added), ("also has", &self.removed), ("has other columns of", &self.changed)]
        {
            if !tables.is_empty() {
                parts.push(format!("it {what} {}", some(tables)));
            }
        }
        if self.root {
            parts.push("it does not publish partitions through their root".to_owned());
        }
        parts.join("; ")
    }
}

/// The first few, and how many more.
pub(super) fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = names.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &rest
}

/// Reads the publication `name`.
///
/// # Errors
/// Where the publisher cannot be asked.
pub(crate) async fn load(client: &Client, version: u32, name: &str) -> Result<Option<Found>, SidesError> {
    // 12 has no pubviaroot.
    let sql = "SELECT p.oid, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
                      coalesce((to_jsonb(p)->>'pubviaroot')::bool, false),
                      obj_description(p.oid, 'pg_publication'), pg_has_role(p.pubowner, 'USAGE'),
                      pg_get_userbyid(p.pubowner)::text
                 FROM pg_publication p WHERE p.pubname = $1";
    let rows = SIDE.rows(client, sql, &[&name]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let oid: u32 = SIDE.get(row, 0)?;
    let mut operations = Vec::new();
    for (index, operation) in [(2, "insert"), (3, "update"), (4, "delete"), (5, "truncate")] {
        if SIDE.get(row, index)? {
            operations.push(operation);
        }
    }
    let (details, schemas) = if version >= VERSION_COLUMN_LISTS {
        (
            "(SELECT array_agg(a.attname::text) FROM pg_attribute a
               WHERE a.attrelid = r.prrelid AND a.attnum = ANY(r.prattrs)), r.prqual IS NOT NULL",
            "SELECT EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = $1)",
        )
    } else {
        ("NULL::text[], false", "SELECT $1::oid IS NULL")
    };
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text, {details}
           FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = $1"
    );
    let mut tables = BTreeMap::new();
    for row in SIDE.rows(client, &sql, &[&oid]).await? {
        let columns: Option<Vec<String>> = SIDE.get(&row, 2)?;
        let listed = Listed { columns: columns.map(BTreeSet::from_iter), row_filter: SIDE.get(&row, 3)? };
        let name = QualifiedName::new(SIDE.get::<String>(&row, 0)?, SIDE.get::<String>(&row, 1)?);
        tables.insert(name, listed);
    }
    Ok(Some(Found {
        comment: SIDE.get(row, 7)?,
        owned: SIDE.get(row, 8)?,
        owner: SIDE.get(row, 9)?,
        all_tables: SIDE.get(row, 1)?,
        operations,
        through_root: SIDE.get(row, 6)?,
        schemas: SIDE.value(client, schemas, &[&oid]).await?,
        tables,
    }))
}

impl Found {
    /// Publishes every table, which no ALTER changes.
    pub(super) fn is_for_all_tables(&self) -> bool {
        self.all_tables
    }

    pub(super) fn differences(&self, wanted: &Wanted, version: u32) -> Differences {
        let mut found = Differences::default();
        if self.all_tables {
            found.kind.push("it is FOR ALL TABLES".to_owned());
            return found;
        }
        if self.schemas {
            found.kind.push("it has whole schemas".to_owned());
        }
        if self.operations != ["insert", "truncate"] {
            let has =
                if self.operations.is_empty() { "nothing".to_owned() } else { self.operations.join(", ") };
            found.kind.push(format!("it publishes {has} instead of insert, truncate"));
        }
        for (name, listed) in &self.tables {
            if listed.row_filter {
                found.kind.push(format!("it has a row filter for {name}"));
            }
            match wanted.tables.get(name) {
                None => found.removed.push(name.to_string()),
                Some(table) if !has_columns(listed, table, version) => found.changed.push(name.to_string()),
                Some(_) => {}
            }
        }
        let added = wanted.tables.keys().filter(|name| !self.tables.contains_key(name));
        found.added = added.map(ToString::to_string).collect();
        found.root = wanted.through_root() && !self.through_root;
        found
    }
}

fn has_columns(listed: &Listed, table: &Table, version: u32) -> bool {
    match &listed.columns {
        Some(columns) => *columns == table.columns,
        None => version < VERSION_COLUMN_LISTS,
    }
}

/// The statements that make it, for one transaction.
pub(super) fn create(name: &str, wanted: &Wanted, version: u32, mark: &str) -> Vec<String> {
    vec![
        format!(
            "CREATE PUBLICATION {} FOR TABLE {} WITH ({})",
            quote_identifier(name),
            wanted.list(version),
            options(wanted.through_root())
        ),
        format!("COMMENT ON PUBLICATION {} IS {}", quote_identifier(name), quote_literal(mark).trim_start()),
    ]
}

/// The statements that bring it to what is wanted, for one transaction. A stream that runs sees them from the commit on.
pub(super) fn alter(name: &str, wanted: &Wanted, version: u32, differences: &Differences) -> Vec<String> {
    let name = quote_identifier(name);
    let mut statements = Vec::new();
    if differences.root || !differences.kind.is_empty() {
        let through_root = wanted.through_root();
        statements.push(format!("ALTER PUBLICATION {name} SET ({})", options(through_root)));
    }
    statements.push(format!("ALTER PUBLICATION {name} SET TABLE {}", wanted.list(version)));
    statements
}

fn options(through_root: bool) -> String {
    let root = if through_root { ", publish_via_partition_root = true" } else { "" };
    format!("publish = 'insert, truncate'{root}")
}
