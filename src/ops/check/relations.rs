//! The tables of both servers, as their catalogs show them, and which of them are published.
//!
//! In: both connections. Out: [`Both`]. A few set-based queries that any role may ask and that wait for no lock; only
//! the list of published tables needs one on each of them (16 and newer).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio_postgres::{Client, Row};

use super::Context;
use crate::ops::ask::Side;
use crate::readings::{Trouble, trouble};
use crate::sides::SidesError;
use crate::sql::SqlError;
use crate::types::{Oid, QualifiedName};

/// `pg_class.relkind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    Foreign,
}

impl Kind {
    /// With its article, for messages.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Table => "a table",
            Kind::Partitioned => "a partitioned table",
            Kind::View => "a view",
            Kind::MaterializedView => "a materialized view",
            Kind::Foreign => "a foreign table",
        }
    }
}

/// `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    PrimaryKey,
    Index,
    Full,
    Nothing,
}

#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub oid: Oid,
    pub name: QualifiedName,
    pub kind: Kind,
    pub unlogged: bool,
    pub identity: Identity,
    /// It came with an extension.
    pub of_extension: bool,
}

/// A unique, an excluding or an invalid index.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub name: QualifiedName,
    pub primary: bool,
    pub unique: bool,
    pub valid: bool,
    /// Checked at each row, not at the end of the transaction.
    pub immediate: bool,
    /// Chosen by REPLICA IDENTITY USING INDEX.
    pub identity: bool,
    pub exclusion: bool,
    pub of_partitioned: bool,
    /// On an expression, or on a part of the rows.
    pub special: bool,
    pub columns: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub name: String,
    /// As `format_type` prints it.
    pub type_name: String,
    pub not_null: bool,
    /// It gets a value by itself: a default, an identity, or one that is generated.
    pub has_default: bool,
    pub is_identity: bool,
    pub generated: bool,
}

/// The tables of one server.
#[derive(Debug, Default)]
pub(super) struct Relations {
    pub all: Vec<Relation>,
    by_name: HashMap<QualifiedName, usize>,
    by_oid: HashMap<Oid, usize>,
    indexes: HashMap<Oid, Vec<Index>>,
    columns: HashMap<Oid, Vec<Column>>,
    children: HashMap<Oid, Vec<Oid>>,
    parents: HashMap<Oid, Oid>,
}

/// A table whose rows go to the subscriber.
#[derive(Clone, Debug)]
pub(super) struct Published {
    /// On the publisher.
    pub name: QualifiedName,
    /// `None` for all columns.
    columns: Option<BTreeSet<String>>,
    /// UPDATE or DELETE are published.
    pub changes: bool,
}

impl Published {
    pub(super) fn shows(&self, column: &Column) -> bool {
        self.columns.as_ref().map_or(!column.generated, |listed| listed.contains(&column.name))
    }
}

/// Both servers.
#[derive(Debug)]
pub(super) struct Both {
    pub publisher: Relations,
    pub subscriber: Relations,
    /// `None` while a published table is locked.
    pub published: Option<Vec<Published>>,
    /// No publication is named and there is no subscription to name one: every table counts as if it were published.
    pub assumed: bool,
    /// What reaches this database through any subscription, on the publisher; `None` where that is not known.
    pub brought: Option<BTreeSet<QualifiedName>>,
    /// The publication to name in statements.
    pub only_publication: Option<String>,
    /// The subscription to name in statements.
    pub subscription: Option<String>,
    renames: HashMap<QualifiedName, QualifiedName>,
}

const RELATIONS: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'u', c.relreplident::text,
       EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY n.nspname, c.relname";

const INDEXES: &str = "
SELECT i.indrelid, n.nspname::text, c.relname::text, i.indisprimary, i.indisunique, i.indisvalid, i.indimmediate,
       i.indisreplident, i.indisexclusion, c.relkind = 'I', i.indexprs IS NOT NULL OR i.indpred IS NOT NULL,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
              WHERE k.place <= i.indnkeyatts ORDER BY k.place)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND (i.indisunique OR i.indisexclusion OR NOT i.indisvalid)
 ORDER BY n.nspname, c.relname";

