//! Why a connection could not be opened, told so that a caller can decide: retry, give up, or show the GRANT to run.
//!
//! No variant carries a password.

use std::io;
use std::time::Duration;

use crate::conninfo::ConninfoError;
use crate::wire::ServerError;

use super::auth::AuthError;

/// The server is starting up, shutting down or still replaying (ERRCODE_CANNOT_CONNECT_NOW).
pub(super) const CANNOT_CONNECT_NOW: &str = "57P03";

/// A failed attempt to connect; the message names the server and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The connection string cannot be used.
    #[error(transparent)]
    Config(#[from] ConninfoError),
    /// The host name has no address.
    #[error("could not resolve host {host}: {source}")]
    Resolve { host: String, source: io::Error },
    /// The network or the server's process refused, or it hung up during the startup.
    #[error("{peer}: {during}: {source}")]
    Unreachable { peer: String, during: &'static str, source: io::Error },
    /// `connect_timeout` passed.
    #[error("{peer}: no connection within {after:?}")]
    Timeout { peer: String, after: Duration },
    /// TLS was demanded and could not be had, or the certificate is not acceptable.
    #[error("{peer}: {reason}")]
    Tls { peer: String, reason: String },
    /// We refuse to authenticate in the way the server asks for, or have no password.
    #[error("{peer}: {source}")]
    Auth { peer: String, source: AuthError },
    /// The server said no, with its SQLSTATE.
    #[error("{peer}: {error}")]
    Server { peer: String, error: Box<ServerError> },
    /// What the peer sends is not PostgreSQL's protocol.
    #[error("{peer}: {source}")]
    Protocol { peer: String, source: ProtocolError },
    /// The server's end of the Unix socket runs as somebody else than `requirepeer`.
    #[error("{peer}: requirepeer specifies {expected:?}, but the peer runs as {got:?}")]
    WrongPeer { peer: String, expected: String, got: String },
    /// The server is not in the state that `target_session_attrs` asks for.
    #[error("{peer}: {reason}")]
    NotWanted { peer: String, reason: &'static str },
    /// Several hosts, addresses or ways (with and without TLS) were tried; all failed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<ConnectError>),
}

/// What kind of failure it is: what a table of reactions is keyed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectErrorKind {
    Config,
    Unreachable,
    Timeout,
    Tls,
    /// Authentication failed: refused by the server (SQLSTATE class 28) or by us.
    Auth,
    /// The server refused for another reason; see [`ConnectError::sqlstate`].
    Server,
    Protocol,
    /// The server is there, but in another role than asked for.
    NotWanted,
}

impl ConnectError {
    /// The failure that says most: of several, what a server answered counts more than what did not come about, and what
    /// will not change by waiting more than what may.
    #[must_use]
    pub fn leading(&self) -> &ConnectError {
        let ConnectError::Several(failures) = self else {
            return self;
        };
        let leading = failures
            .iter()
            .map(ConnectError::leading)
            .reduce(|best, failure| if failure.weight() > best.weight() { failure } else { best });
        leading.unwrap_or(self)
    }

    fn weight(&self) -> u8 {
        match self.kind() {
            ConnectErrorKind::Config => 8,
            ConnectErrorKind::Auth => 7,
            ConnectErrorKind::Server if self.sqlstate() != Some(CANNOT_CONNECT_NOW) => 6,
            ConnectErrorKind::Tls => 5,
            ConnectErrorKind::Protocol => 4,
            ConnectErrorKind::NotWanted => 3,
            ConnectErrorKind::Server => 2,
            ConnectErrorKind::Timeout => 1,
            ConnectErrorKind::Unreachable => 0,
        }
    }

    /// The kind of the leading failure.
    #[must_use]
    pub fn kind(&self) -> ConnectErrorKind {
        match self {
            ConnectError::Config(_) => ConnectErrorKind::Config,
            ConnectError::Resolve { .. } | ConnectError::Unreachable { .. } => ConnectErrorKind::Unreachable,
            ConnectError::Timeout { .. } => ConnectErrorKind::Timeout,
            ConnectError::Tls { .. } => ConnectErrorKind::Tls,
            ConnectError::Auth { .. } | ConnectError::WrongPeer { .. } => ConnectErrorKind::Auth,
            ConnectError::Server { error, .. } if error.sqlstate.starts_with("28") => ConnectErrorKind::Auth,
            ConnectError::Server { .. } => ConnectErrorKind::Server,
            ConnectError::Protocol { .. } => ConnectErrorKind::Protocol,
            ConnectError::NotWanted { .. } => ConnectErrorKind::NotWanted,
            ConnectError::Several(failures) if failures.is_empty() => ConnectErrorKind::Unreachable,
            ConnectError::Several(_) => self.leading().kind(),
        }
    }

    /// What the server said, if it said anything.
    #[must_use]
    pub fn server_error(&self) -> Option<&ServerError> {
        match self.leading() {
            ConnectError::Server { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The server's SQLSTATE, if there is one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.server_error().map(|error| error.sqlstate.as_str())
    }

    /// Whether a connection pooler refused what only a server can do (a replication connection, `options`).
    #[must_use]
    pub fn is_pooler_refusal(&self) -> bool {
        match self {
            ConnectError::Several(failures) => failures.iter().any(ConnectError::is_pooler_refusal),
            ConnectError::Server { error, .. } => {
                let message = error.message.to_ascii_lowercase();
                message.contains("unsupported startup parameter") || message.contains("rds proxy")
            }
            _ => false,
        }
    }
}

/// Bytes that are not what PostgreSQL's startup sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("message {:?} has a length outside of 4 to {max} bytes; is this a PostgreSQL server?", char::from(*.tag))]
    Length { tag: u8, max: usize },
    #[error("message {:?} is malformed", char::from(*.tag))]
    Malformed { tag: u8 },
    #[error("expected {expected}, got message {:?}", char::from(*.tag))]
    Unexpected { expected: &'static str, tag: u8 },
    #[error("the startup is longer than {max} bytes")]
    TooLong { max: usize },
}
