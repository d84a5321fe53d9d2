//! Locks on sequences, for which there is no statement: `LOCK TABLE` refuses them.
//!
//! In: sequences that our role owns, in a transaction. Out: nobody else can call `nextval` before its end.
//!
//! `ALTER SEQUENCE … OWNER TO` its own owner changes nothing and takes AccessExclusive. It names the sequence and the
//! owner, which are read just before; the locks are let go if either has changed by then.

use std::fmt::Write as _;

use tokio_postgres::{Client, Error};

use crate::readings::trouble;
use crate::types::{Oid, quote_identifier};

/// Locks all of them until the end of the transaction; false, with nothing locked or changed, where one is refused
/// (`lock_timeout`), gone or another one by now.
///
/// # Errors
/// Where the connection is lost.
pub(super) async fn lock(client: &Client, sequences: &[Oid]) -> Result<bool, Error> {
    // The row's version tells whether anybody, ourselves included, has changed it.
    let whose = "SELECT c.xmin::text, quote_ident(n.nspname) || '.' || quote_ident(c.relname), r.rolname
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
                  WHERE c.oid = ANY ($1) ORDER BY c.oid";
    let oids: Vec<u32> = sequences.iter().map(|oid| oid.0).collect();
    let statement = client.prepare(whose).await?;
    let read = async || -> Result<Vec<(String, String, String)>, Error> {
        let rows = client.query(&statement, &[&oids]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
    };
    let before = read().await?;
    if before.len() < oids.len() {
        return Ok(false);
    }
    let mut locking = "SAVEPOINT seqshadow_lock".to_owned();
    for (_, name, owner) in &before {
        // Writing to a String cannot fail.
        let _ = write!(locking, "; ALTER SEQUENCE {name} OWNER TO {}", quote_identifier(owner));
    }
    let locked = match client.batch_execute(&locking).await {
        Ok(()) => read().await? == before,
        Err(error) => {
            trouble(&error).ok_or(error)?;
            false
        }
    };
    if !locked {
        client.batch_execute("ROLLBACK TO SAVEPOINT seqshadow_lock").await?;
    }
    Ok(locked)
}
