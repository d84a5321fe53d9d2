//! Everything that `setup` looks at, and may refuse, before it makes anything.
//!
//! In: both [`Sides`]. Out: [`Looked`], which says what is to be done with the publication, the rights and the slot.

use std::time::Duration;

use super::grants::Rights;
use super::mark::Names;
use super::publication::{self, Differences, Found};
use super::rights::{rights, role};
use super::tables::{self, Wanted};
use super::{LOOK_AGAIN, Options, Polled, lock, slot};
use crate::catalog::coverage::Coverage;
use crate::catalog::{self, Catalog, Readable};
use crate::config::Settings;
use crate::ops::OpsError;
use crate::ops::ask::Side;
use crate::publisher::connection::ReplicationConnection;
use crate::publisher::look::Look;
use crate::publisher::reaction::has_wal_level;
use crate::publisher::slot::{self as replication_slot, Verdict};
use crate::sides::{Sides, SidesError};
use crate::sql::Connection;
use crate::types::{quote_identifier, quote_literal};

/// Publications that are made after a slot are seen by it from here on.
const VERSION_LATE_PUBLICATIONS: u32 = 180_000;

/// How long a table that is locked, so that its default cannot be read, is waited for.
const TABLES_PATIENCE: Duration = Duration::from_secs(10);

/// What is to be done with the publication.
pub(super) enum Plan {
    Make,
    Keep,
    Alter(Differences),
    /// It differs, and nobody asked for a refresh.
    Open(Differences),
}

/// Everything that was looked at before the first change.
pub(super) struct Looked {
    pub names: Names,
    pub publisher: Connection,
    pub user: String,
    /// The daemon's, where it was named now or before.
    pub role: Option<String>,
    pub wanted: Wanted,
    pub plan: Plan,
    pub slot: SlotPlan,
    pub rights: Vec<Rights>,
    pub subscriber_catalog: Catalog,
}

pub(super) enum SlotPlan {
    Make(Box<ReplicationConnection>),
    Keep(String),
    ToDaemon,
}

/// What the publisher says of itself.
pub(super) struct Publisher {
    /// Where it is, for messages.
    pub peer: String,
    pub user: String,
    pub database: String,
    may_create: bool,
}

/// Looks at everything, and refuses what cannot be.
pub(super) async fn look(sides: &Sides, settings: &Settings, options: &Options) -> Result<Looked, OpsError> {
    let names = Names::of(settings)?;
    let publisher = sides.publisher().await?;
    let this = about(&publisher).await?;
    if !options.dry_run {
        lock(Side::Publisher, &publisher.client, names.slot.as_str()).await?;
        lock(Side::Subscriber, &sides.subscriber.client, names.slot.as_str()).await?;
    }
    if let Some(subscription) = used_by(sides, &names.publication).await? {
        return Err(refused(
            format!("publication \"{}\" is used by subscription \"{subscription}\"", names.publication),
            "name one of its own with --publication",
        ));
    }
    let found = publication::load(&publisher.client, publisher.version, &names.publication).await?;
    is_ours(&names, found.as_ref())?;
    let catalog = subscriber_catalog(sides).await?;
    let managed = tables::managed(&catalog, settings);
    let wanted = tables::wanted(&publisher.client, publisher.version, &managed, settings).await?;
    if wanted.tables.is_empty() {
        let why = if wanted.skipped.is_empty() { String::new() } else { wanted.skipped.join("; ") + "; " };
        return Err(SidesError::Setting {
            what: "there is nothing to publish: no column that a sequence of the subscriber stands behind can be"
                .to_owned(),
            action: format!("{why}seqshadow polls such sequences, and needs no publication of its own"),
        }
        .into());
    }
    let plan = plan(&names, found.as_ref(), &wanted, publisher.version, options)?;
    if matches!(plan, Plan::Make | Plan::Alter(_)) {
        may_publish(&this, found.as_ref(), &wanted)?;
    }
    let role = role(sides, &publisher, &this, &names, options).await?;
    let named = Options { role: role.clone(), ..options.clone() };
    let rights = rights(sides, &publisher, &this, &names, &managed, &wanted, &named).await?;
    let slot = look_at_slot(sides, &publisher, &this, &names, found.is_some(), options).await?;
    drop(managed);
    let (user, subscriber_catalog) = (this.user, catalog);
    Ok(Looked { names, publisher, user, role, wanted, plan, slot, rights, subscriber_catalog })
}

/// Looks at the rights only.
///
/// # Errors
/// As [`look`].
pub(super) async fn only_rights(
    sides: &Sides,
    settings: &Settings,
    options: &Options,
) -> Result<(Publisher, Vec<Rights>), OpsError> {
    let names = Names::of(settings)?;
    let publisher = sides.publisher().await?;
    let this = about(&publisher).await?;
    let catalog = subscriber_catalog(sides).await?;
    let managed = tables::managed(&catalog, settings);
    let wanted = tables::wanted(&publisher.client, publisher.version, &managed, settings).await?;
    let role = role(sides, &publisher, &this, &names, options).await?;
    let named = Options { role, ..options.clone() };
    let rights = rights(sides, &publisher, &this, &names, &managed, &wanted, &named).await?;
    Ok((this, rights))
}