const COLUMNS: &str = "
SELECT a.attrelid, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, a.attidentity <> '', a.attgenerated <> ''
  FROM pg_attribute a LEFT JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum";

impl Relations {
    async fn load(side: Side, client: &Client) -> Result<Self, SidesError> {
        let mut found = Relations::default();
        for row in side.rows(client, RELATIONS, &[]).await? {
            let relation = relation(side, &row)?;
            let index = found.all.len();
            found.by_name.insert(relation.name.clone(), index);
            found.by_oid.insert(relation.oid, index);
            found.all.push(relation);
        }
        for row in side.rows(client, INDEXES, &[]).await? {
            let table = Oid(side.get(&row, 0)?);
            let index = Index {
                name: QualifiedName::new(side.get::<String>(&row, 1)?, side.get::<String>(&row, 2)?),
                primary: side.get(&row, 3)?,
                unique: side.get(&row, 4)?,
                valid: side.get(&row, 5)?,
                immediate: side.get(&row, 6)?,
                identity: side.get(&row, 7)?,
                exclusion: side.get(&row, 8)?,
                of_partitioned: side.get(&row, 9)?,
                special: side.get(&row, 10)?,
                columns: side.get(&row, 11)?,
            };
            found.indexes.entry(table).or_default().push(index);
        }
        for row in side.rows(client, "SELECT inhparent, inhrelid FROM pg_inherits", &[]).await? {
            let (above, below) = (Oid(side.get(&row, 0)?), Oid(side.get(&row, 1)?));
            found.children.entry(above).or_default().push(below);
            found.parents.insert(below, above);
        }
        Ok(found)
    }

    async fn load_columns(&mut self, side: Side, client: &Client, tables: &[Oid]) -> Result<(), SidesError> {
        let tables: Vec<u32> = tables.iter().map(|table| table.0).collect();
        for row in side.rows(client, COLUMNS, &[&tables]).await? {
            let column = Column {
                name: side.get(&row, 1)?,
                type_name: side.get(&row, 2)?,
                not_null: side.get(&row, 3)?,
                has_default: side.get(&row, 4)?,
                is_identity: side.get(&row, 5)?,
                generated: side.get(&row, 6)?,
            };
            self.columns.entry(Oid(side.get(&row, 0)?)).or_default().push(column);
        }
        Ok(())
    }

    pub(super) fn by_name(&self, name: &QualifiedName) -> Option<&Relation> {
        self.by_name.get(name).and_then(|index| self.all.get(*index))
    }

