//! One client, from its first byte to its last: the simple and the extended protocol, with commands for queries.
//!
//! There is no password: whoever may open the socket may ask. There are no parameters and no TLS, and a
//! transaction does no more than keep portals until its end.

use std::collections::HashMap;

use bytes::BytesMut;
use pgwire::api::results::{DataRowEncoder, FieldFormat};
use pgwire::error::PgWireResult;
use pgwire::messages::PgWireBackendMessage as Message;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey,
};
use tokio::net::UnixStream;
use tracing::debug;

use super::DATABASE;
use super::answer;
use super::command::{Command, Unknown};
use super::frontend::{self, Named, Opening, Request};
use super::pace::Pace;
use super::peer::{End, Peer};
use super::server::CLIENTS_MAX;
use super::view::View;

/// How many prepared statements, and how many portals, a client may have.
const NAMED_MAX: usize = 32;

/// A client may ask for TLS and for GSSAPI before it starts.
const ENCRYPTION_REQUESTS_MAX: usize = 2;

/// What clients are told of the server. psql complains of servers newer than itself, so this is the oldest major.
const PARAMETERS: &[(&str, &str)] = &[
    ("server_version", concat!("12.0 (seqshadow ", env!("CARGO_PKG_VERSION"), ")")),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "off"),
];

/// An error that the client is told, and that leaves the connection open.
struct Refusal {
    code: &'static str,
    message: String,
    hint: Option<String>,
}

impl From<Unknown> for Refusal {
    fn from(unknown: Unknown) -> Self {
        Refusal { code: "42601", message: unknown.message(), hint: Some(Unknown::hint()) }
    }
}

fn refusal(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into(), hint: None }
}

/// What a client is told for which there is no room.
pub(super) fn too_many() -> BytesMut {
    let mut out = BytesMut::new();
    let message = format!("sorry, too many clients already: this console takes {CLIENTS_MAX}");
    let _ = error("FATAL", &refusal("53300", message), &mut out);
    out
}

fn error(severity: &str, refusal: &Refusal, out: &mut BytesMut) -> PgWireResult<()> {
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', refusal.code.to_owned()),
        (b'M', refusal.message.clone()),
    ];
    fields.extend(refusal.hint.clone().map(|hint| (b'H', hint)));
    Message::ErrorResponse(ErrorResponse::new(fields)).encode(out)
}

/// A command about to be executed.
#[derive(Debug)]
struct Portal {
    command: Command,
    formats: Vec<FieldFormat>,
    /// Rows sent so far, to a client that asks for some at a time. The next ones are of a later moment.
    sent: usize,
}

/// Speaks with a client until it leaves.
pub(super) async fn run(stream: UnixStream, view: View, pace: Pace) {
    let mut session = Session {
        peer: Peer::new(stream),
        view,
        pace,
        statements: HashMap::new(),
        portals: HashMap::new(),
        in_transaction: false,
        skips_to_sync: false,
    };
    let end = match session.start().await {
        Ok(()) => session.serve().await,
        Err(end) => end,
    };
    debug!(%end, "a console client has left");
    let code = match &end {
        End::Left | End::DoesNotRead => return,
        End::Idle => "57P05",
        End::Slow => "08006",
        End::Violation(_) => "08P01",
        End::Encode(_) => "XX000",
    };
    let _ = session.error("FATAL", &refusal(code, end.to_string()));
    let _ = session.peer.flush().await;
}

struct Session {
    peer: Peer,
    view: View,
    pace: Pace,
    statements: HashMap<String, Command>,
    portals: HashMap<String, Portal>,
    /// Between BEGIN and COMMIT, for drivers that fetch some rows at a time.
    in_transaction: bool,
    /// After an error of the extended protocol everything up to the next Sync is passed over.
    skips_to_sync: bool,
}

impl Session {
    fn put(&mut self, message: &Message) -> PgWireResult<()> {
        message.encode(&mut self.peer.out)
    }

    fn error(&mut self, severity: &str, refusal: &Refusal) -> PgWireResult<()> {
        error(severity, refusal, &mut self.peer.out)
    }

    fn ready(&mut self) -> PgWireResult<()> {
        let status =
            if self.in_transaction { TransactionStatus::Transaction } else { TransactionStatus::Idle };
        self.put(&Message::ReadyForQuery(ReadyForQuery::new(status)))
    }

