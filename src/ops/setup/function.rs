//! The advance-only function: the SQL that makes it, and what the daemon's role may do beside it.
//!
//! In: the schema, and the role that is to call it. Out: [`Found`]. The function belongs to the role that holds the rights
//! to move the sequences, which cannot log in and which nobody is a member of: so it moves those sequences, forward, and
//! whoever calls it can do nothing else with these rights. The daemon's role may read the sequences and call it.

use tokio_postgres::Client;

use super::mark::Names;
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::subscriber::advance::WRITER_LOCK;
use crate::subscriber::function::{ARGUMENTS, AdvanceFunction, MAY_REPLACE, may_become};
use crate::types::{QualifiedName, quote_identifier, quote_literal};

const SIDE: Side = Side::Subscriber;

/// What to do where the schema or the name is somebody else's.
const ANOTHER_SCHEMA: &str = "give it another schema: --advance-function=SCHEMA";

/// What runs with the rights of its owner finds nothing of anybody else's by name.
const SEARCH_PATH: &str = "pg_catalog, pg_temp";

/// What is there, and what is missing of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// What makes it, or makes it what it should be; empty where it is.
    pub sql: Vec<String>,
    /// What the daemon's role lacks: in words, and the GRANT to the role that holds its rights.
    pub grants: Vec<(String, String)>,
    /// The daemon's role was given the rights to move sequences itself, by an earlier `setup`.
    pub is_mover: bool,
    /// Sequences that the role may set by rights that `setup` did not give.
    pub sets_itself: Vec<String>,
}

/// Looks for it.
///
/// # Errors
/// Where the subscriber cannot be asked, or a function of its name is not ours.
pub(super) async fn look(
    client: &Client,
    names: &Names,
    function: &AdvanceFunction,
    role: &str,
    sequences: &[QualifiedName],
) -> Result<Found, OpsError> {
    let (name, mark) = (function.name(), names.publication_mark());
    let schema = quote_identifier(function.schema());
    let callers = quote_identifier(&names.calls);
    let sql = "SELECT n.oid, p.oid, obj_description(p.oid, 'pg_proc'),
                      p.prosrc = $3 AND p.prosecdef AND p.proconfig = ARRAY['search_path=' || $4]
                          AND pg_get_userbyid(p.proowner) = $5
                          AND NOT EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
                                            LEFT JOIN pg_roles g ON g.oid = x.grantee
                                           WHERE x.grantee <> p.proowner AND g.rolname IS DISTINCT FROM $7),
                      coalesce(has_schema_privilege(r.oid, n.oid, 'USAGE'), false),
                      coalesce(has_function_privilege(r.oid, p.oid, 'EXECUTE'), false),
                      EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                               WHERE g.rolname = $5 AND m.member = r.oid),
                      pg_get_userbyid(p.proowner)::text
                 FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = $1
                 LEFT JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = $2
                       AND oidvectortypes(p.proargtypes) = 'regclass[], bigint[]'
                 LEFT JOIN pg_roles r ON r.rolname = $6";
    let (schema_name, body) = (function.schema(), body());
    let rows = SIDE
        .rows(
            client,
            sql,
            &[&schema_name, &name.name, &body, &SEARCH_PATH, &names.moves, &role, &names.calls],
        )
        .await?;
    let mut found = Found::default();
    let Some(row) = rows.first() else { return Ok(found) };
    let has_schema = SIDE.get::<Option<u32>>(row, 0)?.is_some();
    let has_function = SIDE.get::<Option<u32>>(row, 1)?.is_some();
    let comment: Option<String> = SIDE.get(row, 2)?;
    if has_function && comment.as_deref() != Some(&mark) {
        return Err(OpsError::Refused {
            what: format!(
                "function {name}({ARGUMENTS}) is there, and was not made by setup for slot {} (its comment: {})",
                names.slot,
                comment.as_deref().unwrap_or("none")
            ),
            action: ANOTHER_SCHEMA.to_owned(),
        });
    }
    let owner: Option<String> = SIDE.get(row, 7)?;
    if let Some(owner) = owner.filter(|owner| *owner != names.moves) {
        // Whoever made it may have granted it to somebody, and can replace it.
        return Err(OpsError::Refused {
            what: format!(
                "function {name}({ARGUMENTS}) is there, and belongs to {}, not to {}: setup did not make it",
                quote_identifier(&owner),
                quote_identifier(&names.moves)
            ),
            action: format!("drop it, or {ANOTHER_SCHEMA}"),
        });
    }
    if has_schema {
        refuse_open_schema(client, names, function.schema()).await?;
    }
    found.is_mover = SIDE.get(row, 6)?;
    if !SIDE.get::<Option<bool>>(row, 3)?.unwrap_or(false) {
        found.sql = create(names, &name, &schema, has_schema, has_function);
    }
    if !SIDE.get::<bool>(row, 4)? {
        found.grants.push((
            format!("USAGE on schema {schema}"),
            format!("GRANT USAGE ON SCHEMA {schema} TO {callers}"),
        ));
    }
    if !SIDE.get::<bool>(row, 5)? || !found.sql.is_empty() {
        let what = format!("EXECUTE of {name}");
        found.grants.push((what, format!("GRANT EXECUTE ON FUNCTION {name}({ARGUMENTS}) TO {callers}")));
    }
    if !found.is_mover {
        found.sets_itself = sets_itself(client, role, sequences).await?;
    }
    Ok(found)
}

