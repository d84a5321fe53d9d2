//! What became of a reversal: what is in place, whether it works, and whether both servers are written to.
//!
//! In: both servers. Out: a [`Status`].

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use super::conditions::list;
use super::ends::{Ends, NEW, OLD};
use super::found::{Piece, SlotPiece};
use super::observe::{Foreign, Observed, observe};
use super::{SCHEMA, Server};
use crate::config::Settings;
use crate::demo::text::counted;
use crate::exit::ExitCode;
use crate::ops::read_only::{self, NewSessions};
use crate::sides::SidesError;
use crate::types::{QualifiedName, quote_identifier};

/// Everything. Serialized as it is printed with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    /// `status`.
    pub action: &'static str,
    pub old: Server,
    pub new: Server,
    /// What publication, slot and subscription are called.
    pub name: String,
    pub publication: bool,
    pub slot: bool,
    pub subscription: bool,
    /// The old server receives.
    pub works: bool,
    /// WAL of the new server that the old one has not confirmed.
    pub lag_bytes: Option<i64>,
    /// A sidecar streams the other way.
    pub sidecar: bool,
    /// New sessions on the old server's database begin read-only.
    pub writes_blocked: bool,
    /// Roles for which they do not.
    pub writing_roles: Vec<String>,
    pub observed: Observed,
    /// What keeps going back from being safe.
    pub problems: Vec<String>,
    /// Both servers, or the wrong one, are written to.
    pub alarms: Vec<String>,
}

impl Status {
    pub(super) async fn look(
        ends: &Ends,
        settings: &Settings,
        duration: Duration,
    ) -> Result<Self, SidesError> {
        let found = &ends.found;
        let mark = found.subscription.mark();
        let switched_at = mark.and_then(|mark| mark.switched_at.as_deref());
        let mut observed = observe(ends, settings, duration, switched_at).await?;
        let default = read_only::by_default(OLD, &ends.old.client).await?;
        if let NewSessions::Unknown(hidden) = &default {
            observed.cannot_see.push(format!("{}; on the old server: {}", hidden.what(), hidden.action()));
        }
        let sidecar =
            "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = $1";
        let sidecar = NEW.value(&ends.new.client, sidecar, &[&ends.names.sidecar]).await?;
        let (works, lag_bytes) = match found.slot {
            SlotPiece::Ready { active, lag_bytes } => (active, Some(lag_bytes)),
            _ => (false, None),
        };
        let mut status = Status {
            schema: SCHEMA,
            at: crate::ops::now(),
            action: "status",
            old: Server { address: ends.old.peer.clone(), version: ends.old.version },
            new: Server { address: ends.new.peer.clone(), version: ends.new.version },
            name: ends.names.object.clone(),
            publication: found.begun(),
            slot: lag_bytes.is_some(),
            subscription: mark.is_some(),
            works,
            lag_bytes,
            sidecar,
            writes_blocked: default.is_read_only(),
            writing_roles: read_only::exempt_roles(OLD, &ends.old.client).await?,
            observed,
            problems: Vec::new(),
            alarms: Vec::new(),
        };
        status.find_problems(ends);
        status.problems.extend(not_followed(ends).await?);
        status.find_alarms();
        Ok(status)
    }

