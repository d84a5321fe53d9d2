//! The running sidecar, asked through its console.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, Config, NoTls, Row};

use super::{Found, SequenceLine, Sidecar, SlotLine, Stream};
use crate::console::{DATABASE, place};
use crate::sql;
use crate::types::{QualifiedName, SlotName};

/// How long the console may take for everything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the console in `directory`. `None` where nobody listens there, or it belongs to another slot.
///
/// # Errors
/// Why a console that is there cannot be asked, for people.
pub(super) async fn ask(directory: &Path, slot: Option<&SlotName>) -> Result<Option<Found>, String> {
    let path = directory.join(place::SOCKET);
    let stream = match tokio::net::UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(format!("{error}; run status as the user that the sidecar runs as"));
        }
        Err(_) => return Ok(None),
    };
    let asked = timeout(PATIENCE, all(stream, directory)).await;
    let found = asked.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
    let found = found.map_err(|error| sql::describe(&error))?;
    let name = found.slot.as_ref().map(|slot| slot.name.clone()).unwrap_or_default();
    match slot {
        Some(wanted) if wanted.as_str() != name => Err(format!("it is of the slot {name}, not of {wanted}")),
        _ => Ok(Some(found)),
    }
}

async fn all(stream: tokio::net::UnixStream, directory: &Path) -> Result<Found, tokio_postgres::Error> {
    let mut config = Config::new();
    config.user(DATABASE).dbname(DATABASE).application_name("seqshadow status");
    let (client, connection) = config.connect_raw(stream, NoTls).await?;
    let driver = tokio::spawn(connection);
    let found = rows(&client, directory).await;
    drop(client);
    driver.abort();
    found
}

async fn rows(client: &Client, directory: &Path) -> Result<Found, tokio_postgres::Error> {
    let version = client.query_one("SHOW VERSION", &[]).await?;
    let stream = client.query_one("SHOW STREAM", &[]).await?;
    let slot = client.query_one("SHOW SLOT", &[]).await?;
    let sequences = client.query("SHOW SEQUENCES", &[]).await?;
    Ok(Found {
        sidecar: Some(Sidecar {
            version: get(&version, "version")?.unwrap_or_default(),
            pid: get(&version, "pid")?,
            console: directory.to_owned(),
            protecting: get(&stream, "protecting")?.unwrap_or_default(),
        }),
        stream: Stream {
            state: get(&stream, "state")?.unwrap_or_default(),
            publisher_lsn: get(&stream, "publisher_lsn")?,
            received_lsn: get(&stream, "received_lsn")?,
            committed_lsn: get(&stream, "committed_lsn")?,
            confirmed_lsn: get(&stream, "confirmed_lsn")?,
            lag_bytes: get(&stream, "lag_bytes")?,
            lag_seconds: get(&stream, "lag_seconds")?,
            rows: get(&stream, "rows")?,
            ids_per_second: get(&stream, "ids_per_second")?,
        },
        slot: Some(SlotLine {
            name: get(&slot, "name")?.unwrap_or_default(),
            state: get(&slot, "state")?.unwrap_or_default(),
            reason: None,
            retained_bytes: get(&slot, "retained_bytes")?,
            ceiling_bytes: get(&slot, "ceiling_bytes")?,
            lost: get(&slot, "lost")?,
            held_by_sidecar: true,
        }),
        sequences: sequences.iter().map(sequence).collect::<Result<_, _>>()?,
    })
}

fn sequence(row: &Row) -> Result<(QualifiedName, SequenceLine), tokio_postgres::Error> {
    let text = |column| get::<String>(row, column);
    let set_aside = text("set_aside")?.unwrap_or_default();
    let name = QualifiedName::new(text("schema")?.unwrap_or_default(), text("name")?.unwrap_or_default());
    let line = SequenceLine {
        sequence: name.to_string(),
        consumers: text("consumers")?,
        state: text("state")?.unwrap_or_default(),
        behind: get(row, "behind")?.unwrap_or_default(),
        publisher_value: get(row, "publisher_value")?,
        mark: get(row, "mark")?,
        source: text("source")?,
        subscriber_value: get(row, "subscriber_value")?,
        next_value: get(row, "next_value")?,
        lead: get(row, "lead")?,
        lead_seconds: get(row, "lead_seconds")?,
        ids_per_second: get(row, "ids_per_second")?,
        set_aside: set_aside.split(',').filter_map(|id| id.parse().ok()).collect(),
        last_advance: text("last_advance")?,
        reason: text("reason")?,
    };
    Ok((name, line))
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Result<Option<T>, tokio_postgres::Error> {
    row.try_get(column)
}
