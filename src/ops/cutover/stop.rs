//! Why the gate stays shut.

use serde::Serialize;

use crate::ops::OpsError;
use crate::sides::SidesError;

/// What stands against the cutover, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// Lower case words joined by `-`; they never change their meaning.
    pub code: &'static str,
    /// The database it is about; filled in by the gate.
    pub database: String,
    pub what: String,
    pub action: String,
}

impl Blocker {
    /// Of the database at hand.
    #[must_use]
    pub fn new(code: &'static str, what: impl Into<String>, action: impl Into<String>) -> Self {
        Blocker { code, database: String::new(), what: what.into(), action: action.into() }
    }
}

/// Why a cutover ended without a certificate.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The answer is no.
    #[error("{}: {}; {}", .0.code, .0.what, .0.action)]
    Blocked(Blocker),
    /// There is no answer.
    #[error(transparent)]
    Failed(#[from] OpsError),
    /// A person, or the service manager, ended it.
    #[error("interrupted by {0}")]
    Interrupted(&'static str),
}

/// The gate stayed shut.
#[derive(Debug, thiserror::Error)]
#[error("{stop}")]
pub struct Shut {
    pub stop: Stop,
    /// By then sequences of the subscriber had been moved, forwards as ever. Everything else is as it was.
    pub sequences_moved: bool,
    /// The writes could not be let go on again.
    pub writes_still_stopped: bool,
}

impl From<Stop> for Shut {
    fn from(stop: Stop) -> Self {
        Shut { stop, sequences_moved: false, writes_still_stopped: false }
    }
}

impl From<SidesError> for Stop {
    fn from(error: SidesError) -> Self {
        Stop::Failed(error.into())
    }
}

impl From<Blocker> for Stop {
    fn from(blocker: Blocker) -> Self {
        Stop::Blocked(blocker)
    }
}
