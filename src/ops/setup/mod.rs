//! `seqshadow setup`: the narrow publication, the rights of the daemon's role, the slot; [`crate::ops::teardown`] removes
//! them.
//!
//! In: both [`Sides`]. Out: a [`Setup`], which lists what was made, and what was there. Everything is looked at, and may be
//! refused, before anything is made; then the publication comes first, with its mark in the same transaction, so that
//! whatever else is made for a slot is found by it.

mod apply;
mod command;
pub(crate) mod function;
mod grants;
mod look;
pub(crate) mod mark;
pub mod object;
pub(crate) mod publication;
mod rights;
mod slot;
mod tables;

use std::time::Duration;

use serde::Serialize;

pub(crate) use apply::{LOOK_AGAIN, apply, be_patient, lock};
use grants::Rights;
pub(crate) use look::used_by;
use look::{Looked, Plan, SlotPlan};
pub use object::{Object, Outcome};
use slot::Created;
use tables::VERSION_COLUMN_LISTS;

use super::OpsError;
use super::ask::Side;
use super::plan::flat;
use crate::config::Settings;
use crate::publisher::connection::SlotOptions;
use crate::sides::Sides;
use crate::subscriber::function::AdvanceFunction;
use crate::types::quote_identifier;

/// The name and version of the JSON that is printed.
pub const SCHEMA: &str = "seqshadow.setup/1";

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The daemon's role; the one we connect as where it is not given.
    pub role: Option<String>,
    /// How long the slot, and each lock, is waited for.
    pub wait: Duration,
    pub no_slot: bool,
    /// Bring the publication to the present set of tables.
    pub refresh: bool,
    /// Give the daemon's role what it lacks.
    pub grant: bool,
    /// The furthest ids in tables are to be read too.
    pub read_tables: bool,
    /// The daemon's role is to move sequences by this function only.
    pub advance_function: Option<AdvanceFunction>,
    pub dry_run: bool,
}

/// What was made and what was there. Serialized as it is printed with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    pub slot: String,
    pub publication: String,
    pub dry_run: bool,
    /// Nothing is left to be done.
    pub complete: bool,
    pub objects: Vec<Object>,
    pub tables: Published,
    /// Sequences that the stream will not show; the daemon polls them. Not known in a dry run.
    pub polled: Vec<Polled>,
    /// The role that the daemon runs as.
    pub role: String,
    /// Nothing says so: it is the superuser that setup ran as.
    #[serde(skip)]
    pub role_is_a_guess: bool,
    /// How the daemon is started.
    pub command: String,
    /// The same as lines of its configuration file.
    pub config: String,
}

/// What the publication shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Published {
    pub tables: usize,
    pub columns: usize,
    /// The publisher has no column lists, so whole rows are sent.
    pub whole_rows: bool,
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
    /// What cannot be published, and why.
    pub skipped: Vec<String>,
}

/// A sequence that the stream does not show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Polled {
    pub sequence: String,
    pub reason: String,
}

/// The rights that are missing on both sides, as a script. What `--print-grants` prints.
#[derive(Clone, Debug)]
pub struct GrantScript(pub String);

/// Makes what is missing.
///
/// # Errors
/// What was refused, is missing or went wrong, with what to do about it; what was made until then stays, and is found by
/// `teardown` and by the next `setup`.
pub async fn run(sides: &Sides, settings: &Settings, options: &Options) -> Result<Setup, OpsError> {
    let looked = look::look(sides, settings, options).await?;
    let mut done = Setup::new(&looked, sides, options);
    let publisher = &looked.publisher;
    if !options.dry_run {
        be_patient(Side::Publisher, &publisher.client, options.wait).await?;
        be_patient(Side::Subscriber, &sides.subscriber.client, options.wait).await?;
    }
    done.publication(&looked, options).await?;
    for rights in &looked.rights {
        let client = match rights.side {
            Side::Publisher => &publisher.client,
            Side::Subscriber => &sides.subscriber.client,
        };
        done.rights(rights, client, options).await?;
    }
    if !options.dry_run {
        done.polled = look::polled(sides, settings, &looked).await?;
    }
    done.slot(looked, settings, options).await?;
    done.complete = !done.objects.iter().any(|object| object.outcome == Outcome::Open);
    Ok(done)
}