/// What the publisher is, as far as setup needs to know.
async fn about(publisher: &Connection) -> Result<Publisher, OpsError> {
    let side = Side::Publisher;
    let sql = "SELECT current_user::text, current_database()::text, pg_is_in_recovery(), current_setting('wal_level'),
                      has_database_privilege(current_database(), 'CREATE')";
    let rows = side.rows(&publisher.client, sql, &[]).await?;
    let Some(row) = rows.first() else {
        return Err(OpsError::NotReady {
            what: "the publisher says nothing of itself".to_owned(),
            action: "run setup again".to_owned(),
        });
    };
    if side.get(row, 2)? {
        return Err(SidesError::Setting {
            what: "the publisher is a standby, where no publication can be made".to_owned(),
            action: "run setup --no-slot with its primary as --publisher; the daemon makes the slot on the standby"
                .to_owned(),
        }
        .into());
    }
    let level: String = side.get(row, 3)?;
    if !has_wal_level(&level, publisher.version) {
        return Err(SidesError::Setting {
            what: format!("wal_level is {level} on the publisher, which decodes nothing"),
            action: "there: ALTER SYSTEM SET wal_level = logical; and restart it".to_owned(),
        }
        .into());
    }
    Ok(Publisher {
        peer: publisher.peer.clone(),
        user: side.get(row, 0)?,
        database: side.get(row, 1)?,
        may_create: side.get(row, 4)?,
    })
}

