//! A database whose sessions begin read-only, as `cutover --stop-writes` leaves it: nothing sets it back by itself, so the
//! verbs that end a replication say it.
//!
//! In: one server. Out: the database's name, and the sentence about it.

use tokio_postgres::Client;

use super::ask::Side;
use crate::sides::SidesError;
use crate::types::quote_identifier;

/// The connected database, if its own setting makes new sessions read-only.
///
/// # Errors
/// The server's.
pub(super) async fn database(side: Side, client: &Client) -> Result<Option<String>, SidesError> {
    let sql = "SELECT d.datname::text FROM pg_database d JOIN pg_db_role_setting s ON s.setdatabase = d.oid
                WHERE d.datname = current_database() AND s.setrole = 0
                  AND 'default_transaction_read_only=on' = ANY(s.setconfig)";
    let rows = side.rows(client, sql, &[]).await?;
    rows.first().map(|row| side.get(row, 0)).transpose()
}

/// What to say of it; `place` as in "on the publisher".
pub(super) fn note(place: &str, database: &str) -> String {
    let quoted = quote_identifier(database);
    format!(
        "new sessions in database {quoted} {place} begin read-only; before applications write there: ALTER DATABASE \
         {quoted} RESET default_transaction_read_only;"
    )
}
