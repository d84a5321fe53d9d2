//! Whether both servers are written to: split brain.
//!
//! In: both servers, for some seconds. Out: an [`Observed`]. Two kinds of evidence are certain:
//!
//! - **Ids.** Every writer of ours, a sidecar too, holds an advisory lock while it moves a sequence. While we hold that lock
//!   on both servers, a sequence that moves forward was moved by somebody else: `nextval` (of an application,
//!   or of a trigger that fires for replicated rows), or a `setval` by hand.
//! - **Rows.** A temporary slot on the old server reads back what was committed there meanwhile; what came by replication
//!   says so. The forward sidecar's slot, where it is still there and not in use, tells the same of the time since the switch.
//!
//! What is out of sight is listed, not guessed: the caller prints it beside the answer.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Client;

use super::conditions::list;
use super::ends::{Ends, NEW, OLD, refusal};
use super::statements;
use crate::catalog;
use crate::config::{Settings, ShownDuration};
use crate::ops::ask::Side;
use crate::plan::State;
use crate::readings::{Reader, Reading};
use crate::sides::SidesError;
use crate::subscriber::advance::WRITER_LOCK;
use crate::types::QualifiedName;

/// More than so much WAL is not read back.
const READ_BACK_MAX: i64 = 256 << 20;

/// A sequence that somebody else than us has moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    pub sequence: String,
    /// `last_value` at the beginning and at the end; nothing where it did not move.
    pub on_old: Option<(i64, i64)>,
    pub on_new: Option<(i64, i64)>,
}

/// Changes on the old server that did not come by replication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Foreign {
    pub changes: i64,
    pub transactions: i64,
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Observed {
    pub seconds: f64,
    /// Sequences that were read on both servers at both times.
    pub compared: usize,
    pub moved: Vec<Moved>,
    /// While we looked; nothing where that could not be seen.
    pub rows: Option<Foreign>,
    /// Since the switch; nothing where that could not be seen.
    pub rows_since_switch: Option<Foreign>,
    /// What neither of these tells.
    pub cannot_see: Vec<String>,
}

/// One server's sequences.
struct Watched {
    side: Side,
    sequences: Vec<catalog::Sequence>,
    reader: Reader,
}

type Readings = HashMap<QualifiedName, State>;

impl Watched {
    async fn begin(side: Side, client: &Client, settings: &Settings) -> Result<Self, SidesError> {
        let catalog = catalog::load(client).await.map_err(|error| side.error(error))?;
        let reader = Reader::prepare(client).await.map_err(|error| side.error(error))?;
        let sequences = catalog.sequences.into_iter().filter(|s| !settings.excludes(&s.name)).collect();
        Ok(Watched { side, sequences, reader })
    }

    async fn read(&self, client: &Client) -> Result<Readings, SidesError> {
        let asked: Vec<&catalog::Sequence> = self.sequences.iter().collect();
        let readings = self.reader.read(client, &asked).await.map_err(|error| self.side.error(error))?;
        let state = |(sequence, reading): (&catalog::Sequence, Reading)| match reading {
            Reading::State(state) => Some((sequence.name.clone(), state)),
            _ => None,
        };
        Ok(self.sequences.iter().zip(readings).filter_map(state).collect())
    }

    /// From where to where each sequence has moved that has moved forward.
    fn moved(&self, before: &Readings, after: &Readings) -> HashMap<QualifiedName, (i64, i64)> {
        let moved = |sequence: &catalog::Sequence| {
            let (from, to) = (before.get(&sequence.name)?, after.get(&sequence.name)?);
            // One that cycles has no forward: any movement counts.
            let is_forward =
                from.is_short_of(*to, &sequence.definition) || sequence.definition.cycle && from != to;
            is_forward.then(|| (sequence.name.clone(), (from.last_value, to.last_value)))
        };
        self.sequences.iter().filter_map(moved).collect()
    }
}

/// Looks for `duration`.
///
/// # Errors
/// Where a connection is lost.
pub(super) async fn observe(
    ends: &Ends,
    settings: &Settings,
    duration: Duration,
    switched_at: Option<&str>,
) -> Result<Observed, SidesError> {
    let (old, new) = (&ends.old.client, &ends.new.client);
    let mut observed = Observed::default();
    let watch = watch_rows(ends, &mut observed.cannot_see).await?;
    let watched = (Watched::begin(OLD, old, settings).await?, Watched::begin(NEW, new, settings).await?);
    let begun = std::time::Instant::now();
    if freeze(ends).await? {
        let before = (watched.0.read(old).await?, watched.1.read(new).await?);
        tokio::time::sleep(duration).await;
        let after = (watched.0.read(old).await?, watched.1.read(new).await?);
        thaw(ends).await?;
        let on_old = watched.0.moved(&before.0, &after.0);
        let on_new = watched.1.moved(&before.1, &after.1);
        let is_read = |name: &QualifiedName| after.0.contains_key(name) && after.1.contains_key(name);
        observed.compared =
            before.0.keys().filter(|name| before.1.contains_key(name) && is_read(name)).count();
        let mut names: Vec<&QualifiedName> = on_old.keys().chain(on_new.keys()).collect();
        names.sort();
        names.dedup();
        observed.moved = names
            .into_iter()
            .map(|name| Moved {
                sequence: name.to_string(),
                on_old: on_old.get(name).copied(),
                on_new: on_new.get(name).copied(),
            })
            .collect();
        observed.name_unread(&watched.0, &after.0);
    } else {
        thaw(ends).await?;
        tokio::time::sleep(duration).await;
        observed.cannot_see.push(
            "who moves sequences: another session holds the lock of our writers, and did not let go of it"
                .to_owned(),
        );
    }
    observed.seconds = begun.elapsed().as_secs_f64();
    if let Some(slot) = watch {
        observed.rows = read_back(ends, &slot, None, &mut observed.cannot_see).await?;
        OLD.run(old, &statements::drop_slot(&slot)).await?;
    }
    observed.rows_since_switch = since_switch(ends, switched_at, &mut observed.cannot_see).await?;
    observed.cannot_see.push(format!(
        "ids drawn outside of these {}; ids that a session draws from its own cache (CACHE > 1); rows of tables and kinds \
         of change that publication {} does not publish",
        ShownDuration(duration),
        list(&ends.publications)
    ));
    Ok(observed)
}

