//! The publications that the sidecar follows: whether they are there, what of the id columns they show, and whether
//! any publication stands in the application's way.

use std::collections::{BTreeSet, HashMap};

use super::{Code, Context, Finding, Severity, up_to_five};
use crate::catalog::Readable;
use crate::catalog::coverage::{Published, publication_of};
use crate::ops::ask::Side;
use crate::publisher::look::LOOK_TIMEOUT;
use crate::publisher::publication;
use crate::sides::SidesError;
use crate::sql;
use crate::types::{QualifiedName, quote_identifier};

const MISSING: Code = Code {
    code: "publication-missing",
    severity: Severity::Blocker,
    meaning: "A publication that the sidecar is to follow does not exist on the publisher.",
};
const NOT_PUBLISHED: Code = Code {
    code: "tables-not-published",
    severity: Severity::Notice,
    meaning: "Tables with ids are in none of the publications: their sequences are followed by polling, and their rows \
              may not reach the subscriber.",
};
const NO_INSERTS: Code = Code {
    code: "inserts-not-published",
    severity: Severity::Warning,
    meaning: "The publications of tables with ids do not publish INSERT: new rows do not reach the subscriber, and the \
              stream shows no new id.",
};
const LIST_WITHOUT_ID: Code = Code {
    code: "id-not-in-column-list",
    severity: Severity::Notice,
    meaning: "A column list leaves out the id: the stream does not show it, and its sequence is followed by polling.",
};
const ROW_FILTER: Code = Code {
    code: "row-filter",
    severity: Severity::Notice,
    meaning: "A row filter hides rows from the stream: the sequence is followed by polling as well.",
};
const BREAKS_UPDATES: Code = Code {
    code: "publication-breaks-updates",
    severity: Severity::Blocker,
    meaning: "A publication of updates or deletes has a column list without the table's replica identity, or a row \
              filter on other columns: the application's UPDATE and DELETE fail on the publisher.",
};

/// What this file finds.
pub(super) const CODES: &[Code] =
    &[MISSING, NOT_PUBLISHED, NO_INSERTS, LIST_WITHOUT_ID, ROW_FILTER, BREAKS_UPDATES];

/// Column lists and row filters exist since then.
const VERSION_COLUMN_LISTS: u32 = 150_000;

/// Publications, of whomever, whose column list or row filter makes the server refuse the UPDATE or DELETE of a table, with
/// the columns that are to blame (`CheckCmdReplicaIdentity` in `execReplication.c`). A row filter's columns are known by what
/// it depends on, which tells them from those of a column list only where there is none.
const BREAKING: &str = "
WITH published AS (
    SELECT p.pubname, r.oid AS pub_rel, r.prrelid AS top, r.prattrs::int2[] AS attrs, r.prqual IS NOT NULL AS filtered,
           coalesce(tree.relid, r.prrelid) AS rel
      FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
      LEFT JOIN LATERAL pg_partition_tree(r.prrelid) tree ON tree.isleaf
     WHERE (p.pubupdate OR p.pubdelete) AND (r.prattrs IS NOT NULL OR r.prqual IS NOT NULL)
), identity AS (
    SELECT b.pubname, b.pub_rel, b.rel, b.top, b.attrs, b.filtered, c.relreplident,
           ARRAY(SELECT a.attname::text FROM pg_attribute a
                  WHERE a.attrelid = b.rel AND a.attnum > 0 AND NOT a.attisdropped
                    AND (c.relreplident = 'f' OR a.attnum = ANY (
                         SELECT unnest(i.indkey::int2[]) FROM pg_index i
                          WHERE i.indrelid = b.rel
                            AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                                    WHEN 'i' THEN i.indisreplident ELSE false END))) AS columns
      FROM published b JOIN pg_class c ON c.oid = b.rel
)
SELECT i.pubname::text, n.nspname::text, c.relname::text,
       CASE WHEN i.attrs IS NULL THEN '{}' ELSE ARRAY(
           SELECT k FROM unnest(i.columns) k
            WHERE k NOT IN (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = i.top AND a.attnum = ANY (i.attrs))
       ) END,
       CASE WHEN NOT i.filtered OR i.attrs IS NOT NULL OR i.relreplident = 'f' THEN '{}' ELSE ARRAY(
           SELECT a.attname::text FROM pg_depend d
             JOIN pg_attribute a ON a.attrelid = i.top AND a.attnum = d.refobjsubid
            WHERE d.classid = 'pg_publication_rel'::regclass AND d.objid = i.pub_rel
              AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.top AND d.refobjsubid > 0
              AND a.attname <> ALL (i.columns)
       ) END,
       i.relreplident = 'f' AND i.attrs IS NOT NULL
  FROM identity i JOIN pg_class c ON c.oid = i.rel JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY 1, 2, 3";

