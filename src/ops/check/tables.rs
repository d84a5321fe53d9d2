//! Tables that replication cannot change or does not bring over, and what slows the subscriber's down.

use std::collections::HashSet;

use super::bundle::bundle;
use super::relations::{Both, Identity, Index, Kind, Relation, Relations};
use super::{Code, Context, Finding, Severity};
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::{QualifiedName, quote_identifier};

const IDENTITY_MISSING: Code = Code {
    code: "replica-identity",
    severity: Severity::Blocker,
    meaning: "A table is published with UPDATE or DELETE and has no usable replica identity: the publisher refuses UPDATE and DELETE on it.",
};
const IDENTITY_NEEDED: Code = Code {
    code: "replica-identity-needed",
    severity: Severity::Warning,
    meaning: "A table has no usable replica identity: once it is published with UPDATE or DELETE, the publisher refuses both on it.",
};
const IDENTITY_FULL: Code = Code {
    code: "replica-identity-full",
    severity: Severity::Notice,
    meaning: "A table has REPLICA IDENTITY FULL: each UPDATE and DELETE logs the whole old row, and without a fitting index on the subscriber reads its whole table.",
};
const UNLOGGED: Code = Code {
    code: "table-unlogged",
    severity: Severity::Warning,
    meaning: "An unlogged table of the publisher is not replicated: its rows must be brought over another way.",
};
const FOREIGN: Code = Code {
    code: "foreign-table",
    severity: Severity::Notice,
    meaning: "A foreign table is not replicated: after the cutover the subscriber must reach the foreign server itself.",
};
const MATERIALIZED: Code = Code {
    code: "materialized-view",
    severity: Severity::Notice,
    meaning: "A materialized view is not replicated: refresh it on the subscriber before its readers come.",
};
const INVALID_INDEX: Code = Code {
    code: "index-invalid",
    severity: Severity::Warning,
    meaning: "An index is invalid: no query uses it, and a unique one may be broken. pg_dump leaves one of the publisher out, so that the subscriber lacks it.",
};
const TRIGGER: Code = Code {
    code: "trigger-on-apply",
    severity: Severity::Warning,
    meaning: "A trigger of the subscriber is ENABLE ALWAYS or ENABLE REPLICA: it fires for replicated rows too, although it has fired on the publisher.",
};
const NOT_ANALYZED: Code = Code {
    code: "table-not-analyzed",
    severity: Severity::Warning,
    meaning: "A table of the subscriber was never analyzed, so that queries are planned blindly after the cutover.",
};
const STRICTER: Code = Code {
    code: "constraint-only-on-subscriber",
    severity: Severity::Warning,
    meaning: "The subscriber has a unique or exclusion constraint that the publisher has not: a row that breaks it stops the subscription.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[
    IDENTITY_MISSING,
    IDENTITY_NEEDED,
    IDENTITY_FULL,
    UNLOGGED,
    FOREIGN,
    MATERIALIZED,
    INVALID_INDEX,
    TRIGGER,
    NOT_ANALYZED,
    STRICTER,
];

pub(super) async fn findings(context: &Context<'_>, both: &Both) -> Result<Vec<Finding>, SidesError> {
    let mut found = bundle(without_identity(both), "table");
    found.extend(bundle(with_full_identity(both), "table"));
    found.extend(not_replicated(both));
    found.extend(bundle(invalid_indexes(Side::Publisher, &both.publisher), "index"));
    found.extend(bundle(invalid_indexes(Side::Subscriber, &both.subscriber), "index"));
    found.extend(bundle(triggers(context, both).await?, "trigger"));
    found.extend(bundle(never_analyzed(context).await?, "table"));
    found.extend(bundle(stricter(both), "constraint"));
    Ok(found)
}

/// The tables of the publisher that hold the rows of what is published with UPDATE or DELETE, each once.
fn changing(both: &Both) -> Vec<&Relation> {
    let published = both.published.iter().flatten().filter(|table| table.changes);
    let relations = published.filter_map(|table| both.publisher.by_name(&table.name));
    let mut known = HashSet::new();
    relations
        .flat_map(|relation| both.publisher.leaves(relation))
        .filter(|leaf| leaf.kind == Kind::Table && known.insert(leaf.oid))
        .collect()
}

