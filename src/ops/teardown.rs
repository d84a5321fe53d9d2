//! `seqshadow teardown`: removes what `setup` made for a slot on both sides, and nothing else; also after a crash in the
//! middle of either.
//!
//! In: the settings. Out: a [`Teardown`]. A publication and roles are ours by their mark; a slot is ours by every sign
//! there is, and because a marked publication names it (which therefore goes last) or a seqshadow holds it. Everything is
//! looked at, and may be refused, before anything is removed.

mod roles;
mod slot;

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Client;

use super::OpsError;
use super::ask::Side;
use super::setup::mark::Names;
use super::setup::{Object, Outcome, apply, be_patient, lock, used_by};
use crate::config::Settings;
use crate::conninfo::{Conninfo, Environment};
use crate::exit::ExitCode;
use crate::sides::{self, Needs, Sides, SidesError};
use crate::sql::{self, Connection};
use crate::types::quote_identifier;
use roles::Roles;
use slot::SlotPlan;

/// The name and version of the JSON that is printed.
pub const SCHEMA: &str = "seqshadow.teardown/1";

/// What is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Also while a sidecar uses the slot: its connection is ended.
    pub force: bool,
    /// Also the login roles that setup made.
    pub drop_role: bool,
    /// How long a lock is waited for.
    pub wait: Duration,
    pub dry_run: bool,
}

/// What was removed, and what was not. Serialized as it is printed with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Teardown {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    pub slot: String,
    pub dry_run: bool,
    pub objects: Vec<Object>,
    /// Servers that could not be reached, with the reason: what setup made there is left.
    pub unreachable: Vec<Unreachable>,
}

/// A server that could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreachable {
    pub side: &'static str,
    pub reason: String,
}

impl Teardown {
    /// 3 where a side could not be reached, 1 where something of ours is left, else 0.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        if !self.unreachable.is_empty() {
            ExitCode::Unreachable
        } else if self.objects.iter().any(|object| object.outcome == Outcome::Left) {
            ExitCode::NotReady
        } else {
            ExitCode::Success
        }
    }
}

/// Both servers, as far as they can be reached.
struct Reached {
    sides: Option<Sides>,
    publisher: Option<Connection>,
    unreachable: Vec<Unreachable>,
}

/// What there is on the publisher.
struct OnPublisher {
    publications: Vec<String>,
    /// Of the name that ours would have, and without our mark.
    foreign: Option<String>,
    slot: SlotPlan,
    roles: Roles,
}

/// Removes it.
///
/// # Errors
/// What was refused, or that nothing could be reached.
pub async fn run(
    settings: &Settings,
    environment: &Environment,
    options: Options,
) -> Result<Teardown, OpsError> {
    let names = Names::of(settings)?;
    let reached = reach(settings, environment).await?;
    let mut done = Teardown {
        schema: SCHEMA,
        at: super::now(),
        slot: names.slot.to_string(),
        dry_run: options.dry_run,
        objects: Vec::new(),
        unreachable: reached.unreachable,
    };
    let sides = reached.sides.as_ref();
    let on_publisher = match &reached.publisher {
        Some(publisher) => Some(look(publisher, sides, &names, options).await?),
        None => None,
    };
    let on_subscriber = match sides {
        Some(sides) => {
            let side = Side::Subscriber;
            if !options.dry_run {
                lock(side, &sides.subscriber.client, names.slot.as_str()).await?;
            }
            Some(roles::look(side, &sides.subscriber, &names, &names.moves).await?)
        }
        None => None,
    };
    if let (Some(publisher), Some(found)) = (&reached.publisher, on_publisher) {
        done.publisher(publisher, found, &names, options).await?;
    }
    if let (Some(sides), Some(roles)) = (sides, on_subscriber) {
        be_patient(Side::Subscriber, &sides.subscriber.client, options.wait).await?;
        done.objects.extend(roles::remove(Side::Subscriber, &sides.subscriber.client, roles, options).await?);
    }
    Ok(done)
}