impl Observed {
    fn name_unread(&mut self, old: &Watched, after: &Readings) {
        let unread: Vec<String> = old
            .sequences
            .iter()
            .filter(|sequence| !after.contains_key(&sequence.name))
            .map(|sequence| sequence.name.to_string())
            .collect();
        if !unread.is_empty() {
            self.cannot_see
                .push(format!("sequences that our role may not read on the old server: {}", list(&unread)));
        }
    }
}

/// Keeps every writer of ours from moving a sequence, on both servers; false where one did not give way.
async fn freeze(ends: &Ends) -> Result<bool, SidesError> {
    let sql = format!("SELECT pg_advisory_lock({}, {})", WRITER_LOCK.0, WRITER_LOCK.1);
    for (side, client) in [(OLD, &ends.old.client), (NEW, &ends.new.client)] {
        if let Err(error) = side.run(client, &sql).await {
            refusal(error)?;
            return Ok(false);
        }
    }
    Ok(true)
}

async fn thaw(ends: &Ends) -> Result<(), SidesError> {
    let sql = format!(
        "SELECT pg_advisory_unlock({0}, {1}) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
            AND classid = {0} AND objid = {1} AND objsubid = 2",
        WRITER_LOCK.0, WRITER_LOCK.1
    );
    for (side, client) in [(OLD, &ends.old.client), (NEW, &ends.new.client)] {
        side.run(client, &sql).await?;
    }
    Ok(())
}

/// Makes a slot that ends with our session, if that can be done.
async fn watch_rows(ends: &Ends, cannot_see: &mut Vec<String>) -> Result<Option<String>, SidesError> {
    if ends.publications.is_empty() {
        cannot_see.push("rows: no forward publication is known; name those with --publication".to_owned());
        return Ok(None);
    }
    let client = &ends.old.client;
    let name = format!("seqshadow_watch_{}", ends.old.backend_pid);
    // It waits for every writing transaction of the server.
    OLD.run(client, "SET statement_timeout = '10s'; SET lock_timeout = 0").await?;
    let sql = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput', true)");
    let made = OLD.run(client, &sql).await;
    OLD.run(client, "SET statement_timeout = '30s'; SET lock_timeout = '5s'").await?;
    match made {
        Ok(()) => Ok(Some(name)),
        Err(error) => {
            cannot_see.push(format!("rows written on the old server meanwhile: {}", refusal(error)?));
            Ok(None)
        }
    }
}

/// Counts what a slot shows that did not come by replication, past `position`.
async fn read_back(
    ends: &Ends,
    slot: &str,
    position: Option<&str>,
    cannot_see: &mut Vec<String>,
) -> Result<Option<Foreign>, SidesError> {
    // What replication has brought is told by the message, or (16 and newer) left out by the server.
    let messages = statements::messages(slot, &ends.publications, ends.old.version, true);
    let sql = format!(
        "WITH message AS (SELECT lsn, xid::text AS xid, kind FROM {messages})
         SELECT count(*), count(DISTINCT xid) FROM message
          WHERE kind IN {} AND lsn > $1::text::pg_lsn
            AND xid NOT IN (SELECT xid FROM message WHERE kind = {})",
        statements::CHANGES,
        statements::ORIGIN
    );
    match OLD.rows(&ends.old.client, &sql, &[&position.unwrap_or("0/0")]).await {
        Ok(rows) => {
            let Some(row) = rows.first() else { return Ok(None) };
            Ok(Some(Foreign { changes: OLD.get(row, 0)?, transactions: OLD.get(row, 1)? }))
        }
        Err(error) => {
            cannot_see.push(format!("rows that slot {slot} could show: {}", refusal(error)?));
            Ok(None)
        }
    }
}

/// What the forward sidecar's slot still holds of the time since the switch.
async fn since_switch(
    ends: &Ends,
    switched_at: Option<&str>,
    cannot_see: &mut Vec<String>,
) -> Result<Option<Foreign>, SidesError> {
    let slot = &ends.names.forward_sidecar;
    let why = match (&ends.found.sidecar_slot, switched_at) {
        (_, None) => "the way back is not in place".to_owned(),
        (None, _) => format!("slot {slot} of the forward sidecar is gone"),
        (Some(there), _) if !there.is_readable || there.active_pid.is_some() => {
            format!("slot {slot} of the forward sidecar is in use")
        }
        (Some(there), _) if there.retained_bytes > READ_BACK_MAX => {
            format!("slot {slot} of the forward sidecar holds too much WAL to be read back")
        }
        (Some(_), position) if !ends.publications.is_empty() => {
            return read_back(ends, slot, position, cannot_see).await;
        }
        _ => "no forward publication is known".to_owned(),
    };
    cannot_see.push(format!("rows written on the old server between the switch and now: {why}"));
    Ok(None)
}
