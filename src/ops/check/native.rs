//! PostgreSQL 19's own replication of sequences, where both servers know it.

use super::{Code, Context, Finding, Severity, up_to_five};
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::quote_identifier;

const AVAILABLE: Code = Code {
    code: "native-sequences",
    severity: Severity::Notice,
    meaning: "The publisher publishes its sequences natively (19 and newer). That copies them when asked to, and no \
              lead is kept: use it, or the sidecar, but not both.",
};
const TWO_WRITERS: Code = Code {
    code: "two-sequence-writers",
    severity: Severity::Warning,
    meaning: "The subscription copies sequences too: REFRESH SEQUENCES can move one back that the sidecar has put \
              ahead.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[AVAILABLE, TWO_WRITERS];

const VERSION_SEQUENCES: u32 = 190_000;

pub(super) async fn findings(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let subscriber = &context.sides.subscriber;
    if context.publisher.version < VERSION_SEQUENCES || subscriber.version < VERSION_SEQUENCES {
        return Ok(Vec::new());
    }
    let side = Side::Publisher;
    let sql = "SELECT pubname::text, puballtables FROM pg_publication WHERE puballsequences ORDER BY 1";
    let (mut names, mut of_sequences_only) = (Vec::new(), Vec::new());
    for row in side.rows(&context.publisher.client, sql, &[]).await? {
        let name: String = side.get(&row, 0)?;
        if !side.get::<bool>(&row, 1)? {
            of_sequences_only.push(name.clone());
        }
        names.push(name);
    }
    let mut found = Vec::new();
    if !names.is_empty() {
        let quoted: Vec<String> = names.iter().map(|name| quote_identifier(name)).collect();
        let message = format!(
            "is published FOR ALL SEQUENCES: either ALTER SUBSCRIPTION … REFRESH SEQUENCES at the cutover, with writes \
             stopped, or the sidecar, which keeps them ahead all the time ({})",
            up_to_five(&quoted)
        );
        found.push(Finding::on_publisher(&AVAILABLE, "every sequence", message));
    }
    let side = Side::Subscriber;
    let sql = "SELECT count(*) FROM pg_subscription_rel r
                 JOIN pg_subscription s ON s.oid = r.srsubid
                 JOIN pg_class c ON c.oid = r.srrelid AND c.relkind = 'S'
                WHERE s.subname = $1";
    for one in &context.sides.subscriptions {
        let sequences: i64 = side.value(&subscriber.client, sql, &[&one.name]).await?;
        if sequences == 0 {
            continue;
        }
        let name = quote_identifier(&one.name);
        let message = format!("copies sequences ({sequences}) too: a REFRESH SEQUENCES can move them back");
        let of_tables = one.publications.iter().filter(|p| !of_sequences_only.contains(p));
        let keep: Vec<String> = of_tables.map(|p| quote_identifier(p)).collect();
        // One that brings tables as well stays as it is.
        let finding = Finding::on_subscriber(&TWO_WRITERS, format!("subscription {name}"), message);
        found.push(
            if keep.is_empty()
                || one.publications.iter().any(|p| names.contains(p) && !of_sequences_only.contains(p))
            {
                finding.advise(format!(
                    "run no ALTER SUBSCRIPTION {name} REFRESH SEQUENCES while the sidecar runs"
                ))
            } else {
                finding.mend(format!("ALTER SUBSCRIPTION {name} SET PUBLICATION {};", keep.join(", ")))
            },
        );
    }
    Ok(found)
}
