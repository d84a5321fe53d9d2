//! Replication slots: what one is, and whether it is ours to use.
//!
//! In: a slot's row in `pg_replication_slots`. Out: a [`Verdict`]. Streaming another's slot and confirming would lose
//! its rows for good, so only a slot that is ours by every sign is touched.

use tokio_postgres::{Client, Error};

use super::connection::APPLICATION_NAME;
use crate::types::{Lsn, SlotName};

/// A row of `pg_replication_slots`, joined with the application that holds the slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    pub plugin: Option<String>,
    pub slot_type: String,
    pub database: Option<String>,
    pub active_pid: Option<i32>,
    /// `application_name` of the session that holds it.
    pub holder: Option<String>,
    /// The session that holds it is no longer among the activities: up to 13 one that ends leaves them before it lets
    /// go of its slot.
    pub holder_is_leaving: bool,
    pub restart_lsn: Option<Lsn>,
    pub confirmed_flush: Option<Lsn>,
    /// 13 and newer: `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// 17 and newer: a copy on a standby that a synchronisation keeps.
    pub synced: bool,
    /// 17 and newer.
    pub failover: bool,
    /// 17 and newer.
    pub invalidation_reason: Option<String>,
    /// 14 and newer.
    pub two_phase: bool,
    /// WAL that the publisher keeps because of the slot.
    pub retained_bytes: u64,
}

/// What may be done with a slot of the wanted name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is none: create it.
    Missing,
    /// Ours, and free.
    Ours,
    /// Another seqshadow streams it: wait until it ends.
    Standby { pid: i32 },
    /// Whoever held it is ending: look again.
    Leaving,
    /// Ours, but its WAL is gone: drop it, create it again, seed again.
    Lost { why: String },
    /// Not ours: never touch it.
    Refused { why: String, action: String },
}

/// Reads the slot named `name`.
///
/// # Errors
/// The server's or the connection's error.
pub async fn load(client: &Client, version: u32, name: &SlotName) -> Result<Option<Slot>, Error> {
    let wal_status = if version >= 130_000 { "s.wal_status" } else { "NULL::text" };
    let two_phase = if version >= 140_000 { "s.two_phase" } else { "false" };
    let newest = if version >= 170_000 {
        "s.synced, s.failover, s.invalidation_reason"
    } else {
        "false, false, NULL::text"
    };
    let sql = format!(
        "SELECT s.plugin::text, s.slot_type::text, s.database::text, s.active_pid,
                (SELECT a.application_name FROM pg_stat_activity a WHERE a.pid = s.active_pid),
                s.restart_lsn::text, s.confirmed_flush_lsn::text, {wal_status}, {two_phase}, {newest},
                s.active_pid IS NOT NULL
                    AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = s.active_pid),
                coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                              ELSE pg_current_wal_lsn() END, s.restart_lsn), 0)::int8
           FROM pg_replication_slots s WHERE s.slot_name = $1"
    );
    let Some(row) = client.query_opt(&sql, &[&name.as_str()]).await? else { return Ok(None) };
    let lsn = |text: Option<String>| text.and_then(|text| text.parse().ok());
    Ok(Some(Slot {
        plugin: row.try_get(0)?,
        slot_type: row.try_get(1)?,
        database: row.try_get(2)?,
        active_pid: row.try_get(3)?,
        holder: row.try_get(4)?,
        restart_lsn: lsn(row.try_get(5)?),
        confirmed_flush: lsn(row.try_get(6)?),
        wal_status: row.try_get(7)?,
        two_phase: row.try_get(8)?,
        synced: row.try_get(9)?,
        failover: row.try_get(10)?,
        invalidation_reason: row.try_get(11)?,
        holder_is_leaving: row.try_get(12)?,
        retained_bytes: u64::try_from(row.try_get::<_, i64>(13)?).unwrap_or(0),
    }))
}

