//! From an open stream to a session that is ready for queries: startup packet, authentication, parameters.
//!
//! Goes in: a [`Socket`] and what to ask for. Comes out: what the server told about the session. What is read is bounded,
//! whatever the peer sends.

use std::collections::BTreeMap;
use std::io;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::auth::{AuthError, Authenticator, Step};
use super::error::{ConnectError, ProtocolError};
use super::message::{self, Message};
use super::{Purpose, Socket};
use crate::conninfo::Conninfo;
use crate::wire::ServerError;

/// More than any server sends before it is ready for queries.
const STARTUP_BYTES_MAX: usize = 1024 * 1024;

/// A stream that is read message by message.
#[derive(Debug)]
pub(super) struct Dialogue {
    pub socket: Socket,
    pub buffer: BytesMut,
    read_total: usize,
}

/// Why the dialogue ended; the caller knows the peer's name.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Protocol(ProtocolError),
    Auth(AuthError),
    /// Refused, before or after authentication was complete.
    Server {
        error: ServerError,
        authenticated: bool,
    },
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Io(error)
    }
}

impl From<ProtocolError> for Fault {
    fn from(error: ProtocolError) -> Self {
        Fault::Protocol(error)
    }
}

impl From<AuthError> for Fault {
    fn from(error: AuthError) -> Self {
        Fault::Auth(error)
    }
}

impl Fault {
    /// The same, with the peer's name.
    pub(super) fn at(self, peer: &str) -> ConnectError {
        let peer = peer.to_owned();
        match self {
            // rustls passes alerts of the other side through as IO errors: a refused client certificate is one.
            Fault::Io(error)
                if error
                    .get_ref()
                    .is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) =>
            {
                ConnectError::Tls { peer, reason: format!("SSL error: {error}") }
            }
            Fault::Io(source) => ConnectError::Unreachable { peer, during: "startup", source },
            Fault::Protocol(source) => ConnectError::Protocol { peer, source },
            Fault::Auth(source) => ConnectError::Auth { peer, source },
            Fault::Server { error, .. } => ConnectError::Server { peer, error: Box::new(error) },
        }
    }
}

/// What the server told about the session.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub parameters: BTreeMap<String, String>,
    pub backend_pid: u32,
    pub cancel_key: Bytes,
}

impl Dialogue {
    pub(super) fn new(socket: Socket) -> Self {
        Dialogue { socket, buffer: BytesMut::with_capacity(4096), read_total: 0 }
    }

    /// The next message.
    async fn next(&mut self) -> Result<Message, Fault> {
        loop {
            if let Some(message) = message::take(&mut self.buffer)? {
                return Ok(message);
            }
            if self.read_total > STARTUP_BYTES_MAX {
                return Err(ProtocolError::TooLong { max: STARTUP_BYTES_MAX }.into());
            }
            let count = self.socket.read_buf(&mut self.buffer).await?;
            self.read_total += count;
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "server closed the connection unexpectedly",
                )
                .into());
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await?;
        Ok(())
    }

    pub(super) async fn send_startup(&mut self, conninfo: &Conninfo, purpose: Purpose) -> Result<(), Fault> {
        let mut parameters = Vec::new();
        if !conninfo.user().is_empty() {
            parameters.push(("user", conninfo.user()));
        }
        if !conninfo.dbname().is_empty() {
            parameters.push(("database", conninfo.dbname()));
        }
        if purpose == Purpose::Replication {
            parameters.push(("replication", "database"));
        }
        if let Some(options) = conninfo.options().filter(|options| !options.is_empty()) {
            parameters.push(("options", options));
        }
        if let Some(name) = conninfo.application_name() {
            parameters.push(("application_name", name));
        }
        parameters.push(("client_encoding", "UTF8"));
        let mut packet = BytesMut::new();
        frontend::startup_message(parameters, &mut packet)?;
        self.send(&packet).await
    }

    /// Answers the server until it lets us in.
    pub(super) async fn authenticate(&mut self, authenticator: &mut Authenticator<'_>) -> Result<(), Fault> {
        loop {
            match self.next().await? {
                Message::Authentication(request) => match authenticator.answer(request)? {
                    Step::Send(bytes) => self.send(&bytes).await?,
                    Step::Wait => {}
                    Step::Done => return Ok(()),
                },
                Message::Error(error) => return Err(Fault::Server { error, authenticated: false }),
                Message::Notice | Message::NegotiateProtocolVersion => {}
                other => return Err(unexpected("an authentication request", &other)),
            }
        }
    }

    /// Collects what the server tells until it is ready for queries.
    pub(super) async fn read_facts(&mut self) -> Result<Facts, Fault> {
        let mut facts = Facts::default();
        loop {
            match self.next().await? {
                Message::ParameterStatus { name, value } => {
                    facts.parameters.insert(name, value);
                }
                Message::BackendKeyData { process_id, secret } => {
                    facts.backend_pid = process_id;
                    facts.cancel_key = secret;
                }
                Message::ReadyForQuery => return Ok(facts),
                Message::Error(error) => return Err(Fault::Server { error, authenticated: true }),
                Message::Notice | Message::NegotiateProtocolVersion => {}
                other => return Err(unexpected("ReadyForQuery", &other)),
            }
        }
    }

    /// Asks for one value, before anybody else uses the session.
    pub(super) async fn query_value(&mut self, sql: &str) -> Result<Option<String>, Fault> {
        let mut packet = BytesMut::new();
        frontend::query(sql, &mut packet)?;
        self.send(&packet).await?;
        let mut value = None;
        loop {
            match self.next().await? {
                Message::DataRow(first) => value = first,
                Message::ReadyForQuery => return Ok(value),
                Message::Error(error) => return Err(Fault::Server { error, authenticated: true }),
                // RowDescription and CommandComplete.
                Message::Other(b'T' | b'C') | Message::Notice | Message::ParameterStatus { .. } => {}
                other => return Err(unexpected("the answer to a query", &other)),
            }
        }
    }
}

fn unexpected(expected: &'static str, got: &Message) -> Fault {
    let tag = match got {
        Message::Authentication(_) => b'R',
        Message::ParameterStatus { .. } => b'S',
        Message::BackendKeyData { .. } => b'K',
        Message::NegotiateProtocolVersion => b'v',
        Message::ReadyForQuery => b'Z',
        Message::Error(_) => b'E',
        Message::Notice => b'N',
        Message::DataRow(_) => b'D',
        Message::Other(tag) => *tag,
    };
    Fault::Protocol(ProtocolError::Unexpected { expected, tag })
}