/// Only says what rights are missing.
///
/// # Errors
/// As [`run`].
pub async fn print_grants(
    sides: &Sides,
    settings: &Settings,
    options: &Options,
) -> Result<GrantScript, OpsError> {
    let (this, rights) = look::only_rights(sides, settings, options).await?;
    let mut out = String::new();
    for one in &rights {
        let (side, peer, database) = match one.side {
            Side::Publisher => ("publisher", &this.peer, this.database.as_str()),
            Side::Subscriber => ("subscriber", &sides.subscriber.peer, sides.subscriber_conninfo.dbname()),
        };
        out += &flat(&format!("-- On the {side}, {peer}, database {database}"));
        out.push('\n');
        out += &match one {
            Rights { superuser: true, .. } => {
                format!("-- role {} is a superuser: nothing to grant\n", flat(&one.role))
            }
            Rights { sql, .. } if sql.is_empty() => format!("-- role {} lacks nothing\n", flat(&one.role)),
            Rights { sql, .. } => format!("BEGIN;\n{};\nCOMMIT;\n", sql.join(";\n")),
        };
        for left in &one.left {
            out += &format!("-- {}\n", flat(left));
        }
        if one.makes_role {
            out += &format!(
                "-- the new role has no password; in psql: \\password {}\n",
                flat(&quote_identifier(&one.role))
            );
        }
        out.push('\n');
    }
    Ok(GrantScript(out))
}

impl Setup {
    fn new(looked: &Looked, sides: &Sides, options: &Options) -> Self {
        let wanted = &looked.wanted;
        let whole_rows = looked.publisher.version < VERSION_COLUMN_LISTS;
        let mut tables = Published {
            tables: wanted.tables.len(),
            columns: wanted.columns(),
            whole_rows,
            skipped: wanted.skipped.clone(),
            ..Published::default()
        };
        match &looked.plan {
            Plan::Make => tables.added = wanted.tables.keys().map(ToString::to_string).collect(),
            Plan::Keep => {}
            Plan::Alter(differences) | Plan::Open(differences) => {
                tables.added.clone_from(&differences.added);
                tables.removed.clone_from(&differences.removed);
                tables.changed.clone_from(&differences.changed);
            }
        }
        Setup {
            schema: SCHEMA,
            at: super::now(),
            slot: looked.names.slot.to_string(),
            publication: looked.names.publication.clone(),
            dry_run: options.dry_run,
            complete: false,
            objects: Vec::new(),
            tables,
            polled: Vec::new(),
            role: looked.role.clone().unwrap_or_else(|| looked.user.clone()),
            role_is_a_guess: looked.role.is_none() && looked.rights.iter().any(|rights| rights.superuser),
            command: command::daemon(&looked.names, sides, options, looked.role.as_deref()),
            config: command::config(&looked.names, sides, options, looked.role.as_deref()),
        }
    }

    async fn publication(&mut self, looked: &Looked, options: &Options) -> Result<(), OpsError> {
        let (name, version) = (&looked.names.publication, looked.publisher.version);
        let object = |outcome| Object::new(Side::Publisher, "publication", name, outcome);
        let (outcome, planned, sql) = match &looked.plan {
            Plan::Keep => {
                self.objects.push(object(Outcome::Kept));
                return Ok(());
            }
            Plan::Open(differences) => {
                let note = format!("{}; setup --refresh changes that", differences.text());
                self.objects.push(object(Outcome::Open).note(note));
                return Ok(());
            }
            Plan::Make => {
                let sql =
                    publication::create(name, &looked.wanted, version, &looked.names.publication_mark());
                (Outcome::Made, Outcome::ToMake, sql)
            }
            Plan::Alter(differences) => {
                let sql = publication::alter(name, &looked.wanted, version, differences);
                (Outcome::Changed, Outcome::ToChange, sql)
            }
        };
        if options.dry_run {
            self.objects.push(object(planned).sql(sql));
            return Ok(());
        }
        apply(Side::Publisher, &looked.publisher.client, &sql, options.wait).await?;
        self.objects.push(object(outcome).sql(sql));
        Ok(())
    }