    pub(super) fn indexes(&self, table: Oid) -> &[Index] {
        self.indexes.get(&table).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn columns(&self, table: Oid) -> &[Column] {
        self.columns.get(&table).map(Vec::as_slice).unwrap_or_default()
    }

    /// The partitioned table that `table` is a part of, however deep, or itself: its columns are the parts'.
    pub(super) fn root<'a>(&'a self, table: &'a Relation) -> &'a Relation {
        let mut root = table;
        while let Some(above) = self.parents.get(&root.oid)
            && let Some(above) = self.by_oid.get(above).and_then(|index| self.all.get(*index))
            && above.kind == Kind::Partitioned
        {
            root = above;
        }
        root
    }

    /// The columns of the primary key; empty without one.
    pub(super) fn primary_key(&self, table: Oid) -> &[String] {
        let key = self.indexes(table).iter().find(|index| index.primary && index.valid);
        key.map(|index| index.columns.as_slice()).unwrap_or_default()
    }

    /// `tables`, and every partition below them.
    pub(super) fn with_partitions(&self, tables: impl IntoIterator<Item = Oid>) -> HashSet<Oid> {
        let mut found = HashSet::new();
        let mut pending: Vec<Oid> = tables.into_iter().collect();
        while let Some(table) = pending.pop() {
            let relation = self.by_oid.get(&table).and_then(|index| self.all.get(*index));
            let is_partitioned = relation.is_some_and(|one| one.kind == Kind::Partitioned);
            if found.insert(table) && is_partitioned {
                pending.extend(self.children.get(&table).into_iter().flatten());
            }
        }
        found
    }

    /// The tables that hold the rows of `table`: itself, or its partitions.
    pub(super) fn leaves(&self, table: &Relation) -> Vec<&Relation> {
        let mut found = Vec::new();
        let mut below = vec![table.oid];
        while let Some(oid) = below.pop() {
            let Some(relation) = self.by_oid.get(&oid).and_then(|index| self.all.get(*index)) else {
                continue;
            };
            if relation.kind == Kind::Partitioned {
                below.extend(self.children.get(&oid).into_iter().flatten().rev());
            } else {
                found.push(relation);
            }
        }
        found
    }

    /// Whether rows of it can be told apart for UPDATE and DELETE, as `CheckCmdReplicaIdentity` in the server's
    /// `execReplication.c` wants it.
    pub(super) fn has_usable_identity(&self, table: &Relation) -> bool {
        let mut indexes = self.indexes(table.oid).iter().filter(|index| index.valid && index.immediate);
        match table.identity {
            Identity::Full => true,
            Identity::Nothing => false,
            Identity::PrimaryKey => indexes.any(|index| index.primary),
            Identity::Index => indexes.any(|index| index.identity),
        }
    }
}

fn relation(side: Side, row: &Row) -> Result<Relation, SidesError> {
    Ok(Relation {
        oid: Oid(side.get(row, 0)?),
        name: QualifiedName::new(side.get::<String>(row, 1)?, side.get::<String>(row, 2)?),
        kind: match side.get::<String>(row, 3)?.as_str() {
            "p" => Kind::Partitioned,
            "v" => Kind::View,
            "m" => Kind::MaterializedView,
            "f" => Kind::Foreign,
            _ => Kind::Table,
        },
        unlogged: side.get(row, 4)?,
        identity: match side.get::<String>(row, 5)?.as_str() {
            "i" => Identity::Index,
            "f" => Identity::Full,
            "n" => Identity::Nothing,
            _ => Identity::PrimaryKey,
        },
        of_extension: side.get(row, 6)?,
    })
}

impl Both {
    /// Reads what both catalogs show.
    ///
    /// # Errors
    /// A server's refusal, or that a connection is lost.
    pub(super) async fn load(context: &Context<'_>) -> Result<Self, SidesError> {
        let subscriber_client = &context.sides.subscriber.client;
        let mut publisher = Relations::load(Side::Publisher, &context.publisher.client).await?;
        let mut subscriber = Relations::load(Side::Subscriber, subscriber_client).await?;
        let publications = publications(context);
        let only_publication = publications.first().filter(|_| publications.len() == 1).cloned();
        let assumed = publications.is_empty();
        let published =
            if assumed { Some(assume(&publisher)) } else { published(context, &publications).await? };
        let brought = brought(context, &publications, published.as_deref()).await?;
        let subscription = context.sides.chosen.as_ref().map(|chosen| chosen.name.clone());
        let renames = context.settings.renames_by_publisher();
        let names = || published.iter().flatten().map(|table| &table.name);
        let there: Vec<Oid> = names().filter_map(|name| publisher.by_name(name)).map(|r| r.oid).collect();
        let here: Vec<Oid> = names()
            .filter_map(|name| subscriber.by_name(renames.get(name).unwrap_or(name)))
            .map(|relation| relation.oid)
            .collect();
        publisher.load_columns(Side::Publisher, &context.publisher.client, &there).await?;
        subscriber.load_columns(Side::Subscriber, subscriber_client, &here).await?;
        Ok(Both {
            publisher,
            subscriber,
            published,
            assumed,
            brought,
            only_publication,
            subscription,
            renames,
        })
    }

    /// What a table of the publisher is called on the subscriber.
    pub(super) fn renamed<'a>(&'a self, name: &'a QualifiedName) -> &'a QualifiedName {
        self.renames.get(name).unwrap_or(name)
    }