/// A schema that is there must not be in the hands of somebody who could put another function into the place of ours, which
/// the daemon's role would call.
async fn refuse_open_schema(client: &Client, names: &Names, schema: &str) -> Result<(), OpsError> {
    let sql = format!(
        "SELECT CASE others.one WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(others.one)::text END, others.one
           FROM pg_namespace n CROSS JOIN LATERAL ({MAY_REPLACE}) others
           LEFT JOIN pg_roles owner ON owner.rolname = $2
          WHERE n.nspname = $1 AND others.one <> (SELECT me.oid FROM pg_roles me WHERE me.rolname = current_user)
            AND NOT {} ORDER BY 2",
        may_become("others.one", "owner.oid")
    );
    let mut others = Vec::new();
    for row in SIDE.rows(client, &sql, &[&schema, &names.moves]).await? {
        let name: String = SIDE.get(&row, 0)?;
        others.push(if SIDE.get::<u32>(&row, 1)? == 0 { name } else { quote_identifier(&name) });
    }
    if others.is_empty() {
        return Ok(());
    }
    Err(OpsError::Refused {
        what: format!(
            "schema {} is open to {}, who could put another function into the place of the one that seqshadow calls",
            quote_identifier(schema),
            others.join(", ")
        ),
        action: format!("{ANOTHER_SCHEMA} (one that is not there is made, and is nobody else's)"),
    })
}

/// The sequences that `role` may change without the function. One with CYCLE goes back by nature, and is none of them.
async fn sets_itself(
    client: &Client,
    role: &str,
    sequences: &[QualifiedName],
) -> Result<Vec<String>, SidesError> {
    let schemas: Vec<&str> = sequences.iter().map(|n| n.schema.as_str()).collect();
    let names: Vec<&str> = sequences.iter().map(|n| n.name.as_str()).collect();
    let sql = "SELECT n.nspname::text, c.relname::text FROM unnest($2::text[], $3::text[]) AS w(s, t)
                 JOIN pg_namespace n ON n.nspname = w.s
                 JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t AND c.relkind = 'S'
                 JOIN pg_roles r ON r.rolname = $1
                 JOIN pg_sequence d ON d.seqrelid = c.oid
                WHERE has_sequence_privilege(r.oid, c.oid, 'USAGE, UPDATE') AND NOT d.seqcycle ORDER BY 1, 2";
    let rows = SIDE.rows(client, sql, &[&role, &schemas, &names]).await?;
    let name = |row| -> Result<String, SidesError> {
        Ok(QualifiedName::new(SIDE.get::<String>(row, 0)?, SIDE.get::<String>(row, 1)?).to_string())
    };
    rows.iter().map(name).collect()
}

