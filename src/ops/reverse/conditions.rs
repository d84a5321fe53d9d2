//! What must be so before anything is changed.
//!
//! In: both servers, what was found, the tables. Out: [`Obstacle`]s, each with what to do, and notes. It reads only; what
//! only an attempt can tell (rights to create, the way from one server to the other) is rehearsed in `apply`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_postgres::Client;

use super::connection::Route;
use super::ends::{Ends, NEW, OLD};
use super::found::{Piece, SlotPiece};
use super::tables::Tables;
use super::{Action, Request};
use crate::exit::ExitCode;
use crate::ops::ask::Side;
use crate::ops::cutover::writes::outlast;
use crate::ops::read_only::{self, NewSessions, SETTING};
use crate::sides::SidesError;
use crate::sql::Connection;
use crate::types::{QualifiedName, quote_identifier, quote_literal};

/// Why it is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// `not-ready`: something has to be set up first. `refused`: going on could lose rows or ids.
    pub kind: &'static str,
    pub what: String,
    pub action: String,
}

impl Obstacle {
    pub(super) fn not_ready(what: impl Into<String>, action: impl Into<String>) -> Self {
        Obstacle { kind: "not-ready", what: what.into(), action: action.into() }
    }

    pub(super) fn refused(what: impl Into<String>, action: impl Into<String>) -> Self {
        Obstacle { kind: "refused", what: what.into(), action: action.into() }
    }
}