    async fn start(&mut self) -> Result<(), End> {
        let mut encryption_requests = 0;
        let (minor, database, unknown) = loop {
            match self.peer.next(frontend::opening).await? {
                Opening::Encryption if encryption_requests < ENCRYPTION_REQUESTS_MAX => {
                    encryption_requests += 1;
                    self.peer.out.extend_from_slice(b"N");
                }
                Opening::Encryption | Opening::Cancel => return Err(End::Left),
                Opening::Startup { minor, database, unknown } => break (minor, database, unknown),
            }
        };
        if minor > 0 || !unknown.is_empty() {
            self.put(&Message::NegotiateProtocolVersion(NegotiateProtocolVersion::new(0, unknown)))?;
        }
        if database != DATABASE {
            let shown: String = database.chars().take(63).collect();
            let mut wrong = refusal("3D000", format!("this console has no database \"{shown}\""));
            wrong.hint = Some(format!("Its only database is {DATABASE}: psql -h DIR {DATABASE}"));
            self.error("FATAL", &wrong)?;
            self.peer.flush().await?;
            return Err(End::Left);
        }
        self.put(&Message::Authentication(Authentication::Ok))?;
        for (name, value) in PARAMETERS {
            let status = ParameterStatus::new((*name).to_owned(), (*value).to_owned());
            self.put(&Message::ParameterStatus(status))?;
        }
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        self.put(&Message::BackendKeyData(BackendKeyData::new(pid, SecretKey::I32(0))))?;
        self.ready()?;
        self.peer.flush().await?;
        self.peer.started();
        Ok(())
    }

