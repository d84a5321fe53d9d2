//! What the databases hold that logical replication does not bring over, or trips over.

use super::bundle::bundle;
use super::{Code, Context, Finding, Severity};
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::quote_literal;

const PREPARED: Code = Code {
    code: "prepared-transactions",
    severity: Severity::Warning,
    meaning: "A prepared transaction keeps its locks, holds back WAL and the making of slots, and would block a cutover.",
};
const LARGE_OBJECTS: Code = Code {
    code: "large-objects",
    severity: Severity::Warning,
    meaning: "The publisher's database holds large objects, which logical replication does not bring over.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[PREPARED, LARGE_OBJECTS];

pub(super) async fn findings(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let mut found = prepared(context, Side::Publisher).await?;
    found.extend(prepared(context, Side::Subscriber).await?);
    found = bundle(found, "transaction");
    found.extend(large_objects(context).await?);
    Ok(found)
}

async fn prepared(context: &Context<'_>, side: Side) -> Result<Vec<Finding>, SidesError> {
    let (client, on_side): (_, fn(&Code, String, &str) -> Finding) = match side {
        Side::Publisher => (&context.publisher.client, |c, o, m| Finding::on_publisher(c, o, m)),
        Side::Subscriber => (&context.sides.subscriber.client, |c, o, m| Finding::on_subscriber(c, o, m)),
    };
    let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared, gid";
    let mut found = Vec::new();
    for row in side.rows(client, sql, &[]).await? {
        let gid: String = side.get(&row, 0)?;
        // Those that a subscription with two_phase has prepared here are the publisher's, and told there.
        if side == Side::Subscriber && gid.starts_with("pg_gid_") {
            continue;
        }
        let literal = quote_literal(&gid).trim_start().to_owned();
        found.push(
            on_side(&PREPARED, gid, "is prepared and neither committed nor rolled back")
                .mend(format!("COMMIT PREPARED {literal};"))
                .advise("ROLLBACK PREPARED in its place undoes it: which of them is right, whoever prepared it knows"),
        );
    }
    Ok(found)
}

async fn large_objects(context: &Context<'_>) -> Result<Option<Finding>, SidesError> {
    let sql = "SELECT count(*) FROM pg_largeobject_metadata";
    let count: i64 = Side::Publisher.value(&context.publisher.client, sql, &[]).await?;
    let things = if count == 1 { "large object" } else { "large objects" };
    let message = "are not replicated: bring them over while nobody writes any, \
                   for instance with a dump of them alone";
    let finding = Finding::on_publisher(&LARGE_OBJECTS, format!("{count} {things}"), message);
    let mend = "pg_dump --data-only -b --exclude-table='*.*' PUBLISHER | psql SUBSCRIBER";
    Ok((count > 0).then(|| finding.command(mend)))
}
