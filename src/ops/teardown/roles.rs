//! The roles of a `teardown`: those that hold what `setup` granted, and the login roles that it made.
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
    groups: Vec<Group>,
    /// Login roles with our mark.
    logins: Vec<Login>,
    version: u32,
}

#[derive(Debug)]
struct Group {
    name: String,
    is: Is,
    /// Objects that it owns, in any database, besides what setup made.
    owns: i64,
    /// We may act as it.
    may: bool,
    /// We may drop it.
    may_drop: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Absent,
    Ours,
    Foreign,
}

#[derive(Debug)]
struct Login {
    name: String,
    /// Roles that it is a member of, besides those of setup.
    member_of: Vec<String>,
    may_drop: bool,
}

/// Whether our role may drop `r`: from 16 on that takes ADMIN of it too. What the server asks for besides is as good as
/// certain then.
const MAY_DROP: &str = "EXISTS (SELECT FROM pg_roles me WHERE me.rolname = current_user AND (me.rolsuper OR me.rolcreaterole
     AND (current_setting('server_version_num')::int < 160000 OR pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION'))))";

/// Looks at the roles of one side: `groups` hold what was granted there.
///
/// # Errors
/// Where the server cannot be asked.
pub(super) async fn look(
    side: Side,
    connection: &Connection,
    names: &Names,
    groups: &[&String],
) -> Result<Roles, SidesError> {
    let client = &connection.client;
    let database: String = side.value(client, "SELECT current_database()::text", &[]).await?;
    let mark = names.role_mark(&database);
    let sql = format!(
        "SELECT coalesce(shobj_description(r.oid, 'pg_authid') = $2, false),
                (SELECT count(*) FROM pg_shdepend d
                  WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o')
                - (SELECT count(*) FROM pg_proc p
                    WHERE p.proowner = r.oid AND obj_description(p.oid, 'pg_proc') = $3),
                pg_has_role(r.oid, 'USAGE'), {MAY_DROP}
           FROM pg_roles r WHERE r.rolname = $1"
    );
    let mut found = Vec::new();
    for group in groups {
        let rows = side.rows(client, &sql, &[group, &mark, &names.publication_mark()]).await?;
        let name = (*group).clone();
        found.push(match rows.first() {
            None => Group { name, is: Is::Absent, owns: 0, may: true, may_drop: true },
            Some(row) => Group {
                name,
                is: if side.get(row, 0)? { Is::Ours } else { Is::Foreign },
                owns: side.get(row, 1)?,
                may: side.get(row, 2)?,
                may_drop: side.get(row, 3)?,
            },
        });
    }
    let sql = format!(
        "SELECT r.rolname::text,
                ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                       WHERE m.member = r.oid AND g.rolname <> ALL ($1) AND g.rolname <> 'rds_replication' ORDER BY 1),
                {MAY_DROP}
           FROM pg_roles r
          WHERE shobj_description(r.oid, 'pg_authid') = $2 AND r.rolname <> ALL ($1) ORDER BY 1"
    );
    let mut logins = Vec::new();
    for row in side.rows(client, &sql, &[&groups, &mark]).await? {
        logins.push(Login {
            name: side.get(&row, 0)?,
            member_of: side.get(&row, 1)?,
            may_drop: side.get(&row, 2)?,
        });
    }
    Ok(Roles { groups: found, logins, version: connection.version })
}

impl Roles {
    /// What our role may not do of what is to be done.
    pub(super) fn lacking(&self, options: Options) -> Vec<String> {
        let groups = self.groups.iter().filter(|group| group.is == Is::Ours && group.owns == 0);
        let mut names: Vec<&str> =
            groups.filter(|group| !group.may_drop).map(|group| group.name.as_str()).collect();
        let logins = self.logins.iter().filter(|login| options.drop_role && login.member_of.is_empty());
        names.extend(logins.filter(|login| !login.may_drop).map(|login| login.name.as_str()));
        let admin = if self.version >= 160_000 { " and ADMIN of it" } else { "" };
        let one = |name| format!("role {} (that takes CREATEROLE{admin})", quote_identifier(name));
        names.into_iter().map(one).collect()
    }

    /// What lets us act as the group that owns the function, where it takes more than being who we are.
    pub(super) fn acting_as(&self, name: &str) -> Vec<String> {
        let group = self.groups.iter().find(|group| group.name == name && group.is == Is::Ours && !group.may);
        group.map(|group| self.joining(group)).into_iter().collect()
    }

    /// Whether that can be had.
    pub(super) fn may_act_as(&self, name: &str) -> bool {
        self.groups.iter().any(|group| group.name == name && group.is == Is::Ours && group.may_drop)
    }

    fn joining(&self, group: &Group) -> String {
        let inherit = if self.version >= 160_000 { " WITH INHERIT TRUE" } else { "" };
        format!("GRANT {} TO CURRENT_USER{inherit}", quote_identifier(&group.name))
    }
}

/// Removes them.
///
/// # Errors
/// Where the connection is lost.
pub(super) async fn remove(
    side: Side,
    client: &Client,
    roles: &Roles,
    options: Options,
) -> Result<Vec<Object>, OpsError> {
    let mut done = Vec::new();
    for (index, found) in roles.groups.iter().enumerate() {
        let group = quote_identifier(&found.name);
        let object = |outcome| Object::new(side, "grants", &found.name, outcome);
        match found.is {
            // The first is made by every setup with rights, the others by some.
            Is::Absent if index > 0 => {}
            Is::Absent => done.push(object(Outcome::Absent)),
            Is::Foreign => {
                let note = "a role of this name is there, and has not the mark of setup: not ours to remove";
                done.push(object(Outcome::Kept).note(note));
            }
            Is::Ours if found.owns > 0 => {
                let note = format!(
                    "the role owns objects, which setup never makes: REASSIGN OWNED BY {group} TO …;"
                );
                done.push(object(Outcome::Left).note(note));
            }
            Is::Ours => {
                let mut sql = if found.may { vec![] } else { vec![roles.joining(found)] };
                sql.push(format!("DROP OWNED BY {group}"));
                sql.push(format!("DROP ROLE {group}"));
                done.push(run(side, client, object(Outcome::Left), sql, options).await?);
            }
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
///
/// # Errors
/// Where the connection is lost.
pub(super) async fn run(
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
