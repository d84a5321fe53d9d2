//! `seqshadow capture`: finds slot, publications and tracked columns, records, and puts the file into its place.
//!
//! In: both servers and a [`Request`]. Out: a [`Captured`]. A slot that is there is read and left as it is; otherwise one
//! is made that ends with the connection.

use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::place::{Place, PlaceError};
use super::record::{Pace, Reason, RecordError, Recorded, Stop, record};
use super::redact::Redactor;
use super::{CaptureWriter, Ending, Header};
use crate::config::{self, Settings};
use crate::keeper::{Managed, tracking};
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::pgoutput::Streaming;
use crate::publisher::connection::{ReplicationConnection, ReplicationError, SlotOptions, StreamOptions};
use crate::publisher::publication;
use crate::publisher::slot::{self, Verdict};
use crate::sides::{Sides, SidesError};
use crate::sql::{self, Connection};
use crate::subscriber::function::load_catalog;
use crate::tracking::Tracking;
use crate::types::{QualifiedName, SlotName};

/// The name and version of the JSON.
pub const SCHEMA: &str = "seqshadow.capture/1";

/// How long a server may take for each answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// As the daemon's: a publisher that is silent for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(60);

/// Bytes of a message before the body of its CopyData: `d` and the length.
const COPY_HEAD: u64 = 5;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    pub out: PathBuf,
    /// Replace what is there.
    pub force: bool,
    /// A slot by name; a temporary one is made where it is `None` or not there.
    pub slot: Option<SlotName>,
    pub redact: bool,
    pub binary: bool,
    pub streaming: Streaming,
    pub stop: Stop,
}

/// What was recorded.
#[derive(Clone, Debug, Serialize)]
pub struct Captured {
    pub schema: &'static str,
    /// The file.
    pub file: String,
    /// Its length.
    pub file_bytes: u64,
    /// `until_lsn`, `seconds`, `messages`, `size`, `max_retained_wal` or `asked`.
    pub ended: &'static str,
    pub slot: String,
    /// It was made for this, and is gone again.
    pub slot_was_temporary: bool,
    pub publisher_version: u32,
    pub publications: Vec<String>,
    pub redacted: bool,
    /// Messages of pgoutput.
    pub messages: u64,
    /// Bytes that the publisher sent, keepalives included.
    pub stream_bytes: u64,
    pub seconds: f64,
    /// The end of the last commit that is in it.
    pub committed_lsn: String,
    /// How far the publisher was heard.
    pub received_lsn: String,
    /// How many sequences are looked for in it.
    pub sequences: usize,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Reason::Until => "until_lsn",
            Reason::After => "seconds",
            Reason::Messages => "messages",
            Reason::Size => "size",
            Reason::Retained => "max_retained_wal",
            Reason::Asked => "asked",
        }
    }
}

/// What is looked for in the stream.
struct Watched {
    sequences: Vec<QualifiedName>,
    tracking: Arc<Tracking>,
}

/// The connection that streams, and its slot.
struct Opened {
    connection: ReplicationConnection,
    slot: SlotName,
    temporary: bool,
}