/// The subscriber's sequences. A table that is locked just now hides its default: it is waited for.
async fn subscriber_catalog(sides: &Sides) -> Result<Catalog, OpsError> {
    let deadline = tokio::time::Instant::now() + TABLES_PATIENCE;
    loop {
        let catalog = catalog::load(&sides.subscriber.client).await.map_err(SidesError::on_subscriber)?;
        let locked = catalog.sequences.iter().flat_map(|s| &s.consumers);
        let locked = locked.filter(|c| c.readable == Readable::NotNow).map(|c| c.table.to_string()).next();
        let Some(table) = locked else { return Ok(catalog) };
        if tokio::time::Instant::now() > deadline {
            return Err(OpsError::NotReady {
                what: format!("{table} is locked on the subscriber, so its default cannot be read"),
                action: "run setup again when it is not".to_owned(),
            });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The subscription, in any database of the subscriber, that uses the publication.
///
/// # Errors
/// Where the subscriber cannot be asked.
pub(crate) async fn used_by(sides: &Sides, publication: &str) -> Result<Option<String>, SidesError> {
    let sql = "SELECT subname::text FROM pg_subscription WHERE $1 = ANY(subpublications) ORDER BY 1 LIMIT 1";
    let side = Side::Subscriber;
    let rows = side.rows(&sides.subscriber.client, sql, &[&publication]).await?;
    rows.first().map(|row| side.get(row, 0)).transpose()
}

/// A publication that is there has to have our mark, whatever it publishes.
fn is_ours(names: &Names, found: Option<&Found>) -> Result<(), OpsError> {
    let mark = names.publication_mark();
    let Some(found) = found.filter(|found| found.comment.as_deref() != Some(&mark)) else { return Ok(()) };
    let name = quote_identifier(&names.publication);
    let comment = found.comment.as_ref().map_or_else(|| "none".to_owned(), |c| format!("\"{c}\""));
    Err(refused(
        format!(
            "publication {name} (owner {}) is there, and was not made by setup for slot {}: its comment is {comment}, \
             expected \"{mark}\"",
            found.owner, names.slot
        ),
        &format!(
            "name another with --publication; or, if setup may alter it and teardown drop it, mark it: COMMENT ON \
             PUBLICATION {name} IS {};",
            quote_literal(&mark).trim_start()
        ),
    ))
}

fn plan(
    names: &Names,
    found: Option<&Found>,
    wanted: &Wanted,
    version: u32,
    options: &Options,
) -> Result<Plan, OpsError> {
    let Some(found) = found else { return Ok(Plan::Make) };
    let differences = found.differences(wanted, version);
    let name = quote_identifier(&names.publication);
    if found.is_for_all_tables() {
        return Err(refused(
            format!("publication {name} is FOR ALL TABLES, which cannot be altered"),
            "name another with --publication",
        ));
    }
    if differences.is_none() {
        Ok(Plan::Keep)
    } else if options.refresh {
        Ok(Plan::Alter(differences))
    } else if differences.kind.is_empty() {
        Ok(Plan::Open(differences))
    } else {
        Err(refused(
            format!("publication {name} is not as setup made it: {}", differences.text()),
            "setup --refresh brings it back; or name another with --publication",
        ))
    }
}

/// `CREATE PUBLICATION` needs CREATE on the database and the rights of every table's owner.
fn may_publish(this: &Publisher, found: Option<&Found>, wanted: &Wanted) -> Result<(), OpsError> {
    let user = quote_identifier(&this.user);
    let setting = |what, action| Err(SidesError::Setting { what, action }.into());
    if let Some(found) = found.filter(|found| !found.owned) {
        let owner = quote_identifier(&found.owner);
        return setting(
            format!("role {user} has not the rights of the publication's owner, {owner}"),
            format!("run setup as {owner} or as a superuser; or: GRANT {owner} TO {user};"),
        );
    }
    if found.is_none() && !this.may_create {
        return setting(
            format!("role {user} may not create a publication in database \"{}\"", this.database),
            format!(
                "on the publisher: GRANT CREATE ON DATABASE {} TO {user}; or run setup as a superuser",
                quote_identifier(&this.database)
            ),
        );
    }
    let foreign: Vec<_> = wanted.tables.iter().filter(|(_, table)| !table.owned).collect();
    let Some((_, first)) = foreign.first() else { return Ok(()) };
    let owner = quote_identifier(&first.owner);
    let names: Vec<String> = foreign.iter().map(|(name, _)| name.to_string()).collect();
    setting(
        format!(
            "only the owner of a table may publish it, and role {user} has not the rights of the owner of {}",
            publication::some(&names)
        ),
        format!(
            "run setup as the tables' owner or as a superuser; or, on the publisher: GRANT {owner} TO {user};"
        ),
    )
}

/// Judges the slot. One that is there and free is known as ours only by a publication of ours, or by a seqshadow that
/// holds it.
async fn look_at_slot(
    sides: &Sides,
    publisher: &Connection,
    this: &Publisher,
    names: &Names,
    has_publication: bool,
    options: &Options,
) -> Result<SlotPlan, OpsError> {
    let deadline = tokio::time::Instant::now() + options.wait;
    loop {
        let found = replication_slot::load(&publisher.client, publisher.version, &names.slot);
        let found = found.await.map_err(SidesError::on_publisher)?;
        let verdict = replication_slot::judge(&names.slot, found.as_ref(), &this.database, &sides.slots);
        let in_the_making = found.is_some_and(|slot| slot.confirmed_flush.is_none());
        let older = if !has_publication && publisher.version < VERSION_LATE_PUBLICATIONS {
            "; it is older than the publication: where that is not seen in it, the daemon drops it and makes it again"
        } else {
            ""
        };
        return Ok(match verdict {
            Verdict::Refused { why, action } => return Err(OpsError::Refused { what: why, action }),
            // Of another setup that was killed, or of a daemon: it ends, one way or the other.
            Verdict::Standby { .. } | Verdict::Leaving if in_the_making => {
                if tokio::time::Instant::now() > deadline {
                    return Err(OpsError::NotReady {
                        what: format!("slot {} is still being made by somebody else", names.slot),
                        action: "run setup again when it is there, or teardown --force".to_owned(),
                    });
                }
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            Verdict::Missing if options.no_slot => SlotPlan::ToDaemon,
            Verdict::Missing => {
                let opened = slot::open(&sides.publisher_conninfo, options.wait).await?;
                SlotPlan::Make(Box::new(opened))
            }
            Verdict::Standby { pid } => SlotPlan::Keep(format!("a seqshadow (pid {pid}) uses it{older}")),
            Verdict::Leaving | Verdict::Ours if has_publication => SlotPlan::Keep("it is free".to_owned()),
            Verdict::Lost { why } if has_publication => {
                SlotPlan::Keep(format!("it is lost, {why}: the daemon drops it and makes it again"))
            }
            Verdict::Leaving | Verdict::Ours | Verdict::Lost { .. } => {
                return Err(refused(
                    format!("slot {} is there, is not in use, and nothing says whose it is", names.slot),
                    &format!(
                        "choose another name with --slot; or, if it is seqshadow's, start seqshadow on it before setup, \
                         or drop it: SELECT pg_drop_replication_slot('{}');",
                        names.slot
                    ),
                ));
            }
        });
    }
}

/// Which sequences the stream will not show, and why.
pub(super) async fn polled(
    sides: &Sides,
    settings: &Settings,
    looked: &Looked,
) -> Result<Vec<Polled>, OpsError> {
    let connection = sides.publisher().await?;
    let mut look = Look::new(connection).await.map_err(SidesError::on_publisher)?;
    let publications = std::slice::from_ref(&looked.names.publication);
    let renames = settings.renames_by_publisher();
    let compared = look.compare(&looked.subscriber_catalog, publications, &renames).await;
    let compared = compared.map_err(SidesError::on_publisher)?;
    let managed = tables::managed(&looked.subscriber_catalog, settings);
    let polled = managed.iter().filter_map(|sequence| match compared.coverage.get(&sequence.oid) {
        Some(Coverage::Blind(reasons)) => {
            Some(Polled { sequence: sequence.name.to_string(), reason: reasons.join("; ") })
        }
        _ => None,
    });
    Ok(polled.collect())
}

fn refused(what: String, action: &str) -> OpsError {
    OpsError::Refused { what, action: action.to_owned() }
}
