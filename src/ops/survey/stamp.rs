//! A short text that changes whenever a definition changes that a survey goes by: a table, column, default, index, sequence,
//! function, trigger, rule, owner, right or publication, or where sessions look for names without a schema.
//!
//! In: a connection. Out: a sum over the transactions that wrote each row of the catalogs. Statistics are written in place
//! and do not show in it, nor do the values of sequences, nor other settings: a cutover changes one in its pause.

use tokio_postgres::Client;

use crate::ops::ask::Side;
use crate::sides::SidesError;

/// Catalogs with what tells their rows apart. Objects of users have OIDs from 16384 on.
const CATALOGS: &[(&str, &str, &str)] = &[
    ("pg_class", "oid", "oid >= 16384"),
    ("pg_attribute", "attrelid::text || ' ' || attnum", "attrelid >= 16384 AND attnum > 0"),
    ("pg_attrdef", "oid", "true"),
    ("pg_index", "indexrelid", "indexrelid >= 16384"),
    ("pg_inherits", "inhrelid::text || ' ' || inhparent", "true"),
    ("pg_sequence", "seqrelid", "true"),
    (
        "pg_depend",
        "objid::text || ' ' || objsubid || ' ' || refobjid",
        "objid >= 16384 AND deptype IN ('a', 'i')",
    ),
    ("pg_type", "oid", "oid >= 16384"),
    ("pg_proc", "oid", "oid >= 16384"),
    ("pg_trigger", "oid", "true"),
    ("pg_rewrite", "oid", "oid >= 16384"),
    ("pg_namespace", "oid", "true"),
    ("pg_auth_members", "roleid::text || ' ' || member", "true"),
    ("pg_publication", "oid", "true"),
    ("pg_publication_rel", "oid", "true"),
];

/// What a superuser needs no right for, and another role does.
const ROLE: &str = "(SELECT concat(oid, rolsuper, rolinherit) FROM pg_roles WHERE rolname = current_user)";

/// What databases and roles say of search_path; by its text, as a row has all settings of a role in one.
const SEARCH_PATHS: &str = "
(SELECT concat(count(*), ' ', sum(hashtext(concat(s.setdatabase, ' ', s.setrole, ' ', setting))))
   FROM pg_db_role_setting s, unnest(s.setconfig) AS setting WHERE setting LIKE 'search\\_path=%')";

/// Asks for it.
///
/// # Errors
/// The server's or the connection's error.
pub(super) async fn of(side: Side, client: &Client, version: u32) -> Result<String, SidesError> {
    let schemas = (version >= 150_000).then_some(("pg_publication_namespace", "oid", "true"));
    let sums: Vec<String> = CATALOGS
        .iter()
        .chain(&schemas)
        .map(|(catalog, key, of)| {
            format!("(SELECT concat(count(*), ' ', sum(hashtext(concat({key}, ' ', xmin)))) FROM {catalog} WHERE {of})")
        })
        .collect();
    side.value(client, &format!("SELECT concat_ws(', ', {}, {SEARCH_PATHS}, {ROLE})", sums.join(", ")), &[])
        .await
}