pub(super) async fn findings(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let mut found = Vec::new();
    for name in &context.survey.missing_publications {
        let quoted = quote_identifier(name);
        let message = "does not exist on the publisher";
        found.push(
            Finding::on_publisher(&MISSING, format!("publication {quoted}"), message)
                .advise("name another with --publication, or let seqshadow setup make one"),
        );
    }
    found.extend(coverage(context).await?);
    found.extend(breaking(context).await?);
    Ok(found)
}

/// What the publications show of the tables with ids.
async fn coverage(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let (client, version) = (&context.publisher.client, context.publisher.version);
    let loaded = publication::load(client, &context.sides.publications);
    let publications = sql::within(LOOK_TIMEOUT, loaded).await.map_err(SidesError::on_publisher)?;
    if !publications.are_there() {
        return Ok(Vec::new());
    }
    let tables = publication::tables(client, version, &publications);
    let Some(tables) = sql::within(LOOK_TIMEOUT, tables).await.map_err(SidesError::on_publisher)? else {
        // A table is locked: what the sequences are followed by says so.
        return Ok(Vec::new());
    };
    let renames = context.settings.renames_by_publisher();
    let renamed = |name: QualifiedName| renames.get(&name).cloned().unwrap_or(name);
    let tables = tables.into_iter().map(|(name, published)| (renamed(name), published)).collect();
    let gaps = gaps(context, &tables);
    let all: Vec<String> = context.sides.publications.iter().map(|name| quote_identifier(name)).collect();
    let noun = if all.len() == 1 { "publication" } else { "publications" };
    let whole = format!("{noun} {}", up_to_five(&all));
    let (add, adding) = adding(context, &gaps.absent).await?;
    let insert = inserting(context, &gaps.silent).await?;
    let shown = |tables: &BTreeSet<QualifiedName>| tables.iter().map(ToString::to_string).collect();
    let (absent, silent, filtered) = (shown(&gaps.absent), shown(&gaps.silent), shown(&gaps.filtered));
    let unlisted: Vec<String> = gaps.unlisted.into_iter().collect();
    let groups: [(_, Vec<String>, _, _, _); 4] = [
        (&NOT_PUBLISHED, absent, "not published", add, adding),
        (&NO_INSERTS, silent, "published without INSERT", insert, String::new()),
        (&LIST_WITHOUT_ID, unlisted, "not in the column list", String::new(), String::new()),
        (&ROW_FILTER, filtered, "published with a row filter", String::new(), String::new()),
    ];
    let mut found = Vec::new();
    for (code, names, what, mend, advice) in groups.into_iter().filter(|(_, names, ..)| !names.is_empty()) {
        let message = format!("{} {what}: {}", names.len(), up_to_five(&names));
        found.push(Finding::on_publisher(code, &whole, message).mend(mend).advise(advice));
    }
    Ok(found)
}

/// What puts `tables` into one of the publications, and what to say of those that cannot be put there.
async fn adding(
    context: &Context<'_>,
    tables: &BTreeSet<QualifiedName>,
) -> Result<(String, String), SidesError> {
    if tables.is_empty() {
        return Ok((String::new(), String::new()));
    }
    let (side, client) = (Side::Publisher, &context.publisher.client);
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let sql = "SELECT n.nspname::text, c.relname::text, c.relpersistence = 'p'
                 FROM unnest($1::text[], $2::text[]) AS k (schema, name)
                 JOIN pg_namespace n ON n.nspname = k.schema
                 JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = k.name AND c.relkind IN ('r', 'p')";
    let mut logged = HashMap::new();
    for row in side.rows(client, sql, &[&schemas, &names]).await? {
        let name = QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?);
        logged.insert(name, side.get::<bool>(&row, 2)?);
    }
    let of = |state: Option<bool>| -> Vec<String> {
        let all = tables.iter().filter(|table| logged.get(*table).copied() == state);
        all.map(ToString::to_string).collect()
    };
    let mut advice = Vec::new();
    for (state, why) in [
        (None, "is not on the publisher; where it has another name there, --rename says so"),
        (Some(false), "is unlogged, and cannot be published"),
    ] {
        let names = of(state);
        if !names.is_empty() {
            advice.push(format!("{} {why}", up_to_five(&names)));
        }
    }
    // One that publishes everything already takes none; one of inserts is better than one of none.
    let sql = "SELECT pubname::text, pubupdate OR pubdelete FROM pg_publication
                WHERE pubname = ANY ($1) AND NOT puballtables ORDER BY pubinsert DESC, 1 LIMIT 1";
    let rows = side.rows(client, sql, &[&context.sides.publications]).await?;
    let publishable = of(Some(true));
    let mut mend = String::new();
    if let Some(row) = rows.first().filter(|_| !publishable.is_empty()) {
        let publication = quote_identifier(&side.get::<String>(row, 0)?);
        mend = format!("ALTER PUBLICATION {publication} ADD TABLE {};", publishable.join(", "));
        if side.get::<bool>(row, 1)? {
            advice
                .push("of a table without a usable replica identity UPDATE and DELETE fail then".to_owned());
        }
    }
    Ok((mend, advice.join("; ")))
}

