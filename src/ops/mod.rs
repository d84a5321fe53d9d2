//! What an operator asks for between set-up and clean-up, one file per verb: each looks at both servers by itself and
//! works without the daemon.
//!
//! In: the two [`Sides`](crate::sides::Sides). Out: a result that [`crate::cli`] prints, as a table or as JSON. They
//! share one look at everything, the [`survey`], and change sequences through [`crate::subscriber::advance`] only.

pub(crate) mod ask;
pub mod check;
pub mod compare;
pub mod cutover;
pub mod plan;
mod read_only;
pub mod reverse;
pub mod setup;
pub mod status;
pub mod survey;
pub mod sync;
pub mod teardown;
pub mod verdict;
pub mod verify;

use crate::exit::ExitCode;
use crate::sides::SidesError;

/// Now, as RFC 3339 in UTC, to the second.
#[must_use]
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

/// Why a verb could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    #[error(transparent)]
    Sides(#[from] SidesError),
    /// Going on could lose something: a person has to look.
    #[error("{what}; {action}")]
    Refused { what: String, action: String },
    /// It cannot be done now; nothing is wrong with how it was asked for.
    #[error("{what}; {action}")]
    NotReady { what: String, action: String },
    /// The connection was lost in the middle.
    #[error("{what}; {action}")]
    Unreachable { what: String, action: String },
    /// A file of ours, or standard output.
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

impl OpsError {
    /// The exit status that goes with it.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            OpsError::Sides(error) => error.exit_code(),
            OpsError::Refused { .. } => ExitCode::Refused,
            OpsError::Unreachable { .. } => ExitCode::Unreachable,
            OpsError::NotReady { .. } | OpsError::Io { .. } => ExitCode::NotReady,
        }
    }
}
