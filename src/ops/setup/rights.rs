//! Which role the daemon runs as, and what it lacks on both sides.
//!
//! In: both [`Sides`], the sequences and tables. Out: [`Rights`] for each side. Where the role is to have sequences moved by
//! the advance-only function, the function and the rights of its owner are among them.

use std::collections::BTreeSet;

use super::Options;
use super::function;
use super::grants::{self, Asked, Needs, Part, Rights};
use super::look::Publisher;
use super::mark::Names;
use super::publication;
use super::tables::Wanted;
use crate::catalog::{self, Readable, Sequence};
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::sides::{Sides, SidesError};
use crate::sql::Connection;
use crate::subscriber::function::AdvanceFunction;
use crate::types::quote_identifier;

/// The daemon's role: the one that is named, or that an earlier setup made or gave rights to, on whichever side.
///
/// # Errors
/// Where a server cannot be asked.
pub(super) async fn role(
    sides: &Sides,
    publisher: &Connection,
    this: &Publisher,
    names: &Names,
    options: &Options,
) -> Result<Option<String>, SidesError> {
    if options.role.is_some() {
        return Ok(options.role.clone());
    }
    // Who made a role is a member of it too from 16 on, with ADMIN.
    let sql = "SELECT r.rolname::text FROM pg_roles r
                WHERE r.rolname <> ALL ($1)
                  AND (shobj_description(r.oid, 'pg_authid') = $2
                       OR EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                                   WHERE m.member = r.oid AND NOT m.admin_option AND g.rolname = ANY ($1)
                                     AND shobj_description(g.oid, 'pg_authid') = $2))";
    let groups = [&names.reads, &names.moves, &names.calls];
    let there = (Side::Subscriber, &sides.subscriber.client, sides.subscriber_conninfo.dbname());
    let mut known = BTreeSet::new();
    for (side, client, database) in [(Side::Publisher, &publisher.client, this.database.as_str()), there] {
        for row in side.rows(client, sql, &[&groups.as_slice(), &names.role_mark(database)]).await? {
            known.insert(side.get::<String>(&row, 0)?);
        }
    }
    Ok(known.pop_first().filter(|_| known.is_empty()))
}

/// The rights on both sides: the publisher's first.
///
/// # Errors
/// Where a server cannot be asked, or something of a name that ours would have is not ours.
pub(super) async fn rights(
    sides: &Sides,
    publisher: &Connection,
    this: &Publisher,
    names: &Names,
    managed: &[&Sequence],
    wanted: &Wanted,
    options: &Options,
) -> Result<Vec<Rights>, OpsError> {
    let there = catalog::load(&publisher.client).await.map_err(SidesError::on_publisher)?;
    let mut needs =
        Needs { sequences: grants::counterparts(managed, &there, &wanted.tables), ..Needs::default() };
    if options.read_tables {
        needs.tables =
            wanted.tables.iter().map(|(name, table)| (name.clone(), table.columns.clone())).collect();
    }
    let asked = Asked {
        side: Side::Publisher,
        client: &publisher.client,
        version: publisher.version,
        database: &this.database,
        names,
        part: Part::Reads,
    };
    let on_publisher = asked.rights(options.role.as_ref().unwrap_or(&this.user), &needs).await?;

    let subscriber = &sides.subscriber;
    let side = Side::Subscriber;
    let sql = "SELECT current_user::text, current_database()::text";
    let rows = side.rows(&subscriber.client, sql, &[]).await?;
    let (user, database): (String, String) = match rows.first() {
        Some(row) => (side.get(row, 0)?, side.get(row, 1)?),
        None => (String::new(), String::new()),
    };
    let mut needs = Needs { sequences: managed.iter().map(|s| s.name.clone()).collect(), ..Needs::default() };
    if options.read_tables {
        let consumers = managed.iter().flat_map(|s| &s.consumers).filter(|c| !c.partitioned);
        for consumer in consumers.filter(|c| !matches!(c.readable, Readable::No(_))) {
            needs.tables.entry(consumer.table.clone()).or_default().insert(consumer.column.clone());
        }
    }
    let (client, version) = (&subscriber.client, subscriber.version);
    let asked = Asked { side, client, version, database: &database, names, part: Part::Moves };
    let role = options.role.as_ref().unwrap_or(&user);
    let on_subscriber = match &options.advance_function {
        None => asked.rights(role, &needs).await?,
        Some(function) => by_function(asked, role, needs, function).await?,
    };
    Ok(vec![on_publisher, on_subscriber])
}

/// The rights of a role that moves nothing itself: those of the function's owner and the function come first.
async fn by_function(
    asked: Asked<'_>,
    role: &str,
    needs: Needs,
    function: &AdvanceFunction,
) -> Result<Rights, OpsError> {
    let (client, names) = (asked.client, asked.names);
    let sequences = Needs { sequences: needs.sequences.clone(), ..Needs::default() };
    let owner = asked.rights_of_group(role, &sequences).await?;
    let found = function::look(client, names, function, role, &needs.sequences).await?;
    let needs = Needs { others: found.grants, afresh: found.is_mover, ..needs };
    let mut rights = Asked { part: Part::Calls, ..asked }.rights(role, &needs).await?;
    let quoted = quote_identifier(role);
    if rights.superuser {
        return Err(SidesError::Setting {
            what: format!(
                "the advance-only function is for a role with few rights, and {quoted} is a superuser"
            ),
            action: "name seqshadow's role with --role".to_owned(),
        }
        .into());
    }
    let touches_function = !found.sql.is_empty() || !needs.others.is_empty() || found.is_mover;
    let makes_owner = if owner.makes_role { 2 } else { 0 };
    let mut sql = owner.sql;
    rights.function = Some((function.name(), found.sql.is_empty()));
    if !found.sql.is_empty() {
        rights.missing.push(format!("function {}", function.name()));
    }
    if !owner.missing.is_empty() {
        rights.missing.push(format!("{} for its owner", publication::some(&owner.missing)));
    }
    rights
        .later
        .extend(owner.later.into_iter().filter(|later| !rights.later.contains(later)).collect::<Vec<_>>());
    sql.extend(found.sql);
    if found.is_mover {
        rights.missing.push("that its right to move sequences itself is taken away".to_owned());
        sql.push(format!("REVOKE {} FROM {quoted}", quote_identifier(&names.moves)));
    }
    sql.append(&mut rights.sql);
    rights.sql = if touches_function {
        function::as_owner(client, asked.version, names, sql, makes_owner).await?
    } else {
        sql
    };
    if let Some(first) = found.sets_itself.first() {
        rights.left.push(format!(
            "role {quoted} has rights of its own to move {}, so that it could set them back: REVOKE USAGE, UPDATE ON \
             SEQUENCE {first} FROM {quoted}; and so on",
            publication::some(&found.sets_itself)
        ));
    }
    Ok(rights)
}