/// The exit status that the worst of them asks for.
#[must_use]
pub fn exit_code(obstacles: &[Obstacle]) -> ExitCode {
    match obstacles {
        [] => ExitCode::Success,
        all if all.iter().any(|one| one.kind == "refused") => ExitCode::Refused,
        _ => ExitCode::NotReady,
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub obstacles: Vec<Obstacle>,
    pub notes: Vec<String>,
}

/// How many names a message lists.
const NAMED: usize = 5;

pub(super) fn list(names: &[impl ToString]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(ToString::to_string).collect();
    let more = names.len().saturating_sub(NAMED);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

impl Conditions {
    /// Looks at all of them.
    ///
    /// # Errors
    /// Where a connection is lost.
    pub(super) async fn check(
        ends: &Ends,
        tables: &Tables,
        request: &Request,
        route: &Route,
    ) -> Result<Self, SidesError> {
        let mut found = Conditions::default();
        found.pieces(ends);
        found.servers(ends).await?;
        found.tables(ends, tables);
        found.forward(ends).await?;
        found.writes(ends, request).await?;
        found.route(route);
        Ok(found)
    }

    fn not_ready(&mut self, what: impl Into<String>, action: impl Into<String>) {
        self.obstacles.push(Obstacle::not_ready(what, action));
    }

    fn refused(&mut self, what: impl Into<String>, action: impl Into<String>) {
        self.obstacles.push(Obstacle::refused(what, action));
    }

    fn pieces(&mut self, ends: &Ends) {
        let (name, found) = (&ends.names.object, &ends.found);
        let action =
            "it was not made by this program: look what it is for, and drop it or use another --slot";
        if found.publication == Piece::Foreign {
            self.refused(format!("there is a publication {name} on the new server already"), action);
        }
        if let SlotPiece::Foreign(why) = &found.slot {
            self.refused(format!("there is a slot {name} on the new server already: {why}"), action);
        }
        if found.subscription == Piece::Foreign {
            self.refused(format!("there is a subscription {name} on the old server already"), action);
        }
    }

    async fn servers(&mut self, ends: &Ends) -> Result<(), SidesError> {
        for (side, connection, which) in [(OLD, &ends.old, "old"), (NEW, &ends.new, "new")] {
            if side.value::<bool>(&connection.client, "SELECT pg_is_in_recovery()", &[]).await? {
                self.not_ready(
                    format!("the {which} server ({}) is a standby", connection.peer),
                    "give its primary",
                );
            }
            if !may_replicate(side, connection).await? {
                let role: String = side.value(&connection.client, "SELECT current_user::text", &[]).await?;
                self.not_ready(
                    format!("role {role} may not use replication slots on the {which} server"),
                    format!("as a superuser there: ALTER ROLE {} REPLICATION;", quote_identifier(&role)),
                );
            }
        }
        self.room_on_new(ends).await?;
        if ends.found.subscription == Piece::Absent {
            self.room_on_old(ends).await?;
        }
        Ok(())
    }

    async fn room_on_new(&mut self, ends: &Ends) -> Result<(), SidesError> {
        let client = &ends.new.client;
        let level: String = NEW.value(client, "SELECT current_setting('wal_level')", &[]).await?;
        if level != "logical" {
            self.not_ready(
                format!("wal_level is {level} on the new server, so that nothing can be sent from it"),
                "ALTER SYSTEM SET wal_level = logical; and restart it, before the application writes there",
            );
        }
        // One for the subscription, one for the sidecar that runs the other way.
        let there = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = ANY($1)";
        let ours = vec![ends.names.object.clone(), ends.names.sidecar.clone()];
        let wanted = 2 - NEW.value::<i64>(client, there, &[&ours]).await?;
        for (setting, used) in [
            ("max_replication_slots", "SELECT count(*) FROM pg_replication_slots"),
            ("max_wal_senders", "SELECT count(*) FROM pg_stat_replication"),
        ] {
            let sql = format!("SELECT current_setting('{setting}')::bigint - ({used})");
            let free: i64 = NEW.value(client, &sql, &[]).await?;
            if free < wanted {
                self.not_ready(
                    format!("{setting} of the new server leaves {free} free, and {wanted} are needed"),
                    format!("ALTER SYSTEM SET {setting} = …; to {} more, and restart it", wanted - free),
                );
            }
        }
        Ok(())
    }

    async fn room_on_old(&mut self, ends: &Ends) -> Result<(), SidesError> {
        let client = &ends.old.client;
        let origins = if ends.old.version >= 180_000 {
            "max_active_replication_origins"
        } else {
            "max_replication_slots"
        };
        for (setting, used) in [
            (origins, "SELECT count(*) FROM pg_replication_origin"),
            (
                "max_logical_replication_workers",
                "SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL",
            ),
        ] {
            let sql = format!("SELECT current_setting('{setting}')::bigint - ({used})");
            let free: i64 = OLD.value(client, &sql, &[]).await?;
            if free < 1 {
                self.not_ready(
                    format!("{setting} of the old server leaves none free for a subscription"),
                    format!("ALTER SYSTEM SET {setting} = …; to one more, and restart it"),
                );
            }
        }
        Ok(())
    }

    fn tables(&mut self, ends: &Ends, tables: &Tables) {
        if tables.names.is_empty() && ends.found.publication == Piece::Absent {
            let which = if ends.publications.is_empty() {
                "no forward publication is known".to_owned()
            } else {
                format!("publication {} on the old server publishes no table", list(&ends.publications))
            };
            self.not_ready(which, "name those that brought the rows with --publication");
        }
        let names = |names: &[QualifiedName]| list(names);
        if !tables.missing_on_new.is_empty() {
            self.not_ready(
                format!("not on the new server: {}", names(&tables.missing_on_new)),
                "create them there, or take them out of the forward publication",
            );
        }
        if !tables.missing_on_old.is_empty() {
            self.not_ready(
                format!("not on the old server: {}", names(&tables.missing_on_old)),
                "create them there: their rows could not go back",
            );
        }
        for (table, column) in tables.columns_missing_on_old.iter().take(NAMED) {
            self.not_ready(
                format!("column {}.{} is not on the old server", table, quote_identifier(column)),
                format!("ALTER TABLE {table} ADD COLUMN {} …; there", quote_identifier(column)),
            );
        }
        for table in tables.without_identity.iter().take(NAMED) {
            self.not_ready(
                format!("{table} has no usable replica identity on the new server: the application's UPDATEs would fail"),
                format!("there: ALTER TABLE {table} ADD PRIMARY KEY (…); or ALTER TABLE {table} REPLICA IDENTITY FULL;"),
            );
        }
        if tables.narrowed {
            self.notes.push(
                "the forward publication has row filters or column lists; the way back has none, and brings whole rows"
                    .to_owned(),
            );
        }
        if !tables.refused_when_read_only.is_empty() {
            self.notes.push(format!(
                "applying rows on the old server also runs {}. Rows are applied whatever \
                 default_transaction_read_only says, but what these write is refused while it is on; then, for the \
                 subscription's owner only: ALTER ROLE owner IN DATABASE … SET default_transaction_read_only = off",
                list(&tables.refused_when_read_only)
            ));
        }
    }

    async fn forward(&mut self, ends: &Ends) -> Result<(), SidesError> {
        let found = &ends.found;
        if let Some(pid) = found.sidecar_slot.as_ref().and_then(|slot| slot.active_pid) {
            self.refused(
                format!("a sidecar still runs forwards: slot {} is active (pid {pid})", ends.names.forward_sidecar),
                "stop it first; beside one that runs the other way, each would push the other's sequences on without end",
            );
        }
        self.others(ends);
        let Some(forward) = &found.forward else {
            if !found.begun() {
                self.refused(
                    "there is no forward subscription on the new server",
                    "without it nothing proves that every row of the old server has arrived: reverse by hand",
                );
            }
            return Ok(());
        };
        let name = quote_identifier(&forward.name);
        if !forward.is_ours {
            let role: String = NEW.value(&ends.new.client, "SELECT current_user::text", &[]).await?;
            self.not_ready(
                format!("role {role} may not drop subscription {name}"),
                "connect to the new server as its owner or as a superuser",
            );
        }
        let Some(slot) = &forward.slot else {
            self.refused(
                format!("subscription {name} has no slot"),
                "nothing proves that it has applied every row: ALTER SUBSCRIPTION … SET (slot_name = …) with its slot on \
                 the old server",
            );
            return Ok(());
        };
        if found.forward_slot.is_none() && !(found.begun() && matches!(found.slot, SlotPiece::Ready { .. })) {
            self.refused(
                format!("slot {slot} of subscription {name} is not on the old server"),
                "nothing proves that it has applied every row",
            );
        }
        if !forward.enabled && !found.begun() {
            self.refused(
                format!("subscription {name} is disabled"),
                format!("rows may be missing on the new server: ALTER SUBSCRIPTION {name} ENABLE; and let it catch up"),
            );
        }
        let unready = unready(ends, &forward.name).await?;
        if !unready.is_empty() {
            self.refused(
                format!("subscription {name} does not follow every table yet: {}", list(&unready)),
                "dropping it would lose rows: wait until pg_subscription_rel shows r for each",
            );
        }
        Ok(())
    }

    /// Subscriptions that would be left leading forwards, and whose tables would have no way back.
    fn others(&mut self, ends: &Ends) {
        let found = &ends.found;
        // It is made already: what came since is told by the status.
        if found.subscription != Piece::Absent {
            return;
        }
        for other in &found.others {
            let name = quote_identifier(&other.name);
            let action = match &found.forward {
                Some(forward) => {
                    let both: BTreeSet<&String> =
                        forward.publications.iter().chain(&other.publications).collect();
                    let both: Vec<_> = both.into_iter().map(|name| quote_identifier(name)).collect();
                    format!(
                        "only one is reversed, so that its tables would have no way back: let both apply everything, then \
                         there: DROP SUBSCRIPTION {name}; ALTER SUBSCRIPTION {} SET PUBLICATION {} WITH \
                         (copy_data = false);",
                        quote_identifier(&forward.name),
                        both.join(", ")
                    )
                }
                None => "only one is reversed: once it has applied everything, drop it there".to_owned(),
            };
            self.refused(
                format!("subscription {name} of the new server gets rows from the old one too"),
                action,
            );
        }
    }

    /// Whether applications are kept from writing on the old server.
    async fn writes(&mut self, ends: &Ends, request: &Request) -> Result<(), SidesError> {
        if ends.found.subscription != Piece::Absent {
            return Ok(());
        }
        let client = &ends.old.client;
        if !request.writes_stopped {
            self.setting(client, request).await?;
        }
        // From the locks, which every role may see; what kind of session it is, only some may.
        let sql = "SELECT a.pid FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
                    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
                      AND coalesce(a.backend_type, 'client backend') = 'client backend'
                      AND l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
                    GROUP BY 1";
        for row in OLD.rows(client, sql, &[]).await? {
            let pid: i32 = OLD.get(&row, 0)?;
            self.refused(
                format!("pid {pid} is in the middle of a writing transaction on the old server"),
                format!("its rows would be lost: let it end, or SELECT pg_terminate_backend({pid});"),
            );
        }
        let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
        for row in OLD.rows(client, sql, &[]).await? {
            let gid: String = OLD.get(&row, 0)?;
            let gid = quote_literal(&gid);
            self.refused(
                format!("transaction {} is prepared on the old server", gid.trim_start()),
                format!(
                    "its rows would be lost: COMMIT PREPARED {0}; or ROLLBACK PREPARED {0};",
                    gid.trim_start()
                ),
            );
        }
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                    AND coalesce(backend_type, 'client backend') = 'client backend' AND application_name <> $1";
        let ours = crate::publisher::connection::APPLICATION_NAME;
        let others: i64 = NEW.value(&ends.new.client, sql, &[&ours]).await?;
        if others > 0 && ends.found.slot == SlotPiece::Absent {
            self.notes.push(format!(
                "{} connected to the new server's database: what is committed there before the reverse slot is made does \
                 not go back",
                if others == 1 { "1 other session is".to_owned() } else { format!("{others} other sessions are") }
            ));
        }
        Ok(())
    }

    /// The setting that keeps them from it, and whom it does not bind.
    async fn setting(&mut self, client: &Client, request: &Request) -> Result<(), SidesError> {
        let database: String = OLD.value(client, "SELECT current_database()::text", &[]).await?;
        let default = read_only::by_default(OLD, client).await?;
        if !default.is_read_only() {
            let unknown = match &default {
                NewSessions::Unknown(hidden) => format!(", and {}", hidden.what()),
                _ => String::new(),
            };
            self.refused(
                format!("nothing keeps applications from writing to database {database} of the old server{unknown}"),
                format!(
                    "rows written there from now on would be lost: ALTER DATABASE {} SET {SETTING} = on; and end its \
                     sessions, or say --writes-stopped if they are stopped in another way",
                    quote_identifier(&database)
                ),
            );
        }
        for role in read_only::exempt_roles(OLD, client).await? {
            let role = quote_identifier(&role);
            self.refused(
                format!("role {role} has {SETTING} = off of its own on the old server"),
                format!(
                    "its rows would be lost: ALTER ROLE {role} RESET {SETTING}; (or IN DATABASE …), or say \
                     --writes-stopped if it does not write"
                ),
            );
        }
        if !default.is_read_only() {
            return Ok(());
        }
        // Readers that have come back since a cutover come and go; an idle one is to be ended while this waits.
        let would_go_on = request.action == Action::Apply && self.obstacles.is_empty();
        let patience = if would_go_on { request.wait } else { Duration::ZERO };
        let sessions = outlast(client, Instant::now() + patience).await?;
        if let Some(first) = sessions.first() {
            self.refused(
                format!(
                    "sessions are connected to the old server that may be older than its {SETTING}, and would then write \
                     on: pid {}",
                    list(&sessions)
                ),
                format!(
                    "if cutover --stop-writes has ended the older ones, or they write no more, say --writes-stopped. Else \
                     their rows would be lost: end them there while this waits (--wait), with SELECT \
                     pg_terminate_backend({first}); whoever connects from then on is bound"
                ),
            );
        }
        Ok(())
    }

    fn route(&mut self, route: &Route) {
        if route.has_password {
            self.notes.push(
                "the reverse subscription's connection string holds a password, which superusers of the old server can \
                 read in pg_subscription; a passfile of the server's account does without"
                    .to_owned(),
            );
        }
        self.notes.extend(route.local_note());
    }
}

/// The tables that the subscription copies still.
pub(super) async fn unready(ends: &Ends, subscription: &str) -> Result<Vec<String>, SidesError> {
    let client = &ends.new.client;
    let sql = "SELECT has_column_privilege('pg_subscription', 'oid', 'SELECT')";
    // Where that is not granted, every subscription's tables of this database are asked for.
    let of = if NEW.value(client, sql, &[]).await? {
        "SELECT oid FROM pg_subscription WHERE subname = $1"
    } else {
        "SELECT r.srsubid WHERE $1::text IS NOT NULL"
    };
    let sql = format!(
        "SELECT r.srrelid::regclass::text FROM pg_subscription_rel r WHERE r.srsubstate <> 'r' AND r.srsubid IN ({of})"
    );
    let rows = NEW.rows(client, &sql, &[&subscription]).await?;
    rows.iter().map(|row| NEW.get(row, 0)).collect()
}

async fn may_replicate(side: Side, connection: &Connection) -> Result<bool, SidesError> {
    let sql = "SELECT r.rolsuper OR r.rolreplication OR EXISTS (
                      SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(g.oid, 'USAGE'))
                 FROM pg_roles r WHERE r.rolname = current_user";
    side.value(&connection.client, sql, &[]).await
}