    async fn serve(&mut self) -> End {
        loop {
            if let Err(end) = self.turn().await {
                return end;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), End> {
        let request = self.peer.next(frontend::request).await?;
        match request {
            Request::Terminate => return Err(End::Left),
            Request::Sync => {
                self.skips_to_sync = false;
                if !self.in_transaction {
                    self.portals.clear();
                }
                self.ready()?;
                self.peer.flush().await?;
            }
            _ if self.skips_to_sync => {}
            Request::Query(text) => {
                if let Err(refused) = self.simple(&text).await? {
                    self.error("ERROR", &refused)?;
                }
                self.ready()?;
                self.peer.flush().await?;
            }
            Request::Flush => self.peer.flush().await?,
            Request::Copy => {}
            Request::FunctionCall => {
                self.error("ERROR", &refusal("0A000", "this console has no functions"))?;
                self.ready()?;
            }
            extended => {
                if let Err(refused) = self.extended(extended).await? {
                    self.error("ERROR", &refused)?;
                    self.skips_to_sync = true;
                }
            }
        }
        self.peer.flush_if_full().await
    }

    /// Commands with semicolons between them, up to the first that is none.
    async fn simple(&mut self, text: &str) -> Result<Result<(), Refusal>, End> {
        let mut did_something = false;
        for part in text.split(';') {
            let command = match Command::parse(part) {
                Ok(Command::Nothing) => continue,
                Ok(command) => command,
                Err(unknown) => return Ok(Err(unknown.into())),
            };
            did_something = true;
            if let Some(columns) = command.columns() {
                answer::describe(&answer::fields(columns, &[]), &mut self.peer.out)?;
            }
            let mut portal = Portal { command, formats: Vec::new(), sent: 0 };
            self.execute(&mut portal, None).await?;
        }
        if !did_something {
            self.put(&Message::EmptyQueryResponse(EmptyQueryResponse::new()))?;
        }
        Ok(Ok(()))
    }

    async fn extended(&mut self, request: Request) -> Result<Result<(), Refusal>, End> {
        let done = match request {
            Request::Parse { name, text, parameters } => self.parse(name, &text, parameters),
            Request::Bind { portal, statement, parameters, formats } => {
                self.bind(portal, &statement, parameters, formats)
            }
            Request::Describe { what, name } => return Ok(self.describe(what, &name)?),
            Request::Execute { portal: name, rows_max } => {
                let Some(mut portal) = self.portals.remove(&name) else {
                    return Ok(Err(refusal("34000", format!("portal \"{name}\" does not exist"))));
                };
                let rows_max = usize::try_from(rows_max).ok().filter(|rows| *rows > 0);
                self.execute(&mut portal, rows_max).await?;
                self.portals.insert(name, portal);
                return Ok(Ok(()));
            }
            Request::Close { what, name } => {
                match what {
                    Named::Statement => drop(self.statements.remove(&name)),
                    Named::Portal => drop(self.portals.remove(&name)),
                }
                Ok(Message::CloseComplete(CloseComplete::new()))
            }
            _ => return Ok(Ok(())),
        };
        match done {
            Ok(message) => self.put(&message)?,
            Err(refused) => return Ok(Err(refused)),
        }
        Ok(Ok(()))
    }

    fn parse(&mut self, name: String, text: &str, parameters: u16) -> Result<Message, Refusal> {
        if parameters > 0 {
            return Err(refusal("0A000", "the console's commands take no parameters"));
        }
        let mut parts = text.split(';').filter(|part| !part.trim().is_empty());
        let command = Command::parse(parts.next().unwrap_or_default())?;
        if parts.next().is_some() {
            return Err(refusal("42601", "cannot insert multiple commands into a prepared statement"));
        }
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(refusal("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        if self.statements.len() >= NAMED_MAX && !self.statements.contains_key(&name) {
            return Err(refusal("53400", format!("more than {NAMED_MAX} prepared statements")));
        }
        self.statements.insert(name, command);
        Ok(Message::ParseComplete(ParseComplete::new()))
    }

    fn bind(
        &mut self,
        portal: String,
        statement: &str,
        parameters: u16,
        formats: Vec<FieldFormat>,
    ) -> Result<Message, Refusal> {
        let Some(command) = self.statements.get(statement).copied() else {
            return Err(refusal("26000", format!("prepared statement \"{statement}\" does not exist")));
        };
        if parameters > 0 {
            return Err(refusal(
                "08P01",
                format!(
                    "bind message supplies {parameters} parameters, but a command of the console takes none"
                ),
            ));
        }
        let columns = command.columns().map_or(0, <[_]>::len);
        if formats.len() > 1 && formats.len() != columns {
            return Err(refusal(
                "08P01",
                format!("bind message has {} result formats but query has {columns} columns", formats.len()),
            ));
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return Err(refusal("42P03", format!("portal \"{portal}\" already exists")));
        }
        if self.portals.len() >= NAMED_MAX && !self.portals.contains_key(&portal) {
            return Err(refusal("53400", format!("more than {NAMED_MAX} portals")));
        }
        self.portals.insert(portal, Portal { command, formats, sent: 0 });
        Ok(Message::BindComplete(BindComplete::new()))
    }

    fn describe(&mut self, what: Named, name: &str) -> PgWireResult<Result<(), Refusal>> {
        let found = match what {
            Named::Statement => self.statements.get(name).map(|command| (*command, Vec::new())),
            Named::Portal => self.portals.get(name).map(|portal| (portal.command, portal.formats.clone())),
        };
        let Some((command, formats)) = found else {
            return Ok(Err(match what {
                Named::Statement => refusal("26000", format!("prepared statement \"{name}\" does not exist")),
                Named::Portal => refusal("34000", format!("portal \"{name}\" does not exist")),
            }));
        };
        if what == Named::Statement {
            self.put(&Message::ParameterDescription(ParameterDescription::new(Vec::new())))?;
        }
        match command.columns() {
            Some(columns) => answer::describe(&answer::fields(columns, &formats), &mut self.peer.out)?,
            None => self.put(&Message::NoData(NoData::new()))?,
        }
        Ok(Ok(()))
    }

    fn accept(&mut self, tag: &str) {
        match tag {
            "BEGIN" => self.in_transaction = true,
            "COMMIT" | "ROLLBACK" => {
                self.in_transaction = false;
                self.portals.clear();
            }
            "DISCARD ALL" => self.statements.clear(),
            _ => {}
        }
    }

    /// Sends the rows that were not sent yet, `rows_max` of them at most, and how it ended.
    async fn execute(&mut self, portal: &mut Portal, rows_max: Option<usize>) -> Result<(), End> {
        let tag = match portal.command {
            Command::Nothing => {
                self.put(&Message::EmptyQueryResponse(EmptyQueryResponse::new()))?;
                return Ok(());
            }
            Command::Accepted(tag) => {
                self.accept(tag);
                tag.to_owned()
            }
            command => {
                let columns = command.columns().unwrap_or_default();
                let mut encoder = DataRowEncoder::new(answer::fields(columns, &portal.formats));
                let mut rows = command.rows(&self.view, &self.pace).skip(portal.sent);
                let mut sent = 0;
                while rows_max.is_none_or(|max| sent < max) {
                    let Some(cells) = rows.next() else { break };
                    answer::row(&mut encoder, &cells, &mut self.peer.out)?;
                    sent += 1;
                    self.peer.flush_if_full().await?;
                }
                portal.sent += sent;
                if rows.next().is_some() {
                    self.put(&Message::PortalSuspended(PortalSuspended::new()))?;
                    return Ok(());
                }
                format!("SHOW {sent}")
            }
        };
        self.put(&Message::CommandComplete(CommandComplete::new(tag)))?;
        Ok(())
    }
}
