//! The one table of what to do about errors of the publisher.
//!
//! In: a [`Failure`], and where its SQLSTATE has many reasons, [`Facts`] about the publisher: what it says in words is in
//! any language. Out: try again, make the slot anew, or stop with the reason that only a person can mend. It does
//! nothing itself.

use super::connection::ReplicationError;
use super::slot::Verdict;
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
    /// The slot, or what it needs, is not as it should be: [`after_a_look`] says what to do.
    LookAgain(Unfit),
    Stop(Fatal),
}

/// What a publisher may have against a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// 42704: it is not there, or a publication is not.
    NotThere,
    /// 55000: it, or the whole server, is not in the state for it.
    WrongState,
}

/// What was found after such a refusal.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub verdict: Verdict,
    pub version: u32,
    pub wal_level: String,
    pub replication_slots_max: i32,
    pub in_recovery: bool,
}

/// What to do after a look at the publisher.
#[derive(Debug)]
pub(super) enum AfterLook {
    Retry,
    /// Make the slot anew and seed again.
    Recreate,
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
    let is_command = matches!(failure, Failure::Replication(ReplicationError::Server(_)));
    match state.as_str() {
        "42704" if is_command => Reaction::LookAgain(Unfit::NotThere),
        "55000" if is_command => Reaction::LookAgain(Unfit::WrongState),
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

/// What to do about `what` the publisher said, now that it was looked at.
pub(super) fn after_a_look(unfit: Unfit, what: String, facts: &Facts) -> AfterLook {
    let setting =
        |action: &str| AfterLook::Stop(Fatal::Setting { what: what.clone(), action: action.to_owned() });
    match (unfit, &facts.verdict) {
        // It is there, so it is a publication that is not, or was made after the slot: up to 17 the slot never sees it.
        (Unfit::NotThere, Verdict::Ours) => AfterLook::Recreate,
        (Unfit::WrongState, _) if !has_wal_level(&facts.wal_level, facts.version) => {
            setting("on the publisher: ALTER SYSTEM SET wal_level = logical; and restart it")
        }
        (Unfit::WrongState, _) if facts.replication_slots_max == 0 => {
            setting("on the publisher: ALTER SYSTEM SET max_replication_slots = 10; and restart it")
        }
        // A standby does not know its primary's level in words.
        (Unfit::WrongState, Verdict::Missing) if facts.in_recovery => setting(
            "the publisher is a standby; on its primary: ALTER SYSTEM SET wal_level = logical; and restart it",
        ),
        (Unfit::WrongState, Verdict::Ours) => AfterLook::Stop(Fatal::Refused {
            why: what,
            action: "name a slot of its own with --slot".to_owned(),
        }),
        // Missing, lost, held or not ours: the next round begins with a look, and does what there is to do.
        _ => AfterLook::Retry,
    }
}

/// Whether a server with this `wal_level` can decode. 19 raises it by itself when the first logical slot is made.
pub(crate) fn has_wal_level(level: &str, version: u32) -> bool {
    level == "logical" || level == "replica" && version >= 190_000
}

fn sql_state(error: &SqlError) -> Option<String> {
    match error {
        SqlError::Connect(error) => error.sqlstate().map(str::to_owned),
        SqlError::Query(error) => error.code().map(|code| code.code().to_owned()),
        SqlError::TimedOut { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ServerError;

    fn refused(sqlstate: &str, message: &str) -> Failure {
        let error = ServerError {
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
            ..ServerError::default()
        };
        Failure::Replication(ReplicationError::Server(error))
    }

    fn decided(failure: &Failure, facts: &Facts) -> AfterLook {
        match reaction(failure, "shadow") {
            Reaction::LookAgain(unfit) => after_a_look(unfit, failure.to_string(), facts),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_publisher_says_is_understood_in_any_language() {
        let good = Facts {
            verdict: Verdict::Ours,
            version: 170_000,
            wal_level: "logical".to_owned(),
            replication_slots_max: 10,
            in_recovery: false,
        };
        let missing = Facts { verdict: Verdict::Missing, ..good.clone() };
        let lost = Facts { verdict: Verdict::Lost { why: String::new() }, ..good.clone() };
        let low = Facts { wal_level: "replica".to_owned(), ..missing.clone() };
        let none = Facts { replication_slots_max: 0, ..missing.clone() };
        let standby = Facts { in_recovery: true, ..missing.clone() };

        let publication = refused("42704", "Publikation »pub« existiert nicht");
        assert!(matches!(decided(&publication, &good), AfterLook::Recreate));
        let slot = refused("42704", "Replikations-Slot »ours« existiert nicht");
        assert!(matches!(decided(&slot, &missing), AfterLook::Retry));
        let invalidated = refused("55000", "kann keine Änderungen mehr aus Replikations-Slot »ours« lesen");
        assert!(matches!(decided(&invalidated, &lost), AfterLook::Retry));
        assert!(matches!(decided(&invalidated, &good), AfterLook::Stop(Fatal::Refused { .. })));
        let state = refused("55000", "logische Dekodierung erfordert wal_level >= logical");
        for (facts, action) in [
            (&low, "publisher: ALTER SYSTEM SET wal_level"),
            (&none, "max_replication_slots"),
            (&standby, "primary"),
        ] {
            let AfterLook::Stop(Fatal::Setting { action: said, .. }) = decided(&state, facts) else {
                panic!("{facts:?}");
            };
            assert!(said.contains(action), "{said}");
        }
        assert!(has_wal_level("replica", 190_000) && !has_wal_level("minimal", 190_000));
    }
}
