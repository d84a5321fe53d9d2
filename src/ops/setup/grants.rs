//! What the daemon's role may do on each side, and the SQL that gives it what is missing.
//!
//! In: the role, and the sequences and tables of one side. Out: [`Rights`]. Everything is granted to a role of our own that
//! cannot log in and has our mark, and that role to the daemon's: so what `setup` granted is known and removed as a whole,
//! and what somebody else granted is not touched.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::mark::Names;
use crate::demo::text::counted;
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::{Oid, QualifiedName, quote_identifier, quote_literal};

/// As many objects in one GRANT.
const BATCH: usize = 200;

/// What the daemon's role is to have on one side.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    pub sequences: Vec<QualifiedName>,
    /// Tables and columns whose furthest ids it is to read, where that is wanted.
    pub tables: BTreeMap<QualifiedName, BTreeSet<String>>,
    /// What else: in words, and the GRANT.
    pub others: Vec<(String, String)>,
    /// What it has now will be taken away: everything is missing.
    pub afresh: bool,
}

/// What it has, and the SQL for the rest.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    pub side: Side,
    pub role: String,
    /// What is missing, in words; empty where nothing is.
    pub missing: Vec<String>,
    /// What it will lack on sequences that are made later.
    pub later: Vec<String>,
    /// What gives it, for one transaction.
    pub sql: Vec<String>,
    /// The daemon's role is made too.
    pub makes_role: bool,
    /// What only a person can mend.
    pub left: Vec<String>,
    pub superuser: bool,
    /// The advance-only function, and whether it is as it should be.
    pub function: Option<(QualifiedName, bool)>,
}

/// What a role of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It reads the publisher's sequences.
    Reads,
    /// It moves the subscriber's.
    Moves,
    /// It reads them, and has the advance-only function move them.
    Calls,
}

/// A role that is there.
struct Role {
    oid: u32,
    superuser: bool,
    login: bool,
    replication: bool,
    inherits: bool,
    mark: Option<String>,
}

/// One side as it is asked.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub side: Side,
    pub client: &'a Client,
    pub version: u32,
    pub database: &'a str,
    pub names: &'a Names,
    pub part: Part,
}

