//! The servers' settings, as far as replication depends on them.

use super::{Code, Context, Finding, Severity};
use crate::ops::ask::Side;
use crate::publisher::reaction::has_wal_level;
use crate::sides::SidesError;

const WAL_LEVEL: Code = Code {
    code: "wal-level",
    severity: Severity::Blocker,
    meaning: "The publisher's wal_level is not logical, so that no logical slot can be made there.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[WAL_LEVEL];

pub(super) async fn findings(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let mut found = Vec::new();
    let sql = "SELECT current_setting('wal_level')";
    let level: String = Side::Publisher.value(&context.publisher.client, sql, &[]).await?;
    if !has_wal_level(&level, context.publisher.version) {
        let message = format!("is {level}, expected logical");
        found.push(
            Finding::on_publisher(&WAL_LEVEL, "wal_level", message)
                .mend("ALTER SYSTEM SET wal_level = logical; -- and restart the publisher"),
        );
    }
    Ok(found)
}
