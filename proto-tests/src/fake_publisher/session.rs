//! One connection of the fake publisher up to `START_REPLICATION`, spoken by pgwire.

use super::script::play;
use super::{Answer, Ask, Cell, Shared};
use async_trait::async_trait;
use futures_util::{Sink, SinkExt as _, StreamExt as _, stream};
use pgwire::api::auth::{
    ServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation,
    save_startup_parameters_to_metadata,
};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, DefaultClient, NoopHandler, PgWireConnectionState};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::response::{GssEncResponse, SslResponse};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage, SslNegotiationMetaMessage};
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

pub use pgwire::api::Type;

/// Serves a client until it leaves or is shown out.
pub(super) async fn serve(socket: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let client = DefaultClient::new(socket.peer_addr()?, false);
    let mut framed = Framed::new(socket, PgWireMessageServerCodec::<Arc<Ask>>::new(client));
    let session = Arc::new(Session { connection: shared.next_connection(), shared });
    let noop = Arc::new(NoopHandler);
    while let Some(Ok(message)) = framed.next().await {
        let extended = message.is_extended_query();
        match message {
            PgWireFrontendMessage::Terminate(_) => break,
            PgWireFrontendMessage::SslNegotiation(asked) => {
                let (no, next) = refusal(&asked);
                framed.set_state(next);
                if let Some(no) = no {
                    framed.send(no).await?;
                }
            }
            PgWireFrontendMessage::Query(query) if starts_replication(&query.query) => {
                session.shared.seen().queries.push(query.query.clone());
                let parts = framed.into_parts();
                return play(parts.io, parts.read_buf, &query.query, &session.shared).await;
            }
            message => {
                let (auth, simple, more) = (session.clone(), session.clone(), session.clone());
                let done =
                    process_message(message, &mut framed, auth, simple, more, noop.clone(), noop.clone())
                        .await;
                if let Err(error) = done {
                    process_error(&mut framed, error, extended).await?;
                }
            }
        }
    }
    Ok(())
}

/// No TLS here. After a refusal the client goes on with its startup message, or asks for the other kind.
fn refusal(asked: &SslNegotiationMetaMessage) -> (Option<PgWireBackendMessage>, PgWireConnectionState) {
    match asked {
        SslNegotiationMetaMessage::PostgresSsl(_) => (
            Some(PgWireBackendMessage::SslResponse(SslResponse::Refuse)),
            PgWireConnectionState::AwaitingSslRequest,
        ),
        SslNegotiationMetaMessage::PostgresGss(_) => (
            Some(PgWireBackendMessage::GssEncResponse(GssEncResponse::Refuse)),
            PgWireConnectionState::AwaitingSslRequest,
        ),
        _ => (None, PgWireConnectionState::AwaitingStartup),
    }
}

fn starts_replication(sql: &str) -> bool {
    sql.trim_start().get(..17).is_some_and(|word| word.eq_ignore_ascii_case("START_REPLICATION"))
}

struct Session {
    connection: usize,
    shared: Arc<Shared>,
}

impl Session {
    fn ask(&self, client: &impl ClientInfo, sql: &str) -> Ask {
        let replication = client.metadata().get("replication").is_some_and(|value| value != "false");
        Ask { sql: sql.to_owned(), replication, connection: self.connection }
    }

    async fn respond(&self, ask: &Ask, format: &Format) -> PgWireResult<Response> {
        self.shared.seen().queries.push(ask.sql.clone());
        let error = |severity: &str, code: String, message| {
            PgWireError::UserError(Box::new(ErrorInfo::new(severity.to_owned(), code, message)))
        };
        match self.shared.answer(ask) {
            Answer::Rows { columns, rows, .. } => Ok(Response::Query(result(&columns, &rows, format)?)),
            Answer::Done(tag) => Ok(Response::Execution(Tag::new(&tag))),
            Answer::Error { code, message } => Err(error("ERROR", code, message)),
            Answer::Fatal { code, message } => Err(error("FATAL", code, message)),
            Answer::Silence => std::future::pending().await,
        }
    }
}

fn fields(columns: &[(String, Type)], format: &Format) -> Vec<FieldInfo> {
    let field = |(place, (name, of)): (usize, &(String, Type))| {
        FieldInfo::new(name.clone(), None, None, of.clone(), format.format_for(place))
    };
    columns.iter().enumerate().map(field).collect()
}

fn result(columns: &[(String, Type)], rows: &[Vec<Cell>], format: &Format) -> PgWireResult<QueryResponse> {
    let fields = Arc::new(fields(columns, format));
    let mut encoder = DataRowEncoder::new(fields.clone());
    let mut encoded = Vec::new();
    for row in rows {
        for cell in row {
            match cell {
                Cell::Null => encoder.encode_field(&None::<String>)?,
                Cell::Bool(value) => encoder.encode_field(value)?,
                Cell::Int2(value) => encoder.encode_field(value)?,
                Cell::Int4(value) => encoder.encode_field(value)?,
                Cell::Int8(value) => encoder.encode_field(value)?,
                Cell::Oid(value) => encoder.encode_field(value)?,
                Cell::Text(value) => encoder.encode_field(value)?,
            }
        }
        encoded.push(Ok(encoder.take_row()));
    }
    Ok(QueryResponse::new(fields, stream::iter(encoded)))
}

#[async_trait]
impl StartupHandler for Session {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if let PgWireFrontendMessage::Startup(ref startup) = message {
            protocol_negotiation(client, startup).await?;
            save_startup_parameters_to_metadata(client, startup);
            self.shared.seen().startups.push(client.metadata().clone());
            finish_authentication(client, &Parameters(&self.shared.options.server_version)).await?;
        }
        Ok(())
    }
}

struct Parameters<'a>(&'a str);

impl ServerParameterProvider for Parameters<'_> {
    fn server_parameters<C: ClientInfo>(&self, _client: &C) -> Option<HashMap<String, String>> {
        let parameters = [
            ("server_version", self.0),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
            ("integer_datetimes", "on"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
        ];
        Some(parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}

#[async_trait]
impl SimpleQueryHandler for Session {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let ask = self.ask(client, query);
        Ok(vec![self.respond(&ask, &Format::UnifiedText).await?])
    }
}

#[async_trait]
impl ExtendedQueryHandler for Session {
    type Statement = Arc<Ask>;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        Arc::new(Parser { connection: self.connection, shared: self.shared.clone() })
    }

    async fn do_query<C>(
        &self,
        _client: &mut C,
        portal: &Portal<Arc<Ask>>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Arc<Ask>>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self.respond(&portal.statement.statement, &portal.result_column_format).await
    }
}

/// Tells what a prepared statement takes and gives, from the answer that it will get.
struct Parser {
    connection: usize,
    shared: Arc<Shared>,
}

#[async_trait]
impl QueryParser for Parser {
    type Statement = Arc<Ask>;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        _types: &[Option<Type>],
    ) -> PgWireResult<Option<Arc<Ask>>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let session = Session { connection: self.connection, shared: self.shared.clone() };
        Ok(Some(Arc::new(session.ask(client, sql))))
    }

    fn get_parameter_types(&self, ask: &Arc<Ask>) -> PgWireResult<Vec<Type>> {
        Ok(match self.shared.answer(ask) {
            Answer::Rows { params, .. } => params,
            _ => Vec::new(),
        })
    }

    fn get_result_schema(&self, ask: &Arc<Ask>, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        let text = Format::from(FieldFormat::Text.value());
        Ok(match self.shared.answer(ask) {
            Answer::Rows { columns, .. } => fields(&columns, format.unwrap_or(&text)),
            _ => Vec::new(),
        })
    }
}