impl Asked<'_> {
    fn group(&self) -> &str {
        match self.part {
            Part::Reads => &self.names.reads,
            Part::Moves => &self.names.moves,
            Part::Calls => &self.names.calls,
        }
    }

    /// What is granted on sequences.
    fn privileges(&self) -> &'static [&'static str] {
        match self.part {
            Part::Reads | Part::Calls => &["SELECT"],
            Part::Moves => &["USAGE", "SELECT", "UPDATE"],
        }
    }

    async fn role(&self, name: &str) -> Result<Option<Role>, SidesError> {
        let sql = "SELECT r.oid, r.rolsuper, r.rolcanlogin, r.rolinherit, shobj_description(r.oid, 'pg_authid'),
                          r.rolreplication OR EXISTS (SELECT FROM pg_roles rds WHERE rds.rolname = 'rds_replication'
                                                         AND pg_has_role(r.oid, rds.oid, 'MEMBER'))
                     FROM pg_roles r WHERE r.rolname = $1";
        let rows = self.side.rows(self.client, sql, &[&name]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Role {
            oid: self.side.get(row, 0)?,
            superuser: self.side.get(row, 1)?,
            login: self.side.get(row, 2)?,
            inherits: self.side.get(row, 3)?,
            mark: self.side.get(row, 4)?,
            replication: self.side.get(row, 5)?,
        }))
    }

    /// Compares what `role` has with what it `needs`.
    ///
    /// # Errors
    /// Where the server cannot be asked, or a role of our group's name is not ours.
    pub(super) async fn rights(&self, role: &str, needs: &Needs) -> Result<Rights, OpsError> {
        let known = self.role(role).await?;
        let mut rights = Rights {
            side: self.side,
            role: role.to_owned(),
            missing: Vec::new(),
            later: Vec::new(),
            sql: Vec::new(),
            makes_role: known.is_none(),
            left: Vec::new(),
            superuser: known.as_ref().is_some_and(|role| role.superuser),
            function: None,
        };
        if let Some(known) = &known {
            rights.left = self.unmendable(role, known);
        }
        if rights.superuser {
            return Ok(rights);
        }
        let group = self.own_group(role).await?;
        let role_oid = known.as_ref().map(|role| role.oid).filter(|_| !needs.afresh);
        let grants = self.missing(role_oid, group, needs, &mut rights).await?;
        rights.sql =
            self.statements(role, known.as_ref(), group.is_some(), grants, &mut rights.missing).await?;
        Ok(rights)
    }

    /// Compares what our group of this side has with what it needs for itself: it moves what others may not.
    ///
    /// # Errors
    /// As [`Self::rights`].
    pub(super) async fn rights_of_group(&self, role: &str, needs: &Needs) -> Result<Rights, OpsError> {
        let group = self.own_group(role).await?;
        let mut rights = Rights {
            side: self.side,
            role: self.group().to_owned(),
            missing: Vec::new(),
            later: Vec::new(),
            sql: Vec::new(),
            makes_role: group.is_none(),
            left: Vec::new(),
            superuser: false,
            function: None,
        };
        if group.is_none() {
            rights.sql = self.make_group();
        }
        let grants = self.missing(group, group, needs, &mut rights).await?;
        // It never logs in.
        rights.missing.retain(|what| !what.starts_with("CONNECT "));
        rights.sql.extend(grants.into_iter().filter(|sql| !sql.starts_with("GRANT CONNECT ")));
        Ok(rights)
    }

    /// The role that holds the grants, if it is there. Its name and comment can be anybody's: what would let somebody use
    /// what it is granted is looked at, too. `role` is the daemon's.
    async fn own_group(&self, role: &str) -> Result<Option<u32>, OpsError> {
        let Some(group) = self.role(self.group()).await? else { return Ok(None) };
        if group.mark.as_deref() == Some(&self.names.role_mark(self.database)) {
            self.refuse_used_group(group.oid, role).await?;
            return Ok(Some(group.oid));
        }
        let (name, comment) = (self.group(), group.mark.as_deref().unwrap_or("none"));
        Err(OpsError::Refused {
            what: format!("role {name} is there and is not ours (its comment: {comment})"),
            action: "use another name for the slot".to_owned(),
        })
    }

    /// A role that `setup` made has no attributes, and no member but the daemon's role and, with ADMIN, who made it.
    async fn refuse_used_group(&self, group: u32, role: &str) -> Result<(), OpsError> {
        let sql = "SELECT r.rolcanlogin OR r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication
                              OR r.rolbypassrls,
                          ARRAY(SELECT DISTINCT m.rolname::text FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member
                                 WHERE a.roleid = r.oid AND NOT m.rolsuper
                                   AND m.rolname NOT IN ($2::text, current_user::text) ORDER BY 1)
                     FROM pg_roles r WHERE r.oid = $1";
        let rows = self.side.rows(self.client, sql, &[&group, &role]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let name = quote_identifier(self.group());
        let members: Vec<String> = self.side.get(row, 1)?;
        let members: Vec<String> = members.iter().map(|member| quote_identifier(member)).collect();
        let (why, mend) = if self.side.get(row, 0)? {
            let attributes = "NOLOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS";
            ("may log in, or has another attribute".to_owned(), format!("ALTER ROLE {name} {attributes};"))
        } else if members.is_empty() {
            return Ok(());
        } else {
            let members = members.join(", ");
            (
                format!("has other members than seqshadow's role ({members})"),
                format!("REVOKE {name} FROM {members};"),
            )
        };
        Err(OpsError::Refused {
            what: format!("role {name} {why}: who is behind it would have what setup grants to it"),
            action: format!("where setup has made it: {mend} else use another name for the slot"),
        })
    }

    fn make_group(&self) -> Vec<String> {
        let (group, mark) = (quote_identifier(self.group()), self.names.role_mark(self.database));
        let mark = quote_literal(&mark);
        vec![
            format!("CREATE ROLE {group} NOLOGIN"),
            format!("COMMENT ON ROLE {group} IS {}", mark.trim_start()),
        ]
    }

    /// What a role that is there lacks and a GRANT does not give.
    fn unmendable(&self, name: &str, role: &Role) -> Vec<String> {
        let quoted = quote_identifier(name);
        let mut left = Vec::new();
        if !role.login {
            left.push(format!("role {quoted} may not log in: ALTER ROLE {quoted} LOGIN;"));
        }
        if self.side == Side::Publisher && !role.replication && !role.superuser {
            left.push(format!(
                "role {quoted} may not replicate: ALTER ROLE {quoted} REPLICATION; (on RDS: GRANT rds_replication TO \
                 {quoted};)"
            ));
        }
        if !role.inherits && !role.superuser && self.version < 160_000 {
            left.push(format!("role {quoted} does not use what it inherits: ALTER ROLE {quoted} INHERIT;"));
        }
        left
    }

    /// The grants that are missing, and in words what for. Privileges count however they were given.
    async fn missing(
        &self,
        role: Option<u32>,
        group: Option<u32>,
        needs: &Needs,
        rights: &mut Rights,
    ) -> Result<Vec<String>, SidesError> {
        let (side, to) = (self.side, quote_identifier(self.group()));
        let missing = &mut rights.missing;
        let mut grants = Vec::new();
        let sql = "SELECT coalesce(has_database_privilege($1::oid, current_database(), 'CONNECT'), false)";
        if role.is_some() && !side.value::<bool>(self.client, sql, &[&role]).await? {
            let database = quote_identifier(self.database);
            missing.push(format!("CONNECT on database {database}"));
            grants.push(format!("GRANT CONNECT ON DATABASE {database} TO {to}"));
        }
        let tables = needs.tables.keys();
        let schemas: BTreeSet<&str> =
            needs.sequences.iter().chain(tables).map(|name| name.schema.as_str()).collect();
        let schemas: Vec<&str> = schemas.into_iter().collect();
        let sql = "SELECT n.nspname::text FROM pg_namespace n WHERE n.nspname = ANY($2)
                      AND NOT coalesce(has_schema_privilege($1::oid, n.oid, 'USAGE'), false) ORDER BY 1";
        let mut without = Vec::new();
        for row in side.rows(self.client, sql, &[&role, &schemas]).await? {
            without.push(quote_identifier(&side.get::<String>(&row, 0)?));
        }
        if !without.is_empty() {
            missing.push(format!("USAGE on schema {}", super::publication::some(&without)));
            grants.push(format!("GRANT USAGE ON SCHEMA {} TO {to}", without.join(", ")));
        }
        let sequences = self.sequences(role, group, needs).await?;
        let privileges = self.privileges().join(", ");
        if !sequences.without.is_empty() {
            missing.push(format!("{privileges} on {}", counted(sequences.without.len(), "sequence")));
            for batch in sequences.without.chunks(BATCH) {
                grants.push(format!("GRANT {privileges} ON SEQUENCE {} TO {to}", batch.join(", ")));
            }
        }
        for (owner, schema) in sequences.defaults {
            rights.later.push(format!("{schema} (made by {owner})"));
            grants.push(format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT {privileges} ON SEQUENCES TO {to}"
            ));
        }
        grants.extend(self.columns(role, &to, needs, missing).await?);
        for (what, grant) in &needs.others {
            missing.push(what.clone());
            grants.push(grant.clone());
        }
        Ok(grants)
    }

    async fn sequences(
        &self,
        role: Option<u32>,
        group: Option<u32>,
        needs: &Needs,
    ) -> Result<Sequences, SidesError> {
        let side = self.side;
        let sql = "
            SELECT n.nspname::text, c.relname::text, pg_get_userbyid(c.relowner)::text,
                   (SELECT coalesce(bool_and(has_sequence_privilege($1::oid, c.oid, p)), false)
                      FROM unnest($5::text[]) AS p),
                   (SELECT count(DISTINCT x.privilege_type) = cardinality($5::text[])
                      FROM pg_default_acl d, aclexplode(d.defaclacl) x
                     WHERE d.defaclrole = c.relowner AND d.defaclnamespace IN (0, n.oid) AND d.defaclobjtype = 'S'
                       AND x.grantee IN (0, $1::oid, $2::oid) AND x.privilege_type = ANY($5)),
                   pg_has_role($1::oid, c.relowner, 'USAGE')
              FROM unnest($3::text[], $4::text[]) AS w(s, t)
              JOIN pg_namespace n ON n.nspname = w.s
              JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t AND c.relkind = 'S'
             ORDER BY 1, 2";
        let schemas: Vec<&str> = needs.sequences.iter().map(|n| n.schema.as_str()).collect();
        let names: Vec<&str> = needs.sequences.iter().map(|n| n.name.as_str()).collect();
        let privileges = self.privileges();
        let mut found = Sequences::default();
        for row in side.rows(self.client, sql, &[&role, &group, &schemas, &names, &privileges]).await? {
            let name = QualifiedName::new(side.get::<String>(&row, 0)?, side.get::<String>(&row, 1)?);
            let owner = quote_identifier(&side.get::<String>(&row, 2)?);
            let owns = side.get::<Option<bool>>(&row, 5)?.unwrap_or(false);
            if !owns && !side.get::<bool>(&row, 4)? {
                found.defaults.insert((owner, quote_identifier(&name.schema)));
            }
            if !side.get::<bool>(&row, 3)? {
                found.without.push(name.to_string());
            }
        }
        Ok(found)
    }

    async fn columns(
        &self,
        role: Option<u32>,
        to: &str,
        needs: &Needs,
        missing: &mut Vec<String>,
    ) -> Result<Vec<String>, SidesError> {
        let side = self.side;
        let sql = "SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = $2::text::regclass
                      AND a.attname = ANY($3) AND NOT a.attisdropped
                      AND NOT coalesce(has_column_privilege($1::oid, a.attrelid, a.attnum, 'SELECT'), false)
                    ORDER BY 1";
        let mut grants = Vec::new();
        for (table, columns) in &needs.tables {
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            let mut without = Vec::new();
            for row in side.rows(self.client, sql, &[&role, &table.to_string(), &columns]).await? {
                without.push(quote_identifier(&side.get::<String>(&row, 0)?));
            }
            if !without.is_empty() {
                grants.push(format!("GRANT SELECT ({}) ON {table} TO {to}", without.join(", ")));
            }
        }
        if !grants.is_empty() {
            missing.push(format!("SELECT of the id columns of {}", counted(grants.len(), "table")));
        }
        Ok(grants)
    }

    /// Puts the roles around the grants.
    async fn statements(
        &self,
        name: &str,
        role: Option<&Role>,
        has_group: bool,
        grants: Vec<String>,
        missing: &mut Vec<String>,
    ) -> Result<Vec<String>, SidesError> {
        let (group, quoted) = (quote_identifier(self.group()), quote_identifier(name));
        let mark = quote_literal(&self.names.role_mark(self.database));
        let mark = mark.trim_start();
        let mut sql = Vec::new();
        if role.is_none() {
            missing.insert(0, format!("role {quoted}"));
            let replicates = match self.side {
                Side::Publisher if self.has_rds().await? => {
                    format!("CREATE ROLE {quoted} LOGIN; GRANT rds_replication TO {quoted}")
                }
                Side::Publisher => format!("CREATE ROLE {quoted} LOGIN REPLICATION"),
                Side::Subscriber => format!("CREATE ROLE {quoted} LOGIN"),
            };
            sql.push(replicates);
            sql.push(format!("COMMENT ON ROLE {quoted} IS {mark}"));
        }
        if grants.is_empty() {
            return Ok(sql);
        }
        if !has_group {
            sql.extend(self.make_group());
        }
        sql.extend(grants);
        let inherit = if self.version >= 160_000 { " WITH INHERIT TRUE" } else { "" };
        sql.push(format!("GRANT {group} TO {quoted}{inherit}"));
        Ok(sql)
    }

    async fn has_rds(&self) -> Result<bool, SidesError> {
        let sql = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication')";
        self.side.value(self.client, sql, &[]).await
    }
}

#[derive(Debug, Default)]
struct Sequences {
    /// Those that lack a privilege.
    without: Vec<String>,
    /// `(owner, schema)` whose later sequences will lack it, ready for SQL.
    defaults: BTreeSet<(String, String)>,
}

/// The publisher's sequences behind those of the subscriber: of the same name, and behind the same columns.
pub(super) fn counterparts(
    managed: &[&crate::catalog::Sequence],
    publisher: &crate::catalog::Catalog,
    published: &BTreeMap<QualifiedName, super::tables::Table>,
) -> Vec<QualifiedName> {
    let names: BTreeSet<&QualifiedName> = managed.iter().map(|s| &s.name).collect();
    let oids: BTreeSet<Oid> = publisher
        .sequences
        .iter()
        .filter(|s| {
            s.consumers.iter().any(|c| published.get(&c.table).is_some_and(|t| t.columns.contains(&c.column)))
        })
        .map(|s| s.oid)
        .collect();
    let is_one = |s: &&crate::catalog::Sequence| names.contains(&s.name) || oids.contains(&s.oid);
    publisher.sequences.iter().filter(is_one).map(|s| s.name.clone()).collect()
}
