//! The roles of a `teardown`: the one that holds what `setup` granted, and the login roles that it made.
//!
//! In: one side. Out: what was removed of them. With the role that holds them all grants go, those by default privileges
//! included; what was granted to anybody otherwise stays.

use tokio_postgres::Client;

use super::Options;
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::ops::setup::mark::Names;
use crate::ops::setup::{Object, Outcome, apply};
use crate::sides::SidesError;
use crate::sql::Connection;
use crate::types::quote_identifier;

/// What there is on one side.
#[derive(Debug)]
pub(super) struct Roles {
    group: String,
    found: Option<Group>,
    /// Login roles with our mark.
    logins: Vec<Login>,
    version: u32,
}

#[derive(Debug)]
struct Group {
    ours: bool,
    /// Objects that it owns, in any database.
    owns: i64,
    /// We may act as it.
    may: bool,
}

#[derive(Debug)]
struct Login {
    name: String,
    /// Roles that it is a member of, besides those of setup.
    member_of: Vec<String>,
}

/// Looks at the roles of one side.
///
/// # Errors
/// Where the server cannot be asked.
pub(super) async fn look(
    side: Side,
    connection: &Connection,
    names: &Names,
    group: &str,
) -> Result<Roles, SidesError> {
    let client = &connection.client;
    let database: String = side.value(client, "SELECT current_database()::text", &[]).await?;
    let mark = names.role_mark(&database);
    let sql = "SELECT coalesce(shobj_description(r.oid, 'pg_authid') = $2, false),
                      (SELECT count(*) FROM pg_shdepend d
                        WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o'),
                      pg_has_role(r.oid, 'USAGE')
                 FROM pg_roles r WHERE r.rolname = $1";
    let rows = side.rows(client, sql, &[&group, &mark]).await?;
    let found = match rows.first() {
        None => None,
        Some(row) => Some(Group { ours: side.get(row, 0)?, owns: side.get(row, 1)?, may: side.get(row, 2)? }),
    };
    let sql = "SELECT r.rolname::text,
                      ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                             WHERE m.member = r.oid AND g.rolname NOT IN ($1, 'rds_replication') ORDER BY 1)
                 FROM pg_roles r
                WHERE shobj_description(r.oid, 'pg_authid') = $2 AND r.rolname <> $1 ORDER BY 1";
    let mut logins = Vec::new();
    for row in side.rows(client, sql, &[&group, &mark]).await? {
        logins.push(Login { name: side.get(&row, 0)?, member_of: side.get(&row, 1)? });
    }
    Ok(Roles { group: group.to_owned(), found, logins, version: connection.version })
}

/// Removes them.
///
/// # Errors
/// Where the connection is lost.
pub(super) async fn remove(
    side: Side,
    client: &Client,
    roles: Roles,
    options: Options,
) -> Result<Vec<Object>, OpsError> {
    let mut done = Vec::new();
    let group = quote_identifier(&roles.group);
    let object = |outcome| Object::new(side, "grants", &roles.group, outcome);
    match &roles.found {
        None => done.push(object(Outcome::Absent)),
        Some(found) if !found.ours => {
            let note = "a role of this name is there, and has not the mark of setup: not ours to remove";
            done.push(object(Outcome::Kept).note(note));
        }
        Some(found) if found.owns > 0 => {
            let note =
                format!("the role owns objects, which setup never makes: REASSIGN OWNED BY {group} TO …;");
            done.push(object(Outcome::Left).note(note));
        }
        Some(found) => {
            let mut sql = Vec::new();
            if !found.may {
                let inherit = if roles.version >= 160_000 { " WITH INHERIT TRUE" } else { "" };
                sql.push(format!("GRANT {group} TO CURRENT_USER{inherit}"));
            }
            sql.push(format!("DROP OWNED BY {group}"));
            sql.push(format!("DROP ROLE {group}"));
            done.push(run(side, client, object(Outcome::Left), sql, options).await?);
        }
    }
    for login in &roles.logins {
        let name = quote_identifier(&login.name);
        let object = Object::new(side, "role", &login.name, Outcome::Kept);
        if !options.drop_role {
            done.push(object.note("made by setup; --drop-role drops it"));
        } else if login.member_of.is_empty() {
            done.push(run(side, client, object, vec![format!("DROP ROLE {name}")], options).await?);
        } else {
            let note = format!(
                "it is also a member of {}: REVOKE that, or DROP ROLE {name};",
                login.member_of.join(", ")
            );
            done.push(Object { outcome: Outcome::Left, ..object.note(note) });
        }
    }
    Ok(done)
}

/// Runs one removal; what the server refuses is left, and the rest goes on.
async fn run(
    side: Side,
    client: &Client,
    object: Object,
    sql: Vec<String>,
    options: Options,
) -> Result<Object, OpsError> {
    if options.dry_run {
        return Ok(Object { outcome: Outcome::ToRemove, ..object.sql(sql) });
    }
    match apply(side, client, &sql, options.wait).await {
        Ok(()) => Ok(Object { outcome: Outcome::Removed, ..object.sql(sql) }),
        Err(error @ (OpsError::NotReady { .. } | OpsError::Sides(SidesError::Setting { .. }))) => {
            let object = Object { outcome: Outcome::Left, ..object };
            Ok(object.note(error.to_string()).sql(sql))
        }
        Err(error) => Err(error),
    }
}
