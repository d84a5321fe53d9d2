//! Decodes the messages of PostgreSQL's `pgoutput` plugin, protocol versions 1 to 4.
//!
//! In: the payload of one XLogData ([`crate::wire::Replication`]). Out: either a full borrowed view of it
//! ([`Message::decode`]: captures, tests, tools), or only what keeps sequences ahead, handed to a [`Sink`]
//! ([`Tap::feed`]: the daemon and the proxy). Never: IO, an allocation per message, or a panic on a peer's bytes.
//! Source: PostgreSQL manual, "Logical Replication Message Formats", and `src/backend/replication/logical/proto.c`.

pub mod error;
mod expected;
pub mod id;
pub mod message;
pub mod protocol;
pub mod relation;
mod relations;
pub mod sink;
pub mod tap;
pub mod transaction;
pub mod tuple;
mod walk;

pub use error::{DecodeError, Place};
pub use id::{IdFormat, Unreadable};
pub(crate) use message::Kind;
pub use message::Message;
pub use protocol::{Context, ProtocolVersion, Streaming};
pub use relation::{Column, Relation, RelationMessage, ReplicaIdentity, type_oid};
pub use relations::RelationLimits;
pub use sink::{Sink, StreamXids, Tracked, Truncation};
pub use tap::Tap;
pub use transaction::OidList;
pub use tuple::{Tuple, Value};
