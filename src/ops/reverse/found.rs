//! What of a reversal is there already, and what of the forward replication is still there.
//!
//! In: both servers. Out: a [`Found`], from which every run goes on, also after one that was killed.

use super::ends::{NEW, OLD};
use super::names::{Mark, Names};
use crate::sides::SidesError;
use crate::sql::Connection;

/// Something that we make, or have made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Absent,
    /// It has our comment.
    Ours(Mark),
    /// It has our name, but not our comment.
    Foreign,
}

impl Piece {
    /// What our comment on it says.
    pub(super) fn mark(&self) -> Option<&Mark> {
        match self {
            Piece::Ours(mark) => Some(mark),
            Piece::Absent | Piece::Foreign => None,
        }
    }
}

/// The reverse slot on the new server. Slots have no comments: it is ours if the publication is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SlotPiece {
    Absent,
    /// It is being made.
    Making,
    Ready {
        active: bool,
        lag_bytes: i64,
    },
    Foreign(String),
}

/// The forward subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forward {
    pub name: String,
    /// `None` where somebody has taken its slot from it.
    pub slot: Option<String>,
    pub publications: Vec<String>,
    pub enabled: bool,
    /// Our role has the rights of its owner.
    pub is_ours: bool,
    /// Rows that came to the old server by replication were not sent to it (`origin = none`).
    pub local_only: bool,
}

/// The subscription on the old server, beyond that it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reverse {
    pub enabled: bool,
    pub works: bool,
}

/// A subscription on the new server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    pub name: String,
    pub slot: String,
    pub publications: Vec<String>,
}

/// A slot on the old server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OldSlot {
    pub active_pid: Option<i32>,
    /// It can be looked into: logical, pgoutput, of this database, and made whole.
    pub is_readable: bool,
    pub retained_bytes: i64,
}

/// Everything.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub publication: Piece,
    pub slot: SlotPiece,
    pub subscription: Piece,
    pub reverse: Reverse,
    pub forward: Option<Forward>,
    /// Beside it: those that get rows from the old server too.
    pub others: Vec<Other>,
    /// The forward subscription's.
    pub forward_slot: Option<OldSlot>,
    /// The forward sidecar's.
    pub sidecar_slot: Option<OldSlot>,
}

const FORWARD: &str = "
    SELECT s.subslotname::text, s.subpublications, s.subenabled, pg_has_role(s.subowner, 'USAGE')";

impl Forward {
    /// Reads the subscription `name` of the connected database.
    pub(super) async fn load(new: &Connection, name: &str) -> Result<Option<Self>, SidesError> {
        let local_only = if new.version >= 160_000 { "s.suborigin = 'none'" } else { "false" };
        let sql = format!(
            "{FORWARD}, {local_only} FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
              WHERE d.datname = current_database() AND s.subname = $1"
        );
        let rows = NEW.rows(&new.client, &sql, &[&name]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Forward {
            name: name.to_owned(),
            slot: NEW.get(row, 0)?,
            publications: NEW.get(row, 1)?,
            enabled: NEW.get(row, 2)?,
            is_ours: NEW.get(row, 3)?,
            local_only: NEW.get(row, 4)?,
        }))
    }
}