    /// 4 where there is an alarm, 1 where going back is not safe.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match (self.alarms.is_empty(), self.problems.is_empty()) {
            (false, _) => ExitCode::Refused,
            (true, false) => ExitCode::NotReady,
            (true, true) => ExitCode::Success,
        }
    }

    fn find_problems(&mut self, ends: &Ends) {
        let (name, found) = (&ends.names.object, &ends.found);
        let mut problem = |what: String| self.problems.push(what);
        if !found.begun() && found.subscription == Piece::Absent {
            problem("the way back is not made: seqshadow reverse --apply".to_owned());
            return;
        }
        for (is_there, what) in [
            (found.begun(), format!("publication {name} is not on the new server")),
            (self.slot, format!("slot {name} is not on the new server")),
            (self.subscription, format!("subscription {name} is not on the old server")),
        ] {
            if !is_there {
                problem(format!("{what}: run seqshadow reverse --apply again"));
            }
        }
        if let Some(forward) = &found.forward {
            problem(format!(
                "subscription {} still leads forwards on the new server: run seqshadow reverse --apply again",
                quote_identifier(&forward.name)
            ));
        }
        for other in &found.others {
            problem(format!(
                "subscription {} of the new server gets rows from the old one too, and its tables have no way back",
                quote_identifier(&other.name)
            ));
        }
        if self.subscription && !found.reverse.enabled {
            problem(format!(
                "subscription {name} is disabled: ALTER SUBSCRIPTION {name} ENABLE; on the old server"
            ));
        } else if self.slot && self.subscription && !(self.works && found.reverse.works) {
            problem(format!("subscription {name} does not receive: see the old server's log"));
        }
        if !self.sidecar {
            problem(format!(
                "no sidecar runs the other way (slot {} on the new server is not in use), so that the old server's \
                 sequences fall behind",
                ends.names.sidecar
            ));
        }
    }

    fn find_alarms(&mut self) {
        let seconds = format!("{:.0} s", self.observed.seconds);
        for one in &self.observed.moved {
            let sequence = &one.sequence;
            match (one.on_old, one.on_new) {
                (Some((a, b)), Some((c, d))) => self.alarms.push(format!(
                    "both servers issue ids of {sequence}: within {seconds} the old one went from {a} to {b} and the new \
                     one from {c} to {d}, and neither was us"
                )),
                (Some((a, b)), None) if self.subscription => self.alarms.push(format!(
                    "the old server issues ids of {sequence}: within {seconds} it went from {a} to {b}, and it was not us"
                )),
                _ => {}
            }
        }
        for (rows, when) in
            [(self.observed.rows, "while we looked"), (self.observed.rows_since_switch, "since the switch")]
        {
            if let Some(Foreign { changes, transactions }) = rows
                && changes > 0
                && self.subscription
            {
                self.alarms.push(format!(
                    "{} in {} {} written on the old server {when} that did not come by replication: the new \
                     server does not have them",
                    counted(changes, "change"),
                    counted(transactions, "transaction"),
                    if changes == 1 { "was" } else { "were" },
                ));
            }
        }
    }
}

/// Tables of the reverse publication that the subscription on the old server does not follow, with why, and what to do.
/// Nothing where one of the two is not there: that is said already.
async fn not_followed(ends: &Ends) -> Result<Vec<String>, SidesError> {
    if !ends.found.begun() || ends.found.subscription.mark().is_none() {
        return Ok(Vec::new());
    }
    let name = &ends.names.object;
    let sql = "SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = $1 ORDER BY 1, 2";
    let published = NEW.rows(&ends.new.client, sql, &[name]).await?;
    let followed = followed(ends).await?;
    let (mut missing, mut copied) = (Vec::new(), Vec::new());
    for row in &published {
        let table = QualifiedName::new(NEW.get::<String>(row, 0)?, NEW.get::<String>(row, 1)?);
        match followed.get(&table).map(String::as_str) {
            Some("r") => {}
            Some(_) => copied.push(table),
            None => missing.push(table),
        }
    }
    let mut problems = Vec::new();
    if !missing.is_empty() {
        problems.push(format!(
            "rows of {} do not go back, for subscription {name} does not have it: on the old server, once the table is \
             there and empty: ALTER SUBSCRIPTION {name} REFRESH PUBLICATION;",
            list(&missing)
        ));
    }
    if !copied.is_empty() {
        problems.push(format!(
            "subscription {name} has not copied {} yet: wait until pg_subscription_rel of the old server shows r, or see \
             its log",
            list(&copied)
        ));
    }
    Ok(problems)
}

/// The tables of the subscription on the old server, with their state.
async fn followed(ends: &Ends) -> Result<HashMap<QualifiedName, String>, SidesError> {
    let client = &ends.old.client;
    let readable = "SELECT has_column_privilege('pg_subscription', 'oid', 'SELECT')";
    // Where that is not granted, every subscription's tables of this database are asked for.
    let of = if OLD.value(client, readable, &[]).await? {
        "SELECT s.oid FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
          WHERE d.datname = current_database() AND s.subname = $1"
    } else {
        "SELECT r.srsubid WHERE $1::text IS NOT NULL"
    };
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text, r.srsubstate::text
           FROM pg_subscription_rel r JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE r.srsubid IN ({of})"
    );
    let mut found = HashMap::new();
    for row in OLD.rows(client, &sql, &[&ends.names.object]).await? {
        let table = QualifiedName::new(OLD.get::<String>(&row, 0)?, OLD.get::<String>(&row, 1)?);
        found.insert(table, OLD.get(&row, 2)?);
    }
    Ok(found)
}
