//! `seqshadow teardown`: removes what `setup` made for a slot on both sides, and nothing else; also after a crash in the
//! middle of either.
//!
//! In: the settings. Out: a [`Teardown`]. A publication and roles are ours by their mark; a slot is ours by every sign
//! there is, and because a marked publication names it (which therefore goes last) or a seqshadow holds it. Everything is
//! looked at, and may be refused, before anything is removed.

mod function;
mod roles;
mod slot;

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Client;

use super::OpsError;
use super::ask::Side;
use super::read_only;
use super::setup::mark::Names;
use super::setup::{Object, Outcome, be_patient, lock, used_by};
use crate::config::Settings;
use crate::conninfo::{Conninfo, Environment};
use crate::exit::ExitCode;
use crate::sides::{self, Needs, Sides, SidesError};
use crate::sql::{self, Connection};
use crate::types::quote_identifier;
use function::Functions;
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
    /// What else is as it should not stay.
    pub notes: Vec<String>,
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

/// What there is on the subscriber.
struct OnSubscriber {
    functions: Functions,
    roles: Roles,
}

/// A publication with our mark.
struct Publication {
    name: String,
    owner: String,
    owned: bool,
}

/// What there is on the publisher.
struct OnPublisher {
    publications: Vec<Publication>,
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
        notes: Vec::new(),
    };
    let sides = reached.sides.as_ref();
    let on_publisher = match &reached.publisher {
        Some(publisher) => Some(look(publisher, sides, &names, options).await?),
        None => None,
    };
    let on_subscriber = match sides {
        Some(sides) => {
            let (side, connection) = (Side::Subscriber, &sides.subscriber);
            if !options.dry_run {
                lock(side, &connection.client, names.slot.as_str()).await?;
            }
            let functions = function::look(&connection.client, &names).await?;
            let roles = roles::look(side, connection, &names, &[&names.moves, &names.calls]).await?;
            Some(OnSubscriber { functions, roles })
        }
        None => None,
    };
    if let (Some(publisher), Some(found)) = (&reached.publisher, &on_publisher) {
        let lacking = found.lacking(&publisher.client, options).await?;
        refuse(Side::Publisher, &publisher.client, &lacking).await?;
    }
    if let (Some(sides), Some(found)) = (sides, &on_subscriber) {
        let mut lacking = found.functions.lacking(&found.roles);
        lacking.extend(found.roles.lacking(options));
        refuse(Side::Subscriber, &sides.subscriber.client, &lacking).await?;
    }
    if let (Some(publisher), Some(found)) = (&reached.publisher, on_publisher) {
        let mut planned = done.clone();
        let _ = planned.publisher(publisher, &found, &names, Options { dry_run: true, ..options }).await;
        let ended = done.publisher(publisher, &found, &names, options).await;
        done.note(Side::Publisher, ended, planned);
    }
    if let (Some(sides), Some(found)) = (sides, on_subscriber) {
        let client = &sides.subscriber.client;
        let mut planned = done.clone();
        let _ = planned.subscriber(client, &found, Options { dry_run: true, ..options }).await;
        let ended = done.subscriber(client, &found, options).await;
        done.note(Side::Subscriber, ended, planned);
    }
    let subscriber = sides.map(|sides| &sides.subscriber);
    done.read_only(reached.publisher.as_ref(), subscriber).await;
    Ok(done)
}

/// Refuses, as a whole, what our role could do in part only.
async fn refuse(side: Side, client: &Client, lacking: &[String]) -> Result<(), OpsError> {
    if lacking.is_empty() {
        return Ok(());
    }
    let role: String = side.value(client, "SELECT current_user::text", &[]).await?;
    let side = side.name();
    Err(OpsError::Refused {
        what: format!(
            "on the {side} role {} may not remove: {}; nothing was removed",
            quote_identifier(&role),
            lacking.join(", ")
        ),
        action: "run teardown as a superuser, as the role that ran setup, or after these GRANTs".to_owned(),
    })
}

