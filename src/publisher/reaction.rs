//! The one table of what to do about errors of the publisher.
//!
//! In: a [`Failure`]. Out: a [`Reaction`]: try again, make the slot anew, or stop with the reason that only a person can
//! mend. It does nothing itself.

use super::connection::ReplicationError;
use crate::sql::SqlError;
use crate::types::quote_identifier;

/// A reason to end that only a person can mend.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fatal {
    /// Exit code 4.
    #[error("refused: {why}; {action}")]
    Refused { why: String, action: String },
    /// Exit code 2.
    #[error("{what}; {action}")]
    Setting { what: String, action: String },
    /// Exit code 3.
    #[error("publisher: {0}")]
    Unreachable(String),
}

/// What to do after an error.
#[derive(Debug)]
pub(super) enum Reaction {
    Retry,
    /// The slot, or what it needs, is gone: make it anew and seed again.
    Recreate(String),
    Stop(Fatal),
}

/// What went wrong in a round.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    #[error("{0}")]
    Ended(&'static str),
    #[error(transparent)]
    Fatal(Fatal),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Failure::Sql(error.into())
    }
}

/// What to do about `failure`, met while connected as `user`.
pub(super) fn reaction(failure: &Failure, user: &str) -> Reaction {
    let (error, text) = match failure {
        Failure::Fatal(fatal) => return Reaction::Stop(fatal.clone()),
        Failure::Ended(_) => return Reaction::Retry,
        Failure::Sql(error) => (sql_state(error), error.to_string()),
        Failure::Replication(error) => (error.sqlstate().map(str::to_owned), error.to_string()),
    };
    if let Failure::Replication(ReplicationError::Connect(error)) = failure
        && error.is_pooler_refusal()
    {
        return Reaction::Stop(Fatal::Setting {
            what: format!(
                "the publisher's address leads to a connection pooler, which cannot replicate: {text}"
            ),
            action: "give the server's own host and port in --publisher".to_owned(),
        });
    }
    let Some(state) = error else { return Reaction::Retry };
    match state.as_str() {
        // The slot or a publication is gone. A publication made after the slot is never seen by it on ≤ 17.
        "42704" if text.contains("publication") => Reaction::Recreate(text),
        "42704" => Reaction::Retry,
        "55000" if text.contains("wal_level") => Reaction::Stop(Fatal::Setting {
            what: text,
            action: "on the publisher: ALTER SYSTEM SET wal_level = logical; and restart it".to_owned(),
        }),
        // Invalidated between our look and the start: the next look says so. Any other 55000 is refused there too.
        "55000" => {
            if ["invalidated", "can no longer", "no longer get changes"].iter().any(|w| text.contains(w)) {
                Reaction::Recreate(text)
            } else {
                Reaction::Stop(Fatal::Refused {
                    why: text,
                    action: "name a slot of its own with --slot".to_owned(),
                })
            }
        }
        "42501" => Reaction::Stop(Fatal::Setting {
            what: text,
            action: format!(
                "on the publisher: ALTER ROLE {role} REPLICATION; (on RDS: GRANT rds_replication TO {role};)",
                role = quote_identifier(user)
            ),
        }),
        "53400" => Reaction::Stop(Fatal::Setting {
            what: text,
            action: "raise max_replication_slots on the publisher, or drop a slot that is not used"
                .to_owned(),
        }),
        state if state.starts_with("28") => Reaction::Stop(Fatal::Unreachable(format!(
            "{text}; check user, password and pg_hba.conf (a replication connection to a database is matched by \
                 the database's name, not by \"replication\")"
        ))),
        "3D000" => Reaction::Stop(Fatal::Unreachable(text)),
        // 55006 the slot is taken, 53300 too many connections, 57P01/57P03 shutting down or starting up, and all else.
        _ => Reaction::Retry,
    }
}

fn sql_state(error: &SqlError) -> Option<String> {
    match error {
        SqlError::Connect(error) => error.sqlstate().map(str::to_owned),
        SqlError::Query(error) => error.code().map(|code| code.code().to_owned()),
        SqlError::TimedOut { .. } => None,
    }
}
