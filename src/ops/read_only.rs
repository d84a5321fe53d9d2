//! Whether new sessions of a database begin read-only, which is what keeps an application from writing: as
//! `cutover --stop-writes` leaves it, or as an operator has made it. Nothing sets it back by itself, so the verbs that end a
//! replication say it.
//!
//! In: one server. Out: a [`NewSessions`], the roles that it does not bind, and sentences about both. It is decided from what
//! is set for everybody, never from our own session: our role, or our connection string, may have a setting of its own.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::ask::Side;
use crate::sides::SidesError;
use crate::sql::{self, STATEMENT_TIMEOUT};
use crate::types::quote_identifier;

/// The setting that makes new transactions read-only, unless they ask for something else.
pub(super) const SETTING: &str = "default_transaction_read_only";

/// What new sessions of this database begin with where their role has no setting of its own, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NewSessions {
    ReadOnly(Said),
    MayWrite,
    /// Only the server's own value decides, and our session's own hides it; this is where ours is from.
    Unknown(Hidden),
}

/// Who says that they begin read-only, and in which version, so that a change that was taken back is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// `ALTER DATABASE … SET`, by this transaction.
    Database(String),
    /// `ALTER ROLE ALL SET`, by this transaction.
    Everybody(String),
    /// The server's configuration, read then.
    Server(String),
}

/// Why the server's own value cannot be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hidden {
    role: String,
    /// As pg_settings calls it.
    source: String,
}

impl NewSessions {
    /// Whether it is known that they begin read-only.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, NewSessions::ReadOnly(_))
    }
}

impl Hidden {
    /// That it cannot be told, and why.
    pub(super) fn what(&self) -> String {
        format!("whether {SETTING} is on for the whole server cannot be told: {}", self.because())
    }

    /// What makes it visible.
    pub(super) fn action(&self) -> String {
        let role = quote_identifier(&self.role);
        match self.source.as_str() {
            "user" => format!("ALTER ROLE {role} RESET {SETTING};"),
            "database user" => format!("ALTER ROLE {role} IN DATABASE … RESET {SETTING};"),
            _ => format!("take {SETTING} out of options in our connection string, or out of PGOPTIONS"),
        }
    }

    fn because(&self) -> String {
        let role = quote_identifier(&self.role);
        match self.source.as_str() {
            "user" | "database user" => format!("our role {role} has a setting of its own, which hides it"),
            _ => "our own connection sets it, which hides it".to_owned(),
        }
    }
}

/// What new sessions begin with: the database's own setting, else the one of all roles, else the server's.
///
/// # Errors
/// The server's.
pub(super) async fn by_default(side: Side, client: &Client) -> Result<NewSessions, SidesError> {
    // The server has checked that it is a boolean when it was set.
    let sql = "SELECT s.setdatabase <> 0, s.xmin::text, substr(config, length($1) + 2)::bool
                 FROM pg_db_role_setting s, unnest(s.setconfig) AS config
                WHERE s.setrole = 0 AND left(config, length($1) + 1) = $1 || '='
                  AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                ORDER BY 1 DESC LIMIT 1";
    let rows = side.rows(client, sql, &[&SETTING]).await?;
    let Some(row) = rows.first() else { return by_server(side, client).await };
    let stamp: String = side.get(row, 1)?;
    Ok(match (side.get(row, 2)?, side.get(row, 0)?) {
        (false, _) => NewSessions::MayWrite,
        (true, true) => NewSessions::ReadOnly(Said::Database(stamp)),
        (true, false) => NewSessions::ReadOnly(Said::Everybody(stamp)),
    })
}

/// What the server's own value is. Our sessions set it for themselves, so it is asked for as it would be without that.
async fn by_server(side: Side, client: &Client) -> Result<NewSessions, SidesError> {
    let question = format!(
        "BEGIN; RESET {SETTING};
         SELECT setting, source, pg_conf_load_time()::text, session_user FROM pg_settings WHERE name = '{SETTING}';
         ROLLBACK"
    );
    let answer = sql::within(STATEMENT_TIMEOUT, client.simple_query(&question)).await;
    let answer = answer.map_err(|error| side.error(error))?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let field = |at| row.and_then(|row| row.get(at)).unwrap_or_default().to_owned();
    Ok(match field(1).as_str() {
        "default" | "configuration file" | "command line" | "environment variable" if field(0) == "on" => {
            NewSessions::ReadOnly(Said::Server(field(2)))
        }
        "default" | "configuration file" | "command line" | "environment variable" => NewSessions::MayWrite,
        // What is set for everybody would have been found before.
        _ => NewSessions::Unknown(Hidden { role: field(3), source: field(1) }),
    })
}

/// Roles whose own setting lets them write on. One that may not log in has no session.
///
/// # Errors
/// The server's.
pub(super) async fn exempt_roles(side: Side, client: &Client) -> Result<Vec<String>, SidesError> {
    // What is set for a role in this database comes before what is set for it everywhere.
    let sql = "SELECT name FROM (
                 SELECT DISTINCT ON (r.oid) r.rolname::text AS name, substr(config, length($1) + 2)::bool AS read_only
                   FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) AS config
                  WHERE r.rolcanlogin AND left(config, length($1) + 1) = $1 || '='
                    AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                  ORDER BY r.oid, s.setdatabase DESC) own
                WHERE NOT read_only ORDER BY 1";
    let rows = side.rows(client, sql, &[&SETTING]).await?;
    rows.iter().map(|row| side.get(row, 0)).collect()
}

/// The connected database, if its own setting makes new sessions read-only.
///
/// # Errors
/// The server's.
pub(super) async fn database(side: Side, client: &Client) -> Result<Option<String>, SidesError> {
    match by_default(side, client).await? {
        NewSessions::ReadOnly(Said::Database(_)) => {
            Ok(Some(side.value(client, "SELECT current_database()::text", &[]).await?))
        }
        _ => Ok(None),
    }
}

/// What to say of it; `place` as in "on the publisher".
pub(super) fn note(place: &str, database: &str) -> String {
    let quoted = quote_identifier(database);
    format!(
        "new sessions in database {quoted} {place} begin read-only; before applications write there: ALTER DATABASE \
         {quoted} RESET default_transaction_read_only;"
    )
}