/// The statements that make it, for one transaction in which we are a member of its owner, or a superuser.
fn create(
    names: &Names,
    name: &QualifiedName,
    schema: &str,
    has_schema: bool,
    has_function: bool,
) -> Vec<String> {
    let mark = names.publication_mark();
    let mark = quote_literal(&mark);
    let (mark, owner) = (mark.trim_start(), quote_identifier(&names.moves));
    let mut sql = Vec::new();
    if !has_schema {
        sql.push(format!("CREATE SCHEMA {schema}"));
        sql.push(format!("COMMENT ON SCHEMA {schema} IS {mark}"));
        sql.push(revoke_all(
            "SCHEMA",
            schema,
            "pg_namespace",
            "nsp",
            &format!("{}::regnamespace", literal(schema)),
        ));
    }
    // Of one that somebody has made in between the owner would stay.
    let create = if has_function { "CREATE OR REPLACE" } else { "CREATE" };
    sql.push(format!(
        "{create} FUNCTION {name}(sequences regclass[], targets bigint[])\n  \
         RETURNS TABLE (sequence regclass, last_value bigint, is_called boolean)\n  \
         LANGUAGE plpgsql SECURITY DEFINER SET search_path = {SEARCH_PATH}\nAS $seqshadow${}$seqshadow$",
        body()
    ));
    sql.push(format!("COMMENT ON FUNCTION {name}({ARGUMENTS}) IS {mark}"));
    let signature = format!("{name}({ARGUMENTS})");
    sql.push(format!("REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"));
    let oid = format!("{}::regprocedure", literal(&signature));
    sql.push(revoke_all("FUNCTION", &signature, "pg_proc", "pro", &oid));
    // A new owner has to have CREATE, for as long as it takes to become it.
    sql.push(format!("GRANT CREATE ON SCHEMA {schema} TO {owner}"));
    sql.push(format!("ALTER FUNCTION {name}({ARGUMENTS}) OWNER TO {owner}"));
    sql.push(format!("REVOKE CREATE ON SCHEMA {schema} FROM {owner}"));
    sql
}

fn literal(text: &str) -> String {
    quote_literal(text).trim_start().to_owned()
}

/// Takes away what anybody but the owner has been granted: by default privileges, or by hand.
fn revoke_all(kind: &str, object: &str, catalog: &str, prefix: &str, oid: &str) -> String {
    let quoted = literal(object);
    format!(
        "DO $seqshadow$\nDECLARE one name;\nBEGIN\n  \
         FOR one IN SELECT DISTINCT g.rolname FROM {catalog} o, aclexplode(o.{prefix}acl) x, pg_roles g\n    \
         WHERE o.oid = {oid} AND g.oid = x.grantee AND g.oid <> o.{prefix}owner\n  LOOP\n    \
         EXECUTE format('REVOKE ALL ON {kind} %s FROM %I CASCADE', {quoted}, one);\n  END LOOP;\nEND $seqshadow$"
    )
}

fn body() -> String {
    let (first, second) = WRITER_LOCK;
    include_str!("advance_sequences.sql")
        .replace("{first_key}", &first.to_string())
        .replace("{second_key}", &second.to_string())
}

/// Puts what takes our session into the owning role, and out of it again, around `sql`.
///
/// # Errors
/// Where the subscriber cannot be asked.
pub(super) async fn as_owner(
    client: &Client,
    version: u32,
    names: &Names,
    sql: Vec<String>,
    made: usize,
) -> Result<Vec<String>, SidesError> {
    let superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    if sql.is_empty() || SIDE.value::<bool>(client, superuser, &[]).await? {
        return Ok(sql);
    }
    let owner = quote_identifier(&names.moves);
    let with = if version >= 160_000 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
    let mut all = sql;
    let rest = all.split_off(made.min(all.len()));
    all.push(format!("GRANT {owner} TO CURRENT_USER{with}"));
    all.extend(rest);
    all.push(format!("REVOKE {owner} FROM CURRENT_USER"));
    Ok(all)
}
