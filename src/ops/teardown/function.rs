//! The advance-only function of a `teardown`, and the schema that was made for it.
//!
//! In: the subscriber. Out: what was removed of them. Both are ours by their comment, the function by its name and owner,
//! too; a schema that somebody else has put something into stays.

use tokio_postgres::Client;

use super::Options;
use super::roles::{self, Roles};
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::ops::setup::mark::Names;
use crate::ops::setup::{Object, Outcome};
use crate::sides::SidesError;
use crate::subscriber::function::{ARGUMENTS, NAME};
use crate::types::{QualifiedName, quote_identifier};

const SIDE: Side = Side::Subscriber;

/// What there is of them.
#[derive(Debug, Default)]
pub(super) struct Functions {
    functions: Vec<Function>,
    schemas: Vec<Schema>,
}

#[derive(Debug)]
struct Function {
    name: QualifiedName,
    /// With its arguments, for SQL.
    signature: String,
    owner: String,
    owned: bool,
}

#[derive(Debug)]
struct Schema {
    name: String,
    owner: String,
    owned: bool,
    /// Others have something in it.
    used: bool,
}

/// Looks for what has our mark.
///
/// # Errors
/// Where the subscriber cannot be asked.
pub(super) async fn look(client: &Client, names: &Names) -> Result<Functions, SidesError> {
    let mut found = Functions::default();
    let mut oids = Vec::new();
    let sql = "SELECT n.nspname::text, p.proname::text, pg_get_function_identity_arguments(p.oid),
                      pg_get_userbyid(p.proowner)::text, pg_has_role(p.proowner, 'USAGE'), p.oid
                 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                WHERE obj_description(p.oid, 'pg_proc') = $1 AND p.proname = $2 AND p.prokind = 'f'
                  AND oidvectortypes(p.proargtypes) = $3 AND pg_get_userbyid(p.proowner) = $4 ORDER BY 1, 2";
    // A comment of ours on anything else was put there by somebody else.
    let mark = names.publication_mark();
    for row in SIDE.rows(client, sql, &[&mark, &NAME, &ARGUMENTS, &names.moves]).await? {
        let name = QualifiedName::new(SIDE.get::<String>(&row, 0)?, SIDE.get::<String>(&row, 1)?);
        oids.push(SIDE.get::<u32>(&row, 5)?);
        found.functions.push(Function {
            signature: format!("{name}({})", SIDE.get::<String>(&row, 2)?),
            name,
            owner: SIDE.get(&row, 3)?,
            owned: SIDE.get(&row, 4)?,
        });
    }
    let sql = "SELECT n.nspname::text, pg_get_userbyid(n.nspowner)::text, pg_has_role(n.nspowner, 'USAGE'),
                      EXISTS (SELECT FROM pg_depend d
                               WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
                                 AND NOT (d.classid = 'pg_proc'::regclass AND d.objid = ANY ($2))
                                 AND d.classid <> 'pg_default_acl'::regclass)
                 FROM pg_namespace n WHERE obj_description(n.oid, 'pg_namespace') = $1 ORDER BY 1";
    for row in SIDE.rows(client, sql, &[&mark, &oids]).await? {
        found.schemas.push(Schema {
            name: SIDE.get(&row, 0)?,
            owner: SIDE.get(&row, 1)?,
            owned: SIDE.get(&row, 2)?,
            used: SIDE.get(&row, 3)?,
        });
    }
    Ok(found)
}

impl Functions {
    /// What our role may not do of what is to be done.
    pub(super) fn lacking(&self, roles: &Roles) -> Vec<String> {
        let functions = self.functions.iter().filter(|one| !one.owned && !roles.may_act_as(&one.owner));
        let mut lacking: Vec<String> =
            functions.map(|one| super::owned_by(&format!("function {}", one.name), &one.owner)).collect();
        let schemas = self.schemas.iter().filter(|one| !one.owned && !one.used);
        lacking.extend(
            schemas
                .map(|one| super::owned_by(&format!("schema {}", quote_identifier(&one.name)), &one.owner)),
        );
        lacking
    }
}

/// Removes them.
///
/// # Errors
/// Where the connection is lost.
pub(super) async fn remove(
    client: &Client,
    found: &Functions,
    roles: &Roles,
    options: Options,
) -> Result<Vec<Object>, OpsError> {
    let mut done = Vec::new();
    for one in &found.functions {
        let mut sql = if one.owned { vec![] } else { roles.acting_as(&one.owner) };
        sql.push(format!("DROP FUNCTION {}", one.signature));
        let object = Object::new(SIDE, "function", &one.name.to_string(), Outcome::Left);
        done.push(roles::run(SIDE, client, object, sql, options).await?);
    }
    for one in &found.schemas {
        let object = Object::new(SIDE, "schema", &one.name, Outcome::Kept);
        if one.used {
            done.push(object.note("setup made it, and others have put something into it since"));
        } else {
            let sql = vec![format!("DROP SCHEMA {}", quote_identifier(&one.name))];
            done.push(roles::run(SIDE, client, object, sql, options).await?);
        }
    }
    Ok(done)
}