/// What our role may not remove, and the role whose rights it takes.
fn owned_by(what: &str, owner: &str) -> String {
    let owner = quote_identifier(owner);
    format!("{what} (owner {owner}: GRANT {owner} TO CURRENT_USER;)")
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
    for Publication { name, .. } in &publications {
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
    let roles = roles::look(Side::Publisher, publisher, names, &[&names.reads]).await?;
    Ok(OnPublisher { publications, foreign, slot, roles })
}

/// Those with our mark, and one without it of the name that ours would have.
async fn publications(
    client: &Client,
    names: &Names,
) -> Result<(Vec<Publication>, Option<String>), SidesError> {
    let side = Side::Publisher;
    let sql =
        "SELECT pubname::text, obj_description(oid, 'pg_publication') = $1, pg_get_userbyid(pubowner)::text,
                      pg_has_role(pubowner, 'USAGE')
                 FROM pg_publication
                WHERE obj_description(oid, 'pg_publication') = $1 OR pubname = $2 ORDER BY 1";
    let (mut ours, mut foreign) = (Vec::new(), None);
    for row in side.rows(client, sql, &[&names.publication_mark(), &names.publication]).await? {
        let name: String = side.get(&row, 0)?;
        if side.get::<Option<bool>>(&row, 1)?.unwrap_or(false) {
            ours.push(Publication { name, owner: side.get(&row, 2)?, owned: side.get(&row, 3)? });
        } else {
            foreign = Some(name);
        }
    }
    Ok((ours, foreign))
}

impl OnPublisher {
    /// What our role may not do of what is to be done.
    async fn lacking(&self, client: &Client, options: Options) -> Result<Vec<String>, SidesError> {
        let mut lacking = Vec::new();
        if self.slot != SlotPlan::Absent && !slot::may_drop(client).await? {
            lacking
                .push("the slot (that takes REPLICATION: ALTER ROLE CURRENT_USER REPLICATION;)".to_owned());
        }
        for one in self.publications.iter().filter(|one| !one.owned) {
            lacking.push(owned_by(&format!("publication {}", quote_identifier(&one.name)), &one.owner));
        }
        lacking.extend(self.roles.lacking(options));
        Ok(lacking)
    }
}

impl Teardown {
    /// Work on one side ended before its end: what was removed until then is listed, and the rest of what was `planned`.
    fn note(&mut self, side: Side, ended: Result<(), OpsError>, planned: Teardown) {
        let Err(error) = ended else { return };
        let is_done = |one: &Object| {
            self.objects.iter().any(|o| (o.side, o.kind, &o.name) == (one.side, one.kind, &one.name))
        };
        let rest = planned.objects.into_iter().filter(|one| !is_done(one));
        let rest = rest.map(|one| match one.outcome {
            Outcome::ToRemove => Object { outcome: Outcome::Left, ..one },
            _ => one,
        });
        let mut rest: Vec<Object> = rest.collect();
        if error.exit_code() == ExitCode::Unreachable {
            self.unreachable.push(Unreachable { side: side.name(), reason: error.to_string() });
        } else if let Some(first) = rest.iter_mut().find(|one| one.outcome == Outcome::Left) {
            first.note = Some(error.to_string());
        }
        self.objects.extend(rest);
    }

    /// Says where new sessions begin read-only, as a cutover has left it; a server that does not say is passed over.
    async fn read_only(&mut self, publisher: Option<&Connection>, subscriber: Option<&Connection>) {
        for (side, connection) in [(Side::Publisher, publisher), (Side::Subscriber, subscriber)] {
            let Some(connection) = connection else { continue };
            if let Ok(Some(database)) = read_only::database(side, &connection.client).await {
                self.notes.push(read_only::note(&format!("on the {}", side.name()), &database));
            }
        }
    }

    async fn subscriber(
        &mut self,
        client: &Client,
        found: &OnSubscriber,
        options: Options,
    ) -> Result<(), OpsError> {
        be_patient(Side::Subscriber, client, options.wait).await?;
        self.objects.extend(function::remove(client, &found.functions, &found.roles, options).await?);
        self.objects.extend(roles::remove(Side::Subscriber, client, &found.roles, options).await?);
        Ok(())
    }

    async fn publisher(
        &mut self,
        publisher: &Connection,
        found: &OnPublisher,
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
        for Publication { name, .. } in &found.publications {
            let sql = vec![format!("DROP PUBLICATION {}", quote_identifier(name))];
            self.objects.push(if is_gone {
                roles::run(Side::Publisher, client, object(name, Outcome::Left), sql, options).await?
            } else {
                let note = "as long as the slot is there, it says whose that is";
                object(name, Outcome::Left).note(note).sql(sql)
            });
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
        self.objects.extend(roles::remove(Side::Publisher, client, &found.roles, options).await?);
        Ok(())
    }
}