/// Judges the slot `name`, as found on the publisher while connected to `database`. `subscriptions` are the
/// subscriber's `(subscription, slot)` pairs.
#[must_use]
pub fn judge(
    name: &SlotName,
    slot: Option<&Slot>,
    database: &str,
    subscriptions: &[(String, String)],
) -> Verdict {
    let refused = |why: String| Verdict::Refused {
        why,
        action: "name a slot of its own with --slot; it is created if it does not exist".to_owned(),
    };
    if let Some((subscription, _)) = subscriptions.iter().find(|(_, slot)| slot == name.as_str()) {
        return refused(format!("slot {name} belongs to subscription \"{subscription}\" of the subscriber"));
    }
    if is_table_sync(name.as_str()) {
        return refused(format!("slot {name} has the name of a table synchronization slot"));
    }
    let Some(slot) = slot else { return Verdict::Missing };
    if slot.slot_type != "logical" {
        return refused(format!("slot {name} is a {} slot, expected a logical one", slot.slot_type));
    }
    let plugin = slot.plugin.as_deref().unwrap_or_default();
    if plugin != "pgoutput" {
        return refused(format!("slot {name} uses the output plugin {plugin}, expected pgoutput"));
    }
    let of = slot.database.as_deref().unwrap_or_default();
    if of != database {
        return refused(format!("slot {name} belongs to database \"{of}\", expected \"{database}\""));
    }
    if slot.synced {
        return refused(format!("slot {name} is a synchronized copy on a standby"));
    }
    if slot.two_phase {
        return refused(format!("slot {name} has two_phase enabled, which ours never have"));
    }
    if let Some(pid) = slot.active_pid {
        return match slot.holder.as_deref() {
            _ if slot.holder_is_leaving => Verdict::Leaving,
            Some(APPLICATION_NAME) => Verdict::Standby { pid },
            holder => Verdict::Refused {
                why: format!(
                    "slot {name} is held by \"{}\" (pid {pid})",
                    holder.unwrap_or("an unknown program")
                ),
                action: format!("name another slot with --slot, or end that program if slot {name} is ours"),
            },
        };
    }
    if slot.wal_status.as_deref() == Some("lost") {
        return Verdict::Lost { why: "its WAL was removed (max_slot_wal_keep_size)".to_owned() };
    }
    if let Some(reason) = &slot.invalidation_reason {
        return Verdict::Lost { why: format!("it was invalidated ({reason})") };
    }
    Verdict::Ours
}

/// `pg_<suboid>_sync_<relid>_<sysid>`, as `ReplicationSlotNameForTablesync` makes them; without the last part on 13.
fn is_table_sync(name: &str) -> bool {
    let parts: Vec<&str> = name.split('_').collect();
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match parts.as_slice() {
        ["pg", subscription, "sync", rest @ ..] => {
            number(subscription) && (1..=2).contains(&rest.len()) && rest.iter().all(|part| number(part))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Slot {
        Slot {
            plugin: Some("pgoutput".to_owned()),
            slot_type: "logical".to_owned(),
            database: Some("app".to_owned()),
            ..Slot::default()
        }
    }

    #[test]
    fn only_a_slot_that_is_ours_by_every_sign_is_used() {
        let name: SlotName = "shadow".parse().unwrap();
        let judge =
            |slot: &Slot| judge(&name, Some(slot), "app", &[("sub".to_owned(), "sub_slot".to_owned())]);
        assert_eq!(judge(&ours()), Verdict::Ours);
        let foreign = [
            Slot { slot_type: "physical".to_owned(), ..ours() },
            Slot { plugin: Some("test_decoding".to_owned()), ..ours() },
            Slot { database: Some("other".to_owned()), ..ours() },
            Slot { synced: true, ..ours() },
            Slot { two_phase: true, ..ours() },
            Slot { active_pid: Some(7), holder: Some("pg_recvlogical".to_owned()), ..ours() },
            Slot { active_pid: Some(7), holder: None, ..ours() },
        ];
        for slot in &foreign {
            assert!(matches!(judge(slot), Verdict::Refused { .. }), "{slot:?}");
        }
        let held = Slot { active_pid: Some(7), holder: Some("seqshadow".to_owned()), ..ours() };
        assert_eq!(judge(&held), Verdict::Standby { pid: 7 });
        let leaving = Slot { active_pid: Some(7), holder_is_leaving: true, ..ours() };
        assert_eq!(judge(&leaving), Verdict::Leaving);
        let lost = Slot { wal_status: Some("lost".to_owned()), ..ours() };
        assert!(matches!(judge(&lost), Verdict::Lost { .. }));
        // A physical slot whose WAL is lost is still not ours to drop.
        let physical = Slot { slot_type: "physical".to_owned(), ..lost };
        assert!(matches!(judge(&physical), Verdict::Refused { .. }));
    }

    #[test]
    fn the_slots_of_subscriptions_and_table_syncs_are_refused_even_when_they_are_missing() {
        let subscriptions = [("sub".to_owned(), "sub_slot".to_owned())];
        for name in ["sub_slot", "pg_16394_sync_16385_7432", "pg_16394_sync_16385"] {
            let verdict = judge(&name.parse().unwrap(), None, "app", &subscriptions);
            assert!(matches!(verdict, Verdict::Refused { .. }), "{name}");
        }
        assert_eq!(judge(&"pg_sync_1".parse().unwrap(), None, "app", &subscriptions), Verdict::Missing);
    }
}