impl Found {
    /// What is on the new server.
    pub(super) async fn on_new(new: &Connection, names: &Names) -> Result<Self, SidesError> {
        let sql = "SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = $1";
        let rows = NEW.rows(&new.client, sql, &[&names.object]).await?;
        let publication = match rows.first() {
            None => Piece::Absent,
            Some(row) => piece(NEW.get::<Option<String>>(row, 0)?.as_deref()),
        };
        let sql = "SELECT coalesce(plugin = 'pgoutput' AND database = current_database(), false),
                          confirmed_flush_lsn IS NOT NULL, active,
                          coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                                        ELSE pg_current_wal_lsn() END, confirmed_flush_lsn), 0)::bigint
                     FROM pg_replication_slots WHERE slot_name = $1";
        let rows = NEW.rows(&new.client, sql, &[&names.object]).await?;
        let slot = match rows.first() {
            None => SlotPiece::Absent,
            Some(row) if !NEW.get::<bool>(row, 0)? => {
                SlotPiece::Foreign("it is not a pgoutput slot of this database".to_owned())
            }
            Some(_) if publication.mark().is_none() => {
                SlotPiece::Foreign("there is no publication of ours beside it".to_owned())
            }
            Some(row) if !NEW.get::<bool>(row, 1)? => SlotPiece::Making,
            Some(row) => SlotPiece::Ready { active: NEW.get(row, 2)?, lag_bytes: NEW.get(row, 3)? },
        };
        Ok(Found {
            publication,
            slot,
            subscription: Piece::Absent,
            reverse: Reverse::default(),
            forward: None,
            others: with_slots(new).await?,
            forward_slot: None,
            sidecar_slot: None,
        })
    }

    /// The same with what is on the old server.
    pub(super) async fn complete(
        mut self,
        old: &Connection,
        names: &Names,
        forward: Option<Forward>,
    ) -> Result<Self, SidesError> {
        // Up to 13 an ordinary role may not read a subscription's oid, hence not its comment: then the name decides.
        let readable = "SELECT has_column_privilege('pg_subscription', 'oid', 'SELECT')";
        let comment = if OLD.value(&old.client, readable, &[]).await? {
            "obj_description(s.oid, 'pg_subscription')".to_owned()
        } else {
            format!("{}::text", crate::types::quote_literal(&Mark::default().comment()))
        };
        let sql = format!(
            "SELECT {comment}, s.subenabled,
                    EXISTS (SELECT FROM pg_stat_subscription a WHERE a.subname = s.subname AND a.pid IS NOT NULL)
               FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
              WHERE d.datname = current_database() AND s.subname = $1"
        );
        let rows = OLD.rows(&old.client, &sql, &[&names.object]).await?;
        if let Some(row) = rows.first() {
            self.subscription = piece(OLD.get::<Option<String>>(row, 0)?.as_deref());
            self.reverse = Reverse { enabled: OLD.get(row, 1)?, works: OLD.get(row, 2)? };
        }
        let slot = match &forward {
            Some(forward) => forward.slot.clone(),
            None => self.publication.mark().and_then(|mark| mark.slot.clone()),
        };
        if let Some(slot) = slot {
            self.forward_slot = old_slot(old, &slot).await?;
        }
        self.sidecar_slot = old_slot(old, &names.forward_sidecar).await?;
        let is_forward = |other: &Other| forward.as_ref().is_some_and(|forward| forward.name == other.name);
        self.others.retain(|other| !is_forward(other));
        let slots: Vec<&String> = self.others.iter().map(|other| &other.slot).collect();
        let sql = "SELECT slot_name::text FROM pg_replication_slots
                    WHERE slot_name = ANY($1) AND database = current_database()";
        let mut there: Vec<String> = Vec::new();
        for row in OLD.rows(&old.client, sql, &[&slots]).await? {
            there.push(OLD.get(&row, 0)?);
        }
        // One without a slot here gets its rows from another server.
        self.others.retain(|other| there.contains(&other.slot));
        self.forward = forward;
        Ok(self)
    }

    /// Whether a run before this one has begun to change anything.
    pub(super) fn begun(&self) -> bool {
        self.publication.mark().is_some()
    }
}

/// The subscriptions of the new server's database that have a slot somewhere.
async fn with_slots(new: &Connection) -> Result<Vec<Other>, SidesError> {
    let sql = "SELECT s.subname::text, s.subslotname::text, s.subpublications
                 FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
                WHERE d.datname = current_database() AND s.subslotname IS NOT NULL ORDER BY 1";
    let mut found = Vec::new();
    for row in NEW.rows(&new.client, sql, &[]).await? {
        found.push(Other {
            name: NEW.get(&row, 0)?,
            slot: NEW.get(&row, 1)?,
            publications: NEW.get(&row, 2)?,
        });
    }
    Ok(found)
}

fn piece(comment: Option<&str>) -> Piece {
    Mark::read(comment).map_or(Piece::Foreign, Piece::Ours)
}

/// Reads a slot of the old server.
pub(super) async fn old_slot(old: &Connection, name: &str) -> Result<Option<OldSlot>, SidesError> {
    let sql = "SELECT active_pid,
                      coalesce(plugin = 'pgoutput' AND database = current_database(), false)
                      AND confirmed_flush_lsn IS NOT NULL,
                      coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                                    ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint
                 FROM pg_replication_slots WHERE slot_name = $1";
    let rows = OLD.rows(&old.client, sql, &[&name]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(OldSlot {
        active_pid: OLD.get(row, 0)?,
        is_readable: OLD.get(row, 1)?,
        retained_bytes: OLD.get(row, 2)?,
    }))
}