fn without_identity(both: &Both) -> Vec<Finding> {
    let code = if both.assumed { &IDENTITY_NEEDED } else { &IDENTITY_MISSING };
    let consequence =
        if both.assumed { "will fail on it once they are published" } else { "fail on the publisher" };
    let mut found = Vec::new();
    for table in changing(both).into_iter().filter(|table| !both.publisher.has_usable_identity(table)) {
        let why = match table.identity {
            Identity::Nothing => "has REPLICA IDENTITY NOTHING",
            Identity::Index => "has lost the index of its REPLICA IDENTITY",
            _ => "has no usable primary key to be its replica identity",
        };
        let fits = |index: &&Index| {
            let nullable = both.publisher.columns(table.oid).iter().filter(|c| !c.not_null);
            let nullable: HashSet<&str> = nullable.map(|c| c.name.as_str()).collect();
            index.unique
                && index.valid
                && index.immediate
                && !index.special
                && !index.columns.iter().any(|column| nullable.contains(column.as_str()))
                && !both.publisher.columns(table.oid).is_empty()
        };
        let identity = match both.publisher.indexes(table.oid).iter().find(fits) {
            Some(index) if index.primary => "DEFAULT".to_owned(),
            Some(index) => format!("USING INDEX {}", quote_identifier(&index.name.name)),
            None => "FULL".to_owned(),
        };
        found.push(
            Finding::on_publisher(
                code,
                table.name.to_string(),
                format!("{why}: UPDATE and DELETE {consequence}"),
            )
            .mend(format!("ALTER TABLE {} REPLICA IDENTITY {identity};", table.name)),
        );
    }
    found
}

fn with_full_identity(both: &Both) -> Vec<Finding> {
    let mut found = Vec::new();
    for table in changing(both).into_iter().filter(|table| table.identity == Identity::Full) {
        let here = both.subscriber.by_name(both.renamed(&table.name));
        let has_key = here.is_some_and(|here| !both.subscriber.primary_key(here.oid).is_empty());
        let message = if has_key {
            "has REPLICA IDENTITY FULL: the whole old row is logged with each UPDATE and DELETE"
        } else {
            "has REPLICA IDENTITY FULL, and no primary key on the subscriber: each UPDATE and DELETE reads the \
             whole table there (16 and newer use another index, where there is one)"
        };
        found.push(Finding::on_publisher(&IDENTITY_FULL, table.name.to_string(), message));
    }
    found
}

/// What the publisher has and does not publish, whatever the publication.
fn not_replicated(both: &Both) -> Vec<Finding> {
    let (mut unlogged, mut foreign, mut views) = (Vec::new(), Vec::new(), Vec::new());
    for relation in both.publisher.all.iter().filter(|relation| !relation.of_extension) {
        let name = relation.name.to_string();
        match relation.kind {
            Kind::Table if relation.unlogged => unlogged.push(
                Finding::on_publisher(&UNLOGGED, &name, "is unlogged and therefore not replicated")
                    .mend(format!("ALTER TABLE {name} SET LOGGED;"))
                    .advise("this writes the whole table anew, and locks it meanwhile"),
            ),
            Kind::Foreign => {
                let message = "is a foreign table: the subscriber needs its server and user mapping too";
                foreign.push(Finding::on_publisher(&FOREIGN, name, message));
            }
            Kind::MaterializedView => {
                let message =
                    "is a materialized view: it is to be refreshed on the subscriber after the cutover";
                views.push(
                    Finding::on_publisher(&MATERIALIZED, &name, message)
                        .advise("REFRESH MATERIALIZED VIEW does it"),
                );
            }
            _ => {}
        }
    }
    let mut found = bundle(unlogged, "unlogged table");
    found.extend(bundle(foreign, "foreign table"));
    found.extend(bundle(views, "materialized view"));
    found
}

