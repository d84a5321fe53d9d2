//! The two servers of one replication: which they are, what connects them, and the first connection to each.
//!
//! In: [`Settings`] and the process's environment. Out: [`Sides`], for the daemon and for every verb alike.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Error;

use crate::config::{ConfigError, ConninfoText, Settings};
use crate::conninfo::{Conninfo, ConninfoError, Environment};
use crate::exit::ExitCode;
use crate::publisher::connection::APPLICATION_NAME;
use crate::readings::trouble;
use crate::session::ConnectErrorKind;
use crate::sql::{self, Connection, SqlError};
use crate::subscriber::subscription::{self, Subscription};

/// How long a server may take for each answer before anything is started.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the two servers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SidesError {
    #[error("{side} connection string: {source}")]
    Conninfo { side: &'static str, source: ConninfoError },
    #[error("{side}: {source}{}", advice(side, source))]
    Sql { side: &'static str, source: SqlError },
    #[error("{what}; {action}")]
    Setting { what: String, action: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl SidesError {
    /// An SQL error of the publisher.
    pub fn on_publisher(source: impl Into<SqlError>) -> Self {
        SidesError::Sql { side: "publisher", source: source.into() }
    }

    /// An SQL error of the subscriber.
    pub fn on_subscriber(source: impl Into<SqlError>) -> Self {
        SidesError::Sql { side: "subscriber", source: source.into() }
    }

    /// The exit status that goes with it.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            SidesError::Conninfo { .. } | SidesError::Setting { .. } | SidesError::Config(_) => {
                ExitCode::Usage
            }
            SidesError::Sql { source: SqlError::Connect(error), .. }
                if error.is_pooler_refusal() || error.kind() == ConnectErrorKind::Config =>
            {
                ExitCode::Usage
            }
            // It answered, and refused what was asked.
            SidesError::Sql { source: SqlError::Query(error), .. } if trouble(error).is_some() => {
                ExitCode::NotReady
            }
            SidesError::Sql { .. } => ExitCode::Unreachable,
        }
    }
}

/// What to do about a server that could not be used at the start.
fn advice(side: &str, error: &SqlError) -> String {
    let SqlError::Connect(error) = error else { return String::new() };
    if error.is_pooler_refusal() {
        return format!("; this is a connection pooler: give the server's own host and port in --{side}");
    }
    match (error.kind(), error.sqlstate()) {
        (ConnectErrorKind::Auth, _) => {
            "; check the user, the password (passfile, PGPASSWORD or service file) and \
             the server's pg_hba.conf"
                .to_owned()
        }
        (ConnectErrorKind::Unreachable | ConnectErrorKind::Timeout, _) => {
            format!(
                "; check host and port in --{side}, and that the server runs and can be reached from here"
            )
        }
        (_, Some("3D000")) => format!("; check dbname in --{side}"),
        (_, Some("53300")) => "; raise max_connections there, or close connections".to_owned(),
        _ => String::new(),
    }
}

/// What must be known for the work at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The publications that bring the rows, from the settings or from a subscription.
    pub publications: bool,
}

impl Needs {
    /// The addresses of both servers are enough.
    pub const ADDRESSES: Needs = Needs { publications: false };
    /// Publications too.
    pub const PUBLICATIONS: Needs = Needs { publications: true };
}

/// Both servers, as far as they can be known from the subscriber.
#[derive(Debug)]
pub struct Sides {
    /// An open connection.
    pub subscriber: Connection,
    pub subscriber_conninfo: Conninfo,
    pub publisher_conninfo: Conninfo,
    /// Those of the settings, or those of the subscription; empty where nothing says and nothing needs them.
    pub publications: Vec<String>,
    /// `(subscription, slot)` of the whole subscriber: slots that are never ours.
    pub slots: Vec<(String, String)>,
    /// Through these this database gets its rows.
    pub subscriptions: Vec<Subscription>,
    /// The one to go by: the one named, or the only one.
    pub chosen: Option<Subscription>,
    /// They were found to be two: once is enough, and later the subscriber may be away.
    are_two: AtomicBool,
}

