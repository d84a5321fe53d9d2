//! Tables that replication leaves where they are: in no publication, or on the subscriber only.
//!
//! In: [`Both`]. Out: findings about tables as such, whether they have ids or not. What is published and not on the
//! subscriber is told with the schema; what is never replicated (unlogged, foreign) has codes of its own.

use std::collections::HashSet;

use super::bundle::bundle;
use super::relations::{Both, Kind, Relation};
use super::{Code, Context, Finding, Severity};
use crate::types::{Oid, QualifiedName, quote_identifier};

const ROWS_NOT_PUBLISHED: Code = Code {
    code: "rows-not-published",
    severity: Severity::Warning,
    meaning: "A table of the publisher is in none of the publications that bring the rows: what is written to it does not reach the subscriber.",
};
const ONLY_ON_SUBSCRIBER: Code = Code {
    code: "table-only-on-subscriber",
    severity: Severity::Notice,
    meaning: "A table of the subscriber is not on the publisher: nothing is replicated to it, and after a switch back it is missed there.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[ROWS_NOT_PUBLISHED, ONLY_ON_SUBSCRIBER];

pub(super) fn findings(context: &Context<'_>, both: &Both) -> Vec<Finding> {
    let mut found = bundle(not_published(context, both), "table");
    found.extend(bundle(only_here(context, both), "table"));
    found
}

/// A schema that is left alone by the settings is left alone here, too.
fn is_ours(context: &Context<'_>, relation: &Relation) -> bool {
    let (settings, schema) = (context.settings, &relation.name.schema);
    let wanted =
        settings.schemas.is_empty() || settings.schemas.iter().any(|pattern| pattern.matches(schema));
    let excluded = settings.exclude_schemas.iter().any(|pattern| pattern.matches(schema));
    wanted && !excluded && !relation.of_extension
}

fn not_published(context: &Context<'_>, both: &Both) -> Vec<Finding> {
    let Some(brought) = both.brought.as_ref().filter(|_| !both.assumed) else { return Vec::new() };
    let there = brought.iter().filter_map(|name| both.publisher.by_name(name)).map(|relation| relation.oid);
    let covered = both.publisher.with_partitions(there);
    let publication = both.only_publication.as_ref();
    let tables = both.publisher.all.iter().filter(|r| r.kind == Kind::Table && !r.unlogged);
    let left = tables.filter(|relation| is_ours(context, relation) && !covered.contains(&relation.oid));
    left.map(|relation| {
        let here = both.subscriber.by_name(both.renamed(&relation.name));
        let where_else = if here.is_some() { "" } else { ", and is not on the subscriber" };
        let message = format!("is in no publication that brings rows{where_else}");
        let finding = Finding::on_publisher(&ROWS_NOT_PUBLISHED, relation.name.to_string(), message);
        match (publication, &both.subscription, here) {
            (Some(publication), Some(subscription), Some(_)) => finding
                .mend(format!(
                    "ALTER PUBLICATION {} ADD TABLE {};",
                    quote_identifier(publication),
                    relation.name
                ))
                .advise(format!(
                    "then, on the subscriber, ALTER SUBSCRIPTION {} REFRESH PUBLICATION",
                    quote_identifier(subscription)
                )),
            _ => finding,
        }
    })
    .collect()
}

fn only_here(context: &Context<'_>, both: &Both) -> Vec<Finding> {
    let names: HashSet<&QualifiedName> =
        both.publisher.all.iter().map(|relation| both.renamed(&relation.name)).collect();
    let is_table = |relation: &&Relation| matches!(relation.kind, Kind::Table | Kind::Partitioned);
    let tables = || both.subscriber.all.iter().filter(is_table);
    let known = tables().filter(|relation| names.contains(&relation.name)).map(|relation| relation.oid);
    // Partitions may be others on each side, where the rows come under the name of their root.
    let known = both.subscriber.with_partitions(known);
    let is_left = |relation: &&Relation| is_ours(context, relation) && !known.contains(&relation.oid);
    let left: Vec<&Relation> = tables().filter(is_left).collect();
    let below: HashSet<Oid> = left
        .iter()
        .filter(|relation| relation.kind == Kind::Partitioned)
        .flat_map(|root| {
            let mut below = both.subscriber.with_partitions([root.oid]);
            below.remove(&root.oid);
            below
        })
        .collect();
    left.into_iter()
        .filter(|relation| !below.contains(&relation.oid))
        .map(|relation| {
            let message = "is not on the publisher: no row comes to it";
            Finding::on_subscriber(&ONLY_ON_SUBSCRIBER, relation.name.to_string(), message)
        })
        .collect()
}
