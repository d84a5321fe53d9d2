//! Why a payload is not a message of pgoutput, or not one that may stand here.

use crate::types::Lsn;
use crate::wire::ReadError;

use super::protocol::ProtocolVersion;

/// What broke. After any of these the stream is not understood any more: the connection must be opened anew
/// ([`super::Tap::reset`]); nothing of the broken message was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{message}: {source}")]
    Malformed { message: &'static str, source: ReadError },
    #[error("expected a pgoutput message, got the unknown tag {tag:?}", tag = char::from(*.tag))]
    UnknownTag { tag: u8 },
    #[error("expected a pgoutput message, got no bytes")]
    Empty,
    #[error("{message} belongs to protocol {needs:?} or newer, but {version:?} was asked for")]
    NotInVersion { message: &'static str, needs: ProtocolVersion, version: ProtocolVersion },
    #[error("{message} came without the option streaming")]
    NotStreaming { message: &'static str },
    #[error("{message} is {rest} bytes longer than what is kept of one message")]
    TooLong { message: &'static str, rest: usize },
    #[error("{message} must not come {place}")]
    Misplaced { message: &'static str, place: Place },
    #[error("{message} refers to relation {oid}, which was not described before")]
    UnknownRelation { message: &'static str, oid: u32 },
    #[error("{message} of relation {oid}: expected {expected} columns, got {got}")]
    ColumnCount { message: &'static str, oid: u32, expected: u16, got: u16 },
    #[error("{message}: expected LSN {expected} as the transaction announced, got {got}")]
    LsnChanged { message: &'static str, expected: Lsn, got: Lsn },
    #[error("{message}: expected transaction {expected}, got {got}")]
    XidChanged { message: &'static str, expected: u32, got: u32 },
    #[error("relation {oid} would need {bytes} bytes of descriptions to be held, the limit is {limit}")]
    RelationsFull { oid: u32, bytes: usize, limit: usize },
}

/// Where in the stream the last message left off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Place {
    #[default]
    Idle,
    /// After Begin, up to Commit.
    Transaction { xid: u32, final_lsn: Lsn },
    /// After Begin Prepare, up to Prepare.
    Preparing { xid: u32, prepare_lsn: Lsn },
    /// After Stream Start of this top-level transaction, up to Stream Stop.
    Stream { xid: u32 },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Idle => f.write_str("outside a transaction"),
            Place::Transaction { xid, .. } => write!(f, "inside transaction {xid}"),
            Place::Preparing { xid, .. } => write!(f, "inside the prepared transaction {xid}"),
            Place::Stream { xid } => write!(f, "inside the stream of transaction {xid}"),
        }
    }
}