/// What makes the publications of `tables` publish inserts, and what they publish now.
async fn inserting(context: &Context<'_>, tables: &BTreeSet<QualifiedName>) -> Result<String, SidesError> {
    if tables.is_empty() {
        return Ok(String::new());
    }
    let (side, client) = (Side::Publisher, &context.publisher.client);
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let sql =
        "SELECT DISTINCT p.pubname::text, concat_ws(', ', 'insert', CASE WHEN p.pubupdate THEN 'update' END,
                      CASE WHEN p.pubdelete THEN 'delete' END, CASE WHEN p.pubtruncate THEN 'truncate' END)
                 FROM pg_publication p JOIN pg_publication_tables t ON t.pubname = p.pubname
                 JOIN unnest($2::text[], $3::text[]) AS k (schema, name)
                   ON k.schema = t.schemaname AND k.name = t.tablename
                WHERE p.pubname = ANY ($1) AND NOT p.pubinsert ORDER BY 1";
    let rows = side.rows(client, sql, &[&context.sides.publications, &schemas, &names]).await?;
    let set = |row| {
        let publication = quote_identifier(&side.get::<String>(row, 0)?);
        let kinds: String = side.get(row, 1)?;
        Ok(format!("ALTER PUBLICATION {publication} SET (publish = '{kinds}');"))
    };
    Ok(rows.iter().map(set).collect::<Result<Vec<_>, SidesError>>()?.join("\n"))
}

/// What the publications do not show, by the publisher's names.
#[derive(Default)]
struct Gaps {
    absent: BTreeSet<QualifiedName>,
    silent: BTreeSet<QualifiedName>,
    unlisted: BTreeSet<String>,
    filtered: BTreeSet<QualifiedName>,
}

fn gaps(context: &Context<'_>, tables: &HashMap<QualifiedName, Published>) -> Gaps {
    let names: HashMap<&QualifiedName, &QualifiedName> =
        context.settings.renames.iter().map(|rename| (&rename.subscriber, &rename.publisher)).collect();
    let mut gaps = Gaps::default();
    for one in context.survey.sequences.iter().filter(|one| one.managed.excluded.is_none()) {
        let sequence = &one.managed.sequence;
        // The rows are in the partitions; without any, the root stands for them.
        let roots_only = sequence.consumers.iter().all(|c| c.partitioned);
        for consumer in sequence.consumers.iter().filter(|c| !c.partitioned || roots_only) {
            if !matches!(consumer.readable, Readable::Yes(_)) {
                continue;
            }
            let table = (*names.get(&consumer.table).unwrap_or(&&consumer.table)).clone();
            let column = format!("{table}.{}", quote_identifier(&consumer.column));
            match publication_of(consumer, sequence, tables).map(|published| &published.inserts) {
                None => gaps.absent.insert(table),
                Some(None) => gaps.silent.insert(table),
                Some(Some(shown)) if !shown.lists(&consumer.column) => gaps.unlisted.insert(column),
                Some(Some(shown)) if shown.row_filter => gaps.filtered.insert(table),
                Some(Some(_)) => continue,
            };
        }
    }
    gaps
}

/// Publications, also those of others, that make the application's statements fail.
async fn breaking(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    if context.publisher.version < VERSION_COLUMN_LISTS {
        return Ok(Vec::new());
    }
    let side = Side::Publisher;
    let mut found = Vec::new();
    for row in side.rows(&context.publisher.client, BREAKING, &[]).await? {
        let publication = quote_identifier(&side.get::<String>(&row, 0)?);
        let table = QualifiedName::new(side.get::<String>(&row, 1)?, side.get::<String>(&row, 2)?);
        let unlisted: Vec<String> = side.get(&row, 3)?;
        let filtering: Vec<String> = side.get(&row, 4)?;
        let why = match (unlisted.is_empty(), filtering.is_empty()) {
            _ if side.get::<bool>(&row, 5)? => {
                "a column list does not go with REPLICA IDENTITY FULL".to_owned()
            }
            (false, _) => {
                format!("its column list leaves out {} of the replica identity", up_to_five(&unlisted))
            }
            (true, false) => {
                format!("its row filter uses {}, not of the replica identity", up_to_five(&filtering))
            }
            (true, true) => continue,
        };
        let message = format!("the application's UPDATE or DELETE fails: in publication {publication} {why}");
        found.push(
            Finding::on_publisher(&BREAKS_UPDATES, table.to_string(), message)
                .mend(format!("ALTER PUBLICATION {publication} SET (publish = 'insert, truncate');"))
                .advise(
                    "it publishes no UPDATE and DELETE then: where it brings rows to a subscriber, let its column \
                     list and its row filter go by the replica identity instead",
                ),
        );
    }
    Ok(found)
}
