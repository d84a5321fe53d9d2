//! A replication connection before the stream begins: commands and their replies.
//!
//! In: a [`Session`] opened with `replication=database`. Out: rows of simple queries, and after `START_REPLICATION`
//! the socket, ready for [`super::stream`]. One message of the server may have 1 MiB at most here.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::conninfo::Conninfo;
use crate::pgoutput::{ProtocolVersion, Streaming};
use crate::session::{self, ConnectError, Purpose, Socket};
use crate::types::{Lsn, SlotName};
use crate::wire::{
    Backend, BackendError, FrameError, Limits, ReadError, Scanner, ServerError, frontend, rows,
};

/// Our `application_name` on a replication connection: how another seqshadow knows that a slot's holder is one.
pub const APPLICATION_NAME: &str = "seqshadow";

/// How long a command other than the creation of a slot may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a replication connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("publisher: {0}")]
    Server(ServerError),
    #[error("publisher: connection lost: {0}")]
    Io(#[from] std::io::Error),
    #[error("publisher closed the connection")]
    Closed,
    #[error("publisher: no answer within {0:?}")]
    Silent(Duration),
    #[error("publisher sent bytes that are not the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("publisher sent bytes that are not the protocol: {0}")]
    Backend(#[from] BackendError),
    #[error("publisher sent bytes that are not the protocol: {0}")]
    Read(#[from] ReadError),
    #[error("publisher sent a pgoutput message that cannot be decoded: {0}")]
    Decode(#[from] crate::pgoutput::DecodeError),
    #[error("expected {expected} from the publisher, got {got}")]
    Unexpected { expected: &'static str, got: String },
}

impl ReplicationError {
    /// The publisher's SQLSTATE, where it said one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            ReplicationError::Server(error) => Some(&error.sqlstate),
            ReplicationError::Connect(error) => error.sqlstate(),
            _ => None,
        }
    }
}

/// What `START_REPLICATION` asks of pgoutput, gated by the server's version: unknown options are errors.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    pub version: ProtocolVersion,
    pub streaming: Streaming,
    pub publications: Vec<String>,
    /// Values as the types' send functions write them; 14 and newer.
    pub binary: bool,
}

impl StreamOptions {
    /// The most that a server of `version` (as `server_version_num`) can do of what is wanted.
    #[must_use]
    pub fn for_server(version: u32, streaming: Streaming, publications: Vec<String>) -> Self {
        let version = ProtocolVersion::newest_of_server(version / 10_000);
        let streaming = match streaming {
            Streaming::Parallel if version >= ProtocolVersion::V4 => Streaming::Parallel,
            Streaming::On | Streaming::Parallel if version >= ProtocolVersion::V2 => Streaming::On,
            _ => Streaming::Off,
        };
        StreamOptions { version, streaming, publications, binary: false }
    }

    fn command(&self, slot: &SlotName) -> String {
        let names: Vec<String> = self.publications.iter().map(|name| always_quoted(name)).collect();
        let names = names.join(",").replace('\'', "''");
        let mut options = format!("proto_version '{}', publication_names '{names}'", self.version.number());
        match self.streaming {
            Streaming::Off => {}
            Streaming::On => options.push_str(", streaming 'on'"),
            Streaming::Parallel => options.push_str(", streaming 'parallel'"),
        }
        if self.version >= ProtocolVersion::V2 {
            options.push_str(", messages 'true'");
            if self.binary {
                options.push_str(", binary 'true'");
            }
        }
        format!("START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 ({options})")
    }
}

/// `publication_names` is split like a list of identifiers: what is not quoted is folded to lower case.
fn always_quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Which server answers: another one after a restore or a fail-over, although the address is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `pg_control_system().system_identifier`, as text.
    pub system: String,
    pub timeline: u32,
    pub wal_end: Lsn,
}

impl Identity {
    /// Whether positions that `earlier` gave, or that were received from it up to `received`, mean anything here.
    #[must_use]
    pub fn continues(&self, earlier: &Identity, received: Lsn) -> bool {
        self.system == earlier.system && self.timeline == earlier.timeline && self.wal_end >= received
    }
}

/// How a slot is to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotOptions {
    pub temporary: bool,
    /// 17 and newer.
    pub failover: bool,
}

/// An authenticated replication connection.
#[derive(Debug)]
pub struct ReplicationConnection {
    socket: Socket,
    received: BytesMut,
    scanner: Scanner,
    version: u32,
    backend_pid: i32,
}

impl ReplicationConnection {
    /// Connects with `replication=database`. This alone proves the right to replicate: on some services
    /// `rolreplication` is false although the role may.
    ///
    /// # Errors
    /// What kept us from connecting.
    pub async fn open(conninfo: &Conninfo) -> Result<Self, ReplicationError> {
        let mut conninfo = conninfo.clone();
        conninfo.set_application_name(APPLICATION_NAME);
        let session = session::connect(&conninfo, Purpose::Replication).await?;
        let version = session.server_version_num().unwrap_or(0);
        let backend_pid = i32::try_from(session.backend_pid()).unwrap_or(0);
        let (socket, received) = session.into_parts();
        // `window` holds every message whole; the stream scans with limits of its own.
        let limits = Limits { body: 1 << 20, window: 1 << 20 };
        Ok(ReplicationConnection { socket, received, scanner: Scanner::new(limits), version, backend_pid })
    }

    /// As `server_version_num`.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The walsender's process id, as `pg_stat_replication.pid`.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Runs one command and returns its rows.
    ///
    /// # Errors
    /// The server's refusal, after which the connection can go on, or the loss of the connection.
    pub async fn query(&mut self, command: &str) -> Result<Vec<Vec<Option<String>>>, ReplicationError> {
        let answer = tokio::time::timeout(COMMAND_TIMEOUT, self.query_patiently(command));
        answer.await.map_err(|_| ReplicationError::Silent(COMMAND_TIMEOUT))?
    }

