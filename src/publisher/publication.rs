//! What the stream's publications publish (`pg_publication_tables`).

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::{Client, Error};

use crate::catalog::coverage::{Published, Shown};
use crate::readings::{Trouble, trouble};
use crate::types::QualifiedName;

/// The publications of one stream, as far as `pg_publication` tells.
#[derive(Clone, Debug, Default)]
pub struct Publications {
    /// Asked for, and not there.
    pub missing: Vec<String>,
    /// Whether every one of them publishes TRUNCATE.
    pub truncates: bool,
    /// By name.
    kinds: HashMap<String, Kinds>,
}

/// Which changes a publication publishes, truncates left out.
#[derive(Clone, Copy, Debug, Default)]
struct Kinds {
    inserts: bool,
    updates: bool,
}

impl Publications {
    /// Whether any of them is there.
    #[must_use]
    pub fn are_there(&self) -> bool {
        !self.kinds.is_empty()
    }
}

/// Column lists and row filters exist since 15.
const VERSION_COLUMN_LISTS: u32 = 150_000;

/// Reads which of `names` are there. Waits for no lock.
///
/// # Errors
/// The server's or the connection's error.
pub async fn load(client: &Client, names: &[String]) -> Result<Publications, Error> {
    let flags = client
        .query(
            "SELECT pubname::text, pubinsert, pubupdate, pubtruncate FROM pg_publication WHERE pubname = ANY($1)",
            &[&names],
        )
        .await?;
    let mut kinds = HashMap::new();
    let mut truncates = true;
    for row in &flags {
        let these = Kinds { inserts: row.try_get(1)?, updates: row.try_get(2)? };
        kinds.insert(row.try_get::<_, String>(0)?, these);
        truncates &= row.try_get::<_, bool>(3)?;
    }
    let missing = names.iter().filter(|name| !kinds.contains_key(*name)).cloned().collect();
    Ok(Publications { missing, truncates, kinds })
}

/// Reads what they publish on a server of `version` (as `server_version_num`), by the publisher's table names:
/// partitions or their root, as the stream will name them.
///
/// `None` while any of the tables is locked: to list their columns, 16 and newer lock every one
/// (`pg_get_publication_tables` in `pg_publication.c`); older ones those with a row filter.
///
/// # Errors
/// The server's or the connection's error.
pub async fn tables(
    client: &Client,
    version: u32,
    publications: &Publications,
) -> Result<Option<HashMap<QualifiedName, Published>>, Error> {
    let names: Vec<&String> = publications.kinds.keys().collect();
    let details = if version >= VERSION_COLUMN_LISTS {
        "attnames::text[], rowfilter IS NOT NULL"
    } else {
        "NULL::text[], false"
    };
    let rows = client
        .query(
            &format!(
                "SELECT pubname::text, schemaname::text, tablename::text, {details}
                   FROM pg_publication_tables WHERE pubname = ANY($1)"
            ),
            &[&names],
        )
        .await;
    let rows = match rows {
        Err(error) if trouble(&error) == Some(Trouble::Locked) => return Ok(None),
        rows => rows?,
    };
    let mut tables: HashMap<QualifiedName, Published> = HashMap::new();
    for row in &rows {
        let columns: Option<Vec<String>> = row.try_get(3)?;
        let shown = Shown { columns: columns.map(BTreeSet::from_iter), row_filter: row.try_get(4)? };
        let kinds = publications.kinds.get(&row.try_get::<_, String>(0)?).copied().unwrap_or_default();
        let published = Published {
            inserts: kinds.inserts.then(|| shown.clone()),
            updates: kinds.updates.then_some(shown),
        };
        let name = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
        let known = tables.remove(&name).unwrap_or_default();
        tables.insert(name, known.union(published));
    }
    Ok(Some(tables))
}