fn invalid_indexes(side: Side, relations: &Relations) -> Vec<Finding> {
    let told = |name: &str, message: String| match side {
        Side::Publisher => Finding::on_publisher(&INVALID_INDEX, name, message),
        Side::Subscriber => Finding::on_subscriber(&INVALID_INDEX, name, message),
    };
    let mut found = Vec::new();
    for table in &relations.all {
        for index in relations.indexes(table.oid).iter().filter(|index| !index.valid) {
            let name = index.name.to_string();
            let on = format!("is invalid, on {}", table.name);
            found.push(if index.of_partitioned {
                told(&name, format!("{on}: a partition lacks its part of it"))
            } else {
                told(&name, format!("{on}: the making of it failed, or has not ended"))
                    .mend(format!("REINDEX INDEX CONCURRENTLY {name};"))
                    .advise("where rows break a unique one this fails as its making did: mend them first")
            });
        }
    }
    found
}

async fn triggers(context: &Context<'_>, both: &Both) -> Result<Vec<Finding>, SidesError> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled = 'A'
                 FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal
                  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                ORDER BY 2, 3, 4";
    let side = Side::Subscriber;
    let rows = side.rows(&context.sides.subscriber.client, sql, &[]).await?;
    // Rows that come for a partitioned table fire the triggers of its partitions.
    let written = both.pairs().flat_map(|(_, _, here)| both.subscriber.leaves(here)).map(|leaf| leaf.oid.0);
    let written: HashSet<u32> = written.chain(both.pairs().map(|(_, _, here)| here.oid.0)).collect();
    let mut found = Vec::new();
    for row in rows {
        if both.published.is_some() && !written.contains(&side.get::<u32>(&row, 0)?) {
            continue;
        }
        let table = QualifiedName::new(side.get::<String>(&row, 1)?, side.get::<String>(&row, 2)?);
        let trigger = quote_identifier(&side.get::<String>(&row, 3)?);
        let how = if side.get(&row, 4)? { "ENABLE ALWAYS" } else { "ENABLE REPLICA" };
        let message = format!("is {how}: it fires for each replicated row too");
        found.push(
            Finding::on_subscriber(&TRIGGER, format!("{trigger} on {table}"), message)
                .mend(format!("ALTER TABLE {table} ENABLE TRIGGER {trigger};")),
        );
    }
    Ok(found)
}

/// Tables of up to as many rows are left out, as by autovacuum (`autovacuum_analyze_threshold`).
const FEW_ROWS: i64 = 50;

async fn never_analyzed(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let sql = "SELECT s.schemaname::text, s.relname::text
                 FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
                WHERE s.last_analyze IS NULL AND s.last_autoanalyze IS NULL AND c.relpersistence <> 't'
                  AND c.relkind = 'r'
                  AND (s.n_live_tup > $1 OR c.reltuples > $1)
                ORDER BY 1, 2";
    let side = Side::Subscriber;
    let rows = side.rows(&context.sides.subscriber.client, sql, &[&FEW_ROWS]).await?;
    let finding = |row| {
        let table = QualifiedName::new(side.get::<String>(row, 0)?, side.get::<String>(row, 1)?);
        let message = "was never analyzed, or its statistics were lost";
        Ok(Finding::on_subscriber(&NOT_ANALYZED, table.to_string(), message)
            .mend(format!("ANALYZE {table};")))
    };
    rows.iter().map(finding).collect()
}

/// Unique and exclusion constraints and indexes that only the subscriber has. Primary keys are told elsewhere.
fn stricter(both: &Both) -> Vec<Finding> {
    let mut found = Vec::new();
    for (_, there, here) in both.pairs() {
        let known: Vec<HashSet<&String>> = both
            .publisher
            .indexes(there.oid)
            .iter()
            .filter(|index| index.unique && !index.special)
            .map(|index| index.columns.iter().collect())
            .collect();
        for index in both.subscriber.indexes(here.oid) {
            // Of one on an expression or on part of the rows, the name has to do.
            let has_namesake =
                || both.publisher.indexes(there.oid).iter().any(|other| other.name.name == index.name.name);
            let implied = if index.special || index.exclusion {
                has_namesake()
            } else {
                let columns: HashSet<&String> = index.columns.iter().collect();
                known.iter().any(|other| other.is_subset(&columns))
            };
            if index.primary || !index.valid || !index.unique && !index.exclusion || implied {
                continue;
            }
            let what = if index.exclusion { "an exclusion constraint" } else { "unique" };
            let message = format!("is {what} on {}, and the publisher has no such constraint", here.name);
            found.push(Finding::on_subscriber(&STRICTER, index.name.to_string(), message));
        }
    }
    found
}