    /// Which server this is, and where its WAL ends (`IDENTIFY_SYSTEM`).
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn identify(&mut self) -> Result<Identity, ReplicationError> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let field = |index: usize| rows.first().and_then(|row| row.get(index)).cloned().flatten();
        let unexpected = || ReplicationError::Unexpected {
            expected: "a system identifier, a timeline and a WAL position",
            got: format!("{rows:?}").chars().take(100).collect(),
        };
        Ok(Identity {
            system: field(0).ok_or_else(unexpected)?,
            timeline: field(1).and_then(|text| text.parse().ok()).ok_or_else(unexpected)?,
            wal_end: field(2).and_then(|text| text.parse().ok()).ok_or_else(unexpected)?,
        })
    }

    /// Creates a logical slot for pgoutput, without exporting a snapshot. Waits for every writing transaction that
    /// is running on the publisher's instance, perhaps for hours.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn create_slot(
        &mut self,
        slot: &SlotName,
        options: SlotOptions,
    ) -> Result<(), ReplicationError> {
        let temporary = if options.temporary { " TEMPORARY" } else { "" };
        let rest = if options.failover { "(SNAPSHOT 'nothing', FAILOVER)" } else { "NOEXPORT_SNAPSHOT" };
        let command = format!("CREATE_REPLICATION_SLOT \"{slot}\"{temporary} LOGICAL pgoutput {rest}");
        self.query_patiently(&command).await.map(drop)
    }

    async fn query_patiently(&mut self, command: &str) -> Result<Vec<Vec<Option<String>>>, ReplicationError> {
        self.send(command).await?;
        let mut found = Vec::new();
        let mut refusal = None;
        loop {
            let done = self.next(|message| {
                match message {
                    Backend::DataRow(body) => found.push(rows::data_row(body)?),
                    Backend::Error(error) => refusal = Some(error.to_error()),
                    Backend::ReadyForQuery { .. } => return Ok(true),
                    _ => {}
                }
                Ok(false)
            });
            if done.await? {
                break;
            }
        }
        match refusal {
            Some(error) => Err(ReplicationError::Server(error)),
            None => Ok(found),
        }
    }

    /// Starts the stream at the slot's confirmed position. Returns the socket and what was read past the reply.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn start(
        mut self,
        slot: &SlotName,
        options: &StreamOptions,
    ) -> Result<(Socket, BytesMut), ReplicationError> {
        self.send(&options.command(slot)).await?;
        let started = async {
            loop {
                let done = self.next(|message| match message {
                    Backend::CopyBoth { .. } => Ok(true),
                    Backend::Error(error) => Err(ReplicationError::Server(error.to_error())),
                    Backend::Notice(_) | Backend::ParameterStatus { .. } => Ok(false),
                    other => Err(ReplicationError::Unexpected {
                        expected: "CopyBothResponse",
                        got: format!("{other:?}").chars().take(60).collect(),
                    }),
                });
                if done.await? {
                    return Ok::<(), ReplicationError>(());
                }
            }
        };
        tokio::time::timeout(COMMAND_TIMEOUT, started)
            .await
            .map_err(|_| ReplicationError::Silent(COMMAND_TIMEOUT))??;
        Ok((self.socket, self.received))
    }

    async fn send(&mut self, command: &str) -> Result<(), ReplicationError> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message).map_err(|error| ReplicationError::Unexpected {
            expected: "a command without a zero byte",
            got: error.to_string(),
        })?;
        self.socket.write_all(&message).await?;
        self.socket.flush().await?;
        Ok(())
    }

    /// Gives the next message to `see`, reading as much as it takes.
    async fn next<T>(
        &mut self,
        see: impl FnOnce(Backend<'_>) -> Result<T, ReplicationError>,
    ) -> Result<T, ReplicationError> {
        loop {
            let mut frames = self.scanner.scan(&self.received);
            if let Some(frame) = frames.next() {
                let seen = see(Backend::parse(frame?)?);
                let consumed = frames.consumed();
                self.received.advance(consumed);
                return seen;
            }
            if self.socket.read_buf(&mut self.received).await? == 0 {
                return Err(ReplicationError::Closed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_mean_nothing_on_another_server_timeline_or_older_copy() {
        let identity =
            |system: &str, timeline, wal_end| Identity { system: system.to_owned(), timeline, wal_end };
        let before = identity("7", 1, Lsn(100));
        assert!(identity("7", 1, Lsn(200)).continues(&before, Lsn(150)));
        assert!(!identity("7", 1, Lsn(200)).continues(&before, Lsn(201)), "restored to an earlier position");
        assert!(!identity("7", 2, Lsn(200)).continues(&before, Lsn(150)), "promoted");
        assert!(!identity("8", 1, Lsn(200)).continues(&before, Lsn(150)), "another server");
    }

    #[test]
    fn options_follow_the_servers_version() {
        let command = |version, streaming| {
            let publications = vec!["p".to_owned(), "It's \"x\"".to_owned()];
            StreamOptions::for_server(version, streaming, publications).command(&"s".parse().unwrap())
        };
        assert_eq!(
            command(120_022, Streaming::On),
            "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names '\"p\",\"It''s \"\"x\"\"\"')"
        );
        assert!(command(140_000, Streaming::On).contains("proto_version '2'"));
        assert!(command(140_000, Streaming::Parallel).contains("streaming 'on', messages 'true'"));
        assert!(command(160_000, Streaming::Parallel).contains("streaming 'parallel'"));
        assert!(!command(180_000, Streaming::Off).contains("streaming"));
        assert!(command(180_000, Streaming::Off).contains("proto_version '4'"));
    }
}