/// Connects to what can be reached.
async fn reach(settings: &Settings, environment: &Environment) -> Result<Reached, OpsError> {
    let mut unreachable = Vec::new();
    let mut note = |side, error: SidesError| {
        if error.exit_code() != ExitCode::Unreachable {
            return Err(error);
        }
        unreachable.push(Unreachable { side, reason: error.to_string() });
        Ok(())
    };
    let sides = match Sides::find(settings, environment, Needs::ADDRESSES).await {
        Ok(sides) => Some(sides),
        // Without the subscriber's word on where the publisher is.
        Err(error) if settings.publisher.is_none() => return Err(error.into()),
        Err(error) => {
            note("subscriber", error)?;
            None
        }
    };
    let conninfo: Conninfo = match &sides {
        Some(sides) => sides.publisher_conninfo.clone(),
        None => sides::conninfo(settings.publisher.as_ref(), "publisher", settings, environment)?,
    };
    let publisher = match sql::connect(&conninfo, "publisher").await.map_err(SidesError::on_publisher) {
        Ok(publisher) => Some(publisher),
        Err(error) => {
            note("publisher", error)?;
            None
        }
    };
    Ok(Reached { sides, publisher, unreachable })
}

/// Looks at the publisher, and refuses what must not be removed.
async fn look(
    publisher: &Connection,
    sides: Option<&Sides>,
    names: &Names,
    options: Options,
) -> Result<OnPublisher, OpsError> {
    let client = &publisher.client;
    if !options.dry_run {
        lock(Side::Publisher, client, names.slot.as_str()).await?;
    }
    let (publications, foreign) = publications(client, names).await?;
    for name in &publications {
        let user = match sides {
            Some(sides) => used_by(sides, name).await?,
            None => None,
        };
        if let Some(subscription) = user {
            return Err(OpsError::Refused {
                what: format!("subscription \"{subscription}\" uses publication {}", quote_identifier(name)),
                action: "take it out of the subscription (ALTER SUBSCRIPTION … DROP PUBLICATION), and run teardown \
                         again"
                    .to_owned(),
            });
        }
    }
    let subscriptions = sides.map(|sides| sides.slots.as_slice()).unwrap_or_default();
    let slot = slot::look(publisher, subscriptions, names, !publications.is_empty(), options).await?;
    let roles = roles::look(Side::Publisher, publisher, names, &names.reads).await?;
    Ok(OnPublisher { publications, foreign, slot, roles })
}

/// Those with our mark, and one without it of the name that ours would have.
async fn publications(client: &Client, names: &Names) -> Result<(Vec<String>, Option<String>), SidesError> {
    let side = Side::Publisher;
    let sql = "SELECT pubname::text, obj_description(oid, 'pg_publication') = $1 FROM pg_publication
                WHERE obj_description(oid, 'pg_publication') = $1 OR pubname = $2 ORDER BY 1";
    let (mut ours, mut foreign) = (Vec::new(), None);
    for row in side.rows(client, sql, &[&names.publication_mark(), &names.publication]).await? {
        let name: String = side.get(&row, 0)?;
        if side.get::<Option<bool>>(&row, 1)?.unwrap_or(false) {
            ours.push(name);
        } else {
            foreign = Some(name);
        }
    }
    Ok((ours, foreign))
}

impl Teardown {
    async fn publisher(
        &mut self,
        publisher: &Connection,
        found: OnPublisher,
        names: &Names,
        options: Options,
    ) -> Result<(), OpsError> {
        let client = &publisher.client;
        be_patient(Side::Publisher, client, options.wait).await?;
        let removed = slot::remove(publisher, &found.slot, names, options).await?;
        let is_gone = removed.outcome != Outcome::Left;
        self.objects.push(removed);
        let object = |name: &str, outcome| Object::new(Side::Publisher, "publication", name, outcome);
        if found.publications.is_empty() && found.foreign.is_none() {
            self.objects.push(object(&names.publication, Outcome::Absent));
        }
        for name in &found.publications {
            let sql = vec![format!("DROP PUBLICATION {}", quote_identifier(name))];
            let (outcome, note) = if !is_gone {
                (Outcome::Left, Some("as long as the slot is there, it says whose that is"))
            } else if options.dry_run {
                (Outcome::ToRemove, None)
            } else {
                apply(Side::Publisher, client, &sql, options.wait).await?;
                (Outcome::Removed, None)
            };
            let mut removed = object(name, outcome).sql(sql);
            removed.note = note.map(str::to_owned);
            self.objects.push(removed);
        }
        if let Some(name) = &found.foreign {
            let note = format!("setup did not make it for slot {}: not ours to remove", names.slot);
            self.objects.push(object(name, Outcome::Kept).note(note));
        }
        if is_gone
            && !options.dry_run
            && matches!(found.slot, SlotPlan::End { .. })
            && let Some(note) = slot::comes_back(publisher, names).await?
        {
            let slot = Object::new(Side::Publisher, "slot", names.slot.as_str(), Outcome::Left);
            self.objects.push(slot.note(note));
        }
        self.objects.extend(roles::remove(Side::Publisher, client, found.roles, options).await?);
        Ok(())
    }
}
