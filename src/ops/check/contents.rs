//! What the databases hold that logical replication does not bring over, or trips over.

use super::{Code, Context, Finding, Severity};
use crate::ops::ask::Side;
use crate::sides::SidesError;

const PREPARED: Code = Code {
    code: "prepared-transactions",
    severity: Severity::Warning,
    meaning: "A prepared transaction on the publisher holds back WAL and the making of slots, and would block a cutover.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[PREPARED];

pub(super) async fn findings(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
    let rows = Side::Publisher.rows(&context.publisher.client, sql, &[]).await?;
    let mut found = Vec::new();
    for row in rows {
        let gid: String = Side::Publisher.get(&row, 0)?;
        let literal = crate::types::quote_literal(&gid);
        found.push(
            Finding::on_publisher(&PREPARED, gid, "is prepared and neither committed nor rolled back")
                .mend(format!("COMMIT PREPARED {literal}; -- or ROLLBACK PREPARED")),
        );
    }
    Ok(found)
}
