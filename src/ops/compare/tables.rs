//! Which tables are compared, by which columns and which key.
//!
//! In: the catalogs of both sides. Out: for each table that the publications publish either a [`Table`] or the reason
//! why it cannot be compared. A partitioned table that is published as its root is compared as one; else each leaf is
//! ([`super::alone`] has those that only the subscriber has).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::relations::{Column, Relation, load};
use super::session::Session;
use super::statement::{Digest, Table};
use crate::config::Settings;
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::{QualifiedName, quote_identifier};

/// Column lists and row filters exist since 15.
pub(super) const VERSION_COLUMN_LISTS: u32 = 150_000;
/// Generated columns can be published since 18.
const VERSION_GENERATED: u32 = 180_000;

/// A table that was found.
#[derive(Debug)]
pub(super) enum Found {
    Comparable(Box<Table>),
    /// It cannot be compared.
    Not {
        name: String,
        why: String,
    },
}

/// What the publications say of one table.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Of any of them; `None`: all columns.
    columns: Option<BTreeSet<String>>,
    /// Of each of them; `None`: one has no filter.
    filters: Option<Vec<String>>,
}

/// What decides which tables there are.
#[derive(Debug)]
pub(super) struct Sought<'a> {
    /// The publisher's.
    pub(super) version: u32,
    pub(super) publications: &'a [String],
    pub(super) settings: &'a Settings,
    pub(super) digest: Digest,
}

/// Finds the tables, in the order of their names. `wanted` says which of them are asked for.
///
/// # Errors
/// Those of either server.
pub(super) async fn find(
    publisher: &Session<'_>,
    subscriber: &Session<'_>,
    sought: &Sought<'_>,
    wanted: impl Fn(&QualifiedName) -> bool,
) -> Result<Vec<Found>, SidesError> {
    let Sought { version, publications, settings, digest } = *sought;
    let mut published = published(publisher, version, publications).await?;
    published.retain(|name, _| wanted(name));
    let renames = settings.renames_by_publisher();
    let there = |name: &QualifiedName| renames.get(name).unwrap_or(name).clone();
    let names: Vec<QualifiedName> = published.keys().cloned().collect();
    let on_publisher = load(publisher, &names).await?;
    let on_subscriber = load(subscriber, &names.iter().map(there).collect::<Vec<_>>()).await?;
    let copying = copying(subscriber).await?;
    let filtered_by = filtered_by(publisher, version, publications).await?;
    let roles = [role(publisher).await?, role(subscriber).await?];
    let mut found = Vec::new();
    for (name, published) in &published {
        // It was dropped since.
        let Some(here) = on_publisher.get(name) else { continue };
        if here.ancestors.iter().any(|oid| on_publisher.values().any(|other| other.oid == *oid)) {
            continue;
        }
        let there = there(name);
        let pair = OnBoth { name, here, there: &there, relation: on_subscriber.get(&there), published };
        let filtered_by = filtered_by.get(&here.oid);
        let table = pair.table(version, &roles, &copying, filtered_by, digest);
        found.push(match table {
            Ok(table) => Found::Comparable(Box::new(table)),
            Err(why) => Found::Not { name: name.to_string(), why },
        });
    }
    Ok(found)
}

/// What the publications publish, as the stream names it.
///
/// # Errors
/// The publisher's.
pub(super) async fn published(
    publisher: &Session<'_>,
    version: u32,
    publications: &[String],
) -> Result<BTreeMap<QualifiedName, Published>, SidesError> {
    let details = if version >= VERSION_COLUMN_LISTS {
        "attnames::text[], rowfilter"
    } else {
        "NULL::text[], NULL::text"
    };
    let sql = format!(
        "SELECT schemaname::text, tablename::text, {details} FROM pg_publication_tables WHERE pubname = ANY($1)"
    );
    let side = Side::Publisher;
    let mut tables: BTreeMap<QualifiedName, Published> = BTreeMap::new();
    for row in side.rows(publisher.client(), &sql, &[&publications]).await? {
        let name = QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?);
        let columns: Option<Vec<String>> = side.get(&row, 2)?;
        let filter: Option<String> = side.get(&row, 3)?;
        let is_new = !tables.contains_key(&name);
        let table = tables.entry(name).or_default();
        if is_new {
            table.filters = Some(Vec::new());
        }
        match (columns, &mut table.columns) {
            (Some(columns), Some(known)) => known.extend(columns),
            (Some(columns), None) if is_new => table.columns = Some(columns.into_iter().collect()),
            (Some(_), None) => {}
            (None, _) => table.columns = None,
        }
        // Of several publications each adds its rows.
        table.filters = match (table.filters.take(), filter) {
            (Some(mut filters), Some(filter)) => {
                filters.push(filter);
                Some(filters)
            }
            _ => None,
        };
    }
    Ok(tables)
}

