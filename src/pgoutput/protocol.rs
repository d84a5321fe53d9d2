//! What was agreed with the publisher when the stream was started, on which the shape of messages depends.

/// `proto_version` of `START_REPLICATION`: 1 (PostgreSQL 10), 2 (14), 3 (15) or 4 (16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// Transactions arrive when they are committed.
    V1 = 1,
    /// Large ones may arrive before (`streaming`).
    V2,
    /// Two-phase commit.
    V3,
    /// Streams for parallel apply: an abort says when.
    V4,
}

impl ProtocolVersion {
    /// The number as `START_REPLICATION` takes it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            ProtocolVersion::V1 => 1,
            ProtocolVersion::V2 => 2,
            ProtocolVersion::V3 => 3,
            ProtocolVersion::V4 => 4,
        }
    }

    /// The newest that a server of this major understands (`14`, `17` …).
    #[must_use]
    pub fn newest_of_server(major: u32) -> Self {
        match major {
            0..=13 => ProtocolVersion::V1,
            14 => ProtocolVersion::V2,
            15 => ProtocolVersion::V3,
            _ => ProtocolVersion::V4,
        }
    }
}

/// A number that is no version of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a pgoutput protocol version from 1 to 4, got {0}")]
pub struct UnknownVersion(pub u32);

impl TryFrom<u32> for ProtocolVersion {
    type Error = UnknownVersion;

    fn try_from(number: u32) -> Result<Self, UnknownVersion> {
        match number {
            1 => Ok(ProtocolVersion::V1),
            2 => Ok(ProtocolVersion::V2),
            3 => Ok(ProtocolVersion::V3),
            4 => Ok(ProtocolVersion::V4),
            other => Err(UnknownVersion(other)),
        }
    }
}

/// The option `streaming`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Streaming {
    #[default]
    Off,
    /// 14 and newer.
    On,
    /// 16 and newer: a Stream Abort carries an LSN and a time.
    Parallel,
}

/// All that is needed to read one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub version: ProtocolVersion,
    pub streaming: Streaming,
    /// Between Stream Start and Stream Stop changes begin with a transaction id.
    pub in_stream: bool,
}

impl Context {
    #[must_use]
    pub fn new(version: ProtocolVersion, streaming: Streaming) -> Self {
        Context { version, streaming, in_stream: false }
    }
}