/// Records until a limit of `request`, or `asked`, ends it. `begun` is told the slot, whether it is a temporary one, and
/// the file that is written, once it streams.
///
/// # Errors
/// What is in the way of the file, the slot or the stream. Where messages were recorded before, the file is left whole
/// under `NAME.partial`, and the error says so.
pub async fn capture(
    sides: &Sides,
    settings: &Settings,
    request: &Request,
    begun: impl FnOnce(&SlotName, bool, &std::path::Path),
    asked: impl Future<Output = ()>,
) -> Result<Captured, OpsError> {
    let (place, file) = Place::open(&request.out, request.force)?;
    let mut asked = std::pin::pin!(asked);
    let prepared = async {
        let publisher = sides.publisher().await?;
        let watched = watched(sides, settings, &publisher).await?;
        let opened = open(sides, request, &publisher).await?;
        Ok::<_, OpsError>((watched, opened))
    };
    let prepared = tokio::select! {
        prepared = prepared => prepared,
        () = &mut asked => Err(OpsError::NotReady {
            what: "interrupted before the stream began".to_owned(),
            action: "nothing was recorded".to_owned(),
        }),
    };
    let (watched, opened) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            place.discard();
            return Err(error);
        }
    };
    let Opened { connection, slot, temporary } = opened;
    let version = connection.version();
    let mut options = StreamOptions::for_server(version, request.streaming, sides.publications.clone());
    options.binary = request.binary;
    let started = match connection.start(&slot, &options).await {
        Ok(started) => started,
        Err(error) => {
            place.discard();
            return Err(refused(&slot, error));
        }
    };
    let io = |source| OpsError::Io { what: place.partial().display().to_string(), source };
    let header = Header::new(&options, version, request.redact, &watched.sequences, &watched.tracking);
    let mut writer = CaptureWriter::begin(BufWriter::new(file), &header).map_err(io)?;
    begun(&slot, temporary, place.partial());
    let redactor =
        request.redact.then(|| Redactor::new(options.version, options.streaming, watched.tracking.clone()));
    let pace = Pace {
        status_interval: settings.status_interval,
        dead_after: settings.status_interval.saturating_mul(3).max(DEAD_AFTER),
    };
    let retained = temporary.then_some(settings.max_retained_wal.0);
    let stop = Stop { retained, ..request.stop };
    let clock = std::time::Instant::now();
    let (socket, received) = started;
    let (ended, at) = record(socket, received, &mut writer, redactor, stop, pace, asked).await;
    let seconds = clock.elapsed().as_secs_f64();
    if let Err(error @ RecordError::Write(_)) = ended {
        // Nothing more is put behind what may be half a block.
        let kept = format!("the whole blocks before it are in {}", place.partial().display());
        return Err(failed(&slot, &error, &kept));
    }
    let (records, file_bytes) = (writer.records(), writer.file_bytes());
    let why = match &ended {
        Ok(reason) => reason.name().to_owned(),
        Err(error) => format!("failed: {error}"),
    };
    let ending = Ending { why, received: at.received.to_string(), ..Ending::default() };
    let (mut file, ending) = writer.end(&ending).map_err(io)?;
    file.flush().map_err(io)?;
    let file = file.get_ref();
    let reason = match ended {
        Ok(reason) => reason,
        Err(error) if records == 0 => {
            place.discard();
            return Err(failed(&slot, &error, "nothing was recorded"));
        }
        Err(error) => {
            let _ = file.sync_all();
            let kept = format!("what was recorded before is in {}", place.partial().display());
            return Err(failed(&slot, &error, &kept));
        }
    };
    let file_bytes = file.metadata().map_or(file_bytes, |metadata| metadata.len());
    place.finish(file)?;
    let Recorded { messages, received, committed } = at;
    Ok(Captured {
        schema: SCHEMA,
        file: request.out.display().to_string(),
        file_bytes,
        ended: reason.name(),
        slot: slot.to_string(),
        slot_was_temporary: temporary,
        publisher_version: version,
        publications: options.publications,
        redacted: request.redact,
        messages,
        stream_bytes: ending.bytes.saturating_add(records.saturating_mul(COPY_HEAD)),
        seconds,
        committed_lsn: committed.to_string(),
        received_lsn: received.to_string(),
        sequences: watched.sequences.len(),
    })
}

/// What the daemon would look for with these settings.
async fn watched(sides: &Sides, settings: &Settings, publisher: &Connection) -> Result<Watched, OpsError> {
    let asked = publication::load(&publisher.client, &sides.publications);
    let publications = sql::within(ANSWER_TIMEOUT, asked).await.map_err(SidesError::on_publisher)?;
    if !publications.missing.is_empty() {
        return Err(OpsError::NotReady {
            what: format!("the publisher has no publication {}", publications.missing.join(", ")),
            action: "name one that is there with --publication, or create it: CREATE PUBLICATION …"
                .to_owned(),
        });
    }
    let asked = load_catalog(&sides.subscriber.client, settings.advance_function.as_ref());
    let catalog = sql::within(ANSWER_TIMEOUT, asked).await.map_err(SidesError::on_subscriber)?;
    let managed: Vec<Managed> = catalog
        .sequences
        .into_iter()
        .zip(0..)
        .map(|(sequence, slot)| {
            let excluded = settings.excludes(&sequence.name);
            Managed::new(slot, sequence, excluded)
        })
        .collect();
    let tracking = Arc::new(tracking(&managed, settings, publications.truncates));
    let sequences = managed.into_iter().map(|managed| managed.sequence.name).collect();
    Ok(Watched { sequences, tracking })
}