impl Sides {
    /// Connects to the subscriber, and finds out from it what the settings leave open.
    ///
    /// # Errors
    /// What is wrong or missing, with what to do about it.
    pub async fn find(
        settings: &Settings,
        environment: &Environment,
        needs: Needs,
    ) -> Result<Self, SidesError> {
        if settings.publisher.is_some() {
            // A mistake in it is said before anybody is connected to.
            conninfo(settings.publisher.as_ref(), "publisher", settings, environment)?;
        }
        let (subscriber, subscriber_conninfo) = connect_subscriber(settings, environment).await?;
        let subscriptions = on_subscriber(subscription::load(&subscriber.client)).await?;
        let slots = on_subscriber(subscription::slots(&subscriber.client)).await?;
        let chosen = choose(settings, &subscriptions)?;
        let publications = match (settings.publications.is_empty(), &chosen) {
            (false, _) => settings.publications.clone(),
            (true, Some(subscription)) => subscription.publications.clone(),
            (true, None) if !needs.publications => Vec::new(),
            (true, None) => {
                return Err(SidesError::Setting {
                    what: format!(
                        "there is no subscription in database \"{}\" of the subscriber",
                        subscriber_conninfo.dbname()
                    ),
                    action: "name the publications with --publication, or another database with --subscriber"
                        .to_owned(),
                });
            }
        };
        let publisher_text = match (&settings.publisher, &chosen) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(chosen)) => {
                let asked = subscription::conninfo(&subscriber.client, &chosen.name);
                timeout(ANSWER_TIMEOUT, asked).await.ok().flatten().map(ConninfoText::new)
            }
            (None, None) => None,
        };
        let Some(publisher_text) = publisher_text else {
            let why = match &chosen {
                Some(_) => "our role may not read the subscription's connection string",
                None => "the subscriber has no subscription to read it from",
            };
            return Err(SidesError::Setting {
                what: format!("the publisher's address is not known: {why}"),
                action: "give it with --publisher, SEQSHADOW_PUBLISHER or in the file".to_owned(),
            });
        };
        let publisher_conninfo = conninfo(Some(&publisher_text), "publisher", settings, environment)?;
        Ok(Sides {
            subscriber,
            subscriber_conninfo,
            publisher_conninfo,
            publications,
            slots,
            subscriptions,
            chosen,
            are_two: AtomicBool::new(false),
        })
    }

    /// Opens a connection to the publisher.
    ///
    /// # Errors
    /// What kept us from connecting, with what to do about it; that it is the subscriber.
    pub async fn publisher(&self) -> Result<Connection, SidesError> {
        let publisher =
            sql::connect(&self.publisher_conninfo, "publisher").await.map_err(SidesError::on_publisher)?;
        if !self.are_two.load(Ordering::Relaxed) {
            refuse_same(&publisher, &self.subscriber).await?;
            self.are_two.store(true, Ordering::Relaxed);
        }
        Ok(publisher)
    }
}

/// Which database of which running server. A physical copy of a server has its system identifier, but another start.
const DATABASE: &str =
    "SELECT current_database()::text, extract(epoch FROM pg_postmaster_start_time())::text";
const SYSTEM: &str = "SELECT system_identifier::text FROM pg_control_system()";

/// Refuses one database as both sides: whatever were compared would be compared with itself. Where our roles may not
/// read what tells them apart nothing is refused.
///
/// # Errors
/// That they are the same.
pub(crate) async fn refuse_same(publisher: &Connection, subscriber: &Connection) -> Result<(), SidesError> {
    for sql in [DATABASE, SYSTEM] {
        let (there, here) = (texts(publisher, sql).await, texts(subscriber, sql).await);
        if there.is_none() || there != here {
            return Ok(());
        }
    }
    let database = texts(subscriber, DATABASE).await.and_then(|texts| texts.into_iter().next());
    Err(SidesError::Setting {
        what: format!(
            "publisher and subscriber are the same: database \"{}\" of the server at {}",
            database.unwrap_or_default(),
            publisher.peer
        ),
        action:
            "name the database that is written to in --publisher, and the one that follows it in --subscriber"
                .to_owned(),
    })
}

/// The texts of the only row, where they may be read.
async fn texts(connection: &Connection, sql: &str) -> Option<Vec<String>> {
    let row = sql::within(ANSWER_TIMEOUT, connection.client.query_one(sql, &[])).await.ok()?;
    (0..row.len()).map(|index| row.try_get(index).ok()).collect()
}

/// Opens a connection to the subscriber of `settings`.
///
/// # Errors
/// What kept us from connecting, with what to do about it.
pub async fn connect_subscriber(
    settings: &Settings,
    environment: &Environment,
) -> Result<(Connection, Conninfo), SidesError> {
    let conninfo = conninfo(settings.subscriber.as_ref(), "subscriber", settings, environment)?;
    let connection = sql::connect(&conninfo, "subscriber").await.map_err(SidesError::on_subscriber)?;
    Ok((connection, conninfo))
}

async fn on_subscriber<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, SidesError> {
    sql::within(ANSWER_TIMEOUT, asked).await.map_err(SidesError::on_subscriber)
}

/// Reads the conninfo of one side, with our defaults in it.
///
/// # Errors
/// What libpq would not accept either.
pub fn conninfo(
    text: Option<&ConninfoText>,
    side: &'static str,
    settings: &Settings,
    environment: &Environment,
) -> Result<Conninfo, SidesError> {
    let mut conninfo = Conninfo::parse(text.map_or("", ConninfoText::expose), environment)
        .map_err(|source| SidesError::Conninfo { side, source })?;
    conninfo.set_fallback_application_name(APPLICATION_NAME);
    conninfo.set_default_connect_timeout(settings.connect_timeout);
    Ok(conninfo)
}

/// The subscription to go by: the one named, or the only one.
fn choose(settings: &Settings, found: &[Subscription]) -> Result<Option<Subscription>, SidesError> {
    let names = || found.iter().map(|s| format!("\"{}\"", s.name)).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = &settings.subscription {
        return match found.iter().find(|s| s.name == *wanted) {
            Some(subscription) => Ok(Some(subscription.clone())),
            None => Err(SidesError::Setting {
                what: format!("there is no subscription \"{wanted}\" on the subscriber"),
                action: format!(
                    "expected one of: {}",
                    if found.is_empty() { "none".to_owned() } else { names() }
                ),
            }),
        };
    }
    match found {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        // Not needed where everything it would tell is given.
        _ if settings.publisher.is_some() && !settings.publications.is_empty() => Ok(None),
        _ => Err(SidesError::Setting {
            what: format!("the subscriber has several subscriptions: {}", names()),
            action: "name one with --subscription; run one seqshadow for each".to_owned(),
        }),
    }
}