/// Columns that the publications' filters and column lists name, by table.
async fn filtered_by(
    publisher: &Session<'_>,
    version: u32,
    publications: &[String],
) -> Result<HashMap<u32, BTreeSet<String>>, SidesError> {
    if version < VERSION_COLUMN_LISTS {
        return Ok(HashMap::new());
    }
    let sql = "SELECT d.refobjid, a.attname::text FROM pg_depend d
                 JOIN pg_publication_rel r ON d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid
                 JOIN pg_publication p ON p.oid = r.prpubid
                 JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                WHERE d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND p.pubname = ANY($1)";
    let side = Side::Publisher;
    let mut found: HashMap<u32, BTreeSet<String>> = HashMap::new();
    for row in side.rows(publisher.client(), sql, &[&publications]).await? {
        found.entry(side.get(&row, 0)?).or_default().insert(side.get(&row, 1)?);
    }
    Ok(found)
}

/// The subscriber's tables that its subscriptions bring, and whether each is copied and followed.
async fn copying(subscriber: &Session<'_>) -> Result<HashMap<u32, String>, SidesError> {
    let side = Side::Subscriber;
    let sql = "SELECT srrelid, srsubstate::text FROM pg_subscription_rel ORDER BY srsubstate = 'r'";
    let mut found = HashMap::new();
    for row in side.rows(subscriber.client(), sql, &[]).await? {
        found.entry(side.get(&row, 0)?).or_insert(side.get(&row, 1)?);
    }
    Ok(found)
}

/// Our role on one side.
///
/// # Errors
/// The server's.
pub(super) async fn role(session: &Session<'_>) -> Result<String, SidesError> {
    session.side.value(session.client(), "SELECT current_user::text", &[]).await
}

/// A table as both sides have it.
struct OnBoth<'a> {
    name: &'a QualifiedName,
    here: &'a Relation,
    there: &'a QualifiedName,
    relation: Option<&'a Relation>,
    published: &'a Published,
}