/// Connects for the stream, and makes the slot where there is none.
async fn open(sides: &Sides, request: &Request, publisher: &Connection) -> Result<Opened, OpsError> {
    let name = match &request.slot {
        Some(name) => name.clone(),
        None => own_name()?,
    };
    let found = sql::within(ANSWER_TIMEOUT, slot::load(&publisher.client, publisher.version, &name));
    let found = found.await.map_err(SidesError::on_publisher)?;
    let database: String =
        Side::Publisher.value(&publisher.client, "SELECT current_database()::text", &[]).await?;
    let temporary = match slot::judge(&name, found.as_ref(), &database, &sides.slots) {
        Verdict::Missing => true,
        Verdict::Ours => false,
        Verdict::Standby { .. } | Verdict::Leaving => {
            return Err(OpsError::NotReady {
                what: format!("slot {name} is in use by another seqshadow"),
                action:
                    "leave out --slot: then a temporary slot is made, which sees the same stream from now on"
                        .to_owned(),
            });
        }
        Verdict::Lost { why } => {
            return Err(OpsError::NotReady {
                what: format!("nothing can be read from slot {name}: {why}"),
                action: "leave out --slot: then a temporary slot is made".to_owned(),
            });
        }
        Verdict::Refused { why, action: _ } => {
            return Err(OpsError::Refused {
                what: why,
                action: "leave out --slot: then a temporary slot is made".to_owned(),
            });
        }
    };
    let opening = ReplicationConnection::open(&sides.publisher_conninfo);
    let mut connection = opening.await.map_err(|error| refused(&name, error))?;
    if temporary {
        let options = SlotOptions { temporary: true, failover: false };
        connection.create_slot(&name, options).await.map_err(|error| refused(&name, error))?;
    }
    Ok(Opened { connection, slot: name, temporary })
}

/// A name that no other capture has.
fn own_name() -> Result<SlotName, OpsError> {
    let random: u32 = rand::random();
    let name = format!("seqshadow_capture_{}_{random:08x}", std::process::id());
    name.parse().map_err(|error: crate::types::SlotNameError| OpsError::NotReady {
        what: error.to_string(),
        action: "name a slot with --slot".to_owned(),
    })
}

/// The stream of `slot` cannot be opened.
fn refused(slot: &SlotName, error: ReplicationError) -> OpsError {
    match error {
        ReplicationError::Connect(error) => SidesError::on_publisher(sql::SqlError::Connect(error)).into(),
        ReplicationError::Server(_) => OpsError::NotReady {
            what: format!("slot {slot} cannot be streamed from: {error}"),
            action: "`seqshadow check` says what the publisher lacks".to_owned(),
        },
        other => OpsError::Unreachable { what: other.to_string(), action: "nothing was recorded".to_owned() },
    }
}

/// The stream ended by itself.
fn failed(slot: &SlotName, error: &RecordError, kept: &str) -> OpsError {
    let (what, action) = (format!("the stream of slot {slot} ended: {error}"), kept.to_owned());
    match error {
        RecordError::Replication(ReplicationError::Server(_))
        | RecordError::Redact(_)
        | RecordError::Write(_) => OpsError::NotReady { what, action },
        RecordError::Replication(_) | RecordError::Finished => OpsError::Unreachable { what, action },
    }
}

impl From<PlaceError> for OpsError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Io { path, source } => OpsError::Io { what: path.display().to_string(), source },
            other => {
                let text = other.to_string();
                let (what, action) = text.split_once("; ").unwrap_or((text.as_str(), "give another --out"));
                SidesError::Setting { what: what.to_owned(), action: action.to_owned() }.into()
            }
        }
    }
}

/// How the settings ask for large transactions.
#[must_use]
pub fn streaming(settings: &Settings) -> Streaming {
    match settings.streaming {
        config::Streaming::Off => Streaming::Off,
        config::Streaming::On => Streaming::On,
        config::Streaming::Parallel => Streaming::Parallel,
    }
}