    /// The published tables that are on both sides: how each is published, it there, and it here.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&Published, &Relation, &Relation)> {
        self.published.iter().flatten().filter_map(|table| {
            let there = self.publisher.by_name(&table.name)?;
            let here = self.subscriber.by_name(self.renamed(&table.name))?;
            // Rows cannot go anywhere else.
            matches!(here.kind, Kind::Table | Kind::Partitioned).then_some((table, there, here))
        })
    }
}

/// Through which the rows come: those of the subscription, not a narrow one made for our own stream.
fn publications(context: &Context<'_>) -> BTreeSet<String> {
    let sides = context.sides;
    match &sides.chosen {
        Some(chosen) => chosen.publications.iter().cloned().collect(),
        None if sides.subscriptions.is_empty() => sides.publications.iter().cloned().collect(),
        None => sides.subscriptions.iter().flat_map(|one| &one.publications).cloned().collect(),
    }
}

/// The tables of `published`, and those that another subscription of this database brings.
async fn brought(
    context: &Context<'_>,
    publications: &BTreeSet<String>,
    published_here: Option<&[Published]>,
) -> Result<Option<BTreeSet<QualifiedName>>, SidesError> {
    let names = |tables: &[Published]| tables.iter().map(|table| table.name.clone()).collect();
    let all = context.sides.subscriptions.iter().flat_map(|one| &one.publications).cloned();
    let all: BTreeSet<String> = all.chain(publications.iter().cloned()).collect();
    let changes = published_here.into_iter().flatten().any(|table| table.changes);
    if context.sides.subscriptions.is_empty() && !changes {
        // One for our own stream: what another applier brings is not in it.
        return Ok(None);
    }
    if all == *publications {
        return Ok(published_here.map(names));
    }
    Ok(published(context, &all).await?.as_deref().map(names))
}

fn assume(publisher: &Relations) -> Vec<Published> {
    let tables = publisher.all.iter().filter(|r| r.kind == Kind::Table && !r.unlogged && !r.of_extension);
    tables.map(|r| Published { name: r.name.clone(), columns: None, changes: true }).collect()
}

/// How often the list of published tables is asked for, while one of them is locked, and how long apart.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// The published tables, by the names under which the stream brings their rows. `None` while one of them is locked.
async fn published(
    context: &Context<'_>,
    publications: &BTreeSet<String>,
) -> Result<Option<Vec<Published>>, SidesError> {
    // Another applier than a subscription may bring more columns than the publication that is named to us.
    let has_lists = context.publisher.version >= 150_000 && !context.sides.subscriptions.is_empty();
    let columns = if has_lists { "t.attnames::text[]" } else { "NULL::text[]" };
    let publications: Vec<&String> = publications.iter().collect();
    let sql = format!(
        "SELECT t.schemaname::text, t.tablename::text, {columns}, p.pubupdate OR p.pubdelete
           FROM pg_publication_tables t JOIN pg_publication p ON p.pubname = t.pubname
          WHERE p.pubname = ANY($1) ORDER BY 1, 2"
    );
    let side = Side::Publisher;
    for attempt in 1..=ATTEMPTS {
        let rows = match side.rows(&context.publisher.client, &sql, &[&publications]).await {
            Err(SidesError::Sql { source: SqlError::Query(error), .. })
                if trouble(&error) == Some(Trouble::Locked) =>
            {
                if attempt < ATTEMPTS {
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            }
            rows => rows?,
        };
        let mut found: Vec<Published> = Vec::new();
        for row in rows {
            let name = QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?);
            let columns: Option<Vec<String>> = side.get(&row, 2)?;
            let columns = columns.map(BTreeSet::from_iter);
            let changes = side.get(&row, 3)?;
            match found.last_mut() {
                // In two publications: what either shows is shown.
                Some(known) if known.name == name => {
                    known.changes |= changes;
                    known.columns =
                        known.columns.take().zip(columns).map(|(a, b)| a.union(&b).cloned().collect());
                }
                _ => found.push(Published { name, columns, changes }),
            }
        }
        return Ok(Some(found));
    }
    Ok(None)
}