    async fn rights(
        &mut self,
        rights: &Rights,
        client: &tokio_postgres::Client,
        options: &Options,
    ) -> Result<(), OpsError> {
        let object = |outcome| Object::new(rights.side, "grants", &rights.role, outcome);
        let mut notes = rights.left.clone();
        let outcome = if rights.superuser {
            notes.push("a superuser, who needs none".to_owned());
            Outcome::Kept
        } else if rights.sql.is_empty() {
            if rights.left.is_empty() { Outcome::Kept } else { Outcome::Open }
        } else if !options.grant && rights.missing.is_empty() {
            // Enough to begin with.
            notes.push(format!(
                "nothing is missing, but what it will lack on later sequences in schema {}; --grant gives that, \
                 --print-grants shows the SQL",
                publication::some(&rights.later)
            ));
            if rights.left.is_empty() { Outcome::Kept } else { Outcome::Open }
        } else if !options.grant {
            notes.push(format!(
                "missing: {}; --grant gives them, --print-grants shows the SQL",
                publication::some(&rights.missing)
            ));
            Outcome::Open
        } else {
            if !rights.missing.is_empty() {
                notes.insert(0, publication::some(&rights.missing));
            }
            if !rights.later.is_empty() {
                notes.push(format!(
                    "and the same on later sequences in schema {}",
                    publication::some(&rights.later)
                ));
            }
            if rights.makes_role {
                let role = quote_identifier(&rights.role);
                notes.push(format!("the role has no password; in psql: \\password {role}"));
            }
            if !options.dry_run {
                apply(rights.side, client, &rights.sql, options.wait).await?;
            }
            match (options.dry_run, rights.left.is_empty()) {
                (true, _) => Outcome::ToMake,
                (false, true) => Outcome::Made,
                (false, false) => Outcome::Open,
            }
        };
        let mut object = object(outcome);
        if matches!(outcome, Outcome::Made | Outcome::ToMake) {
            object = object.sql(rights.sql.clone());
        }
        if !notes.is_empty() {
            object = object.note(notes.join("; "));
        }
        self.objects.push(object);
        if let Some((name, is_right)) = &rights.function {
            // It comes with the rights, in one transaction.
            let was_made = options.grant && !options.dry_run;
            let outcome = match (is_right, outcome) {
                (true, _) => Outcome::Kept,
                (false, Outcome::Open) if was_made => Outcome::Made,
                (false, outcome) => outcome,
            };
            self.objects.push(Object::new(rights.side, "function", &name.to_string(), outcome));
        }
        Ok(())
    }

    async fn slot(&mut self, looked: Looked, settings: &Settings, options: &Options) -> Result<(), OpsError> {
        let slot = &looked.names.slot;
        let object = |outcome| Object::new(Side::Publisher, "slot", slot.as_str(), outcome);
        let connection = match looked.slot {
            SlotPlan::Keep(note) => {
                self.objects.push(object(Outcome::Kept).note(note));
                return Ok(());
            }
            SlotPlan::ToDaemon => {
                self.objects.push(object(Outcome::Absent).note("left to the daemon, which makes it"));
                return Ok(());
            }
            SlotPlan::Make(connection) => connection,
        };
        let failover = settings.failover && looked.publisher.version >= 170_000;
        let sql = if failover {
            format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput', failover => true)")
        } else {
            format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        };
        if options.dry_run {
            self.objects.push(object(Outcome::ToMake).sql([sql]));
            return Ok(());
        }
        let slot_options = SlotOptions { temporary: false, failover };
        let wait = options.wait;
        let user = &looked.user;
        let created = slot::create(*connection, &looked.publisher, slot, slot_options, wait, user).await?;
        self.objects.push(match created {
            Created::Yes => object(Outcome::Made).sql([sql]),
            Created::Waited { for_whom } => {
                object(Outcome::Open).note(slot::waited(slot, options.wait, &for_whom))
            }
            Created::Interrupted => {
                object(Outcome::Open).note("told to end while it was being made; nothing of it is left")
            }
        });
        Ok(())
    }
}
