//! What can keep a demonstration from showing what it should, and the exit status that it means.

use std::io;

use super::servers::ServersError;
use crate::shadow::ShadowError;
use crate::sql;

/// Why a demonstration ended early, or did not show what it promised.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("--pg-bindir: {0}")]
    Bindir(ServersError),
    #[error("{0}")]
    NoServer(ServersError),
    #[error(transparent)]
    Servers(#[from] ServersError),
    #[error("{doing}: {}", sql::describe(source))]
    Sql { doing: String, source: tokio_postgres::Error },
    #[error("seqshadow ended: {0}")]
    Shadow(#[from] ShadowError),
    #[error("{what} took longer than {seconds} s; {state}")]
    TimedOut { what: String, seconds: u64, state: String },
    #[error("{0}")]
    Broken(String),
    /// The cutover was done, and it did not show what it should.
    #[error("not as promised: {0}")]
    NotAsPromised(String),
    #[error("nobody reads the output any more: {0}")]
    Output(#[from] io::Error),
    #[error("ended by signal {0}")]
    Interrupted(i32),
}

impl DemoError {
    /// For `map_err`: names what was being done.
    pub(super) fn sql(doing: impl Into<String>, source: tokio_postgres::Error) -> Self {
        DemoError::Sql { doing: doing.into(), source }
    }

    /// The exit status that goes with it.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            DemoError::Bindir(_) => 2,
            DemoError::NoServer(_) => 3,
            DemoError::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(130),
            _ => 1,
        }
    }
}