impl OnBoth<'_> {
    fn table(
        &self,
        version: u32,
        roles: &[String; 2],
        copying: &HashMap<u32, String>,
        filtered_by: Option<&BTreeSet<String>>,
        digest: Digest,
    ) -> Result<Table, String> {
        let Some(there) = self.relation else {
            return Err(format!(
                "there is no table {} on the subscriber: create it there, or say where it is with --rename",
                self.there
            ));
        };
        let [role, other_role] = roles;
        readable("publisher", self.name, self.here, role)?;
        readable("subscriber", self.there, there, other_role)?;
        match copying.get(&there.oid).map(String::as_str) {
            Some("r") => {}
            Some(state) => {
                return Err(format!(
                    "its first copy is still under way (srsubstate is {state}): wait until it is r"
                ));
            }
            None if copying.is_empty() => {}
            None => {
                return Err("no subscription of the subscriber brings it: \
                            ALTER SUBSCRIPTION … REFRESH PUBLICATION; there"
                    .to_owned());
            }
        }
        let columns = self.columns(version, there)?;
        let key = self.key(there, &columns);
        let ranged = ranged(&key, self.here, there, digest);
        Ok(Table {
            name: self.name.to_string(),
            subscriber: self.there.to_string(),
            from: [self.here.from(self.name), there.from(self.there)],
            filter: self.filter(&columns, filtered_by)?,
            columns,
            key,
            ranged,
            estimate: self.here.estimate,
            digest,
        })
    }

    /// Those that are replicated, in the publisher's order.
    fn columns(&self, version: u32, there: &Relation) -> Result<Vec<String>, String> {
        let is_published = |column: &&Column| {
            let listed = self.published.columns.as_ref().is_none_or(|list| list.contains(&column.name));
            listed && (!column.generated || version >= VERSION_GENERATED && self.published.columns.is_some())
        };
        let columns: Vec<String> =
            self.here.columns.iter().filter(is_published).map(|c| c.name.clone()).collect();
        if columns.is_empty() {
            return Err("no column of it is published: compare the row counts by hand".to_owned());
        }
        let missing: Vec<String> =
            columns.iter().filter(|name| there.column(name).is_none()).map(|c| quote_identifier(c)).collect();
        if missing.is_empty() {
            return Ok(columns);
        }
        Err(format!(
            "{} is missing on the subscriber: ALTER TABLE {} ADD COLUMN it",
            missing.join(", "),
            self.there
        ))
    }

    /// The primary key, or what else identifies a row: none of its columns may be NULL on either side.
    fn key(&self, there: &Relation, columns: &[String]) -> Vec<String> {
        let is_never_null =
            |relation: &Relation, name: &str| relation.column(name).is_some_and(|c| c.not_null);
        let is_usable = |key: &&Vec<String>| {
            key.iter().all(|c| columns.contains(c) && is_never_null(self.here, c) && is_never_null(there, c))
        };
        self.here.keys.iter().find(is_usable).cloned().unwrap_or_default()
    }

    /// The filters of all publications, if every one has some: it is applied to both sides, so that rows which the
    /// subscriber has from elsewhere do not count.
    fn filter(
        &self,
        columns: &[String],
        filtered_by: Option<&BTreeSet<String>>,
    ) -> Result<Option<String>, String> {
        let Some(filters) = self.published.filters.as_ref().filter(|filters| !filters.is_empty()) else {
            return Ok(None);
        };
        let unknown = filtered_by.into_iter().flatten().find(|name| !columns.contains(name));
        if let Some(unknown) = unknown {
            return Err(format!(
                "its row filter uses column {}, which is not published: which rows belong on the subscriber cannot be \
                 told there",
                quote_identifier(unknown)
            ));
        }
        Ok(Some(filters.join(" OR ")))
    }
}

/// Whether our role may read a table; the error says what lets it.
///
/// # Errors
/// Where it may not.
pub(super) fn readable(
    side: &str,
    name: &QualifiedName,
    relation: &Relation,
    role: &str,
) -> Result<(), String> {
    let role = quote_identifier(role);
    let schema = quote_identifier(&name.schema);
    let usage = format!("GRANT USAGE ON SCHEMA {schema} TO {role};");
    let select = format!("GRANT SELECT ON {name} TO {role};");
    let grant = match (relation.schema_usable, relation.readable) {
        (true, true) => return Ok(()),
        (false, true) => usage,
        (true, false) => select,
        (false, false) => format!("{usage} {select}"),
    };
    Err(format!("our role may not read it on the {side}: {grant}"))
}

/// How many leading columns of the key both servers order the same way, and can read by an index in that order.
fn ranged(key: &[String], here: &Relation, there: &Relation, digest: Digest) -> usize {
    let is_ordered_alike = |name: &&String| match (here.column(name), there.column(name)) {
        (Some(a), Some(b)) => {
            a.order.is_some()
                && a.order == b.order
                && !(digest.convert && matches!(a.order.as_deref(), Some("text" | "bpchar" | "name")))
        }
        _ => false,
    };
    let alike = key.iter().take_while(is_ordered_alike).count();
    let indexed = |index: &Vec<String>| index.iter().zip(key).take_while(|(a, b)| a == b).count();
    alike.min(there.indexes.iter().map(indexed).max().unwrap_or(0))
}
