//! The advance-only function: how a role that has no right to change a sequence has one moved forward.
//!
//! In: the schema that `setup --advance-function` has made it in. Out: the catalog with what it reaches, and the call.
//! It takes our writers' lock, judges by itself where each sequence stands, and never moves one back: what our role may
//! call is no more than that.

use std::collections::HashSet;

use tokio::sync::OnceCell;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};

use crate::catalog::{self, ByFunction, Catalog, Sequence};
use crate::types::{Oid, QualifiedName, quote_literal};

/// The schema of the function, unless another is given.
pub const SCHEMA: &str = "seqshadow";

/// Its name, which is always the same.
pub const NAME: &str = "advance_sequences";

/// The function's arguments, as they tell it from others of its name.
pub const ARGUMENTS: &str = "regclass[], bigint[]";

/// SQL: whether `role` may act as `owner`, the function's, anyhow, so that it gains nothing by what it can do to the function.
/// Both are the names of columns that hold an oid.
pub(crate) fn may_become(role: &str, owner: &str) -> String {
    format!(
        "coalesce({role} = {owner} OR EXISTS (SELECT FROM pg_roles become WHERE become.oid = {role}
             AND (become.rolsuper OR pg_has_role(become.oid, {owner}, 'MEMBER WITH ADMIN OPTION')
                  OR (become.rolcreaterole AND current_setting('server_version_num')::int < 160000))), false)"
    )
}

/// SQL: the oids of those who may put another function into the place of one in the schema `n` (a `pg_namespace`): its
/// owner, and who may create there; 0 is everybody. What belongs to `pg_database_owner` belongs to the database's owner.
pub(crate) const MAY_REPLACE: &str = "
    SELECT coalesce((SELECT d.datdba FROM pg_database d JOIN pg_roles o ON o.rolname = 'pg_database_owner'
                      WHERE d.datname = current_database() AND o.oid = n.nspowner), n.nspowner) AS one
    UNION SELECT x.grantee FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
           WHERE x.privilege_type = 'CREATE' AND x.grantee <> n.nspowner";

/// As many sequences as the function is asked to move at a time.
const BATCH: usize = 500;

/// The function, by the schema it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvanceFunction {
    schema: String,
}

impl AdvanceFunction {
    #[must_use]
    pub fn in_schema(schema: impl Into<String>) -> Self {
        AdvanceFunction { schema: schema.into() }
    }

    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    #[must_use]
    pub fn name(&self) -> QualifiedName {
        QualifiedName::new(self.schema.clone(), NAME)
    }

    /// The sequences that our role can have moved by it: none where it is not there, is not SECURITY DEFINER (it would
    /// run with our own rights), may not be called, or could be another function tomorrow: its owner must be a role that
    /// nobody is, and its schema in the hands of nobody who could not act as that role anyhow.
    ///
    /// # Errors
    /// The server's or the connection's error.
    async fn reach(&self, client: &Client) -> Result<HashSet<Oid>, Error> {
        let sql = format!(
            "SELECT c.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
               JOIN pg_roles o ON o.oid = p.proowner CROSS JOIN pg_class c
              WHERE n.nspname = $1 AND p.proname = $2 AND p.prosecdef AND NOT o.rolcanlogin AND NOT o.rolsuper
                AND p.prokind = 'f' AND oidvectortypes(p.proargtypes) = '{ARGUMENTS}'
                AND NOT EXISTS (SELECT FROM ({MAY_REPLACE}
                                 UNION SELECT m.member FROM pg_auth_members m WHERE m.roleid = p.proowner) others
                                 WHERE NOT {})
                AND has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')
                AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(p.proowner, c.oid, 'UPDATE') ELSE false END",
            may_become("others.one", "p.proowner")
        );
        let rows = client.query(&sql, &[&self.schema, &NAME]).await?;
        rows.iter().map(|row| Ok(Oid(row.try_get(0)?))).collect()
    }

    /// The call. It is made only while the function is still SECURITY DEFINER and of a role that nobody logs in as.
    fn call_sql(&self) -> String {
        let name = self.name();
        let signature = quote_literal(&format!("{name}({ARGUMENTS})"));
        format!(
            "SELECT count(*) FROM {name}($1::oid[]::regclass[], $2)
              WHERE (SELECT p.prosecdef AND NOT o.rolcanlogin FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner
                      WHERE p.oid = {signature}::regprocedure)"
        )
    }
}

/// The subscriber's catalog, with what the function reaches, if there is one to be used.
///
/// # Errors
/// The server's or the connection's error.
pub async fn load_catalog(client: &Client, function: Option<&AdvanceFunction>) -> Result<Catalog, Error> {
    let mut found = catalog::load(client).await?;
    if let Some(function) = function {
        let reach = function.reach(client).await?;
        for sequence in &mut found.sequences {
            let is_reached = reach.contains(&sequence.oid);
            sequence.privileges.function =
                if is_reached { ByFunction::Possible } else { ByFunction::OutOfReach };
        }
    }
    Ok(found)
}

/// The call, prepared when it is first made.
#[derive(Default)]
pub(super) struct Caller {
    function: Option<AdvanceFunction>,
    statement: OnceCell<Statement>,
}

impl Caller {
    pub(super) fn of(function: Option<&AdvanceFunction>) -> Self {
        Caller { function: function.cloned(), statement: OnceCell::new() }
    }

    /// Has each of `steps` (a sequence, and the `last_value` to reach) moved as far as one transaction goes.
    ///
    /// # Errors
    /// The server's or the connection's error; nothing says which sequence it is about.
    pub(super) async fn call(&self, client: &Client, steps: &[(&Sequence, i64)]) -> Result<(), Error> {
        let Some(function) = self.function.as_ref().filter(|_| !steps.is_empty()) else { return Ok(()) };
        let prepare =
            async || client.prepare_typed(&function.call_sql(), &[Type::OID_ARRAY, Type::INT8_ARRAY]).await;
        let statement = self.statement.get_or_try_init(prepare).await?;
        for batch in steps.chunks(BATCH) {
            let oids: Vec<u32> = batch.iter().map(|(sequence, _)| sequence.oid.0).collect();
            let targets: Vec<i64> = batch.iter().map(|(_, to)| *to).collect();
            client.query(statement, &[&oids, &targets]).await?;
        }
        Ok(())
    }
}
